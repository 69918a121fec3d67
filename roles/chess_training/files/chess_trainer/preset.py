# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command behind train_baseline_preset.sh: a whole training out of names in the environment."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import phase_times, settings
from .errors import MissingError, UsageError
from .files import read_json, write_bytes, write_json
from .settings import PRESETS

# Options of the trainer that are not to be given among the extra words, and what to give instead.
OURS = {
    "--data": "set TRAIN_DATASET_DIR, or TRAIN_PATH and VAL_PATH",
    "--run-dir": "set TRAIN_RUN_DIR",
    "--dry-run": "type train_baseline_preset.sh --dry-run",
}
NAMES = {
    "TRAIN_DATASET_DIR": ("", "folder with train.jsonl and val.jsonl; else the last one below WORKSPACE/data that has both"),
    "TRAIN_PATH": ("", "the training rows, together with VAL_PATH, instead of a folder"),
    "VAL_PATH": ("", "the validation rows"),
    "OUTPUT_PATH": ("", "the model; WORKSPACE/runs/DATASET_PRESET.pt"),
    "METRICS_OUT": ("", "its figures; beside the model, with .json"),
    "TRAIN_RUN_DIR": ("", "checkpoints and history; beside the model, without .pt"),
    "TRAIN_PRESET": ("auto", f"{', '.join(PRESETS)}; auto is gpu where there is one, else cpu"),
    "TRAIN_BATCH_SIZE": ("", "positions of one step over all processes; the preset's"),
    "TRAIN_NPROC_PER_NODE": ("auto", "processes; auto is one for each GPU"),
    "TRAIN_EPOCHS": ("40", "passes over the data"),
    "TRAIN_SECONDS": ("", "a budget of time instead of TRAIN_EPOCHS, with the preset's evaluations instead of one for each epoch"),
    "TRAIN_SEED": ("7", "of the first weights and the order of the positions"),
    "TRAIN_PHASE_WEIGHT_OPENING": ("1.0", "weight of the loss of a position in the opening"),
    "TRAIN_PHASE_WEIGHT_MIDDLEGAME": ("1.0", "the same in the middlegame"),
    "TRAIN_PHASE_WEIGHT_ENDGAME": ("2.0", "the same in the endgame"),
    "TRAIN_RUNTIME_MIN_CONTEXT": ("0", "learn only positions with this many moves before them"),
    "TRAIN_MAX_TRAIN_ROWS": ("0", "take so many rows from the beginning; 0 takes all"),
    "TRAIN_MAX_VAL_ROWS": ("0", "the same for the validation rows"),
    "TRAIN_MAX_TOTAL_ROWS": ("0", "a cap of both together, shared in the proportion that they have"),
    "TRAIN_BEST_CHECKPOINT_OUT": ("", "also put the model there"),
    "TRAIN_EXTRA_ARGS": ("", f"more options of `python -m chess_trainer train`; they win; not {', '.join(OURS)}"),
    "HF_DATASET_REPO_ID": ("", "fetch the data set of this repository of Hugging Face first, unless a folder or files are named"),
    "HF_DATASET_REVISION": ("main", "its branch, tag or commit"),
    "HF_DATASET_PATH_PREFIX": ("", "its folder inside the repository"),
    "HF_DATASET_CACHE_DIR": ("", "where it is put; WORKSPACE/data/REPOSITORY"),
    "HF_USE_EXISTING_FETCH_MANIFEST": ("0", "1 takes a folder that was fetched before and agrees with its fetch.json, and does not ask the hub"),
}
# What the hub's own client reads.
HUB = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
# Read, told and without effect.
IDLE = {
    "TRAIN_NUM_WORKERS": "the positions lie in memory, no worker loads them",
    "TRAIN_EPOCH_CHECKPOINT_DIR": "the last two checkpoints and the best one are kept in the run's folder",
    "TRAIN_PROGRESS_JSONL_OUT": "progress stands in progress.json and metrics.jsonl of the run's folder",
    "TRAIN_RUNTIME_MIN_TARGET": "one move is learned",
    "TRAIN_RUNTIME_MAX_SAMPLES_PER_GAME": "all positions of a game are learned",
    "TRAIN_REQUIRE_RUNTIME_SPLICE_CACHE": "encoded positions are always kept and checked",
    "HF_FETCH_LATEST_ALL_DATASETS": "one data set is fetched, the one of HF_DATASET_REPO_ID",
    "HF_DATASET_FETCH_MANIFEST": "the manifest lies in the fetched folder",
    "HF_DATASET_SCHEMA_FILTER": "the format is told by the first row",
}
DATA = ("train.jsonl", "val.jsonl")


def epilog() -> str:
    """All names, for --help."""
    rows = [f"  {name:30} {text}{f' ({default})' if default else ''}" for name, (default, text) in NAMES.items()]
    idle = [f"  {name:36} {text}" for name, text in IDLE.items()]
    title = "names in the environment (default in brackets), also those that the container was started with:"
    return "\n".join([title, *rows, f"  {', '.join(HUB)}, for the fetching", "", "read and told, without effect:", *idle])


def _number(values: Mapping[str, str], name: str, kind: type[int] | type[float], least: float) -> float:
    try:
        found = kind(values[name])
    except ValueError:
        found = kind(-1)
    if not least <= found < float("inf"):
        raise UsageError(f"{name}={values[name]} is not a {'whole ' if kind is int else ''}number of {least:g} or more")
    return found


@dataclass
class Wish:
    """What the names ask for, resolved and checked."""

    values: dict[str, str]
    workspace: Path
    train: Path
    val: Path
    model: Path
    metrics: Path
    run_dir: Path
    preset: str
    rows: tuple[int, int]

    @property
    def capped(self) -> bool:
        """Whether the data have to be copied, since they are not a folder as they are."""
        return self.rows != (0, 0) or self.train.parent != self.val.parent or (self.train.name, self.val.name) != DATA

    @property
    def data(self) -> Path:
        """The folder that the trainer gets."""
        return self.run_dir / "data" if self.capped else self.train.parent

    def arguments(self, more: Sequence[str]) -> list[str]:
        """The command line of the trainer."""
        values = self.values
        try:
            extra = [*shlex.split(values["TRAIN_EXTRA_ARGS"]), *more]
        except ValueError as error:
            raise UsageError(f"TRAIN_EXTRA_ARGS cannot be split into words: {error}") from error
        for word in extra:
            name = next((name for name in OURS if name.startswith(word.partition("=")[0]) and word[2:3] not in ("", "=")), None)
            if name is not None:
                raise UsageError(f"{word} among the extra options: {name} is not to be given there; {OURS[name]}")
        weights = ",".join(f"{phase}={_number(values, f'TRAIN_PHASE_WEIGHT_{phase.upper()}', float, 0):g}" for phase in ("opening", "middlegame", "endgame"))
        evaluations = max(0, int(_number(values, "TRAIN_EPOCHS", int, 1)) - 1)
        budget = ["--max-epochs", values["TRAIN_EPOCHS"], "--evaluations", str(evaluations)]
        if values["TRAIN_SECONDS"]:
            _number(values, "TRAIN_SECONDS", float, 1)
            budget = ["--max-seconds", values["TRAIN_SECONDS"]]
        if any(word.startswith("--max-") for word in extra):
            budget = []
        _number(values, "TRAIN_SEED", int, 0), _number(values, "TRAIN_RUNTIME_MIN_CONTEXT", int, 0)
        words = ["train", "--data", str(self.data), "--run-dir", str(self.run_dir), "--preset", self.preset, "--seed", values["TRAIN_SEED"], *budget]
        words += ["--processes", values["TRAIN_NPROC_PER_NODE"], "--min-context", values["TRAIN_RUNTIME_MIN_CONTEXT"]]
        words += ["--schedule", "plateau", "--early-stop-patience", "8", "--early-stop-min-delta", "0.002", "--phase-weights", weights]
        if values["TRAIN_BATCH_SIZE"]:
            _number(values, "TRAIN_BATCH_SIZE", int, 1)
            words += ["--batch-size", values["TRAIN_BATCH_SIZE"]]
        return [*words, *extra]


def _dataset(values: Mapping[str, str], workspace: Path) -> tuple[Path, Path]:
    if values["TRAIN_PATH"] or values["VAL_PATH"]:
        if not (values["TRAIN_PATH"] and values["VAL_PATH"]):
            raise UsageError("TRAIN_PATH and VAL_PATH go together; set both, or TRAIN_DATASET_DIR")
        return Path(values["TRAIN_PATH"]).absolute(), Path(values["VAL_PATH"]).absolute()
    if values["TRAIN_DATASET_DIR"]:
        folder = Path(values["TRAIN_DATASET_DIR"]).absolute()
    elif values["HF_DATASET_REPO_ID"]:
        folder = Path(values["HF_DATASET_CACHE_DIR"] or workspace / "data" / values["HF_DATASET_REPO_ID"].replace("/", "--")).absolute()
    else:
        whole = [path for path in sorted(workspace.glob("data/*")) if all((path / name).is_file() for name in DATA)]
        if not whole:
            raise MissingError(f"no folder below {workspace}/data has train.jsonl and val.jsonl; set TRAIN_DATASET_DIR")
        folder = whole[-1]
    return folder / DATA[0], folder / DATA[1]


def _preset(asked: str) -> str:
    if asked != "auto":
        return asked
    return "gpu" if list(Path("/dev").glob("nvidia[0-9]*")) else "cpu"


def _count_rows(path: Path) -> int:
    with path.open("rb") as handle:
        return sum(1 for line in handle if line.strip())


def _caps(values: Mapping[str, str], train: Path, val: Path) -> tuple[int, int]:
    caps = [int(_number(values, f"TRAIN_MAX_{part}_ROWS", int, 0)) for part in ("TRAIN", "VAL", "TOTAL")]
    if not caps[2] or not train.is_file() or not val.is_file():
        return caps[0], caps[1]
    rows = [min(_count_rows(path), cap or sys.maxsize) for path, cap in ((train, caps[0]), (val, caps[1]))]
    if sum(rows) <= caps[2]:
        return caps[0], caps[1]
    if caps[2] < 2:
        raise UsageError(f"TRAIN_MAX_TOTAL_ROWS={caps[2]} leaves no row for training and one for validation")
    held_out = min(max(1, round(caps[2] * rows[1] / sum(rows))), caps[2] - 1)
    return caps[2] - held_out, held_out


def resolve(given: Mapping[str, str], defaults: Mapping[str, Any], workspace: Path) -> Wish:
    """Put the names together: the environment goes before the role's defaults, and those before the script's."""
    unknown = sorted(set(defaults) - set(NAMES))
    if unknown:
        raise UsageError(f"the defaults of this script name {', '.join(unknown)}, which it does not read; see --help")
    values = {name: given.get(name) or str(defaults.get(name, "")) or default for name, (default, _text) in NAMES.items()}
    values["HF_DATASET_REPO_ID"] = values["HF_DATASET_REPO_ID"].strip()
    train, val = _dataset(values, workspace)
    preset = _preset(values["TRAIN_PRESET"])
    model = Path(values["OUTPUT_PATH"] or workspace / "runs" / f"{train.parent.name}_{preset}.pt").absolute()
    if model.suffix != ".pt":
        raise UsageError(f"OUTPUT_PATH={values['OUTPUT_PATH']} does not end in .pt")
    metrics = Path(values["METRICS_OUT"] or model.with_suffix(".json")).absolute()
    run_dir = Path(values["TRAIN_RUN_DIR"] or model.with_suffix("")).absolute()
    return Wish(values, workspace, train, val, model, metrics, run_dir, preset, _caps(values, train, val))


def _cut(source: Path, target: Path, rows: int) -> None:
    with source.open("rb") as handle:
        lines = (line for line in handle if line.strip())
        write_bytes(target, b"".join(itertools.islice(lines, rows or None)), durable=False)


def _prepare(wish: Wish) -> None:
    for path in (wish.train, wish.val):
        if not path.is_file():
            raise MissingError(f"{path} is not there; set TRAIN_DATASET_DIR, or TRAIN_PATH and VAL_PATH")
    if wish.capped:
        wish.data.mkdir(parents=True, exist_ok=True)
        for source, name, rows in ((wish.train, DATA[0], wish.rows[0]), (wish.val, DATA[1], wish.rows[1])):
            _cut(source, wish.data / name, rows)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _deliver(wish: Wish) -> None:
    manifest = read_json(wish.run_dir / "manifest.json")
    rows = [json.loads(line) for line in (wish.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for target in (wish.model, Path(wish.values["TRAIN_BEST_CHECKPOINT_OUT"]).absolute() if wish.values["TRAIN_BEST_CHECKPOINT_OUT"] else None):
        if target is not None:
            _copy(wish.run_dir / "model.pt", target)
    names = ("metrics", "baselines", "steps", "positions", "train_seconds", "ended_by", "request", "network", "parameters", "versions", "data")
    found = {name: manifest.get(name) for name in names} | {"model": str(wish.model), "history": [row for row in rows if row["kind"] != "train"]}
    wish.metrics.parent.mkdir(parents=True, exist_ok=True)
    write_json(wish.metrics, found)


def _revision(wish: Wish) -> str:
    """What to fetch: where the run has begun, the commit that it began with, since a branch may have moved."""
    from . import hub

    asked = wish.values["HF_DATASET_REVISION"]
    known = hub.recorded(wish.train.parent, wish.values["HF_DATASET_REPO_ID"], wish.values["HF_DATASET_PATH_PREFIX"])
    commit = known.get("commit")
    if not commit or known.get("revision") not in (asked, commit) or hub.COMMIT.fullmatch(asked) or not any((wish.run_dir / "ckpt").glob("*.pt")):
        return asked
    how = f"another OUTPUT_PATH or TRAIN_RUN_DIR begins a run with {asked} as it is now"
    print(f"{wish.run_dir} has checkpoints, so it goes on with the data of {commit}, which was fetched before; {how}", flush=True)
    return str(commit)


def run(arguments: argparse.Namespace) -> int:
    """The command preset."""
    from . import cli

    container = phase_times.container_environment()
    given = {name: value for name, value in container.items() if name in NAMES or name in IDLE}
    try:
        defaults = json.loads(arguments.defaults)
    except ValueError as error:
        raise UsageError(f"--defaults is not JSON: {error}") from error
    wish = resolve(given, defaults, arguments.workspace.absolute())
    words = wish.arguments(arguments.more)
    # A bad word ends here, before anything is fetched or written.
    asked = cli.parser().parse_args(words)
    for name in sorted(set(given) & set(IDLE)):
        print(f"{name} is without effect: {IDLE[name]}", flush=True)
    fetches = bool(wish.values["HF_DATASET_REPO_ID"]) and not (wish.values["TRAIN_DATASET_DIR"] or wish.values["TRAIN_PATH"])
    told = {"train": wish.train, "val": wish.val, "rows": wish.rows if wish.capped else "all", "model": wish.model, "metrics": wish.metrics}
    print("\n".join(f"{name:8} {value}" for name, value in told.items()) + f"\ncommand  python -m chess_trainer {shlex.join(words)}", flush=True)
    revision = _revision(wish) if fetches else ""
    if arguments.dry_run:
        if fetches:
            print(f"would fetch {wish.values['HF_DATASET_REPO_ID']} at {revision} to {wish.train.parent}", flush=True)
        elif missing := [str(path) for path in (wish.train, wish.val) if not path.is_file()]:
            raise MissingError(f"not there: {', '.join(missing)}")
        elif not wish.capped:
            settings.requested(asked)
            settings.refuse_data(asked)
        return 0
    times = phase_times.PhaseTimes.of("runpod_train_preset", wish.run_dir / phase_times.NAME, wish.run_dir.name)
    with times.phase("resolve_dataset_paths", lambda error: getattr(error, "exit_code", 1)):
        if fetches:
            from . import hub

            # The official client reads them there, and a login does not have those of the container.
            os.environ.update({name: container[name] for name in HUB if name in container})
            keep = wish.values["HF_USE_EXISTING_FETCH_MANIFEST"].strip().lower() not in ("", *phase_times.OFF)
            hub.fetch(wish.values["HF_DATASET_REPO_ID"], revision, wish.values["HF_DATASET_PATH_PREFIX"], wish.train.parent, keep)
        _prepare(wish)
    began = time.monotonic()
    code = cli.main(words)
    times.write("train_baseline", "error" if code else "ok", int((time.monotonic() - began) * 1000), code or None)
    if code == 0:
        _deliver(wish)
    return code
