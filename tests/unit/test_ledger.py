# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: torn at every byte, damaged in the middle, written by many, on disk before money is spent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _ledger as book
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import LedgerDamaged, StateError
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger, fold, read_events
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir

ROOT = Path(__file__).resolve().parents[2]
URL = "http://127.0.0.1:1/v2"


@pytest.fixture
def ledger(state: StateDir) -> Ledger:
    return Ledger(state, "runpod", URL)


def begin(ledger: Ledger, run_id: str = "r1", index: int = 0) -> book.Lease:
    return ledger.begin(run_id, "pod", index, "key0", {"gpus": ["A"]}, model.utc_now() + timedelta(hours=1))


def several(ledger: Ledger) -> None:
    """Four leases in every state that a crash could leave behind."""
    first, second, third = begin(ledger), begin(ledger, index=1), begin(ledger, "r2")
    for lease in (first, second, third):
        ledger.write(lease.stamp, "attempt", gpu="A", usd_per_hour="0.5900")
    ledger.write(first.stamp, "leased", pod_id="p1", usd_per_hour="0.59")
    ledger.write(second.stamp, "doubt", said="no whole answer")
    ledger.write(third.stamp, "leased", pod_id="p3", usd_per_hour="0.59")
    ledger.write(first.stamp, "mark", kept=True)
    ledger.write(third.stamp, "releasing", pod_id="p3")
    ledger.write(third.stamp, "released", pod_id="p3", proof="not found by id")
    begin(ledger, "r3")


def test_one_reader_follows_what_others_append_and_exchange(ledger: Ledger, state: StateDir) -> None:
    other = Ledger(state, "runpod", URL)
    lease = begin(ledger)
    mine = other.lease(lease.stamp)
    mine.marks["kept"] = True
    assert other.lease(lease.stamp).marks == {}, "a lease that was handed out is its owner's"
    ledger.write(lease.stamp, "leased", pod_id="p1", usd_per_hour="0.59")
    assert other.lease(lease.stamp).pod_id == "p1"
    ledger.path.rename(ledger.path.with_suffix(".old"))
    assert other.leases() == []
    later = begin(ledger, "r2")
    assert [str(found.stamp) for found in other.leases()] == [str(later.stamp)]


def view(lease: book.Lease) -> tuple[Any, ...]:
    return (str(lease.stamp), lease.state, lease.pod_id, lease.usd_per_hour, lease.last_event, lease.deadline, lease.marks, lease.wish)


def test_a_journal_torn_at_every_byte_loses_only_the_line_that_was_cut(ledger: Ledger) -> None:
    several(ledger)
    content = ledger.path.read_bytes()
    whole = [0, *(at + 1 for at, byte in enumerate(content) if byte == 10)]
    by_lines = {end: [view(lease) for lease in fold(read_events(content[:end], ledger.path))] for end in whole}
    for cut in range(len(content) + 1):
        before = max(end for end in whole if end <= cut)
        assert [view(lease) for lease in fold(read_events(content[:cut], ledger.path))] == by_lines[before], f"cut at {cut}"


def test_the_next_write_heals_a_torn_journal_and_keeps_what_was_there(ledger: Ledger) -> None:
    several(ledger)
    content = ledger.path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == 10]
    for cut in sorted({1, 5, ends[2], ends[2] + 1, ends[4] + 30, ends[-1] - 1, ends[-1]}):
        ledger.path.write_bytes(content[:cut])
        before = [view(lease) for lease in ledger.leases()]
        fresh = begin(ledger, "r9")
        assert [view(lease) for lease in ledger.leases()] == [*before, view(fresh)]
        assert ledger.path.read_bytes().startswith(content[: max((end for end in ends if end <= cut), default=0)])
        assert ledger.path.read_bytes().endswith(b"\n")


def test_a_torn_line_longer_than_one_read_is_found_too(ledger: Ledger) -> None:
    begin(ledger)
    before = ledger.path.read_bytes()
    ledger.path.write_bytes(before + b"0" * 200_000)
    begin(ledger, "r2")
    after = ledger.path.read_bytes()
    assert after.startswith(before) and after.endswith(b"\n") and len(ledger.leases()) == 2


@pytest.mark.parametrize(
    "change",
    [lambda line: line[:-3] + b"!!!", lambda line: b"", lambda line: b"zz " + line[9:], lambda line: _crc(b"[1]"), lambda line: b"\xff\xfe"],
    ids=["changed", "empty", "no-checksum", "no-object", "no-text"],
)
def test_a_damaged_line_in_the_middle_is_refused_with_its_number(ledger: Ledger, change: Callable[[bytes], bytes]) -> None:
    several(ledger)
    lines = ledger.path.read_bytes().split(b"\n")
    lines[3] = change(lines[3])
    ledger.path.write_bytes(b"\n".join(lines))
    with pytest.raises(LedgerDamaged, match="line 4 of the ledger") as caught:
        ledger.leases()
    assert caught.value.details["line"] == 4 and "reap" in str(caught.value)


def _crc(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x} ".encode() + text


def test_every_single_changed_byte_is_noticed(ledger: Ledger) -> None:
    begin(ledger)
    begin(ledger, "r2")
    content = ledger.path.read_bytes()
    first = content.index(b"\n")
    for at in range(first):
        torn = bytearray(content)
        torn[at] ^= 0x01
        with pytest.raises(LedgerDamaged):
            read_events(bytes(torn), ledger.path)


_WRITER = """
import sys, datetime
from pathlib import Path
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir
ledger = Ledger(StateDir(Path(sys.argv[1])).open(), "runpod", "http://127.0.0.1:1/v2")
for number in range(int(sys.argv[3])):
    lease = ledger.begin(sys.argv[2], "pod", number, "key", {}, datetime.datetime.now(datetime.timezone.utc))
    ledger.write(lease.stamp, "leased", pod_id=f"{sys.argv[2]}x{number}")
"""


def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    # None of them finds a state folder: they also race to make it.
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "state"), f"run{name}", "12"], env=environment) for name in range(4)]
    assert [writer.wait(timeout=30) for writer in writers] == [0] * 4
    ledger = Ledger(StateDir(tmp_path / "state").open(), "runpod", URL)
    assert sorted((lease.stamp.run_id, lease.stamp.index, lease.pod_id) for lease in ledger.leases()) == sorted(
        (f"run{name}", number, f"run{name}x{number}") for name in range(4) for number in range(12)
    )
    assert {lease.stamp.owner for lease in ledger.leases()} == {ledger.leases()[0].stamp.owner}


def test_a_killed_writer_leaves_a_journal_that_reads(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "state"), "killed", "100000"], env=environment)
    ledgers = tmp_path / "state" / "ledgers"
    while not (ledgers.is_dir() and any(path.stat().st_size > 2000 for path in ledgers.iterdir())):
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    ledger = Ledger(StateDir(tmp_path / "state").open(), "runpod", URL)
    count = len(ledger.leases())
    begin(ledger)
    assert len(ledger.leases()) == count + 1 >= 3


def test_the_intent_is_on_disk_when_the_create_arrives(state: StateDir, stub: Any, told: Any, clock: Any, make_wish: Callable[..., Any]) -> None:
    cloud = RunPod(HttpClient(stub.url, "rpa_key", "runpod", clock=clock), "a test")
    ledger = Ledger(state, "runpod", stub.url)
    seen: list[tuple[Any, ...]] = []

    def arrived() -> None:
        lease = Ledger(StateDir(state.path).open(), "runpod", stub.url).leases()[-1]
        seen.append((stub.seen[-1][2]["name"] == str(lease.stamp), lease.state, lease.last_event, lease.open, lease.deadline is not None))

    catalog = {"gpus": [{"id": make_wish().gpus[0], "name": "RTX 4090", "memory": 24, "secure": True, "price": {"secure": "0.59"}}]}
    stub.tell(told(200, catalog), told(200, catalog), told(402, {"title": "Payment Required"}, before=arrived))
    (slot,) = Engine(cloud, ledger, state, clock=clock).rent(make_wish(secret_env={"TOKEN": "hush-hush-0123"}), check_mode=False)
    assert seen == [(True, "intent", "attempt", True, True)]
    assert slot.error is not None and slot.error.code == "payment_required"
    assert [lease.state for lease in ledger.leases()] == ["void"]
    text = ledger.path.read_text(encoding="utf-8")
    assert "hush" not in text and "rpa_key" not in text and "TOKEN" in text


def test_nothing_is_rented_without_a_written_intent(state: StateDir, stub: Any, told: Any, clock: Any, make_wish: Callable[..., Any]) -> None:
    catalog = {"gpus": [{"id": make_wish().gpus[0], "name": "RTX 4090", "memory": 24, "secure": True, "price": {"secure": "0.59"}}]}
    stub.tell(told(200, catalog))
    ledger = Ledger(state, "runpod", stub.url)
    ledger.path.mkdir()
    cloud = RunPod(HttpClient(stub.url, "rpa_key", "runpod", clock=clock), "a test")
    with pytest.raises(StateError, match="ledger"):
        Engine(cloud, ledger, state, clock=clock).rent(make_wish(), check_mode=False)
    assert all(method == "GET" for method, _path in stub.calls)


def test_accounts_and_endpoints_have_ledgers_of_their_own(state: StateDir) -> None:
    paths = {Ledger(state, cloud, url, account).path for cloud in ("runpod", "vast") for url in (URL, "https://a.example") for account in ("default", "b")}
    assert len(paths) == 8


def test_the_files_are_private(ledger: Ledger) -> None:
    begin(ledger)
    assert ledger.path.stat().st_mode & 0o777 == 0o600 and ledger.path.parent.stat().st_mode & 0o777 == 0o700


def test_cost_runs_from_the_create_to_the_proven_end() -> None:
    stamp = str(model.Stamp("r1", "pod", 0, "0a1b2c3d", "9f8e7d6c"))

    def event(second: int, kind: str, **data: Any) -> dict[str, Any]:
        return {"ts": f"2026-11-01T10:{second // 60:02}:{second % 60:02}Z", "lease": stamp, "event": kind, "data": data}

    events = [event(0, "intent", cloud="runpod", key_id="k"), event(5, "attempt"), event(65, "leased", pod_id="p", usd_per_hour="3.60")]
    (lease,) = fold(events)
    now = model.parse_time("2026-11-01T10:10:05Z")
    assert now is not None and lease.cost(now) == Decimal("0.6")
    (ended,) = fold([*events, event(305, "released"), event(400, "mark", kept=True)])
    assert ended.cost(now) == Decimal("0.3") and not ended.open
    assert fold(events[:2])[0].cost(now) is None
    assert fold(events[1:]) == [], "a lease without its intent is not invented"
    again = [event(305, "stopped"), event(400, "starting"), event(425, "started"), event(425, "priced", usd_per_hour="36.00")]
    assert fold([*events, *again])[0].cost(now) == Decimal("0.3") + Decimal("1.8")
