# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the empty board: rays, leaps, squares in between."""

from __future__ import annotations

ORTHOGONAL = ((0, 1), (0, -1), (1, 0), (-1, 0))
DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))
KNIGHT_LEAPS = ((1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2))


def _leaps(square: int, steps: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    file, rank = square % 8, square // 8
    return tuple((rank + r) * 8 + file + f for f, r in steps if 0 <= file + f < 8 and 0 <= rank + r < 8)


def _ray(square: int, step: tuple[int, int]) -> tuple[int, ...]:
    squares = []
    file, rank = square % 8 + step[0], square // 8 + step[1]
    while 0 <= file < 8 and 0 <= rank < 8:
        squares.append(rank * 8 + file)
        file, rank = file + step[0], rank + step[1]
    return tuple(squares)


def _rays(square: int, steps: tuple[tuple[int, int], ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(ray for ray in (_ray(square, step) for step in steps) if ray)


KNIGHT = tuple(_leaps(square, KNIGHT_LEAPS) for square in range(64))
KING = tuple(_leaps(square, ORTHOGONAL + DIAGONAL) for square in range(64))
ORTHOGONAL_RAYS = tuple(_rays(square, ORTHOGONAL) for square in range(64))
DIAGONAL_RAYS = tuple(_rays(square, DIAGONAL) for square in range(64))
# Squares from which a pawn of the opponent attacks a square, and which an own pawn attacks: pawns of the side to move walk up.
PAWN_ATTACKS = tuple(_leaps(square, ((-1, 1), (1, 1))) for square in range(64))


def _between() -> dict[int, tuple[int, ...]]:
    table: dict[int, tuple[int, ...]] = {}
    for square in range(64):
        for ray in ORTHOGONAL_RAYS[square] + DIAGONAL_RAYS[square]:
            for distance, target in enumerate(ray):
                table[square | target << 6] = ray[:distance]
    return table


# Squares strictly between two squares on one line, keyed by from | to << 6.
BETWEEN = _between()


def _reach(rays: tuple[tuple[tuple[int, ...], ...], ...]) -> frozenset[int]:
    return frozenset(square | target << 6 for square in range(64) for ray in rays[square] for target in ray)


REACH_ORTHOGONAL = _reach(ORTHOGONAL_RAYS)
REACH_DIAGONAL = _reach(DIAGONAL_RAYS)
REACH_KNIGHT = frozenset(square | target << 6 for square in range(64) for target in KNIGHT[square])
REACH_KING = frozenset(square | target << 6 for square in range(64) for target in KING[square])
# By own piece 1 to 6; pawns have rules of their own.
REACH: tuple[frozenset[int], ...] = (frozenset(), frozenset(), REACH_KNIGHT, REACH_DIAGONAL, REACH_ORTHOGONAL, REACH_ORTHOGONAL | REACH_DIAGONAL, REACH_KING)

OWN_KINGSIDE, OWN_QUEENSIDE, OPPONENT_KINGSIDE, OPPONENT_QUEENSIDE = 1, 2, 4, 8


def _castling_mask() -> tuple[int, ...]:
    mask = [15] * 64
    mask[4] = 12
    mask[7] = 14
    mask[0] = 13
    mask[60] = 3
    mask[63] = 11
    mask[56] = 7
    return tuple(mask)


# Castling rights that survive a move from or to a square.
CASTLING_MASK = _castling_mask()
