# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Spot pods, pods from templates and pods on network volumes: rented exactly once like all others, refused before money is spent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _ledger, _offers
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from support.harness import FULL

MakeWish = Callable[..., Any]
GPU = "NVIDIA GeForce RTX 4090"


@pytest.fixture
def post(rehearsal: Any) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Makes something of the account's by the API."""
    return lambda path, body: HttpClient(rehearsal.url, FULL, "runpod").post(path, body).body


def rent(engine: Engine, wish: Any) -> Any:
    (slot,) = engine.rent(wish, check_mode=False)
    return slot


def states(engine: Engine) -> list[str]:
    return [lease.state for lease in engine.ledger.leases()]


# ---- spot -------------------------------------------------------------------------------------------------


def test_a_spot_pod_is_rented_outbid_and_bid_for_again(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    wish = make_wish(spot=True, gpu_count=2, max_usd_per_hour=Decimal("0.60"))
    (foreseen,) = engine.rent(wish, check_mode=True)
    assert foreseen.after.usd_per_hour == Decimal("0.58") and foreseen.after.spot and rehearsal.pods() == []
    slot = rent(engine, wish)
    assert slot.error is None and slot.after.usd_per_hour == Decimal("0.58") and slot.after.gpu_count == 2
    rehearsal.control("POST", f"/pods/{slot.after.id}/preempt")
    assert engine.stop(engine.ledger.leases()[0]).state == "stopped"  # type: ignore[union-attr]
    assert states(engine) == ["stopped"], "nobody is told that it goes on costing"
    again = rent(engine, wish)
    assert again.error is None and again.changed and again.after.id == slot.after.id and again.after.state == "running"
    assert len(rehearsal.pods()) == 1 and states(engine) == ["leased"]


def outbid_at(rehearsal: Any, price: str) -> None:
    rehearsal.control("POST", "/market", {"gpu": GPU, "cloud": "SECURE_SPOT", "price": price})


def test_a_bid_again_costs_what_it_costs_now(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = make_wish(spot=True, gpu_count=2, max_usd_per_hour=Decimal("1.00"))
    began = model.utc_now().replace(microsecond=0)
    monkeypatch.setattr(_ledger, "utc_now", lambda: began)
    pod = rent(engine, wish).after
    outbid_at(rehearsal, "0.45")
    (foreseen,) = engine.rent(wish, check_mode=True)
    assert (foreseen.changed, foreseen.after.usd_per_hour) == (True, Decimal("0.90")) and engine.ledger.leases()[0].usd_per_hour == Decimal("0.58")
    monkeypatch.setattr(_ledger, "utc_now", lambda: began + timedelta(hours=1))
    again = rent(engine, wish)
    assert again.error is None and (again.after.id, again.after.usd_per_hour) == (pod.id, Decimal("0.90"))
    (lease,) = engine.ledger.leases()
    assert lease.usd_per_hour == Decimal("0.90") and lease.cost(began + timedelta(hours=2)) == Decimal("1.48")
    assert not rent(engine, wish).changed and [row.last_event for row in engine.ledger.leases()] == ["priced"]


def test_a_bid_again_whose_controller_was_killed_is_in_the_books_with_the_next_run(
    engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch
) -> None:
    rent(engine, make_wish(spot=True))
    engine.stop(engine.ledger.leases()[0])
    outbid_at(rehearsal, "0.45")
    write = engine.ledger.write

    def killed(stamp: Any, event: str, **data: Any) -> None:
        if event == "started":
            raise KeyboardInterrupt
        write(stamp, event, **data)

    monkeypatch.setattr(engine.ledger, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        rent(engine, make_wish(spot=True))
    monkeypatch.undo()
    again = rent(engine, make_wish(spot=True))
    (lease,) = engine.ledger.leases()
    assert (again.changed, lease.state, lease.stopped_at, lease.usd_per_hour) == (False, "leased", None, Decimal("0.45"))


def test_a_bid_again_never_goes_above_the_cap(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    wish = make_wish(spot=True, gpu_count=2, max_usd_per_hour=Decimal("0.60"))
    pod = rent(engine, wish).after
    outbid_at(rehearsal, "0.45")
    words = f"pod {pod.id}: the lowest bid is 0.9000 .*above max_usd_per_hour 0.6000; try again when it is cheaper"
    with pytest.raises(errors.NoCapacity, match=words):
        engine.rent(wish, check_mode=True)
    with pytest.raises(errors.NoCapacity, match=words):
        raise rent(engine, wish).error
    (row,) = rehearsal.pods()
    (lease,) = engine.ledger.leases()
    assert (row["id"], row["status"], lease.usd_per_hour) == (pod.id, "EXITED", Decimal("0.58"))
    now = model.utc_now()
    assert lease.cost(now) == lease.cost(now + timedelta(hours=1)), "a pod that is found stopped and stays so costs no GPU"
    dearer = rent(engine, make_wish(spot=True, gpu_count=2, max_usd_per_hour=Decimal("0.90")))
    assert dearer.error is None and dearer.after.id == pod.id and dearer.after.usd_per_hour == Decimal("0.90")


@pytest.mark.parametrize("fault", ["error_500_after_effect", "reply_cut", "no_reply"])
def test_a_lost_answer_makes_no_second_spot_pod(engine: Engine, rehearsal: Any, make_wish: MakeWish, fault: str) -> None:
    engine.cloud.offers(1, spot=True, options={})
    rehearsal.fault(fault, match={"method": "POST", "path": "^/graphql$"}, after_n=1)
    slot = rent(engine, make_wish(spot=True))
    assert slot.error is None and len(rehearsal.pods()) == 1 and any("adopted" in note for note in slot.notes)


def test_a_pod_that_cannot_be_read_after_its_create_is_looked_for(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("schema_changed", match={"method": "GET", "path": "^/v2/pods/."}, params={"drop": ["status"]})
    slot = rent(engine, make_wish(spot=True))
    assert slot.error is None and len(rehearsal.pods()) == 1 and any("adopted" in note for note in slot.notes)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ({"kind": "spot_removed", "times": None}, errors.InvalidRequest, "taken spot pods out of its API.*set spot to false"),
        ({"kind": "graphql_refused", "params": {"as": "403"}, "times": None}, errors.Forbidden, "spot to false.*GraphQL rights.*GPU by its id.*web console"),
        ({"kind": "graphql_refused", "params": {"as": "1010"}, "times": None}, errors.ProxyRefused, "1010.*spot to false.*not judged.*GPU by its id.*console"),
    ],
)
def test_spot_that_is_not_to_be_had_says_what_to_do(
    engine: Engine, rehearsal: Any, make_wish: MakeWish, fault: dict[str, Any], kind: type[Exception], words: str
) -> None:
    rehearsal.fault(**fault)
    with pytest.raises(kind, match=words) as caught:
        slot = rent(engine, make_wish(spot=True))
        raise slot.error
    assert ("where REST takes the key" in str(caught.value)) is (kind is errors.Forbidden), "a proxy judges no key"
    assert rehearsal.pods() == [] and not any(lease.open for lease in engine.ledger.leases())


def test_offers_show_spot_prices_where_the_key_may(rehearsal: Any, state: Any) -> None:
    options = {
        "cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "gpu": ["RTX 4090"], "gpu_count": 2, "min_vram_gib": 0, "max_usd_per_hour": None,
        "cloud_type": "secure", "regions": [], "spot": False, "offline": False, "limit": 0,
    }  # fmt: skip
    found = _offers.list_offers(options)
    (row,) = found["offers"]
    assert (row["usd_per_hour"], row["spot_usd_per_hour"], row["stock"], found["warnings"]) == ("1.1800", "0.5800", "high", [])
    (spot,) = _offers.list_offers({**options, "spot": True})["offers"]
    assert spot["spot"] and spot["usd_per_hour"] == spot["spot_usd_per_hour"] == "0.5800"
    rehearsal.fault("graphql_refused", params={"as": "1010"}, times=None)
    refused = _offers.list_offers(options)
    assert refused["offers"][0]["spot_usd_per_hour"] is None and "1010" in refused["warnings"][0]
    assert "name the GPU by its id" in refused["warnings"][0] and "web console" in refused["warnings"][0]


# ---- templates and volumes ----------------------------------------------------------------------------------


def test_a_pod_from_a_template_by_a_part_of_its_name(engine: Engine, rehearsal: Any, make_wish: MakeWish, post: Any) -> None:
    body = {"name": "chess-bot-training", "image": "me/chess:1", "category": "NVIDIA", "disk": 33, "ports": ["8888/http"], "env": {"A": "1", "B": "2"}}
    made = post("/templates", body)
    wish = make_wish(image="", disk_gib=0, ports=(), env={"B": "3"}, options={"cloud_type": "secure", "template": "chess-bot"})
    slot = rent(engine, wish)
    assert slot.error is None
    (pod,) = rehearsal.pods()
    assert (pod["image"], pod["disk_gib"], sorted(pod["ports"])) == ("me/chess:1", 33, ["22/tcp", "8888/http"])
    env = engine.cloud._http.get(f"/pods/{pod['id']}").body["env"]
    assert {name: env[name] for name in "AB"} == {"A": "1", "B": "3"} and env["PODCYCLE_PORTS"] == "22/tcp 8888/http"
    assert engine.ledger.leases()[0].wish["template"] == made["id"]
    again = rent(engine, wish)
    assert not again.changed and again.notes == []


def test_a_template_may_tell_the_ports_itself(engine: Engine, rehearsal: Any, make_wish: MakeWish, post: Any) -> None:
    post("/templates", {"name": "shut", "image": "me/chess:1", "category": "NVIDIA", "disk": 33, "ports": ["8888/http"], "env": {"PODCYCLE_PORTS": "none"}})
    for number, (env, said) in enumerate([({}, "none"), ({"PODCYCLE_PORTS": "8888/http"}, "8888/http")]):
        slot = rent(engine, make_wish(run_id=f"t{number}", image="", ports=(), env=env, options={"cloud_type": "secure", "template": "shut"}))
        assert engine.cloud._http.get(f"/pods/{slot.after.id}").body["env"]["PODCYCLE_PORTS"] == said


def test_a_pod_on_a_network_volume_goes_where_the_volume_is(engine: Engine, rehearsal: Any, make_wish: MakeWish, post: Any) -> None:
    volume = post("/network-volumes", {"name": "games", "size": 50, "dataCenter": "EU-RO-1"})
    slot = rent(engine, make_wish(options={"cloud_type": "secure", "network_volume": "games"}))
    assert slot.error is None and slot.after.region == "EU-RO-1"
    assert rehearsal.pods()[0]["mounts"] == {"network": [{"volumeId": volume["id"], "path": "/workspace"}]}
    with pytest.raises(errors.UsageError, match="lies in EU-RO-1, and the pod is wished in US-KS-2"):
        engine.rent(make_wish(run_id="r2", regions=("US-KS-2",), options={"cloud_type": "secure", "network_volume": volume["id"]}), check_mode=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "nosuchtemplate"}, "there is no template 'nosuchtemplate' among own, official"),
        ({"template": "endpoint"}, "is for serverless endpoints"),
        ({"network_volume": "nosuchvolume"}, r"there is no network volume 'nosuchvolume'; there are: games \("),
    ],
)
def test_what_the_account_has_not_is_refused_before_anything_is_rented(
    engine: Engine, rehearsal: Any, make_wish: MakeWish, post: Any, options: dict[str, str], words: str
) -> None:
    post("/network-volumes", {"name": "games", "size": 50, "dataCenter": "EU-RO-1"})
    post("/templates", {"name": "my-endpoint", "image": "me/chess:1", "category": "NVIDIA", "serverless": True})
    for check_mode in (True, False):
        with pytest.raises(errors.UsageError, match=words):
            engine.rent(make_wish(image="", options={"cloud_type": "secure", **options}), check_mode=check_mode)
    assert rehearsal.pods() == [] and engine.ledger.leases() == []
