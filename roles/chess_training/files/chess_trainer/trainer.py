# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The training loop: steps, schedule, evaluations, checkpoints."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import artifact, checkpoint, metrics, settings
from .cache import Positions
from .errors import DivergedError, StoppedError, UsageError
from .files import write_bytes
from .model import LstmShape, Preset, build, histories, phases
from .progress import Progress, duration
from .runtime import Runtime
from .schedule import Schedule
from .signals import StopRequest
from .team import Team, shared_statistics

LOG_STEPS = 20
SYNC_STEPS = {"cpu": 1, "cuda": 20}
CLIP_NORM = 1.0
WEIGH_ROWS = 1 << 18
DEVICE_SHARE = 0.4  # of the free GPU memory that the positions may take


@dataclass(frozen=True)
class Plan:
    """The budget and rhythm of a run."""

    preset: Preset
    seed: int
    batch_size: int
    lr: float
    max_seconds: float | None
    max_steps: int | None
    evaluations: int
    checkpoint_seconds: float
    stop_after_steps: int | None
    schedule: Schedule
    phase_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def fraction(self, elapsed: float, step: int) -> float:
        """The share of the budget that is used."""
        return step / self.max_steps if self.max_steps else elapsed / (self.max_seconds or 1.0)

    def due(self, fraction: float) -> int:
        """How many evaluations should have been by then; one that makes up for several counts as all of them."""
        return min(self.evaluations, int(fraction * (self.evaluations + 1) + 1e-9))

    def learning_rate(self, fraction: float, step: int, scale: float) -> float:
        """Linear warm-up, then linear decay to zero at the end of the budget, or what the plateaus have left."""
        return self.lr * min(1.0, (step + 1) / self.preset.warmup_steps) * (scale if self.schedule.plateau else max(0.0, 1.0 - fraction))


@dataclass
class Batch:
    """Packed positions with the move that was played."""

    tokens: Tensor
    meta: Tensor
    moves: Tensor
    history: Tensor | None
    weights: Tensor | None


@dataclass
class Agreed:
    """What all processes go by until the next step; the clock and the evaluations of the leading one decide."""

    fraction: float = 0.0
    scale: float = 1.0
    ended: bool = False
    save: bool = False
    stop: bool = False


class Batches:
    """This process's parts of batches in a seeded order; where it stands is two numbers."""

    def __init__(self, positions: Positions, plan: Plan, device: torch.device, team: Team) -> None:
        settings.refuse_positions(plan.batch_size, len(positions))
        if plan.batch_size % team.size:
            raise UsageError(f"batches of {plan.batch_size} cannot be shared by {team.size} processes; give a --batch-size that {team.size} divides")
        target = device if self._fits(positions, device) else torch.device("cpu")
        self.tokens = torch.from_numpy(np.array(positions.tokens)).to(target)
        self.meta = torch.from_numpy(np.array(positions.meta)).to(target)
        self.moves = torch.from_numpy(np.array(positions.moves)).to(target)
        self.weights = self._weights(plan.phase_weights)
        self.context = plan.preset.shape.context if isinstance(plan.preset.shape, LstmShape) else 0
        self.batch_size, self.seed, self.device, self.team = plan.batch_size, plan.seed, device, team
        self.epoch, self.offset = 0, 0
        self._order: Tensor | None = None

    @staticmethod
    def _fits(positions: Positions, device: torch.device) -> bool:
        if device.type != "cuda":
            return True
        needed = positions.tokens.nbytes + positions.meta.nbytes + positions.moves.nbytes
        return needed < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]

    def _weights(self, of_phases: tuple[float, float, float]) -> Tensor | None:
        """The weight of each position; their mean is 1, so that the learning rate means what it meant."""
        if len(set(of_phases)) == 1:
            return None
        table = torch.tensor(of_phases, dtype=torch.float32, device=self.tokens.device)
        parts = range(0, len(self.moves), WEIGH_ROWS)
        weights = torch.cat([table[phases(self.tokens[at : at + WEIGH_ROWS], self.meta[at : at + WEIGH_ROWS])] for at in parts])
        mean = float(weights.double().mean())
        if mean == 0:
            raise UsageError("no position is in a phase whose weight is above 0, so nothing would be learned; give other --phase-weights")
        return weights / mean

    @property
    def per_epoch(self) -> int:
        """Whole batches in one pass over the data."""
        return len(self.moves) // self.batch_size

    def seek(self, epoch: int, offset: int) -> None:
        """Go on from a batch of an epoch."""
        self.epoch, self.offset, self._order = epoch, offset, None

    def next(self) -> Batch:
        """The next batch, or this process's part of it."""
        if self.offset >= self.per_epoch:
            self.seek(self.epoch + 1, 0)
        if self._order is None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            self._order = torch.randperm(len(self.moves), generator=generator).to(self.moves.device)
        rows = self._order[self.offset * self.batch_size : (self.offset + 1) * self.batch_size][self.team.rank :: self.team.size]
        self.offset += 1
        history = histories(self.moves, rows, self.meta[rows, 2], self.context).to(self.device) if self.context else None
        weights = None if self.weights is None else self.weights[rows].to(self.device)
        return Batch(self.tokens[rows].to(self.device), self.meta[rows].to(self.device), self.moves[rows].long().to(self.device), history, weights)


class Trainer:
    """One run from its first or its last checkpoint to its end."""

    def __init__(
        self,
        plan: Plan,
        run_dir: Path,
        runtime: Runtime,
        team: Team,
        train: Positions,
        data: metrics.EvaluationSet | None,
        progress: Progress,
        stop: StopRequest,
    ) -> None:
        self.plan, self.run_dir, self.runtime, self.team, self.progress, self.stop = plan, run_dir, runtime, team, progress, stop
        self.batches = Batches(train, plan, runtime.device, team)
        # Only the leading process evaluates.
        self.data = data.to(runtime.device) if data is not None else None
        self.network = build(plan.preset.shape)
        self.model = runtime.prepared(self.network if team.size == 1 else shared_statistics(self.network))
        self.optimizer = runtime.optimizer(self.model.parameters(), plan.lr, plan.preset.weight_decay)
        self.step, self.evaluated, self.elapsed_before = 0, 0, 0.0
        self.best: dict[str, Any] = {}
        self.schedule = plan.schedule
        self.speed = 0.0
        self._agreed = Agreed()
        self._started = self._saved = self._marked = time.monotonic()
        self._loss_sum = torch.zeros((), device=runtime.device)
        self._window: list[float] = []
        self._unsynced = 0

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are kept."""
        return self.run_dir / "ckpt"

    def elapsed(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self.elapsed_before + time.monotonic() - self._started

    def fraction(self) -> float:
        """The share of the budget that is used."""
        return self.plan.fraction(self.elapsed(), self.step)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where a checkpoint was made."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        checkpoint.restore_random_state(state["random"])
        self.step, self.evaluated, self.elapsed_before = state["step"], state["evaluated"], state["elapsed"]
        self.best, self._window = state["best"], list(state["window"])
        self.batches.seek(state["epoch"], state["offset"])
        self.schedule.restore(state.get("schedule"))
        if self.team.leads:
            self._trim_history()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.batches.epoch,
            "offset": self.batches.offset,
            "elapsed": self.elapsed(),
            "evaluated": self.evaluated,
            "best": self.best,
            "schedule": self.schedule.state(),
            "window": list(self._window),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": checkpoint.random_state(),
        }

    def save(self, fixed: dict[str, Any]) -> Path:
        """Write the last checkpoint; the path alone where another process writes it."""
        self._saved = time.monotonic()
        if not self.team.leads:
            return self.checkpoints
        return checkpoint.save(self.checkpoints, "last", self.step, self._state() | {"fixed": fixed}, checkpoint.KEEP)

    def _agree(self) -> None:
        due = time.monotonic() - self._saved >= self.plan.checkpoint_seconds
        own = [self.fraction(), self.schedule.scale, float(self.schedule.ended), float(due)] if self.team.leads else [0.0] * 4
        asked = bool(self.stop) or self.step == self.plan.stop_after_steps
        fraction, scale, ended, save, stop = self.team.largest([*own, float(asked)])
        self._agreed = Agreed(fraction, scale, bool(ended), bool(save), bool(stop))

    def run(self, fixed: dict[str, Any]) -> None:
        """Train until the budget is used up, or nothing improves any more."""
        self._started = self._saved = self._marked = time.monotonic()
        self.model.train()
        self._agree()
        while self._agreed.fraction < 1.0 and not self._agreed.ended:
            if self._agreed.stop:
                self._sync()
                path = self.save(fixed)
                self.team.wait()
                raise StoppedError(f"stopped by {self.stop.name or 'request'} at step {self.step}; saved {path.name}; run the same command again to go on")
            self._step()
            self._agree()
            before = self._agreed.fraction
            if self.plan.due(before) > self.evaluated:
                self._evaluate_between()
                self._agree()
                # An evaluation uses up a budget of time; at least as much of it goes into steps before the next one.
                self.evaluated = max(self.evaluated, self.plan.due(2 * self._agreed.fraction - before))
            if self._agreed.save:
                self._sync()
                self.save(fixed)
        self._sync()
        self.save(fixed)

    def _step(self) -> None:
        batch = self.batches.next()
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate(self._agreed.fraction, self.step, self._agreed.scale)
        if self.team.size > 1:
            # Dropout differs between processes, and needs no state of its own to go on.
            torch.manual_seed((self.plan.seed * 1_000_003 + self.step) * self.team.size + self.team.rank)
        inputs = self.network.inputs(batch.tokens, batch.meta, batch.history)
        with self.runtime.autocast():
            logits = self.model(*inputs)
        if batch.weights is None:
            loss = F.cross_entropy(logits, batch.moves)
        else:
            loss = (F.cross_entropy(logits, batch.moves, reduction="none") * batch.weights).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.team.average(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self._loss_sum += loss.detach()
        self._unsynced += 1
        self.step += 1
        if self._unsynced >= SYNC_STEPS.get(self.runtime.device.type, LOG_STEPS) or self.step % LOG_STEPS == 0:
            self._sync()

    def _sync(self) -> None:
        """Read the loss, which waits for the device; a loss that is no number ends the run before anything is saved."""
        if not self._unsynced:
            return
        loss = self.team.mean(float(self._loss_sum) / self._unsynced)
        self._loss_sum.zero_()
        if not math.isfinite(loss):
            self.record("diverged", loss=str(loss))
            advice = f"the checkpoints in {self.checkpoints} are from before it; try a smaller --lr than {self.plan.lr:g}"
            raise DivergedError(f"the loss is {loss} at step {self.step}; {advice}")
        self._window.append(loss)
        steps, self._unsynced = self._unsynced, 0
        now = time.monotonic()
        rate = steps * self.plan.batch_size / max(now - self._marked, 1e-9)
        self.speed = rate if self.speed == 0.0 else 0.9 * self.speed + 0.1 * rate
        self._marked = now
        self._report(loss)

    def _report(self, loss: float) -> None:
        fraction, elapsed = self.fraction(), self.elapsed()
        eta = elapsed * (1.0 - fraction) / fraction if fraction > 0 else 0.0
        smooth = sum(self._window[-LOG_STEPS:]) / len(self._window[-LOG_STEPS:])
        epoch = self.batches.epoch + 1
        summary = f"epoch {epoch}  {100 * min(fraction, 1):.0f} %  {self.speed:,.0f} positions/s  loss {smooth:.2f}  eta {duration(eta)}"
        numbers = {"step": self.step, "epoch": epoch, "positions": self.step * self.plan.batch_size, "positions_per_second": round(self.speed, 1)}
        self.progress.update("train", summary, fraction, loss=round(smooth, 4), eta_seconds=round(eta, 1), elapsed_seconds=round(elapsed, 1), **numbers)
        self.progress.say_sometimes(summary)
        if self.step % LOG_STEPS == 0:
            learning_rate = self.optimizer.param_groups[0]["lr"]
            self.record("train", loss=round(sum(self._window) / len(self._window), 6), lr=learning_rate, elapsed_seconds=round(elapsed, 3), **numbers)
            self._window.clear()

    def _evaluate_between(self) -> None:
        self._sync()
        self.evaluated = self.plan.due(self._agreed.fraction)
        if not self.team.leads:
            return
        found = self.evaluate(exact=False)
        if said := self.schedule.see(found["loss"]):
            self.progress.say(f"step {self.step}: {said}")
        self.record("eval", **found)
        if not self.best or found["loss"] < self.best["loss"]:
            self.best = {"loss": found["loss"], "step": self.step}
            state = {"model": artifact.plain_state(self.network), "metrics": found, "step": self.step}
            checkpoint.save(self.checkpoints, "best", self.step, state, keep=1)
        rates = f"top-1 {100 * found['top1']:.1f} %, raw legal {100 * found['raw_legal']:.1f} %"
        self.progress.say(f"step {self.step}: validation loss {found['loss']:.3f}, {rates}")
        self._marked = time.monotonic()

    def evaluate(self, exact: bool) -> dict[str, float]:
        """Score the network on the evaluation set."""
        assert self.data is not None

        def tick(share: float) -> None:
            self.progress.update("evaluate", f"evaluating  {100 * share:.0f} %", self.fraction(), step=self.step)

        return metrics.evaluate(self.network, self.data, self.runtime.exact if exact else self.runtime.autocast, tick)

    def finish(self) -> dict[str, float]:
        """Evaluate the last weights in fp32, take an earlier best if that is better, and return its figures."""
        found = self.evaluate(exact=True)
        chosen = self.step
        torn: list[str] = []
        best = checkpoint.newest(self.checkpoints, "best", torn) if self.best and self.best["loss"] < found["loss"] else None
        if best is not None:
            self.network.load_state_dict(best[1]["model"])
            found, chosen = self.evaluate(exact=True), best[1]["step"]
        state = {"model": artifact.plain_state(self.network), "metrics": found, "step": chosen}
        checkpoint.save(self.checkpoints, "best", chosen, state, keep=1)
        self.record("final", chosen_step=chosen, ended_by=self.ended_by, **found)
        return found | {"chosen_step": chosen}

    @property
    def ended_by(self) -> str:
        """What ended the training."""
        return "early stop" if self.schedule.ended else "budget"

    def record(self, kind: str, **values: Any) -> None:
        """Add one row to metrics.jsonl."""
        if not self.team.leads:
            return
        row = {"kind": kind, "step": self.step, **values}
        with (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, allow_nan=False) + "\n")

    def _trim_history(self) -> None:
        """Drop rows that are younger than the checkpoint, and a torn last row."""
        path = self.run_dir / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and row["step"] <= self.step and row["kind"] in ("train", "eval"):
                kept.append(line)
        write_bytes(path, b"".join(kept))
