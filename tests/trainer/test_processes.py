# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two processes train one network: the same figures as one, a stop that saves, and the exit code that the trainer meant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="NumPy is not installed: pip install torch numpy to run the trainer's tests")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch numpy to run the trainer's tests")

from chess_trainer import artifact, launch  # noqa: E402
from chess_trainer.cli import main  # noqa: E402

from .conftest import ROLE  # noqa: E402

SIZE = ("--precision", "fp32", "--batch-size", "64", "--eval-positions", "128", "--evaluations", "1", "--threads", "1")


def command(data: Path, run_dir: Path, *more: str) -> list[str]:
    return ["train", "--data", str(data), "--run-dir", str(run_dir), "--cache-dir", str(data / "cache"), *SIZE, *more]


def started(words: list[str], **more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "chess_trainer", *words]
    return subprocess.Popen(arguments, cwd=ROLE / "files", env=os.environ | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _rest = process.communicate(timeout=90)
    finally:
        process.kill()
    return process.returncode, output


def rows(run_dir: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("elapsed_seconds", "positions_per_second")} for row in found]


def workers(run_dir: Path) -> list[int]:
    """The processes that torchrun started for a run, by their command line; not the launcher."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(run_dir).encode() in words and b"\0RANK=" in environment:
            found.append(int(folder.name))
    return sorted(found)


def at_step(run_dir: Path, process: subprocess.Popen[str], step: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        path = run_dir / "progress.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("step", 0) >= step:
            return
        time.sleep(0.05)
    pytest.fail(f"the processes made no {step} steps")


def test_two_processes_go_on_as_one_would(small_data: Path, tmp_path: Path) -> None:
    """One makes the first steps, two the next, two again the last: the same steps but for the rounding, which the optimizer enlarges a little."""
    words = ("--max-steps", "20", "--lr", "5e-4")
    assert main(command(small_data, tmp_path / "alone", *words)) == 0
    shared = command(small_data, tmp_path / "shared", *words)
    assert main([*shared, "--stop-after-steps", "5"]) == 75
    code, output = ended(started([*shared, "--processes", "2", "--stop-after-steps", "12"]))
    assert code == 75 and "going on from last-000000005" in output and output.count("stopped by request at step 12") == 1, output
    code, output = ended(started([*shared, "--processes", "2"]))
    assert code == 0 and "over 2 processes" in output and output.count("done after 20 steps") == 1 and "Traceback" not in output, output
    one, two = rows(tmp_path / "alone"), rows(tmp_path / "shared")
    assert [(row["kind"], row["step"]) for row in one] == [(row["kind"], row["step"]) for row in two]
    assert max(abs(first["loss"] - second["loss"]) for first, second in zip(one, two, strict=True)) < 5e-4
    weights = [artifact.read(tmp_path / name / "model.pt")["state_dict"] for name in ("alone", "shared")]
    apart, size = (torch.cat([value.float().reshape(-1) for value in values]) for values in (
        [weights[0][name] - weights[1][name] for name in weights[0]], weights[0].values()))
    assert float(apart.norm() / size.norm()) < 2e-3
    manifest = json.loads((tmp_path / "shared/manifest.json").read_bytes())
    assert manifest["processes"] == 2 and manifest["resumed_from"]["step"] == 12


def test_a_signal_saves_and_ends_with_the_trainers_own_code(small_data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = started(command(small_data, run_dir, "--max-seconds", "300", "--processes", "2"))
    at_step(run_dir, process, 3)
    assert len(workers(run_dir)) == 2
    process.send_signal(signal.SIGTERM)
    code, output = ended(process)
    assert code == 75 and output.count("stopped by SIGTERM at step") == 1 and "Traceback" not in output, output
    assert list((run_dir / "ckpt").glob("last-*.pt")) and workers(run_dir) == []
    assert json.loads((run_dir / "manifest.json").read_bytes())["state"] == "stopped"


def test_a_process_that_is_killed_ends_all_and_is_named(small_data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = started(command(small_data, run_dir, "--max-seconds", "300", "--processes", "2"))
    at_step(run_dir, process, 3)
    os.kill(workers(run_dir)[1], signal.SIGKILL)
    code, output = ended(process)
    assert code == 1 and "of 2 was ended by SIGKILL" in output, output
    assert workers(run_dir) == []


def test_nothing_is_left_when_the_launcher_is_killed(small_data: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = started(command(small_data, run_dir, "--max-seconds", "300", "--processes", "2"))
    at_step(run_dir, process, 1)
    left = workers(run_dir)
    process.kill()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").is_file() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(left) == 2 and workers(run_dir) == []
    process.communicate(timeout=30)


def test_what_one_process_refuses_is_told_once(tmp_path: Path) -> None:
    for name in ("train.jsonl", "val.jsonl"):
        (tmp_path / name).write_text('{"moves": "e2e4 e2e4"}\n', encoding="utf-8")
    code, output = ended(started(command(tmp_path, tmp_path / "run", "--max-steps", "9", "--processes", "2")))
    assert code == 65 and "train.jsonl, line 1: illegal move e2e4 at ply 1" in output and "Traceback" not in output, output


@pytest.mark.parametrize(
    ("words", "killed", "code", "text"),
    [
        ([(0, 0, 5.0), (1, 0, 4.0)], {}, 0, ""),
        ([(0, 75, 5.0), (1, 75, 4.0)], {}, 75, ""),
        ([(0, 75, 5.0), (1, 1, 4.0)], {}, 75, ""),
        ([(0, 1, 5.0), (1, 70, 4.0)], {}, 70, "process 2 of 2 failed first: why"),
        ([(0, 0, 5.0), (1, 1, 4.0)], {}, 1, "process 2 of 2 failed first: why"),
        ([(0, 1, 5.0)], {1: 9}, 1, "process 2 of 2 was ended by SIGKILL"),
        ([], {}, 1, "ended without a word"),
    ],
)
def test_the_first_cause_counts(words: list[tuple[int, int, float]], killed: dict[int, int], code: int, text: str) -> None:
    told = sorted(({"rank": rank, "code": ended, "message": "why", "at": at} for rank, ended, at in words), key=lambda word: float(word["at"]))
    found, said = launch.judge(told, killed, 2)
    assert found == code and text in said and bool(said) is bool(text)
