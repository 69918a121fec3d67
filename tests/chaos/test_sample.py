# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A seeded sample of the matrices; `make chaos` runs them whole."""

from __future__ import annotations

import pytest
from chaos.main import PAIRS, SEED, run_part


@pytest.mark.parametrize(("part", "step"), [("faults", 9), ("crashes", 4)])
def test_sample(part: str, step: int) -> None:
    outcome = run_part(part, SEED, PAIRS, step=step, workers=1)
    assert outcome.cases > 30 and outcome.missed <= 2
    assert not outcome.failures, "\n".join(f'make chaos CHAOS="--part {part} --case {number}": {title}: {wrong}' for number, title, wrong in outcome.failures)
