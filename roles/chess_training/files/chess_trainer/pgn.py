# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Games out of PGN text: main line only, standard start position, moves as UCI text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from .board import Position
from .geometry import BETWEEN, REACH
from .vocab import PROMOTIONS, SQUARES, move_code

_SAN = re.compile(r"([NBRQK])?([a-h])?([1-8])?x?([a-h][1-8])(?:=?([NBRQnbrq]))?")
_PIECES = {"": 1, "N": 2, "B": 3, "R": 4, "Q": 5, "K": 6}
_RESULTS = {"1-0", "0-1", "1/2-1/2", "*"}
_TOKEN = re.compile(r"\{[^}]*\}|;[^\n]*|\(|\)|\$\d+|\d+\.+|[^\s(){};]+")


def san_to_code(position: Position, san: str) -> int:
    """The move that SAN text names in a position; ValueError when there is none, or more than one."""
    text = san.rstrip("+#!?")
    if text in ("O-O", "0-0", "O-O-O", "0-0-0"):
        return _only(position, [move_code(4, 6 if len(text) == 3 else 2)], san)
    match = _SAN.fullmatch(text)
    if match is None:
        raise ValueError(f"ply {position.ply}: {san[:20]!r} is not a move")
    piece_letter, file, rank, target, promotion = match.groups()
    flip = 0 if position.white_to_move else 56
    to_square = SQUARES.index(target) ^ flip
    piece = _PIECES[piece_letter or ""]
    promotion_code = PROMOTIONS[(promotion or "").lower()]
    found = []
    for square in range(64):
        if position.board[square] != piece:
            continue
        name = SQUARES[square ^ flip]
        if (file is None or name[0] == file) and (rank is None or name[1] == rank) and _reaches(position, piece, square, to_square):
            found.append(move_code(square, to_square, promotion_code))
    return _only(position, found, san)


def _reaches(position: Position, piece: int, square: int, to_square: int) -> bool:
    if piece == 1:
        return 7 <= to_square - square <= 16
    line = square | to_square << 6
    return line in REACH[piece] and not any(position.board[between] for between in BETWEEN.get(line, ()))


def _only(position: Position, codes: list[int], san: str) -> int:
    legal = [code for code in codes if position.copy().play(code) is None] if len(codes) != 1 else codes
    if len(legal) != 1:
        raise ValueError(f"ply {position.ply}: {san[:20]!r} {'is ambiguous' if legal else 'is not possible'}")
    return legal[0]


def moves_of(movetext: str) -> list[str]:
    """The main line of a game as UCI moves; ValueError when a move cannot be played."""
    position = Position()
    moves: list[str] = []
    depth = 0
    for token in _TOKEN.findall(movetext):
        if token in "()":
            depth += 1 if token == "(" else -1
        elif depth == 0 and token[0] not in "{;$" and token not in _RESULTS and not token[0].isdigit() or token.startswith("0-0"):
            code = san_to_code(position, token)
            text = position.uci(code)
            reason = position.play(code)
            if reason is not None:
                raise ValueError(reason)
            moves.append(text)
    return moves


def games(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Line number and movetext of every game; games that start from another position are left out."""
    body: list[str] = []
    start = 0
    other_start = False
    for number, line in enumerate(lines, 1):
        in_comment = bool(body) and body[-1].rfind("{") > body[-1].rfind("}")
        if line.startswith("[") and not in_comment:
            if body:
                if not other_start:
                    yield start, "".join(body)
                body, other_start = [], False
            other_start = other_start or line.upper().startswith("[FEN ")
        elif line.strip() and not line.startswith("%"):
            start = start if body else number
            body.append(line)
    if body and not other_start:
        yield start, "".join(body)
