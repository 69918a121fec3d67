# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting: a predicate, a monotonic clock, and a time-out that tells what it last saw."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import WaitTimeout

T = TypeVar("T")
# What is left of a wait is a difference of floats and may never become exactly zero.
_TICK_SECONDS = 0.001


class Clock(Protocol):
    """What a wait needs of time; tests pass a fake one."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Pace:
    """Poll quickly at first, since small images boot in seconds, then settle."""

    first_seconds: float = 0.3
    factor: float = 1.5
    most_seconds: float = 5.0


def wait_for(
    look: Callable[[], T],
    done: Callable[[T], bool],
    *,
    timeout_seconds: float,
    phase: str,
    describe: Callable[[T], str],
    clock: Clock,
    pace: Pace = Pace(),
    on_tick: Callable[[T, float], None] | None = None,
) -> T:
    """Look until `done`; raises WaitTimeout naming the phase, the time spent and the last state seen.

    At least one look is always made, and one more at the very end of the time.
    """
    start = clock.monotonic()
    pause = pace.first_seconds
    while True:
        seen = look()
        if done(seen):
            return seen
        elapsed = clock.monotonic() - start
        if on_tick is not None:
            on_tick(seen, elapsed)
        left = timeout_seconds - elapsed
        if left < _TICK_SECONDS:
            raise WaitTimeout(
                f"waited {elapsed:.0f} s for {phase}; last seen: {describe(seen)}",
                phase=phase,
                elapsed_seconds=round(elapsed, 1),
                timeout_seconds=timeout_seconds,
                last_seen=describe(seen),
            )
        clock.sleep(min(pause, left))
        pause = min(pause * pace.factor, pace.most_seconds)
