# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the official client of Hugging Face asks of a hub, here a stand-in on loopback, when finished files go up."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("PODCYCLE_SERVICES_PYTHON") or ROOT / ".build/services-venv/bin/python")
TOKEN = "hf_notARealTokenButOneThatIsLongEnough"
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


class Hub:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.keys: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if "Content-Length" in self.headers else self._chunks()
                hub.seen.append(("POST", self.path, body))
                hub.keys.add(self.headers.get("Authorization"))
                if self.path.endswith("/preupload/main"):
                    self._say({"files": [{"path": row["path"], "uploadMode": "regular", "shouldIgnore": False} for row in json.loads(body)["files"]]})
                elif self.path.endswith("/commit/main"):
                    self._say({"commitUrl": f"{hub.url}/me/bot/commit/{'a' * 40}", "commitOid": "a" * 40, "pullRequestUrl": None})
                else:
                    self._say({"url": f"{hub.url}/me/bot", "name": "me/bot"})

            def do_GET(self) -> None:
                self._say({}, 404)

            def _chunks(self) -> bytes:
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def _say(self, value: Any, code: int = 200) -> None:
                raw = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.server.shutdown()
    made.server.server_close()


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
    paths = [path for _method, path, _body in hub.seen]
    assert paths == ["/api/repos/create", "/api/models/me/bot/preupload/main", "/api/models/me/bot/commit/main"]
    assert json.loads(hub.seen[0][2])["visibility"] == "private" and hub.keys == {f"Bearer {TOKEN}"}
    rows = [json.loads(line) for line in hub.seen[2][2].splitlines()]
    assert [row["value"]["path"] for row in rows if row["key"] == "file"] == ["r1/config.json", "r1/manifest.json"]
