# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several test folders stand on: a clock that only tests move, and a rehearsal cloud of records with a client for its control API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient

ROOT = Path(__file__).resolve().parents[2]
FULL = "rpa_rehearsal_full"
GPU = "NVIDIA GeForce RTX 4090"


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
            self.slept.append(seconds)
        time.sleep(0.001)


@dataclass
class Rehearsal:
    """A rehearsal cloud of records, and a small client for its control API."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2"

    def control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/_control{path}", data=data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return json.loads(answer.read())

    def create(self, body: dict[str, Any]) -> Any:
        """A pod that somebody makes by hand."""
        headers = {"Authorization": f"Bearer {FULL}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/pods", data=json.dumps(body).encode(), headers=headers, method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return json.loads(answer.read())

    def fault(self, kind: str, **more: Any) -> None:
        self.control("POST", "/faults", {"kind": kind, **more})

    def reset(self) -> None:
        self.control("POST", "/reset")

    def pods(self, *, ended: bool = False) -> list[dict[str, Any]]:
        return [pod for pod in self.control("GET", "/pods")["pods"] if ended or pod["status"] != "TERMINATED"]

    def requests(self, method: str = "", status: int | None = None) -> list[dict[str, Any]]:
        rows = self.control("GET", "/requests")["requests"]
        return [row for row in rows if row["method"].startswith(method) and status in (None, row["status"])]

    def writes(self) -> list[tuple[str, str]]:
        return [(row["method"], row["path"]) for row in self.requests() if row["method"] != "GET"]

    def client(self, clock: Any, key: str = FULL) -> RunPod:
        return RunPod(HttpClient(self.url, key, "runpod", clock=clock), "a test")

    def start(self) -> None:
        words = ["serve", "--state-dir", str(self.folder / "state"), "--port", str(self.port), "--process", "none", "--time-scale", "2000"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rehearsal", *words], env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        for _turn in range(400):
            try:
                self.control("GET", "/health")
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """As a crash of the machine would."""
        self.process.kill()
        self.process.wait(timeout=20)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        words = ["stop", "--state-dir", str(self.folder / "state"), "--port", str(self.port)]
        subprocess.run(
            [sys.executable, "-m", "rehearsal", *words], env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT / "extensions")}


@contextmanager
def serving(folder: Path) -> Iterator[Rehearsal]:
    """A rehearsal cloud without processes, two thousand times as quick as a real one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        rehearsal = Rehearsal(folder, int(probe.getsockname()[1]))
    rehearsal.start()
    try:
        yield rehearsal
    finally:
        rehearsal.stop()
