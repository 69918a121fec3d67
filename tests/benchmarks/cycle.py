# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds of a whole cycle on the rehearsal cloud, by stage.

Usage: python tests/benchmarks/cycle.py [--runs 3] [--cold] [--seconds 45]

`--cold` clones the checkout into a temporary folder first, so that the first run installs everything; the
packages' own download caches of the machine are left as they are and are named in the output.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("start", "converge", "push", "train", "collect", "validate", "stop")


def free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


def cycle(folder: Path, environment: dict[str, str], run_id: str, seconds: int) -> dict[str, float]:
    """One `make cycle`; its wall time, its stages, and the trainer's own seconds."""
    began = time.monotonic()
    done = subprocess.run(
        ["make", "cycle", f"ARGS=-e run_id={run_id} -e train_seconds={seconds}"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    wall = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"make cycle failed:\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    run = folder / "artifacts" / "cycles" / run_id
    found: dict[str, float] = {"wall": wall}
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["status"] == "ok" and not event.get("host") and event["elapsed_ms"] is not None:
            found[event["phase"]] = event["elapsed_ms"] / 1000
    manifest = json.loads((run / "collected" / "run_artifacts" / "manifest.json").read_text(encoding="utf-8"))
    first, last = (datetime.fromisoformat(manifest[name].replace("Z", "+00:00")) for name in ("started_at", "ended_at"))
    found["training"] = (last - first).total_seconds()
    found["of it steps"] = float(manifest["train_seconds"])
    found["outside stages"] = wall - sum(found.get(stage, 0.0) for stage in STAGES)
    return found


def table(title: str, rows: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n{title} ({len(rows)} runs, medians)")
    for name in names:
        print(f"  {name:<16}{statistics.median(row.get(name, 0.0) for row in rows):8.1f} s")
    stages = [row["wall"] - sum(row.get(name, 0.0) for name in ("environment", "push", "train", "collect")) for row in rows]
    print(f"  {'no transfer':<16}{statistics.median(stages):8.1f} s  (wall less the stages push, train and collect and the validating environment)")
    overhead = [row["wall"] - row["training"] - row.get("environment", 0.0) for row in rows]
    print(f"  {'the rest':<16}{statistics.median(overhead):8.1f} s  (wall less the training job and the validating environment; three imports of torch in it)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=45)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    environment = {**os.environ, "PODCYCLE_REHEARSAL_PORT": str(free_port())}
    environment.pop("PODCYCLE_STATE_DIR", None)
    with tempfile.TemporaryDirectory(prefix="podcycle-bench-") as temporary:
        folder = ROOT
        if options.cold:
            folder = Path(temporary) / "clone"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        environment["PODCYCLE_HOME"] = str(folder)
        try:
            stamp = time.strftime("%H%M%S")
            if options.cold:
                table("first run in a fresh clone", [cycle(folder, environment, f"bench-cold-{stamp}", options.seconds)])
            table("later runs", [cycle(folder, environment, f"bench-{stamp}-{number}", options.seconds) for number in range(options.runs)])
        finally:
            state = folder / ".state" / "rehearsal"
            command = [str(folder / ".venv/bin/python"), "-m", "rehearsal", "stop", "--state-dir", str(state), "--port", environment["PODCYCLE_REHEARSAL_PORT"]]
            subprocess.run(command, env={**environment, "PYTHONPATH": str(folder / "extensions")}, capture_output=True, check=False)


if __name__ == "__main__":
    main()
