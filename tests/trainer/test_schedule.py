# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plateau, early stop, phase weights and the network that reads moves: what they do, and that a resumed run does the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="NumPy is not installed: pip install torch numpy to run the trainer's tests")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch numpy to run the trainer's tests")

from chess_trainer import artifact, cache, model, trainer  # noqa: E402
from chess_trainer.board import START_BOARD, START_CASTLING  # noqa: E402
from chess_trainer.cli import main  # noqa: E402
from chess_trainer.infer import play  # noqa: E402
from chess_trainer.schedule import Schedule  # noqa: E402
from chess_trainer.team import Team  # noqa: E402


def command(data: Path, run_dir: Path, *more: str) -> list[str]:
    fixed = ["--data", str(data), "--run-dir", str(run_dir), "--cache-dir", str(data / "cache"), "--precision", "fp32", "--batch-size", "64"]
    return ["train", *fixed, "--eval-positions", "128", *more]


def history(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("elapsed_seconds", "positions_per_second")} for row in rows]


def test_a_plateau_lowers_the_rate_and_a_longer_one_ends_the_run() -> None:
    schedule = Schedule(True, factor=0.5, patience=1, threshold=0.01, stop_patience=4, stop_min_delta=0.05)
    assert [schedule.see(loss) for loss in (3.0, 2.0)] == ["", ""]
    # 1.99 is less than a hundredth better, and 1.96 less than 0.05: the one counts for neither, the other for the rate alone.
    assert schedule.see(1.99) == "" and schedule.see(1.96) == "" and schedule.scale == 1.0
    assert schedule.see(1.96) == "" and "0.5 of its peak" in schedule.see(1.97)
    assert schedule.ended and schedule.scale == 0.5
    again = Schedule(True, 0.5, 1, 0.01, 4, 0.05)
    again.restore(schedule.state())
    assert again.state() == schedule.state() and again.ended
    never = Schedule(False, 0.5, 0, 0.0, 0, 0.0)
    assert [never.see(1.0) for _turn in range(9)] == [""] * 9 and never.scale == 1.0 and not never.ended


def test_a_run_with_plateaus_and_an_early_stop_resumes_bit_for_bit(small_data: Path, tmp_path: Path) -> None:
    """Nothing improves by 5 points, so each evaluation counts, and the rate is what they have left of it."""
    # At step 4 comes the second evaluation, the first without improvement, and the interruption right behind it.
    words = ["--max-steps", "200", "--evaluations", "99", "--schedule", "plateau", "--plateau-patience", "0", "--plateau-threshold", "0.9"]
    words += ["--early-stop-patience", "3", "--early-stop-min-delta", "0.9", "--phase-weights", "opening=1,endgame=4"]
    assert main(command(small_data, tmp_path / "straight", *words)) == 0
    manifest = json.loads((tmp_path / "straight/manifest.json").read_bytes())
    assert manifest["ended_by"] == "early stop" and manifest["steps"] < 30
    for stop in ("4", "5"):
        assert main(command(small_data, tmp_path / "resumed", *words, "--stop-after-steps", stop)) == 75
    assert main(command(small_data, tmp_path / "resumed", *words)) == 0
    assert history(tmp_path / "straight") == history(tmp_path / "resumed")
    states = [artifact.read(tmp_path / name / "model.pt")["state_dict"] for name in ("straight", "resumed")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert main(command(small_data, tmp_path / "resumed", *words, "--max-steps", "201")) == 0
    assert json.loads((tmp_path / "resumed/manifest.json").read_bytes())["steps"] == manifest["steps"]


def test_evaluations_leave_half_of_a_budget_of_time_to_the_steps(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    step, evaluate = trainer.Trainer._step, trainer.Trainer.evaluate

    def slow_step(self: trainer.Trainer) -> None:
        clock.now += 0.1
        step(self)

    def slow_evaluate(self: trainer.Trainer, exact: bool) -> dict[str, float]:
        clock.now += 5.0
        return evaluate(self, exact)

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(trainer.Trainer, "_step", slow_step)
    monkeypatch.setattr(trainer.Trainer, "evaluate", slow_evaluate)
    assert main(command(small_data, tmp_path, "--max-seconds", "20", "--evaluations", "39")) == 0
    kinds = [row["kind"] for row in history(tmp_path)]
    steps = json.loads((tmp_path / "manifest.json").read_bytes())["steps"]
    assert kinds.count("eval") == 2 and 95 <= steps <= 105


def test_another_schedule_cannot_go_on(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(small_data, tmp_path, "--max-epochs", "1", "--stop-after-steps", "1")) == 75
    assert main(command(small_data, tmp_path, "--max-epochs", "1", "--schedule", "plateau")) == 2
    assert "was made with schedule linear, now it is plateau" in capsys.readouterr().err
    assert main(command(small_data, tmp_path, "--max-epochs", "1", "--phase-weights", "endgame=2")) == 2
    assert "phase_weights [1.0, 1.0, 1.0], now it is [1.0, 1.0, 2.0]" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["endgame", "endgame=x", "late=2", "endgame=-1", "opening=0,middlegame=0,endgame=0"])
def test_weights_that_cannot_be_meant_are_refused(small_data: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(SystemExit):
        main(command(small_data, tmp_path, "--max-epochs", "1", "--phase-weights", text))
    assert not (tmp_path / "ckpt").exists()


def test_weights_are_relative_and_reach_the_loss(small_data: Path, tmp_path: Path) -> None:
    positions = cache.load(small_data, "train", small_data / "cache", 0, None, lambda doing, share: None)
    plan = trainer.Plan(model.PRESETS["smoke"], 7, 64, 1e-3, None, 9, 0, 15.0, None, Schedule(False, 0.5, 3, 1e-4, 0, 0.0), (1.0, 1.0, 3.0))
    batches = trainer.Batches(positions, plan, torch.device("cpu"), Team())
    assert batches.weights is not None and float(batches.weights.mean()) == pytest.approx(1.0, abs=1e-5)
    late = model.phases(batches.tokens, batches.meta) == 2
    assert 0.05 < float(late.float().mean()) < 0.5 and float(batches.weights[late][0] / batches.weights[~late][0]) == pytest.approx(3.0)
    for name, weights in (("plain", "endgame=1"), ("heavy", "endgame=3")):
        assert main(command(small_data, tmp_path / name, "--max-steps", "2", "--phase-weights", weights, "--evaluations", "1")) == 0
    assert history(tmp_path / "plain")[0]["loss"] != history(tmp_path / "heavy")[0]["loss"]


def test_phases_are_told_by_material_castling_and_ply() -> None:
    def phase(pieces: str, castling: int, ply: int) -> int:
        board = [0] * 64
        for at, letter in enumerate(pieces):
            board[at] = " PNBRQKpnbrqk".index(letter)
        return int(model.phases(torch.tensor([board], dtype=torch.uint8), torch.tensor([[castling, 0, ply]], dtype=torch.uint8))[0])

    start = torch.tensor([list(START_BOARD)], dtype=torch.uint8)
    assert int(model.phases(start, torch.tensor([[START_CASTLING, 0, 0]], dtype=torch.uint8))[0]) == 0
    whole = "QRRBBNNKqrrbbnnk"
    assert [phase(whole, 15, 20), phase(whole, 15, 21), phase(whole, 0, 10)] == [0, 1, 1]
    assert [phase("QKrk", 0, 60), phase("QKqk", 0, 60)] == [2, 1]
    assert [phase("RRKrrk", 0, 60), phase("RRKrrbk", 0, 60), phase("RRNKrk", 0, 5)] == [2, 1, 2]


def test_the_moves_before_a_position_are_read_back(small_data: Path) -> None:
    positions = cache.load(small_data, "val", small_data / "cache", 0, None, lambda doing, share: None)
    moves, ply = torch.from_numpy(np.array(positions.moves)), torch.from_numpy(np.array(positions.meta))[:, 2]
    game = json.loads((small_data / "val.jsonl").read_text(encoding="utf-8").splitlines()[1])["moves"].split()
    first = int((ply == 0).nonzero()[1])
    found = model.histories(moves, torch.tensor([first, first + 3, first + 9]), ply[[first, first + 3, first + 9]], 6)
    played = play(" ".join(game[:9])).played
    assert played is not None and found[0].tolist() == [1] + [0] * 6
    assert found[1].tolist() == [1, *(move + 2 for move in played[:3]), 0, 0, 0]
    assert found[2].tolist() == [1, *(move + 2 for move in played[3:9])]


def test_the_network_that_reads_moves_learns_resumes_answers_and_is_validated(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(small_data, tmp_path, "--preset", "lstm-small", "--max-steps", "40", "--lr", "0.01")
    assert main([*words, "--stop-after-steps", "9"]) == 75
    assert main(words) == 0
    losses = [row["loss"] for row in history(tmp_path) if row["kind"] in ("eval", "final")]
    assert losses[-1] < losses[0] < 7.53
    assert main(["validate", "--model", str(tmp_path / "model.pt"), "--data", str(small_data), "--run-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    for context in ("", "e2e4 e7e5"):
        assert main(["infer", "--model", str(tmp_path / "model.pt"), "--context", context]) == 0
        assert json.loads(capsys.readouterr().out)["ok"]
    assert main(command(small_data, tmp_path / "b", "--preset", "lstm-small", "--max-steps", "2", "--min-context", "8")) == 2
    assert "reads the moves of whole games" in capsys.readouterr().err
