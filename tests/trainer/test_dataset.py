# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dataset check: formats, broken rows, illegal moves, and no dependency beyond the standard library."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chess_trainer import dataset
from chess_trainer.cli import main

from .conftest import ROLE, WriteData, spliced_rows

OPEN = "e2e4 e7e5 g1f3 b8c6 f1b5 a7a6"
QUEEN = "d2d4 d7d5 c2c4 e7e6"


def only_error(folder: Path) -> dict[str, Any]:
    code, verdict = dataset.check(folder)
    assert code == 65 and verdict["ok"] is False
    assert len(verdict["errors"]) == 1, verdict["errors"]
    error: dict[str, Any] = verdict["errors"][0]
    return error


def test_shipped_data_is_as_its_provenance_says(smoke: Path) -> None:
    code, verdict = dataset.check(smoke)
    assert code == 0 and verdict["ok"] and verdict["errors"] == [] and verdict["warnings"] == []
    assert (verdict["format"], verdict["games"], verdict["positions"]) == ("plain", 2000, 153337)
    provenance = (smoke / "PROVENANCE.md").read_text(encoding="utf-8")
    for name in dataset.FILES:
        sha256 = hashlib.sha256((smoke / name).read_bytes()).hexdigest()
        assert verdict["sha256"][name] == sha256 and sha256 in provenance


@pytest.mark.parametrize(
    ("rows", "name", "games", "positions"),
    [
        ([{"moves": OPEN}, {"moves": QUEEN}], "plain", 2, 10),
        ([{"moves": OPEN.split(), "schema": "game_dataset_runtime_splice_v1"}, {"moves": QUEEN.split()}], "game", 2, 10),
        (spliced_rows(OPEN, first=2) + spliced_rows(QUEEN, first=1), "spliced", 2, 7),
    ],
)
def test_three_formats_are_told_apart(write_data: WriteData, rows: list[Any], name: str, games: int, positions: int) -> None:
    code, verdict = dataset.check(write_data(rows, rows[:1]))
    assert code == 0, verdict["errors"]
    train = verdict["files"]["train.jsonl"]
    assert (verdict["format"], train["games"], train["positions"], train["rows"]) == (name, games, positions, len(rows))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"moves": "e2e4', "not JSON"),
        (b'{"moves": "e2e4 \xff"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1, 2], "neither 'moves' nor 'context'"),
        ({"moves": 7}, "neither 'moves' nor 'context'"),
        ({"moves": "  "}, "no moves"),
        ({"moves": "e2e4 e7e5 e1e3"}, "illegal move e1e3 at ply 2"),
        ({"moves": "e2e4 xx"}, "'xx' is not a move"),
        ({"moves": ["e2e4"]}, "a game row among plain rows"),
        (spliced_rows(OPEN)[0], "a spliced row among plain rows"),
        ({"moves": "e2e4" + " " * (1 << 20)}, "longer than"),
    ],
)
def test_a_broken_row_is_named_by_file_line_and_reason(write_data: WriteData, row: Any, reason: str) -> None:
    error = only_error(write_data([{"moves": OPEN}, "", row, {"moves": QUEEN}]))
    assert (error["file"], error["line"]) == ("train.jsonl", 3)
    assert reason in error["reason"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": []}, "'target' is empty"),
        ({"next_move": "a2a3"}, "not the first move of 'target'"),
        ({"context": "e2e4"}, "'context' is not a list of moves"),
        ({"target": ["e4e5", "a7a6"], "next_move": "e4e5"}, "illegal move e4e5 at ply 1"),
    ],
)
def test_a_broken_spliced_row_is_named(write_data: WriteData, change: dict[str, Any], reason: str) -> None:
    rows = spliced_rows(OPEN)
    error = only_error(write_data([rows[0], rows[1] | change], [rows[0]]))
    assert (error["file"], error["line"]) == ("train.jsonl", 2)
    assert reason in error["reason"]


def test_an_illegal_move_in_joined_rows_names_the_first_line_that_holds_it(write_data: WriteData) -> None:
    rows = spliced_rows("e2e4 e7e5 g1f3 b8c6 f3f6 a7a6")
    for row in rows:
        row["target"] = row["target"][:1]
    assert only_error(write_data(rows, rows[:1]))["line"] == 5


def test_formats_cannot_differ_between_files(write_data: WriteData) -> None:
    error = only_error(write_data([{"moves": OPEN}], [{"moves": OPEN.split()}]))
    assert (error["file"], error["line"]) == ("val.jsonl", 1) and "cannot be mixed" in error["reason"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(write_data: WriteData, content: str) -> None:
    folder = write_data([{"moves": OPEN}])
    (folder / "val.jsonl").write_text(content, encoding="utf-8")
    assert only_error(folder)["file"] == "val.jsonl"


def test_missing_files_have_their_own_exit_code(write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data([{"moves": OPEN}])
    (folder / "val.jsonl").unlink()
    code, verdict = dataset.check(folder)
    assert code == 66 and [error["file"] for error in verdict["errors"]] == ["val.jsonl"]
    assert dataset.check(tmp_path / "nowhere")[0] == 66


def test_the_list_of_errors_ends(write_data: WriteData) -> None:
    code, verdict = dataset.check(write_data(["broken"] * 100))
    assert code == 65 and len(verdict["errors"]) == dataset.MAX_ERRORS


def test_games_on_both_sides_of_the_split_are_a_warning(write_data: WriteData) -> None:
    code, verdict = dataset.check(write_data([{"moves": OPEN}], [{"moves": OPEN}]))
    assert code == 0 and "1 games" in verdict["warnings"][0]


def test_a_good_verdict_is_remembered_until_a_byte_changes(write_data: WriteData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, memory = write_data([{"moves": OPEN}], [{"moves": QUEEN}]), tmp_path / "memory.json"
    first = dataset.check(folder, memory)
    monkeypatch.setattr(dataset, "_check", lambda directory: pytest.fail("checked again"))
    assert dataset.check(folder, memory) == first
    monkeypatch.undo()
    with (folder / "val.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("broken\n")
    assert dataset.check(folder, memory)[0] == 65
    memory.write_text("torn", encoding="utf-8")
    assert dataset.check(folder, memory)[0] == 65


def test_the_check_needs_the_standard_library_only(write_data: WriteData) -> None:
    program = """
import sys
for name in ("numpy", "torch", "chess"):
    sys.modules[name] = None
from chess_trainer.cli import main
sys.exit(main(["dataset", "check", sys.argv[1]]))
"""
    command = [sys.executable, "-c", program, str(write_data([{"moves": OPEN}]))]
    result = subprocess.run(command, cwd=ROLE / "files", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ok"] is True


@pytest.mark.parametrize(
    ("rows", "words", "text"),
    [
        (spliced_rows(OPEN), ["--preset", "lstm", "--batch-size", "1"], "the preset lstm reads the moves of whole games, the data are spliced rows"),
        ([{"moves": OPEN}] * 3, ["--preset", "gpu"], "fewer than one batch of 4096; give a smaller --batch-size"),
        ([{"moves": OPEN}], ["--batch-size", "6", "--min-context", "1"], "train.jsonl has 5 positions, fewer than one batch of 6"),
        (spliced_rows(OPEN, first=3), ["--batch-size", "4"], "train.jsonl has 3 positions, fewer than one batch of 4"),
    ],
)
def test_a_dry_run_compares_what_is_asked_with_the_data(
    write_data: WriteData, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], words: list[str], text: str
) -> None:
    folder = write_data(rows, rows)
    command = ["train", "--data", str(folder), "--run-dir", str(tmp_path / "run"), "--max-steps", "1", *words]
    assert main([*command, "--dry-run"]) == 2
    assert text in capsys.readouterr().err
    # The training itself says the same; data that are elsewhere are not compared.
    if importlib.util.find_spec("torch"):
        assert main([*command, "--device", "cpu", "--cache-dir", str(tmp_path / "cache")]) == 2
        assert text in capsys.readouterr().err
    assert main([*command, "--dry-run=options"]) == 0
    assert main([*command, "--preset", "smoke", "--batch-size", "1", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--early-stop-patience", "5"], ["early stop can never come: --early-stop-patience 5 needs --evaluations 6 or more"]),
        (["--early-stop-patience", "5", "--evaluations", "6"], []),
        (["--schedule", "plateau"], ["lower learning rate can never come: --schedule plateau with --plateau-patience 3 needs --evaluations 5 or more"]),
        (["--schedule", "plateau", "--plateau-patience", "0"], []),
    ],
)
def test_what_can_never_happen_is_said(
    write_data: WriteData, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: list[str]
) -> None:
    command = ["train", "--data", str(write_data([{"moves": OPEN}])), "--run-dir", str(tmp_path / "run"), "--max-steps", "1", "--batch-size", "1", *words]
    assert main([*command, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["without_effect"] == [f"{text}, and there are 2" for text in said]
