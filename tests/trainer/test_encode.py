# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoding in lockstep: the same boards as the one-by-one board, the same verdict on every move, one cache per content."""

from __future__ import annotations

from pathlib import Path

import pytest

np = pytest.importorskip("numpy", reason="NumPy is not installed: pip install numpy to run the encoder's tests")

from chess_trainer import cache, encode, vocab  # noqa: E402
from chess_trainer.board import Position  # noqa: E402
from chess_trainer.errors import DataError, MissingError  # noqa: E402

from .conftest import WriteData, spliced_rows  # noqa: E402


def quiet(doing: str, share: float) -> None:
    pass


def test_boards_equal_those_of_the_plain_board(small_data: Path, tmp_path: Path) -> None:
    positions = cache.load(small_data, "train", tmp_path, 0, None, quiet)
    row = 0
    for line in (small_data / "train.jsonl").read_text(encoding="utf-8").splitlines():
        board = Position()
        for text in line.split('"')[3].split():
            assert positions.tokens[row].tobytes() == bytes(board.board)
            assert tuple(positions.meta[row]) == (board.castling, 0 if board.en_passant < 0 else board.en_passant % 8 + 1, min(board.ply, 255))
            code = board.parse(text)
            assert vocab.index_table()[code] == positions.moves[row] >= 0
            board.push(code)
            row += 1
    assert row == len(positions) > 4000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_move_is_judged_as_the_plain_board_judges_it(seed: int) -> None:
    choose = np.random.default_rng(seed)
    texts = sorted(vocab.uci_codes())
    boards, lockstep = [Position() for _turn in range(200)], encode.Lockstep(200)
    for _turn in range(60):
        tried = [board.copy() for board in boards]
        codes = []
        for board in boards:
            legal = board.legal_moves()
            wild = choose.random() < 0.5 or not legal
            codes.append(board.parse(texts[choose.integers(len(texts))]) if wild else legal[choose.integers(len(legal))])
        trial = encode.Lockstep(200)
        trial.board[:], trial.castling[:], trial.en_passant[:] = lockstep.board, lockstep.castling, lockstep.en_passant
        verdict = trial.play(np.array(codes, dtype=np.int64))
        assert verdict.tolist() == [board.play(code) is None for board, code in zip(tried, codes, strict=True)]
        going = [board.legal_moves() for board in boards]
        if not all(going):
            break
        codes = [legal[choose.integers(len(legal))] for legal in going]
        assert lockstep.play(np.array(codes, dtype=np.int64)).all()
        for board, code in zip(boards, codes, strict=True):
            board.push(code)


@pytest.mark.parametrize("line", [1, 7, 30])
def test_an_illegal_move_names_file_line_and_reason(small_data: Path, write_data: WriteData, tmp_path: Path, line: int) -> None:
    rows = (small_data / "train.jsonl").read_text(encoding="utf-8").splitlines()[:30]
    moves = rows[line - 1].split('"')[3].split()
    moves[9] = "a1a8"
    rows[line - 1] = f'{{"moves": "{" ".join(moves)}"}}'
    with pytest.raises(DataError, match=rf"train.jsonl, line {line}: illegal move a1a8 at ply 9") as caught:
        cache.load(write_data(list(rows)), "train", tmp_path / "cache", 0, None, quiet)
    assert caught.value.exit_code == 65
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".tmp"]


def test_a_word_that_is_no_move_names_its_line(write_data: WriteData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.jsonl, line 2: ply 1: 'z9' is not a move"):
        cache.load(write_data([{"moves": "e2e4"}, {"moves": "e2e4 z9"}]), "train", tmp_path, 0, None, quiet)


def test_spliced_rows_give_the_same_samples_as_games(write_data: WriteData, tmp_path: Path) -> None:
    games = ["e2e4 e7e5 g1f3 b8c6 f1b5 a7a6", "e2e4 e7e5 g1f3 b8c6 f1c4 f8c5", "d2d4 d7d5 c2c4"]
    plain = cache.load(write_data([{"moves": game} for game in games], name="plain"), "train", tmp_path, 2, None, quiet)
    rows = [row for game in games for row in spliced_rows(game, first=2)]
    spliced = cache.load(write_data(rows, rows[:1], name="spliced"), "train", tmp_path, 0, None, quiet)
    assert len(plain) == len(spliced) == 9
    for name in ("tokens", "meta", "moves"):
        assert np.array_equal(getattr(plain, name), getattr(spliced, name))


def test_the_cache_is_made_once_for_each_content(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache.load(small_data, "val", tmp_path, 0, None, quiet)
    monkeypatch.setattr(cache, "encode_games", None)
    again = cache.load(small_data, "val", tmp_path, 0, None, quiet)
    assert np.array_equal(first.tokens, again.tokens)
    with pytest.raises(TypeError):
        cache.load(small_data, "val", tmp_path, 1, None, quiet)


def test_a_broken_cache_is_made_again(small_data: Path, tmp_path: Path) -> None:
    first = cache.load(small_data, "val", tmp_path, 0, None, quiet)
    (next(tmp_path.iterdir()) / "tokens.u8").write_bytes(b"short")
    again = cache.load(small_data, "val", tmp_path, 0, None, quiet)
    assert len(again) == len(first) and again.tokens[0].tobytes() == bytes(Position().board)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="train.jsonl is not there"):
        cache.load(tmp_path, "train", tmp_path / "cache", 0, None, quiet)
