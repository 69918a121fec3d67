# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A board that plays and judges moves with the standard library alone.

Pieces of the side to move are 1 to 6 (pawn, knight, bishop, rook, queen, king), those of the opponent 7 to 12.
"""

from __future__ import annotations

from .geometry import (
    BETWEEN,
    CASTLING_MASK,
    DIAGONAL_RAYS,
    KING,
    KNIGHT,
    ORTHOGONAL_RAYS,
    OWN_KINGSIDE,
    OWN_QUEENSIDE,
    PAWN_ATTACKS,
    REACH,
)
from .vocab import SQUARES, code_to_uci, mirror_code, move_code, uci_codes

START_BOARD = bytes([4, 2, 3, 5, 6, 3, 2, 4] + [1] * 8 + [0] * 32 + [7] * 8 + [10, 8, 9, 11, 12, 9, 8, 10])
START_CASTLING = 15
PIECE_NAMES = ("", "pawn", "knight", "bishop", "rook", "queen", "king")
SWAP_COLOURS = bytes([0, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6]) + bytes(243)
Board = bytes | bytearray


def attacked(board: Board, square: int) -> bool:
    """Whether the opponent attacks a square."""
    for ray in ORTHOGONAL_RAYS[square]:
        for seen in ray:
            piece = board[seen]
            if piece:
                if piece == 10 or piece == 11:
                    return True
                break
    for ray in DIAGONAL_RAYS[square]:
        for seen in ray:
            piece = board[seen]
            if piece:
                if piece == 9 or piece == 11:
                    return True
                break
    return attacked_by_leaper(board, square)


def attacked_by_leaper(board: Board, square: int) -> bool:
    """Whether a knight, king or pawn of the opponent attacks a square."""
    for seen in KNIGHT[square]:
        if board[seen] == 8:
            return True
    for seen in PAWN_ATTACKS[square]:
        if board[seen] == 7:
            return True
    return any(board[seen] == 12 for seen in KING[square])


def mirrored(board: Board) -> bytearray:
    """The board as the other side sees it."""
    b = board
    return bytearray(b[56:] + b[48:56] + b[40:48] + b[32:40] + b[24:32] + b[16:24] + b[8:16] + b[:8]).translate(SWAP_COLOURS)


class Position:
    """A position seen by the side to move."""

    __slots__ = ("board", "castling", "en_passant", "played", "ply")

    def __init__(self, board: Board = START_BOARD, castling: int = START_CASTLING, en_passant: int = -1, ply: int = 0) -> None:
        self.board = bytearray(board)
        self.castling = castling
        self.en_passant = en_passant
        self.ply = ply
        # The moves that led here, where somebody keeps them: a network that reads moves asks for them.
        self.played: list[int] | None = None

    def copy(self) -> Position:
        """An independent copy."""
        return Position(self.board, self.castling, self.en_passant, self.ply)

    @property
    def white_to_move(self) -> bool:
        """Whether White is to move; games start with White."""
        return self.ply % 2 == 0

    def in_check(self) -> bool:
        """Whether the king of the side to move is attacked."""
        return attacked(self.board, self.board.index(6))

    def uci(self, code: int) -> str:
        """A move of the side to move as UCI text."""
        return code_to_uci(code if self.white_to_move else mirror_code(code))

    def parse(self, text: str) -> int:
        """The code of a UCI move, seen by the side to move; ValueError says what is wrong with the text."""
        code = uci_codes().get(text)
        if code is None:
            raise ValueError(f"{text[:20]!r} is not a move in UCI notation that any piece could make")
        return code if self.white_to_move else mirror_code(code)

    def after(self, code: int) -> bytearray:
        """The board after a move, still seen by the side that moved."""
        board = bytearray(self.board)
        from_square, to_square, promotion = code & 63, code >> 6 & 63, code >> 12
        piece = board[from_square]
        board[from_square] = 0
        board[to_square] = promotion + 1 if promotion else piece
        if piece == 1 and to_square == self.en_passant:
            board[to_square - 8] = 0
        elif piece == 6 and from_square == 4:
            if to_square == 6 and self.castling & OWN_KINGSIDE:
                board[7], board[5] = 0, 4
            elif to_square == 2 and self.castling & OWN_QUEENSIDE:
                board[0], board[3] = 0, 4
        return board

    def push(self, code: int) -> None:
        """Make a move that is known to be legal."""
        self._take(code, self.after(code))

    def _take(self, code: int, board: bytearray) -> None:
        from_square, to_square = code & 63, code >> 6 & 63
        double_step = to_square - from_square == 16 and self.board[from_square] == 1
        rights = self.castling & CASTLING_MASK[from_square] & CASTLING_MASK[to_square]
        self.castling = rights >> 2 | (rights & 3) << 2
        self.en_passant = (to_square - 8) ^ 56 if double_step else -1
        self.board = mirrored(board)
        self.ply += 1

    def play(self, code: int) -> str | None:
        """Make a move if it is legal; otherwise leave the position as it is and say why not."""
        reason = self._geometry(code)
        if reason is not None:
            return f"illegal move {self.uci(code)} at ply {self.ply}: {reason}"
        board = self.after(code)
        if attacked(board, board.index(6)):
            return f"illegal move {self.uci(code)} at ply {self.ply}: it leaves the own king in check"
        self._take(code, board)
        return None

    def play_uci(self, text: str) -> str | None:
        """Make a move given as UCI text; the reason when that cannot be done."""
        try:
            code = self.parse(text)
        except ValueError as error:
            return f"ply {self.ply}: {error}"
        return self.play(code)

    def _geometry(self, code: int) -> str | None:
        from_square, to_square, promotion = code & 63, code >> 6 & 63, code >> 12
        board = self.board
        piece, target = board[from_square], board[to_square]
        if not 1 <= piece <= 6:
            return f"{self._colour()} has no piece on {self._square(from_square)}"
        if 1 <= target <= 6:
            return f"{self._square(to_square)} is taken by a piece of the same side"
        if piece == 1:
            return self._pawn(from_square, to_square, promotion)
        if promotion:
            return "only a pawn is promoted"
        line = code & 0xFFF
        if line in REACH[piece]:
            if piece != 2 and any(board[square] for square in BETWEEN[line]):
                return f"a piece stands between {self._square(from_square)} and {self._square(to_square)}"
            return None
        if piece == 6 and from_square == 4 and to_square in (2, 6):
            return self._castling(to_square)
        return f"a {PIECE_NAMES[piece]} does not move like that"

    def _pawn(self, from_square: int, to_square: int, promotion: int) -> str | None:
        board = self.board
        if (to_square >= 56) != bool(promotion):
            return "a pawn that reaches the last rank names its promotion" if to_square >= 56 else "a pawn is promoted on the last rank only"
        if to_square == from_square + 8:
            return None if board[to_square] == 0 else f"{self._square(to_square)} is taken"
        if to_square == from_square + 16 and from_square < 16:
            return None if board[to_square] == 0 and board[to_square - 8] == 0 else "the way of the pawn is blocked"
        if to_square in PAWN_ATTACKS[from_square]:
            if board[to_square] >= 7 or to_square == self.en_passant:
                return None
            return f"there is nothing to take on {self._square(to_square)}"
        return "a pawn does not move like that"

    def _castling(self, to_square: int) -> str | None:
        board = self.board
        if not self.castling & (OWN_KINGSIDE if to_square == 6 else OWN_QUEENSIDE):
            return "the right to castle there is lost"
        if board[5] or board[6] if to_square == 6 else board[1] or board[2] or board[3]:
            return "a piece stands between king and rook"
        if attacked(board, 4) or attacked(board, (to_square + 4) // 2):
            return "the king is in check or passes an attacked square"
        return None

    def _square(self, square: int) -> str:
        return SQUARES[square if self.white_to_move else square ^ 56]

    def _colour(self) -> str:
        return "White" if self.white_to_move else "Black"

    def legal_moves(self) -> list[int]:
        """All legal moves, as codes seen by the side to move; a promotion names its piece."""
        king = self.board.index(6)
        suspects = self._pinned(king)
        suspects.add(king)
        anything = attacked(self.board, king)
        moves = []
        for code in self._candidates():
            if anything or code & 63 in suspects or code >> 6 & 63 == self.en_passant:
                board = self.after(code)
                if attacked(board, board.index(6)):
                    continue
            moves.append(code)
        return moves

    def _pinned(self, king: int) -> set[int]:
        pinned = set()
        for ray in ORTHOGONAL_RAYS[king] + DIAGONAL_RAYS[king]:
            for square in ray:
                piece = self.board[square]
                if piece:
                    if piece < 7:
                        pinned.add(square)
                    break
        return pinned

    def _candidates(self) -> list[int]:
        codes: list[int] = []
        board = self.board
        for square in range(64):
            piece = board[square]
            if not 1 <= piece <= 6:
                continue
            if piece == 1:
                self._pawn_candidates(square, codes)
                continue
            if piece == 2 or piece == 6:
                codes += [square | to << 6 for to in (KNIGHT if piece == 2 else KING)[square] if not 1 <= board[to] <= 6]
                continue
            if piece != 3:
                self._slide(square, ORTHOGONAL_RAYS[square], codes)
            if piece != 4:
                self._slide(square, DIAGONAL_RAYS[square], codes)
        if board[4] == 6 and self.castling & 3:
            codes += [move_code(4, to) for to in (6, 2) if self._castling(to) is None]
        return codes

    def _slide(self, square: int, rays: tuple[tuple[int, ...], ...], codes: list[int]) -> None:
        board = self.board
        for ray in rays:
            for to in ray:
                target = board[to]
                if target == 0:
                    codes.append(square | to << 6)
                    continue
                if target >= 7:
                    codes.append(square | to << 6)
                break

    def _pawn_candidates(self, square: int, codes: list[int]) -> None:
        board = self.board
        targets = [to for to in PAWN_ATTACKS[square] if board[to] >= 7 or to == self.en_passant]
        if board[square + 8] == 0:
            targets.append(square + 8)
            if square < 16 and board[square + 16] == 0:
                targets.append(square + 16)
        for to in targets:
            if to >= 56:
                codes += [square | to << 6 | promotion << 12 for promotion in (4, 1, 2, 3)]
            else:
                codes.append(square | to << 6)
