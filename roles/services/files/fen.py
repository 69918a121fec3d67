# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A position from Forsyth-Edwards notation; what no game could hold is refused."""

from __future__ import annotations

import re

from chess_trainer.board import Position, mirrored
from chess_trainer.vocab import SQUARES

PIECES = "PNBRQKpnbrqk"
# The right, and where its king and rook stand; bits as White sees them.
CASTLING = {"K": (1, 4, 6, 7, 4), "Q": (2, 4, 6, 0, 4), "k": (4, 60, 12, 63, 10), "q": (8, 60, 12, 56, 10)}


def parse(text: str) -> Position:
    """The position; ValueError says what is wrong with the text."""
    fields = text.split()
    if not 4 <= len(fields) <= 6:
        raise ValueError(f"a FEN has 4 to 6 fields, this has {len(fields)}")
    board = _board(fields[0])
    if fields[1] not in ("w", "b"):
        raise ValueError(f"the side to move is {fields[1][:10]!r}, which is neither w nor b")
    white = fields[1] == "w"
    rights = _castling(fields[2], board)
    passing = _passing(fields[3], board, white)
    numbers = [*fields[4:], "0", "1"][:2] if len(fields) < 6 else fields[4:]
    if not all(re.fullmatch(r"[0-9]{1,4}", number) for number in numbers):
        raise ValueError(f"the counters {' '.join(numbers)[:20]!r} are no numbers")
    ply = 2 * (max(1, int(numbers[1])) - 1) + (not white)
    seen = board if white else mirrored(board)
    position = Position(seen, rights if white else rights >> 2 | (rights & 3) << 2, passing if white or passing < 0 else passing ^ 56, ply)
    if Position(mirrored(seen)).in_check():
        raise ValueError("the side that is not to move is in check")
    return position


def _board(text: str) -> bytearray:
    rows = text.split("/")
    if len(rows) != 8:
        raise ValueError(f"the board has {len(rows)} ranks, not 8")
    board = bytearray(64)
    for rank, row in zip(range(7, -1, -1), rows, strict=True):
        file = 0
        for letter in row:
            if letter in "12345678":
                file += int(letter)
            elif letter in PIECES and file < 8:
                board[rank * 8 + file] = PIECES.index(letter) + 1
                file += 1
            else:
                raise ValueError(f"rank {rank + 1} of the board cannot be read: {row[:20]!r}")
        if file != 8:
            raise ValueError(f"rank {rank + 1} of the board has {file} squares")
    for king, name in ((6, "White"), (12, "Black")):
        if board.count(king) != 1:
            raise ValueError(f"{name} has {board.count(king)} kings")
    for low, name in ((1, "White"), (7, "Black")):
        if sum(low <= piece < low + 6 for piece in board) > 16:
            raise ValueError(f"{name} has more than 16 pieces")
    if any(piece in (1, 7) for piece in board[:8] + board[56:]):
        raise ValueError("a pawn stands on the first or the last rank")
    return board


def _castling(text: str, board: bytearray) -> int:
    if text == "-":
        return 0
    if not re.fullmatch(r"K?Q?k?q?", text):
        raise ValueError(f"the castling rights {text[:10]!r} are none of KQkq")
    rights = 0
    for letter in text:
        bit, king_at, king, rook_at, rook = CASTLING[letter]
        if board[king_at] != king or board[rook_at] != rook:
            raise ValueError(f"the castling right {letter} is claimed, and king or rook is not at home")
        rights |= bit
    return rights


def _passing(text: str, board: bytearray, white: bool) -> int:
    """The square behind a pawn that has just made a double step, as White sees it."""
    if text == "-":
        return -1
    square = SQUARES.index(text) if text in SQUARES else -1
    step = -8 if white else 8
    pawn = 7 if white else 1
    if square // 8 != (5 if white else 2) or board[square] or board[square + step] != pawn or board[square - step]:
        raise ValueError(f"the en passant square {text[:10]!r} has no pawn that has just passed it")
    return square
