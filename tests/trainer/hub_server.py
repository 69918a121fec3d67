# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Hugging Face on loopback, which the official client talks to."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("PODCYCLE_SERVICES_PYTHON") or ROOT / ".build/services-venv/bin/python")
TOKEN = "hf_notARealTokenButOneThatIsLongEnough"
COMMIT = "b" * 40
# Of a repository that has no file yet.
EMPTY = "a" * 40


class Hub:
    """One data set, me/games, whose files are those of the last commit."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.private = True
        self.keys: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._chunks() if "Content-Length" not in self.headers else self.rfile.read(int(self.headers["Content-Length"]))
                self._note()
                hub.bodies.append(body)
                if "/preupload/" in self.path:
                    names = [row["path"] for row in json.loads(body)["files"]]
                    rows = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": hub.blob(name)} for name in names]
                    self._json({"files": rows})
                elif "/commit/" in self.path:
                    for row in map(json.loads, body.splitlines()):
                        if row["key"] == "file":
                            hub.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                    self._json({"commitUrl": f"{hub.url}/datasets/me/games/commit/{COMMIT}", "commitOid": COMMIT, "pullRequestUrl": None})
                else:
                    self._json({"url": f"{hub.url}/datasets/me/games", "name": "me/games"})

            def do_GET(self) -> None:
                self._note()
                if self.path.startswith("/api/datasets/me/games/tree/"):
                    rows = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for name, data in hub.files.items()]
                    self._json(rows)
                elif self.path.startswith("/api/datasets/me/games"):
                    names = [{"rfilename": name} for name in hub.files]
                    about = {"_id": "1", "id": "me/games", "sha": COMMIT if hub.files else EMPTY}
                    self._json({**about, "private": hub.private, "siblings": names, "tags": [], "downloads": 0, "likes": 0})
                elif self.path.startswith(f"/datasets/me/games/resolve/{COMMIT}/"):
                    self._file(self.path.split(f"/{COMMIT}/")[1])
                else:
                    self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET

            def _note(self) -> None:
                if self.path.startswith("/api/agent-"):
                    # What the client asks about itself, without a key.
                    return
                hub.seen.append(f"{self.command} {self.path}")
                hub.keys.add(self.headers.get("Authorization"))

            def _chunks(self) -> bytes:
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def _file(self, name: str) -> None:
                data = hub.files[name]
                self._send(data, 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

            def _json(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
                self._send(json.dumps(value).encode(), code, {"Content-Type": "application/json", **(headers or {})})

            def _send(self, raw: bytes, code: int, headers: dict[str, str]) -> None:
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def blob(self, name: str) -> str | None:
        """As git names what a file holds."""
        data = self.files.get(name)
        return None if data is None else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
