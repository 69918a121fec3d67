# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's REST v2 on the wire: exact calls, and how ugly answers are read."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import make_cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import GpuType, resolve_gpus
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_wire import read_pod, start_line
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient

STAMP = model.Stamp("r1", "pod", 0, "0a1b2c3d", "9f8e7d6c")
OFFER = model.Offer("runpod", "NVIDIA GeForce RTX 4090", "RTX 4090", 2, 24, Decimal("1.18"), "EU-RO-1")
POD: dict[str, Any] = {
    "id": "p4x8demo1q", "name": str(STAMP), "status": "RUNNING", "actions": ["stop"], "image": "runpod/base:1", "disk": 20, "ports": ["22/tcp", "8888/http"],
    "mounts": {"persistent": {"size": 30, "path": "/workspace"}}, "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 2}, "cloud": "SECURE",
    "dataCenterId": "EU-RO-1", "ssh": {"proxy": None, "direct": {"host": "203.0.113.7", "port": 10341, "username": "root"}}, "cost": 1.18,
    "runtime": {"ports": [{"private": 22, "public": 10341, "type": "tcp", "ip": "203.0.113.7"}]},
    "createdAt": "2026-11-01T10:00:00Z", "startedAt": "2026-11-01T10:00:41.123Z",
}  # fmt: skip
CAPACITY = "There are no longer any instances available with the requested specifications. Please refresh and try again."


@pytest.fixture
def cloud(stub: Any, clock: Any) -> RunPod:
    return RunPod(HttpClient(stub.url, "rpa_key", "runpod", clock=clock), "environment RUNPOD_API_KEY")


# ---- exact calls ------------------------------------------------------------------------------


def test_check_is_one_cheap_read(cloud: RunPod, stub: Any, told: Any) -> None:
    stub.tell(told(200, {"pods": []}))
    cloud.check()
    assert stub.seen == [("GET", "/v2/pods?limit=1", None)]


@pytest.mark.parametrize(("status", "kind", "words"), [(401, errors.Unauthorized, "does not know the key"), (403, errors.Forbidden, "lacks the right")])
def test_check_tells_a_wrong_key_from_a_weak_one(cloud: RunPod, stub: Any, told: Any, status: int, kind: type[Exception], words: str) -> None:
    stub.tell(told(status, {"title": "No", "detail": "The API key is invalid."}, content_type="application/problem+json"))
    with pytest.raises(kind, match=words) as caught:
        cloud.check()
    assert "environment RUNPOD_API_KEY" in str(caught.value) and "console" in str(caught.value)


def test_offers_asks_for_the_availability_of_so_many_gpus(cloud: RunPod, stub: Any, told: Any) -> None:
    rows = [
        {"id": "A", "name": "a", "memory": 24, "secure": True, "price": {"secure": "0.5", "community": 0.4}, "availability": "HIGH", "maxCount": 8},
        {"id": "B", "name": "b", "memory": 48, "secure": True, "price": {"secure": 1}, "maxCount": 1},
        {"id": "C", "name": "c", "memory": 48, "secure": False, "price": {"secure": 1}},
        {"id": "D", "price": {"secure": None}},
        {"id": "E", "price": None},
        {"id": "unknown", "price": {"secure": 0.01}},
    ]  # fmt: skip
    stub.tell(told(200, {"gpus": rows}))
    secure = cloud.offers(2, spot=False, options={"cloud_type": "secure"})
    assert [(offer.gpu, offer.usd_per_hour, offer.cloud_type, offer.availability) for offer in secure] == [("A", Decimal("1.0"), "secure", "high")]
    both = cloud.offers(1, spot=False, options={"cloud_type": "any"})
    assert [(offer.gpu, offer.cloud_type, offer.usd_per_hour) for offer in both] == [
        ("A", "secure", Decimal("0.5")), ("A", "community", Decimal("0.4")), ("B", "secure", Decimal(1)),
    ]  # fmt: skip
    assert stub.calls == [
        ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&count=2&cloud=SECURE"),
        ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&count=1"),
    ]


def test_each_cloud_has_its_largest_machine(cloud: RunPod, stub: Any, told: Any) -> None:
    row = {"id": "A", "name": "a", "memory": 24, "price": {"secure": 1, "community": 0.5}, "maxCount": {"secure": 8, "community": 2}}
    unsold = {**row, "id": "C", "price": {"secure": 0, "community": 1}, "maxCount": {"secure": 0}}
    stub.tell(told(200, {"gpus": [row, {**row, "id": "B", "maxCount": {}}, unsold]}))
    found = cloud.offers(4, spot=False, options={"cloud_type": "any"})
    assert [(offer.gpu, offer.cloud_type) for offer in found] == [("A", "secure"), ("B", "secure"), ("B", "community"), ("C", "community")]


def test_create_sends_everything_once(cloud: RunPod, stub: Any, told: Any, make_wish: Callable[..., Any]) -> None:
    wish = make_wish(
        env={"A": "1"}, secret_env={"TOKEN": "hush-hush"}, volume_gib=30, ports=("22/tcp", "8888/http"), ssh_public_key="ssh-ed25519 AAAA me\n",
        options={"cloud_type": "secure", "min_cuda_version": "12.8"},
    )  # fmt: skip
    stub.tell(told(201, {**POD, "runtime": {}}))
    pod = cloud.create(wish, STAMP, OFFER)
    assert pod.id == "p4x8demo1q" and pod.stamp == STAMP
    assert stub.seen == [
        (
            "POST",
            "/v2/pods",
            {
                "name": "podcycle-r1-pod-0-0a1b2c3d-9f8e7d6c",
                "image": "runpod/base:1",
                "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 2, "minCudaVersion": "12.8"},
                "cloud": "SECURE",
                "disk": 20,
                "ports": ["22/tcp", "8888/http"],
                "env": {
                    "PODCYCLE_PORTS": "22/tcp 8888/http", "A": "1", "TOKEN": "hush-hush",
                    "PUBLIC_KEY": "ssh-ed25519 AAAA me", "SSH_PUBLIC_KEY": "ssh-ed25519 AAAA me",
                },
                "mounts": {"persistent": {"size": 30, "path": "/workspace"}},
                "dataCenterIds": ["EU-RO-1"],
            },
        )
    ]  # fmt: skip


def test_a_plain_create_sends_no_more_than_it_must(cloud: RunPod, stub: Any, told: Any, make_wish: Callable[..., Any]) -> None:
    stub.tell(told(201, POD))
    cloud.create(make_wish(ssh_public_key=None), STAMP, replace(OFFER, gpu_count=1, region=None, cloud_type="community"))
    body = stub.seen[0][2]
    assert body["gpu"] == {"id": "NVIDIA GeForce RTX 4090", "count": 1}, "without the count no machine matches"
    assert body["cloud"] == "COMMUNITY" and body["env"] == {"PODCYCLE_PORTS": "22/tcp"} and not {"mounts", "dataCenterIds"} & set(body)


@pytest.mark.parametrize("given", [{"env": {"PODCYCLE_PORTS": ""}}, {"secret_env": {"PODCYCLE_PORTS": "8888/http"}}])
def test_ports_that_the_environment_names_itself_are_told_as_it_says(cloud: RunPod, stub: Any, told: Any, make_wish: Callable[..., Any], given: Any) -> None:
    stub.tell(told(201, POD))
    cloud.create(make_wish(ssh_public_key=None, **given), STAMP, OFFER)
    assert stub.seen[0][2]["env"] == next(iter(given.values()))


@pytest.mark.parametrize("number", [47, 48])
def test_ports_take_no_room_from_what_is_asked_for(rehearsal: Any, make_engine: Any, make_wish: Callable[..., Any], number: int) -> None:
    """The pod's SSH key takes two of the 50."""
    engine = make_engine()
    (slot,) = engine.rent(make_wish(env={f"A{place}": "1" for place in range(number)}), check_mode=False)
    assert slot.error is None
    env = engine.cloud._http.get(f"/pods/{slot.after.id}").body["env"]
    assert len(env) == 50 and ("PODCYCLE_PORTS" in env) is (number == 47)


def test_a_create_from_a_template_leaves_to_it_what_it_brings(cloud: RunPod, stub: Any, told: Any, make_wish: Callable[..., Any]) -> None:
    options = {"cloud_type": "secure", "template": "tpl123", "network_volume": "vol9", "registry": "reg1", "secrets": {"HF_TOKEN": "hf"}, "preset_env": True}
    stub.tell(told(201, POD))
    cloud.create(make_wish(image="", ssh_public_key=None, env={"A": 'two\nlines "quoted"'}, options=options), STAMP, OFFER)
    body = stub.seen[0][2]
    assert body["templateId"] == "tpl123" and "image" not in body and body["registry"] == "reg1" and "args" not in body
    assert body["mounts"] == {"network": [{"volumeId": "vol9", "path": "/workspace"}]}
    assert body["env"]["HF_TOKEN"] == "{{ RUNPOD_SECRET_hf }}" and body["env"]["A"] == 'two\nlines "quoted"' and body["env"]["START_SSHD"] == "1"


@pytest.mark.parametrize("own", [True, False])
def test_a_start_command_runs_beside_what_starts_ssh(tmp_path: Path, own: bool) -> None:
    """The line as a container would run it: each word arrives whole, and the image's /start.sh, or else an SSH server, goes on."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sshd", "ssh-keygen", "sleep"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/services\n')
        (tools / name).chmod(0o755)
    start = tmp_path / "start.sh"
    if own:
        start.write_text(f"#!/bin/sh\necho its services >>{tmp_path}/services\n")
        start.chmod(0o755)
    line = start_line(["sh", "-c", f'printf "%s|" "$@" >{tmp_path}/said', "-", "a b", "c'd", 'e"f', "g$h"], install_sshd=True)
    line = line.replace("/start.sh", str(start)).replace("/usr/sbin/sshd", "sshd").replace("/run/sshd", str(tmp_path / "run"))
    home = {"HOME": str(tmp_path), "PATH": f"{tools}:/usr/bin:/bin", "PUBLIC_KEY": "ssh-ed25519 AAAA me"}
    subprocess.run(shlex.split(line), env=home, check=True, timeout=10)
    end = time.monotonic() + 5
    # The shell makes the file before printf fills it.
    while not ((tmp_path / "said").exists() and (tmp_path / "said").read_text()) and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / "said").read_text() == "a b|c'd|e\"f|g$h|"
    assert (tmp_path / "services").read_text().splitlines() == (["its services"] if own else ["ssh-keygen -A", "sshd ", "sleep infinity"])
    assert own or (tmp_path / ".ssh/authorized_keys").read_text() == "ssh-ed25519 AAAA me\n"


def test_an_image_that_brings_its_ssh_server_starts_as_it_likes() -> None:
    assert start_line([], install_sshd=False) == "" and "openssh-server" not in start_line(["true"], install_sshd=False)


LOG = b'''id: 1

data: {"source": "system", "line": "create container \\u001b[31mruntime", "ts": "2026-11-01T10:00:00.5Z"}

: still there
data: no json
data: {"source": "system", "line": "image pull failed: not found", "ts": null}
'''


def test_logs_are_read_until_they_fall_silent(cloud: RunPod, stub: Any, told: Any) -> None:
    stub.tell(told(200, LOG, content_type="text/event-stream"))
    assert cloud.logs("p1", source="system", tail=9) == ("2026-11-01T10:00:00Z create container  [31mruntime", "image pull failed: not found")
    assert stub.calls == [("GET", "/v2/pods/p1/logs?source=system&tail=9")] and stub.headers[-1]["accept"] == "text/event-stream"
    stub.tell(told(200, LOG, content_type="text/event-stream", headers={"Content-Length": "99999"}, cut=len(LOG)))
    assert len(cloud.logs("p1", source="system", tail=1)) == 1, "no more than was asked for"
    stub.tell(told(200, LOG, silent=True, before=lambda: time.sleep(0.4)))
    assert cloud.logs("p1", source="container", tail=9, seconds=0.2) == (), "headers come with the first line"
    stub.tell(told(404, {"title": "Not Found", "detail": "pod not found"}, content_type="application/problem+json"))
    with pytest.raises(errors.NotFound, match="pod not found"):
        cloud.logs("p1", source="system", tail=9)


@pytest.mark.parametrize(
    ("status", "detail", "kind", "effect"),
    [
        (400, CAPACITY, errors.NoCapacity, "none"),
        (400, "There are no longer any instances available with enough disk space.", errors.NoCapacity, "none"),
        (400, "This machine does not have the resources to deploy your pod. Please try a different machine", errors.NoCapacity, "none"),
        (400, "A pod can have at most 50 environment variables.", errors.InvalidRequest, "none"),
        (402, "Your account balance is too low", errors.PaymentRequired, "none"),
        (403, "The API key does not have access", errors.Forbidden, "none"),
        (422, CAPACITY, errors.InvalidRequest, "none"),
        (500, CAPACITY, errors.ServerError, "unknown"),
        (201, None, errors.SchemaError, "unknown"),
    ],
)
def test_what_a_create_may_answer(
    cloud: RunPod, stub: Any, told: Any, make_wish: Callable[..., Any], status: int, detail: str | None, kind: type, effect: str
) -> None:
    stub.tell(told(status, {"title": "Answer", "status": status, "detail": detail}, content_type="application/problem+json"))
    with pytest.raises(errors.CloudError) as caught:
        cloud.create(make_wish(), STAMP, OFFER)
    assert caught.value.__class__ is kind and caught.value.effect == effect and len(stub.seen) == 1


def test_list_follows_its_pages(cloud: RunPod, stub: Any, told: Any) -> None:
    stub.tell(
        told(200, {"pods": [POD], "pagination": {"hasNextPage": True, "nextCursor": "c 1"}}),
        told(200, {"pods": [{**POD, "id": "second"}, POD], "pagination": {"hasNextPage": False, "nextCursor": "c 2"}}),
    )
    assert [pod.id for pod in cloud.list()] == ["p4x8demo1q", "second"]
    assert stub.calls == [("GET", "/v2/pods?limit=1000"), ("GET", "/v2/pods?limit=1000&cursor=c+1")]


@pytest.mark.parametrize(
    "body",
    [
        None, [], {}, {"pods": None}, {"pods": {}}, {"pods": ["x"]}, {"pods": [], "pagination": "x"}, {"pods": [], "pagination": [1]},
        {"pods": [], "pagination": {"hasNextPage": True}}, {"pods": [POD], "pagination": {"hasNextPage": True, "nextCursor": "same"}}, {"data": []},
    ],
)  # fmt: skip
def test_a_strange_listing_is_not_an_empty_one(cloud: RunPod, stub: Any, told: Any, body: Any) -> None:
    stub.tell(told(200, body))
    with pytest.raises(errors.SchemaError):
        cloud.list()


def test_get_stop_start_and_terminate_are_one_call_each(cloud: RunPod, stub: Any, told: Any) -> None:
    stub.tell(told(200, POD), told(200, POD), told(200, POD), told(204))
    cloud.get("p4x8demo1q")
    cloud.stop("p4x8demo1q")
    cloud.start("p4x8demo1q")
    cloud.terminate("p4x8demo1q")
    assert stub.seen == [
        ("GET", "/v2/pods/p4x8demo1q", None),
        ("POST", "/v2/pods/p4x8demo1q/action", {"action": "stop"}),
        ("POST", "/v2/pods/p4x8demo1q/action", {"action": "start"}),
        ("DELETE", "/v2/pods/p4x8demo1q", None),
    ]


def test_a_full_host_at_start_is_want_of_capacity(cloud: RunPod, stub: Any, told: Any) -> None:
    stub.tell(told(400, {"title": "Bad Request", "detail": "There are not enough free GPUs on the host machine to start this pod."}))
    with pytest.raises(errors.NoCapacity, match="no free GPU"):
        cloud.start("p4x8demo1q")


@pytest.mark.parametrize("pod_id", ["../pods", "a/b", "", "a?b=1", "x\n", "é"])
def test_an_id_that_is_none_is_never_sent(cloud: RunPod, stub: Any, pod_id: str) -> None:
    for act in (cloud.get, cloud.stop, cloud.start, cloud.terminate):
        with pytest.raises(errors.UsageError):
            act(pod_id)
    assert stub.seen == []


# ---- reading ugly pods --------------------------------------------------------------------------


def test_a_pod_is_read_whole() -> None:
    pod = read_pod(POD)
    assert pod.to_dict() == {
        "cloud": "runpod", "id": "p4x8demo1q", "name": str(STAMP), "state": "running", "provider_status": "RUNNING", "gpu": "NVIDIA GeForce RTX 4090",
        "gpu_count": 2, "usd_per_hour": "1.1800", "usd_per_hour_sort": 1.18, "region": "EU-RO-1", "cloud_type": "secure", "image": "runpod/base:1",
        "disk_gib": 20, "volume_gib": 30, "ports": ["22/tcp", "8888/http"], "created_at": "2026-11-01T10:00:00Z", "started_at": "2026-11-01T10:00:41Z",
        "endpoint": {"host": "203.0.113.7", "port": 10341, "user": "root", "via": "direct"}, "gateway": None, "ssh_via": "direct",
        "spot": False, "run_id": "r1", "index": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PROVISIONING", "starting"), ("STARTING", "starting"), ("RUNNING", "running"), ("EXITED", "stopped"), ("ERROR", "failed"), ("TERMINATED", "gone"),
        ("HIBERNATING", "unknown"), ("running", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_a_status_that_is_not_known_stays_unknown(status: str, state: str) -> None:
    assert read_pod({**POD, "status": status}).state == state


@pytest.mark.parametrize(
    ("change", "endpoint"),
    [
        ({"runtime": None, "ssh": None}, None),
        ({"runtime": {}, "ssh": {}}, None),
        ({"ssh": None}, ("203.0.113.7", 10341)),
        ({"ssh": {"direct": {"host": "100.65.11.7", "port": 22}}}, ("203.0.113.7", 10341)),
        ({"ssh": None, "runtime": {"ports": [{"private": 22, "public": 5, "type": "tcp", "ip": "100.64.0.1"}]}}, None),
        ({"ssh": None, "runtime": {"ports": [{"private": 22, "public": None, "type": "tcp", "ip": "203.0.113.7"}]}}, None),
        ({"ssh": None, "runtime": {"ports": [{"private": 22, "public": 9, "type": "http", "ip": "203.0.113.7"}, "x", None]}}, None),
        ({"ssh": None, "runtime": {"ports": 5}}, None),
        ({"status": "EXITED"}, None),
        ({"status": "STARTING"}, None),
        ({"ssh": {"direct": {"host": "-oProxyCommand=x", "port": 22}}, "runtime": None}, None),
        ({"ssh": {"direct": {"host": "{{ lookup('pipe', 'id') }}", "port": 22}}, "runtime": None}, None),
        ({"ssh": {"direct": {"host": "fe80::1%{{ 1 }}", "port": 22}}, "runtime": None}, None),
        ({"ssh": {"direct": {"host": "pod.example", "port": "22 -oX=y"}}, "runtime": None}, None),
        ({"ssh": {"direct": {"host": "2001:db8::7", "port": "65535"}}, "runtime": None}, ("2001:db8::7", 65535)),
        ({"ssh": {"direct": {"host": "pod.example", "port": 22}}, "runtime": None}, ("pod.example", 22)),
    ],
)
def test_only_an_address_that_can_be_trusted_is_an_endpoint(change: dict[str, Any], endpoint: tuple[str, int] | None) -> None:
    found = read_pod({**POD, **change}).endpoint
    assert (found and (found.host, found.port)) == endpoint


@pytest.mark.parametrize("port", [0, 65536, -1, True, None, 22.5, "", "²", "9" * 5000, [], {}])
def test_a_port_is_a_number_from_1_to_65535(port: object) -> None:
    for host in ("203.0.113.7", "pod.example"):
        assert model.Endpoint.parse(host, port) is None


@pytest.mark.parametrize(
    "host", [None, 7, "", "a b", "a\nb", "-x", "a..b", "::1%eth0", "x" * 254, "ex;ample", "$(id)", "a/b", "user@host", "[::1]", "é.example", "pod.example\n"]
)
def test_a_host_is_an_address_or_a_hostname(host: object) -> None:
    assert model.Endpoint.parse(host, 22) is None


@pytest.mark.parametrize(("cost", "price"), [(0.74, "0.74"), ("0.74", "0.74"), (None, None), (0, "0")])
def test_a_price_comes_as_number_or_text_or_not_at_all(cost: object, price: str | None) -> None:
    assert read_pod({**POD, "cost": cost}).usd_per_hour == (None if price is None else Decimal(price))


@pytest.mark.parametrize("cost", ["free", -1, True, [], {}, float("nan"), "Infinity", 1e9])
def test_a_price_that_is_none_is_not_guessed(cost: object) -> None:
    with pytest.raises(errors.SchemaError, match="price"):
        read_pod({**POD, "cost": cost})


@pytest.mark.parametrize(
    "body",
    [
        None, [], "x", {}, {**POD, "id": None}, {**POD, "id": "../x"}, {**POD, "id": "a b"}, {**POD, "id": "x" * 81}, {**POD, "id": 7}, {**POD, "id": "a\n"},
        {**POD, "name": None}, {**POD, "status": 3}, {key: value for key, value in POD.items() if key != "status"},
    ],
)  # fmt: skip
def test_a_pod_without_what_a_pod_must_have_is_a_schema_error(body: object) -> None:
    with pytest.raises(errors.SchemaError):
        read_pod(body)


def test_the_rest_may_be_missing_or_nonsense() -> None:
    bare = read_pod({"id": "p1", "name": "n", "status": "RUNNING"})
    assert bare.endpoint is None and bare.gpu is None and bare.usd_per_hour is None and bare.ports == ()
    odd = {
        "image": 5, "disk": "20", "ports": 7, "mounts": [], "gpu": "x", "ssh": 1, "runtime": "x", "dataCenterId": {}, "cloud": None, "createdAt": 5,
        "startedAt": "0001-01-01T00:00:00+14:00",
    }  # fmt: skip
    pod = read_pod({**POD, **odd})
    assert (pod.image, pod.disk_gib, pod.gpu_count, pod.region, pod.created_at) == (None, None, 0, None, None)
    pod.to_dict()


def test_text_of_a_stranger_is_one_printable_line() -> None:
    pod = read_pod({**POD, "name": "evil\x1b[2J\nname\u2028x" + "y" * 300, "image": "a\x00b", "status": "RUNNING\x1b]0;x\x07"})
    assert all(text.isprintable() for text in (pod.name, str(pod.image), pod.provider_status))
    assert len(pod.name) == 191 and pod.stamp is None and pod.state == "unknown"


@pytest.mark.parametrize("row", [{"memory": "lots"}, {"memory": None}, {"memory": []}, {"maxCount": "8"}, {"name": None}, {"name": 5}, {"availability": 3}])
def test_an_odd_catalog_row_does_not_break_the_catalog(cloud: RunPod, stub: Any, told: Any, row: dict[str, Any]) -> None:
    stub.tell(told(200, {"gpus": [{"id": "A", "name": "a", "memory": 24, "secure": True, "price": {"secure": 1}, **row}, {"id": None}, {}]}))
    assert [gpu.id for gpu in cloud.gpu_types()] == ["A"]
    assert [offer.gpu for offer in cloud.offers(1, spot=False, options={})] == ["A"]


# ---- GPU names ------------------------------------------------------------------------------------

TYPES = [
    GpuType("NVIDIA GeForce RTX 4090", "RTX 4090", 24), GpuType("NVIDIA  RTX A4500", "RTX A4500", 20), GpuType("NVIDIA H100 80GB HBM3", "H100 SXM", 80),
    GpuType("NVIDIA H100 PCIe", "H100 PCIe", 80), GpuType("NVIDIA L4", "L4", 24), GpuType("NVIDIA L40", "L40", 48), GpuType("NVIDIA L40S", "L40S", 48),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "gpu_id"),
    [
        ("RTX 4090", "NVIDIA GeForce RTX 4090"), ("nvidia geforce rtx 4090", "NVIDIA GeForce RTX 4090"), (" 4090 ", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA  RTX A4500", "NVIDIA  RTX A4500"), ("NVIDIA RTX A4500", "NVIDIA  RTX A4500"), ("rtx a4500", "NVIDIA  RTX A4500"),
        ("H100 SXM", "NVIDIA H100 80GB HBM3"), ("L4", "NVIDIA L4"), ("l40", "NVIDIA L40"), ("L40S", "NVIDIA L40S"),
    ],
)  # fmt: skip
def test_a_gpu_has_several_names(wanted: str, gpu_id: str) -> None:
    assert resolve_gpus([wanted], TYPES, "runpod") == (gpu_id,)


def test_an_ambiguous_gpu_lists_what_it_may_be() -> None:
    with pytest.raises(errors.UsageError, match=r"ambiguous on runpod; it may be: H100 SXM, H100 PCIe"):
        resolve_gpus(["H100"], TYPES, "runpod")


@pytest.mark.parametrize(("wanted", "near"), [("RTX 4900", "RTX 4090"), ("H10O PCIe", "H100 PCIe"), ("NVIDIA RTX 4090", "RTX 4090"), ("", "offers.yml")])
def test_an_unknown_gpu_lists_the_nearest(wanted: str, near: str) -> None:
    with pytest.raises(errors.UsageError, match="not known on runpod") as caught:
        resolve_gpus([wanted], TYPES, "runpod")
    assert near in str(caught.value)


# ---- opening the driver -----------------------------------------------------------------------------


def test_the_endpoint_comes_from_the_option_then_the_environment(tmp_path: Path) -> None:
    environ = {"RUNPOD_REST_V2_URL": "http://127.0.0.1:9/v2/", "RUNPOD_API_KEY": "rpa_x"}
    assert make_cloud("runpod", {}, environ, tmp_path).endpoint == "http://127.0.0.1:9/v2"
    assert make_cloud("runpod", {"endpoint": "https://a.example/v2"}, environ, tmp_path).endpoint == "https://a.example/v2"
    assert make_cloud("runpod", {}, {"RUNPOD_API_KEY": "rpa_x"}, tmp_path).endpoint == "https://api.runpod.io/v2"


@pytest.mark.parametrize(
    "endpoint", ["http://api.runpod.io/v2", "ftp://127.0.0.1/", "api.runpod.io", "https://a.example/v2?x=1", "http://127.0.0.1.evil.example/v2"]
)
def test_a_key_is_never_sent_in_the_clear_or_to_nonsense(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError):
        make_cloud("runpod", {"endpoint": endpoint, "api_key": "rpa_x"}, {}, tmp_path)


def test_an_unknown_cloud_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="one of: runpod"):
        make_cloud("aws", {}, {}, tmp_path)


PROXY = {"host": "ssh.runpod.io", "port": 22, "username": "p4x8demo1q-0a1b2c3d", "command": "ssh anything"}


def test_the_gateway_is_read_and_never_taken_for_the_pods_own_address() -> None:
    pod = read_pod({**POD, "ssh": {"proxy": PROXY, "direct": None}, "runtime": None})
    assert pod.endpoint is None and pod.to_dict()["ssh_via"] is None
    assert pod.gateway is not None and pod.gateway.to_dict() == {"host": "ssh.runpod.io", "port": 22, "user": "p4x8demo1q-0a1b2c3d", "via": "gateway"}
    assert pod.reached("gateway").to_dict()["ssh_via"] == "gateway" and pod.reached("direct").endpoint is None
    assert read_pod({**POD, "status": "EXITED", "ssh": {"proxy": PROXY, "direct": None}}).gateway is None
    for wrong in ({"username": "-oProxyCommand=x"}, {"username": "a b"}, {"username": None}, {"host": "a b"}, {"port": 0}, {"username": "x{{ 1 }}"}):
        assert read_pod({**POD, "ssh": {"proxy": {**PROXY, **wrong}}, "runtime": None}).gateway is None
