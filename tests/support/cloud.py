# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rehearsal cloud of records for the benchmarks: its own port and folder, no process behind a pod."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEY = "rpa_rehearsal_full"


class Cloud:
    """Started on entering, stopped on leaving."""

    def __init__(self, *words: str, process: str = "none") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="podcycle-cloud-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.words = ["--process", process, *words]
        self.endpoint = f"http://127.0.0.1:{self.port}/v2"
        self.state_dir = Path(self._folder.name) / "state"

    def __enter__(self) -> Cloud:
        self._call("start", *self.words)
        return self

    def __exit__(self, *exc: object) -> None:
        self._call("stop")
        self._folder.cleanup()

    def _call(self, verb: str, *words: str) -> None:
        command = [sys.executable, "-m", "rehearsal", verb, "--state-dir", str(self.state_dir), "--port", str(self.port), *words]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "extensions")}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)

    def control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/_control{path}", data=data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.loads(answer.read())
