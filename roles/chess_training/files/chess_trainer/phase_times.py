# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the phases of a pod's life took: one JSON object a line in runpod_phase_times.jsonl.

The file stands alone, so that it can be copied to a machine and imported there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "runpod_phase_times.jsonl"
OFF = ("0", "false", "no", "off")


def container_environment() -> dict[str, str]:
    """What the container was started with, which a login does not see."""
    found = dict(os.environ)
    with contextlib.suppress(OSError):
        for entry in Path("/proc/1/environ").read_bytes().split(b"\0"):
            key, _equals, value = entry.decode("utf-8", "replace").partition("=")
            if key:
                found.setdefault(key, value)
    return found


@dataclass(frozen=True)
class PhaseTimes:
    """Writes rows of one source; a log that cannot be written keeps nobody from working."""

    source: str
    log: Path | None
    run_id: str

    @classmethod
    def of(cls, source: str, log: Path, run_id: str, environ: Mapping[str, str] | None = None) -> PhaseTimes:
        """To the given place, unless RUNPOD_PHASE_TIMING_ENABLED, _LOG or _RUN_ID say something else."""
        given = container_environment() if environ is None else environ
        enabled = given.get("RUNPOD_PHASE_TIMING_ENABLED", "1").strip().lower() not in OFF
        place = Path(given.get("RUNPOD_PHASE_TIMING_LOG") or log)
        return cls(source, place if enabled else None, given.get("RUNPOD_PHASE_TIMING_RUN_ID") or run_id)

    def write(self, phase: str, status: str, elapsed_ms: int, exit_code: int | None = None) -> None:
        """One row, in one write, so that several programs can share the file."""
        if self.log is None:
            return
        row = {"ts_epoch_ms": int(time.time() * 1000), "source": self.source, "run_id": self.run_id, "phase": phase, "status": status, "elapsed_ms": elapsed_ms}
        if exit_code is not None:
            row["exit_code"] = exit_code
        with contextlib.suppress(OSError):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(handle, (json.dumps(row) + "\n").encode())
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def phase(self, name: str, code_of: Callable[[BaseException], int] = lambda _error: 1) -> Iterator[None]:
        """Times what happens inside."""
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.write(name, "error", int((time.monotonic() - began) * 1000), code_of(error))
            raise
        self.write(name, "ok", int((time.monotonic() - began) * 1000))
