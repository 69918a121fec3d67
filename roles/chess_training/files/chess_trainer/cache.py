# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoded positions on disk, mapped into memory; made once for each data file and encoder version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import vocab
from .encode import ENCODER_VERSION, META_COLUMNS, Encoded, encode_games, read_games
from .errors import DataError, MissingError
from .files import sha256_file, write_json

FILES = {"train": "train.jsonl", "val": "val.jsonl"}
Tick = Callable[[str, float], None]


@dataclass
class Positions:
    """The positions of one file."""

    tokens: npt.NDArray[np.uint8]
    meta: npt.NDArray[np.uint8]
    moves: npt.NDArray[np.int16]
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.moves)


def default_directory() -> Path:
    """Where encoded positions are kept unless the command says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "chess_trainer"


def _key(sha256: str, min_context: int) -> str:
    text = f"{sha256} encoder {ENCODER_VERSION} vocabulary {vocab.vocabulary_sha256()} min_context {min_context}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _open(folder: Path) -> Positions | None:
    try:
        info = json.loads((folder / "info.json").read_bytes())
        count = int(info["positions"])
        return Positions(
            np.memmap(folder / "tokens.u8", np.uint8, "r", shape=(count, 64)),
            np.memmap(folder / "meta.u8", np.uint8, "r", shape=(count, META_COLUMNS)),
            np.memmap(folder / "moves.i16", np.int16, "r", shape=(count,)),
            info,
        )
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _encode(path: Path, folder: Path, expected: str | None, min_context: int, tick: Tick) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    games = read_games(path, expected, lambda: tick(f"reading {path.name}", 0.0))
    count = 0
    with (partial / "tokens.u8").open("wb") as tokens, (partial / "meta.u8").open("wb") as meta, (partial / "moves.i16").open("wb") as moves:

        def sink(encoded: Encoded) -> None:
            nonlocal count
            count += len(encoded.moves)
            tokens.write(encoded.tokens.data)
            meta.write(encoded.meta.data)
            moves.write(encoded.moves.data)

        encode_games(games, min_context, sink, lambda share: tick(f"encoding {path.name}", share))
    if count == 0:
        raise DataError(path.name, 0, f"no position has {min_context} moves or more before it")
    info = {"positions": count, "games": len(games.lengths), "format": games.format, "sha256": games.sha256, "file": path.name}
    write_json(partial / "info.json", info, durable=False)
    try:
        os.rename(partial, folder)
    except OSError:
        # Another process made the same folder in the meantime.
        shutil.rmtree(partial)


def load(data: Path, part: str, cache: Path, min_context: int, expected: str | None, tick: Tick) -> Positions:
    """The positions of train.jsonl or val.jsonl, encoded now or before."""
    path = data / FILES[part]
    if not path.is_file():
        raise MissingError(f"{path} is not there; a data folder holds train.jsonl and val.jsonl")
    folder = cache / _key(sha256_file(path), min_context)
    positions = _open(folder)
    if positions is None:
        shutil.rmtree(folder, ignore_errors=True)
        _encode(path, folder, expected, min_context, tick)
        positions = _open(folder)
    if positions is None:
        raise MissingError(f"{folder}: the encoded positions of {path} cannot be read back")
    if expected is not None and positions.info["format"] != expected:
        raise DataError(path.name, 1, f"{positions.info['format']} rows, but train.jsonl has {expected} rows: formats cannot be mixed")
    return positions
