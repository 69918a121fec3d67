# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress for people (standard output) and for programs (a small file that is replaced every second)."""

from __future__ import annotations

import datetime
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

from .files import write_json

WRITE_SECONDS = 1.0
PRINT_SECONDS = 3.0


def now() -> str:
    """The time in UTC as RFC 3339."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Seconds as people write them."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _clean(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
    """Keeps the progress file fresh from a thread of its own, whatever the program is busy with.

    The field active_ts tells when the program itself last reported; ts only tells that the process lives.
    """

    def __init__(self, path: Path, quiet: bool = False) -> None:
        self.path, self.quiet = path, quiet
        self._values: dict[str, Any] = {"summary": "starting", "fraction": 0.0, "phase": "start", "active_ts": now()}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._printed = 0.0

    @classmethod
    def for_run(cls, run_dir: Path, quiet: bool = False) -> Progress:
        """The file named by the job runner, or progress.json in the run's folder; a quiet one tells nothing."""
        name = os.environ.get("PODCYCLE_PROGRESS_FILE")
        return cls(Path(name) if name else run_dir / "progress.json", quiet)

    def start(self) -> None:
        """Begin to write."""
        if self.quiet:
            return
        self._write()
        self._thread.start()

    def update(self, phase: str, summary: str, fraction: float, **numbers: Any) -> None:
        """Tell what is done now."""
        values = {"phase": phase, "summary": summary[:160], "fraction": round(min(max(fraction, 0.0), 1.0), 4), "active_ts": now()}
        with self._lock:
            self._values = values | {key: _clean(value) for key, value in numbers.items()}

    @property
    def fraction(self) -> float:
        """The share that was told last."""
        with self._lock:
            return float(self._values["fraction"])

    def say(self, text: str) -> None:
        """Print one line at once."""
        if not self.quiet:
            print(text, flush=True)

    def say_sometimes(self, text: str) -> None:
        """Print one line unless the last one of its kind is younger than a few seconds."""
        if time.monotonic() - self._printed >= PRINT_SECONDS:
            self._printed = time.monotonic()
            self.say(text)

    def close(self) -> None:
        """Write the last state and end the thread."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.quiet:
            self._write()

    def _run(self) -> None:
        while not self._end.wait(WRITE_SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            values = dict(self._values)
        try:
            write_json(self.path, {"ts": now()} | values, durable=False)
        except OSError as error:
            print(f"the progress file {self.path} cannot be written: {error}", flush=True)
            self._end.set()
