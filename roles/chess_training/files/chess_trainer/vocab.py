# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The 1858 moves a policy can choose from, and the numbering of squares and moves.

Squares count from a1 = 0 to h8 = 63. A move is one integer: from | to << 6 | promotion << 12.
Boards and moves are always seen by the side to move: for Black the board is mirrored top to bottom.
"""

from __future__ import annotations

import functools
import hashlib

PROMOTIONS = {"": 0, "n": 1, "b": 2, "r": 3, "q": 4}
PROMOTION_LETTERS = ("", "n", "b", "r", "q")
FILES = "abcdefgh"
SQUARES = tuple(f"{FILES[square % 8]}{square // 8 + 1}" for square in range(64))


def move_code(from_square: int, to_square: int, promotion: int = 0) -> int:
    """Pack a move into one integer."""
    return from_square | to_square << 6 | promotion << 12


def mirror_code(code: int) -> int:
    """The same move seen from the other side of the board."""
    return code ^ 0o7070


def code_to_uci(code: int) -> str:
    """Write a move as UCI text."""
    return SQUARES[code & 63] + SQUARES[code >> 6 & 63] + PROMOTION_LETTERS[code >> 12]


def _queen_or_knight(from_square: int, to_square: int) -> bool:
    files = abs(from_square % 8 - to_square % 8)
    ranks = abs(from_square // 8 - to_square // 8)
    if files == 0 and ranks == 0:
        return False
    return files == 0 or ranks == 0 or files == ranks or sorted((files, ranks)) == [1, 2]


def _plain_moves() -> list[int]:
    return [move_code(a, b) for a in range(64) for b in range(64) if _queen_or_knight(a, b)]


def _pawn_steps_to_last_rank() -> list[tuple[int, int]]:
    return [(a, b) for a in range(48, 56) for b in range(56, 64) if abs(a % 8 - b % 8) <= 1]


@functools.cache
def moves() -> tuple[int, ...]:
    """All moves of the vocabulary in their order: plain moves, then under-promotions.

    A promotion to a queen is the plain move of the pawn.
    """
    under = [move_code(a, b, promotion) for a, b in _pawn_steps_to_last_rank() for promotion in (1, 2, 3)]
    return tuple(_plain_moves() + under)


@functools.cache
def index_table() -> list[int]:
    """A list from move code (five promotions x 4096) to vocabulary index, -1 where there is none.

    Pawn moves to the last rank are looked up with promotion 4 (queen) or 1 to 3; both 0 and 4 give the plain index.
    """
    table = [-1] * (5 * 4096)
    for index, code in enumerate(moves()):
        table[code] = index
    for a, b in _pawn_steps_to_last_rank():
        table[move_code(a, b, 4)] = table[move_code(a, b)]
    return table


@functools.cache
def uci_codes() -> dict[str, int]:
    """Every UCI text that a piece of either colour could make on an empty board, with its code."""
    codes = {code_to_uci(code): code for code in _plain_moves()}
    for a, b in _pawn_steps_to_last_rank():
        for promotion in (1, 2, 3, 4):
            code = move_code(a, b, promotion)
            codes[code_to_uci(code)] = code
            codes[code_to_uci(mirror_code(code))] = mirror_code(code)
    return codes


@functools.cache
def vocabulary_sha256() -> str:
    """A fingerprint of the vocabulary; it stands in every artifact."""
    return hashlib.sha256(" ".join(code_to_uci(code) for code in moves()).encode()).hexdigest()
