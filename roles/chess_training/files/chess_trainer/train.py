# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One training run: data, resumption, the loop, and the files it leaves."""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import phase_times, settings
from .errors import EXIT_OK, DivergedError, StoppedError, TrainerError, UsageError
from .files import sha256_file, write_json
from .progress import Progress, duration, now
from .signals import StopRequest

if TYPE_CHECKING:
    from .cache import Positions
    from .runtime import Runtime
    from .team import Team
    from .trainer import Plan, Trainer

LAUNCHER = "CHESS_TRAINER_OUTCOMES"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = (run_dir / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"the run folder {run_dir} cannot be written: {error}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another trainer is at work in {run_dir}") from None
        yield


def _positions(arguments: argparse.Namespace, progress: Progress, stop: StopRequest) -> tuple[Positions, Positions]:
    from . import cache

    def tick(doing: str, share: float) -> None:
        progress.update("encode", f"{doing}  {100 * share:.0f} %", 0.0)
        stop.check(doing)

    directory = arguments.cache_dir or cache.default_directory()
    began = time.monotonic()
    train = cache.load(arguments.data, "train", directory, arguments.min_context, None, tick)
    val = cache.load(arguments.data, "val", directory, arguments.min_context, train.info["format"], tick)
    progress.say(f"{len(train):,} training and {len(val):,} validation positions in {time.monotonic() - began:.1f} s")
    return train, val


def _plan(arguments: argparse.Namespace, positions: int) -> Plan:
    from .model import PRESETS
    from .schedule import Schedule
    from .trainer import Plan

    preset = PRESETS[arguments.preset]
    batch_size = arguments.batch_size or preset.batch_size
    plateau = (arguments.plateau_factor, arguments.plateau_patience, arguments.plateau_threshold)
    return Plan(
        preset=preset,
        seed=arguments.seed,
        batch_size=batch_size,
        lr=arguments.lr or preset.lr,
        max_seconds=arguments.max_seconds,
        max_steps=arguments.max_epochs * max(1, positions // batch_size) if arguments.max_epochs else arguments.max_steps,
        evaluations=settings.evaluations(arguments),
        checkpoint_seconds=arguments.checkpoint_seconds,
        stop_after_steps=arguments.stop_after_steps,
        schedule=Schedule(arguments.schedule == "plateau", *plateau, arguments.early_stop_patience, arguments.early_stop_min_delta),
        phase_weights=arguments.phase_weights,
    )


def _resume(trainer: Trainer, how: str, fixed: dict[str, Any], progress: Progress) -> dict[str, Any] | None:
    from . import checkpoint

    torn: list[str] = []
    found = checkpoint.resume(trainer.checkpoints, how, torn) if trainer.team.leads else None
    for text in torn:
        progress.say(f"skipped a checkpoint: {text}")
    # The leading process has looked which one is whole.
    chosen = trainer.team.told(found[0] if found is not None else None)
    if chosen is None:
        if trainer.team.leads:
            (trainer.run_dir / "metrics.jsonl").unlink(missing_ok=True)
        return None
    path, state = found or (chosen, checkpoint.load(chosen))
    if reason := settings.disagreement(state["fixed"], fixed):
        raise UsageError(f"{path} {reason}; take another --run-dir")
    trainer.restore(state)
    progress.say(f"going on from {path.name}: step {trainer.step}, {duration(trainer.elapsed_before)} of training done")
    return {"checkpoint": path.name, "step": trainer.step, "elapsed_seconds": round(trainer.elapsed_before, 3), "torn": torn, "at": now()}


def _artifacts(run_dir: Path) -> dict[str, Any]:
    names = ("model.pt", "config.json", "metrics.jsonl")
    return {name: {"sha256": sha256_file(run_dir / name), "bytes": (run_dir / name).stat().st_size} for name in names}


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, TrainerError) else 1


class Run:
    """The files of a run: config.json, manifest.json and model.pt."""

    def __init__(self, arguments: argparse.Namespace, request: dict[str, Any], progress: Progress, stop: StopRequest) -> None:
        self.arguments, self.request, self.progress, self.stop = arguments, request, progress, stop
        self.leads = leads()
        self.times = phase_times.PhaseTimes.of("runpod_trainer", arguments.run_dir / phase_times.NAME, arguments.run_dir.absolute().name)
        if not self.leads:
            self.times = phase_times.PhaseTimes("runpod_trainer", None, "")
        self.run_dir: Path = arguments.run_dir
        self.manifest: dict[str, Any] = {"schema": 1, "state": "running", "request": request, "started_at": now(), "resumed_from": None}

    def write_manifest(self, state: str, **values: Any) -> None:
        """Replace manifest.json."""
        self.manifest |= {"state": state, **values}
        if self.leads:
            write_json(self.run_dir / "manifest.json", self.manifest)

    def train(self) -> int:
        """Do the run; whatever ends it is written to the manifest."""
        if launched():
            self.progress.update("import", "meeting the other processes", 0.0)
            from .team import Team, explained

            team = Team.join(self.arguments.device)
            try:
                code = self._train(team)
            except RuntimeError as error:
                raise explained(error, team) from error
            team.leave()
            return code
        return self._train(None)

    def _train(self, team: Team | None) -> int:
        with self.times.phase("load_data", _exit_code):
            if team is not None and not team.leads:
                # The leading process encodes; the others find it done.
                team.wait()
            train, val = _positions(self.arguments, self.progress, self.stop)
            if team is not None and team.leads:
                team.wait()
        self.progress.update("import", "loading PyTorch", 0.0)
        with self.times.phase("prepare", _exit_code):
            trainer, fixed = self._prepare(train, val, team)
        self.manifest["resumed_from"] = _resume(trainer, self.arguments.resume, fixed, self.progress)
        self.write_manifest("running")
        found = {}
        try:
            with self.times.phase("train", _exit_code):
                trainer.run(fixed)
            with self.times.phase("evaluate", _exit_code):
                found = trainer.finish() if trainer.team.leads else {}
        except StoppedError:
            self.write_manifest("stopped", ended_at=now(), steps=trainer.step, train_seconds=round(trainer.elapsed(), 3))
            raise
        except DivergedError as error:
            self.write_manifest("diverged", ended_at=now(), steps=trainer.step, error=str(error))
            raise
        if trainer.team.leads:
            with self.times.phase("save_model", _exit_code):
                self._finish(trainer, found)
        return EXIT_OK

    def _prepare(self, train: Positions, val: Positions, team: Team | None) -> tuple[Trainer, dict[str, Any]]:
        import torch

        from . import metrics, model, runtime
        from .team import Team
        from .trainer import Trainer

        team = team or Team()
        chosen = runtime.choose(self.arguments, team)
        plan = _plan(self.arguments, len(train))
        context = getattr(plan.preset.shape, "context", 0)
        settings.refuse_format(self.arguments.preset, train.info["format"])
        torch.manual_seed(plan.seed)

        def tick(share: float) -> None:
            self.progress.update("prepare", f"preparing the legal moves  {100 * share:.0f} %", 0.0)
            self.stop.check("preparing")

        count = self.arguments.eval_positions or plan.preset.eval_positions
        data = metrics.evaluation_set(val, count, tick, context) if team.leads else None
        trainer = Trainer(plan, self.run_dir, chosen, team, train, data, self.progress, self.stop)
        fixed = self.request | {"batch_size": plan.batch_size, "lr": plan.lr, "precision": chosen.precision}
        if data is not None:
            self._describe(chosen, train, val, fixed)
            self.manifest["baselines"] = metrics.baselines(data, train.moves)
            self.manifest["parameters"] = model.parameter_count(trainer.network)
            where = f"{chosen.precision} on {chosen.device}, {torch.get_num_threads()} threads"
            shared = f" over {team.size} processes" if team.size > 1 else ""
            self.manifest["processes"] = team.size
            self.progress.say(f"{self.manifest['parameters']:,} parameters, {where}, batches of {plan.batch_size}{shared}")
        return trainer, fixed

    def _describe(self, chosen: Runtime, train: Positions, val: Positions, fixed: dict[str, Any]) -> None:
        from . import model, runtime, vocab

        data = {"train": train.info, "val": val.info}
        config = {"schema": 1, **fixed, "network": model.describe(model.PRESETS[self.arguments.preset].shape), "max_seconds": self.arguments.max_seconds}
        write_json(self.run_dir / "config.json", config)
        self.manifest |= {"versions": runtime.versions(chosen), "data": data, "vocabulary_sha256": vocab.vocabulary_sha256(), "network": config["network"]}

    def _finish(self, trainer: Trainer, found: dict[str, float]) -> None:
        from . import artifact

        about = {"metrics": found, "baselines": self.manifest["baselines"], "data": self.manifest["data"], "seed": trainer.plan.seed, "steps": trainer.step}
        artifact.save(self.run_dir / "model.pt", artifact.plain_state(trainer.network), trainer.plan.preset.shape, about)
        seconds = trainer.elapsed()
        positions = trainer.step * trainer.plan.batch_size
        speed = {"train_seconds": round(seconds, 3), "positions": positions, "positions_per_second": round(positions / seconds, 1) if seconds else 0.0}
        self.write_manifest("done", ended_at=now(), ended_by=trainer.ended_by, steps=trainer.step, metrics=found, artifacts=_artifacts(self.run_dir), **speed)
        base = self.manifest["baselines"]
        summary = f"top-1 {100 * found['top1']:.1f} % (from ply 20 on {100 * found['top1_ply20']:.1f} %), raw legal {100 * found['raw_legal']:.1f} %"
        self.progress.update("done", f"done  {summary}", 1.0, step=trainer.step, **speed, **found)
        self.progress.say(f"done after {trainer.step:,} steps, {speed['positions_per_second']:,.0f} positions/s: {summary}")
        self.progress.say(f"baselines: random legal move {100 * base['random_legal']:.1f} %, most frequent legal move {100 * base['frequent_legal']:.1f} %")


def launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Whether this process decides and writes."""
    return os.environ.get("RANK", "0") == "0" or not launched()


def run(arguments: argparse.Namespace) -> int:
    """The command train, in one process or in one of several."""
    request = settings.requested(arguments)
    with locked(arguments.run_dir) if leads() and LAUNCHER not in os.environ else nullcontext():
        return run_locked(arguments, request)


def run_locked(arguments: argparse.Namespace, request: dict[str, Any]) -> int:
    """The same in a run folder that nobody else works in."""
    stop = StopRequest(patient=launched())
    stop.install()
    progress = Progress.for_run(arguments.run_dir, quiet=not leads())
    manifest = settings.finished_manifest(arguments.run_dir, request) if arguments.resume == "auto" else None
    progress.start()
    try:
        if manifest is not None:
            progress.update("done", "done already", 1.0, **manifest["metrics"])
            progress.say(f"the run in {arguments.run_dir} is done already: {manifest['steps']} steps")
            return EXIT_OK
        for text in settings.without_effect(arguments):
            progress.say(text)
        return Run(arguments, request, progress, stop).train()
    except TrainerError as error:
        progress.update("stopped" if isinstance(error, StoppedError) else "failed", str(error), progress.fraction)
        raise
    finally:
        progress.close()
