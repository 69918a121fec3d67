# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper, as the process that it is: what it gives back, when, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError
from ansible_collections.podcycle.gpu.plugins.module_utils._keeper import ensure_keeper
from ansible_collections.podcycle.gpu.plugins.module_utils._model import rfc3339, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId, StateDir, start_ticks

ROOT = Path(__file__).resolve().parents[2]
KEY = "rpa_rehearsal_full"


class Controller:
    """A process that stands for ansible-playbook, and the keeper of its run."""

    def __init__(self, state: StateDir, url: str, run_id: str, grace: float, *, key: str | None = KEY) -> None:
        self.state, self.run_id = state, run_id
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        holder = ProcessId.of(self.process.pid)
        assert holder is not None
        state.take_run(run_id, holder)
        self.options = {"cloud": "runpod", "endpoint": url, "api_key": key, "account": "default", "state_dir": str(state.path), "request_timeout": 30}
        self.grace = grace
        self.keeper = self.ensure()

    def ensure(self) -> int:
        return ensure_keeper(ROOT, self.options, self.state, self.run_id, self.grace)

    @property
    def log(self) -> str:
        return (self.state.path / "runs" / self.run_id / "keeper.log").read_text()

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=10)

    def wait_keeper(self, seconds: float = 20.0) -> str:
        wait_until(lambda: start_ticks(self.keeper) is None, seconds, lambda: self.log)
        return self.log


def wait_until(what: Callable[[], bool], seconds: float, said: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, said()
        time.sleep(0.05)


@pytest.fixture
def control(state: StateDir, rehearsal: Any) -> Iterator[Callable[..., Controller]]:
    made: list[Controller] = []

    def make(run_id: str, grace: float = 0.5, **more: Any) -> Controller:
        made.append(Controller(state, rehearsal.url, run_id, grace, **more))
        return made[-1]

    yield make
    for one in made:
        for pid in (one.process.pid, one.keeper):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        one.process.wait(timeout=10)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(one.keeper, 0)


def rent(engine: Engine, make_wish: Callable[..., Any], run_id: str) -> Any:
    (slot,) = engine.rent(make_wish(run_id=run_id), check_mode=False)
    assert slot.error is None, slot.error
    return slot.after


def test_every_way_to_end_the_controller_ends_the_lease(
    control: Callable[..., Controller], engine: Engine, rehearsal: Any, make_wish: Callable[..., Any]
) -> None:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
    controllers = {number: control(f"run{number:d}") for number in signals}
    pods = {number: rent(engine, make_wish, f"run{number:d}") for number in signals}
    kept = rent(engine, make_wish, "foreign")
    for number, controller in controllers.items():
        controller.end(number)
    for controller in controllers.values():
        assert "gave back 1 pods" in controller.wait_keeper()
        assert "giving them back at" in controller.log and KEY not in controller.log
    assert [pod["id"] for pod in rehearsal.pods()] == [kept.id]
    for number, pod in pods.items():
        (lease,) = engine.ledger.of_run(f"run{number:d}")
        assert (lease.pod_id, lease.state) == (pod.id, "released") and lease.marks["orphaned_at"]


def test_a_takeover_a_kept_lease_and_a_deadline(
    control: Callable[..., Controller], engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], state: StateDir
) -> None:
    taken, kept, overdue, alive = (control(name, 60.0) for name in ("taken", "kept", "overdue", "alive"))
    pods = {name: rent(engine, make_wish, name) for name in ("taken", "kept", "overdue", "alive")}
    engine.ledger.write(engine.ledger.of_run("kept")[0].stamp, "mark", kept=True)
    engine.ledger.write(engine.ledger.of_run("overdue")[0].stamp, "extended", deadline=rfc3339(utc_now() - timedelta(seconds=1)))
    for one in (taken, kept, overdue):
        one.end(signal.SIGKILL)

    def marks(name: str) -> dict[str, Any]:
        return dict(engine.ledger.of_run(name)[0].marks)

    wait_until(lambda: bool(marks("taken").get("gives_back_at")), 20, lambda: taken.log)
    me = ProcessId.of(os.getpid())
    assert me is not None
    before = state.take_run("taken", me)
    assert before is not None and before.pid == taken.process.pid
    wait_until(lambda: marks("taken") == {"orphaned_at": None, "gives_back_at": None}, 20, lambda: taken.log)
    assert taken.ensure() == taken.keeper, "the keeper that lives goes on"
    assert "nothing is rented any more" in overdue.wait_keeper() and "its time is over" in overdue.log
    assert {pod["id"] for pod in rehearsal.pods()} == {pods[name].id for name in ("taken", "kept", "alive")}
    assert all(start_ticks(one.keeper) is not None for one in (taken, kept, alive))
    assert "orphaned_at" not in marks("kept")


def test_the_key_stands_in_no_file_and_no_argument(
    control: Callable[..., Controller], engine: Engine, make_wish: Callable[..., Any], state: StateDir
) -> None:
    controller = control("r1", 60.0)
    rent(engine, make_wish, "r1")
    for name in ("cmdline", "environ"):
        assert KEY.encode() not in Path(f"/proc/{controller.keeper}/{name}").read_bytes()
    assert Path(f"/proc/{controller.keeper}/stat").read_text().split()[5] == str(controller.keeper), "a session of its own"
    for path in state.path.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    assert controller.ensure() == controller.keeper


def test_a_keeper_with_another_grace_or_key_is_replaced(control: Callable[..., Controller], engine: Engine, make_wish: Callable[..., Any]) -> None:
    controller = control("r1", 60.0)
    rent(engine, make_wish, "r1")
    first = controller.keeper
    controller.grace = 30.0
    second = controller.ensure()
    assert second != first and start_ticks(first) is None and controller.ensure() == second
    controller.options["api_key"] = "rpa_rehearsal_readonly"
    third = controller.ensure()
    assert third != second and start_ticks(second) is None and start_ticks(third) is not None


def test_without_a_keeper_nothing_is_rented(state: StateDir, control: Callable[..., Controller], rehearsal: Any) -> None:
    with pytest.raises(StateError, match="keeper of run r1 did not come up") as caught:
        ensure_keeper(ROOT / "docs", {"cloud": "runpod", "endpoint": "http://127.0.0.1:9/v2", "api_key": KEY, "state_dir": str(state.path)}, state, "r1", 1.0)
    assert "keeper.log" in str(caught.value) and KEY not in caught.value.details["log"]
