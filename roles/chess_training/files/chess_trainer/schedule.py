# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the validation loss decides: a smaller learning rate on a plateau, and an early end."""

from __future__ import annotations

import math
from typing import Any


class Schedule:
    """Counts evaluations without improvement; the counts are part of a checkpoint."""

    def __init__(self, plateau: bool, factor: float, patience: int, threshold: float, stop_patience: int, stop_min_delta: float) -> None:
        self.plateau, self.factor, self.patience, self.threshold = plateau, factor, patience, threshold
        self.stop_patience, self.stop_min_delta = stop_patience, stop_min_delta
        self.scale, self.plateau_best, self.plateau_bad = 1.0, math.inf, 0
        self.stop_best, self.stop_bad = math.inf, 0

    @property
    def ended(self) -> bool:
        """Whether nothing has improved for too long."""
        return 0 < self.stop_patience <= self.stop_bad

    def see(self, loss: float) -> str:
        """Take an evaluation in; says what it changes."""
        said = []
        if loss < self.plateau_best * (1 - self.threshold):
            self.plateau_best, self.plateau_bad = loss, 0
        else:
            self.plateau_bad += 1
        if self.plateau and self.plateau_bad > self.patience:
            self.scale, self.plateau_bad = self.scale * self.factor, 0
            said.append(f"the learning rate is {self.scale:g} of its peak from here on")
        if loss < self.stop_best - self.stop_min_delta:
            self.stop_best, self.stop_bad = loss, 0
        else:
            self.stop_bad += 1
        if self.ended:
            said.append(f"no improvement in {self.stop_bad} evaluations, so the training ends early")
        return "; ".join(said)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("scale", "plateau_best", "plateau_bad", "stop_best", "stop_bad")}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a checkpoint; one from before there were schedules has none."""
        for name, value in (state or {}).items():
            setattr(self, name, value)
