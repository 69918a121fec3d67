# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pod has timed itself, as events: a pod's file is hostile text, so that rows of another shape are left out."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._run import POD

LIMIT_BYTES, LIMIT_ROWS = 4 << 20, 500
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
# From 2020 to 2100.
_EPOCH_MS = (1577836800000, 4102444800000)


def phase_rows(path: Path) -> list[dict[str, Any]]:
    """The last rows of a runpod_phase_times.jsonl; none where there is no such file."""
    try:
        with path.open("rb") as stream:
            lines = stream.read(LIMIT_BYTES).splitlines()
    except OSError:
        return []
    return [row for row in map(_event, lines[-LIMIT_ROWS:]) if row]


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    words = [row.get(key) for key in ("source", "phase")]
    numbers = [row.get("ts_epoch_ms"), row.get("elapsed_ms"), row.get("exit_code", 0)]
    if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in words) or row.get("status") not in ("ok", "error"):
        return None
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        return None
    moment, elapsed, code = numbers
    if not (_EPOCH_MS[0] <= moment <= _EPOCH_MS[1] and 0 <= elapsed < 1 << 40 and -1 << 31 <= code < 1 << 31):
        return None
    at = datetime.fromtimestamp(moment / 1000, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"ts": at, "stage": POD, "phase": words[1], "status": row["status"], "elapsed_ms": elapsed, "source": words[0]}
    return {**event, "exit_code": code} if "exit_code" in row else event
