# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting exactly once, whatever becomes of the answer; failing over; groups; stop and start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._pods import DEFAULT_IMAGE

GPU = "NVIDIA GeForce RTX 4090"
OTHER = "NVIDIA L40S"
MakeWish = Callable[..., Any]


def states(engine: Engine) -> list[str]:
    return [lease.state for lease in engine.ledger.leases()]


def rent(engine: Engine, wish: Any) -> Any:
    (slot,) = engine.rent(wish, check_mode=False)
    return slot


# ---- exactly once -------------------------------------------------------------------------------


def test_rent_then_rent_again_changes_nothing(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    first = rent(engine, make_wish())
    assert first.error is None and first.changed and first.after.state == "running" and first.before is None
    assert first.after.endpoint is not None and first.after.usd_per_hour == Decimal("0.59")
    again = rent(engine, make_wish())
    assert again.error is None and not again.changed
    assert again.before.id == again.after.id == first.after.id
    assert rehearsal.writes() == [("POST", "/v2/pods")]
    assert states(engine) == ["leased"]


@pytest.mark.parametrize(
    ("faults", "creates"),
    [
        ([("reply_cut", {})], 1),
        ([("reply_cut", {"params": {"bytes": 0}})], 1),
        ([("error_500_after_effect", {})], 1),
        ([("no_reply", {})], 1),
        ([("schema_changed", {"match": {"method": "POST"}, "params": {"drop": ["id"]}})], 1),
        ([("reply_cut", {}), ("list_lag", {"params": {"requests": 3}})], 1),
        ([("no_reply", {}), ("empty_list", {"times": 4})], 1),
        ([("error_500_after_effect", {}), ("error_500", {"times": 3, "match": {"method": "GET", "path": "^/v2/pods$"}})], 1),
        ([("reply_cut", {}), ("schema_changed", {"times": 2, "match": {"path": "^/v2/pods$", "method": "GET"}, "params": {"drop": ["name"]}})], 1),
        ([("429", {"times": 2, "match": {"method": "POST"}})], 3),
        ([("error_500", {"match": {"method": "POST"}})], 2),
        ([("timeout_before_effect", {"match": {"method": "POST"}, "params": {"seconds": 0}})], 2),
    ],
    ids=["cut", "cut-empty", "500-after", "no-reply", "schema", "cut-lag", "no-reply-empty", "500-list", "cut-odd-list", "429", "500-before", "lost-before"],
)
def test_one_pod_whatever_becomes_of_the_answer(
    make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, state: Any, faults: list[Any], creates: int
) -> None:
    # Another pod that lives makes an empty list recognisable.
    rent(make_engine(), make_wish(run_id="other"))
    rehearsal.control("DELETE", "/requests")
    for kind, more in faults:
        rehearsal.fault(kind, **more)
    engine = make_engine()
    slot = rent(engine, make_wish())
    assert slot.error is None, slot.error
    mine = [pod for pod in rehearsal.pods(ended=True) if pod["name"].startswith("podcycle-r1-")]
    assert [pod["id"] for pod in mine] == [slot.after.id] and slot.after.name == str(slot.lease.stamp)
    assert len(rehearsal.writes()) == creates
    assert [(lease.state, lease.pod_id) for lease in engine.ledger.of_run("r1") if lease.open] == [("leased", slot.after.id)]
    assert all(lease.state in ("leased", "presumed_void", "void") for lease in engine.ledger.of_run("r1"))


def test_a_pod_that_lags_behind_every_list_is_not_rented_twice_while_nobody_knows(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rent(engine, make_wish(run_id="other"))
    rehearsal.fault("no_reply")
    rehearsal.fault("empty_list", times=None)
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, errors.LeaseUnknown) and slot.error.effect == "unknown"
    assert [lease.state for lease in engine.ledger.of_run("r1")] == ["doubt"]
    rehearsal.control("DELETE", "/faults")
    healed = rent(engine, make_wish())
    assert healed.error is None and len([pod for pod in rehearsal.pods() if pod["name"].startswith("podcycle-r1-")]) == 1
    assert rehearsal.writes() == [("POST", "/v2/pods")] * 2


@pytest.mark.parametrize("listings", [1, 2, 3])
def test_the_only_pod_of_an_account_may_lag_behind_the_list(engine: Engine, rehearsal: Any, make_wish: MakeWish, listings: int) -> None:
    rehearsal.fault("no_reply")
    rehearsal.fault("list_lag", params={"requests": listings})
    slot = rent(engine, make_wish())
    assert slot.error is None and len(rehearsal.pods()) == 1 and rehearsal.writes() == [("POST", "/v2/pods")]


def test_an_empty_list_now_and_then_is_not_absence(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    """Every second listing is empty: no listing that lacks living pods may count."""
    rent(engine, make_wish(run_id="other"))
    rehearsal.fault("no_reply")
    cloud = engine.cloud
    real, count = cloud.list, iter(range(10_000))
    cloud.list = lambda: [] if next(count) % 2 == 0 else real()  # type: ignore[method-assign]
    slot = rent(engine, make_wish())
    assert slot.error is None and len(rehearsal.writes()) == 2
    assert [lease.state for lease in engine.ledger.of_run("r1")] == ["leased"]


def test_a_crash_between_intent_and_create_rents_one(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any) -> Any:
        raise KeyboardInterrupt

    for crash_at, left in (("begin", "void"), ("create", "presumed_void")):
        rehearsal.reset()
        wish = make_wish(run_id=f"crash-{crash_at}")
        with monkeypatch.context() as patch:
            if crash_at == "begin":
                write = engine.ledger.write
                patch.setattr(engine.ledger, "write", lambda stamp, event, write=write, **data: crash() if event == "attempt" else write(stamp, event, **data))
            else:
                patch.setattr(engine.cloud, "create", crash)
            with pytest.raises(KeyboardInterrupt):
                engine.rent(wish, check_mode=False)
        assert rent(engine, wish).error is None
        assert [lease.state for lease in engine.ledger.of_run(wish.run_id)] == [left, "leased"]
        assert len(rehearsal.pods()) == 1


def test_a_crash_after_the_create_is_adopted_by_the_next_run(engine: Engine, rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine.cloud.create

    def crash(*args: Any) -> Any:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.cloud, "create", crash)
        with pytest.raises(KeyboardInterrupt):
            engine.rent(make_wish(), check_mode=False)
    slot = rent(engine, make_wish())
    assert slot.error is None and slot.after.id == rehearsal.pods()[0]["id"] and len(rehearsal.pods()) == 1
    assert states(engine) == ["leased"]


def test_two_pods_with_one_stamp_fail_with_both_ids(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("reply_cut")
    real = engine.cloud.list

    def twice() -> Any:
        from dataclasses import replace

        pods = real()
        return [*pods, *(replace(pod, id="double") for pod in pods)]

    engine.cloud.list = twice  # type: ignore[method-assign]
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, errors.LeaseUnknown)
    assert "double" in str(slot.error) and rehearsal.pods()[0]["id"] in str(slot.error)


@pytest.mark.parametrize(("fault", "kind"), [("balance_402", errors.PaymentRequired), ("proxy_403", errors.ProxyRefused)])
def test_a_clear_no_ends_the_intent(engine: Engine, rehearsal: Any, make_wish: MakeWish, fault: str, kind: type) -> None:
    rehearsal.fault(fault, match={"method": "POST"})
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, kind) and states(engine) == ["void"] and rehearsal.pods() == []


def test_check_mode_sends_no_write_and_writes_no_line(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    (slot,) = engine.rent(make_wish(), check_mode=True)
    assert slot.changed and slot.after.id == "" and slot.after.usd_per_hour == Decimal("0.59") and slot.after.state == "running"
    assert not engine.ledger.path.exists()
    rent(engine, make_wish())
    line = engine.ledger.path.read_bytes()
    rehearsal.control("DELETE", "/requests")
    (slot,) = engine.rent(make_wish(), check_mode=True)
    assert not slot.changed
    engine.stop(engine.ledger.leases()[0])
    rehearsal.control("DELETE", "/requests")
    line = engine.ledger.path.read_bytes()
    (slot,) = engine.rent(make_wish(), check_mode=True)
    assert slot.changed and (slot.before.state, slot.after.state) == ("stopped", "running"), "the picture is the one that the real run would give"
    (slot,) = engine.release_run("r1", check_mode=True)
    assert slot.changed and slot.before.id
    assert rehearsal.writes() == [] and engine.ledger.path.read_bytes() == line


# ---- failing over -----------------------------------------------------------------------------------


def test_fails_over_along_gpus_and_regions(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.control("POST", "/market", {"gpu": GPU, "stock": 0})
    rehearsal.control("POST", "/market", {"gpu": OTHER, "stock": 0})
    rehearsal.control("POST", "/market", {"gpu": OTHER, "stock": 1, "data_center": "US-GA-2", "cloud": "SECURE"})
    slot = rent(engine, make_wish(gpus=("RTX 4090", "L40S"), regions=("EU-RO-1", "US-GA-2")))
    assert slot.error is None and (slot.after.gpu, slot.after.region) == (OTHER, "US-GA-2")
    bodies = [row["body"] for row in rehearsal.requests("POST")]
    assert [(body["gpu"]["id"], body["dataCenterIds"]) for body in bodies] == [
        (GPU, ["EU-RO-1"]), (GPU, ["US-GA-2"]), (OTHER, ["EU-RO-1"]), (OTHER, ["US-GA-2"]),
    ]  # fmt: skip
    assert len({body["name"] for body in bodies}) == 4, "each create has a stamp of its own"
    assert states(engine) == ["void", "void", "void", "leased"] and len(slot.notes) == 3


def test_live_stock_decides_between_offers_of_one_price_and_nothing_else_asks_for_it(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    def asked() -> int:
        return len([row for row in rehearsal.requests("POST") if row["path"] == "/graphql"])

    def order(**more: Any) -> list[str]:
        return [offer.cloud_type for offer in engine.plan(make_wish(options={"cloud_type": "any"}, **more))]

    rehearsal.control("POST", "/market", {"gpu": GPU, "stock": 1, "cloud": "SECURE"})
    rehearsal.control("POST", "/market", {"gpu": GPU, "stock": 9, "cloud": "COMMUNITY"})
    assert order() == ["community", "secure"] and asked() == 0, "0.34 and 0.59: nothing to decide"
    rehearsal.control("POST", "/market", {"gpu": GPU, "price": "0.59", "cloud": "COMMUNITY"})
    assert order() == ["community", "secure"] and asked() == 2
    rehearsal.control("POST", "/market", {"gpu": GPU, "stock": 9, "cloud": "SECURE"})
    rehearsal.control("POST", "/market", {"gpu": GPU, "stock": 1, "cloud": "COMMUNITY"})
    assert order() == ["secure", "community"] and asked() == 4
    assert order(regions=("EU-RO-1", "US-KS-2")) == ["secure", "secure", "community", "community"] and asked() == 6
    rehearsal.fault("error_500", match={"method": "POST", "path": "^/graphql$"})
    assert sorted(order()) == ["community", "secure"] and asked() == 7, "an answer that is lost is not waited for"
    rehearsal.fault("graphql_refused", params={"as": "403"}, times=None)
    for _turn in range(2):
        assert sorted(order()) == ["community", "secure"] and asked() == 8, "a key that may not is not tried again"
    assert rent(engine, make_wish(options={"cloud_type": "any"})).error is None


def test_no_capacity_anywhere_rents_nothing_and_says_so(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("no_capacity", times=None)
    slot = rent(engine, make_wish(gpus=("RTX 4090", "L40S")))
    assert isinstance(slot.error, errors.NoCapacity)
    for part in ("RTX 4090 (any data center)", "L40S", "nothing was rented", "offers.yml"):
        assert part in str(slot.error)
    assert set(states(engine)) == {"void"} and rehearsal.pods() == []


def test_capacity_is_waited_for_when_asked(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, clock: Any) -> None:
    rehearsal.fault("no_capacity", times=3)
    told: list[str] = []
    slot = rent(make_engine(waits={"capacity": 60}, notify=told.append), make_wish())
    assert slot.error is None and 40 <= clock.now < 60
    assert any("no capacity" in line and "of 60 s" in line for line in told)


def test_a_price_above_the_cap_after_the_create_is_given_back(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    plan = engine.plan

    def and_then_dearer(wish: Any) -> Any:
        offers = plan(wish)
        rehearsal.control("POST", "/market", {"gpu": GPU, "price": "2.00"})
        return offers

    engine.plan = and_then_dearer  # type: ignore[method-assign]
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, errors.UsageError)
    assert "2.0000 $/h, above max_usd_per_hour 1.5000; it was given back" in str(slot.error)
    assert rehearsal.pods() == [] and states(engine) == ["released"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_usd_per_hour": Decimal("0.01")}, "below every offer of runpod that fits; the cheapest is 1 x RTX 4090 at 0.5900"),
        ({"gpus": ("RTX 4O90",)}, "nearest: RTX 4090"),
        ({"gpus": ("L40",), "options": {"cloud_type": "secure", "min_vram_gib": 100}}, "100 GiB"),
        ({"gpu_count": 16}, "offers no pod with 16 x"),
        ({"count": 0}, "count is 0; it must be between 1 and 200"),
        ({"count": 201}, "between 1 and 200"),
        ({"gpu_count": -1}, "gpu_count is -1"),
        ({"disk_gib": 0}, "disk_gib is 0"),
        ({"volume_gib": -1}, "volume_gib is -1"),
        ({"max_usd_per_hour": Decimal(0)}, "must be above 0"),
        ({"run_id": "../x"}, "not a safe file name"),
        ({"run_id": "a..b"}, "not a safe file name"),
        ({"run_id": ""}, "not a safe file name"),
        ({"run_id": "x" * 61}, "not a safe file name"),
        ({"name": "Trainer-1"}, "lower-case letters and digits"),
        ({"ports": ("22",)}, "22/tcp"),
        ({"ports": ("22/tcp", "65536/tcp")}, "between 1 and 65535"),
        ({"ports": ("22/tcp", "99999/http")}, "between 1 and 65535"),
        ({"volume_gib": 10, "volume_path": "workspace"}, "absolute path"),
        ({"secret_env": {"TOKEN": "short"}}, "shorter than 8"),
    ],
)
def test_a_bad_wish_is_refused_before_anything_is_rented(engine: Engine, rehearsal: Any, make_wish: MakeWish, change: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        engine.rent(make_wish(**change), check_mode=False)
    assert words in str(caught.value) and "short" not in str(caught.value).replace("shorter", "")
    assert rehearsal.writes() == [] and not engine.ledger.path.exists()


# ---- groups -------------------------------------------------------------------------------------------


def test_a_group_is_one_call_and_one_failure_stays_in_its_slot(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("no_capacity", match={"pod": "-pod-3-"})
    slots = engine.rent(make_wish(count=5), check_mode=False)
    assert [slot.index for slot in slots] == [0, 1, 2, 3, 4]
    assert [slot.error.code if slot.error else slot.after.state for slot in slots] == ["running"] * 3 + ["no_capacity"] + ["running"]
    assert sorted(pod["name"].split("-")[3] for pod in rehearsal.pods()) == ["0", "1", "2", "4"]
    healed = engine.rent(make_wish(count=5), check_mode=False)
    assert [slot.changed for slot in healed] == [False] * 3 + [True] + [False] and all(slot.error is None for slot in healed)
    assert len(rehearsal.pods()) == 5 and len(rehearsal.writes()) == 6


# ---- a bad host -------------------------------------------------------------------------------------------


class Login:
    """SSH as a test wants it: the pods with these endings of their life never answer."""

    def __init__(self, deaf: int) -> None:
        self.deaf = deaf
        self.ids: list[str] = []
        self.forgotten: list[str] = []
        self.known_hosts_file = "/dev/null"

    def probe(self, pod_id: str, endpoint: Any, run_id: str) -> str:
        if pod_id not in self.ids:
            self.ids.append(pod_id)
        return "connection refused" if self.ids.index(pod_id) < self.deaf else ""

    def forget(self, pod_id: str) -> None:
        self.forgotten.append(pod_id)


def test_a_bad_host_is_given_back_and_drawn_again_once(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    login = Login(deaf=1)
    engine = make_engine(ssh=login, waits={"sshd": 20})
    slot = rent(engine, make_wish(gpus=("RTX 4090", "L40S")))
    assert slot.error is None and slot.after.id == login.ids[1] and slot.after.gpu == OTHER, "the other offer is tried first"
    assert states(engine) == ["released", "leased"] and [pod["id"] for pod in rehearsal.pods()] == [login.ids[1]]
    assert any("connection refused" in note and login.ids[0] in note for note in slot.notes)
    assert login.forgotten == [login.ids[0]]


def test_two_bad_hosts_are_enough(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    engine = make_engine(ssh=Login(deaf=9), waits={"sshd": 20})
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, errors.WaitTimeout) and "SSH login" in str(slot.error)
    assert states(engine) == ["released", "released"] and rehearsal.pods() == []


# ---- stop and start -----------------------------------------------------------------------------------------


def test_stop_is_read_back_and_start_makes_it_run_again(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    login = Login(deaf=0)
    engine = make_engine(ssh=login)
    pod = rent(engine, make_wish()).after
    stopped = engine.stop(engine.ledger.leases()[0])
    assert stopped is not None and stopped.state == "stopped" and stopped.endpoint is None and states(engine) == ["stopped"]
    assert engine.stop(engine.ledger.leases()[0]).state == "stopped"  # type: ignore[union-attr]
    again = rent(engine, make_wish())
    assert again.changed and again.after.id == pod.id and again.before.state == "stopped" and again.after.state == "running"
    assert states(engine) == ["leased"] and login.forgotten == [pod.id], "new host keys come with each start"
    assert rehearsal.writes() == [("POST", "/v2/pods"), ("POST", f"/v2/pods/{pod.id}/action"), ("POST", f"/v2/pods/{pod.id}/action")]


def test_a_host_that_is_full_at_start_keeps_the_lease(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rent(engine, make_wish())
    engine.stop(engine.ledger.leases()[0])
    rehearsal.control("POST", "/market", {"gpu": GPU, "stock": 0})
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, errors.NoCapacity) and len(rehearsal.pods()) == 1
    assert engine.ledger.leases()[0].open


def test_a_pod_that_vanishes_while_it_stops_is_gone(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish()).after
    real = engine.cloud.stop

    def stop(pod_id: str) -> None:
        real(pod_id)
        rehearsal.control("POST", f"/pods/{pod_id}/remove")

    engine.cloud.stop = stop  # type: ignore[method-assign]
    assert engine.stop(engine.ledger.leases()[0]) is None, pod.id
    assert states(engine) == ["released"]


def test_a_preempted_pod_is_started_and_a_vanished_one_replaced(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    pod = rent(engine, make_wish()).after
    rehearsal.control("POST", f"/pods/{pod.id}/preempt")
    back = rent(engine, make_wish())
    assert back.error is None and back.after.id == pod.id and back.changed
    rehearsal.control("POST", f"/pods/{pod.id}/remove")
    fresh = rent(engine, make_wish())
    assert fresh.error is None and fresh.after.id != pod.id and states(engine) == ["released", "leased"]


def test_an_empty_listing_is_waited_out_before_a_second_create(engine: Engine, rehearsal: Any, make_wish: Callable[..., Any]) -> None:
    """The account's first pod, its answer lost, its listing late: nothing known can vouch for the listing."""
    rehearsal.fault("no_reply")
    rehearsal.fault("empty_list", times=10)
    (slot,) = engine.rent(make_wish(), check_mode=False)
    assert slot.error is None and [row["id"] for row in rehearsal.pods()] == [slot.after.id]
    assert len(rehearsal.requests("POST")) == 1


def test_a_pod_that_fails_while_starting_is_drawn_once_more(engine: Engine, rehearsal: Any, make_wish: Callable[..., Any]) -> None:
    get, seen = engine.cloud.get, []

    def failing(pod_id: str) -> Any:
        pod = get(pod_id)
        seen.append(pod_id)
        return replace(pod, state=model.FAILED, provider_status="ERROR") if pod_id == seen[0] else pod

    engine.cloud.get = failing
    (slot,) = engine.rent(make_wish(), check_mode=False)
    engine.cloud.get = get
    assert slot.error is None and slot.after.id != seen[0]
    assert any("ended while it was starting" in note for note in slot.notes)


def test_a_container_that_ends_each_time_it_starts_is_recognised(engine: Engine, rehearsal: Any, make_wish: Callable[..., Any]) -> None:
    """By its falling uptime: the status says RUNNING all the while, and it is billed. Another host would start the same container."""
    get, uptimes = engine.cloud.get, iter([4, 9, None, 2, 5, 8, 1, 3])

    def looping(pod_id: str) -> Any:
        return replace(get(pod_id), state=model.RUNNING, endpoint=None, uptime_seconds=next(uptimes, 3))

    engine.cloud.get = looping
    engine.cloud.last_words = lambda pod_id: ("start container", "container exited with 127")
    (slot,) = engine.rent(make_wish(), check_mode=False)
    del engine.cloud.get, engine.cloud.last_words
    assert isinstance(slot.error, errors.CrashLoop)
    assert "its container ended 2 times" in str(slot.error) and "container exited with 127" in str(slot.error)
    assert states(engine) == ["released"] and rehearsal.pods() == [] and len(rehearsal.requests("POST")) == 1


def test_an_image_that_cannot_be_pulled_is_told_by_the_system_log(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    """The status never tells it, and the pod is billed meanwhile: there is a time limit, and the provider's own log in the message."""
    rehearsal.fault("image_pull", times=None)
    slot = rent(make_engine(waits={"boot": 20}), make_wish(image=DEFAULT_IMAGE))
    assert isinstance(slot.error, errors.WaitTimeout) and "to run" in str(slot.error)
    said = f"runpod's system log, newest line first: error pulling image: manifest for {DEFAULT_IMAGE} not found: manifest unknown | start container"
    assert said in str(slot.error) and str(slot.error).endswith("check `image` and, where it is private, `runpod.registry`")
    assert rehearsal.pods() == [] and "manifest unknown" in errors.clean_text(slot.notes[0])


def test_a_pod_whose_image_came_at_last_is_not_told_to_change_it(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish) -> None:
    rehearsal.fault("image_pull", times=None)
    engine = make_engine(waits={"boot": 20})
    engine.cloud.last_words = lambda pod_id: ("error pulling image: registry timed out", "start container for me/chess:1: begin")
    slot = rent(engine, make_wish())
    del engine.cloud.last_words
    assert "start container for me/chess:1: begin | error pulling" in str(slot.error) and "check `image`" not in str(slot.error)


def test_a_pod_that_comes_back_without_its_gpus_is_no_success(engine: Engine, rehearsal: Any, make_wish: MakeWish) -> None:
    rent(engine, make_wish(gpu_count=2))
    engine.stop(engine.ledger.leases()[0])
    get = engine.cloud.get
    engine.cloud.get = lambda pod_id: replace(get(pod_id), gpu_count=0)
    (slot,) = engine.rent(make_wish(gpu_count=2), check_mode=False)
    del engine.cloud.get
    assert isinstance(slot.error, errors.PodFailed) and "came back with 0 of 2 GPUs" in str(slot.error)
    assert [pod["status"] for pod in rehearsal.pods()] == ["EXITED"] and states(engine) == ["stopped"], "what is on its volume may be wanted"


@pytest.mark.parametrize("stops", [True, False])
def test_a_kept_pod_that_does_not_come_up_again_costs_no_gpu(
    make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """It is stopped and kept as it was; where that cannot be done, it is not spared when the run is given back."""
    engine = make_engine(waits={"stop": 5})
    pod = rent(engine, make_wish()).after
    engine.stop(engine.ledger.leases()[0])
    engine.ledger.write(engine.ledger.leases()[0].stamp, "mark", kept=True)

    def broken(lease: Any, seen: Any) -> None:
        (now,) = engine.ledger.leases()
        assert now.state == "leased" and not now.marks["kept"], "who is killed here leaves it to the keeper"
        raise errors.PodFailed("no GPUs")

    monkeypatch.setattr(engine, "_check_gpus", broken)
    if not stops:
        monkeypatch.setattr(engine.cloud, "stop", lambda pod_id: None)
    slot = rent(engine, make_wish())
    assert isinstance(slot.error, errors.PodFailed) and slot.error.message == "no GPUs"
    (lease,) = engine.ledger.leases()
    assert bool(lease.marks["kept"]) is stops and (lease.stopped_at is not None) is stops
    engine.release_run("r1", spare_kept=True)
    assert [(one["id"], one["status"]) for one in rehearsal.pods()] == ([(pod.id, "EXITED")] if stops else [])


def test_a_pod_that_another_command_gives_back_while_it_starts_is_left_to_it(engine: Engine, make_wish: MakeWish, monkeypatch: pytest.MonkeyPatch) -> None:
    rent(engine, make_wish())
    engine.stop(engine.ledger.leases()[0])

    def meanwhile(lease: Any, seen: Any) -> None:
        engine.ledger.write(lease.stamp, "releasing", pod_id=seen.id)
        raise errors.PodFailed("no GPUs")

    monkeypatch.setattr(engine, "_check_gpus", meanwhile)
    assert isinstance(rent(engine, make_wish()).error, errors.PodFailed) and states(engine) == ["releasing"]


@pytest.mark.parametrize("honest", [True, False])
def test_a_restart_is_proven_by_a_later_start(make_engine: Callable[..., Engine], rehearsal: Any, make_wish: MakeWish, honest: bool) -> None:
    """RunPod's older API answered 200 and did nothing."""
    login = Login(deaf=0)
    engine = make_engine(ssh=login, waits={"stop": 20})
    pod = rent(engine, make_wish()).after
    if not honest:
        engine.cloud.restart = lambda pod_id: None
        with pytest.raises(errors.WaitTimeout, match=f"pod {pod.id} to restart"):
            engine.restart(engine.ledger.leases()[0])
        return
    again = engine.restart(engine.ledger.leases()[0])
    assert again.id == pod.id and again.started_at > pod.started_at and again.state == "running" and login.forgotten == [pod.id]
    assert rehearsal.writes()[1:] == [("POST", f"/v2/pods/{pod.id}/action")]
    engine.stop(engine.ledger.leases()[0])
    with pytest.raises(errors.UsageError, match="it is stopped.*start.yml"):
        engine.restart(engine.ledger.leases()[0])


def test_a_create_that_comes_true_after_its_controller_was_killed_is_adopted(
    engine: Engine, rehearsal: Any, make_wish: MakeWish, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud goes on with what it was asked for, here for half a minute; two listings without the pod prove nothing so early."""
    lease = engine.ledger.begin("r1", "pod", 0, engine.cloud.key_id, {}, model.utc_now() + timedelta(hours=1))
    engine.ledger.write(lease.stamp, "attempt", gpu="x")
    rehearsal.control("POST", "/pods/bulk", {"names": ["somebody"]})
    sleep, late = clock.sleep, clock.monotonic() + 30

    def slept(seconds: float) -> None:
        sleep(seconds)
        if clock.monotonic() >= late and len(rehearsal.pods()) == 1:
            rehearsal.control("POST", "/pods/bulk", {"names": [str(lease.stamp)]})

    monkeypatch.setattr(clock, "sleep", slept)
    (slot,) = engine.rent(make_wish(), check_mode=False)
    assert slot.error is None and slot.after is not None and slot.after.name == str(lease.stamp)
    assert sorted(pod["name"] for pod in rehearsal.pods()) == [str(lease.stamp), "somebody"]
