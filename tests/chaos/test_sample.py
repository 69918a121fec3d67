# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A seeded sample of the matrices; `make chaos` runs them whole."""

from __future__ import annotations

import pytest
from chaos import crashes, faults
from chaos.main import PAIRS, SEED, Outcome, command_of, main, run_part, sampled
from chaos.scene import Verdict


@pytest.mark.parametrize(("part", "step"), [("faults", 9), ("crashes", 4)])
def test_sample(part: str, step: int) -> None:
    outcome = run_part(part, SEED, PAIRS, step=step, workers=1)
    assert outcome.cases > 30
    assert not outcome.failures, "\n".join(f'make chaos CHAOS="--part {part} --case {number}": {title}: {wrong}' for number, title, wrong in outcome.failures)


def test_a_sample_is_spread_over_all_kinds_and_places() -> None:
    calls = [("GET", "/pods")] * 20
    found = [*faults.matrix("a", calls, SEED, PAIRS), *faults.matrix("b", calls, SEED, 0)]
    chosen = sampled(found, SEED, 9)
    assert len(chosen) == -(-len(found) // 9) and chosen == sampled(found, SEED, 9) != sampled(found, SEED + 1, 9)
    assert {case.kind for case in chosen} == {case.kind for case in found}
    assert {case.strikes[0][1] for case in chosen} == set(range(len(calls)))
    ends = sampled(crashes.matrix("a", 22, 12), SEED, 4)
    assert {(case.kind) for case in ends} == {case.kind for case in crashes.matrix("a", 22, 12)}


def test_what_does_not_strike_is_no_success() -> None:
    outcome = Outcome("faults")
    sure, hopeful = (faults.Case(0, "a", [(kind, 0)]) for kind in (faults.KINDS[0], faults.KINDS[-1]))
    for case in (sure, hopeful):
        outcome.add(case, Verdict(struck=False))
    assert outcome.missed == 2 and [(title, wrong) for _number, title, wrong in outcome.failures] == [(sure.title, ["it must strike and did not"])]
    outcome.judge_kinds()
    assert [wrong for _number, _title, wrong in outcome.failures[1:]] == [["it struck in none of its 1 cases"]] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--case", "3"], "--case needs one --part"),
        (["--part", "faults", "--part", "crashes", "--case", "3"], "--case needs one --part"),
        (["--part", "playbooks", "--case", "9999"], "the part playbooks has no case 9999"),
    ],
)
def test_a_case_that_is_none_is_an_error(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_the_command_that_is_written_down_is_the_one_that_ran() -> None:
    assert command_of([]) == "make chaos"
    assert command_of(["--seed", "3", "--pairs", "10"]) == 'make chaos CHAOS="--seed 3 --pairs 10"'
