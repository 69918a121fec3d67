# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest


def test_keys(cloud: Any) -> None:
    assert cloud.call("GET", "/v2/pods", key=None).status == 401
    assert cloud.call("GET", "/v2/pods", key="rpa_wrong").status == 401
    assert cloud.call("GET", "/v2/pods", key="rpa_rehearsal_none").status == 403
    assert cloud.call("GET", "/v2/pods", key="rpa_rehearsal_readonly").status == 200
    refused = cloud.call("POST", "/v2/pods", cloud.body(), key="rpa_rehearsal_readonly")
    assert refused.status == 403
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json["status"] == 403 and refused.json["title"] == "Forbidden"
    assert cloud.call("GET", "/v2/pods").json["pods"] == []


def test_every_answer_carries_a_request_id_and_rate_limits(cloud: Any) -> None:
    first, second = cloud.call("GET", "/v2/pods"), cloud.call("GET", "/v2/pods/nosuchpod")
    assert second.status == 404
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert '"minute"' in first.headers["ratelimit"] and '"day"' in first.headers["ratelimit-policy"]


@pytest.mark.parametrize(
    ("changes", "status", "where"),
    [
        ({"startSSH": True}, 422, "$.startSSH"),
        ({"gpu": {"id": "NVIDIA L4", "count": 1, "kind": "x"}}, 422, "$.gpu.kind"),
        ({"mounts": {"persistent": {"size": 10}}}, 422, "$.mounts.persistent.path"),
        ({"mounts": {"persistent": {"size": 5, "path": "/workspace"}}}, 422, "$.mounts.persistent.size"),
        ({"name": ""}, 422, "$.name"),
        ({"env": {"A": 1}}, 422, "$.env.A"),
        ({"ports": ["22/udp"]}, 422, "$.ports"),
        ({"ports": ["99999/tcp"]}, 422, "$.ports"),
        ({"cpu": {"id": "cpu3c", "vcpuCount": 2}}, 400, None),
        ({"gpu": {"id": "NVIDIA L4"}}, 400, None),
        ({"gpu": {"id": "RTX 4090", "count": 1}}, 400, None),
        ({"gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1, "minCudaVersion": "13.9"}}, 400, None),
        ({"disk": 50_000}, 400, None),
        ({"mounts": {"persistent": {"size": 10, "path": "/a"}, "network": [{"volumeId": "v", "path": "/b"}]}}, 400, None),
    ],
)
def test_bad_create(cloud: Any, changes: dict[str, Any], status: int, where: str | None) -> None:
    answer = cloud.call("POST", "/v2/pods", cloud.body(**changes))
    assert answer.status == status, answer.text
    if where:
        assert where in [one.partition(":")[0] for one in answer.json["errors"]]
    assert cloud.call("GET", "/v2/pods").json["pods"] == []
    assert cloud.control("GET", "/meter")["pods"] == {}


def test_a_body_over_the_limit_is_refused_before_the_key_is_looked_at(cloud: Any) -> None:
    answer = cloud.call("POST", "/v2/pods", raw=b'{"name": "' + b"x" * 102_400 + b'"}', key=None)
    assert answer.status == 413


def test_unknown_query_parameters_are_ignored(cloud: Any) -> None:
    cloud.control("POST", "/pods/bulk", {"count": 3})
    assert len(cloud.call("GET", "/v2/pods?name=nothing&gpu=x").json["pods"]) == 3


def test_ten_thousand_pods_by_pages(cloud: Any) -> None:
    begin = time.monotonic()
    cloud.control("POST", "/pods/bulk", {"count": 10_000})
    made = time.monotonic()
    seen: set[str] = set()
    path, pages = "/v2/pods?limit=1000", 0
    while True:
        answer = cloud.call("GET", path).json
        pages += 1
        assert len(answer["pods"]) <= 1000
        seen |= {pod["id"] for pod in answer["pods"]}
        if not answer["pagination"]["hasNextPage"]:
            break
        path = f"/v2/pods?limit=1000&cursor={answer['pagination']['nextCursor']}"
    print(f"\n10,000 records made in {made - begin:.2f} s, listed by {pages} pages in {time.monotonic() - made:.2f} s")
    assert (len(seen), pages) == (10_000, 10)
    assert cloud.call("GET", "/v2/pods?cursor=garbage").status == 400
    assert cloud.call("GET", "/v2/pods?limit=1001").status == 422


def test_status_walk(cloud: Any) -> None:
    cloud.control("POST", "/time_scale", {"scale": 3})
    made = cloud.create()
    assert (made["status"], made["runtime"], made["ssh"]["direct"], made["dataCenterId"]) == ("PROVISIONING", {}, None, None)
    seen: list[tuple[str, bool]] = []
    while not seen or seen[-1] != ("RUNNING", True):
        pod = cloud.get(made["id"])
        step = (pod["status"], bool(pod["runtime"]))
        if not seen or seen[-1] != step:
            seen.append(step)
        time.sleep(0.01)
    assert seen == [("PROVISIONING", False), ("STARTING", False), ("RUNNING", False), ("RUNNING", True)]
    assert pod["ssh"]["direct"]["port"] == pod["runtime"]["ports"][0]["public"]
    # sshd is later than RUNNING with its port listed.
    assert cloud.ssh(pod["ssh"]["direct"]["port"], "true").returncode == 255
    assert cloud.reachable(made["id"]) == pod["ssh"]["direct"]["port"]


def test_catalog(cloud: Any) -> None:
    gpus = cloud.call("GET", "/v2/catalog/gpus").json["gpus"]
    assert len(gpus) == 44
    by_id = {gpu["id"]: gpu for gpu in gpus}
    assert by_id["NVIDIA GeForce RTX 4090"]["price"] == {"secure": 0.59, "community": 0.34}
    assert (by_id["unknown"]["price"]["secure"], by_id["unknown"]["maxCount"]["secure"]) == (0, 0)
    assert "availability" not in by_id["NVIDIA L4"]
    assert cloud.call("GET", "/v2/catalog/gpus?include=AVAILABILITY").status == 400
    one = cloud.call("GET", "/v2/catalog/gpus/NVIDIA%20GeForce%20RTX%204090?include=AVAILABILITY&product=POD").json
    assert one["availability"] == "HIGH" and one["maxCount"] == {"secure": 8, "community": 8}
    assert {"id": "EU-RO-1", "name": "EU-RO-1", "availability": "HIGH"} in one["dataCenters"]
    cloud.control("POST", "/market", {"gpu": one["id"], "stock": 0})
    empty = cloud.call("GET", "/v2/catalog/gpus/NVIDIA%20GeForce%20RTX%204090?include=AVAILABILITY&product=POD").json
    assert (empty["availability"], empty["dataCenters"]) == ("NONE", [])
    centers = cloud.call("GET", "/v2/catalog/datacenters?include=GPU_AVAILABILITY").json["dataCenters"]
    assert any(center["gpuAvailability"] for center in centers)
    assert cloud.call("GET", "/v2/catalog/datacenters/EU-RO-1").json["id"] == "EU-RO-1"


def test_stock_is_finite_and_comes_back(cloud: Any) -> None:
    cloud.control("POST", "/market", {"gpu": "NVIDIA L4", "stock": 0})
    cloud.control("POST", "/market", {"gpu": "NVIDIA L4", "stock": 2, "data_center": "EU-RO-1", "cloud": "SECURE"})
    wanted = {"gpu": {"id": "NVIDIA L4", "count": 2}}
    assert cloud.call("POST", "/v2/pods", cloud.body(**wanted, dataCenterIds=["US-KS-2"])).status == 400
    pod = cloud.create(**wanted)
    second = cloud.call("POST", "/v2/pods", cloud.body(**wanted))
    assert second.status == 400 and second.json["detail"].startswith("There are no longer any instances available")
    cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    assert cloud.call("POST", "/v2/pods", cloud.body(**wanted)).status == 201


def test_openapi_describes_what_is_served(cloud: Any) -> None:
    spec = cloud.call("GET", "/v2/openapi.json", key=None).json
    for path, methods in spec["paths"].items():
        for method in methods:
            answer = cloud.call(method.upper(), "/v2" + path.replace("{id}", "nosuch"), {} if method in ("post", "patch", "put") else None)
            assert answer.status in (200, 404, 422), (method, path, answer.text)
    assert cloud.call("PUT", "/v2/pods/x", {"name": "y"}).status == 405
    assert cloud.call("GET", "/v2/clusters").status == 404


def test_the_control_api_answers_on_loopback_names_only(cloud: Any) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", cloud.port)
    connection.request("GET", "/_control/health", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403


def test_the_log_hides_secrets(cloud: Any) -> None:
    cloud.create(env={"HF_TOKEN": "very-secret-value", "PLAIN": "seen"})
    entries = cloud.control("GET", "/requests")["requests"]
    text = json.dumps(entries)
    assert "very-secret-value" not in text and "rpa_rehearsal_full" not in text
    create = next(entry for entry in entries if entry["method"] == "POST")
    assert (create["status"], create["key"], create["body"]["env"]["PLAIN"]) == (201, "full", "seen")
    assert len(create["body_sha256"]) == 64
    assert cloud.control("GET", f"/requests?since={create['n']}")["requests"] == []


def test_the_log_stream_never_ends_and_tells_no_header_before_its_first_line(cloud: Any) -> None:
    made = cloud.call("POST", "/v2/pods", cloud.body()).json
    link = http.client.HTTPConnection("127.0.0.1", cloud.port, timeout=1)
    headers = {"Authorization": "Bearer rpa_rehearsal_full"}
    link.request("GET", f"/v2/pods/{made['id']}/logs?source=system&tail=1", headers=headers)
    answer = link.getresponse()
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    event = json.loads([answer.readline(), answer.readline()][1].removeprefix(b"data: "))
    assert event["source"] == "system" and "container" in event["line"] and event["ts"].endswith("Z")
    with pytest.raises(TimeoutError):
        for _turn in range(100):
            assert answer.readline(), "the stream ended"
    link.close()
    link.request("GET", f"/v2/pods/{made['id']}/logs?source=container", headers=headers)
    with pytest.raises(TimeoutError):
        link.getresponse()
    link.close()
    for query, status in (("source=all", 422), ("tail=5001", 422), ("since=yesterday", 400)):
        link.request("GET", f"/v2/pods/{made['id']}/logs?{query}", headers=headers)
        assert link.getresponse().status == status
        link.close()
