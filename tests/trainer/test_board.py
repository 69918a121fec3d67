# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The board against published move counts and against python-chess."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from chess_trainer import vocab
from chess_trainer.board import Position

sys.path.append(str(Path(__file__).resolve().parents[2] / "roles/services/files"))
import fen  # noqa: E402

VOCABULARY_SHA256 = "780d162ba0a60b29d175bf03a0f05dcb3cb22917e400cc4339e63ffc6b5c17b7"


def perft(start: Position, depth: int) -> int:
    moves = start.legal_moves()
    if depth == 1:
        return len(moves)
    total = 0
    for code in moves:
        after = start.copy()
        after.push(code)
        total += perft(after, depth - 1)
    return total


# Counts of the Chess Programming Wiki's perft positions 1 to 5.
@pytest.mark.parametrize(
    ("text", "depth", "count"),
    [
        ("rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq -", 3, 8902),
        ("r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq -", 2, 2039),
        ("8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - -", 4, 43238),
        ("r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq -", 3, 9467),
        ("rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ -", 2, 1486),
    ],
)
def test_move_counts(text: str, depth: int, count: int) -> None:
    assert perft(fen.parse(text), depth) == count


@pytest.mark.parametrize(
    ("moves", "reason"),
    [
        ("e2e5", "a pawn does not move like that"),
        ("e7e5", "White has no piece on e7"),
        ("e2e4 e4e5", "Black has no piece on e4"),
        ("b1d2", "d2 is taken by a piece of the same side"),
        ("f1c4", "a piece stands between f1 and c4"),
        ("g1g3", "a knight does not move like that"),
        ("d2d4 d7d5 c1f4 a7a6 d1d2 a6a5 e1c1", "a piece stands between king and rook"),
        ("e2e4 e7e5 g1f3 g8f6 f1e2 f8e7 e1e2", "e2 is taken by a piece of the same side"),
        ("e2e4 e7e5 d1h5 b8c6 h5f7 g8f6", "it leaves the own king in check"),
        ("e2e4 e7e5 e4d5", "there is nothing to take on d5"),
        ("e2e4 a7a6 e4e5 d7d5 a2a3 a6a5 e5d6", "there is nothing to take on d6"),
        ("a2a4 b7b5 a4b5 a7a6 b5a6 c8b7 a6b7 h7h5 b7a8", "names its promotion"),
        ("e2e4 e7e5 g1f3 g8f6 f1c4 f8c5 h1g1 a7a6 g1h1 a6a5 e1g1", "the right to castle there is lost"),
        ("e2e4 b7b6 g1f3 c8a6 g2g3 h7h5 f1h3 e7e5 e1g1", "passes an attacked square"),
        ("hello", "is not a move in UCI notation"),
        ("e2e4q", "is not a move in UCI notation"),
    ],
)
def test_illegal_moves_are_explained(moves: str, reason: str) -> None:
    game = Position()
    *before, last = moves.split()
    for text in before:
        assert game.play_uci(text) is None
    held = bytes(game.board)
    found = game.play_uci(last)
    assert found is not None and reason in found
    assert bytes(game.board) == held and game.ply == len(before)


def test_agrees_with_python_chess() -> None:
    chess = pytest.importorskip("chess", reason="python-chess is not installed; it is the second opinion here")
    choose = random.Random(20261122)
    texts = sorted(vocab.uci_codes())
    for _turn in range(12):
        theirs, ours = chess.Board(), Position()
        while not theirs.is_game_over() and theirs.ply() < 160:
            legal = sorted(move.uci() for move in theirs.legal_moves)
            assert sorted(ours.uci(code) for code in ours.legal_moves()) == legal, theirs.fen()
            for text in choose.sample(texts, 4) + [move.uci() for move in theirs.pseudo_legal_moves]:
                assert (ours.copy().play_uci(text) is None) == (text in legal), (theirs.fen(), text)
            text = choose.choice(legal)
            theirs.push_uci(text)
            assert ours.play_uci(text) is None
            told = fen.parse(theirs.fen(en_passant="fen"))
            assert (told.board, told.castling, told.en_passant, told.ply) == (ours.board, ours.castling, ours.en_passant, ours.ply), theirs.fen()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8/8/8/8/8/8/8/8 w - - 0 1", "White has 0 kings"),
        ("rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w", "4 to 6 fields"),
        ("rnbqkbnr/pppppppp/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1", "7 ranks"),
        ("rnbqkbnr/pppppppp/9/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1", "rank 6"),
        ("rnbqkbnr/pppppppp/7/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1", "has 7 squares"),
        ("rnbqkbnr/pppppppp/44p/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1", "cannot be read"),
        ("rnbqkbnr/pppppppp/p7/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1", "Black has more than 16"),
        ("4k3/8/8/8/8/8/8/P3K3 w - - 0 1", "a pawn stands on the first"),
        ("4k3/8/8/8/8/8/8/4K3 x - - 0 1", "neither w nor b"),
        ("4k3/8/8/8/8/8/8/4K3 w K - 0 1", "not at home"),
        ("4k3/8/8/8/8/8/8/4K3 w qK - 0 1", "none of KQkq"),
        ("4k3/8/8/8/8/8/8/4K3 w - e6 0 1", "no pawn that has just passed"),
        ("4k3/8/8/4p3/8/8/8/4K3 w - e9 0 1", "no pawn that has just passed"),
        ("4k3/8/8/8/8/8/4R3/4K3 w - - 0 1", "not to move is in check"),
        ("4k3/8/8/8/8/8/8/4K3 w - - x 1", "no numbers"),
    ],
)
def test_a_position_that_cannot_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        fen.parse(text)


def test_vocabulary_is_the_one_that_models_were_trained_with() -> None:
    assert len(vocab.moves()) == len(set(vocab.moves())) == 1858
    assert vocab.vocabulary_sha256() == VOCABULARY_SHA256


def test_queen_promotions_are_plain_moves() -> None:
    table = vocab.index_table()
    a, b = vocab.SQUARES.index("e7"), vocab.SQUARES.index("f8")
    assert table[vocab.move_code(a, b, 4)] == table[vocab.move_code(a, b)] >= 0
    assert table[vocab.move_code(a, b, 1)] >= 1792
