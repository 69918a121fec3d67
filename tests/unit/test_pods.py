# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pod module answers: before and after, in check mode and in earnest; and the guard on the pod."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _catalog, _guard, _listing, _offers, _pods
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient

KEY = "rpa_rehearsal_full"
DEFAULTS = {name: row.get("default") for name, row in _pods.pod_spec().items()}


@pytest.fixture
def pod(rehearsal: Any, state: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The pod module's work, with time that costs nothing."""
    init = HttpClient.__init__
    monkeypatch.setattr(HttpClient, "__init__", lambda self, *args, **more: init(self, *args, **{"clock": clock, **more}))

    def run(check_mode: bool = False, **options: Any) -> dict[str, Any]:
        account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": KEY, "state_dir": str(state.path), "account": "default"}
        return _pods.converge({**DEFAULTS, **account, "run_id": "r1", "gpu": ["RTX 4090"], **options}, check_mode=check_mode)

    return run


def test_check_mode_says_what_the_real_run_does(pod: Callable[..., dict[str, Any]], rehearsal: Any) -> None:
    for step in ("running", "stopped", "running", "absent"):
        seen = pod(check_mode=True, state=step)
        done = pod(state=step)
        assert seen["changed"] and done["changed"], step
        assert seen["diff"] == done["diff"] and done["diff"]["before"] != done["diff"]["after"], step
        again = pod(state=step)
        assert not again["changed"] and again["diff"]["before"] == again["diff"]["after"], step
        assert not pod(check_mode=True, state=step)["changed"], step
        json.dumps(done)
        assert len(rehearsal.pods()) == (0 if step == "absent" else 1)


def test_the_answer_holds_price_worst_case_and_lease(pod: Callable[..., dict[str, Any]]) -> None:
    seen = pod(check_mode=True, count=2, lease={"hours": "2"}, gpu=["RTX 4090", "L40S"])
    assert seen["worst_case_usd"] == "3.4400", "at the dearest offer that would be tried"
    done = pod(count=2, lease={"hours": "2"}, gpu=["RTX 4090", "L40S"])
    assert done["worst_case_usd"] == "2.3600" and done["rehearsal"] is True
    rows = [(row["index"], row["usd_per_hour"], row["usd_per_hour_sort"], row["state"]) for row in done["pods"]]
    assert rows == [(0, "0.5900", 0.59, "running"), (1, "0.5900", 0.59, "running")]
    assert all(row["deadline"] and row["cost_usd"] is not None for row in done["pods"])


def test_a_damaged_catalog_keeps_no_pod_from_being_given_back(pod: Callable[..., dict[str, Any]], rehearsal: Any, state: Any) -> None:
    pod()
    path = _catalog.file_of(state, "runpod")
    path.parent.mkdir(exist_ok=True)
    path.write_text("{", encoding="utf-8")
    pod(state="absent")
    assert rehearsal.pods() == []


def test_a_half_failed_group_says_what_is_rented(pod: Callable[..., dict[str, Any]], rehearsal: Any) -> None:
    rehearsal.fault("no_capacity", match={"pod": "-pod-1-"})
    with pytest.raises(errors.NoCapacity) as caught:
        pod(count=3)
    assert str(caught.value).startswith("1 of 3 pods failed; the first: create pod pod-1")
    assert sorted(caught.value.details["rented_pods"]) == sorted(row["id"] for row in rehearsal.pods())


def test_ssh_masters_end_with_every_stop_start_and_give_back(
    pod: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(_pods, "close_masters", lambda folder: closed.append(folder.name))
    monkeypatch.setattr("ansible_collections.podcycle.gpu.plugins.module_utils._ssh.SshAccess.probe", lambda *args, run_id: "")
    ssh = {"ssh_private_key_file": str(tmp_path / "key"), "known_hosts_file": str(tmp_path / "known hosts")}
    row = pod(**ssh)["pods"][0]
    assert closed == [] and str(tmp_path / "known hosts") in row["ssh_args"]
    for number, step in enumerate(("stopped", "running", "absent"), 1):
        pod(check_mode=True, state=step, **ssh)
        assert len(closed) == number - 1, "check mode ends nothing"
        pod(state=step, **ssh)
        assert closed == [Path(row["control_path_dir"]).name] * number, step


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_usd_per_hour": "cheap"}, "max_usd_per_hour is 'cheap'; it must be a number"),
        ({"max_usd_per_hour": "NaN"}, "must be a number"),
        ({"lease": {"hours": "long"}}, "lease.hours"),
        ({"lease": {"hours": "0"}}, "lease.hours is 0"),
        ({"lease": {"hours": "1000"}}, "lease.hours"),
        ({"runpod": {"min_cuda_version": "latest"}}, "must look like 12.8"),
        ({"runpod": {"network_volume": "games", "cloud_type": "community"}}, "runpod.network_volume needs cloud_type secure, not community"),
        ({"runpod": {"network_volume": "games"}, "volume_gib": 20}, "two volumes, and RunPod mounts one"),
        ({"volume_gib": 9}, "volume_gib is 9; RunPod's volumes hold 10 GiB or more"),
        ({"runpod": {"secrets": {"HF_TOKEN": "my secret"}}}, "the name of a secret in RunPod's console"),
        ({"runpod": {"secrets": {"HF_TOKEN": "hf"}}, "env": {"HF_TOKEN": "x"}}, "HF_TOKEN stands in env or secret_env too"),
        ({"runpod": {"ssh_via": "direct"}, "ports": ["8888/http"]}, "without 22/tcp there is no direct SSH"),
        ({"ports": ["22/TCP", "8888/udp"]}, "port '8888/udp' must look like 22/tcp"),
        ({"env": {"A B": "1"}}, "environment variable 'A B' is no name"),
        ({"endpoint": "http://example.com/v2"}, "unencrypted"),
        ({"api_key": "two words"}, "odd characters"),
        ({"run_id": "../x"}, "safe file name"),
    ],
)
def test_odd_options_are_one_sentence(pod: Callable[..., dict[str, Any]], rehearsal: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.PodcycleError, match=words.replace(".", r"\.")):
        pod(**options)
    assert rehearsal.requests() == []


def test_offers_are_ranked_filtered_and_capped(rehearsal: Any, state: Any) -> None:
    def rows(**options: Any) -> list[dict[str, Any]]:
        base = {"gpu": [], "gpu_count": 1, "min_vram_gib": 0, "max_usd_per_hour": None, "cloud_type": "any", "regions": [], "limit": 0}
        base |= {"spot": False, "offline": False}
        account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": KEY}
        return _offers.list_offers({**base, **account, **options})["offers"]

    everything = rows()
    there = [row["usd_per_hour_sort"] for row in everything if row["availability"] != "none"]
    assert there == sorted(there) and len(everything) > 20
    assert [row["availability"] for row in everything[len(there) :]] == ["none"] * (len(everything) - len(there))
    assert rows(limit=3) == everything[:3]
    big = rows(min_vram_gib=80, max_usd_per_hour="2.00", cloud_type="secure")
    assert big and all(row["vram_gib"] >= 80 and row["usd_per_hour_sort"] <= 2 and row["cloud_type"] == "secure" for row in big)
    named = rows(gpu=["L40S", "RTX 4090"], cloud_type="secure")
    assert [row["gpu_name"] for row in named] == ["L40S", "RTX 4090"], "the order of preference, not of price"
    (double,) = rows(gpu=["RTX 4090"], gpu_count=2, cloud_type="secure")
    assert double["usd_per_hour"] == "1.1800"
    for bad in ({"gpu_count": 0}, {"limit": -1}, {"min_vram_gib": -1}, {"max_usd_per_hour": "0"}):
        with pytest.raises(errors.UsageError):
            rows(**bad)


def test_pod_info_joins_pods_with_their_leases(pod: Callable[..., dict[str, Any]], rehearsal: Any, state: Any) -> None:
    made = pod()["pods"][0]
    rehearsal.control("POST", "/pods/bulk", {"count": 1, "name_prefix": "foreign"})
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": KEY, "state_dir": str(state.path), "account": "default"}
    (row,) = _listing.pod_info({**account, "scope": "ours", "run_id": None})["pods"]
    assert row["id"] == made["id"] and row["ours"] and row["deadline"] == made["deadline"]
    rows = _listing.pod_info({**account, "scope": "all", "run_id": None})["pods"]
    assert [one["ours"] for one in rows] == [True, False]
    assert _listing.pod_info({**account, "scope": "all", "run_id": "r2"})["pods"] == []


def test_the_guard_goes_on_ending_the_pod_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    said: list[str] = []

    def write_status(folder: Path, **status: Any) -> None:
        said.append(status["why"])
        if status["why"]:
            raise OSError(errno.ENOSPC, "No space left on device")

    class Enough(Exception):
        pass

    def sleep(seconds: float) -> None:
        if asked.count("DELETE") == 3:
            raise Enough

    monkeypatch.setattr(_guard, "pod_environment", lambda: {"RUNPOD_POD_ID": "p1", "RUNPOD_API_KEY": "rpa_x"})
    monkeypatch.setattr(_guard, "call", lambda url, pod, method: asked.append(method) or (200 if method == "GET" else 500))
    monkeypatch.setattr(_guard, "write_status", write_status)
    monkeypatch.setattr(_guard.time, "sleep", sleep)
    with pytest.raises(Enough):
        _guard.watch(tmp_path, "http://127.0.0.1:1/v2", 0.0)
    assert asked == ["GET", "DELETE", "DELETE", "DELETE"] and len(said) == 4


def test_the_guard_outlives_an_answer_that_is_not_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _address = server.accept()
            with link:
                link.recv(65536)
                link.sendall(b"garbage\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        environment = {"RUNPOD_POD_ID": "p1", "RUNPOD_API_KEY": "rpa_x"}
        assert _guard.call(f"http://127.0.0.1:{server.getsockname()[1]}/v2", environment, "DELETE", timeout=5) == 0
        thread.join()
