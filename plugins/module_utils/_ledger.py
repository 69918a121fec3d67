# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: an append-only journal of every lease, written before money is spent.

One file per (endpoint, account). A line is one event: C(crc32 of the JSON, a space, the JSON).
A line that a crash cut short is the last one and is dropped by the next writer; a bad line
anywhere else means that somebody else wrote here, and the ledger refuses to go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import LedgerDamaged, StateError
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Stamp, parse_time, rfc3339, to_money, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir, sync_folder

# Lease states. `intent` and `doubt`: a pod may exist without our knowing its id.
INTENT, DOUBT, LEASED, STOPPED, RELEASING = "intent", "doubt", "leased", "stopped", "releasing"
RELEASED, VOID, PRESUMED_VOID = "released", "void", "presumed_void"
OPEN_STATES = frozenset({INTENT, DOUBT, LEASED, STOPPED, RELEASING})
_AFTER = {
    "intent": INTENT,
    "attempt": INTENT,
    "doubt": DOUBT,
    "leased": LEASED,
    "stopping": LEASED,
    "stopped": STOPPED,
    "starting": STOPPED,
    "started": LEASED,
    "releasing": RELEASING,
    "released": RELEASED,
    "void": VOID,
    "presumed_void": PRESUMED_VOID,
}


@dataclass
class Lease:
    """What the ledger knows of one pod, from its intent to its end."""

    stamp: Stamp
    cloud: str
    key_id: str
    state: str = INTENT
    pod_id: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    deadline: datetime | None = None
    usd_per_hour: Decimal | None = None
    leased_at: datetime | None = None
    ended_at: datetime | None = None
    last_event: str = ""
    sent_at: datetime | None = None
    stopped_at: datetime | None = None
    stopped_seconds: float = 0.0
    # A spot pod that was bid for again has another price from then on.
    earlier_usd: Decimal = Decimal(0)
    priced_at: datetime | None = None
    gpu: str | None = None
    region: str | None = None
    marks: dict[str, Any] = field(default_factory=dict)
    wish: dict[str, Any] = field(default_factory=dict)
    # Somebody asked for its end, whoever that was.
    given_back: bool = False

    @property
    def open(self) -> bool:
        return self.state in OPEN_STATES

    def copy(self) -> Lease:
        """One that its owner may change."""
        return replace(self, marks=dict(self.marks))

    def cost(self, now: datetime) -> Decimal | None:
        """Dollars since the lease began, each part at the price of its time; the storage of a stopped pod is not in it."""
        if self.usd_per_hour is None or self.leased_at is None:
            return None
        end = self.ended_at or now
        running = (end - (self.priced_at or self.leased_at)).total_seconds() - self.stopped_seconds
        if self.stopped_at is not None:
            running -= (end - self.stopped_at).total_seconds()
        seconds = Decimal(str(running))
        return self.earlier_usd + max(Decimal(0), seconds) * self.usd_per_hour / 3600

    def to_dict(self, now: datetime) -> dict[str, Any]:
        cost = self.cost(now)
        return {
            "stamp": str(self.stamp),
            "run_id": self.stamp.run_id,
            "index": self.stamp.index,
            "cloud": self.cloud,
            "state": self.state,
            "pod_id": self.pod_id,
            "gpu": self.gpu,
            "gpu_count": self.wish.get("gpu_count"),
            "region": self.region,
            "since": rfc3339(self.leased_at or self.created_at),
            "deadline": rfc3339(self.deadline) if self.deadline else None,
            "usd_per_hour": None if self.usd_per_hour is None else f"{self.usd_per_hour:.4f}",
            "cost_usd": None if cost is None else f"{cost:.4f}",
            "open": self.open,
            "marks": dict(self.marks),
        }


class Ledger:
    """The journal of one (endpoint, account) pair inside a state folder."""

    def __init__(self, state: StateDir, cloud: str, endpoint: str, account: str = "default") -> None:
        digest = hashlib.sha256(f"{endpoint}\n{account}".encode()).hexdigest()[:12]
        self._state = state
        self._lock = f"ledger-{cloud}-{digest}"
        self.cloud = cloud
        self.endpoint = endpoint
        self.path = state.sub("ledgers") / f"{cloud}-{digest}.jsonl"
        # What has been read so far: a group of 200 pods asks thousands of times.
        self._reading = threading.Lock()
        self._known = 0
        self._crc = 0
        self._lines = 0
        self._leases: dict[str, Lease] = {}

    def begin(self, run_id: str, name: str, index: int, key_id: str, wish: dict[str, Any], deadline: datetime) -> Lease:
        """Write the intent of a new lease, on disk before this returns."""
        stamp = Stamp(run_id, name, index, self._state.owner, secrets.token_hex(4))
        self.write(stamp, "intent", cloud=self.cloud, endpoint=self.endpoint, key_id=key_id, wish=wish, deadline=rfc3339(deadline))
        return self.lease(stamp)

    def write(self, stamp: Stamp, event: str, **data: Any) -> None:
        record = {"ts": rfc3339(utc_now()), "lease": str(stamp), "event": event, **({"data": data} if data else {})}
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        with self._state.lock(self._lock):
            try:
                self._append(line)
            except OSError as err:
                raise StateError(
                    f"cannot write the ledger {self.path}: {err.strerror}", hint="free some disk space; nothing is rented without a written intent"
                ) from err

    def _append(self, line: bytes) -> None:
        new = not self.path.exists()
        handle = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            end = whole_length(handle)
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
            sent = 0
            while sent < len(line):
                sent += os.write(handle, line[sent:])
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            sync_folder(self.path.parent)

    def leases(self) -> list[Lease]:
        """Every lease ever, oldest first."""
        return self._select(lambda lease: True)

    def lease(self, stamp: Stamp) -> Lease:
        with self._reading:
            self._read_on()
            found = self._leases.get(str(stamp))
            if found is not None:
                return found.copy()
        raise StateError(f"the ledger {self.path} has no lease {stamp}")

    def of_run(self, run_id: str) -> list[Lease]:
        return self._select(lambda lease: lease.stamp.run_id == run_id)

    def _select(self, wanted: Callable[[Lease], bool]) -> list[Lease]:
        with self._reading:
            self._read_on()
            return [lease.copy() for lease in self._leases.values() if wanted(lease)]

    def _read_on(self) -> None:
        """Take in what was appended, by whomever, since the last look; a journal whose known part differs is read anew."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as err:
            raise StateError(f"cannot read the ledger {self.path}: {err.strerror}") from err
        if zlib.crc32(content[: self._known]) != self._crc:
            self._known, self._crc, self._lines, self._leases = 0, 0, 0, {}
        fresh = content[self._known : content.rfind(b"\n") + 1]
        if not fresh:
            return
        events = read_events(fresh, self.path, self._lines)
        fold(events, self._leases)
        self._known += len(fresh)
        self._crc = zlib.crc32(fresh, self._crc)
        self._lines += len(events)


def whole_length(handle: int) -> int:
    """Bytes up to and including the last line break: what stands behind it was cut short by a crash."""
    end = os.lseek(handle, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        os.lseek(handle, start, os.SEEK_SET)
        chunk = os.read(handle, end - start)
        at = chunk.rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def read_events(content: bytes, path: Path, before: int = 0) -> list[dict[str, Any]]:
    """Whole events in order, `before` lines down the journal; the torn last line is left out, any other bad line raises LedgerDamaged."""
    lines = content.split(b"\n")
    lines.pop()
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, before + 1):
        crc, _space, text = line.partition(b" ")
        try:
            if int(crc, 16) != zlib.crc32(text):
                raise ValueError("checksum differs")
            event = json.loads(text)
            if not isinstance(event, dict):
                raise ValueError("no object")
        except ValueError as err:
            raise LedgerDamaged(
                f"line {number} of the ledger {path} is damaged ({err})",
                hint="move the file away, then give back what still runs: ansible-playbook playbooks/reap.yml -e owner=ID lists it by its stamp",
                line=number,
            ) from err
        events.append(event)
    return events


def fold(events: Iterable[dict[str, Any]], into: dict[str, Lease] | None = None) -> list[Lease]:
    """The leases that a journal adds up to; `into` holds, by their stamps, those of what came before."""
    leases = {} if into is None else into
    for event in events:
        stamp = Stamp.parse(event.get("lease"))
        kind, data = str(event.get("event")), event.get("data") or {}
        if stamp is None:
            continue
        moment = parse_time(event.get("ts")) or utc_now()
        if kind == "intent":
            leases[str(stamp)] = Lease(
                stamp,
                str(data.get("cloud")),
                str(data.get("key_id")),
                created_at=moment,
                deadline=parse_time(data.get("deadline")),
                wish=data.get("wish") or {},
            )
        if str(stamp) in leases:
            _apply(leases[str(stamp)], kind, data, moment)
    return list(leases.values())


def _apply(lease: Lease, kind: str, data: dict[str, Any], moment: datetime) -> None:
    lease.last_event = kind
    lease.state = _AFTER.get(kind, lease.state)
    lease.given_back = lease.given_back or kind == "releasing"
    if kind == "attempt":
        lease.sent_at = moment
    if kind in ("attempt", "leased"):
        lease.gpu = str(data.get("gpu") or lease.gpu or "") or None
        lease.region = str(data.get("region") or lease.region or "") or None
    if data.get("pod_id"):
        lease.pod_id = str(data["pod_id"])
    if kind == "priced":
        lease.earlier_usd, lease.priced_at, lease.stopped_seconds = lease.cost(moment) or Decimal(0), moment, 0.0
    if data.get("usd_per_hour") is not None:
        lease.usd_per_hour = to_money(data["usd_per_hour"])
    if kind == "leased":
        lease.leased_at = lease.leased_at or lease.sent_at or moment
    if kind == "stopped":
        lease.stopped_at = moment
    if kind == "started" and lease.stopped_at is not None:
        lease.stopped_seconds += (moment - lease.stopped_at).total_seconds()
        lease.stopped_at = None
    if kind == "extended":
        lease.deadline = parse_time(data.get("deadline")) or lease.deadline
    if kind == "mark":
        lease.marks.update(data)
    if lease.state in (RELEASED, VOID, PRESUMED_VOID):
        lease.ended_at = lease.ended_at or moment
