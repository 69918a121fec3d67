# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
from typing import Any

import pytest


def names(cloud: Any) -> list[str]:
    return [pod["name"] for pod in cloud.call("GET", "/v2/pods").json["pods"]]


def test_error_500_after_effect(cloud: Any) -> None:
    cloud.fault("error_500_after_effect")
    assert cloud.call("POST", "/v2/pods", cloud.body("ghost")).status == 500
    assert names(cloud) == ["ghost"]
    assert cloud.call("POST", "/v2/pods", cloud.body("second")).status == 201


def test_error_500_before_effect(cloud: Any) -> None:
    cloud.fault("error_500", match={"method": "POST", "path": "^/v2/pods$"})
    assert cloud.call("POST", "/v2/pods", cloud.body("ghost")).status == 500
    assert names(cloud) == []


def test_reply_cut(cloud: Any) -> None:
    cloud.fault("reply_cut", params={"bytes": 11})
    with pytest.raises(http.client.IncompleteRead) as cut:
        cloud.call("POST", "/v2/pods", cloud.body("ghost"))
    assert len(cut.value.partial) == 11
    assert names(cloud) == ["ghost"]


def test_no_reply(cloud: Any) -> None:
    cloud.fault("no_reply", params={"seconds": 0.2})
    begin = time.monotonic()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        cloud.call("POST", "/v2/pods", cloud.body("ghost"))
    assert time.monotonic() - begin >= 0.2
    assert names(cloud) == ["ghost"]


def test_timeout_before_effect(cloud: Any) -> None:
    cloud.fault("timeout_before_effect", match={"method": "POST"}, params={"seconds": 0.1})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, urllib.error.URLError)):
        cloud.call("POST", "/v2/pods", cloud.body("ghost"))
    assert names(cloud) == []


@pytest.mark.parametrize(("params", "header"), [({"retry_after": 7}, "7"), ({"retry_after": None}, None)])
def test_429(cloud: Any, params: dict[str, Any], header: str | None) -> None:
    cloud.fault("429", params=params)
    answer = cloud.call("GET", "/v2/pods")
    assert (answer.status, answer.headers.get("retry-after")) == (429, header)
    assert cloud.call("GET", "/v2/pods").status == 200


def test_no_capacity_for_one_gpu_or_everywhere(cloud: Any) -> None:
    cloud.fault("no_capacity", times=None, params={"gpu": "4090"})
    answer = cloud.call("POST", "/v2/pods", cloud.body())
    assert answer.status == 400 and answer.json["detail"].startswith("There are no longer any instances available")
    cloud.create("fallback", gpu={"id": "NVIDIA L4", "count": 1})
    cloud.control("DELETE", "/faults")
    cloud.control("POST", "/market", {"sold_out": True})
    assert cloud.call("POST", "/v2/pods", cloud.body()).status == 400
    assert names(cloud) == ["fallback"]


def test_balance_402(cloud: Any) -> None:
    cloud.fault("balance_402", times=None)
    assert [cloud.call("POST", "/v2/pods", cloud.body()).status for _turn in range(2)] == [402, 402]
    assert names(cloud) == []


def test_list_lag(cloud: Any) -> None:
    cloud.fault("list_lag", params={"requests": 2})
    pod = cloud.create("late")
    assert cloud.get(pod["id"])["name"] == "late"
    assert [names(cloud) for _turn in range(3)] == [[], [], ["late"]]
    cloud.control("DELETE", "/faults")
    cloud.control("POST", f"/pods/{pod['id']}/age", {"seconds": 60})
    cloud.fault("list_lag", params={"seconds": 0.3})
    cloud.create("later")
    assert names(cloud) == ["late"]
    cloud.wait(lambda: names(cloud) == ["late", "later"])


def test_empty_list(cloud: Any) -> None:
    cloud.create("there")
    cloud.fault("empty_list", times=1)
    assert [names(cloud), names(cloud)] == [[], ["there"]]


def test_running_without_ssh(cloud: Any) -> None:
    cloud.fault("running_without_ssh", match={"pod": "^mute"})
    mute, fine = cloud.create("mute"), cloud.create("fine")
    port = cloud.running(mute["id"])["ssh"]["direct"]["port"]
    cloud.reachable(fine["id"])
    assert cloud.ssh(port, "true").returncode == 255


def test_slow_ssh(cloud: Any) -> None:
    cloud.fault("slow_ssh", params={"seconds": 1.0})
    pod = cloud.create()
    cloud.running(pod["id"])
    begin = time.monotonic()
    cloud.reachable(pod["id"])
    assert time.monotonic() - begin > 0.7


def test_wrong_host_key(cloud: Any) -> None:
    cloud.fault("wrong_host_key", params={"seconds": 0.8})
    pod = cloud.create()
    port = cloud.reachable(pod["id"])
    strict = ("-o", "StrictHostKeyChecking=yes")

    def refused() -> Any:
        done = cloud.ssh(port, "true", options=strict)
        return done if done.returncode else None

    changed = cloud.wait(refused)
    assert "Host key verification failed" in changed.stderr


def test_delete_accepted_but_alive(cloud: Any) -> None:
    pod = cloud.create()
    cloud.fault("delete_accepted_but_alive")
    assert cloud.call("DELETE", f"/v2/pods/{pod['id']}").status == 204
    assert cloud.call("GET", f"/v2/pods/{pod['id']}").status == 200
    assert cloud.control("GET", "/meter")["open"] == [pod["id"]]
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "terminate"}).status == 204
    assert cloud.call("GET", f"/v2/pods/{pod['id']}").status == 404


def test_delete_refused(cloud: Any) -> None:
    pod = cloud.create()
    cloud.fault("delete_refused", params={"status": 409, "detail": "locked"})
    answer = cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    assert (answer.status, answer.json["detail"]) == (409, "locked")
    assert cloud.call("DELETE", f"/v2/pods/{pod['id']}").status == 204


def test_proxy_403(cloud: Any) -> None:
    cloud.fault("proxy_403")
    answer = cloud.call("GET", "/v2/pods")
    assert answer.status == 403 and answer.headers["content-type"].startswith("text/html") and "error code: 1010" in answer.text


def test_schema_changed(cloud: Any) -> None:
    pod = cloud.create()
    cloud.fault("schema_changed", params={"drop": ["cost"], "rename": {"status": "state"}})
    strange = cloud.get(pod["id"])
    assert "cost" not in strange and "status" not in strange and strange["state"] in ("PROVISIONING", "STARTING")
    assert "status" in cloud.get(pod["id"])


def test_times_after_n_and_seed(cloud: Any) -> None:
    cloud.fault("error_500", times=2, after_n=1)
    assert [cloud.call("GET", "/v2/pods").status for _turn in range(5)] == [200, 500, 500, 200, 200]
    draws = []
    for _turn in range(2):
        cloud.control("DELETE", "/faults")
        cloud.fault("error_500", times=None, probability=0.5, seed=11)
        draws.append([cloud.call("GET", "/v2/pods").status for _turn in range(12)])
    assert draws[0] == draws[1] and set(draws[0]) == {200, 500}


def test_a_fault_that_makes_no_sense_is_refused(cloud: Any) -> None:
    for body in ({"kind": "nonsense"}, {"kind": "429", "match": {"path": "("}}, {"kind": "429", "time": 1}):
        assert cloud.call("POST", "/_control/faults", body, key=None).status == 400


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", ["held"])])
def test_hold(cloud: Any, when: str, there: list[str]) -> None:
    cloud.control("POST", "/hold", {"match": {"method": "POST", "path": "^/v2/pods$"}, "nth": 2, "when": when})
    cloud.create("first")
    assert cloud.call("GET", "/_control/hold?timeout=0.1", key=None).status == 408
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(cloud.call("POST", "/v2/pods", cloud.body("held")).status))
    thread.start()
    assert cloud.control("GET", "/hold?timeout=5")["request"]["when"] == when
    assert names(cloud) == ["first", *there] and answers == []
    cloud.control("POST", "/hold/release")
    thread.join(5)
    assert answers == [201]


def test_removed_behind_our_back(cloud: Any) -> None:
    pod = cloud.create()
    cloud.control("POST", f"/pods/{pod['id']}/remove")
    assert cloud.call("GET", f"/v2/pods/{pod['id']}").status == 404


def test_only_loopback_listens(cloud: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address but loopback")
    with pytest.raises(OSError), socket.create_connection((address, cloud.port), timeout=1):
        pass
