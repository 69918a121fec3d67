# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""train_baseline_preset.sh: what each name does, what is refused, and an exit code that is true."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from chess_trainer import hub, preset
from chess_trainer.cli import main, parser
from chess_trainer.errors import MissingError, UsageError

HARMLESS = {"TRAIN_EXTRA_ARGS": "--max-steps 2 --precision fp32 --batch-size 16 --eval-positions 32 --evaluations 0", "TRAIN_PRESET": "smoke"}


@pytest.fixture
def workspace(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*preset.NAMES, *preset.IDLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(small_data, tmp_path / "data/small", ignore=shutil.ignore_patterns("cache"))
    return tmp_path


def said(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.mark.parametrize(
    ("name", "value", "option", "expected"),
    [
        ("TRAIN_PRESET", "lstm", "--preset", "lstm"),
        ("TRAIN_BATCH_SIZE", "96", "--batch-size", "96"),
        ("TRAIN_NPROC_PER_NODE", "4", "--processes", "4"),
        ("TRAIN_EPOCHS", "3", "--max-epochs", "3"),
        ("TRAIN_EPOCHS", "3", "--evaluations", "2"),
        ("TRAIN_SECONDS", "90", "--max-seconds", "90"),
        ("TRAIN_SEED", "8", "--seed", "8"),
        ("TRAIN_PHASE_WEIGHT_OPENING", "0.5", "--phase-weights", "opening=0.5,middlegame=1,endgame=2"),
        ("TRAIN_PHASE_WEIGHT_MIDDLEGAME", "3", "--phase-weights", "opening=1,middlegame=3,endgame=2"),
        ("TRAIN_PHASE_WEIGHT_ENDGAME", "1", "--phase-weights", "opening=1,middlegame=1,endgame=1"),
        ("TRAIN_RUNTIME_MIN_CONTEXT", "8", "--min-context", "8"),
        ("TRAIN_EXTRA_ARGS", "--lr 0.01", "--lr", "0.01"),
        ("TRAIN_RUN_DIR", "/elsewhere", "--run-dir", "/elsewhere"),
        ("OUTPUT_PATH", "/out/a.pt", "--run-dir", "/out/a"),
        ("HF_DATASET_REPO_ID", "me/games", "--data", "{workspace}/data/me--games"),
    ],
)
def test_each_name_is_heard_from_the_environment_and_from_the_role(workspace: Path, name: str, value: str, option: str, expected: str) -> None:
    for given, defaults in (({name: value}, {}), ({}, {name: value}), ({name: value}, {name: "not this"})):
        words = preset.resolve(given, defaults, workspace).arguments([])
        assert said(words, option) == expected.format(workspace=workspace)
        parser().parse_args(words)


@pytest.mark.parametrize("given", [{"TRAIN_SECONDS": "90"}, {"TRAIN_EXTRA_ARGS": "--max-steps 9"}])
def test_another_budget_than_epochs_leaves_the_evaluations_to_the_preset(workspace: Path, given: dict[str, str]) -> None:
    words = preset.resolve(given, {}, workspace).arguments([])
    assert "--evaluations" not in words and "--max-epochs" not in words


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"TRAIN_BATCH_SIZE": "0"}, UsageError, "TRAIN_BATCH_SIZE=0 is not a whole number of 1 or more"),
        ({"TRAIN_EPOCHS": "many"}, UsageError, "TRAIN_EPOCHS=many is not a whole number"),
        ({"TRAIN_PHASE_WEIGHT_ENDGAME": "-1"}, UsageError, "TRAIN_PHASE_WEIGHT_ENDGAME=-1 is not a number of 0 or more"),
        ({"TRAIN_SECONDS": "nan"}, UsageError, "TRAIN_SECONDS=nan"),
        ({"TRAIN_MAX_TRAIN_ROWS": "1.5"}, UsageError, "TRAIN_MAX_TRAIN_ROWS=1.5"),
        ({"TRAIN_MAX_TOTAL_ROWS": "1"}, UsageError, "leaves no row"),
        ({"TRAIN_EXTRA_ARGS": "--lr '1"}, UsageError, "TRAIN_EXTRA_ARGS cannot be split"),
        ({"TRAIN_EXTRA_ARGS": "--lr 0.1 --run-dir=/x"}, UsageError, "--run-dir=/x among the extra options.*set TRAIN_RUN_DIR"),
        ({"TRAIN_EXTRA_ARGS": "--dat /x"}, UsageError, "--data is not to be given there; set TRAIN_DATASET_DIR"),
        ({"TRAIN_EXTRA_ARGS": "--dry-run"}, UsageError, "--dry-run is not to be given there"),
        ({"TRAIN_PATH": "/x"}, UsageError, "TRAIN_PATH and VAL_PATH go together"),
        ({"OUTPUT_PATH": "/x/model"}, UsageError, "does not end in .pt"),
    ],
)
def test_bad_values_are_refused(workspace: Path, given: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        preset.resolve(given, {}, workspace).arguments([])


def test_nothing_to_train_on_and_a_misspelt_default_are_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name TRAIN_BATCHSIZE, which it does not read"):
        preset.resolve({}, {"TRAIN_BATCHSIZE": 4}, workspace)
    with pytest.raises(MissingError, match="set TRAIN_DATASET_DIR"):
        preset.resolve({}, {}, tmp_path / "nothing")


def test_a_dry_run_checks_and_writes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRAIN_NUM_WORKERS", "6")
    before = sorted(workspace.rglob("*"))
    assert main(["preset", "--workspace", str(workspace), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert f"--data {workspace}/data/small" in output and "TRAIN_NUM_WORKERS is without effect" in output
    monkeypatch.setenv("TRAIN_DATASET_DIR", str(workspace / "nowhere"))
    assert main(["preset", "--workspace", str(workspace), "--dry-run"]) == 66
    assert sorted(workspace.rglob("*")) == before


def test_files_are_taken_cut_and_delivered(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch numpy to run the trainer's tests")
    folder = workspace / "data/small"
    (folder / "train.jsonl").rename(workspace / "rows.jsonl")
    wanted = {"TRAIN_PATH": "rows.jsonl", "VAL_PATH": "data/small/val.jsonl", "OUTPUT_PATH": "out/m.pt", "METRICS_OUT": "figures/m.json"}
    for name, value in wanted.items():
        monkeypatch.setenv(name, str(workspace / value))
    for name, value in ({"TRAIN_MAX_TRAIN_ROWS": "30", "TRAIN_MAX_TOTAL_ROWS": "20"} | HARMLESS).items():
        monkeypatch.setenv(name, value)
    assert main(["preset", "--workspace", str(workspace)]) == 0, capsys.readouterr().err
    figures = json.loads((workspace / "figures/m.json").read_bytes())
    assert figures["steps"] == 2 and figures["ended_by"] == "budget" and figures["request"]["phase_weights"] == [1.0, 1.0, 2.0]
    assert (workspace / "out/m.pt").read_bytes() == (workspace / "out/m/model.pt").read_bytes()
    lines = [len((workspace / "out/m/data" / name).read_bytes().splitlines()) for name in ("train.jsonl", "val.jsonl")]
    assert sum(lines) == 20 and lines == [14, 6]
    times = [json.loads(line) for line in (workspace / "out/m/runpod_phase_times.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["phase"] for row in times if row["source"] == "runpod_train_preset"] == ["resolve_dataset_paths", "train_baseline"]


def test_the_trainers_exit_code_comes_through(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch numpy to run the trainer's tests")
    for name, value in HARMLESS.items():
        monkeypatch.setenv(name, value)
    assert main(["preset", "--workspace", str(workspace), "--", "--stop-after-steps", "1"]) == 75
    (workspace / "data/small/train.jsonl").write_text("no row\n", encoding="utf-8")
    assert main(["preset", "--workspace", str(workspace), "--", "--resume", "auto"]) == 65
    assert not (workspace / "runs/small_smoke.pt").exists()
    last = (workspace / "runs/small_smoke/runpod_phase_times.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["exit_code"] == 65


def test_a_fetch_has_the_hubs_names_of_the_container(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def fetch(*words: Any) -> None:
        seen.append((*words, *(os.environ.get(name) for name in preset.HUB)))
        raise MissingError("enough")

    monkeypatch.setattr(hub, "fetch", fetch)
    for name in preset.HUB:
        monkeypatch.setenv(name, "of the test")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    container = {"HF_TOKEN": "of the container", "HF_HUB_OFFLINE": "1", "HF_DATASET_REPO_ID": "me/games", "HF_USE_EXISTING_FETCH_MANIFEST": "1"}
    monkeypatch.setattr(preset.phase_times, "container_environment", lambda: container | dict(os.environ))
    assert main(["preset", "--workspace", str(workspace)]) == 66
    assert seen == [("me/games", "main", "", workspace / "data/me--games", True, "of the container", None, "0")]


def test_a_run_that_has_begun_goes_on_with_the_commit_that_it_began_with(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace / "data/me--games"
    folder.mkdir()
    (folder / "fetch.json").write_text(json.dumps({"repo": "me/games", "prefix": "", "revision": "main", "commit": "c" * 40}), encoding="utf-8")
    monkeypatch.setenv("HF_DATASET_REPO_ID", "me/games")

    def fetched() -> str:
        assert main(["preset", "--workspace", str(workspace), "--dry-run"]) == 0
        return capsys.readouterr().out

    assert "would fetch me/games at main to" in fetched()
    saved = workspace / "runs/me--games_smoke/ckpt/last-00000001-abc.pt"
    saved.parent.mkdir(parents=True)
    saved.touch()
    monkeypatch.setenv("TRAIN_PRESET", "smoke")
    output = fetched()
    assert f"would fetch me/games at {'c' * 40} to" in output and "another OUTPUT_PATH or TRAIN_RUN_DIR begins a run with main as it is now" in output
    monkeypatch.setenv("HF_DATASET_REVISION", "other")
    assert "would fetch me/games at other to" in fetched()
