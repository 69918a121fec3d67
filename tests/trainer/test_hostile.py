# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models and manifests that a rented machine made to harm who opens them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chess_trainer import artifact, checkpoint
from chess_trainer.errors import DataError
from chess_trainer.model import PolicyNet, Shape, describe
from chess_trainer.validate import Validation, _outcome

SHAPE = Shape(filters=8, blocks=1, squeeze=2, head=4)
HEADROOM = 512 * 1024**2


class Runs:
    """Unpickled by an ordinary load, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound model."""
    made = tmp_path / "model.pt"
    artifact.save(made, artifact.plain_state(PolicyNet(SHAPE)), SHAPE, {})
    return made


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No more than half a GiB beyond what is in use."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + HEADROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def code(path: Path) -> None:
    torch.save({"format": artifact.FORMAT, "state_dict": Runs(path.with_name("ran"))}, path)


def packed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(path.with_name("packed"), "w", zipfile.ZIP_DEFLATED) as again:
        for name in archive.namelist():
            again.writestr(name, archive.read(name) if name.endswith((".pkl", "version")) else bytes(1024**2))
    path.with_name("packed").replace(path)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def claims_a_terabyte(path: Path) -> None:
    rewrite(path, lambda content: content["state_dict"].update({"move_bias": torch.zeros(1).expand(2**38)}))


def all_from_one_number(path: Path) -> None:
    """Shapes that fit, of a network of gigabytes, in a file of kilobytes."""
    wide = replace(SHAPE, filters=1024)
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in PolicyNet(wide).state_dict().items()}
    rewrite(path, lambda content: content.update(network=describe(wide), state_dict=state))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (code, "cannot be opened as weights only"),
        (packed, "packed entries"),
        (claims_a_terabyte, "claim more than"),
        (all_from_one_number, "claim more than"),
        (lambda path: rewrite(path, lambda content: content.update(network=describe(replace(SHAPE, filters=2048, blocks=100)))), "claim more than"),
        (lambda path: rewrite(path, lambda content: content.update(state_dict=7)), "holds no weights"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cannot be opened"),
        (lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR."), "cannot be opened"),
    ],
    ids=["code", "packed", "terabyte", "one-number", "network", "no-weights", "torn", "bare-pickle"],
)
def test_a_model_made_to_harm_is_refused(path: Path, little_memory: None, spoil: Callable[[Path], None], words: str) -> None:
    assert artifact.build(artifact.read(path), path) is not None
    spoil(path)
    with pytest.raises(DataError, match=words):
        artifact.build(artifact.read(path), path)
    assert not path.with_name("ran").exists()


def test_a_checkpoint_that_would_run_code_counts_as_torn(tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled.pt"
    code(spoiled)
    name = f"last-000000009-{hashlib.sha256(spoiled.read_bytes()).hexdigest()[:16]}.pt"
    shutil.copy(spoiled, tmp_path / name)
    torn: list[str] = []
    assert checkpoint.newest(tmp_path, "last", torn) is None
    assert len(torn) == 1 and "cannot be read" in torn[0] and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        {"state": ["done"]}, {"state": "done", "artifacts": [1]}, {"state": "done", "artifacts": {"model.pt": "x"}}, {"state": "done", "data": {"val": 7}},
        {"state": "done", "metrics": "x"}, {"state": "done", "metrics": {"scored": "many"}}, {"state": "done", "metrics": {"scored": 1e999}},
        {"state": "done", "metrics": {"scored": 1, "top1": "high"}, "request": [1]},
    ],
)  # fmt: skip
def test_a_manifest_of_another_shape_is_a_failed_check(path: Path, tmp_path: Path, small_data: Path, manifest: dict[str, Any]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    given: dict[str, Any] = {"model": path, "run_dir": tmp_path, "data": [small_data], "tolerance": 0.005, "device": "cpu", "cache_dir": tmp_path}
    validation = Validation(argparse.Namespace(**given))
    validation.model = PolicyNet(SHAPE).eval()
    checks = [validation.manifest_read, validation.checksum, validation.same_data, validation.reproduced]
    outcomes = [_outcome(check) for check in checks]
    assert not all(outcome["ok"] for outcome in outcomes)


def test_a_manifest_nested_too_deep_is_a_failed_check(path: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"state":' + "[" * 100_000, encoding="utf-8")
    assert _outcome(Validation(argparse.Namespace(run_dir=tmp_path)).manifest_read)["ok"] is False
