# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a data folder with the standard library alone: format, every row, every move."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from . import __version__
from .board import Position
from .errors import EXIT_DATA, EXIT_MISSING, EXIT_OK, DataError, TrainerError
from .files import read_json, sha256_file, write_json
from .rows import Game, RowReader

FILES = ("train.jsonl", "val.jsonl")
MAX_ERRORS = 20


class _TooManyErrors(Exception):
    pass


class _Errors:
    def __init__(self) -> None:
        self.found: list[DataError] = []

    def add(self, error: DataError) -> None:
        self.found.append(error)
        if len(self.found) >= MAX_ERRORS:
            raise _TooManyErrors


def illegal_move(game: Game) -> tuple[int, str] | None:
    """The ply of the first move of a game that cannot be played, and why."""
    position = Position()
    for ply, text in enumerate(game.moves):
        reason = position.play_uci(text)
        if reason is not None:
            return ply, reason
    return None


def _fingerprint(game: Game) -> bytes:
    return hashlib.blake2b(" ".join(game.moves).encode(), digest_size=12).digest()


def _check_file(path: Path, expected: str | None, errors: _Errors) -> tuple[str | None, dict[str, Any], set[bytes]]:
    reader = RowReader(path, expected, errors.add)
    games = positions = 0
    seen: set[bytes] = set()
    for game in reader.games():
        games += 1
        positions += len(game.moves) if game.samples is None else len(game.samples)
        seen.add(_fingerprint(game))
        problem = illegal_move(game)
        if problem is not None:
            errors.add(DataError(path.name, game.line_of(problem[0]), problem[1]))
    summary = {"bytes": reader.bytes, "sha256": reader.sha256, "rows": reader.rows, "games": games, "positions": positions}
    return reader.format, summary, seen


def _missing(directory: Path) -> list[dict[str, Any]]:
    if not directory.is_dir():
        return [{"file": str(directory), "line": 0, "reason": "the data folder is not there"}]
    return [{"file": name, "line": 0, "reason": f"not found in {directory}"} for name in FILES if not (directory / name).is_file()]


def _remembered(directory: Path, memory: Path) -> dict[str, Any] | None:
    """The verdict on the very same bytes, given by the same version of this program."""
    with contextlib.suppress(TrainerError, OSError, ValueError):
        kept = read_json(memory)
        if kept.get("version") == __version__ and kept.get("verdict", {}).get("sha256") == {name: sha256_file(directory / name) for name in FILES}:
            return {**kept["verdict"], "directory": str(directory)}
    return None


def check(directory: Path, memory: Path | None = None) -> tuple[int, dict[str, Any]]:
    """Check a data folder; returns the exit code and the verdict. A good verdict is kept in the file `memory`."""
    known = _remembered(directory, memory) if memory else None
    if known is not None:
        return EXIT_OK, known
    code, verdict = _check(directory)
    if memory and code == EXIT_OK:
        with contextlib.suppress(OSError):
            write_json(memory, {"version": __version__, "verdict": verdict})
    return code, verdict


def _check(directory: Path) -> tuple[int, dict[str, Any]]:
    verdict: dict[str, Any] = {"ok": False, "directory": str(directory), "format": None, "games": 0, "positions": 0, "sha256": {}, "files": {}, "warnings": []}
    missing = _missing(directory)
    if missing:
        return EXIT_MISSING, verdict | {"errors": missing}
    errors = _Errors()
    expected: str | None = None
    seen: list[set[bytes]] = []
    try:
        for name in FILES:
            expected, summary, games = _check_file(directory / name, expected, errors)
            seen.append(games)
            verdict["files"][name] = summary
            verdict["sha256"][name] = summary["sha256"]
            verdict["games"] += summary["games"]
            verdict["positions"] += summary["positions"]
    except _TooManyErrors:
        verdict["warnings"].append(f"stopped after {MAX_ERRORS} errors")
    shared = len(seen[0] & seen[1]) if len(seen) == 2 else 0
    if shared:
        verdict["warnings"].append(f"{shared} games of val.jsonl stand in train.jsonl too: validation figures will be too good")
    verdict["format"] = expected
    verdict["errors"] = [{"file": error.file, "line": error.line, "reason": error.reason} for error in errors.found]
    verdict["ok"] = not errors.found
    return EXIT_OK if verdict["ok"] else EXIT_DATA, verdict
