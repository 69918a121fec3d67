# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encode games in one pass: all games of a chunk are played in lockstep, one vectorised ply at a time.

Every move is judged by the full rules of chess on the way; an illegal one is an error that names its line.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from . import geometry, vocab
from .board import START_BOARD, START_CASTLING, SWAP_COLOURS
from .dataset import illegal_move
from .errors import DataError
from .rows import Game, RowReader

Int = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

ENCODER_VERSION = 1
META_COLUMNS = 3  # castling rights, en passant file + 1 (0: none), ply (at most 255)
CHUNK_GAMES = 4096
OUTSIDE = 64  # a column of the board that is always empty


@dataclass
class Games:
    """All games of one file as packed move codes."""

    path: Path
    format: str = ""
    sha256: str = ""
    codes: array[int] = field(default_factory=lambda: array("H"))
    lengths: list[int] = field(default_factory=list)
    samples: list[list[int] | None] = field(default_factory=list)


def read_games(path: Path, expected: str | None, tick: Callable[[], None]) -> Games:
    """Read a file into packed codes; a text that is no move is an error."""
    reader = RowReader(path, expected)
    games = Games(path)
    table = vocab.uci_codes()
    for count, game in enumerate(reader.games()):
        if count % 1000 == 0:
            tick()
        try:
            games.codes.extend([table[text] for text in game.moves])
        except KeyError:
            raise _explained(path.name, game) from None
        games.lengths.append(len(game.moves))
        games.samples.append(game.samples)
    games.format, games.sha256 = reader.format or "", reader.sha256
    return games


def _explained(name: str, game: Game) -> DataError:
    problem = illegal_move(game)
    if problem is None:
        raise AssertionError(f"{name}, line {game.line}: the two move checkers disagree")
    return DataError(name, game.line_of(problem[0]), problem[1])


def _game_at(path: Path, ordinal: int) -> Game:
    return next(game for count, game in enumerate(RowReader(path).games()) if count == ordinal)


def _line_table(reach: frozenset[int]) -> Bools:
    table = np.zeros(4096, dtype=np.bool_)
    table[list(reach)] = True
    return table


def _between_table() -> Int:
    table = np.full((4096, 6), OUTSIDE, dtype=np.int64)
    for line, squares in geometry.BETWEEN.items():
        table[line, : len(squares)] = squares
    return table


def _ray_table() -> Int:
    table = np.full((64, 8, 7), OUTSIDE, dtype=np.int64)
    for square in range(64):
        for direction, step in enumerate(geometry.ORTHOGONAL + geometry.DIAGONAL):
            ray = geometry._ray(square, step)
            table[square, direction, : len(ray)] = ray
    return table


def _leap_table(leaps: tuple[tuple[int, ...], ...], width: int) -> Int:
    table = np.full((64, width), OUTSIDE, dtype=np.int64)
    for square, targets in enumerate(leaps):
        table[square, : len(targets)] = targets
    return table


REACH = np.stack([_line_table(reach) for reach in geometry.REACH])
PAWN_TAKES = _line_table(frozenset(square | to << 6 for square in range(64) for to in geometry.PAWN_ATTACKS[square]))
BETWEEN = _between_table()
RAYS = _ray_table()
KNIGHT = _leap_table(geometry.KNIGHT, 8)
KING = _leap_table(geometry.KING, 8)
PAWN = _leap_table(geometry.PAWN_ATTACKS, 2)
CASTLING_MASK = np.array(geometry.CASTLING_MASK, dtype=np.uint8)
INDEX = np.array(vocab.index_table(), dtype=np.int16)
SWAP = np.frombuffer(SWAP_COLOURS[:13], dtype=np.uint8)
MIRROR = np.concatenate([np.arange(64) ^ 56, [OUTSIDE]])


def attacked(board: Bytes, square: Int) -> Bools:
    """Whether the opponent attacks a square, for every board."""
    rows = np.arange(len(board))
    seen = board[rows[:, None, None], RAYS[square]]
    first = np.take_along_axis(seen, (seen != 0).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    straight, slant = first[:, :4], first[:, 4:]
    hit: Bools = ((straight == 10) | (straight == 11)).any(axis=1) | ((slant == 9) | (slant == 11)).any(axis=1)
    hit |= (board[rows[:, None], KNIGHT[square]] == 8).any(axis=1)
    hit |= (board[rows[:, None], KING[square]] == 12).any(axis=1)
    hit |= (board[rows[:, None], PAWN[square]] == 7).any(axis=1)
    return hit


class Lockstep:
    """Many boards, each seen by its side to move."""

    def __init__(self, count: int) -> None:
        self.board: Bytes = np.zeros((count, 65), dtype=np.uint8)
        self.board[:, :64] = np.frombuffer(START_BOARD, dtype=np.uint8)
        self.castling: Bytes = np.full(count, START_CASTLING, dtype=np.uint8)
        self.en_passant: Int = np.full(count, -1, dtype=np.int64)

    def play(self, codes: Int) -> Bools:
        """Make one move on each of the first boards; returns which moves were legal."""
        count = len(codes)
        rows = np.arange(count)
        board = self.board[:count]
        origin, target, promotion = codes & 63, codes >> 6 & 63, codes >> 12
        piece = board[rows, origin]
        legal, castles = self._geometry(board, codes, piece)
        double_step = (piece == 1) & (target - origin == 16)
        taken_in_passing = (piece == 1) & (target == self.en_passant[:count])
        board[rows, origin] = 0
        board[rows, target] = np.where(promotion > 0, promotion + 1, piece)
        board[rows[taken_in_passing], target[taken_in_passing] - 8] = 0
        for king_to, rook_from, rook_to in ((6, 7, 5), (2, 0, 3)):
            movers = rows[castles & (target == king_to)]
            board[movers, rook_from] = 0
            board[movers, rook_to] = 4
        legal &= ~attacked(board, (board[:, :64] == 6).argmax(axis=1))
        rights = self.castling[:count] & CASTLING_MASK[origin] & CASTLING_MASK[target]
        self.castling[:count] = rights >> 2 | (rights & 3) << 2
        self.en_passant[:count] = np.where(double_step, (target - 8) ^ 56, -1)
        self.board[:count] = SWAP[board[:, MIRROR]]
        return legal

    def _geometry(self, board: Bytes, codes: Int, piece: Bytes) -> tuple[Bools, Bools]:
        rows = np.arange(len(codes))
        origin, target, promotion, line = codes & 63, codes >> 6 & 63, codes >> 12, codes & 0xFFF
        taken = board[rows, target]
        own = (piece >= 1) & (piece <= 6) & ~((taken >= 1) & (taken <= 6))
        free = ~board[rows[:, None], BETWEEN[line]].any(axis=1)
        step = target - origin
        pawn = ((step == 8) | ((step == 16) & (origin < 16) & free)) & (taken == 0)
        pawn |= PAWN_TAKES[line] & ((taken >= 7) | (target == self.en_passant[: len(codes)]))
        pawn &= (target >= 56) == (promotion > 0)
        other = REACH[np.where(own, piece, 0), line] & ((piece == 2) | free) & (promotion == 0)
        castles = np.zeros(len(codes), dtype=np.bool_)
        candidates = rows[(piece == 6) & (origin == 4) & ((target == 6) | (target == 2)) & (promotion == 0)]
        if len(candidates):
            castles[candidates] = self._castling(board[candidates], self.castling[candidates], target[candidates])
        return own & np.where(piece == 1, pawn, other | castles), castles

    @staticmethod
    def _castling(board: Bytes, castling: Bytes, target: Int) -> Bools:
        short = target == 6
        right = np.where(short, castling & geometry.OWN_KINGSIDE, castling & geometry.OWN_QUEENSIDE) > 0
        free = np.where(short, ~board[:, [5, 6]].any(axis=1), ~board[:, [1, 2, 3]].any(axis=1))
        king = np.full(len(target), 4, dtype=np.int64)
        allowed: Bools = right & free & ~attacked(board, king) & ~attacked(board, (target + 4) // 2)
        return allowed


@dataclass
class Encoded:
    """Encoded positions of a chunk of games, in the order of the games."""

    tokens: Bytes
    meta: Bytes
    moves: npt.NDArray[np.int16]


def encode_chunk(games: Games, first: int, last: int, start: int, min_context: int) -> Encoded:
    """Encode the games first to last; their codes begin at start."""
    lengths = np.array(games.lengths[first:last], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    total = int(lengths.sum())
    codes = np.frombuffer(games.codes, dtype=np.uint16)[start : start + total].astype(np.int64)
    out = Encoded(np.empty((total, 64), np.uint8), np.empty((total, META_COLUMNS), np.uint8), np.empty(total, np.int16))
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths, sorted_offsets = lengths[order], offsets[order]
    boards = Lockstep(len(order))
    for ply in range(int(sorted_lengths[0]) if total else 0):
        count = int(np.searchsorted(-sorted_lengths, -ply, side="left"))
        at = sorted_offsets[:count] + ply
        out.tokens[at] = boards.board[:count, :64]
        out.meta[at, 0] = boards.castling[:count]
        out.meta[at, 1] = np.where(boards.en_passant[:count] < 0, 0, boards.en_passant[:count] % 8 + 1)
        out.meta[at, 2] = min(ply, 255)
        move = codes[at] ^ 0o7070 if ply % 2 else codes[at]
        out.moves[at] = INDEX[move]
        legal = boards.play(move)
        if not legal.all():
            worst = min(first + int(order[row]) for row in np.flatnonzero(~legal))
            raise _explained(games.path.name, _game_at(games.path, worst))
    return _only_samples(out, games, first, last, offsets, min_context)


def _only_samples(encoded: Encoded, games: Games, first: int, last: int, offsets: Int, min_context: int) -> Encoded:
    chosen = games.samples[first:last]
    if min_context == 0 and all(samples is None for samples in chosen):
        return encoded
    keep = np.zeros(len(encoded.moves), dtype=np.bool_)
    for offset, samples, length in zip(offsets, chosen, games.lengths[first:last], strict=True):
        if samples is None:
            keep[offset : offset + length] = True
        else:
            keep[offset + np.array(samples, dtype=np.int64)] = True
    keep &= encoded.meta[:, 2] >= min(min_context, 255)
    return Encoded(encoded.tokens[keep], encoded.meta[keep], encoded.moves[keep])


def encode_games(games: Games, min_context: int, sink: Callable[[Encoded], None], tick: Callable[[float], None]) -> None:
    """Encode all games chunk by chunk into a sink; tick is told the share that is done."""
    start = 0
    for first in range(0, len(games.lengths), CHUNK_GAMES):
        last = min(first + CHUNK_GAMES, len(games.lengths))
        sink(encode_chunk(games, first, last, start, min_context))
        start += sum(games.lengths[first:last])
        tick(last / len(games.lengths))
