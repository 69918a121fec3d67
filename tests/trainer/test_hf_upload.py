# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the official client of Hugging Face asks of a hub, here a stand-in on loopback, when finished files go up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .hub_server import PYTHON, ROOT, TOKEN, Hub

UPLOAD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
import hf_watch
hub = hf_watch.HuggingFace("me/bot", "model")
given = {{"source_dir": {source!r}, "patterns": ["*.json"], "repo_id": "me/bot", "repo_type": "model"}}
watch = hf_watch.Watch(Path({state!r}), given, hub)
print([*watch.look(), *watch.look(), *watch.look()])
"""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="the environment of the services is not there; make test makes it")


def test_finished_files_are_one_commit_of_the_official_client(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "runs/r1").mkdir(parents=True)
    (tmp_path / "runs/r1/manifest.json").write_text('{"state": "done"}')
    (tmp_path / "runs/r1/config.json").write_text("{}")
    script = UPLOAD.format(folder=str(ROOT / "roles/services/files"), source=str(tmp_path / "runs"), state=str(tmp_path))
    given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH"))} | given
    done = subprocess.run([str(PYTHON), "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['r1/config.json', 'r1/manifest.json']" and TOKEN not in done.stdout
    assert hub.seen == ["POST /api/repos/create", "POST /api/models/me/bot/preupload/main", "POST /api/models/me/bot/commit/main"]
    assert json.loads(hub.bodies[0])["visibility"] == "private" and hub.keys == {f"Bearer {TOKEN}"}
    rows = [json.loads(line) for line in hub.bodies[2].splitlines()]
    assert [row["value"]["path"] for row in rows if row["key"] == "file"] == ["r1/config.json", "r1/manifest.json"]
