# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper, as the process that it is: what it gives back, when, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _gateway_key, _keeper, _leases, _state
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from ansible_collections.podcycle.gpu.plugins.module_utils._keeper import Keeper, ensure_keeper
from ansible_collections.podcycle.gpu.plugins.module_utils._model import rfc3339, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, open_session
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
        self.started: set[int] = set()
        self.keeper = self.ensure()

    def ensure(self) -> int:
        pid = ensure_keeper(ROOT, self.options, self.state, self.run_id, self.grace, "ansible-playbook -i inventories/runpod playbooks/")
        self.started.add(pid)
        return pid

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
        for pid in (one.process.pid, *one.started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        one.process.wait(timeout=10)
        for pid in one.started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        assert not [pid for pid in one.started if start_ticks(pid) is not None]


def wait_log(controller: Controller, text: str) -> str:
    wait_until(lambda: text in controller.log, 20, lambda: controller.log)
    return controller.log


def me() -> ProcessId:
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


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


def test_the_gateways_key_goes_with_the_pods(
    control: Callable[..., Controller], engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = HttpClient(rehearsal.url, KEY, "runpod")
    controller = control("lent")
    wish = make_wish(run_id="lent", ssh_public_key=f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'M' * 43}", options={"ssh_via": "gateway"})
    options = {**controller.options, "catalog_seconds": 0}
    with monkeypatch.context() as process:
        process.setattr(_gateway_key.os, "getpid", lambda: controller.process.pid)
        _gateway_key.lend(options, open_session(options), wish, 60)
    rent(engine, make_wish, "lent")
    assert len(client.get("/account/ssh-keys").body["keys"]) == 1
    controller.end(signal.SIGKILL)
    assert "gave back 1 pods" in controller.wait_keeper()
    assert client.get("/account/ssh-keys").body["keys"] == [], controller.log


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
    before = state.take_run("taken", me())
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


def test_a_keeper_that_cannot_give_back_locks_nobody_out(
    control: Callable[..., Controller], engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], state: StateDir
) -> None:
    controller = control("r1", 0.2)
    pod = rent(engine, make_wish, "r1")
    rehearsal.fault("error_401", times=None)
    controller.end(signal.SIGKILL)
    wait_until(lambda: "revoked" in controller.log, 20, lambda: controller.log)
    wait_until(lambda: (holder := state.run_holder("r1")) is not None and not holder.alive, 5, lambda: controller.log)
    judged = _leases.verdict(Session(engine.cloud, engine.ledger, state), engine.ledger.of_run("r1")[0], utc_now())
    assert judged["over"] and f"process {controller.process.pid}" in judged["why"], "reap.yml takes it too"
    rehearsal.control("DELETE", "/faults")
    before = state.take_run("r1", me())
    assert before is not None and before.pid == controller.process.pid
    (slot,) = engine.release_run("r1")
    assert slot.error is None and slot.before is not None and slot.before.id == pod.id and rehearsal.pods() == []
    # The new controller lives as long as this test.
    assert start_ticks(controller.keeper) is not None and "run taken over by" in wait_log(controller, "run taken over by")


def test_what_the_keeper_tells_to_type_names_the_inventory(control: Callable[..., Controller], engine: Engine, make_wish: Callable[..., Any]) -> None:
    controller = control("r1")
    rent(engine, make_wish, "r1")
    path, lines = engine.ledger.path, engine.ledger.path.read_bytes()
    path.write_bytes(b"not a line of ours\n" + lines)
    controller.end(signal.SIGKILL)
    assert "ansible-playbook -i inventories/runpod playbooks/reap.yml -e owner=" in wait_log(controller, "reap.yml")


class Stopped(Exception):
    """The keeper has slept long enough for a test."""


def keeper_here(engine: Engine, state: StateDir, monkeypatch: pytest.MonkeyPatch, turns: list[Callable[[], None]]) -> Keeper:
    """A keeper in this process; each of its sleeps takes the next turn, and Stopped ends it after the last."""

    slept: list[float] = []

    def sleep(seconds: float) -> None:
        if not turns:
            raise Stopped
        slept.append(seconds)
        turns.pop(0)()

    monkeypatch.setattr(_keeper, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: sum(slept)))
    keeper = Keeper(Session(engine.cloud, engine.ledger, state), "r1", 0.0)
    monkeypatch.setattr(keeper, "_desk", lambda: engine)
    return keeper


def first_process() -> ProcessId:
    """One that lives for as long as the machine."""
    found = ProcessId.of(1)
    assert found is not None
    return found


def gone() -> ProcessId:
    return ProcessId(socket.gethostname(), 999_999_999, 1)


def test_whoever_took_over_and_died_leaves_a_keeper_behind(
    engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = rent(engine, make_wish, "r1")
    state.take_run("r1", gone())
    rehearsal.fault("error_401", times=None)

    def die() -> None:
        state.leave_run("r1", first_process(), gone())
        rehearsal.control("DELETE", "/faults")

    def take_over() -> None:
        assert state.take_run("r1", first_process()) == gone()

    keeper = keeper_here(engine, state, monkeypatch, [lambda: None, take_over, die])
    assert keeper.watch() == "gave back 1 pods"
    assert rehearsal.pods() == [] and engine.ledger.of_run("r1")[0].pod_id == pod.id


def test_who_meets_a_keeper_at_work_is_told_so(engine: Engine, make_wish: Callable[..., Any], state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    rent(engine, make_wish, "r1")
    state.take_run("r1", gone())
    keeper = keeper_here(engine, state, monkeypatch, [])
    other = first_process()
    met: list[str] = []
    release = engine.release_run

    def meet(run_id: str) -> Any:
        with pytest.raises(StateError) as caught:
            state.take_run(run_id, other)
        met.append(str(caught.value))
        met.append(_leases.verdict(keeper.session, engine.ledger.of_run("r1")[0], utc_now())["why"])
        return release(run_id)

    monkeypatch.setattr(engine, "release_run", meet)
    assert keeper.watch() == "gave back 1 pods"
    for part in ("its keeper", f"process {os.getpid()}", "keeper.log", "type the same command again"):
        assert part in met[0]
    assert "its keeper" in met[1]
    assert state.take_run("r1", other) == gone(), "given back, and the run is free"


def test_a_full_disk_keeps_no_pod_from_the_keeper(
    engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    rent(engine, make_wish, "r1")
    state.take_run("r1", gone())

    def full(*words: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_state, "write_atomic", full)
    monkeypatch.setattr(engine.ledger, "_append", full)
    keeper = keeper_here(engine, state, monkeypatch, [lambda: None])
    assert keeper.watch() == "gave back 1 pods" and rehearsal.pods() == []
    assert state.run_holder("r1") == gone()


def test_a_lock_that_is_not_had_is_no_takeover(
    engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    rent(engine, make_wish, "r1")
    state.take_run("r1", gone())
    take, troubled = state.take_run, iter([True])

    def taking(*words: Any, **more: Any) -> Any:
        if next(troubled, False):
            raise StateError("waited 60 s for the lock")
        return take(*words, **more)

    monkeypatch.setattr(state, "take_run", taking)
    keeper = keeper_here(engine, state, monkeypatch, [lambda: None] * 100)
    assert keeper.watch() == "gave back 1 pods" and rehearsal.pods() == []


def test_without_a_keeper_nothing_is_rented(state: StateDir, control: Callable[..., Controller], rehearsal: Any) -> None:
    with pytest.raises(StateError, match="keeper of run r1 did not come up") as caught:
        ensure_keeper(ROOT / "docs", {"cloud": "runpod", "endpoint": "http://127.0.0.1:9/v2", "api_key": KEY, "state_dir": str(state.path)}, state, "r1", 1.0)
    assert "keeper.log" in str(caught.value) and KEY not in caught.value.details["log"]
