# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's rate limit headers: three windows per user. The limits here are generous, the real ones are not published."""

from __future__ import annotations

from rehearsal.times import now

WINDOWS = (("minute", 6_000, 60), ("hour", 300_000, 3_600), ("day", 5_000_000, 86_400))


class RateLimits:
    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}

    def clear(self) -> None:
        self._counts.clear()

    def count(self, account: str) -> tuple[dict[str, str], int | None]:
        """Headers for this request, and the seconds to wait when it is one too many."""
        moment = int(now())
        rests: list[str] = []
        wait: int | None = None
        for name, limit, seconds in WINDOWS:
            window = (account, name, moment // seconds)
            used = self._counts[window] = self._counts.get(window, 0) + 1
            reset = seconds - moment % seconds
            rests.append(f'"{name}";r={max(0, limit - used)};t={reset}')
            if used > limit and wait is None:
                wait = reset
        if len(self._counts) > 300:
            current = {moment // seconds for _name, _limit, seconds in WINDOWS}
            self._counts = {key: value for key, value in self._counts.items() if key[2] in current}
        policy = ", ".join(f'"{name}";q={limit};w={seconds}' for name, limit, seconds in WINDOWS)
        return {"ratelimit-policy": policy, "ratelimit": ", ".join(rests)}, wait
