# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's GraphQL API: exact calls, the ways in which it refuses, and spot pods on the rehearsal cloud."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import runpod_graphql as api
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from support.harness import FULL

GPU = "NVIDIA GeForce RTX 4090"
WISH = api.SpotWish("podcycle-r1-pod-0-0a1b2c3d-9f8e7d6c", GPU, 2, Decimal("0.30"), image="runpod/base:1", disk_gib=20, ports=("22/tcp", "8888/http"))
BIG = {"data": {"podRentInterruptable": None}}


@pytest.fixture
def graphql(stub: Any, clock: Any) -> api.GraphQl:
    return api.connect_graphql(HttpClient(stub.url, "rpa_key", "runpod", clock=clock), "environment RUNPOD_API_KEY", {})


@pytest.fixture
def real(rehearsal: Any, clock: Any) -> api.GraphQl:
    return api.connect_graphql(HttpClient(rehearsal.url, FULL, "runpod", clock=clock), "a test", {})


def refused(told: Any, message: str, code: str = "INTERNAL_SERVER_ERROR", data: Any = None) -> Any:
    return told(200, {"data": data, "errors": [{"message": message, "path": ["podRentInterruptable"], "extensions": {"code": code}}]})


# ---- exact calls ----------------------------------------------------------------------------


def test_renting_sends_what_is_wanted_once_and_nothing_empty(graphql: api.GraphQl, stub: Any, told: Any) -> None:
    stub.tell(told(200, {"data": {"podRentInterruptable": {"id": "p1", "desiredStatus": "RUNNING", "costPerHr": 0.6}}}))
    wish = replace(WISH, env={"A": 'x="y"\n'}, secret_env={"TOKEN": "hush-hush"}, network_volume="v1", data_center="EU-RO-1")
    assert graphql.rent_spot(wish) == "p1"
    wanted = {
        "name": WISH.name, "gpuTypeId": GPU, "gpuCount": 2, "bidPerGpu": 0.3, "cloudType": "SECURE", "imageName": "runpod/base:1", "containerDiskInGb": 20,
        "ports": "22/tcp,8888/http", "env": [{"key": "A", "value": 'x="y"\n'}, {"key": "TOKEN", "value": "hush-hush"}], "dataCenterId": "EU-RO-1",
        "networkVolumeId": "v1", "volumeMountPath": "/workspace",
    }  # fmt: skip
    assert stub.seen == [("POST", "/graphql", {"query": api.RENT, "variables": {"input": wanted}})]
    assert stub.headers[0]["authorization"] == "Bearer rpa_key" and "urllib" not in stub.headers[0]["user-agent"]


def test_prices_balance_and_bids_on_the_wire(graphql: api.GraphQl, stub: Any, told: Any) -> None:
    lowest = {"minimumBidPrice": 0.29, "uninterruptablePrice": "0.59", "stockStatus": "High", "availableGpuCounts": [1, 2]}
    rows = [
        {"id": GPU, "displayName": "RTX 4090", "memoryInGb": 24, "lowestPrice": lowest}, {"id": "unknown", "lowestPrice": lowest},
        {"id": "B\x1b", "lowestPrice": lowest}, {"id": "C", "displayName": None, "memoryInGb": None, "lowestPrice": None},
        {"id": "D", "lowestPrice": {"minimumBidPrice": None, "uninterruptablePrice": 0, "stockStatus": None}}, {"id": None}, 5,
    ]  # fmt: skip
    stub.tell(told(200, {"data": {"gpuTypes": rows}}))
    found = graphql.live_prices(2, cloud_type="community", data_center="EU-RO-1")
    assert found == {
        GPU: api.LivePrice(GPU, "RTX 4090", 24, Decimal("0.59"), Decimal("0.29"), "high", (1, 2)),
        "C": api.LivePrice("C", "C", 0, None, None, "none"), "D": api.LivePrice("D", "D", 0, None, None, "none"),
    }  # fmt: skip
    assert stub.seen[0][2]["variables"] == {"price": {"gpuCount": 2, "secureCloud": False, "dataCenterId": "EU-RO-1"}}
    stub.tell(told(200, {"data": {"myself": {"id": "u", "clientBalance": -1.5, "currentSpendPerHr": 0.5, "spendLimit": None}}}))
    balance = graphql.balance()
    assert (balance.balance_usd, balance.burn_usd_per_hour, balance.limit_usd_per_hour, balance.hours_left) == (Decimal("-1.5"), Decimal("0.5"), None, -3)
    stub.tell(told(200, {"data": {"podBidResume": {"id": "p1"}}}))
    assert graphql.resume_spot("p1", Decimal("0.31"), 2) == "p1"
    assert stub.seen[0][2]["variables"] == {"input": {"podId": "p1", "bidPerGpu": 0.31, "gpuCount": 2}}
    with pytest.raises(errors.UsageError):
        graphql.resume_spot("p1", Decimal("0.31"), 0)


# ---- how it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"status": 401, "body": {"errors": [{"message": "Unauthorized"}]}}, errors.Unauthorized, r"\(from environment RUNPOD_API_KEY\).*REST takes"),
        ({"status": 403, "body": {"errors": [{"message": "Forbidden"}]}}, errors.Forbidden, "refuses the key .*GraphQL rights.*GPU by its id.*web console"),
        ({"status": 403, "body": b"error code: 1010", "content_type": "text/plain"}, errors.ProxyRefused, "not the API: error code: 1010.*the key was not"),
        ({"status": 404, "body": {"title": "Not Found"}}, errors.SchemaError, "has switched its GraphQL API off: .*do without spot pods"),
        ({"status": 410, "body": {"title": "Gone"}}, errors.SchemaError, "has changed"),
        ({"status": 200, "body": {"data": {"myself": None}}}, errors.Unauthorized, "does not know whose key"),
        ({"status": 400, "body": {"errors": [{"message": 'Cannot query field "clientBalance"'}]}}, errors.SchemaError, "has changed.*clientBalance"),
        ({"status": 200, "body": {"errors": [{"message": "?", "extensions": {"code": "UNAUTHENTICATED"}}]}}, errors.Unauthorized, "REST takes.*web console"),
        ({"status": 200, "body": {"data": {"myself": {"clientBalance": "much"}}}}, errors.SchemaError, "no balance: much"),
        ({"status": 200, "body": [1]}, errors.SchemaError, "no data"),
        ({"status": 200, "body": b"<html>hello</html>", "content_type": "text/html"}, errors.NoReply, "a web page: hello"),
    ],
)  # fmt: skip
def test_who_refused_and_why(graphql: api.GraphQl, stub: Any, told: Any, answer: dict[str, Any], kind: type[Exception], words: str) -> None:
    stub.tell(told(**answer))
    with pytest.raises(kind, match=words) as caught:
        graphql.balance()
    assert isinstance(caught.value, errors.CloudError) and caught.value.effect == errors.EFFECT_NONE, "a query changes nothing"


@pytest.mark.parametrize(
    ("said", "code", "kind", "effect"),
    [
        ("There are no longer any instances available with the requested specifications. Please refresh and try again.", "RUNPOD", errors.NoCapacity, "none"),
        ("There are no longer any instances available with enough disk space.", "RUNPOD", errors.NoCapacity, "none"),
        ("there are no instances available with the request specifications. Please try again later.", "", errors.NoCapacity, "none"),
        ("create pod: There are no instances currently available", "", errors.NoCapacity, "none"),
        ("There are not enough free GPUs on the host machine to start this pod.", "RUNPOD", errors.NoCapacity, "none"),
        ("This machine does not have the resources to deploy your pod. Please try a different machine", "", errors.NoCapacity, "none"),
        ("Cannot resume a spot pod as an on demand pod.", "RUNPOD", errors.Conflict, "none"),
        ("pod not found to terminate", "POD_NOT_FOUND", errors.NotFound, "none"),
        ("You must remove this network volume from all pods before deleting it.", "RUNPOD", errors.Conflict, "none"),
        ("Your account balance is too low to start this pod.", "RUNPOD", errors.PaymentRequired, "none"),
        ("Unauthorized", "UNAUTHENTICATED", errors.Unauthorized, "none"),
        ("Forbidden", "FORBIDDEN", errors.Forbidden, "none"),
        ("Something went wrong. Please try again later or contact support.", "INTERNAL_SERVER_ERROR", errors.ServerError, "unknown"),
        ("An unheard-of thing", "RUNPOD", errors.InvalidRequest, "unknown"),
    ],
)
def test_what_is_said_has_a_class(graphql: api.GraphQl, stub: Any, told: Any, said: str, code: str, kind: type[Exception], effect: str) -> None:
    stub.tell(refused(told, said, code, BIG["data"]))
    with pytest.raises(errors.CloudError, match=re.escape(said[:40])) as caught:
        graphql.rent_spot(WISH)
    assert caught.type is kind and caught.value.effect == effect and caught.value.details["said"].startswith(said[:40]) and len(stub.seen) == 1


def test_a_pod_that_came_with_errors_is_there(graphql: api.GraphQl, stub: Any, told: Any) -> None:
    stub.tell(refused(told, "runtime lookup timed out", data={"podRentInterruptable": {"id": "p1", "runtime": None}}))
    assert graphql.rent_spot(WISH) == "p1"


@pytest.mark.parametrize("data", [{"podRentInterruptable": None}, {"podRentInterruptable": {"id": "../x"}}, {}, None])
def test_no_pod_and_no_reason_is_a_doubt(graphql: api.GraphQl, stub: Any, told: Any, data: Any) -> None:
    stub.tell(told(200, {"data": data}))
    with pytest.raises(errors.SchemaError) as caught:
        graphql.rent_spot(WISH)
    assert caught.value.effect == errors.EFFECT_UNKNOWN


def test_a_query_is_sent_again_and_a_mutation_never(graphql: api.GraphQl, stub: Any, told: Any) -> None:
    balance = told(200, {"data": {"myself": {"id": "u", "clientBalance": 5}}})
    stub.tell(told(500, {"errors": []}), told(200, balance.body, cut=9), told(429, {}), balance)
    assert graphql.balance().balance_usd == 5 and len(stub.seen) == 4
    for broken in (told(500, {}), told(200, {"data": {}}, cut=3), told(502, b"bad gateway", content_type="text/plain")):
        stub.tell(broken)
        with pytest.raises(errors.CloudError) as caught:
            graphql.rent_spot(WISH)
        assert caught.value.effect == errors.EFFECT_UNKNOWN and len(stub.seen) == 1


def test_secrets_stand_in_no_error(graphql: api.GraphQl, stub: Any, told: Any) -> None:
    stub.tell(refused(told, 'bad value "hush-hush" of rpa_key', data=BIG["data"]))
    with pytest.raises(errors.CloudError) as caught:
        graphql.rent_spot(replace(WISH, secret_env={"TOKEN": "hush-hush"}))
    assert "hush-hush" not in str(errors.failure(caught.value)) and "rpa_key" not in str(errors.failure(caught.value))


@pytest.mark.parametrize(
    ("rest", "named", "expected"),
    [
        ("https://api.runpod.io/v2", None, "https://api.runpod.io/graphql"), ("https://v2-rest.runpod.io/v2", None, "https://api.runpod.io/graphql"),
        ("http://127.0.0.1:8787/v2", None, "http://127.0.0.1:8787/graphql"), ("https://proxy.example/runpod/v2", None, "https://proxy.example/runpod/graphql"),
        ("https://api.runpod.io/v2", "https://g.example/x", "https://g.example/x"),
        ("http://127.0.0.1:8787/v2", "https://api.runpod.io/graphql", None), ("https://api.runpod.io/v2", "http://127.0.0.1:8787/graphql", None),
        ("https://api.runpod.io/v2", "http://g.example/graphql", None), ("https://api.runpod.io/v2", "g.example", None),
    ],
)  # fmt: skip
def test_the_api_lies_beside_the_other_one(rest: str, named: str | None, expected: str | None) -> None:
    environ = {"RUNPOD_GRAPHQL_URL": named} if named else {}
    if expected:
        assert api.graphql_endpoint(rest, environ) == expected
        return
    with pytest.raises(errors.UsageError, match="RUNPOD_GRAPHQL_URL"):
        api.graphql_endpoint(rest, environ)


# ---- on the rehearsal cloud ---------------------------------------------------------------------


def test_a_spot_pod_is_rented_seen_by_rest_outbid_and_bid_for_again(real: api.GraphQl, rehearsal: Any, clock: Any) -> None:
    driver = rehearsal.client(clock)
    price = real.live_prices(2, cloud_type="secure")[GPU]
    assert (price.on_demand_usd, price.spot_usd, price.stock) == (Decimal("0.59"), Decimal("0.29"), "high")
    with pytest.raises(errors.NoCapacity, match="There are no instances available with the requested specifications"):
        real.rent_spot(replace(WISH, bid_usd=Decimal("0.28")))
    pod_id = real.rent_spot(WISH)
    (pod,) = driver.list()
    assert (pod.id, str(pod.stamp), pod.gpu_count, pod.usd_per_hour) == (pod_id, WISH.name, 2, Decimal("0.6"))
    assert 0 < real.balance().balance_usd < 10_000 and real.balance().burn_usd_per_hour >= Decimal("0.6")
    rehearsal.control("POST", f"/pods/{pod_id}/preempt")
    assert driver.get(pod_id).state == model.STOPPED
    with pytest.raises(errors.InvalidRequest, match="Cannot resume a spot pod"):
        driver._act(pod_id, "start")
    assert real.resume_spot(pod_id, Decimal("0.4"), 2) == pod_id and driver.get(pod_id).usd_per_hour == Decimal("0.8")
    with pytest.raises(errors.NotFound):
        real.resume_spot("nosuchpod", Decimal("0.4"), 2)


@pytest.mark.parametrize(("kind", "expected"), [("401", errors.Unauthorized), ("403", errors.Forbidden), ("1010", errors.ProxyRefused)])
def test_refused_by_graphql_while_rest_works(real: api.GraphQl, rehearsal: Any, clock: Any, kind: str, expected: type[Exception]) -> None:
    rehearsal.fault("graphql_refused", params={"as": kind}, times=None)
    with pytest.raises(expected) as caught:
        real.balance()
    for remedy in ("access to api.runpod.io/graphql", "web console", "name the GPU by its id"):
        assert remedy in str(caught.value)
    assert "export RUNPOD_API_KEY" not in str(caught.value), "REST has taken the key"
    assert ("it only lacks GraphQL rights" in str(caught.value)) is (kind != "1010"), "a proxy says nothing of the key's rights"
    assert ("the key was not judged" in str(caught.value)) is (kind == "1010")
    with pytest.raises(expected):
        real.rent_spot(WISH)
    assert rehearsal.client(clock).list() == []


def test_spot_that_is_gone_from_the_api_says_so(real: api.GraphQl, rehearsal: Any) -> None:
    rehearsal.fault("spot_removed")
    with pytest.raises(errors.InvalidRequest, match="RunPod has taken spot pods out of its API: .*set spot to false") as caught:
        real.rent_spot(WISH)
    assert caught.value.details["spot_removed"] is True and caught.value.effect == errors.EFFECT_NONE and rehearsal.pods() == []
    assert real.live_prices()[GPU].spot_usd is not None, "the rest goes on"


@pytest.mark.parametrize("fault", ["error_500_after_effect", "reply_cut", "no_reply", "graphql_errors"])
def test_an_answer_that_is_lost_leaves_a_doubt_and_one_pod(real: api.GraphQl, rehearsal: Any, clock: Any, fault: str) -> None:
    rehearsal.fault(fault, match={"method": "POST", "path": "^/graphql$"}, params={"after_effect": True})
    with pytest.raises(errors.CloudError) as caught:
        real.rent_spot(WISH)
    assert caught.value.effect == errors.EFFECT_UNKNOWN
    assert [str(pod.stamp) for pod in rehearsal.client(clock).list()] == [WISH.name]
