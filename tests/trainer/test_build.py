# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dataset build: PGN and move lists in, a deterministic split by game out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from chess_trainer import build, dataset, pgn
from chess_trainer.board import Position
from chess_trainer.cli import main
from chess_trainer.errors import DataError, UsageError

PGN = """\
[Event "Annotated"]
[Result "1-0"]

1. e4 {the best [by test]
[not a tag]} e5 2. Nf3 (2. f4 exf4 (2... d5) 3. Nf3) 2... Nc6 $1 3. Bb5 a6! ; a remark
4. O-O dxc3?? 1-0

[Event "From another position"]
[FEN "8/8/8/8/8/8/8/K1k5 w - - 0 1"]

1. Ka2 Kc2 *

[Event "Whole"]

1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 1/2-1/2
"""


def test_main_line_only() -> None:
    found = list(pgn.games(PGN.splitlines(keepends=True)))
    assert [line for line, _rest in found] == [4, 15]
    assert pgn.moves_of(found[1][1]) == ["e2e4", "e7e5", "g1f3", "b8c6", "f1b5", "a7a6", "b5a4", "g8f6", "e1g1", "f8e7", "f1e1", "b7b5", "a4b3", "d7d6"]
    with pytest.raises(ValueError, match=r"ply 7: 'dxc3\?\?' is not possible"):
        pgn.moves_of(found[0][1])


@pytest.mark.parametrize(
    ("moves", "san", "uci"),
    [
        ("d2d4 d7d5 g1f3 g8f6", "Nbd2", "b1d2"),
        ("e2e4 d7d5", "exd5", "e4d5"),
        ("e2e4 a7a6 e4e5 d7d5", "exd6", "e5d6"),
        ("a2a4 b7b5 a4b5 a7a6 b5a6 c8b7 a6b7 h7h5", "bxa8=N+", "b7a8n"),
        ("e2e4 e7e5 g1f3 g8f6 f1c4 f8c5", "0-0", "e1g1"),
        ("a2a4 h7h5 a1a3 h8h6 h2h4 a7a6", "Rhh3", "h1h3"),
    ],
)
def test_short_notation(moves: str, san: str, uci: str) -> None:
    position = Position()
    for text in moves.split():
        assert position.play_uci(text) is None
    assert position.uci(pgn.san_to_code(position, san)) == uci


def test_ambiguous_notation_is_refused() -> None:
    position = Position()
    for text in ["d2d4", "d7d5", "g1f3", "g8f6"]:
        position.play_uci(text)
    with pytest.raises(ValueError, match="'Nd2' is ambiguous"):
        pgn.san_to_code(position, "Nd2")


def random_games(count: int) -> list[str]:
    choose = random.Random(5)
    games = []
    for _turn in range(count):
        position, texts = Position(), []
        for _turn in range(12):
            code = choose.choice(position.legal_moves())
            texts.append(position.uci(code))
            position.push(code)
        games.append(" ".join(texts))
    return games


def test_split_is_by_game_and_does_not_depend_on_the_order(tmp_path: Path) -> None:
    games = random_games(40)
    outputs = []
    for name, order in (("a", games), ("b", games[::-1] + games[:5])):
        source = tmp_path / f"{name}.txt"
        source.write_text("\n".join(order) + "\n", encoding="utf-8")
        out = tmp_path / name
        assert main(["dataset", "build", "--out", str(out), "--moves", str(source), "--games", "30", "--seed", "3", "--val-fraction", "0.2"]) == 0
        outputs.append([(out / file).read_bytes() for file in dataset.FILES])
        code, verdict = dataset.check(out)
        assert code == 0 and verdict["warnings"] == []
        assert [verdict["files"][file]["games"] for file in dataset.FILES] == [24, 6]
    assert outputs[0] == outputs[1]
    statistics = json.loads((tmp_path / "b" / "stats.json").read_text(encoding="utf-8"))
    assert statistics["counts"] == {"read": 45, "too_short": 0, "double": 5, "unplayable": 0}


def test_another_seed_is_another_split() -> None:
    games = [text.split() for text in random_games(40)]
    assert build.select(games, build.Recipe(seed=1))[1] != build.select(games, build.Recipe(seed=2))[1]


def test_unplayable_pgn_games_are_counted_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "games.pgn"
    source.write_text(PGN, encoding="utf-8")
    skipped: list[str] = []
    kept = list(build.pgn_games(source, skipped))
    assert len(kept) == 1 and len(skipped) == 1 and "games.pgn, game at line 4: ply 7" in skipped[0]


def test_an_illegal_move_in_a_move_list_names_its_line(tmp_path: Path) -> None:
    source = tmp_path / "games.txt"
    source.write_text("e2e4 e7e5\n\nd2d4 d2d4\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"games.txt, line 3: illegal move d2d4 at ply 1"):
        list(build.move_list_games(source))


def test_too_few_games_are_refused() -> None:
    games = [text.split() for text in random_games(3)]
    with pytest.raises(UsageError, match="5 games were asked for, but the source has only 3"):
        build.select(games, build.Recipe(games=5))


def test_another_archive_than_the_known_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "book.tar.gz"
    archive.write_bytes(b"something else")
    code = main(["dataset", "build", "--out", str(tmp_path / "out"), "--from-gnuchess-book", "--source", str(archive)])
    assert code == 65 and "sha256 is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mirrors", "line"),
    [
        ([], "deb-src [trusted=yes] http://deb.debian.org/debian bookworm main"),
        (["https://mirror.example/debian"], "deb-src https://mirror.example/debian bookworm main"),
    ],
)
def test_a_machine_without_debians_sources_asks_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mirrors: list[str], line: str) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(build, "_mirrors", lambda: mirrors)
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(build, "_apt", lambda folder, *words: asked.append(words))
    assert build.fetch_gnuchess_book(tmp_path, lambda text: None) == tmp_path / build.GNUCHESS_ARCHIVE
    assert (tmp_path / "sources.list").read_text(encoding="utf-8") == line + "\n" and [words[0] for words in asked] == ["update", "source"]
