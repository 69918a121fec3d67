# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting on a clock that only tests move, and getting ready phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _gateway_link
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._ready import Readiness
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Pace, wait_for

ADDRESS = model.Endpoint("203.0.113.7", 10341)
STARTING = model.Pod("runpod", "p1", "n", model.STARTING, "PROVISIONING", usd_per_hour=Decimal("3.6"))
RUNNING = replace(STARTING, state=model.RUNNING, provider_status="RUNNING")
READY = replace(RUNNING, endpoint=ADDRESS)


def wait(clock: Any, look: Callable[[], Any], seconds: float, **more: Any) -> Any:
    return wait_for(look, lambda seen: seen is True, timeout_seconds=seconds, phase="the moon", describe=str, clock=clock, **more)


def test_what_is_there_needs_no_wait(clock: Any) -> None:
    assert wait(clock, lambda: True, 0) is True
    assert clock.slept == []


def test_polls_quickly_first_and_looks_once_more_at_the_very_end(clock: Any) -> None:
    looks: list[float] = []

    def look() -> str:
        looks.append(clock.now)
        return f"at {clock.now:.0f}"

    with pytest.raises(errors.WaitTimeout) as caught:
        wait(clock, look, 20, pace=Pace(1, 2, 5))
    assert looks == [0, 1, 3, 7, 12, 17, 20]
    assert caught.value.details == {"phase": "the moon", "elapsed_seconds": 20, "timeout_seconds": 20, "last_seen": "at 20"}
    assert str(caught.value) == "waited 20 s for the moon; last seen: at 20; type the same command again: it goes on where it was"


def test_what_comes_at_the_very_end_counts(clock: Any) -> None:
    assert wait(clock, lambda: clock.now >= 20, 20) is True


def test_a_slow_look_counts_as_time(clock: Any) -> None:
    def look() -> bool:
        clock.now += 30
        return False

    with pytest.raises(errors.WaitTimeout):
        wait(clock, look, 20)
    assert clock.now == 30


class Scripted:
    """A cloud that shows one pod as told, step by step, the last step for ever."""

    name = "runpod"

    def last_words(self, pod_id: str) -> tuple[str, ...]:
        return ()

    def __init__(self, *steps: Any) -> None:
        self._steps: Iterator[Any] = iter(steps)
        self._last: Any = None
        self.looks = 0

    def get(self, pod_id: str) -> model.Pod:
        self.looks += 1
        self._last = next(self._steps, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last


@pytest.fixture
def readiness(state: Any, clock: Any) -> Callable[..., Any]:
    ledger = Ledger(state, "runpod", "http://127.0.0.1:1/v2")

    def make(*steps: Any, probe: Callable[[], str] | None = None, waits: tuple[float, float, float] = (100, 30, 10), via: str = "auto") -> Any:
        lease = ledger.begin("r1", "pod", 0, "key", {}, model.utc_now() + timedelta(hours=1))
        told: list[str] = []
        ssh = SimpleNamespace(probe=lambda pod_id, endpoint, run_id: probe()) if probe else None
        ready = Readiness(Scripted(*steps), ledger, ssh, clock, *waits, told.append, via)  # type: ignore[arg-type]
        return SimpleNamespace(go=lambda: ready.wait_ready(lease, STARTING), told=told, cloud=ready.cloud, lease=lambda: ledger.lease(lease.stamp))

    return make


def test_ready_means_running_with_an_address_and_a_login(readiness: Callable[..., Any]) -> None:
    answers = iter(["connection refused", "permission denied", ""])
    case = readiness(STARTING, STARTING, RUNNING, RUNNING, READY, probe=lambda: next(answers))
    assert case.go() == READY
    assert next(answers, "none left") == "none left"


GATEWAY = model.Endpoint("ssh.runpod.io", 22, "p1-0a1b2c3d", "gateway")
BEHIND = replace(RUNNING, gateway=GATEWAY, ports=("8888/http",))


@pytest.mark.parametrize(
    ("pod", "via", "reached"),
    [
        (BEHIND, "auto", GATEWAY),
        (BEHIND, "gateway", GATEWAY),
        (replace(BEHIND, ports=("22/tcp",)), "auto", GATEWAY),
        (replace(BEHIND, ports=("22/tcp",), endpoint=ADDRESS), "auto", ADDRESS),
        (replace(BEHIND, ports=("22/tcp",), endpoint=ADDRESS), "gateway", GATEWAY),
        (BEHIND, "direct", None),
        (replace(BEHIND, gateway=None), "auto", None),
    ],
)
def test_the_way_to_a_pod(readiness: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, pod: Any, via: str, reached: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(_gateway_link, "probe_gateway", lambda endpoint, access: asked.append(endpoint) or "")
    case = readiness(pod, probe=lambda: "", via=via)
    if reached is None:
        with pytest.raises(errors.WaitTimeout, match="to show an SSH address"):
            case.go()
        assert asked == []
        return
    assert case.go() == replace(pod, endpoint=reached)
    assert case.lease().marks.get("ssh_via") == ("gateway" if reached is GATEWAY else None)
    assert asked == ([GATEWAY] if reached is GATEWAY else [])
    assert sum("goes through the gateway ssh.runpod.io" in line for line in case.told) == (reached is GATEWAY)


def test_without_a_login_to_prove_it_the_gateway_is_no_way_out(readiness: Callable[..., Any]) -> None:
    with pytest.raises(errors.WaitTimeout, match="to show an SSH address"):
        readiness(replace(BEHIND, ports=("22/tcp",))).go()


@pytest.mark.parametrize(
    ("steps", "phase", "seconds"),
    [((STARTING,), "to run", 100), ((STARTING, RUNNING), "to show an SSH address", 30), ((STARTING, RUNNING, READY), "to accept an SSH login", 10)],
)
def test_each_phase_has_a_clock_of_its_own(readiness: Callable[..., Any], steps: tuple[Any, ...], phase: str, seconds: float) -> None:
    case = readiness(*steps, probe=lambda: "connection refused")
    with pytest.raises(errors.WaitTimeout) as caught:
        case.go()
    assert phase in str(caught.value) and caught.value.details["timeout_seconds"] == seconds
    assert caught.value.details["last_seen"] == ("connection refused" if phase.endswith("login") else steps[-1].provider_status)


def test_time_spent_in_one_phase_is_not_taken_from_the_next(readiness: Callable[..., Any], clock: Any) -> None:
    class Slow(Scripted):
        def get(self, pod_id: str) -> model.Pod:
            return STARTING if clock.now < 99 else RUNNING if clock.now < 125 else READY

    case = readiness(probe=lambda: "" if clock.now > 133 else "not yet")
    object.__setattr__(case.cloud, "get", Slow().get)
    assert case.go() == READY


def test_an_address_that_goes_away_again_is_waited_for(readiness: Callable[..., Any]) -> None:
    assert readiness(READY, READY, RUNNING, RUNNING, READY, probe=lambda: "").go() == READY


@pytest.mark.parametrize(("uptimes", "loops"), [((50, 1, 2, 1), True), ((50, 40, 60, 45, 70), False)])
def test_a_replica_that_lags_behind_is_no_crash_loop(readiness: Callable[..., Any], uptimes: tuple[int, ...], loops: bool) -> None:
    case = readiness(*[replace(RUNNING, uptime_seconds=seconds) for seconds in uptimes], replace(READY, uptime_seconds=uptimes[-1] + 1), probe=lambda: "")
    if loops:
        with pytest.raises(errors.CrashLoop, match="again and again"):
            case.go()
    else:
        assert case.go().endpoint == ADDRESS


def test_one_miss_is_not_the_end_and_two_in_a_row_are(readiness: Callable[..., Any]) -> None:
    gone = errors.NotFound("not found")
    assert readiness(STARTING, gone, STARTING, gone, READY).go() == READY
    case = readiness(STARTING, gone, gone)
    with pytest.raises(errors.CloudError, match="gone while it was starting"):
        case.go()
    assert case.cloud.looks == 3 and case.lease().state == "released"


@pytest.mark.parametrize("ended", [model.STOPPED, model.FAILED, model.GONE])
def test_a_pod_that_ends_while_it_starts_is_told_at_once(readiness: Callable[..., Any], clock: Any, ended: str) -> None:
    case = readiness(STARTING, replace(STARTING, state=ended, provider_status="EXITED"))
    with pytest.raises(errors.CloudError, match="ended while it was starting: EXITED") as caught:
        case.go()
    assert not isinstance(caught.value, errors.WaitTimeout) and clock.now < 5


def test_an_unknown_status_is_waited_for(readiness: Callable[..., Any]) -> None:
    assert readiness(replace(STARTING, state=model.UNKNOWN), READY).go() == READY


@pytest.mark.parametrize("trouble", [errors.ServerError, errors.NoReply, errors.Unreachable, errors.RateLimited, errors.SchemaError])
def test_an_api_that_is_down_for_a_while_says_nothing_about_the_pod(readiness: Callable[..., Any], trouble: type[errors.CloudError]) -> None:
    assert readiness(STARTING, trouble("HTTP 500"), trouble("HTTP 500"), RUNNING, trouble("HTTP 500"), READY, probe=lambda: "").go() == READY
    with pytest.raises(errors.WaitTimeout, match="PROVISIONING; HTTP 500"):
        readiness(STARTING, trouble("HTTP 500")).go()


def test_a_key_that_is_taken_away_ends_the_wait(readiness: Callable[..., Any]) -> None:
    with pytest.raises(errors.Unauthorized):
        readiness(STARTING, errors.Unauthorized("HTTP 401")).go()


def test_a_wait_says_what_it_waits_for_how_long_and_what_it_has_cost(readiness: Callable[..., Any]) -> None:
    case = readiness(STARTING, probe=lambda: "")
    with pytest.raises(errors.WaitTimeout):
        case.go()
    assert 5 < len(case.told) < 25
    assert "waiting for pod p1 to run" in case.told[-1] and "of at most 100 s" in case.told[-1] and "0.09" in case.told[-1]
