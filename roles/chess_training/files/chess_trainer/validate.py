# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a trained model on another machine and reproduce what its run recorded."""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .board import Position
from .errors import MissingError, TrainerError
from .files import read_json, sha256_file, write_json
from .settings import allotted_threads

if TYPE_CHECKING:
    from .model import AnyNetwork

RATES = ("top1", "top1_ply20", "top1_raw", "raw_legal", "legal_mass")
CONTEXTS = {
    "start": "",
    "open game": "e2e4 e7e5 g1f3",
    "castling": "e2e4 e7e5 g1f3 b8c6 f1c4 f8c5 d2d3 g8f6 b1c3 d7d6 c1g5 c8g4 d1d2 d8d7",
    "en passant": "e2e4 a7a6 e4e5 d7d5",
    "check": "e2e4 f7f6 d1h5",
    "promotion": "a2a4 b7b5 a4b5 a7a6 b5a6 c8b7 a6b7 h7h5",
}


class Failure(Exception):
    """A check that did not hold."""


class Validation:
    """The checks, in order; each one stands in the verdict."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.manifest: dict[str, Any] = {}
        self.content: dict[str, Any] = {}
        self.model: AnyNetwork | None = None
        self.found: dict[str, Any] = {}
        self.moves: dict[str, str] = {}
        self.data = Path()

    def manifest_read(self) -> str:
        """The run's manifest is there and says that the run is done."""
        path = self.arguments.run_dir / "manifest.json"
        self.manifest = read_json(path)
        if self.manifest.get("state") != "done":
            raise Failure(f"{path} says that the run is {self.manifest.get('state')}, not done")
        return f"the run is done after {self.manifest.get('steps')} steps"

    def checksum(self) -> str:
        """The model is the one that the manifest names."""
        recorded = self.manifest.get("artifacts", {}).get("model.pt", {}).get("sha256")
        if not self.arguments.model.is_file():
            raise Failure(f"the model {self.arguments.model} is not there")
        found = sha256_file(self.arguments.model)
        if found != recorded:
            raise Failure(f"sha256 of {self.arguments.model} is {found}, but the manifest has {recorded}")
        return f"sha256 {found}"

    def opened(self) -> str:
        """The model opens as weights only, with the same vocabulary, and fits its network."""
        import torch

        from . import artifact

        torch.set_num_threads(allotted_threads(0))
        self.content = artifact.read(self.arguments.model)
        self.model = artifact.build(self.content, self.arguments.model)
        return "opened as weights only; vocabulary and network fit"

    def finite(self) -> str:
        """No weight is NaN or infinite."""
        import torch

        bad = [name for name, value in self.content["state_dict"].items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
        if bad:
            raise Failure(f"not finite: {', '.join(bad[:5])}")
        return f"{len(self.content['state_dict'])} tensors, all finite"

    def same_data(self) -> str:
        """The validation data is the data of the run: the first folder that has it is the one."""
        recorded = self.manifest.get("data", {}).get("val", {}).get("sha256")
        other = []
        for folder in self.arguments.data:
            path = folder / "val.jsonl"
            found = sha256_file(path) if path.is_file() else None
            if found is not None and found == recorded:
                self.data = folder
                return f"val.jsonl has sha256 {found}"
            other.append(f"sha256 of {path} is {found}" if found else f"{path} is not there")
        raise Failure(f"{', '.join(other)}, but the run was scored on {recorded}")

    def reproduced(self) -> str:
        """The figures of the manifest come out again."""
        recorded = self.manifest.get("metrics", {})
        self.found = self._score(int(recorded.get("scored", 0)) or 1)
        tolerance = self.arguments.tolerance
        wrong = [name for name in RATES if not abs(self.found[name] - recorded.get(name, math.inf)) <= tolerance]
        far = [f"{name} {self.found[name]:.4f}, recorded {recorded.get(name)}" for name in wrong]
        if self.found["scored"] != recorded.get("scored"):
            far.append(f"{self.found['scored']} positions scored, recorded {recorded.get('scored')}")
        if far:
            raise Failure(f"not reproduced within {tolerance:g}: {'; '.join(far)}")
        return f"top-1 {self.found['top1']:.4f}, recorded {recorded['top1']:.4f}; raw legal {self.found['raw_legal']:.4f}, recorded {recorded['raw_legal']:.4f}"

    def _score(self, count: int) -> dict[str, Any]:
        import torch

        from . import cache, metrics

        settings = self.manifest.get("request", {})
        with contextlib.ExitStack() as stack:
            directory = self.arguments.cache_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chess-trainer-")))
            positions = cache.load(self.data, "val", directory, int(settings.get("min_context", 0)), None, lambda doing, share: None)
            assert self.model is not None
            data = metrics.evaluation_set(positions, count, lambda share: None, getattr(self.model.shape, "context", 0))
        device = torch.device(self.arguments.device)
        return metrics.evaluate(self.model.to(device), data.to(device), contextlib.nullcontext, lambda share: None)

    def legal_enough(self) -> str:
        """The first choice without a mask is legal often enough."""
        gate = self.arguments.min_raw_legal
        if self.found["raw_legal"] < gate:
            raise Failure(f"raw legal rate {self.found['raw_legal']:.4f} is below {gate:g}")
        return f"raw legal rate {self.found['raw_legal']:.4f}, at least {gate:g} wanted"

    def plays(self) -> str:
        """The model answers fixed positions with legal moves, twice the same."""
        import torch

        from . import infer

        assert self.model is not None
        device = torch.device(self.arguments.device)
        for name, context in CONTEXTS.items():
            position = infer.play(context)
            first, again = (infer.choose(position, infer.score(self.model, position, device), 1)["move"] for _turn in range(2))
            reason = Position.play_uci(infer.play(context), first)
            if reason is not None or first != again:
                raise Failure(f"{name}: {reason or f'{first}, then {again}'}")
            self.moves[name] = first
        return ", ".join(f"{name} {move}" for name, move in self.moves.items())

    def infers(self) -> str:
        """The model predicts the next move of the wanted game, as infer does."""
        from . import infer

        found = infer.infer(self.arguments.model, self.arguments.context, 5, self.arguments.device)
        if self.arguments.infer_output is not None:
            write_json(self.arguments.infer_output, found)
        return f"{found['move']} after {found['context'] or 'no moves'}"

    def checks(self) -> Iterator[Callable[[], str]]:
        """All checks, in order."""
        yield from (self.manifest_read, self.checksum, self.opened, self.finite, self.same_data, self.reproduced, self.legal_enough, self.plays, self.infers)


def _outcome(check: Callable[[], str]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        ok, detail = True, check()
    except (Failure, TrainerError) as error:
        ok, detail = False, str(error)
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        # The manifest and the model come from a rented machine.
        ok, detail = False, f"{check.__name__}: the manifest or the model does not have the shape that it should: {ascii(str(error))[:200]}"
    return {"name": check.__name__, "ok": ok, "detail": detail, "seconds": round(time.monotonic() - began, 3)}


def validate(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command validate; the first check that fails ends it."""
    for name, path in (("run folder", arguments.run_dir), *(("data folder", folder) for folder in arguments.data)):
        if not path.is_dir():
            raise MissingError(f"the {name} {path} is not there")
    validation = Validation(arguments)
    outcomes = []
    for check in validation.checks():
        outcomes.append(_outcome(check))
        if not outcomes[-1]["ok"]:
            break
    verdict = {
        "ok": all(outcome["ok"] for outcome in outcomes),
        "model": str(arguments.model),
        "checks": outcomes,
        "metrics": validation.found,
        "recorded": validation.manifest.get("metrics", {}),
        "baselines": validation.manifest.get("baselines", {}),
        "moves": validation.moves,
    }
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, verdict)
    return verdict
