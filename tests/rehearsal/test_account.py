# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates, network volumes, registry credentials, SSH keys and changes of pods, as REST v2 has them."""

from __future__ import annotations

from typing import Any

import pytest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQZ me@example.com"
TEMPLATE = {"name": "mine", "image": "runpod/base:1", "disk": 30, "ports": ["22/tcp"], "env": {"A": "1", "B": "1"}}
NETWORK = {"network": [{"volumeId": "nosuch", "path": "/workspace"}]}
PERSISTENT = {"persistent": {"size": 10, "path": "/workspace"}}


def made(cloud: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = cloud.call("POST", path, body)
    assert answer.status == 201, answer.text
    found: dict[str, Any] = answer.json
    return found


def volume(cloud: Any, **changes: Any) -> dict[str, Any]:
    return made(cloud, "/v2/network-volumes", {"name": "data", "size": 20, "dataCenter": "EU-RO-1", **changes})


# ---- templates ---------------------------------------------------------------------------


def test_a_template_has_the_documented_defaults_and_changes_by_field(cloud: Any) -> None:
    one = made(cloud, "/v2/templates", {"name": "plain", "image": "ubuntu:24.04"})
    assert (one["category"], one["public"], one["serverless"], one["startSsh"], one["startJupyter"]) == ("NVIDIA", False, False, True, True)
    path = f"/v2/templates/{one['id']}"
    changed = cloud.call("PATCH", path, {"env": {"A": "1"}, "mounts": PERSISTENT, "allowedCudaVersions": ["12.8"]}).json
    assert changed == {**one, "env": {"A": "1"}, "mounts": PERSISTENT, "allowedCudaVersions": ["12.8"]}
    assert cloud.call("PATCH", path, {"mounts": {}, "allowedCudaVersions": []}).json == {**changed, "allowedCudaVersions": []}
    assert cloud.call("GET", path).json["mounts"] == PERSISTENT
    assert [row["id"] for row in cloud.call("GET", "/v2/templates").json["templates"]] == [one["id"]]
    assert cloud.call("DELETE", path).status == 204 and cloud.call("GET", path).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "image": "x"}, {"name": "x"}, {**TEMPLATE, "readme": "#"}, {**TEMPLATE, "mounts": NETWORK}, {**TEMPLATE, "category": "TPU"},
        {**TEMPLATE, "mounts": {"persistent": {"size": 9, "path": "/w"}}}, {**TEMPLATE, "allowedCudaVersions": ["13"]}, {**TEMPLATE, "env": {"A": 1}},
    ],
)  # fmt: skip
def test_a_template_that_breaks_the_schema(cloud: Any, body: dict[str, Any]) -> None:
    assert cloud.call("POST", "/v2/templates", body).status == 422
    assert cloud.call("GET", "/v2/templates").json["templates"] == []


def test_public_templates_are_read_and_no_more(cloud: Any) -> None:
    rows = {source: cloud.call("GET", f"/v2/catalog/templates?source={source}").json["templates"] for source in ("official", "verified", "community")}
    assert cloud.call("GET", "/v2/catalog/templates").json["templates"] == rows["official"] and all(rows.values())
    assert {row["serverless"] for row in rows["official"]} == {True, False}
    path = f"/v2/templates/{rows['official'][0]['id']}"
    assert cloud.call("GET", path).status == 200
    assert cloud.call("PATCH", path, {"name": "x"}).status == 404 and cloud.call("DELETE", path).status == 404
    assert cloud.call("GET", "/v2/catalog/templates?source=mine").status == 422
    shared = made(cloud, "/v2/templates", {**TEMPLATE, "public": True})
    assert shared["id"] in [row["id"] for row in cloud.call("GET", "/v2/catalog/templates?source=community").json["templates"]]


def test_a_pod_copies_its_template_and_keeps_no_link(cloud: Any) -> None:
    one = made(cloud, "/v2/templates", {**TEMPLATE, "mounts": PERSISTENT, "allowedCudaVersions": ["13.0"]})
    body = {"name": "from-template", "templateId": one["id"], "gpu": cloud.body()["gpu"], "env": {"B": "2", "C": "3"}}
    pod = made(cloud, "/v2/pods", body)
    assert pod["env"] == {"A": "1", "B": "2", "C": "3"}, "merged by key, the body wins"
    assert (pod["image"], pod["disk"], pod["ports"], pod["mounts"], pod["template"]) == ("runpod/base:1", 30, ["22/tcp"], PERSISTENT, None)
    assert cloud.call("PATCH", f"/v2/templates/{one['id']}", {"image": "other"}).status == 200
    assert cloud.get(pod["id"])["image"] == "runpod/base:1"
    assert cloud.call("DELETE", f"/v2/templates/{one['id']}").status == 204, "nothing refers to it"


def test_templates_that_no_pod_can_have(cloud: Any) -> None:
    gpu = cloud.body()["gpu"]
    serverless = made(cloud, "/v2/templates", {**TEMPLATE, "serverless": True})
    old = made(cloud, "/v2/templates", {**TEMPLATE, "allowedCudaVersions": ["11.8"]})
    answers = [cloud.call("POST", "/v2/pods", {"name": "x", "gpu": gpu, "templateId": one}) for one in ("nosuch", serverless["id"], old["id"])]
    assert [answer.status for answer in answers] == [404, 422, 400]
    free = {"name": "x", "gpu": {**gpu, "minCudaVersion": "12.8"}, "templateId": old["id"]}
    assert cloud.call("POST", "/v2/pods", free).status == 201, "the body's CUDA wish replaces the template's"


# ---- network volumes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"size": 9}, 422), ({"size": 4097}, 422), ({"name": ""}, 422), ({"kind": "x"}, 422), ({"type": "FAST"}, 422), ({"dataCenter": "XX-1"}, 400),
     ({"dataCenter": "OC-AU-1"}, 400), ({"type": "HIGH_PERFORMANCE"}, 400)],
)  # fmt: skip
def test_a_volume_that_cannot_be(cloud: Any, changes: dict[str, Any], status: int) -> None:
    answer = cloud.call("POST", "/v2/network-volumes", {"name": "data", "size": 20, "dataCenter": "EU-RO-1", **changes})
    assert answer.status == status, answer.text
    assert cloud.call("GET", "/v2/network-volumes").json == {"networkVolumes": []}


def test_a_volume_grows_and_never_shrinks(cloud: Any) -> None:
    one = volume(cloud)
    path = f"/v2/network-volumes/{one['id']}"
    assert one == {"id": one["id"], "name": "data", "size": 20, "dataCenter": "EU-RO-1", "type": "STANDARD"}
    assert cloud.call("PATCH", path, {"size": 30, "name": "more"}).json == {**one, "size": 30, "name": "more"}
    assert cloud.call("PATCH", path, {"size": 20}).status == 400
    assert cloud.call("PATCH", path, {}).status == 422 and cloud.call("PATCH", path, {"dataCenter": "US-KS-2"}).status == 422
    assert cloud.call("DELETE", path).status == 204 and cloud.call("DELETE", path).status == 404


def test_a_volume_binds_its_pod_to_its_data_center_and_outlives_it(cloud: Any) -> None:
    one = volume(cloud, dataCenter="EU-CZ-1")
    cloud.control("POST", "/market", {"gpu": "NVIDIA GeForce RTX 4090", "stock": 4})
    mount = {"mounts": {"network": [{"volumeId": one["id"], "path": "/workspace"}]}}
    assert cloud.call("POST", "/v2/pods", cloud.body(mounts=NETWORK)).status == 404
    elsewhere = cloud.call("POST", "/v2/pods", cloud.body(**mount, dataCenterIds=["EU-RO-1"]))
    assert elsewhere.status == 400 and elsewhere.json["detail"].startswith("There are no longer any instances")
    assert cloud.call("POST", "/v2/pods", cloud.body(**mount, cloud="COMMUNITY")).status == 400
    pod = cloud.create(**mount)
    assert cloud.ssh(cloud.reachable(pod["id"]), "echo kept > /proc/self/cwd/../workspace/note").returncode == 0
    assert cloud.get(pod["id"])["dataCenterId"] == "EU-CZ-1"
    refused = cloud.call("DELETE", f"/v2/network-volumes/{one['id']}")
    assert refused.status == 400 and "from all pods" in refused.json["detail"]
    cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    second = cloud.create("second", **mount)
    assert cloud.ssh(cloud.reachable(second["id"]), "cat ../workspace/note; tr '\\0' '\\n' < /proc/1/environ").stdout.startswith("kept\n")
    cloud.call("DELETE", f"/v2/pods/{second['id']}")
    assert cloud.call("DELETE", f"/v2/network-volumes/{one['id']}").status == 204


def test_a_volume_is_mounted_without_namespaces_too(own_cloud: Any) -> None:
    own_cloud.start("--isolation", "convention")
    own_cloud.control("POST", "/time_scale", {"scale": 10})
    one = volume(own_cloud)
    mount = {"mounts": {"network": [{"volumeId": one["id"], "path": "/workspace"}]}}
    pods = [own_cloud.create(name, **mount)["id"] for name in ("one", "two")]
    assert own_cloud.ssh(own_cloud.reachable(pods[0]), "echo kept > ../workspace/note").returncode == 0
    assert own_cloud.ssh(own_cloud.reachable(pods[1]), "cat ../workspace/note").stdout == "kept\n", "both see it at once"
    own_cloud.call("POST", f"/v2/pods/{pods[1]}/action", {"action": "stop"})
    own_cloud.call("POST", f"/v2/pods/{pods[1]}/action", {"action": "start"})
    own_cloud.call("DELETE", f"/v2/pods/{pods[0]}")
    assert own_cloud.ssh(own_cloud.reachable(pods[1]), "cat ../workspace/note").stdout == "kept\n"


def test_a_volume_bills_from_its_creation_until_it_is_deleted(cloud: Any) -> None:
    one = volume(cloud, size=730)
    cloud.call("PATCH", f"/v2/network-volumes/{one['id']}", {"size": 1460})
    meter = cloud.control("GET", "/meter")
    assert meter["open"] == [one["id"]] and meter["volumes"][one["id"]]["rate_usd_per_hour"] == "0.14000000" and meter["pods"] == {}
    assert cloud.call("GET", "/v2/billing/pods").json["records"] == [], "a bill of pods has no volumes"
    cloud.call("DELETE", f"/v2/network-volumes/{one['id']}")
    meter = cloud.control("GET", "/meter")
    assert meter["open"] == [] and float(meter["volumes"][one["id"]]["usd"]) > 0 and meter["volumes"][one["id"]]["rate_usd_per_hour"] == "0"


@pytest.mark.parametrize(
    ("mounts", "status"),
    [({**PERSISTENT, **NETWORK}, 400), ({"network": []}, 400), ({"network": [{"volumeId": "v"}]}, 422), ({"network": [{"path": "/w"}]}, 422),
     ({"network": [NETWORK["network"][0]] * 2}, 422), ({"network": [{**NETWORK["network"][0], "size": 1}]}, 422)],
)  # fmt: skip
def test_mounts_that_cannot_be(cloud: Any, mounts: dict[str, Any], status: int) -> None:
    assert cloud.call("POST", "/v2/pods", cloud.body(mounts=mounts)).status == status


# ---- registries and SSH keys ------------------------------------------------------------------


def test_registry_credentials_are_never_shown(cloud: Any) -> None:
    body = {"name": "hub", "username": "me", "password": "hush-hush"}
    one = made(cloud, "/v2/registries", body)
    assert one == {"id": one["id"], "name": "hub"}
    assert cloud.call("GET", "/v2/registries").json == {"registries": [one]} and cloud.call("GET", f"/v2/registries/{one['id']}").json == one
    assert cloud.call("POST", "/v2/registries", body).status == 400, "names are unique"
    assert cloud.call("PATCH", f"/v2/registries/{one['id']}", {"password": "other"}).status == 405
    assert "hush-hush" not in str(cloud.control("GET", "/requests"))


def test_a_credential_in_use_stays_and_a_template_loses_it(cloud: Any) -> None:
    one = made(cloud, "/v2/registries", {"name": "hub", "username": "me", "password": "hush-hush"})
    template = made(cloud, "/v2/templates", {**TEMPLATE, "registry": one["id"]})
    pod = cloud.create(registry=one["id"])
    assert cloud.call("DELETE", f"/v2/registries/{one['id']}").status == 400
    cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    assert cloud.call("DELETE", f"/v2/registries/{one['id']}").status == 204
    assert cloud.call("GET", f"/v2/templates/{template['id']}").json["registry"] is None
    assert cloud.call("POST", "/v2/templates", {**TEMPLATE, "registry": one["id"]}).status == 400


def test_a_put_of_ssh_keys_replaces_them_all(cloud: Any) -> None:
    other = KEY.replace("ILXGDN", "ILXGDO")
    assert cloud.call("GET", "/v2/account/ssh-keys").json == {"keys": []}
    assert cloud.call("PUT", "/v2/account/ssh-keys", {"keys": [KEY]}).json == {"keys": [KEY]}
    assert cloud.call("PUT", "/v2/account/ssh-keys", {"keys": [other]}).json == {"keys": [other]}
    for wrong in ({"keys": "x"}, {"keys": ["no key"]}, {"keys": [KEY + "\n"]}, {}, {"keys": [], "more": 1}):
        assert cloud.call("PUT", "/v2/account/ssh-keys", wrong).status == 422, wrong
    assert cloud.call("PUT", "/v2/account/ssh-keys", {"keys": [KEY]}, key="rpa_rehearsal_readonly").status == 403
    assert cloud.call("GET", "/v2/account/ssh-keys").json == {"keys": [other]}


def test_start_ssh_brings_the_accounts_keys_at_container_start(cloud: Any) -> None:
    mine = cloud.key_file.with_suffix(".pub").read_text(encoding="ascii").strip()
    early = cloud.create("early", env={}, startSsh=True)
    cloud.running(early["id"])
    cloud.call("PUT", "/v2/account/ssh-keys", {"keys": [mine]})
    late, without = cloud.create("late", env={}, startSsh=True), cloud.create("without", env={})
    assert cloud.reachable(late["id"]) and late["env"] == {}, "the key is never echoed"
    assert cloud.control("GET", f"/pods/{early['id']}")["sshd"] is False and cloud.get(early["id"])["ssh"]["direct"], "listed, and nobody answers"
    assert cloud.running(without["id"]) and cloud.control("GET", f"/pods/{without['id']}")["sshd"] is False
    cloud.call("POST", f"/v2/pods/{early['id']}/action", {"action": "restart"})
    assert cloud.reachable(early["id"])


# ---- changing pods ----------------------------------------------------------------------------


def test_name_and_lock_change_at_once(cloud: Any) -> None:
    pod = cloud.create()
    cloud.running(pod["id"])
    path = f"/v2/pods/{pod['id']}"
    answer = cloud.call("PATCH", path, {"name": "renamed", "locked": True}).json
    assert (answer["name"], answer["locked"], answer["status"]) == ("renamed", True, "RUNNING")
    acts = [("POST", "/action", {"action": action}) for action in ("stop", "restart", "terminate")]
    for method, where, body in (("PATCH", "", {"image": "x"}), *acts, ("DELETE", "", None)):
        assert cloud.call(method, path + where, body).status == 409, (method, body)
    assert cloud.call("PATCH", path, {"locked": False}).json["locked"] is False
    assert cloud.call("DELETE", path).status == 204


def test_everything_else_resets_the_container(cloud: Any) -> None:
    pod = cloud.create(mounts=PERSISTENT)
    port = cloud.reachable(pod["id"])
    cloud.ssh(port, "touch lost; touch ../workspace/kept")
    path = f"/v2/pods/{pod['id']}"
    same = cloud.call("PATCH", path, {"env": pod["env"]})
    assert same.json["status"] == "STARTING", "also when nothing differs"
    assert cloud.ssh(cloud.reachable(pod["id"]), "ls; ls ../workspace").stdout.split() == ["kept"]
    one = made(cloud, "/v2/templates", {**TEMPLATE, "mounts": {"persistent": {"size": 99, "path": "/other"}}})
    taken = cloud.call("PATCH", path, {"templateId": one["id"], "env": {"B": "2"}}).json
    assert (taken["env"], taken["disk"], taken["mounts"], taken["template"]) == ({"A": "1", "B": "2"}, 30, PERSISTENT, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"mounts": NETWORK}, 400), ({"mounts": {"network": []}}, 400), ({"mounts": {**PERSISTENT, **NETWORK}}, 400),
        ({"mounts": {"persistent": {"size": 20}}}, 422),
        ({"mounts": {"persistent": {"size": 12, "path": "/workspace"}}}, 400), ({"gpu": {}}, 422), ({"startSsh": True}, 422), ({"templateId": "nosuch"}, 404),
        ({"name": ""}, 422), ({"mounts": {"persistent": {"size": 20, "path": "/data"}}}, 200), ({"mounts": {}}, 200),
    ],
)  # fmt: skip
def test_what_a_change_may_be(cloud: Any, body: dict[str, Any], status: int) -> None:
    pod = cloud.create(mounts={"persistent": {"size": 15, "path": "/workspace"}})
    answer = cloud.call("PATCH", f"/v2/pods/{pod['id']}", body)
    assert answer.status == status, answer.text


def test_belongings_survive_the_server_and_not_a_reset(own_cloud: Any) -> None:
    own_cloud.start()
    one, keys = volume(own_cloud), {"keys": [KEY]}
    own_cloud.call("PUT", "/v2/account/ssh-keys", keys)
    own_cloud.stop("--keep-pods")
    own_cloud.start()
    assert own_cloud.call("GET", "/v2/network-volumes").json == {"networkVolumes": [one]} and own_cloud.call("GET", "/v2/account/ssh-keys").json == keys
    own_cloud.control("POST", "/reset")
    assert own_cloud.call("GET", "/v2/network-volumes").json == {"networkVolumes": []} and own_cloud.call("GET", "/v2/account/ssh-keys").json == {"keys": []}
