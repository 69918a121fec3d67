# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving back: proven gone, still alive, unknown, late arrivals, strangers; and what is over and what is not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _leases
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease, Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._model import rfc3339, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId
from support.harness import FULL

MakeWish = Callable[..., Any]
KEY = "rpa_rehearsal_full"


def rent(engine: Engine, wish: Any) -> Any:
    (slot,) = engine.rent(wish, check_mode=False)
    assert slot.error is None, slot.error
    return slot.after


def by_hand(rehearsal: Any, name: str) -> str:
    """A pod of somebody else's making, with any name."""
    made = rehearsal.control("POST", "/pods/bulk", {"count": 1, "name_prefix": name})
    return str(made["first"])


# ---- proof -------------------------------------------------------------------------------------------


def test_giving_back_is_proven_and_doing_it_again_is_nothing(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    (slot,) = engine.release_run("r1")
    assert slot.error is None and slot.changed and slot.notes == ["not found by id"]
    assert rehearsal.pods() == [] and [lease.state for lease in engine.ledger.leases()] == ["released"]
    last = [(row["method"], row["path"], row["status"]) for row in rehearsal.requests() if pod.id in row["path"]][-2:]
    assert last == [("DELETE", f"/v2/pods/{pod.id}", 204), ("GET", f"/v2/pods/{pod.id}", 404)]
    assert engine.release_run("r1") == []


def test_gone_already_is_success(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    rehearsal.control("POST", f"/pods/{pod.id}/remove")
    (slot,) = engine.release_run("r1")
    assert slot.error is None and not slot.changed and slot.notes == ["there was no pod any more"]
    assert not engine.ledger.leases()[0].open
    assert engine.end_pod(pod) == "not found by id"


def test_accepted_but_alive_is_told_and_the_lease_stays_open(engine: Engine, rehearsal: Any, make_wish: MakeWish, clock: Any) -> None:
    pod = rent(engine, make_wish())
    rehearsal.fault("delete_accepted_but_alive", times=None)
    (slot,) = engine.release_run("r1")
    assert isinstance(slot.error, errors.StillAlive)
    for part in (pod.id, "may be billed", "reap.yml"):
        assert part in str(slot.error)
    (lease,) = engine.ledger.leases()
    assert lease.state == "releasing" and lease.open and clock.now >= 180
    blocked = engine.rent(make_wish(), check_mode=False)[0]
    assert isinstance(blocked.error, errors.StillAlive) and "was given back but is still there" in str(blocked.error)
    rehearsal.control("DELETE", "/faults")
    assert engine.release_run("r1")[0].error is None and rehearsal.pods() == []


@pytest.mark.parametrize(("fault", "times"), [("error_500", 3), ("no_reply", 2), ("429", 2), ("timeout_before_effect", 1)])
def test_trouble_at_the_delete_is_outlived(engine: Engine, rehearsal: Any, make_wish: MakeWish, fault: str, times: int) -> None:
    rent(engine, make_wish())
    rehearsal.fault(fault, times=times, match={"method": "DELETE", "path": "^/v2/pods/"}, params={"seconds": 0})
    (slot,) = engine.release_run("r1")
    assert slot.error is None and rehearsal.pods() == [] and not engine.ledger.leases()[0].open


def test_trouble_at_the_reading_back_is_no_proof(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    real, troubled = engine.cloud.get, iter([True] * 3)

    def get(pod_id: str) -> Any:
        if any(method == "DELETE" for method, _path in rehearsal.writes()) and next(troubled, False):
            raise errors.ServerError("HTTP 500")
        return real(pod_id)

    engine.cloud.get = get  # type: ignore[method-assign]
    assert engine.release_run("r1")[0].error is None
    assert len([path for method, path in rehearsal.writes() if method == "DELETE" and pod.id in path]) >= 2


def test_a_locked_pod_is_not_asked_again_and_again(engine: Engine, rehearsal: Any, make_wish: MakeWish, clock: Any) -> None:
    pod = rent(engine, make_wish())
    client = HttpClient(rehearsal.url, FULL, "runpod")
    client.patch(f"/pods/{pod.id}", {"locked": True})
    began = clock.now
    (slot,) = engine.release_run("r1")
    assert isinstance(slot.error, errors.StillAlive) and "it is locked" in str(slot.error) and f"unlock {pod.id} in the provider's console" in str(slot.error)
    assert clock.now == began and len([path for method, path in rehearsal.writes() if method == "DELETE" and pod.id in path]) == 1
    client.patch(f"/pods/{pod.id}", {"locked": False})
    assert engine.release_run("r1")[0].error is None and rehearsal.pods() == []


def test_a_key_that_may_not_write_says_where_to_end_the_pod(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(make_engine(), make_wish())
    weak = make_engine("rpa_rehearsal_readonly")
    with pytest.raises(errors.StillAlive, match=f"console: {pod.id}"):
        weak.end_pod(pod)
    assert len(rehearsal.pods()) == 1


def test_another_key_than_the_leases_never_proves_absence(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    engine = make_engine()
    pod = rent(engine, make_wish())
    stranger = make_engine("rpa_rehearsal_readonly")
    rehearsal.control("POST", f"/pods/{pod.id}/remove")
    (slot,) = stranger.release_run("r1")
    assert isinstance(slot.error, errors.LeaseUnknown) and slot.error.effect == "unknown" and "another key" in str(slot.error)
    assert engine.ledger.leases()[0].state == "leased"
    (again,) = stranger.rent(make_wish(), check_mode=False)
    assert isinstance(again.error, errors.LeaseUnknown), "nor is another pod rented in its place"


@pytest.mark.parametrize("doubt", [False, True], ids=["known", "in doubt"])
def test_the_key_that_replaced_a_revoked_one_gives_back(
    make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch, doubt: bool
) -> None:
    engine = make_engine()
    with monkeypatch.context() as past:
        past.setattr(RunPod, "key_id", "0123456789ab")
        if doubt:
            lease = engine.ledger.begin("r1", "pod", 0, engine.cloud.key_id, {}, utc_now() + timedelta(hours=1))
            engine.ledger.write(lease.stamp, "doubt", said="no answer")
            rehearsal.control("POST", "/pods/bulk", {"names": [str(lease.stamp)]})
        else:
            rent(engine, make_wish())
    (lease,) = engine.ledger.leases()
    assert lease.key_id != engine.cloud.key_id
    rehearsal.control("POST", "/pods/bulk", {"names": ["somebody"]})
    (slot,) = engine.release_run("r1")
    assert slot.error is None and slot.changed and slot.notes == ["not found by id"]
    assert [pod["name"] for pod in rehearsal.pods()] == ["somebody"] and not engine.ledger.leases()[0].open


def test_a_lease_of_a_lost_key_is_closed_by_a_persons_word(
    make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the cloud does not show the pod, and nobody works with it."""
    engine = make_engine()
    with monkeypatch.context() as past:
        past.setattr(RunPod, "key_id", "0123456789ab")
        pod = rent(engine, make_wish())
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(engine.state.path), "select": "over", "run_id": "r1"}
    with pytest.raises(errors.UsageError, match="close the lease of nosuchpod: there is no such open lease"):
        _leases.reap({**account, "gone": ["nosuchpod"]}, check_mode=False)
    with pytest.raises(errors.UsageError, match=rf"close the lease of {pod.id}: runpod shows the pod, running; .*stop.yml -e run_id=r1"):
        _leases.reap({**account, "gone": [pod.id]}, check_mode=False)
    assert [row["id"] for row in rehearsal.pods()] == [pod.id]
    rehearsal.control("POST", f"/pods/{pod.id}/remove")
    with pytest.raises(errors.LeaseUnknown, match=rf"reap.yml -e reap_now=true -e gone={pod.id}"):
        _leases.reap({**account, "select": "all"}, check_mode=False)
    with monkeypatch.context() as now:
        now.setattr(_leases, "_driven", lambda session, lease: True)
        with pytest.raises(errors.UsageError, match=f"close the lease of {pod.id}: it is "):
            _leases.reap({**account, "gone": [pod.id]}, check_mode=False)
    assert _leases.reap({**account, "gone": [pod.id]}, check_mode=True)["reaped"] and engine.ledger.leases()[0].open
    done = _leases.reap({**account, "gone": [pod.id]}, check_mode=False)
    assert [row["pod_id"] for row in done["reaped"]] == [pod.id] and not engine.ledger.leases()[0].open


@pytest.mark.parametrize(("waits_for", "select"), [("login", "every"), ("login", "over"), ("capacity", "every")])
def test_what_is_given_back_while_it_is_rented_is_not_rented_anew(
    make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, waits_for: str, select: str
) -> None:
    """Everything of ours is ended, or a lease runs out, while a run waits for a login or for capacity."""
    ended: list[Any] = []

    def end(*args: Any, **more: Any) -> str:
        if ended or (args and "no capacity on" not in args[0]):
            return "connection refused"
        ended.append(None)
        for lease in engine.ledger.leases() if select == "over" else ():
            engine.ledger.write(lease.stamp, "extended", deadline=rfc3339(utc_now() - timedelta(seconds=5)))
        account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(engine.state.path)}
        ended[0] = _leases.reap({**account, "select": select}, check_mode=False)
        return "connection refused"

    if waits_for == "login":
        ssh: Any = SimpleNamespace(probe=lambda pod_id, endpoint, run_id: end(), forget=lambda pod_id: None, known_hosts_file=None)
        engine = make_engine(ssh=ssh, waits={"sshd": 20})
    else:
        rehearsal.fault("no_capacity", times=1)
        engine = make_engine(waits={"capacity": 60}, notify=end)
    engine.state.take_run("r1", ProcessId.of(os.getpid()))
    (slot,) = engine.rent(make_wish(gpus=("RTX 4090", "L40S")) if waits_for == "login" else make_wish(), check_mode=False)
    words = "was given back by another command" if waits_for == "login" else "run r1 was ended by another command while it was renting"
    assert isinstance(slot.error, errors.PodFailed) and words in str(slot.error) and "type the same command again" in str(slot.error)
    assert rehearsal.pods() == [] and not any(lease.open for lease in engine.ledger.leases())
    assert len([row for row in rehearsal.writes() if row == ("POST", "/v2/pods")]) == 1
    assert len(ended[0]["reaped"]) == (1 if waits_for == "login" else 0)


def test_an_ended_run_rents_for_who_begins_later_only(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    engine = make_engine()
    mine = ProcessId.of(os.getpid())
    engine.state.take_run("r1", mine)
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(engine.state.path), "select": "every"}
    assert _leases.reap(account, check_mode=True)["reaped"] == [] and not list(engine.state.path.glob("runs/r1/ended-*"))
    assert _leases.reap(account, check_mode=False)["reaped"] == []
    (slot,) = engine.rent(make_wish(), check_mode=False)
    assert "run r1 was ended by another command" in str(slot.error) and rehearsal.pods() == []
    engine.state.leave_run("r1", mine, None)
    rent(engine, make_wish())


def test_a_pod_that_comes_up_behind_the_first_look_is_given_back_too(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: Any) -> None:
    rent(engine, make_wish())
    release, later = _leases.Desk.release, iter([lambda: rent(make_other, make_wish(run_id="r2"))])
    make_other = Engine(engine.cloud, engine.ledger, engine.state, clock=engine.clock, waits=engine.waits)

    def slow(desk: Any, lease: Any) -> str:
        for act in later:
            act()
        return release(desk, lease)

    monkeypatch.setattr(_leases.Desk, "release", slow)
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(engine.state.path), "select": "every"}
    done = _leases.reap(account, check_mode=False)
    assert [row["run_id"] for row in done["reaped"]] == ["r1", "r2"] and rehearsal.pods() == []


def test_a_pod_presumed_void_that_arrives_late_is_given_back(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("no_reply")
    rehearsal.fault("list_lag", params={"requests": 14})
    rent(engine, make_wish())
    assert [lease.state for lease in engine.ledger.leases()] == ["presumed_void", "leased"]
    assert len(rehearsal.pods()) == 2, "the first create did take effect"
    for _turn in range(20):
        engine.cloud.list()
    slots = engine.release_run("r1")
    assert all(slot.error is None and slot.changed for slot in slots) and len(slots) == 2
    assert rehearsal.pods() == []


def test_strangers_are_never_touched(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    owner = engine.state.owner
    others = {
        by_hand(rehearsal, "podcycle-r1-pod-1-ffffffff-000"),
        by_hand(rehearsal, f"podcycle-r2-pod-0-{owner}-000"),
        by_hand(rehearsal, f"podcycle-r1-pod-0-{owner}-"),
        by_hand(rehearsal, "training"),
        # Our owner id alone proves nothing without the ledger: reap.yml takes it after a confirmation.
        by_hand(rehearsal, f"podcycle-r1-pod-7-{owner}-000"),
        rehearsal.create({"name": pod.name, "image": "runpod/base:1", "gpu": {"id": "NVIDIA L40S", "count": 1}, "disk": 20, "ports": ["22/tcp"]})["id"],
    }
    slots = engine.release_run("r1", known=[(next(iter(others)), "a name of another pod"), ("gone", "podcycle-r1-pod-0-ffffffff-00000000")])
    assert {slot.before.id for slot in slots} == {pod.id}
    assert {row["id"] for row in rehearsal.pods()} == others


def test_who_bears_the_name_of_a_refused_create_is_a_stranger(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("no_capacity", times=None)
    (slot,) = engine.rent(make_wish(), check_mode=False)
    assert isinstance(slot.error, errors.NoCapacity)
    (lease,) = engine.ledger.leases()
    rehearsal.control("POST", "/pods/bulk", {"names": [str(lease.stamp)]})
    assert engine.release_run("r1") == [] and len(rehearsal.pods()) == 1


def test_a_lost_ledger_gives_back_what_the_run_folder_knows(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    engine.ledger.path.unlink()
    (engine.state.path / "owner").write_text("ffffffff\n", encoding="ascii")
    assert engine.release_run("r1") == [], "neither ledger nor owner id proves it ours"
    (slot,) = engine.release_run("r1", known=[(pod.id, pod.name)])
    assert slot.error is None and slot.before.id == pod.id and rehearsal.pods() == []


@pytest.mark.parametrize("answer", [{"body": b"<html>nginx: not found</html>", "content_type": "text/html"}, {"body": None}], ids=["page", "empty"])
def test_only_the_apis_own_404_proves_an_end(
    make_engine: Callable[..., Engine], stub: Any, told: Any, clock: Any, engine: Engine, make_wish: MakeWish, answer: dict[str, Any]
) -> None:
    pod = rent(engine, make_wish())
    stub.tell(told(404, **answer))
    blind = make_engine(cloud=RunPod(HttpClient(stub.url, FULL, "runpod", clock=clock), "a test"))
    blind.ledger.path = engine.ledger.path
    with pytest.raises(errors.ProxyRefused):
        blind.release_run("r1")
    assert engine.ledger.of_run("r1")[0].state == "leased"
    assert engine.cloud.get(pod.id).state == model.RUNNING


def test_another_key_than_the_doubtful_leases_never_proves_absence(make_engine: Callable[..., Engine], engine: Engine, rehearsal: Any) -> None:
    lease = engine.ledger.begin("r1", "pod", 0, engine.cloud.key_id, {}, utc_now() + timedelta(hours=1))
    engine.ledger.write(lease.stamp, "doubt", said="no answer")
    (slot,) = make_engine("rpa_rehearsal_readonly").release_run("r1")
    assert isinstance(slot.error, errors.LeaseUnknown) and engine.ledger.of_run("r1")[0].state == "doubt"


def test_a_lost_ledger_and_an_empty_listing(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    engine.ledger.path.unlink()
    rehearsal.fault("empty_list", times=3)
    (slot,) = engine.release_run("r1", known=[(pod.id, pod.name)])
    assert slot.error is None and rehearsal.pods() == []


def test_a_full_disk_keeps_no_pod_alive(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    rent(engine, make_wish())

    def full(*words: Any) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    engine.notify = told.append
    monkeypatch.setattr(engine.ledger, "_append", full)
    (slot,) = engine.release_run("r1")
    assert slot.error is None and rehearsal.pods() == [] and any("cannot write the ledger" in line for line in told)
    monkeypatch.undo()
    assert engine.release_run("r1")[0].notes == ["there was no pod any more"]


def test_a_full_disk_keeps_no_doubtful_pod_alive_either(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    """The create took effect, its answer could not be written down any more."""
    append, written = engine.ledger._append, []

    def full(line: bytes) -> None:
        written.append(line)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        append(line)

    monkeypatch.setattr(engine.ledger, "_append", full)
    (slot,) = engine.rent(make_wish(), check_mode=False)
    assert isinstance(slot.error, errors.StateError) and len(rehearsal.pods()) == 1
    (slot,) = engine.release_run("r1")
    assert slot.error is None and rehearsal.pods() == []


def test_what_was_kept_on_purpose_is_spared_when_asked(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish())
    stamp = engine.ledger.of_run("r1")[0].stamp
    engine.ledger.write(stamp, "mark", kept=True)
    assert engine.release_run("r1", spare_kept=True) == [] and [one["id"] for one in rehearsal.pods()] == [pod.id]
    rent(engine, make_wish())
    assert engine.ledger.of_run("r1")[0].marks == {"kept": None, "held_until": None}, "in use again: no longer kept"
    assert [slot.before.id for slot in engine.release_run("r1", spare_kept=True)] == [pod.id]


# ---- the audit --------------------------------------------------------------------------------------------


@pytest.fixture
def session(rehearsal: Any, state: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Options that open the rehearsal cloud, as a module would get them; waits cost no time."""
    init = HttpClient.__init__
    monkeypatch.setattr(HttpClient, "__init__", lambda self, *args, **more: init(self, *args, **{"clock": clock, **more}))

    def options(**more: Any) -> dict[str, Any]:
        base = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": KEY, "state_dir": str(state.path), "select": "over", "run_id": None, "owner": None}
        return {**base, "minutes": 30, **more}

    return options


def lease_with(folder: Path, *, deadline: int = 60, controller: str = "alive", keeper: str = "alive", **marks: Any) -> tuple[Any, Lease]:
    now = utc_now()
    gone, elsewhere = ProcessId(socket.gethostname(), 999_999_999, 1), ProcessId("other-host", 5, 5)
    holder = {"alive": ProcessId.of(os.getpid()), "dead": gone, "elsewhere": elsewhere, "none": None}
    stamp = model.Stamp("r1", "pod", 0, "0a1b2c3d", "9f8e7d6c")
    minutes = {key: rfc3339(now + timedelta(minutes=value)) if key in ("held_until", "gives_back_at") else value for key, value in marks.items()}
    lease = Lease(stamp, "runpod", "key", deadline=now + timedelta(minutes=deadline), marks=minutes)
    (folder / "runs" / "r1").mkdir(parents=True)
    (folder / "runs" / "r1" / "keeper.json").write_text(json.dumps(holder[keeper].to_dict()), encoding="utf-8")  # type: ignore[union-attr]
    found = SimpleNamespace(state=SimpleNamespace(path=folder, run_holder=lambda run_id: holder[controller]))
    return found, lease


@pytest.mark.parametrize(
    ("facts", "over", "why"),
    [
        ({}, False, "driven by process"),
        ({"controller": "elsewhere"}, False, "driven by process 5 on other-host"),
        ({"controller": "none"}, False, "rented outside a cycle"),
        ({"controller": "dead"}, True, "is gone"),
        ({"controller": "dead", "gives_back_at": 5}, False, "the keeper gives it back at"),
        ({"controller": "dead", "gives_back_at": -5}, True, "is gone"),
        ({"controller": "dead", "gives_back_at": 5, "keeper": "dead"}, True, "is gone"),
        ({"controller": "dead", "kept": True}, False, "kept on purpose"),
        ({"controller": "dead", "held_until": 5}, False, "held for its artifacts"),
        ({"controller": "dead", "held_until": -5}, True, "held for its artifacts"),
        ({"controller": "alive", "held_until": -5}, False, "driven by process"),
        ({"controller": "alive", "deadline": -1}, True, "deadline has passed"),
        ({"controller": "none", "deadline": -1}, True, "deadline has passed"),
        ({"controller": "dead", "deadline": -1, "kept": True}, True, "deadline has passed"),
        ({"controller": "dead", "deadline": -1, "held_until": 5}, True, "deadline has passed"),
    ],
)
def test_what_is_over_and_why(tmp_path: Path, facts: dict[str, Any], over: bool, why: str) -> None:
    session, lease = lease_with(tmp_path, **facts)
    found = _leases.verdict(session, lease, datetime.now(timezone.utc))
    assert found["over"] is over and why in found["why"]


def age(engine: Engine, run_id: str, **data: Any) -> None:
    (lease,) = engine.ledger.of_run(run_id)
    engine.ledger.write(lease.stamp, "extended", deadline=rfc3339(utc_now() - timedelta(minutes=1)), **data)


def test_reap_shows_first_and_ends_only_what_is_over_and_ours(
    engine: Engine, rehearsal: Any, make_wish: MakeWish, session: Callable[..., dict[str, Any]]
) -> None:
    over, alive = rent(engine, make_wish(run_id="over")), rent(engine, make_wish(run_id="alive"))
    age(engine, "over")
    stray, stranger = by_hand(rehearsal, f"podcycle-lost-pod-7-{engine.state.owner}-000"), by_hand(rehearsal, "podcycle-x-pod-0-ffffffff-000")
    before = engine.ledger.path.read_bytes()
    writes = rehearsal.writes()
    seen = _leases.reap(session(), check_mode=True)
    assert seen["changed"] and [row["pod_id"] for row in seen["reaped"]] == [over.id]
    assert engine.ledger.path.read_bytes() == before and rehearsal.writes() == writes
    done = _leases.reap(session(), check_mode=False)
    assert [row["pod_id"] for row in done["reaped"]] == [over.id] and [row["pod_id"] for row in done["left_alone"]] == [alive.id]
    assert [pod["id"] for pod in done["strays"]] == [stray] and [pod["id"] for pod in done["strangers"]] == [stranger]
    assert {pod["id"] for pod in rehearsal.pods()} == {alive.id, stray, stranger}
    assert not _leases.reap(session(), check_mode=False)["changed"]
    by_owner = _leases.reap(session(owner=engine.state.owner, run_id="lost"), check_mode=False)
    assert [row["pod_id"] for row in by_owner["reaped"]] == [stray]
    _leases.reap(session(select="all"), check_mode=False)
    assert {pod["id"] for pod in rehearsal.pods()} == {stranger}


def test_reap_of_all_leaves_what_a_live_controller_drives(
    engine: Engine, rehearsal: Any, make_wish: MakeWish, session: Callable[..., dict[str, Any]], state: Any
) -> None:
    pod = rent(engine, make_wish())
    state.take_run("r1", ProcessId.of(os.getpid()))
    for marks in ({}, {"kept": True}, {"kept": None, "held_until": rfc3339(utc_now() + timedelta(minutes=5))}):
        engine.ledger.write(engine.ledger.leases()[0].stamp, "mark", **marks)
        assert _leases.reap(session(select="all"), check_mode=False)["reaped"] == [], marks
    assert [row["id"] for row in rehearsal.pods()] == [pod.id]


def test_reap_reports_what_it_could_not_end(engine: Engine, rehearsal: Any, make_wish: MakeWish, session: Callable[..., dict[str, Any]]) -> None:
    pod = rent(engine, make_wish(run_id="over"))
    age(engine, "over")
    billed = f"could not be given back.*; pods that may still be billed: {pod.id}; .*ansible-playbook playbooks/reap.yml -e reap_now=true"
    with pytest.raises(errors.StillAlive, match=billed):
        _leases.reap(session(api_key="rpa_rehearsal_readonly"), check_mode=False)
    assert len(rehearsal.pods()) == 1 and engine.ledger.leases()[0].open


def test_lease_info_tells_ours_lost_late_and_foreign(engine: Engine, rehearsal: Any, make_wish: MakeWish, session: Callable[..., dict[str, Any]]) -> None:
    pod = rent(engine, make_wish())
    gone = rent(engine, make_wish(run_id="gone"))
    rehearsal.control("POST", f"/pods/{gone.id}/remove")
    late = engine.ledger.begin("late", "pod", 0, engine.cloud.key_id, {}, utc_now() + timedelta(hours=1))
    engine.ledger.write(late.stamp, "presumed_void", proof="absent from two listings")
    void = engine.ledger.begin("void", "pod", 0, engine.cloud.key_id, {}, utc_now() + timedelta(hours=1))
    engine.ledger.write(void.stamp, "presumed_void", proof="absent from two listings")
    real = engine.cloud.list()
    stray = by_hand(rehearsal, f"podcycle-lost-pod-7-{engine.state.owner}-000")
    opened = open_session(session())
    opened.cloud.list = lambda: [*real, replace(real[0], id="latecomer", name=str(late.stamp))]  # type: ignore[method-assign]
    found = _leases.audit(opened)
    assert {(row["run_id"], row["observed"]) for row in found.rows} == {("r1", "running"), ("gone", "gone"), ("late", "running")}
    told = _leases.lease_info(session())
    assert [row["id"] for row in told["strays"]] == [stray] and told["burn_usd_per_hour"] == "0.5900" and told["rehearsal"]
    assert {row["pod_id"] for row in told["leases"]} == {pod.id, gone.id}
    foreign = _leases.lease_info(session(api_key="rpa_rehearsal_readonly"))
    assert {(row["pod_id"], row["observed"]) for row in foreign["leases"]} == {(pod.id, "running"), (gone.id, "unknown")}


def test_hold_and_keep_mark_once(engine: Engine, rehearsal: Any, make_wish: MakeWish, session: Callable[..., dict[str, Any]]) -> None:
    rent(engine, make_wish())
    before = engine.ledger.path.read_bytes()
    assert _leases.mark(session(state="held", run_id="r1"), check_mode=True)["changed"] and engine.ledger.path.read_bytes() == before
    held = _leases.mark(session(state="held", run_id="r1"), check_mode=False)
    assert held["changed"] and held["until"] and held["usd_per_hour"] == "0.5900"
    assert not _leases.mark(session(state="held", run_id="r1"), check_mode=False)["changed"]
    assert _leases.mark(session(state="kept", run_id="r1"), check_mode=False)["changed"]
    assert engine.ledger.leases()[0].marks == {"held_until": None, "kept": True}
    pod_id = engine.ledger.of_run("r1")[0].pod_id
    rehearsal.fault("error_401", times=None)
    assert [lease["pod_id"] for lease in _leases.mark(session(state="held", run_id="r1"), check_mode=False)["leases"]] == [pod_id], "nobody knows better"
    rehearsal.control("DELETE", "/faults")
    engine.cloud.terminate(pod_id)
    for check_mode in (True, False):
        assert engine.ledger.of_run("r1")[0].open
        gone = _leases.mark(session(state="held", run_id="r1"), check_mode=check_mode)
        assert (gone["changed"], gone["leases"], gone["usd_per_hour"]) == (False, [], "0.0000")
    assert not engine.ledger.of_run("r1")[0].open, "what is gone is neither held nor counted any longer"
    for bad in ({"state": "held", "run_id": None}, {"state": "held", "run_id": "r1", "minutes": 0}, {"state": "held", "run_id": "r1", "minutes": 1441}):
        with pytest.raises(errors.UsageError):
            _leases.mark(session(**bad), check_mode=False)


def test_the_ledger_of_another_endpoint_is_another_ledger(state: Any) -> None:
    first = Ledger(state, "runpod", "http://127.0.0.1:1/v2")
    first.begin("r1", "pod", 0, "k", {}, utc_now())
    assert Ledger(state, "runpod", "http://127.0.0.1:2/v2").leases() == []


def test_every_lease_is_ended_only_when_every_is_said(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a living controller drives, too; pods of others never."""
    engine.rent(make_wish(count=2), check_mode=False)
    rehearsal.control("POST", "/pods/bulk", {"count": 1, "name_prefix": "somebody"})
    monkeypatch.setattr(_leases, "_driven", lambda session, lease: True)
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(engine.state.path)}
    assert _leases.reap({**account, "select": "all"}, check_mode=False)["reaped"] == [] and len(rehearsal.pods()) == 3
    assert len(_leases.reap({**account, "select": "every"}, check_mode=True)["reaped"]) == 2 and len(rehearsal.pods()) == 3
    assert len(_leases.reap({**account, "select": "every"}, check_mode=False)["reaped"]) == 2
    assert [pod["name"] for pod in rehearsal.pods()] == ["somebody00000"] and not any(lease.open for lease in engine.ledger.leases())
