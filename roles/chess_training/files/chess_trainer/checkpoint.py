# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints that are whole or not there, and that show when they were torn.

A file is named by its step and the first digits of its sha256, so that a damaged one is known without a second file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import MissingError, UsageError
from .files import write_bytes

KEEP = 2
_NAME = re.compile(r"(last|best)-(\d{9})-([0-9a-f]{16})\.pt")


def save(folder: Path, kind: str, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint durably, then drop the older ones of its kind."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"{kind}-{step:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    for old in _found(folder, kind)[keep:]:
        if old != path:
            old.unlink()
    return path


def _found(folder: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, the newest step first."""
    names = [path for path in folder.glob(f"{kind}-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(names, key=lambda path: (path.name.split("-")[1], path.stat().st_mtime_ns), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint; ValueError when it is torn."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"the checkpoint {path} is not there") from None
    match = _NAME.fullmatch(path.name)
    if match and not hashlib.sha256(content).hexdigest().startswith(match.group(3)):
        raise ValueError(f"{path.name} is torn: its content does not match its name")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path.name} is not a checkpoint")
    return state


def newest(folder: Path, kind: str, torn: list[str]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole; the torn ones are renamed and named."""
    for path in _found(folder, kind):
        try:
            return path, load(path)
        except ValueError as error:
            torn.append(str(error))
            path.rename(path.with_name(path.name + ".torn"))
    return None


def resume(folder: Path, how: str, torn: list[str]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from: auto, never, or a path."""
    if how == "auto":
        return newest(folder, "last", torn)
    if how == "never":
        if _found(folder, "last"):
            raise UsageError(f"{folder} holds checkpoints of an earlier run; go on with --resume auto, or take another --run-dir")
        return None
    try:
        return Path(how), load(Path(how))
    except ValueError as error:
        raise UsageError(f"--resume {how}: {error}") from error


def random_state() -> dict[str, Any]:
    """The state of every random number generator, in types that weights_only accepts."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every random number generator back."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
