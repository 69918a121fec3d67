# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of train.jsonl and val.jsonl: three formats, told apart by their first row.

plain    {"moves": "e2e4 e7e5 ..."}                          one game per line
game     {"moves": ["e2e4", "e7e5", ...], ...}               one game per line
spliced  {"context": ["e2e4", ...], "target": [...], ...}    one position per line
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError, MissingError

PLAIN, GAME, SPLICED = "plain", "game", "spliced"
MAX_LINE_BYTES = 1 << 20


@dataclass(slots=True)
class Game:
    """The moves of a game from the start position, and which of its positions are samples (None: all)."""

    line: int
    moves: list[str]
    samples: list[int] | None = None
    reached: list[tuple[int, int]] = field(default_factory=list)

    def line_of(self, ply: int) -> int:
        """The first line of the file that holds the move at a ply."""
        return next((line for length, line in self.reached if length > ply), self.line)


def raise_error(error: DataError) -> None:
    """Stop at the first broken row."""
    raise error


def sniff(row: Any) -> str:
    """Name the format of a row; ValueError when it has none of the three."""
    if isinstance(row, dict):
        if "context" in row and ("target" in row or "next_move" in row):
            return SPLICED
        if isinstance(row.get("moves"), str):
            return PLAIN
        if isinstance(row.get("moves"), list):
            return GAME
    raise ValueError("the row has neither 'moves' nor 'context' with 'target' or 'next_move'")


def _texts(value: Any, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key!r} is not a list of moves")
    return value


def _spliced_moves(row: dict[str, Any]) -> tuple[list[str], int]:
    context = _texts(row["context"], "context")
    next_move = row.get("next_move")
    target = _texts(row.get("target", [] if next_move is None else [next_move]), "target")
    if not target:
        raise ValueError("'target' is empty: there is no move to learn")
    if next_move is not None and next_move != target[0]:
        raise ValueError(f"'next_move' {str(next_move)[:20]!r} is not the first move of 'target'")
    return context + target, len(context)


def parse_row(raw: bytes, expected: str | None) -> tuple[str, list[str], int]:
    """One line as (format, moves, index of the sample or -1 for all); ValueError says what is wrong."""
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    found = sniff(row)
    if expected is not None and found != expected:
        raise ValueError(f"a {found} row among {expected} rows: formats cannot be mixed")
    if found == SPLICED:
        moves, sample = _spliced_moves(row)
        return found, moves, sample
    moves = row["moves"].split() if found == PLAIN else _texts(row["moves"], "moves")
    if not moves:
        raise ValueError("the game has no moves")
    return found, moves, -1


class RowReader:
    """Reads one file once, and counts and fingerprints it on the way."""

    def __init__(self, path: Path, expected: str | None = None, on_error: Callable[[DataError], None] = raise_error) -> None:
        self.path = path
        self.format = expected
        self.on_error = on_error
        self.rows = 0
        self.bytes = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The fingerprint of what has been read so far."""
        return self._digest.hexdigest()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            handle = self.path.open("rb")
        except FileNotFoundError:
            raise MissingError(f"{self.path} is not there; a data folder holds train.jsonl and val.jsonl") from None
        with handle:
            for number, raw in enumerate(handle, 1):
                self._digest.update(raw)
                self.bytes += len(raw)
                if raw.strip():
                    yield number, raw

    def _parsed(self) -> Iterator[tuple[int, list[str], int]]:
        seen = False
        for number, raw in self._lines():
            seen = True
            try:
                self.format, moves, sample = parse_row(raw, self.format)
            except ValueError as error:
                self.on_error(DataError(self.path.name, number, str(error)))
                continue
            self.rows += 1
            yield number, moves, sample
        if not seen:
            self.on_error(DataError(self.path.name, 0, "the file is empty"))

    def games(self) -> Iterator[Game]:
        """The games of the file; consecutive spliced rows of one game are joined again."""
        current: Game | None = None
        for number, moves, sample in self._parsed():
            if sample < 0:
                yield Game(number, moves)
                continue
            if current is not None and current.samples is not None and _joins(current, moves):
                if len(moves) > len(current.moves):
                    current.moves = moves
                    current.reached.append((len(moves), number))
                current.samples.append(sample)
                continue
            if current is not None:
                yield current
            current = Game(number, moves, [sample], [(len(moves), number)])
        if current is not None:
            yield current


def count(path: Path, min_context: int) -> tuple[str, int]:
    """The format of a file, and how many of its positions have so many moves before them; no move is played."""
    reader, found = RowReader(path), 0
    for game in reader.games():
        plies = range(len(game.moves)) if game.samples is None else game.samples
        found += sum(1 for ply in plies if ply >= min_context)
    return reader.format or "", found


def _joins(game: Game, moves: list[str]) -> bool:
    shorter = min(len(game.moves), len(moves))
    return game.moves[:shorter] == moves[:shorter]
