# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault matrix: every call of one cycle, times everything that can go wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.scene import REQUEST_TIMEOUT, Scene, Verdict, judge, judge_healed, staged

from support.harness import Rehearsal

SILENCE = REQUEST_TIMEOUT + 0.5
ANY = {"method": "", "path": ""}
FOREVER = None


@dataclass(frozen=True)
class Kind:
    """Something that goes wrong at one call. `survived`: the run must end well, for a call with this method."""

    name: str
    arm: Callable[[Scene, int], None]
    methods: tuple[str, ...] = ("GET", "POST", "DELETE")
    survived: tuple[str, ...] = ()


def server(kind: str, times: int | None = 1, **params: Any) -> Callable[[Scene, int], None]:
    """A fault of the rehearsal cloud at the n-th request, whatever it is; strangers' requests came before."""

    def arm(scene: Scene, call: int) -> None:
        scene.rehearsal.fault(kind, match=ANY, times=times, after_n=call, params=params)

    return arm


def armed_at(kind: str, times: int | None = 1, **params: Any) -> Callable[[Scene, int], None]:
    """A fault that hits the calls that it is made for, from this call on."""

    def arm(scene: Scene, call: int) -> None:
        scene.before[call] = lambda: scene.rehearsal.fault(kind, times=times, params=params)

    return arm


def refuse(times: int) -> Callable[[Scene, int], None]:
    def arm(scene: Scene, call: int) -> None:
        scene.refused = frozenset(range(call, call + times))

    return arm


def restart(scene: Scene, call: int) -> None:
    """The cloud's API crashes and comes back; its pods go on."""

    def crash() -> None:
        scene.rehearsal.kill()
        scene.rehearsal.start()

    scene.before[call] = crash


def act(verb: str) -> Callable[[Scene, int], None]:
    """Our pod's fate changes right before a call."""

    def arm(scene: Scene, call: int) -> None:
        def strike() -> None:
            for pod in scene.ours():
                if verb != "preempt" or pod["status"] == "RUNNING":
                    scene.rehearsal.control("POST", f"/pods/{pod['id']}/{verb}", {})

        scene.before[call] = strike

    return arm


def namesake(scene: Scene, call: int) -> None:
    """A stranger's pod takes the very name of ours."""

    def strike() -> None:
        for lease in scene.ledger().leases()[-1:]:
            scene.strangers.append(scene.stranger(str(lease.stamp)))

    scene.before[call] = strike


READS = ("GET",)
KINDS = (
    Kind("connection refused", refuse(1), survived=("GET", "POST", "DELETE")),
    Kind("connection refused for ever", refuse(10_000)),
    Kind("the cloud's API crashes and restarts", restart, survived=("GET", "POST", "DELETE")),
    Kind("time-out before the effect", server("timeout_before_effect", seconds=SILENCE), survived=READS),
    Kind("time-out after the effect", server("no_reply", seconds=SILENCE), survived=("GET", "POST", "DELETE")),
    Kind("hung up before the effect", server("timeout_before_effect", seconds=0), survived=READS),
    Kind("hung up before the effect, for ever", server("timeout_before_effect", FOREVER, seconds=0)),
    Kind("hung up after the effect", server("no_reply", seconds=0), survived=("GET", "POST", "DELETE")),
    Kind("hung up after the effect, for ever", server("no_reply", FOREVER, seconds=0)),
    Kind("reply cut at byte 0", server("reply_cut", bytes=0), survived=("GET", "POST", "DELETE")),
    Kind("reply cut at byte 1", server("reply_cut", bytes=1), survived=("GET", "POST", "DELETE")),
    Kind("reply cut at byte 40", server("reply_cut", bytes=40), survived=("GET", "POST", "DELETE")),
    Kind("500 without effect", server("error_500"), survived=READS),
    Kind("500 four times", server("error_500", 4)),
    Kind("500 for ever", server("error_500", FOREVER)),
    Kind("500 although it took effect", server("error_500_after_effect"), survived=("GET", "POST", "DELETE")),
    Kind("500 although it took effect, for ever", server("error_500_after_effect", FOREVER)),
    Kind("429 with Retry-After", server("429", retry_after=7), survived=("GET", "POST", "DELETE")),
    Kind("429 without Retry-After", server("429", retry_after=None), survived=("GET", "POST", "DELETE")),
    Kind("429 for ever", server("429", FOREVER, retry_after=None)),
    Kind("401 in mid-run", server("error_401")),
    Kind("401 for ever", server("error_401", FOREVER)),
    Kind("a proxy's 403", server("proxy_403")),
    Kind("402, no balance", armed_at("balance_402")),
    Kind("the id is missing", armed_at("schema_changed", drop=["id"])),
    Kind("the id is missing for ever", armed_at("schema_changed", FOREVER, drop=["id"])),
    Kind("the status is missing", armed_at("schema_changed", drop=["status"])),
    Kind("the name has another name", armed_at("schema_changed", 3, rename={"name": "label"})),
    Kind("an empty list", armed_at("empty_list")),
    Kind("empty lists for ever", armed_at("empty_list", FOREVER)),
    Kind("lists lag", armed_at("list_lag", requests=3)),
    Kind("lists lag for long", armed_at("list_lag", FOREVER, requests=1000)),
    Kind("no capacity anywhere", armed_at("no_capacity", FOREVER)),
    Kind("no capacity for the first choice", armed_at("no_capacity", FOREVER, gpu="NVIDIA GeForce RTX 4090"), survived=("GET", "POST", "DELETE")),
    Kind("a stranger's pod bears our name", namesake),
    Kind("our pod is gone", act("remove")),
    Kind("our pod's host dies", act("kill_host")),
    Kind("our pod is preempted", act("preempt")),
    Kind("delete accepted, pod alive", armed_at("delete_accepted_but_alive", 3), survived=("GET", "POST", "DELETE")),
    Kind("delete accepted, pod alive for ever", armed_at("delete_accepted_but_alive", FOREVER)),
    Kind("delete refused for a while", armed_at("delete_refused", 3, status=409), survived=("GET", "POST", "DELETE")),
    Kind("delete fails for a while", armed_at("delete_refused", 3, status=500), survived=("GET", "POST", "DELETE")),
    Kind("delete refused for ever", armed_at("delete_refused", FOREVER, status=409)),
    Kind("delete forbidden", armed_at("delete_refused", FOREVER, status=403)),
)


@dataclass
class Case:
    """A number names it for good: the same seed and number are the same case."""

    number: int
    cloud: str
    strikes: list[tuple[Kind, int]] = field(default_factory=list)
    must_pass: bool = False

    @property
    def title(self) -> str:
        return f"{self.cloud}: " + " and ".join(f"{kind.name} at call {call}" for kind, call in self.strikes)


def reference(cloud: str, rehearsal: Rehearsal, folder: Path) -> list[tuple[str, str]]:
    """The calls of an undisturbed cycle: the shortest of three, since a slow machine looks once more while a pod boots."""
    return min((_undisturbed(cloud, rehearsal, folder) for _turn in range(3)), key=len)


def _undisturbed(cloud: str, rehearsal: Rehearsal, folder: Path) -> list[tuple[str, str]]:
    """That it passes is the first thing to be shown."""
    scene = Scene.fresh(cloud, rehearsal, folder)
    with staged(scene):
        failed = scene.cycle()
        verdict = judge(scene, failed, must_pass=True)
        judge_healed(scene, verdict)
    if verdict.faults:
        raise AssertionError("; ".join(verdict.faults))
    return scene.log[: verdict.calls]


def matrix(cloud: str, calls: list[tuple[str, str]], seed: int, pairs: int) -> list[Case]:
    """Each kind at each call, then seeded pairs of kinds."""
    cases = [Case(0, cloud, [(kind, call)], method in kind.survived) for kind in KINDS for call, (method, _path) in enumerate(calls)]
    dice = random.Random(seed)
    for _turn in range(pairs):
        strikes = sorted(((dice.choice(KINDS), dice.randrange(len(calls))) for _strike in range(2)), key=lambda strike: strike[1])
        cases.append(Case(0, cloud, strikes))
    for number, case in enumerate(cases):
        case.number = number
    return cases


def run(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    """One case in a fresh scene."""
    scene = Scene.fresh(case.cloud, rehearsal, folder)
    for kind, call in case.strikes:
        kind.arm(scene, call)
    with staged(scene):
        verdict = judge(scene, scene.cycle(), must_pass=case.must_pass)
        return judge_healed(scene, verdict)
