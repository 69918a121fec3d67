# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training: files, exact resumption, torn checkpoints, signals, divergence; then inference and validation of the result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="NumPy is not installed: pip install torch numpy to run the trainer's tests")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch numpy to run the trainer's tests")

from chess_trainer import artifact, checkpoint, trainer  # noqa: E402
from chess_trainer.board import Position  # noqa: E402
from chess_trainer.cli import main  # noqa: E402

from .conftest import ROLE  # noqa: E402

STEPS = 24
FILES = ("config.json", "manifest.json", "metrics.jsonl", "model.pt")


def options(data: Path, run_dir: Path, *more: str) -> list[str]:
    cache = str(data / "cache")
    fixed = ["--data", str(data), "--run-dir", str(run_dir), "--cache-dir", cache, "--precision", "fp32", "--batch-size", "64", "--eval-positions", "256"]
    return ["train", *fixed, *more]


def steps(data: Path, run_dir: Path, *more: str) -> list[str]:
    return options(data, run_dir, "--max-steps", str(STEPS), *more)


def read(run_dir: Path, name: str = "manifest.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run_dir / name).read_text(encoding="utf-8"))
    return value


def history(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    clock = ("elapsed_seconds", "positions_per_second")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def weights(run_dir: Path) -> dict[str, Any]:
    state: dict[str, Any] = artifact.read(run_dir / "model.pt")["state_dict"]
    return state


@pytest.fixture(scope="module")
def straight(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert main(steps(small_data, run_dir)) == 0
    return run_dir


@pytest.fixture
def copied(straight: Path, tmp_path: Path) -> Path:
    """The straight run, to be harmed."""
    return Path(shutil.copytree(straight, tmp_path / "copied"))


def test_a_run_leaves_what_is_promised(straight: Path) -> None:
    assert all((straight / name).is_file() for name in FILES)
    manifest = read(straight)
    assert manifest["state"] == "done" and manifest["steps"] == STEPS and manifest["positions"] == STEPS * 64
    assert {"top1", "top1_ply20", "raw_legal", "legal_mass", "loss", "scored"} <= set(manifest["metrics"])
    assert 0.03 < manifest["baselines"]["random_legal"] < manifest["baselines"]["frequent_legal"] < 0.2
    assert {row["kind"] for row in history(straight)} == {"train", "eval", "final"}
    kinds = sorted(path.name.split("-")[0] for path in (straight / "ckpt").iterdir())
    assert set(kinds) == {"best", "last"} and len(kinds) <= 3
    content = torch.load(straight / "model.pt", weights_only=True)
    assert len(content["vocabulary"]) == 1858 and (straight / "model.pt").stat().st_size < 1_000_000


def phases(run_dir: Path) -> list[tuple[str, str, int | None]]:
    rows = [json.loads(line) for line in (run_dir / "runpod_phase_times.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(row["source"] == "runpod_trainer" and row["ts_epoch_ms"] > 1.7e12 and row["elapsed_ms"] >= 0 for row in rows)
    return [(row["phase"], row["status"], row.get("exit_code")) for row in rows]


def test_the_phases_of_a_run_are_timed(small_data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["load_data", "prepare", "train", "evaluate", "save_model"]
    assert phases(straight) == [(name, "ok", None) for name in names]
    monkeypatch.setenv("RUNPOD_PHASE_TIMING_LOG", str(tmp_path / "elsewhere/runpod_phase_times.jsonl"))
    monkeypatch.setenv("RUNPOD_PHASE_TIMING_RUN_ID", "r7")
    assert main(steps(small_data, tmp_path / "run", "--stop-after-steps", "7")) == 75
    assert phases(tmp_path / "elsewhere") == [("load_data", "ok", None), ("prepare", "ok", None), ("train", "error", 75)]
    assert '"run_id": "r7"' in (tmp_path / "elsewhere/runpod_phase_times.jsonl").read_text(encoding="utf-8")
    monkeypatch.setenv("RUNPOD_PHASE_TIMING_ENABLED", "0")
    assert main(steps(small_data, tmp_path / "run")) == 0
    assert len(phases(tmp_path / "elsewhere")) == 3 and not (tmp_path / "run/runpod_phase_times.jsonl").exists()


def test_a_resumed_run_equals_the_straight_one_bit_for_bit(small_data: Path, straight: Path, tmp_path: Path) -> None:
    for stop in ("7", "15"):
        assert main(steps(small_data, tmp_path, "--stop-after-steps", stop)) == 75
        assert read(tmp_path)["state"] == "stopped"
    assert main(steps(small_data, tmp_path)) == 0
    assert read(tmp_path)["resumed_from"]["step"] == 15
    expected, found = weights(straight), weights(tmp_path)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert history(tmp_path) == history(straight)
    assert read(tmp_path)["metrics"] == read(straight)["metrics"]


def test_another_seed_is_another_run(small_data: Path, straight: Path, tmp_path: Path) -> None:
    assert main(steps(small_data, tmp_path, "--seed", "8")) == 0
    assert any(not torch.equal(value, weights(tmp_path)[name]) for name, value in weights(straight).items())


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_torn_checkpoint_is_skipped(small_data: Path, straight: Path, tmp_path: Path, cut: int) -> None:
    main(steps(small_data, tmp_path, "--stop-after-steps", "7"))
    main(steps(small_data, tmp_path, "--stop-after-steps", "15"))
    newest = next((tmp_path / "ckpt").glob("last-000000015-*.pt"))
    newest.write_bytes(newest.read_bytes()[:cut])
    assert main(steps(small_data, tmp_path)) == 0
    resumed = read(tmp_path)["resumed_from"]
    assert resumed["step"] == 7 and "torn" in resumed["torn"][0]
    assert newest.with_name(newest.name + ".torn").is_file()
    assert history(tmp_path) == history(straight)
    assert all(torch.equal(value, weights(tmp_path)[name]) for name, value in weights(straight).items())


@pytest.mark.parametrize("at", ["write", "fsync"])
def test_a_full_disk_costs_no_checkpoint(
    small_data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: str
) -> None:
    """One sentence, no half file, the checkpoint before is whole, and with room the same command ends as if nothing had been."""
    main(steps(small_data, tmp_path, "--stop-after-steps", "7"))
    before = sorted((tmp_path / "ckpt").iterdir())
    fsync, opened = os.fsync, Path.open

    def full(handle: int) -> None:
        if "/ckpt/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def nowhere(path: Path, mode: str = "r", **more: Any) -> Any:
        return opened(Path("/dev/full") if path.parent.name == "ckpt" and "w" in mode else path, mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", full) if at == "fsync" else (Path, "open", nowhere)))
        code = main(steps(small_data, tmp_path, "--stop-after-steps", "15"))
    said = capsys.readouterr().err
    assert code == 1 and "No space left on device" in said and "make room" in said and "Traceback" not in said
    assert sorted((tmp_path / "ckpt").iterdir()) == before
    assert main(steps(small_data, tmp_path)) == 0 and read(tmp_path)["resumed_from"]["step"] == 7
    assert history(tmp_path) == history(straight)
    assert all(torch.equal(value, weights(tmp_path)[name]) for name, value in weights(straight).items())


def test_a_torn_last_row_of_the_history_is_dropped(small_data: Path, straight: Path, tmp_path: Path) -> None:
    main(steps(small_data, tmp_path, "--stop-after-steps", "21"))
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"kind": "train", "step": 21')
    assert main(steps(small_data, tmp_path)) == 0
    assert history(tmp_path) == history(straight)


def test_a_finished_run_is_left_alone(small_data: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (copied / name).read_bytes() for name in FILES}
    assert main(steps(small_data, copied)) == 0
    assert "done already" in capsys.readouterr().out
    assert {name: (copied / name).read_bytes() for name in FILES} == before


def test_a_harmed_model_of_a_finished_run_is_made_again(small_data: Path, straight: Path, copied: Path) -> None:
    (copied / "model.pt").write_bytes(b"harmed")
    assert main(steps(small_data, copied)) == 0
    assert hashlib.sha256((copied / "model.pt").read_bytes()).hexdigest() == read(copied)["artifacts"]["model.pt"]["sha256"]
    assert all(torch.equal(value, weights(copied)[name]) for name, value in weights(straight).items())


def test_resume_never_refuses_an_earlier_run(small_data: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(steps(small_data, copied, "--resume", "never")) == 2
    assert "holds checkpoints of an earlier run" in capsys.readouterr().err


def test_another_seed_cannot_go_on_from_a_checkpoint(small_data: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(steps(small_data, copied, "--seed", "8")) == 2
    assert "was made with seed 7, now it is 8" in capsys.readouterr().err


def test_a_time_budget_counts_the_time_that_was_used(small_data: Path, tmp_path: Path) -> None:
    first = options(small_data, tmp_path, "--max-seconds", "120", "--stop-after-steps", "3")
    assert main(first) == 75
    state = checkpoint.newest(tmp_path / "ckpt", "last", [])
    assert state is not None
    path, content = state
    content["elapsed"] = 1000.0
    path.unlink()
    checkpoint.save(tmp_path / "ckpt", "last", 3, content, 2)
    assert main(first[:-2]) == 0
    assert read(tmp_path)["steps"] == 3 and read(tmp_path)["train_seconds"] >= 1000


def test_a_loss_that_is_no_number_ends_the_run(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = trainer.F.cross_entropy
    calls = []

    def broken(logits: Any, moves: Any, **more: Any) -> Any:
        calls.append(1)
        loss = real(logits, moves, **more)
        return loss * float("nan") if len(calls) == 10 else loss

    monkeypatch.setattr(trainer.F, "cross_entropy", broken)
    assert main(steps(small_data, tmp_path, "--checkpoint-seconds", "0.0001", "--evaluations", "0")) == 70
    assert "the loss is nan at step 10" in capsys.readouterr().err
    assert read(tmp_path)["state"] == "diverged"
    kept = checkpoint.newest(tmp_path / "ckpt", "last", [])
    assert kept is not None and kept[1]["step"] == 9
    assert all(bool(torch.isfinite(value).all()) for value in kept[1]["model"].values())


def test_bad_requests_are_told_apart(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(small_data, tmp_path)) == 2
    assert main(steps(tmp_path / "nowhere", tmp_path / "run")) == 66
    (tmp_path / "half").mkdir()
    shutil.copy(small_data / "train.jsonl", tmp_path / "half")
    assert main(steps(tmp_path / "half", tmp_path / "run")) == 66
    assert "has no val.jsonl" in capsys.readouterr().err
    shutil.copy(small_data / "train.jsonl", tmp_path / "half/val.jsonl")
    (tmp_path / "half/train.jsonl").write_text('{"moves": "e2e4 e2e4"}\n', encoding="utf-8")
    assert main(steps(tmp_path / "half", tmp_path / "run")) == 65
    assert "train.jsonl, line 1: illegal move e2e4 at ply 1" in capsys.readouterr().err


def started(command: list[str], progress: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PODCYCLE_PROGRESS_FILE": str(progress)}
    arguments = [sys.executable, "-m", "chess_trainer", *command]
    return subprocess.Popen(arguments, cwd=ROLE / "files", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_steps(progress: Path, process: subprocess.Popen[str], gaps: list[float]) -> None:
    last = time.monotonic()
    stamp = 0
    while process.poll() is None and time.monotonic() - last < 30:
        time.sleep(0.05)
        if not progress.is_file():
            continue
        now = progress.stat().st_mtime_ns
        if now != stamp:
            gaps.append(time.monotonic() - last)
            last, stamp = time.monotonic(), now
        if json.loads(progress.read_text(encoding="utf-8")).get("step", 0) >= 3:
            return
    pytest.fail("the trainer made no steps")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(small_data: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = options(small_data, tmp_path / "run", "--max-seconds", "600", "--threads", "1")
    progress = tmp_path / "progress.json"
    process = started(command, progress)
    gaps: list[float] = []
    try:
        wait_for_steps(progress, process, gaps)
        process.send_signal(number)
        output, _rest = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 75, output
    assert f"stopped by {number.name} at step" in output and "run the same command again" in output
    # A loaded machine may delay a write; the program itself aims at one per second.
    assert max(gaps[1:], default=0) < 5
    state = json.loads(progress.read_text(encoding="utf-8"))
    assert state["phase"] == "stopped" and state["ts"].endswith("Z") and len(state["summary"]) <= 160
    saved = checkpoint.newest(tmp_path / "run/ckpt", "last", [])
    assert saved is not None and saved[1]["step"] >= 3
    assert main([*command, "--stop-after-steps", str(saved[1]["step"] + 2)]) == 75
    assert read(tmp_path / "run")["resumed_from"]["step"] == saved[1]["step"]


def test_two_trainers_do_not_share_a_run_folder(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main(steps(small_data, tmp_path)) == 2
    assert "another trainer is at work" in capsys.readouterr().err


def answer(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_inference_answers_with_legal_moves(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--model", str(straight / "model.pt"), "--context", "e2e4 e7e5", "--topk", "5"]) == 0
    found = answer(capsys)
    position = Position()
    position.play_uci("e2e4"), position.play_uci("e7e5")
    legal = {position.uci(code) for code in position.legal_moves()}
    assert found["ok"] and found["legal_moves"] == len(legal) and len(found["topk"]) == 5
    chances = [row["p"] for row in found["topk"]]
    assert {row["move"] for row in found["topk"]} <= legal and found["move"] == found["topk"][0]["move"]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.0001
    assert found["fallback"] is not found["raw_legal"]


@pytest.mark.parametrize(
    ("context", "code", "text"),
    [("e2e4 e7e4", 65, "move 2: illegal move e7e4"), ("e2e4 nonsense", 65, "'nonsense' is not a move"), ("f2f3 e7e5 g2g4 d8h4", 0, "checkmate")],
)
def test_inference_names_what_cannot_be_answered(straight: Path, capsys: pytest.CaptureFixture[str], context: str, code: int, text: str) -> None:
    assert main(["infer", "--model", str(straight / "model.pt"), "--context", context]) == code
    found = answer(capsys)
    assert found["ok"] is (code == 0) and text in json.dumps(found)


def test_promotions_are_spelled_out(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = "a2a4 b7b5 a4b5 a7a6 b5a6 c8b7 a6b7 h7h5"
    assert main(["infer", "--model", str(straight / "model.pt"), "--context", context, "--topk", "99"]) == 0
    moves = {row["move"] for row in answer(capsys)["topk"]}
    assert {"b7a8q", "b7a8n", "b7a8b", "b7a8r"} <= moves and "b7a8" not in moves


def test_a_model_that_runs_code_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "broken-in"),))

    torch.save({"format": 1, "x": Evil()}, tmp_path / "model.pt")
    assert main(["infer", "--model", str(tmp_path / "model.pt")]) == 65
    assert "weights only" in answer(capsys)["error"] and not (tmp_path / "broken-in").exists()


def verdict(data: Path, run_dir: Path, tmp_path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    output = tmp_path / "verdict/validation.json"
    code = main(["validate", "--model", str(run_dir / "model.pt"), "--data", str(data), "--run-dir", str(run_dir), "--output", str(output), *more])
    return code, json.loads(output.read_text(encoding="utf-8"))


def test_validation_reproduces_the_figures(small_data: Path, straight: Path, tmp_path: Path) -> None:
    code, found = verdict(small_data, straight, tmp_path)
    assert code == 0 and found["ok"] and [check["ok"] for check in found["checks"]] == [True] * 9
    assert found["metrics"]["top1"] == pytest.approx(found["recorded"]["top1"], abs=1e-6)
    assert len(found["moves"]) == 6


def rewrite(run_dir: Path, change: dict[str, Any]) -> None:
    manifest = read(run_dir)
    manifest["metrics"] |= change
    (run_dir / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_validation_fails_on_a_changed_model(small_data: Path, copied: Path, tmp_path: Path) -> None:
    with (copied / "model.pt").open("ab") as handle:
        handle.write(b"x")
    code, found = verdict(small_data, copied, tmp_path)
    assert code == 1 and found["checks"][-1]["name"] == "checksum" and "but the manifest has" in found["checks"][-1]["detail"]


def test_validation_fails_on_figures_that_do_not_come_out_again(small_data: Path, copied: Path, tmp_path: Path) -> None:
    rewrite(copied, {"top1": read(copied)["metrics"]["top1"] + 0.01})
    code, found = verdict(small_data, copied, tmp_path)
    assert code == 1 and found["checks"][-1]["name"] == "reproduced" and "top1 " in found["checks"][-1]["detail"]


def test_validation_fails_below_the_gate(small_data: Path, straight: Path, tmp_path: Path) -> None:
    code, found = verdict(small_data, straight, tmp_path, "--min-raw-legal", "0.999")
    assert code == 1 and found["checks"][-1]["name"] == "legal_enough"


def test_validation_fails_on_weights_that_are_no_numbers(small_data: Path, copied: Path, tmp_path: Path) -> None:
    content = torch.load(copied / "model.pt", weights_only=True)
    content["state_dict"]["move_bias"][3] = float("nan")
    torch.save(content, copied / "model.pt")
    manifest = read(copied)
    manifest["artifacts"]["model.pt"]["sha256"] = hashlib.sha256((copied / "model.pt").read_bytes()).hexdigest()
    (copied / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    code, found = verdict(small_data, copied, tmp_path)
    assert code == 1 and found["checks"][-1] | {"seconds": 0} == {"name": "finite", "ok": False, "detail": "not finite: move_bias", "seconds": 0}


def test_validation_fails_on_other_data(small_data: Path, straight: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "val.jsonl").write_text('{"moves": "e2e4"}\n', encoding="utf-8")
    code, found = verdict(other, straight, tmp_path)
    assert code == 1 and found["checks"][-1]["name"] == "same_data"
    for first, then in ((other, small_data), (small_data, other)):
        code, found = verdict(first, straight, tmp_path, "--data", str(then))
        assert code == 0 and found["ok"], "of several folders, the one that the run was scored on"
