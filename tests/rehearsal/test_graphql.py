# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GraphQL API: its ways to refuse, the market, spot pods, and the same world as over REST v2."""

from __future__ import annotations

from typing import Any

import pytest

GPU = "NVIDIA GeForce RTX 4090"
RENT = "mutation($i: PodRentInterruptableInput!) { podRentInterruptable(input: $i) { id costPerHr podType desiredStatus } }"
DEPLOY = "mutation($i: PodFindAndDeployOnDemandInput) { podFindAndDeployOnDemand(input: $i) { id costPerHr env ports templateId } }"
GENERIC = "Something went wrong. Please try again later or contact support."


def ask(cloud: Any, query: str, variables: dict[str, Any] | None = None, key: str | None = "rpa_rehearsal_full", **more: Any) -> Any:
    return cloud.call("POST", "/graphql", {"query": query, "variables": variables}, key=key, **more)


def data(cloud: Any, query: str, variables: dict[str, Any] | None = None) -> Any:
    answer = ask(cloud, query, variables)
    assert answer.status == 200 and "errors" not in answer.json, answer.text
    return answer.json["data"]


def error(cloud: Any, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = ask(cloud, query, variables)
    assert answer.status == 200, answer.text
    (one,) = answer.json["errors"]
    assert list(answer.json["data"].values()) == [None] and one["path"]
    found: dict[str, Any] = one
    return found


def view(cloud: Any, pod_id: str, fields: str) -> Any:
    return data(cloud, "query($id: String!) { pod(input: {podId: $id}) { " + fields + " } }", {"id": pod_id})["pod"]


def wish(**changes: Any) -> dict[str, Any]:
    base = {"name": "g", "gpuTypeId": GPU, "gpuCount": 1, "imageName": "runpod/base:1", "containerDiskInGb": 20, "ports": "22/tcp,8888/http"}
    return {"i": {**base, "cloudType": "SECURE", **changes}}


def test_keys_are_refused_in_three_ways(cloud: Any) -> None:
    assert ask(cloud, "{myself{id}}", key="rpa_wrong").status == 401
    nobody = ask(cloud, "{myself{id} gpuTypes{id}}", key=None)
    assert nobody.status == 200 and nobody.json["data"]["myself"] is None and len(nobody.json["data"]["gpuTypes"]) == 44 and "errors" not in nobody.json
    assert ask(cloud, "{myself{id}}", key="rpa_rehearsal_none").status == 403
    assert ask(cloud, "{myself{id}}", key="rpa_rehearsal_readonly").status == 200
    assert ask(cloud, DEPLOY, wish(), key="rpa_rehearsal_readonly").status == 403
    assert ask(cloud, DEPLOY, wish(), key=None).json["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    inside = cloud.call("POST", "/graphql?api_key=rpa_rehearsal_full&x=1", {"query": "{myself{id}}"}, key=None)
    assert inside.json["data"]["myself"]["id"] and "rpa_rehearsal_full" not in str(cloud.control("GET", "/requests"))


@pytest.mark.parametrize(("kind", "status", "text"), [("401", 401, "Unauthorized"), ("403", 403, "Forbidden"), ("1010", 403, "error code: 1010")])
def test_the_whole_api_may_be_refused(cloud: Any, kind: str, status: int, text: str) -> None:
    cloud.fault("graphql_refused", params={"as": kind})
    answer = ask(cloud, "{myself{id}}")
    assert answer.status == status and text in answer.text
    assert ("json" in answer.headers["content-type"]) is (kind != "1010")
    assert ask(cloud, "{myself{id}}").status == 200


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("{myself{id}", None, "GRAPHQL_PARSE_FAILED"),
        ("{myself{id nosuchfield}}", None, "GRAPHQL_VALIDATION_FAILED"),
        ("{gpuTypes(where: 1){id}}", None, "GRAPHQL_VALIDATION_FAILED"),
        ("mutation{podTerminate(input:{podId:\"x\"}){id}}", None, "GRAPHQL_VALIDATION_FAILED"),
        (DEPLOY, {"i": {"gpuTypes": ["A"]}}, "BAD_USER_INPUT"),
        (RENT, {"i": {"gpuTypeId": GPU}}, "BAD_USER_INPUT"),
    ],
)
def test_what_does_not_fit_the_schema_is_a_400(cloud: Any, query: str, variables: Any, code: str) -> None:
    answer = ask(cloud, query, variables)
    assert answer.status == 400 and answer.json["errors"][0]["extensions"]["code"] == code and answer.json["errors"][0]["message"]


def test_the_market(cloud: Any) -> None:
    price = "minimumBidPrice uninterruptablePrice stockStatus"
    query = "query($i: GpuLowestPriceInput) { gpuTypes { id lowestPrice(input: $i) { " + price + " availableGpuCounts } } }"
    rows = {row["id"]: row for row in data(cloud, query, {"i": {"gpuCount": 2, "secureCloud": True}})["gpuTypes"]}
    assert rows[GPU]["lowestPrice"] == {
        "minimumBidPrice": 0.29, "uninterruptablePrice": 0.59, "stockStatus": "High", "availableGpuCounts": [1, 2, 3, 4, 5, 6, 7, 8],
    }  # fmt: skip
    assert rows["unknown"]["lowestPrice"] is None
    cloud.control("POST", "/market", {"gpu": GPU, "stock": 0})
    cloud.control("POST", "/market", {"gpu": GPU, "stock": 1, "data_center": "US-KS-2", "cloud": "COMMUNITY"})
    one = data(cloud, f'{{ gpuTypes(input: {{id: "{GPU}"}}) {{ lowestPrice(input: {{gpuCount: 1}}) {{ {price} }} }} }}')["gpuTypes"]
    assert one == [{"lowestPrice": {"minimumBidPrice": 0.2, "uninterruptablePrice": 0.34, "stockStatus": "Low"}}]
    none = data(cloud, f'{{ gpuTypes(input: {{id: "{GPU}"}}) {{ lowestPrice(input: {{gpuCount: 2}}) {{ {price} }} }} }}')["gpuTypes"]
    assert none == [{"lowestPrice": {"minimumBidPrice": None, "uninterruptablePrice": None, "stockStatus": None}}]
    centers = {row["id"]: row for row in data(cloud, "{dataCenters{id storageSupport gpuAvailability{gpuTypeId stockStatus}}}")["dataCenters"]}
    assert {"gpuTypeId": GPU, "stockStatus": "Low"} in centers["US-KS-2"]["gpuAvailability"] and centers["OC-AU-1"]["storageSupport"] is False


def test_one_world_with_rest(cloud: Any) -> None:
    made = wish(env=[{"key": "A", "value": "x=y"}], volumeInGb=20, stopAfter="2026-01-01T00:00:00Z", cloudType="ALL")
    pod = data(cloud, DEPLOY, made)["podFindAndDeployOnDemand"]
    assert (pod["costPerHr"], pod["env"], pod["ports"]) == (0.59, ["A=x=y"], "22/tcp,8888/http")
    seen = cloud.running(pod["id"])
    assert (seen["env"], seen["mounts"]) == ({"A": "x=y"}, {"persistent": {"size": 20, "path": "/workspace"}})
    assert seen["status"] == "RUNNING", "timers end nothing"
    shown = view(cloud, pod["id"], "desiredStatus runtime { ports { ip isIpPublic privatePort publicPort type } }")
    port = seen["ssh"]["direct"]["port"]
    assert shown["runtime"]["ports"][0] == {"ip": "127.0.0.1", "isIpPublic": True, "privatePort": 22, "publicPort": port, "type": "tcp"}
    assert shown["runtime"]["ports"][1]["isIpPublic"] is False
    act = {"i": {"podId": pod["id"]}}
    assert data(cloud, "mutation($i: PodStopInput!) { podStop(input: $i) { desiredStatus } }", act) == {"podStop": {"desiredStatus": "EXITED"}}
    assert cloud.get(pod["id"])["status"] == "EXITED"
    resumed = data(cloud, "mutation($i: PodResumeInput!) { podResume(input: $i) { desiredStatus runtime { uptimeInSeconds } } }", act)["podResume"]
    assert resumed == {"desiredStatus": "RUNNING", "runtime": None}, "what is wanted, long before it is so"
    assert data(cloud, "mutation($i: PodTerminateInput!) { podTerminate(input: $i) }", act) == {"podTerminate": None}
    assert cloud.call("GET", f"/v2/pods/{pod['id']}").status == 404 and data(cloud, "{myself{pods{id}}}") == {"myself": {"pods": []}}
    assert view(cloud, pod["id"], "id") is None
    again = error(cloud, "mutation($i: PodTerminateInput!) { podTerminate(input: $i) }", act)
    assert again["message"] == "pod not found to terminate" and again["extensions"] == {"code": "POD_NOT_FOUND"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpuTypeId": "NVIDIA RTX 4090"}, "There are no longer any instances available with the requested specifications."),
        ({"containerDiskInGb": None}, "There are no longer any instances available with enough disk space."),
        ({"templateId": "runpod-ubuntu", "containerDiskInGb": None, "imageName": "", "gpuCount": 99}, "There are no longer any instances available with the"),
        ({"templateId": "nosuch"}, GENERIC), ({"templateId": "h4zx0wqt1n"}, GENERIC), ({"networkVolumeId": "nosuch"}, GENERIC), ({"imageName": ""}, GENERIC),
    ],
)  # fmt: skip
def test_a_deployment_that_cannot_be(cloud: Any, changes: dict[str, Any], message: str) -> None:
    assert error(cloud, DEPLOY, wish(**changes))["message"].startswith(message)
    assert cloud.call("GET", "/v2/pods").json["pods"] == []


def test_spot_pods_are_bid_for_preempted_and_bid_for_again(cloud: Any) -> None:
    for bid, gpu in ((0.28, GPU), (5.0, "NVIDIA H200 NVL")):
        assert error(cloud, RENT, wish(bidPerGpu=bid, gpuTypeId=gpu))["message"].startswith("There are no")
    pod = data(cloud, RENT, wish(bidPerGpu=0.3, gpuCount=2))["podRentInterruptable"]
    assert (pod["costPerHr"], pod["podType"]) == (0.6, "INTERRUPTABLE")
    cloud.running(pod["id"])
    cloud.control("POST", f"/pods/{pod['id']}/preempt")
    seen = view(cloud, pod["id"], "desiredStatus lastStatusChange lowestBidPriceToResume runtime { uptimeInSeconds }")
    assert seen.pop("lastStatusChange").startswith("Outbid: ") and seen == {"desiredStatus": "EXITED", "lowestBidPriceToResume": 0.29, "runtime": None}
    start = "mutation($i: PodResumeInput!) { podResume(input: $i) { id } }"
    assert error(cloud, start, {"i": {"podId": pod["id"], "gpuCount": 2}})["message"] == "Cannot resume a spot pod as an on demand pod."
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "start"}).status == 400
    bid = "mutation($i: PodBidResumeInput!) { podBidResume(input: $i) { costPerHr desiredStatus } }"
    assert error(cloud, bid, {"i": {"podId": pod["id"], "gpuCount": 2, "bidPerGpu": 0.1}})["message"].startswith("There are no instances available")
    cloud.control("POST", "/market", {"gpu": GPU, "stock": 0})
    assert error(cloud, bid, {"i": {"podId": pod["id"], "gpuCount": 2, "bidPerGpu": 0.5}})["message"].startswith("There are not enough free GPUs")
    cloud.control("POST", "/market", {"gpu": GPU, "stock": 4})
    assert data(cloud, bid, {"i": {"podId": pod["id"], "gpuCount": 2, "bidPerGpu": 0.5}})["podBidResume"] == {"costPerHr": 1.0, "desiredStatus": "RUNNING"}
    cloud.fault("spot_removed")
    gone = ask(cloud, RENT, wish(bidPerGpu=0.3))
    assert gone.status == 400 and "Cannot query field 'podRentInterruptable' on type 'Mutation'" in gone.json["errors"][0]["message"]


def test_a_market_that_rises_outbids_the_lower_bids(cloud: Any) -> None:
    low, high = (data(cloud, RENT, wish(bidPerGpu=bid))["podRentInterruptable"]["id"] for bid in (0.3, 0.9))
    steady = cloud.create()["id"]
    cloud.control("POST", "/market", {"gpu": GPU, "cloud": "COMMUNITY_SPOT", "price": "0.8"})
    assert view(cloud, low, "desiredStatus") == {"desiredStatus": "RUNNING"}, "another market"
    cloud.control("POST", "/market", {"gpu": GPU, "cloud": "SECURE_SPOT", "price": "0.31"})
    assert [view(cloud, pod, "desiredStatus")["desiredStatus"] for pod in (low, high, steady)] == ["EXITED", "RUNNING", "RUNNING"]
    assert view(cloud, low, "lastStatusChange lowestBidPriceToResume")["lowestBidPriceToResume"] == 0.31


def test_belongings_are_shared_with_rest(cloud: Any) -> None:
    wanted = 'name: "t", imageName: "i", containerDiskInGb: 5, volumeInGb: 15, volumeMountPath: "/w", ports: "22/tcp", env: [{key: "A", value: "1"}]'
    saved = data(cloud, "mutation { saveTemplate(input: {" + wanted + ', readme: "# hi"}) { id env { key value } readme } }')["saveTemplate"]
    rest = cloud.call("GET", f"/v2/templates/{saved['id']}").json
    assert (rest["disk"], rest["mounts"], rest["env"]) == (5, {"persistent": {"size": 15, "path": "/w"}}, {"A": "1"}) and "readme" not in rest
    pod = data(cloud, DEPLOY, wish(templateId=saved["id"], containerDiskInGb=None, imageName=""))["podFindAndDeployOnDemand"]
    assert pod["templateId"] == saved["id"] == cloud.get(pod["id"])["template"]
    assert "in use" in error(cloud, 'mutation { deleteTemplate(templateName: "t") }')["message"]
    assert cloud.call("DELETE", f"/v2/templates/{saved['id']}").status == 400
    volume = data(cloud, 'mutation { createNetworkVolume(input: {name: "v", size: 10, dataCenterId: "EU-RO-1"}) { id dataCenterId } }')["createNetworkVolume"]
    data(cloud, DEPLOY, wish(networkVolumeId=volume["id"]))
    assert error(cloud, f'mutation {{ deleteNetworkVolume(input: {{id: "{volume["id"]}"}}) }}')["message"] == (
        "You must remove this network volume from all pods before deleting it."
    )
    for one in cloud.call("GET", "/v2/pods").json["pods"]:
        cloud.call("DELETE", f"/v2/pods/{one['id']}")
    grown = data(cloud, f'mutation {{ updateNetworkVolume(input: {{id: "{volume["id"]}", size: 20}}) {{ size }} }}')
    assert grown["updateNetworkVolume"] == {"size": 20} == {"size": cloud.call("GET", "/v2/network-volumes").json["networkVolumes"][0]["size"]}
    data(cloud, f'mutation {{ deleteNetworkVolume(input: {{id: "{volume["id"]}"}}) }}')
    data(cloud, 'mutation { deleteTemplate(templateName: "t") }')
    auth = data(cloud, 'mutation { saveRegistryAuth(input: {name: "hub", username: "u", password: "hush-hush"}) { id } }')["saveRegistryAuth"]
    assert cloud.call("GET", "/v2/registries").json == {"registries": [{**auth, "name": "hub"}]}
    data(cloud, f'mutation {{ deleteRegistryAuth(registryAuthId: "{auth["id"]}") }}')
    data(cloud, 'mutation { updateUserSettings(input: {pubKey: "ssh-ed25519 AAAA a\\n\\nssh-rsa BBBB b"}) { pubKey } }')
    assert cloud.call("GET", "/v2/account/ssh-keys").json == {"keys": ["ssh-ed25519 AAAA a", "ssh-rsa BBBB b"]}
    assert "hush-hush" not in str(cloud.control("GET", "/requests"))


def test_errors_beside_an_effect_and_pods_that_linger(cloud: Any) -> None:
    cloud.fault("graphql_errors", params={"message": "no luck", "code": "RUNPOD"})
    assert error(cloud, DEPLOY, wish()) == {"message": "no luck", "path": ["podFindAndDeployOnDemand"], "extensions": {"code": "RUNPOD"}}
    assert cloud.call("GET", "/v2/pods").json["pods"] == []
    cloud.fault("graphql_errors", params={"after_effect": True})
    assert error(cloud, DEPLOY, wish())["message"] == GENERIC
    (pod,) = cloud.call("GET", "/v2/pods").json["pods"]
    cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    assert view(cloud, pod["id"], "id") is None
    cloud.fault("terminated_shown")
    shown = view(cloud, pod["id"], "desiredStatus lastStatusChange")
    assert shown["desiredStatus"] == "EXITED" and shown["lastStatusChange"].startswith("Terminated by user: ")
    assert data(cloud, "{myself{pods{id}}}") == {"myself": {"pods": []}}


def test_the_balance_and_what_it_pays_for(cloud: Any) -> None:
    cloud.create()
    me = data(cloud, "{myself{clientBalance currentSpendPerHr spendLimit}}")["myself"]
    assert 9_999 < me["clientBalance"] < 10_000 and 0.59 <= me["currentSpendPerHr"] < 0.61
    cloud.control("POST", "/account", {"credit": "0"})
    assert cloud.call("POST", "/v2/pods", cloud.body()).status == 402
    assert "balance is too low" in error(cloud, DEPLOY, wish())["message"]


def test_no_balance_ends_pods(cloud: Any) -> None:
    """They are stopped, and removed a while later."""
    pod = cloud.create()
    cloud.running(pod["id"])
    cloud.control("POST", "/account", {"credit": "0"})
    cloud.wait(lambda: cloud.get(pod["id"])["status"] == "EXITED")
    cloud.control("POST", "/account", {"credit": "5"})
    cloud.control("POST", "/time_scale", {"timings": {"debt_grace": 0.1}})
    assert cloud.get(pod["id"])["status"] == "EXITED", "who pays keeps it"
    cloud.control("POST", "/account", {"credit": "0"})
    cloud.wait(lambda: cloud.call("GET", f"/v2/pods/{pod['id']}").status == 404)
    assert data(cloud, "{myself{pods{id}}}") == {"myself": {"pods": []}}


def test_secrets_in_variables_stay_out_of_the_log(cloud: Any) -> None:
    data(cloud, DEPLOY, wish(env=[{"key": "HF_TOKEN", "value": "very-secret-value"}, {"key": "PLAIN", "value": "seen"}]))
    text = str(cloud.control("GET", "/requests"))
    assert "very-secret-value" not in text and "seen" in text


def test_a_pods_own_key_reaches_itself_alone(cloud: Any) -> None:
    pod, other = cloud.create(), cloud.create("other")
    port = cloud.reachable(pod["id"])
    found = cloud.ssh(port, "tr '\\0' '\\n' < /proc/1/environ; env").stdout.splitlines()
    key = next(line.partition("=")[2] for line in found if line.startswith("RUNPOD_API_KEY="))
    query = "mutation($i: PodTerminateInput!) { podTerminate(input: $i) }"
    assert ask(cloud, "{myself{id}}", key=key).json["errors"][0]["message"] == "Forbidden"
    assert ask(cloud, query, {"i": {"podId": other["id"]}}, key=key).json["errors"]
    assert ask(cloud, query, {"i": {"podId": pod["id"]}}, key=key).json == {"data": {"podTerminate": None}}
