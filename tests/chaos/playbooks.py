# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole playbooks: ansible-playbook gets a signal in each stage, and is followed by the same command again or by reap.yml."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from chaos.scene import Verdict

from support.world import Running, World, make_world, until

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
FOLLOW_UPS = ("rerun", "reap")
TRAIN_SECONDS = 6
# Stages that talk to the cloud are stopped at the very request; the others right after they began.
HELD = {
    "start, create not yet in effect": {"match": {"method": "POST", "path": "/v2/pods$"}, "when": "before"},
    "start, create in effect, answer under way": {"match": {"method": "POST", "path": "/v2/pods$"}, "when": "after"},
    "stop, delete not yet in effect": {"match": {"method": "DELETE", "path": "/v2/pods"}, "when": "before"},
    "stop, delete in effect, answer under way": {"match": {"method": "DELETE", "path": "/v2/pods"}, "when": "after"},
}
BEGUN = ("converge", "push", "train", "collect", "validate")


@dataclass
class Case:
    number: int
    where: str
    number_of_signal: signal.Signals
    then: str

    @property
    def title(self) -> str:
        return f"{self.number_of_signal.name} in {self.where}, then {self.then}"


def matrix() -> list[Case]:
    places = (*HELD, *BEGUN)
    rows = [(place, number, then) for place in places for number in SIGNALS for then in FOLLOW_UPS]
    return [Case(number, *row) for number, row in enumerate(rows)]


def run(case: Case) -> tuple[Verdict, bool]:
    """The verdict, and whether artifacts that had come into being were lost."""
    world = make_world(f"chaos{case.number}")
    verdict = Verdict()
    lost = False
    try:
        world.start_cloud()
        first = _strike(world, case)
        if first.process.returncode == 0:
            verdict.blame("the interrupted run ended with status 0")
        if case.then == "rerun":
            lost = _rerun(world, verdict)
        else:
            _reap(world, verdict)
        if world.live():
            verdict.leaked += len(world.live())
            verdict.blame(f"alive at the end: {[pod['id'] for pod in world.live()]}")
        if world.control("GET", "/meter")["open"]:
            verdict.blame("the meter still runs")
        made = [entry for entry in world.posts() if entry["path"] == "/v2/pods" and entry["status"] in (201, None)]
        pods = world.control("GET", "/pods")["pods"]
        names = [pod["name"] for pod in pods]
        if len(set(names)) != len(names):
            verdict.duplicates += len(names) - len(set(names))
            verdict.blame(f"two pods of one name: {names}")
        verdict.calls = len(made)
    except AssertionError as error:
        verdict.blame(str(error)[-1500:])
    finally:
        world.close()
    return verdict, lost


def _strike(world: World, case: Case) -> Running:
    """The cycle up to its place, and the signal, as a terminal or the kernel sends it."""
    if case.where in HELD:
        world.control("POST", "/hold", HELD[case.where])
    running = world.begin("cycle.yml", run_id="chaos", train_seconds=TRAIN_SECONDS, interrupt_grace_minutes=5)
    if case.where in HELD:
        until(lambda: world.control("GET", "/hold?timeout=0")["held"] or running.process.poll() is not None, 150, f"the request of {case.where}")
    else:
        until(lambda: world.event("chaos", case.where, "started") or running.process.poll() is not None, 150, f"the stage {case.where}")
    assert running.process.poll() is None, f"it ended before {case.where}: {running.text[-1500:]}"
    if case.number_of_signal == signal.SIGKILL:
        running.process.kill()
    else:
        running.signal_group(case.number_of_signal)
    # A module that waits for an answer is waited for: its request times out after 30 s.
    running.end(90)
    if case.where in HELD:
        world.control("POST", "/hold/release", {})
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


def run_all(options: argparse.Namespace, workers: int, told: Callable[[str], None]) -> tuple[list[tuple[Case, Verdict]], int]:
    """Each case with its verdict, and how many artifacts were lost."""
    cases = [case for case in matrix() if not options.case or case.number in options.case]

    def one(case: Case) -> tuple[Case, Verdict, bool]:
        verdict, lost = run(case)
        told(f"playbooks case {case.number}: {case.title}: {'ok' if not verdict.faults else verdict.faults[0][:200]}")
        return case, verdict, lost

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, cases))
    return [(case, verdict) for case, verdict, _lost in found], sum(lost for _case, _verdict, lost in found)
