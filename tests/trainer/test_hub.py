# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sets to and from Hugging Face, here a stand-in on loopback that the official client talks to."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chess_trainer import hub as hub_module
from chess_trainer.errors import UsageError

from .conftest import ROLE
from .hub_server import COMMIT, PYTHON, TOKEN, Hub

services = pytest.mark.skipif(not PYTHON.exists(), reason="the environment of the services is not there; make test makes it")


@pytest.fixture
def games(small_data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "games"
    folder.mkdir()
    for name in ("train.jsonl", "val.jsonl"):
        (folder / name).write_bytes((small_data / name).read_bytes())
    return folder


def trainer(hub: Hub, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home / "hf"), "NO_PROXY": "127.0.0.1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))} | given | more
    command = [str(PYTHON), "-m", "chess_trainer", *words]
    done = subprocess.run(command, cwd=ROLE / "files", env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert TOKEN not in done.stdout + done.stderr and TOKEN not in " ".join(command) and "Traceback" not in done.stderr, done.stderr
    return done


@services
def test_a_sealed_data_set_goes_up_and_comes_back_the_same(hub: Hub, games: Path, tmp_path: Path) -> None:
    publish = ("dataset", "publish", str(games), "--repo", "me/games")
    done = trainer(hub, tmp_path, *publish, "--yes")
    assert done.returncode == 66 and "has no manifest.json" in done.stderr and "dataset seal" in done.stderr
    sealed = trainer(hub, tmp_path, "dataset", "seal", str(games))
    assert sealed.returncode == 0 and json.loads(sealed.stdout)["games"] == 72, sealed.stderr
    done = trainer(hub, tmp_path, *publish)
    assert done.returncode == 2 and "would upload train.jsonl, val.jsonl, manifest.json, checksums.sha256 (" in done.stderr and "add --yes" in done.stderr
    assert "to the private data set me/games, top folder" in done.stderr and not [line for line in hub.seen if line.startswith("POST")]
    new = trainer(hub, tmp_path, "dataset", "publish", str(games), "--repo", "me/new", "--public")
    assert "to the public data set, made for it, me/new, top folder" in new.stderr, new.stderr
    hub.seen.clear()
    done = trainer(hub, tmp_path, *publish, "--yes", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set, so nothing is uploaded" in done.stderr and hub.seen == []
    done = trainer(hub, tmp_path, *publish, "--prefix", "sets/a", "--yes")
    assert done.returncode == 0 and json.loads(done.stdout)["changed"] and hub.keys == {f"Bearer {TOKEN}"}
    hub.seen.clear()
    again = json.loads(trainer(hub, tmp_path, *publish, "--prefix", "sets/a", "--yes").stdout)
    assert (again["commit"], again["changed"]) == (COMMIT, False) and not [line for line in hub.seen if "/commit/" in line]
    assert sorted(hub.files) == ["sets/a/checksums.sha256", "sets/a/manifest.json", "sets/a/train.jsonl", "sets/a/val.jsonl"]

    fetch = ("dataset", "fetch", "--repo", "me/games", "--prefix", "sets/a", "--out", str(tmp_path / "out"))
    done = trainer(hub, tmp_path, *fetch)
    assert done.returncode == 0 and json.loads(done.stdout)["changed"] and json.loads(done.stdout)["commit"] == COMMIT, done.stderr
    names = ("train.jsonl", "val.jsonl", "manifest.json", "checksums.sha256")
    assert all((tmp_path / "out" / name).read_bytes() == (games / name).read_bytes() for name in names)
    before = len(hub.seen)
    # A commit cannot be another thing tomorrow, and offline nothing may be asked.
    assert json.loads(trainer(hub, tmp_path, *fetch, "--revision", COMMIT).stdout)["changed"] is False
    (tmp_path / "out/train.jsonl").write_bytes(b"harmed")
    assert json.loads(trainer(hub, tmp_path, *fetch, HF_HUB_OFFLINE="1").stdout)["changed"] is True
    assert (tmp_path / "out/train.jsonl").read_bytes() == (games / "train.jsonl").read_bytes() and len(hub.seen) == before
    done = trainer(hub, tmp_path, *fetch, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 0 and json.loads(done.stdout)["commit"] == COMMIT and "the hub cannot be reached" in done.stderr, done.stderr


def test_what_is_sealed_has_its_checksums(games: Path) -> None:
    hub_module.seal(games)
    said = subprocess.run(["sha256sum", "--check", "--strict", "checksums.sha256"], cwd=games, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["train.jsonl:", "OK", "val.jsonl:", "OK", "manifest.json:", "OK"]


@services
def test_a_public_repository_is_uploaded_to_only_when_that_is_asked_for(hub: Hub, games: Path, tmp_path: Path) -> None:
    assert trainer(hub, tmp_path, "dataset", "seal", str(games)).returncode == 0
    hub.private = False
    publish = ("dataset", "publish", str(games), "--repo", "me/games")
    for more in ((), ("--yes",)):
        done = trainer(hub, tmp_path, *publish, *more)
        assert done.returncode == 2 and "the repository is there and is public, so all can read what is uploaded; add --public" in done.stderr
    done = trainer(hub, tmp_path, *publish, "--public")
    assert done.returncode == 2 and "to the public data set me/games, top folder; add --yes" in done.stderr and hub.files == {}
    assert trainer(hub, tmp_path, *publish, "--public", "--yes").returncode == 0 and len(hub.files) == 4
    done = trainer(hub, tmp_path, *publish, "--yes", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and done.stderr.startswith("dataset: publish") and len(done.stderr.splitlines()) == 1, done.stderr


@services
def test_what_differs_from_the_manifest_is_refused_both_ways(hub: Hub, games: Path, tmp_path: Path) -> None:
    assert trainer(hub, tmp_path, "dataset", "seal", str(games)).returncode == 0
    hub.files = {path.name: path.read_bytes() for path in games.iterdir()} | {"val.jsonl": b'{"moves": "e2e4"}\n'}
    done = trainer(hub, tmp_path, "dataset", "fetch", "--repo", "me/games", "--out", str(tmp_path / "out"))
    assert done.returncode == 65 and "val.jsonl: sha256 is" in done.stderr and "but manifest.json has" in done.stderr and not (tmp_path / "out").exists()
    (games / "val.jsonl").write_text('{"moves": "e2e4"}\n', encoding="utf-8")
    hub.seen.clear()
    done = trainer(hub, tmp_path, "dataset", "publish", str(games), "--repo", "me/games", "--yes")
    assert done.returncode == 65 and "but manifest.json has" in done.stderr and hub.seen == []
    (games / "val.jsonl").write_text('{"moves": "e2e5"}\n', encoding="utf-8")
    done = trainer(hub, tmp_path, "dataset", "seal", str(games))
    assert done.returncode == 65 and "val.jsonl, line 1: illegal move e2e5" in done.stderr


def test_files_that_were_not_fetched_are_not_replaced_and_a_full_disk_leaves_the_old_ones(games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_snapshot", lambda *words: (games, COMMIT))
    out = tmp_path / "out"
    out.mkdir()
    (out / "stats.json").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"out has stats.json and no fetch.json, so they were not fetched and are not replaced"):
        hub_module.fetch("me/games", "main", "", out)
    assert [path.name for path in out.iterdir()] == ["stats.json"] and (out / "stats.json").read_text(encoding="utf-8") == "mine"
    (out / "stats.json").unlink()
    assert hub_module.fetch("me/games", "main", "", out)["changed"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if source.name == "val.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    (games / "train.jsonl").write_text('{"moves": "e2e4"}\n', encoding="utf-8")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        hub_module.fetch("me/games", "main", "", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_whole_folder_is_taken_where_the_hub_cannot_be_reached_or_is_not_to_be_asked(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(hub_module, "_snapshot", lambda *words: (games, COMMIT))
    hub_module.fetch("me/games", "main", "", out)

    def dead(*words: Any) -> Any:
        raise hub_module.UnreachableError("fetch me/games at main: the hub cannot be reached and the cache does not hold it")

    monkeypatch.setattr(hub_module, "_snapshot", dead)
    assert hub_module.fetch("me/games", "main", "", out, keep=True)["changed"] is False and capsys.readouterr().err == ""
    assert hub_module.fetch("me/games", "main", "", out)["commit"] == COMMIT
    assert f"{out} is whole and is taken as it was fetched, at commit {COMMIT}" in capsys.readouterr().err
    for repo, revision, prefix in (("me/games", "other", ""), ("me/others", "main", ""), ("me/games", "main", "sets/a")):
        with pytest.raises(hub_module.UnreachableError):
            hub_module.fetch(repo, revision, prefix, out)
    (out / "val.jsonl").write_bytes(b"harmed")
    with pytest.raises(hub_module.UnreachableError):
        hub_module.fetch("me/games", "main", "", out, keep=True)


@services
def test_what_cannot_be_fetched_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    fetch = ("dataset", "fetch", "--out", str(tmp_path / "out"), "--repo")
    done = trainer(hub, tmp_path, *fetch, "me/nothing")
    assert done.returncode == 66 and done.stderr == "dataset: fetch me/nothing at main: the repository is not there, or HF_TOKEN may not see it\n"
    done = trainer(hub, tmp_path, *fetch, "me/games", HF_HUB_OFFLINE="1")
    assert done.returncode == 66 and "HF_HUB_OFFLINE is set and the cache does not hold it" in done.stderr
    done = trainer(hub, tmp_path, *fetch, "me/games")
    assert done.returncode == 66 and "has no train.jsonl and no val.jsonl" in done.stderr
    done = trainer(hub, tmp_path, *fetch, "no repository at all")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
