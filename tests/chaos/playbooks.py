# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole playbooks: ansible-playbook gets a signal in each stage, and is followed by the same command again or by reap.yml."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from chaos.scene import OTHER_OWNER, Verdict, judge_lives

from ansible_collections.podcycle.gpu.plugins.module_utils._model import Stamp
from support.world import Running, World, make_world, until

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
FOLLOW_UPS = ("rerun", "reap")
TRAIN_SECONDS = 6
HELD_SECONDS = 20
# Stages that talk to the cloud are stopped at the very request; the others right after they began.
HELD = {
    "start, create not yet in effect": {"match": {"method": "POST", "path": "/v2/pods$"}, "when": "before"},
    "start, create in effect, answer under way": {"match": {"method": "POST", "path": "/v2/pods$"}, "when": "after"},
    "stop, delete not yet in effect": {"match": {"method": "DELETE", "path": "/v2/pods"}, "when": "before"},
    "stop, delete in effect, answer under way": {"match": {"method": "DELETE", "path": "/v2/pods"}, "when": "after"},
}
# Faults of the pod instead of a signal; the first three are armed before the first run.
SSH_FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "RUNNING without SSH for ever": ("running_without_ssh", {"times": None}),
    "SSH late": ("slow_ssh", {"params": {"seconds": 4}}),
    "another host key after first contact": ("wrong_host_key", {"params": {"seconds": 2}}),
}
# What a run says that such a fault has ended.
SAID = {"RUNNING without SSH for ever": "to accept an SSH login", "another host key after first contact": "not the one seen at first contact"}
GONE_IN = ("push", "collect", "validate")
BEGUN = ("converge", "push", "train", "collect", "validate")


@dataclass
class Case:
    """A signal in a stage; or, without one, a fault of the pod."""

    number: int
    where: str
    number_of_signal: signal.Signals | None
    then: str
    must_strike: bool = True

    @property
    def kind(self) -> str:
        return self.number_of_signal.name if self.number_of_signal else self.where

    @property
    def title(self) -> str:
        return f"{self.number_of_signal.name} in {self.where}, then {self.then}" if self.number_of_signal else f"{self.where}, then {self.then}"


def matrix() -> list[Case]:
    places = (*HELD, *BEGUN)
    rows = [(place, number, then) for place in places for number in SIGNALS for then in FOLLOW_UPS]
    faults = [*SSH_FAULTS, *(f"pod gone in {stage}" for stage in GONE_IN)]
    return [Case(number, *row) for number, row in enumerate([*rows, *((fault, None, "rerun") for fault in faults)])]


def run(case: Case) -> tuple[Verdict, bool | None]:
    """The verdict, and whether artifacts that had come into being were lost; None where that is not judged."""
    world = make_world(f"chaos{case.number}")
    verdict = Verdict()
    lost: bool | None = None
    try:
        world.start_cloud()
        strangers = [_stranger(world, name) for name in ("somebody-elses-pod", str(Stamp("chaos", "pod", 0, OTHER_OWNER, "12345678")))]
        if case.number_of_signal is None:
            _fail(world, case, verdict)
        elif _strike(world, case, case.number_of_signal).process.returncode == 0:
            verdict.blame("the interrupted run ended with status 0")
        if case.then == "rerun":
            lost = _rerun(world, verdict)
        else:
            _reap(world, verdict)
        everybodys = world.control("GET", "/pods")["pods"]
        ours = [pod for pod in everybodys if pod["id"] not in strangers]
        left = [pod["id"] for pod in ours if pod["status"] != "TERMINATED"]
        if left:
            verdict.leaked += len(left)
            verdict.blame(f"alive at the end: {left}")
        if set(world.control("GET", "/meter")["open"]) - set(strangers):
            verdict.blame("the meter still runs")
        judge_lives(ours, verdict)
        touched = {pod["id"]: pod["status"] for pod in everybodys if pod["id"] in strangers and pod["status"] != "RUNNING"}
        if touched:
            verdict.blame(f"strangers' pods were touched: {touched}")
        made = [entry for entry in world.posts() if entry["path"] == "/v2/pods" and entry["status"] in (201, None)]
        verdict.calls = len(made)
    except AssertionError as error:
        verdict.blame(str(error)[-1500:])
    finally:
        world.close()
    return verdict, lost


def _stranger(world: World, name: str) -> str:
    return str(world.control("POST", "/pods/bulk", {"names": [name]})["first"])


def _fail(world: World, case: Case, verdict: Verdict) -> None:
    """A run whose pod fails it: it ends well, or says in which stage it failed; its pod is given back either way."""
    stage = case.where.removeprefix("pod gone in ")
    waits = {"sshd": 8}
    if case.where in SSH_FAULTS:
        kind, more = SSH_FAULTS[case.where]
        world.control("POST", "/faults", {"kind": kind, **more})
    running = world.begin("cycle.yml", run_id="chaos", train_seconds=TRAIN_SECONDS, waits=waits)
    if stage in GONE_IN:
        until(lambda: world.event("chaos", stage, "started") or running.process.poll() is not None, 150, f"the stage {stage}")
        for pod_id in world.pod_ids("chaos"):
            world.control("POST", f"/pods/{pod_id}/remove", {})
    ended = running.end(240)
    verdict.struck = stage in GONE_IN or any(fault["fired"] for fault in world.control("GET", "/faults")["faults"])
    world.control("DELETE", "/faults")
    if case.where == "SSH late" and ended.code:
        verdict.blame(f"late SSH should have been waited for: {ended.text[-1500:]}")
    if ended.code:
        _judge_words(case.where, stage, ended.flat, verdict)


def _judge_words(where: str, stage: str, flat: str, verdict: Verdict) -> None:
    """A failed run says in which stage, of what, and what to type."""
    # Another key can answer at any connection after the first.
    stages = stage if stage in GONE_IN else "start" if where.startswith("RUNNING") else "start|converge|push"
    words = {
        "the stage": f"run chaos failed in stage (?:{stages})\\b",
        "the cause": SAID.get(where, r"out of reach \(SSH\)"),
        "what to type": "Next: .*type|ansible-playbook ",
    }
    for what, word in words.items():
        if not re.search(word, flat):
            verdict.blame(f"it failed without saying {what} ({word}): {flat[-1500:]}")


def _strike(world: World, case: Case, ending: signal.Signals) -> Running:
    """The cycle up to its place, and the signal, as a terminal or the kernel sends it."""
    if case.where in HELD:
        world.control("POST", "/hold", HELD[case.where])
    running = world.begin("cycle.yml", run_id="chaos", train_seconds=TRAIN_SECONDS, interrupt_grace_minutes=5)
    if case.where in HELD:
        until(lambda: world.control("GET", "/hold?timeout=0")["held"] or running.process.poll() is not None, 150, f"the request of {case.where}")
    else:
        until(lambda: world.event("chaos", case.where, "started") or running.process.poll() is not None, 150, f"the stage {case.where}")
    assert running.process.poll() is None, f"it ended before {case.where}: {running.text[-1500:]}"
    if ending == signal.SIGKILL:
        running.process.kill()
    else:
        running.signal_group(ending)
    if case.where in HELD:
        # No longer than a request may take: after that, the module may take a create for void and ask for another pod.
        with suppress(AssertionError):
            until(lambda: running.process.poll() is not None, HELD_SECONDS, "the end of ansible-playbook")
        world.control("POST", "/hold/release", {})
    # A module that waits for an answer is waited for.
    running.end(90)
    return running


def _rerun(world: World, verdict: Verdict) -> bool:
    """The same command again: it ends well, with everything in place, and rents no second pod while the first lives."""
    again = world.play("cycle.yml", run_id="chaos", train_seconds=TRAIN_SECONDS, interrupt_grace_minutes=5, seconds=240)
    verdict.said = [again.text[-800:]]
    if again.code:
        verdict.blame(f"the same command again ended with status {again.code}: {again.text[-1500:]}")
        return False
    checked = world.run_dir("chaos") / "local_validation" / "validation.json"
    if not checked.exists() or world.read("chaos", "local_validation/validation.json")["ok"] is not True:
        verdict.blame("no artifact of the run was validated")
        return True
    return False


def _reap(world: World, verdict: Verdict) -> None:
    """The controller is gone for good and so is its keeper: reap.yml gives back what is left."""
    if (world.state / "runs" / "chaos" / "keeper.json").exists():
        world.kill_keeper("chaos")
    done = world.play("playbooks/reap.yml", reap_now=True, reap_all=True, seconds=120)
    verdict.said = [done.text[-800:]]
    if done.code:
        verdict.blame(f"reap.yml ended with status {done.code}: {done.text[-1500:]}")


def run_all(options: argparse.Namespace, workers: int, told: Callable[[str], None]) -> list[tuple[Case, Verdict, bool | None]]:
    """Each case with its verdict, and whether artifacts were lost."""
    cases = [case for case in matrix() if not options.case or case.number in options.case]

    def one(case: Case) -> tuple[Case, Verdict, bool | None]:
        verdict, lost = run(case)
        told(f"playbooks case {case.number}: {case.title}: {'ok' if not verdict.faults else verdict.faults[0][:200]}")
        return case, verdict, lost

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, cases))
