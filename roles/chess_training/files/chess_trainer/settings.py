# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run was asked to do, resolved; decides whether a finished run is this one."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .errors import MissingError, UsageError
from .files import read_json, sha256_file
from .rows import SPLICED, count

DATA_FILES = ("train.jsonl", "val.jsonl")
# A run that goes on must agree in these; the budget may be another one.
FIXED = ("preset", "seed", "batch_size", "lr", "min_context", "precision", "eval_positions", "data")
# The presets with the positions of one step.
PRESETS = {"smoke": 128, "cpu": 256, "gpu": 4096, "lstm": 2048, "lstm-small": 128}
# Evaluations before the last one.
EVALUATIONS = {"smoke": 2, "cpu": 8, "gpu": 20, "lstm": 20, "lstm-small": 2}
SCHEDULES = ("linear", "plateau")
PHASES = ("opening", "middlegame", "endgame")
# These too; a checkpoint from before they could be chosen has the defaults.
CHOSEN: dict[str, Any] = {"schedule": "linear", "plateau_factor": 0.5, "plateau_patience": 3, "plateau_threshold": 1e-4, "phase_weights": [1.0, 1.0, 1.0]}


def data_fingerprints(data: Path) -> dict[str, str]:
    """The sha256 of both data files."""
    if not data.is_dir():
        raise MissingError(f"the data folder {data} is not there; it holds train.jsonl and val.jsonl")
    missing = [name for name in DATA_FILES if not (data / name).is_file()]
    if missing:
        raise MissingError(f"{data} has no {' and no '.join(missing)}; a data folder holds train.jsonl and val.jsonl")
    return {name: sha256_file(data / name) for name in DATA_FILES}


def requested(arguments: argparse.Namespace) -> dict[str, Any]:
    """The request in plain values."""
    if arguments.max_seconds is None and arguments.max_steps is None and arguments.max_epochs is None:
        raise UsageError("no budget: give --max-seconds, --max-steps or --max-epochs")
    batch_size = arguments.batch_size or PRESETS[arguments.preset]
    if arguments.processes and batch_size % arguments.processes:
        raise UsageError(f"batches of {batch_size} cannot be shared by {arguments.processes} processes; give a --batch-size that {arguments.processes} divides")
    if arguments.preset.startswith("lstm") and arguments.min_context:
        raise UsageError(f"the preset {arguments.preset} reads the moves of whole games; leave --min-context out")
    names = ("preset", "seed", "batch_size", "lr", "precision", "min_context", "eval_positions", "max_seconds", "max_steps", "max_epochs")
    more = ("schedule", "plateau_factor", "plateau_patience", "plateau_threshold", "early_stop_patience", "early_stop_min_delta")
    asked = {name: getattr(arguments, name) for name in names + more} | {"phase_weights": list(arguments.phase_weights)}
    return asked | {"data": data_fingerprints(arguments.data)}


def evaluations(arguments: argparse.Namespace) -> int:
    """How many evaluations there are before the last one."""
    return EVALUATIONS[arguments.preset] if arguments.evaluations is None else int(arguments.evaluations)


def without_effect(arguments: argparse.Namespace) -> list[str]:
    """What is asked for and can never happen, since the first of the evaluations is always an improvement."""
    count, found = evaluations(arguments), []
    if arguments.early_stop_patience > 0 and count <= arguments.early_stop_patience:
        found.append(("early stop", f"--early-stop-patience {arguments.early_stop_patience}", arguments.early_stop_patience + 1))
    if arguments.schedule == "plateau" and count < arguments.plateau_patience + 2:
        found.append(("lower learning rate", f"--schedule plateau with --plateau-patience {arguments.plateau_patience}", arguments.plateau_patience + 2))
    return [f"{what} can never come: {option} needs --evaluations {least} or more, and there are {count}" for what, option, least in found]


def refuse_format(preset: str, form: str) -> None:
    """Refuse data that a preset cannot read."""
    if preset.startswith("lstm") and form == SPLICED:
        raise UsageError(f"the preset {preset} reads the moves of whole games, the data are spliced rows; give rows with 'moves', or another preset")


def refuse_positions(batch_size: int, positions: int) -> None:
    """Refuse data that do not fill a batch."""
    if positions < batch_size:
        raise UsageError(f"train.jsonl has {positions} positions, fewer than one batch of {batch_size}; give a smaller --batch-size or more data")


def refuse_data(arguments: argparse.Namespace) -> None:
    """Compare the data with what is asked, as the training will before its first step."""
    form, positions = count(arguments.data / DATA_FILES[0], min(arguments.min_context, 255))
    refuse_format(arguments.preset, form)
    refuse_positions(arguments.batch_size or PRESETS[arguments.preset], positions)


def disagreement(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What keeps a run from going on with other settings."""
    for name in (*FIXED, *CHOSEN):
        kept = before.get(name, CHOSEN.get(name))
        if kept != now[name]:
            return f"was made with {name} {kept}, now it is {now[name]}"
    return None


def finished_manifest(run_dir: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a run that has done all that is asked, with its model unharmed."""
    if not (run_dir / "manifest.json").is_file():
        return None
    manifest = read_json(run_dir / "manifest.json")
    model = run_dir / "model.pt"
    recorded = manifest.get("artifacts", {}).get("model.pt", {}).get("sha256")
    if manifest.get("state") != "done" or manifest.get("request") != request or not model.is_file():
        return None
    return manifest if sha256_file(model) == recorded else None


def allotted_threads(asked: int) -> int:
    """CPU threads to use: all but one of those that the process may run on and that the container's quota pays for.

    OpenMP threads meet at a barrier after every operator, so a single core that something else uses slows all of
    them down; on 2 cores with a busy neighbour, 2 threads were seen at a tenth of the speed of 1.
    """
    if asked:
        return asked
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count - 1)
