# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .hub_server import Hub

ROLE = Path(__file__).resolve().parents[2] / "roles" / "chess_training"
SMOKE = ROLE / "files" / "smoke"

WriteData = Callable[..., Path]


@pytest.fixture
def smoke() -> Path:
    """The data set that is shipped."""
    return SMOKE


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def write_data(tmp_path: Path) -> WriteData:
    """Write a data folder from rows; text and bytes are written as they are."""

    def write(train: list[Any], val: list[Any] | None = None, name: str = "data") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, rows in (("train.jsonl", train), ("val.jsonl", [{"moves": "d2d4 d7d5"}] if val is None else val)):
            lines = [row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows]
            (folder / file).write_bytes(b"".join(line + b"\n" for line in lines))
        return folder

    return write


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first games of the shipped data set."""
    folder = tmp_path_factory.mktemp("small")
    for file, count in (("train.jsonl", 60), ("val.jsonl", 12)):
        lines = (SMOKE / file).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / file).write_text("".join(lines[:count]), encoding="utf-8")
    return folder


def spliced_rows(moves: str, game_id: str = "g", first: int = 0) -> list[dict[str, Any]]:
    """A game as one row per position."""
    texts = moves.split()
    rows = []
    for ply in range(first, len(texts)):
        rows.append({"game_id": game_id, "ply": ply, "context": texts[:ply], "target": texts[ply : ply + 4], "next_move": texts[ply], "winner_side": "W"})
    return rows
