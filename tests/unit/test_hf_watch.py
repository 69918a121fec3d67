# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uploads to Hugging Face: only whole files that nobody writes, each once, never while offline; the hub itself is a stand-in."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from support.services import load

hf_watch = load("hf_watch")


class Hub:
    def __init__(self) -> None:
        self.commits: list[dict[str, bytes]] = []
        self.trouble: Exception | None = None

    def upload(self, files: dict[str, Path]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.commits.append({name: path.read_bytes() for name, path in files.items()})


@pytest.fixture
def hub() -> Hub:
    return Hub()


def watch(tmp_path: Path, hub: Hub, **changes: Any) -> Any:
    (tmp_path / "runs").mkdir(exist_ok=True)
    given = {"source_dir": str(tmp_path / "runs"), "patterns": ["*.pt", "*.json"], "repo_id": "me/bot", "repo_type": "model", **changes}
    return hf_watch.Watch(tmp_path, given, hub)


def model(path: Path, weights: bytes = b"w" * 4000) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", weights)
    return path.read_bytes()


def twice(watched: Any) -> list[str]:
    return [*watched.look(), *watched.look()]


def test_a_file_goes_up_once_it_is_the_same_in_two_looks_and_again_when_it_changed(tmp_path: Path, hub: Hub) -> None:
    watched = watch(tmp_path, hub)
    content = model(tmp_path / "runs/r1/model.pt")
    assert watched.look() == [] and watched.look() == ["r1/model.pt"] and twice(watched) == []
    assert hub.commits == [{"r1/model.pt": content}]
    os.utime(tmp_path / "runs/r1/model.pt", (1, 1))
    # Touched, and the same: known by its content, also after a restart.
    assert twice(watched) == [] and twice(watch(tmp_path, hub)) == []
    (tmp_path / "runs/r1/manifest.json").write_text("{}")
    newer = model(tmp_path / "runs/r1/model.pt", b"x" * 5000)
    assert twice(watch(tmp_path, hub)) == ["r1/manifest.json", "r1/model.pt"]
    assert hub.commits[1:] == [{"r1/manifest.json": b"{}", "r1/model.pt": newer}]
    # Another repository has nothing yet.
    assert len(twice(watch(tmp_path, hub, repo_id="me/other"))) == 2


def test_what_is_not_finished_waits(tmp_path: Path, hub: Hub) -> None:
    watched, runs = watch(tmp_path, hub), tmp_path / "runs"
    content = model(runs / "half.pt")
    (runs / "half.pt").write_bytes(content[:-30])
    (runs / "torn.json").write_text('{"a": ')
    for name in (".model.pt.tmp", "model.pt.part", "notes.txt", ".hidden.pt"):
        (runs / name).write_bytes(content)
    (runs / "link.pt").symlink_to("/etc/hostname")
    (runs / "jobs/train").mkdir(parents=True)
    for name in ("spec.json", "status.json"):
        (runs / "jobs/train" / name).write_text('{"environment": {"WANDB_API_KEY": "x"}}')
    assert twice(watched) == []
    model(runs / "open.pt")
    with (runs / "open.pt").open("ab"):
        assert twice(watched) == []
    assert watched.look() == ["open.pt"]
    (runs / "half.pt").write_bytes(content)
    assert watched.look() == [] and watched.look() == ["half.pt"]


def test_a_file_that_cannot_be_read_keeps_nothing_else_back(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, runs = watch(tmp_path, hub, patterns=["*.pt", "*.safetensors"]), tmp_path / "runs"
    with zipfile.ZipFile(runs / "damaged.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(range(256)) * 40)
    damaged = bytearray((runs / "damaged.pt").read_bytes())
    damaged[40:60] = b"\xff" * 20
    (runs / "damaged.pt").write_bytes(damaged)
    locked = bytearray(model(runs / "locked.pt"))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (runs / "locked.pt").write_bytes(locked)
    header = json.dumps([1, 2]).encode()
    (runs / "list.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name in ("model.pt", "pruned.pt"):
        model(runs / name)
    hashed = hf_watch.sha256

    def pruned(path: Path) -> str:
        if path.name == "pruned.pt":
            path.unlink()
        return str(hashed(path))

    monkeypatch.setattr(hf_watch, "sha256", pruned)
    assert twice(watched) == ["model.pt"]


def test_a_hub_that_fails_is_asked_again_later(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    watched = watch(tmp_path, hub)
    model(tmp_path / "runs/model.pt")
    hub.trouble = RuntimeError("503 from the hub")
    assert twice(watched) == [] and "503 from the hub); again in 30 s" in capsys.readouterr().out
    hub.trouble = None
    assert watched.look() == []
    moment = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: moment + 31)
    assert watched.look() == ["model.pt"]


@pytest.mark.parametrize(("environ", "repo", "words"), [({"HF_HUB_OFFLINE": "1"}, "me/bot", "HF_HUB_OFFLINE is set"), ({}, "", "names no repository")])
def test_offline_and_without_a_repository_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environ: dict[str, str], repo: str, words: str
) -> None:
    monkeypatch.setattr(hf_watch, "Watch", lambda *_given: pytest.fail("it looked"))
    given = {"source_dir": str(tmp_path), "patterns": ["*.pt"], "repo_id": repo, "repo_type": "model", "interval_seconds": 5}
    (tmp_path / "config.json").write_text(json.dumps(given))
    ending = threading.Event()
    ending.set()
    assert hf_watch.run(tmp_path, environ, ending) == 0 and words in capsys.readouterr().out
