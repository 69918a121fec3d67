# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run's key stands in the account while a pod may have to be reached through the gateway, and never longer; other keys stay."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _account_keys, _gateway_key, _leases, _pods
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_key import KeyStamp
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId, StateDir
from support.harness import FULL

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAI"
MINE = f"ssh-ed25519 {BLOB}{'M' * 43}"
OTHERS = f"ssh-ed25519 {BLOB}{'O' * 43} somebody"


@pytest.fixture
def pod(rehearsal: Any, state: Any) -> Callable[..., dict[str, Any]]:
    client = HttpClient(rehearsal.url, FULL, "runpod")
    client.put("/account/ssh-keys", {"keys": [OTHERS]})
    base = {name: spec.get("default") for name, spec in _pods.pod_spec().items()}
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(state.path), "account": "default"}

    def call(check_mode: bool = False, **options: Any) -> dict[str, Any]:
        given = {**base, **account, "run_id": "r1", "gpu": ["RTX 4090"], "ssh_public_key": MINE, "waits": {"settle": 0, "release": 20}, **options}
        return _pods.converge(given, check_mode=check_mode)

    def keys(stamped: bool = False) -> list[str]:
        found = [str(line) for line in client.get("/account/ssh-keys").body["keys"]]
        return [line if stamped or KeyStamp.of(line) is None else line.rpartition(" ")[0] for line in found]

    call.keys = keys  # type: ignore[attr-defined]
    call.put = lambda *lines: client.put("/account/ssh-keys", {"keys": list(lines)})  # type: ignore[attr-defined]
    call.account = account  # type: ignore[attr-defined]
    return call


@pytest.mark.parametrize(
    ("options", "lent"),
    [
        ({}, False),
        ({"runpod": {"cloud_type": "community"}}, True),
        ({"runpod": {"ssh_via": "gateway"}}, True),
        ({"runpod": {"cloud_type": "community", "ssh_via": "direct"}}, False),
        ({"ports": ["8888/http"]}, True),
    ],
)
def test_the_key_is_lent_when_the_gateway_may_be_needed_and_taken_back_with_the_pods(pod: Any, options: dict[str, Any], lent: bool) -> None:
    pod(check_mode=True, **options)
    assert pod.keys() == [OTHERS]
    pod(**options)
    assert pod.keys() == ([OTHERS, MINE] if lent else [OTHERS])
    pod(**options)
    pod(state="absent")
    assert pod.keys() == [OTHERS]


@pytest.mark.parametrize(("name", "text"), [("HOST", "ssh runpod"), ("PORT", "0"), ("PORT", "22x"), ("USER", "-oProxyCommand=x")])
def test_a_gateway_that_the_environment_misspells_is_refused_before_anything_is_rented(
    pod: Any, rehearsal: Any, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"RUNPOD_SSH_{name}", text)
    for check_mode in (True, False):
        with pytest.raises(errors.UsageError, match=f"RUNPOD_SSH_{name} is '{text}', which is no {name.lower()} of a gateway; .*unset RUNPOD_SSH_{name}"):
            pod(check_mode, runpod={"ssh_via": "gateway"})
    assert rehearsal.pods() == [] and pod.keys() == [OTHERS]
    pod()
    pod(state="absent", runpod={"ssh_via": "gateway"})
    assert rehearsal.pods() == [], "it keeps no pod from being given back, and direct SSH does not look at it"


def test_a_key_whose_controller_died_before_it_rented_is_removed_by_reap(pod: Any, rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as process:
        process.setattr(_gateway_key.os, "getpid", os.getppid)
        process.setattr(_pods.Engine, "rent", killed)
        with pytest.raises(KeyboardInterrupt):
            pod(runpod={"ssh_via": "gateway"})
    assert pod.keys() == [OTHERS, MINE]
    # The process that has lent it lives: outside a run nothing else tells that it may be waiting for capacity.
    _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS, MINE]
    rehearsal.fault("no_capacity", times=None)
    with pytest.raises(errors.PodcycleError):
        pod(runpod={"ssh_via": "gateway"})
    assert pod.keys() == [OTHERS, MINE], "another process rents for the same run"
    monkeypatch.setattr(ProcessId, "alive", False)
    planned = _leases.reap({**pod.account, "select": "over"}, check_mode=True)
    assert pod.keys() == [OTHERS, MINE] and planned["changed"]
    done = _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS] and done["warnings"] == [] and done["keys"] == planned["keys"]
    assert [row["run_id"] for row in done["keys"]] == ["r1"] and not _leases.reap({**pod.account, "select": "over"}, check_mode=True)["changed"]


def test_a_driven_run_that_waits_for_capacity_keeps_its_key(pod: Any, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pods.Engine, "rent", lambda *args, **more: [])
    state.take_run("r1", ProcessId.of(os.getpid()))
    pod(runpod={"ssh_via": "gateway"})
    _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS, MINE], "its next pod is reached with it"
    _leases.reap({**pod.account, "select": "every"}, check_mode=False)
    assert pod.keys() == [OTHERS]


def test_a_refused_list_of_keys_stops_only_who_has_no_other_way(pod: Any, rehearsal: Any) -> None:
    rehearsal.fault("error_401", match={"method": "PUT"}, times=None)
    with pytest.raises(errors.Unauthorized):
        pod(runpod={"ssh_via": "gateway"})
    assert rehearsal.pods() == []
    found = pod(runpod={"cloud_type": "community"})
    assert any("the gateway will not let us in" in note for note in found["pods"][0]["notes"]) and len(rehearsal.pods()) == 1


def test_a_key_that_cannot_be_taken_back_is_told_and_tried_again(pod: Any, rehearsal: Any, state: Any) -> None:
    pod(runpod={"ssh_via": "gateway"})
    rehearsal.fault("error_401", match={"method": "PUT"})
    gone = pod(state="absent")
    (told,) = gone["warnings"]
    assert "stays among the account's SSH keys" in told and "reap.yml" in told
    assert pod.keys() == [OTHERS, MINE] and (state.path / "runs/r1" / _gateway_key.MARK).exists()
    _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS] and not (state.path / "runs/r1" / _gateway_key.MARK).exists()


def test_a_key_goes_at_once_when_no_pod_could_be_had(pod: Any, rehearsal: Any) -> None:
    rehearsal.fault("no_capacity", times=None)
    with pytest.raises(errors.PodcycleError, match="no capacity"):
        pod(runpod={"ssh_via": "gateway"})
    assert pod.keys() == [OTHERS]


def test_what_could_not_be_taken_back_is_told_beside_why_there_is_no_pod(pod: Any, rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def rent(*args: Any, **more: Any) -> Any:
        rehearsal.fault("error_401", match={"method": "PUT"})
        raise errors.NoCapacity("no capacity")

    monkeypatch.setattr(_pods.Engine, "rent", rent)
    with pytest.raises(errors.NoCapacity, match="no capacity.*the key of run r1 stays among the account's SSH keys"):
        pod(runpod={"ssh_via": "gateway"})


def test_who_begins_to_rent_while_keys_are_swept_keeps_its_key(pod: Any, rehearsal: Any, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pod(runpod={"ssh_via": "gateway"})
    rehearsal.fault("error_401", match={"method": "PUT"})
    pod(state="absent")
    mark, real = state.path / "runs/r1" / _gateway_key.MARK, _account_keys.open_desk

    def meanwhile(options: Any) -> Any:
        _gateway_key.Mark(_gateway_key.Mark.read(mark).line, lenders=(ProcessId.of(os.getppid()),)).write(mark)
        return real(options)

    monkeypatch.setattr(_account_keys, "open_desk", meanwhile)
    done = _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS, MINE] and mark.exists() and done["keys"] == []


def test_a_sweep_with_nothing_to_do_is_silent_behind_a_proxy_and_beside_another_one(pod: Any, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(options: Any) -> Any:
        raise errors.ProxyRefused("not the API")

    def unlinked(path: Path) -> Any:
        raise FileNotFoundError(path)

    (state.run_dir("r1") / _gateway_key.MARK).touch()
    monkeypatch.setattr(_account_keys, "open_desk", refused)
    monkeypatch.setattr(_gateway_key.Mark, "read", unlinked)
    assert _leases.reap({**pod.account, "select": "over"}, check_mode=False)["warnings"] == []


def test_a_key_is_lent_for_a_wait_without_end(pod: Any) -> None:
    pod(runpod={"ssh_via": "gateway"}, waits={"capacity": float("inf"), "settle": 0, "release": 20})
    assert pod.keys() == [OTHERS, MINE]


def test_a_key_that_stood_in_the_account_before_is_a_persons_and_stays(pod: Any) -> None:
    pod.put(OTHERS, f"{MINE} me@home")
    pod(runpod={"ssh_via": "gateway"})
    pod(state="absent")
    _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS, f"{MINE} me@home"]


def test_a_key_of_two_runs_goes_with_the_last_of_them(pod: Any) -> None:
    for run_id in ("r1", "r2"):
        pod(run_id=run_id, runpod={"ssh_via": "gateway"})
    pod(run_id="r2", state="absent")
    (line,) = pod.keys(stamped=True)[1:]
    stamp = KeyStamp.of(line)
    assert pod.keys() == [OTHERS, MINE] and stamp is not None and stamp.run_id == "r1"
    pod(state="absent")
    assert pod.keys() == [OTHERS]


@pytest.fixture
def elsewhere(pod: Any, state: Any, tmp_path: Path) -> dict[str, Any]:
    """Another machine with the same owner id, and without this one's notes."""
    other = StateDir(tmp_path / "elsewhere").open()
    (other.path / "owner").write_text(state.owner, encoding="ascii")
    return {**pod.account, "state_dir": str(other.path), "select": "over"}


def test_a_key_whose_notes_are_lost_is_known_by_its_comment(pod: Any, state: Any, elsewhere: dict[str, Any]) -> None:
    now = int(time.time())
    stamps = {
        "over": KeyStamp("lost", state.owner, "a" * 8, now - 60),
        "waits": KeyStamp("lost", state.owner, "b" * 8, now + 60),
        "another's": KeyStamp("lost", "0" * 8, "c" * 8, now - 60),
    }
    lines = {name: f"ssh-ed25519 {BLOB}{name[0].upper() * 43} {stamp}" for name, stamp in stamps.items()}
    pod.put(OTHERS, *lines.values())
    assert _leases.reap({**elsewhere, "run_id": "another"}, check_mode=False)["keys"] == []
    planned = _leases.reap(elsewhere, check_mode=True)
    assert pod.keys(stamped=True) == [OTHERS, *lines.values()]
    done = _leases.reap(elsewhere, check_mode=False)
    assert pod.keys(stamped=True) == [OTHERS, lines["waits"], lines["another's"]]
    assert done["keys"] == planned["keys"] and [row["comment"] for row in done["keys"]] == [str(stamps["over"])]
    _leases.reap({**elsewhere, "owner": "0" * 8}, check_mode=False)
    assert pod.keys(stamped=True) == [OTHERS, lines["waits"]]


def test_a_key_of_a_run_with_a_pod_stays_wherever_one_looks(pod: Any, rehearsal: Any, elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessId, "alive", False)
    pod(runpod={"ssh_via": "gateway"})
    after_all = time.time() + 86400
    monkeypatch.setattr(_gateway_key.time, "time", lambda: after_all)
    for options in ({**pod.account, "select": "over"}, elsewhere):
        _leases.reap(options, check_mode=False)
        assert pod.keys() == [OTHERS, MINE] and len(rehearsal.pods()) == 1
    rehearsal.fault("error_401", match={"method": "PUT"})
    pod(state="absent")
    assert pod.keys() == [OTHERS, MINE]
    _leases.reap(elsewhere, check_mode=False)
    assert pod.keys() == [OTHERS]


def test_a_rerun_that_waits_anew_is_given_more_time(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = int(time.time())
    monkeypatch.setattr(_gateway_key.time, "time", lambda: begun)
    pod(runpod={"ssh_via": "gateway"}, waits={"capacity": 600, "settle": 0, "release": 20})
    (line,) = pod.keys(stamped=True)[1:]
    first = KeyStamp.of(line)
    assert first is not None and first.until - begun == 600 + 900 + 300 + 300 + _gateway_key.MARGIN_SECONDS
    monkeypatch.setattr(_gateway_key.time, "time", lambda: begun + 60)
    pod(runpod={"ssh_via": "gateway"}, waits={"capacity": 600, "settle": 0, "release": 20})
    assert pod.keys(stamped=True)[1:] == [line], "it has all its pods"
    pod(runpod={"ssh_via": "gateway"}, count=2, waits={"capacity": 600, "settle": 0, "release": 20})
    again = KeyStamp.of(pod.keys(stamped=True)[1])
    assert again is not None and again.until == first.until + 60 and len(pod.keys()) == 2
