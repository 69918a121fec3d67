# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run's key stands in the account while a pod may have to be reached through the gateway, and never longer; other keys stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _gateway_key, _leases, _pods
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId
from support.harness import FULL

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAI"
MINE = f"ssh-ed25519 {BLOB}{'M' * 43} podcycle-r1"
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

    call.keys = lambda: client.get("/account/ssh-keys").body["keys"]  # type: ignore[attr-defined]
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


def test_a_key_whose_controller_died_before_it_rented_is_removed_by_reap(pod: Any, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(_pods.Engine, "rent", killed)
    with pytest.raises(KeyboardInterrupt):
        pod(runpod={"ssh_via": "gateway"})
    assert pod.keys() == [OTHERS, MINE]
    _leases.reap({**pod.account, "select": "over"}, check_mode=True)
    assert pod.keys() == [OTHERS, MINE]
    done = _leases.reap({**pod.account, "select": "over"}, check_mode=False)
    assert pod.keys() == [OTHERS] and done["warnings"] == []


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
