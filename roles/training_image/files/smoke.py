# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does this image train? One tiny epoch on the shipped games, a move from the model, and who and what else runs here; prints one JSON line at the end.

Standard library only; it works without a network, as any account.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
TRAIN_GAMES, VAL_GAMES, BATCH = 32, 16, 128
CONTEXT = "e2e4 e7e5 g1f3"


def listening() -> list[int]:
    """TCP ports that somebody listens on in here."""
    found = set()
    for name in ("tcp", "tcp6"):
        table = Path("/proc/net", name)
        lines = table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else []
        found |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"}
    return sorted(found)


def excerpt(data: Path) -> int:
    """The first games of the shipped set; how many positions there are to learn."""
    data.mkdir()
    positions = 0
    for name, games in (("train", TRAIN_GAMES), ("val", VAL_GAMES)):
        lines = (HOME / "smoke" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:games]
        (data / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if name == "train":
            positions = sum(len(moves.split() if isinstance(moves, str) else moves) for moves in (json.loads(line)["moves"] for line in lines))
    return positions


def step(words: list[str]) -> tuple[int, str, float]:
    """Exit code, standard output and seconds of a program of the trainer's environment."""
    began = time.monotonic()
    command = [str(HOME / "venv/bin/python"), "-m", "chess_trainer", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout, round(time.monotonic() - began, 1)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="smoke-") as scratch:
        data, run = Path(scratch, "data"), Path(scratch, "run")
        steps = math.ceil(excerpt(data) / BATCH)
        train, _said, train_seconds = step(
            ["train", "--data", str(data), "--run-dir", str(run), "--preset", "smoke", "--seed", "7", "--batch-size", str(BATCH), "--max-steps", str(steps),
             "--resume", "never", "--evaluations", "0", "--eval-positions", "256"]
        )  # fmt: skip
        infer, said, infer_seconds = step(["infer", "--model", str(run / "model.pt"), "--context", CONTEXT, "--topk", "3"])
        lines = [line for line in said.splitlines() if line.startswith("{")]
        answer = json.loads(lines[-1]) if infer == 0 and lines else {}
        files = {path.name: path.stat().st_size for path in sorted(run.glob("*")) if path.is_file()}
        found = {
            "uid": os.getuid(),
            "steps": steps,
            "train_exit_code": train,
            "train_seconds": train_seconds,
            "infer_exit_code": infer,
            "infer_seconds": infer_seconds,
            "files": files,
            "move": answer.get("move") or "",
            "listening": listening(),
        }
    print(json.dumps(found), flush=True)
    return train or infer


if __name__ == "__main__":
    sys.exit(main())
