# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the program to stop: the first signal ends it in good order, the second at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

from .errors import StoppedError


class StopRequest:
    """Remembers that a signal asked for the end."""

    def __init__(self, patient: bool = False) -> None:
        self.name: str | None = None
        # torchrun hands a signal on to its processes, which may have had it already; it kills them when its time is over.
        self.patient = patient

    def install(self) -> None:
        """Listen for SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None and not self.patient:
            os._exit(128 + number)
        self.name = self.name or signal.Signals(number).name

    def __bool__(self) -> bool:
        return self.name is not None

    def check(self, doing: str) -> None:
        """Stop here when a signal asked for it and there is nothing to save."""
        if self.name is not None:
            raise StoppedError(f"stopped by {self.name} while {doing}; run the same command again to go on")
