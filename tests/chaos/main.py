# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the matrices and writes down what came of them.

make chaos                                   everything, into docs/reliability.md
make chaos CHAOS="--part faults --case 137"  one case again, with what was said
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import crashes, faults
from chaos.scene import Verdict, clouds

from support.harness import ROOT, Rehearsal, serving

SEED = 7
PAIRS = 400
WORKERS = 2
REPORT = ROOT / "docs" / "reliability.md"


@dataclass
class Outcome:
    """What came of one part."""

    part: str
    seconds: float = 0.0
    cases: int = 0
    leaked: int = 0
    duplicates: int = 0
    lost_artifacts: str = "not at stake"
    # Cases in which nothing went wrong, since what they arm did not come to be.
    missed: int = 0
    failures: list[tuple[int, str, list[str]]] = field(default_factory=list)
    # Of each kind, how many cases there were and in how many it struck.
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, case: Any, verdict: Verdict) -> None:
        self.cases += 1
        self.leaked += verdict.leaked
        self.duplicates += verdict.duplicates
        self.missed += not verdict.struck
        self._count(case.kind, 1, int(verdict.struck))
        wrong = [*verdict.faults, *(["it must strike and did not"] if case.must_strike and not verdict.struck else [])]
        if wrong:
            self.failures.append((case.number, case.title, wrong))

    def _count(self, kind: str, cases: int, struck: int) -> None:
        before = self.kinds.get(kind, (0, 0))
        self.kinds[kind] = (before[0] + cases, before[1] + struck)

    def judge_kinds(self) -> None:
        """A kind that strikes nowhere shows nothing."""
        idle = [(kind, cases) for kind, (cases, struck) in self.kinds.items() if not struck]
        self.failures += [(-1, kind, [f"it struck in none of its {cases} cases"]) for kind, cases in idle]

    def merge(self, other: Outcome) -> None:
        self.cases += other.cases
        self.leaked += other.leaked
        self.duplicates += other.duplicates
        self.missed += other.missed
        self.failures += other.failures
        for kind, (cases, struck) in other.kinds.items():
            self._count(kind, cases, struck)


Part = Callable[[Rehearsal, Path, int, int], tuple[Sequence[Any], Callable[[Any, Rehearsal, Path], Verdict]]]


def fault_cases(rehearsal: Rehearsal, folder: Path, seed: int, pairs: int) -> tuple[list[faults.Case], Callable[..., Verdict]]:
    found: list[faults.Case] = []
    for cloud in clouds():
        found += faults.matrix(cloud, faults.reference(cloud, rehearsal, folder), seed, pairs)
    for number, case in enumerate(found):
        case.number = number
    return found, faults.run


def crash_cases(rehearsal: Rehearsal, folder: Path, seed: int, pairs: int) -> tuple[list[crashes.Case], Callable[..., Verdict]]:
    found: list[crashes.Case] = []
    for cloud in clouds():
        calls = len(faults.reference(cloud, rehearsal, folder))
        found += crashes.matrix(cloud, calls, crashes.count_writes(cloud, rehearsal, folder))
    for number, case in enumerate(found):
        case.number = number
    return found, crashes.run


PARTS: dict[str, Part] = {"faults": fault_cases, "crashes": crash_cases}


def sampled(cases: Sequence[Any], seed: int, step: int) -> list[Any]:
    """One of `step` cases, drawn by the seed, with every kind among them; in their order."""
    if step == 1:
        return list(cases)
    drawn = random.Random(seed).sample(list(cases), len(cases))
    first = {case.kind: case for case in reversed(drawn)}
    rest = [case for case in drawn if first[case.kind] is not case]
    return sorted([*first.values(), *rest][: -(-len(cases) // step)], key=lambda case: int(case.number))


def share(part: str, seed: int, pairs: int, wanted: Sequence[int] | None, worker: int, workers: int, step: int) -> Outcome:
    """Every n-th case of a part, in a world of its own."""
    outcome = Outcome(part)
    with tempfile.TemporaryDirectory(prefix="podcycle-chaos-") as temporary, serving(Path(temporary)) as rehearsal:
        folder = Path(temporary) / "scene"
        cases, run = PARTS[part](rehearsal, folder, seed, pairs)
        if wanted:
            refuse_unknown(part, wanted, cases)
        chosen = [case for case in cases if case.number in wanted] if wanted else sampled(cases, seed, step)
        for case in chosen[worker::workers]:
            verdict = run(case, rehearsal, folder)
            outcome.add(case, verdict)
            if wanted:
                print(f"{part} case {case.number}: {case.title}\n  said: " + "\n        ".join(verdict.said or ["nothing"]), flush=True)
    return outcome


def run_part(part: str, seed: int = SEED, pairs: int = PAIRS, *, wanted: Sequence[int] | None = None, step: int = 1, workers: int = WORKERS) -> Outcome:
    began = time.monotonic()
    total = Outcome(part)
    if wanted or workers == 1:
        total.merge(share(part, seed, pairs, wanted, 0, 1, step))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for outcome in pool.starmap(share, [(part, seed, pairs, None, worker, workers, step) for worker in range(workers)]):
                total.merge(outcome)
    if not wanted and step == 1:
        total.judge_kinds()
    total.seconds = time.monotonic() - began
    return total


def report(outcomes: list[Outcome], seed: int, command: str) -> str:
    rows = [
        f"| {one.part} | {one.cases} | {len(one.failures)} | {one.missed} | {one.leaked} | {one.duplicates} | {one.lost_artifacts} | {one.seconds:.0f} |"
        for one in outcomes
    ]
    head = "| part | cases | failures | not struck | leaked pods | duplicates | lost artifacts | seconds |"
    return "\n".join([head, "|" + "---|" * head.count(" | ") + "---|", *rows, ""]) + (
        f"\nSeed {seed}, `{command}`, {time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores.\n"
    )


def command_of(words: Sequence[str]) -> str:
    return f'make chaos CHAOS="{shlex.join(words)}"' if words else "make chaos"


def write_report(text: str) -> None:
    content = REPORT.read_text(encoding="utf-8")
    begin, end = "<!-- begin summary -->\n", "<!-- end summary -->"
    head, _begin, rest = content.partition(begin)
    REPORT.write_text(f"{head}{begin}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


def refuse_unknown(part: str, wanted: Sequence[int], cases: Sequence[Any]) -> None:
    missing = sorted(set(wanted) - {case.number for case in cases})
    if missing:
        raise NoSuchCaseError(f"the part {part} has no case {', '.join(map(str, missing))}: they go from 0 to {len(cases) - 1}")


class NoSuchCaseError(Exception):
    """A number that names no case."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(all_parts()), action="append", help="only this part; all by default")
    parser.add_argument("--case", type=int, action="append", help="only the case with this number, of one part")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="seeded pairs of faults beside the single ones")
    given = sys.argv[1:] if words is None else words
    options = parser.parse_args(given)
    if options.case and len(options.part or ()) != 1:
        parser.error("--case needs one --part: a number names a case of one part, such as --part faults --case 137")
    try:
        return run_parts(options, command_of(given))
    except NoSuchCaseError as error:
        parser.error(str(error))


def run_parts(options: argparse.Namespace, command: str) -> int:
    outcomes: list[Outcome] = []
    for name in options.part or all_parts():
        outcome = all_parts()[name](options)
        outcomes.append(outcome)
        print(f"{name}: {outcome.cases} cases, {len(outcome.failures)} failures, {outcome.missed} not struck in {outcome.seconds:.0f} s", flush=True)
        for kind, (cases, struck) in outcome.kinds.items():
            if struck < cases and not options.case:
                print(f"  struck in {struck} of {cases}: {kind}", flush=True)
        for number, title, wrong in outcome.failures:
            print(f"  case {number}: {title}" if number >= 0 else f"  all cases of: {title}")
            print("\n".join(f"    {text}" for text in wrong), flush=True)
    text = report(outcomes, options.seed, command)
    print(text)
    if not options.part and not options.case:
        write_report(text)
    return 1 if any(outcome.failures for outcome in outcomes) else 0


def all_parts() -> dict[str, Callable[[argparse.Namespace], Outcome]]:
    def engine_part(name: str) -> Callable[[argparse.Namespace], Outcome]:
        return lambda options: run_part(name, options.seed, options.pairs, wanted=options.case)

    return {**{name: engine_part(name) for name in PARTS}, "artifacts": artifact_part, "playbooks": playbook_part}


def artifact_part(options: argparse.Namespace) -> Outcome:
    """The end-to-end tests that are marked chaos: a pod that lies, links, swells and hands over code."""
    if options.case:
        raise NoSuchCaseError("the part artifacts has no numbered cases: leave --case out")
    began = time.monotonic()
    words = [sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), "-m", "chaos", "tests/e2e"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout.rpartition("\n")[0].rpartition("\n")[2])}
    outcome = Outcome("artifacts", time.monotonic() - began, sum(counts.values()), lost_artifacts="not judged")
    if done.returncode:
        outcome.failures.append((0, "pytest -m chaos tests/e2e", [done.stdout[-3000:]]))
    return outcome


def playbook_part(options: argparse.Namespace) -> Outcome:
    from chaos import playbooks

    began = time.monotonic()
    if options.case:
        refuse_unknown("playbooks", options.case, playbooks.matrix())
    found = playbooks.run_all(options, WORKERS, lambda text: print(text, flush=True))
    judged = [lost for _case, _verdict, lost in found if lost is not None]
    outcome = Outcome("playbooks", lost_artifacts=f"{sum(judged)} of {len(judged)} judged")
    for case, verdict, _lost in found:
        outcome.add(case, verdict)
    outcome.seconds = time.monotonic() - began
    return outcome


if __name__ == "__main__":
    sys.exit(main())
