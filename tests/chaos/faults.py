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

from chaos.scene import REQUEST_TIMEOUT, RUN, Scene, Verdict, judge, judge_cause, judge_healed, staged

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _ssh
from support.harness import Rehearsal

SILENCE = REQUEST_TIMEOUT + 0.5
ANY = {"method": "", "path": ""}
FOREVER = None


@dataclass(frozen=True)
class Kind:
    """Something that goes wrong at one call. `survived`: the run must end well, for a call with this method.

    `sure`: it strikes at whatever call it is armed for; others need a call of their own kind to come.
    `cause`: words of which one stands in what a failing run says.
    """

    name: str
    arm: Callable[[Scene, int], None]
    methods: tuple[str, ...] = ("GET", "POST", "DELETE")
    survived: tuple[str, ...] = ()
    sure: bool = False
    cause: str = "none: every call of it is survived"


def server(kind: str, times: int | None = 1, **params: Any) -> Callable[[Scene, int], None]:
    """A fault of the rehearsal cloud at a request, whatever it is; one that spoils an effect waits for the next that has one."""
    return armed_at(kind, times, ANY, **params)


def armed_at(kind: str, times: int | None = 1, match: dict[str, str] | None = None, **params: Any) -> Callable[[Scene, int], None]:
    """A fault that hits the calls that it is made for, from this call on."""

    def arm(scene: Scene, call: int) -> None:
        scene.at(call, lambda: scene.rehearsal.fault(kind, match=match or {}, times=times, params=params))

    return arm


def refuse(times: int) -> Callable[[Scene, int], None]:
    def arm(scene: Scene, call: int) -> None:
        scene.refused = frozenset(range(call, call + times))

    return arm


def restart(scene: Scene, call: int) -> None:
    """The cloud's API crashes and comes back; its pods go on."""

    def crash() -> None:
        scene.hits += 1
        scene.rehearsal.kill()
        scene.rehearsal.start()

    scene.at(call, crash)


def act(verb: str) -> Callable[[Scene, int], None]:
    """Our pod's fate changes right before a call."""

    def arm(scene: Scene, call: int) -> None:
        def strike() -> None:
            for pod in scene.ours():
                if verb != "preempt" or pod["status"] == "RUNNING":
                    scene.hits += 1
                    scene.rehearsal.control("POST", f"/pods/{pod['id']}/{verb}", {})

        scene.at(call, strike)

    return arm


def namesake(scene: Scene, call: int) -> None:
    """A stranger's pod takes the very name of ours."""

    def strike() -> None:
        for lease in scene.ledger().leases()[-1:]:
            scene.hits += 1
            scene.strangers.append(scene.stranger(str(lease.stamp)))

    scene.at(call, strike)


def login(answer: Callable[[str, float, float], str]) -> Callable[[Scene, int], None]:
    """From a call on, every SSH login to a pod meets `answer`, which gets its id, the time, and the time of its first login."""

    def arm(scene: Scene, call: int) -> None:
        scene.sshd = lambda pod_id, now: ""
        began: dict[str, float] = {}

        def troubled(pod_id: str, now: float) -> str:
            scene.hits += 1
            return answer(pod_id, now, began.setdefault(pod_id, now))

        scene.at(call, lambda: setattr(scene, "sshd", troubled))

    return arm


def another_key(pod_id: str, now: float, began: float) -> str:
    raise errors.StrangeHostKey(_ssh.identity_trouble("Host key verification failed", pod_id, "known_hosts", RUN), pod_id=pod_id)


READS = ("GET",)
KINDS = (
    Kind("connection refused", refuse(1), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("connection refused for ever", refuse(10_000), sure=True, cause="Connection refused"),
    Kind("the cloud's API crashes and restarts", restart, survived=("GET", "POST", "DELETE"), sure=True),
    Kind("time-out before the effect", server("timeout_before_effect", seconds=SILENCE), survived=READS, sure=True),
    Kind("time-out after the effect", server("no_reply", seconds=SILENCE), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("hung up before the effect", server("timeout_before_effect", seconds=0), survived=READS, sure=True),
    Kind("hung up before the effect, for ever", server("timeout_before_effect", FOREVER, seconds=0), sure=True, cause=r"no whole answer \(Remote end closed"),
    Kind("hung up after the effect", server("no_reply", seconds=0), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("hung up after the effect, for ever", server("no_reply", FOREVER, seconds=0), sure=True, cause=r"no whole answer \(Remote end closed"),
    Kind("reply cut at byte 0", server("reply_cut", bytes=0), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("reply cut at byte 1", server("reply_cut", bytes=1), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("reply cut at byte 40", server("reply_cut", bytes=40), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("500 without effect", server("error_500"), survived=READS, sure=True),
    Kind("500 four times", server("error_500", 4), sure=True, cause="HTTP 500"),
    Kind("500 for ever", server("error_500", FOREVER), sure=True, cause="HTTP 500"),
    Kind("500 although it took effect", server("error_500_after_effect"), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("500 although it took effect, for ever", server("error_500_after_effect", FOREVER), sure=True, cause="HTTP 500"),
    Kind("429 with Retry-After", server("429", retry_after=7), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("429 without Retry-After", server("429", retry_after=None), survived=("GET", "POST", "DELETE"), sure=True),
    Kind("429 for ever", server("429", FOREVER, retry_after=None), sure=True, cause="HTTP 429: too many requests"),
    Kind("401 in mid-run", server("error_401"), sure=True, cause="HTTP 401: .*key is invalid"),
    Kind("401 for ever", server("error_401", FOREVER), sure=True, cause="HTTP 401: .*key is invalid"),
    Kind("a proxy's 403", server("proxy_403"), sure=True, cause="HTTP 403 from something that is not the API"),
    Kind("402, no balance", armed_at("balance_402"), cause="HTTP 402: .*balance is too low"),
    Kind("the id is missing", armed_at("schema_changed", drop=["id"]), cause="without a usable id"),
    Kind("the id is missing for ever", armed_at("schema_changed", FOREVER, drop=["id"]), cause="without a usable id"),
    Kind("the status is missing", armed_at("schema_changed", drop=["status"]), cause="without a usable id, name or status"),
    Kind("the name has another name", armed_at("schema_changed", 3, rename={"name": "label"}), cause="without a usable id, name"),
    Kind("an empty list", armed_at("empty_list")),
    Kind("empty lists for ever", armed_at("empty_list", FOREVER)),
    Kind("lists lag", armed_at("list_lag", requests=3)),
    Kind("lists lag for long", armed_at("list_lag", FOREVER, requests=1000)),
    Kind("no capacity anywhere", armed_at("no_capacity", FOREVER), cause="no capacity for RTX 4090 .*RTX 3090"),
    Kind("no capacity for the first choice", armed_at("no_capacity", FOREVER, gpu="NVIDIA GeForce RTX 4090"), survived=("GET", "POST", "DELETE")),
    Kind("a stranger's pod bears our name", namesake),
    Kind("our pod is gone", act("remove"), cause="is gone while it was starting"),
    Kind("our pod's host dies", act("kill_host"), cause="to show an SSH address"),
    Kind("our pod is preempted", act("preempt"), cause=r"\bEXITED\b"),
    Kind("delete accepted, pod alive", armed_at("delete_accepted_but_alive", 3), survived=("GET", "POST", "DELETE")),
    Kind("delete accepted, pod alive for ever", armed_at("delete_accepted_but_alive", FOREVER), cause="is still there and may be billed"),
    Kind("delete refused for a while", armed_at("delete_refused", 3, status=409), survived=("GET", "POST", "DELETE")),
    Kind("delete fails for a while", armed_at("delete_refused", 3, status=500), survived=("GET", "POST", "DELETE")),
    Kind("delete refused for ever", armed_at("delete_refused", FOREVER, status=409), cause="HTTP 409"),
    Kind("delete forbidden", armed_at("delete_refused", FOREVER, status=403), cause="HTTP 403: Forbidden"),
)
# Behind the pairs, so that the numbers of all that came before stay.
LATER_KINDS = (
    Kind("RUNNING without SSH for ever", login(lambda pod_id, now, began: "no SSH at 192.0.2.1:22 (timed out)"), cause="to accept an SSH login"),
    Kind("SSH comes a minute late", login(lambda pod_id, now, began: "" if now - began >= 60 else "no SSH yet"), survived=("GET", "POST", "DELETE")),
    Kind("another host key answers", login(another_key), cause="not the one seen at first contact"),
)


@dataclass
class Case:
    """A number names it for good: the same seed and number are the same case."""

    number: int
    cloud: str
    strikes: list[tuple[Kind, int]] = field(default_factory=list)
    must_pass: bool = False

    @property
    def kind(self) -> str:
        return self.strikes[0][0].name if len(self.strikes) == 1 else "pairs"

    @property
    def must_strike(self) -> bool:
        return len(self.strikes) == 1 and self.strikes[0][0].sure

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
    """Each kind at each call, then seeded pairs of kinds, then the kinds that came later."""

    def singles(kinds: tuple[Kind, ...]) -> list[Case]:
        return [Case(0, cloud, [(kind, call)], method in kind.survived) for kind in kinds for call, (method, _path) in enumerate(calls)]

    cases = singles(KINDS)
    dice = random.Random(seed)
    for _turn in range(pairs):
        strikes = sorted(((dice.choice(KINDS), dice.randrange(len(calls))) for _strike in range(2)), key=lambda strike: strike[1])
        cases.append(Case(0, cloud, strikes))
    cases += singles(LATER_KINDS)
    for number, case in enumerate(cases):
        case.number = number
    return cases


def run(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    """One case in a fresh scene."""
    scene = Scene.fresh(case.cloud, rehearsal, folder)
    for kind, call in case.strikes:
        kind.arm(scene, call)
    with staged(scene):
        failed = scene.cycle()
        verdict = judge(scene, failed, must_pass=case.must_pass)
        verdict.struck = scene.struck()
        judge_cause(failed, [kind.cause for kind, _call in case.strikes], verdict)
        return judge_healed(scene, verdict)
