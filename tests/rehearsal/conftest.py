# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FULL = "rpa_rehearsal_full"
GPU = "NVIDIA GeForce RTX 4090"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cli(*words: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "extensions")}
    return subprocess.run([sys.executable, "-m", "rehearsal", *words], env=environment, capture_output=True, text=True, timeout=timeout, check=False)


@dataclass
class Rehearsal:
    """A started rehearsal cloud and a small client for it."""

    state_dir: Path
    port: int
    key_file: Path
    started: dict[str, Any] = field(default_factory=dict)

    def start(self, *words: str) -> dict[str, Any]:
        done = cli("start", "--state-dir", str(self.state_dir), "--port", str(self.port), *words)
        assert done.returncode == 0, done.stderr
        self.started = json.loads(done.stdout)
        return self.started

    def stop(self, *words: str) -> None:
        cli("stop", "--state-dir", str(self.state_dir), "--port", str(self.port), *words)

    def call(self, method: str, path: str, body: Any = None, key: str | None = FULL, raw: bytes | None = None) -> Answer:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method)
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {name.lower(): value for name, value in error.headers.items()}, error.read().decode())

    def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.call(method, "/_control" + path, body, key=None)
        assert answer.status < 300, answer.text
        return answer.json

    def fault(self, kind: str, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.control("POST", "/faults", {"kind": kind, **more})
        return made

    def body(self, name: str = "trainer", **changes: Any) -> dict[str, Any]:
        public = self.key_file.with_suffix(".pub").read_text(encoding="ascii").strip()
        body = {"name": name, "image": "runpod/pytorch:2.13", "gpu": {"id": GPU, "count": 1}, "disk": 20, "ports": ["22/tcp"], "env": {"PUBLIC_KEY": public}}
        return {**body, **changes}

    def create(self, name: str = "trainer", **changes: Any) -> dict[str, Any]:
        answer = self.call("POST", "/v2/pods", self.body(name, **changes))
        assert answer.status == 201, answer.text
        made: dict[str, Any] = answer.json
        return made

    def get(self, pod_id: str) -> dict[str, Any]:
        pod: dict[str, Any] = self.call("GET", f"/v2/pods/{pod_id}").json
        return pod

    def wait(self, what: Callable[[], Any], seconds: float = 30.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = what()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"nothing after {seconds} s; last: {what()!r}")

    def running(self, pod_id: str) -> dict[str, Any]:
        def running() -> dict[str, Any] | None:
            one: dict[str, Any] = self.get(pod_id)
            return one if one["runtime"] else None

        pod: dict[str, Any] = self.wait(running)
        return pod

    def ssh_words(self, port: int, *options: str) -> list[str]:
        hosts = self.key_file.with_name(f"known_hosts.{port}")
        return [
            "ssh", "-F", "none", "-o", f"UserKnownHostsFile={hosts}", "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5",
            "-o", "LogLevel=ERROR", "-i", str(self.key_file), "-p", str(port), *options, "root@127.0.0.1",
        ]  # fmt: skip

    def ssh(self, port: int, command: str, stdin: str | None = None, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        words = [*self.ssh_words(port, *options), command]
        return subprocess.run(words, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, text=True, timeout=20, check=False)

    def reachable(self, pod_id: str) -> int:
        """The pod's SSH port, once a login works."""
        # An earlier pod may have had the same port, and another key.
        port = self.running(pod_id)["ssh"]["direct"]["port"]
        self.key_file.with_name(f"known_hosts.{port}").unlink(missing_ok=True)

        def look() -> int | None:
            direct = self.get(pod_id)["ssh"]["direct"]
            return direct["port"] if direct and self.ssh(direct["port"], "true").returncode == 0 else None

        found: int = self.wait(look)
        return found

    def pod_dir(self, pod_id: str) -> Path:
        return self.state_dir / "pods" / pod_id


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Iterator[Rehearsal]:
    rehearsal = Rehearsal(tmp_path_factory.mktemp("cloud") / "state", free_port(), key_file)
    rehearsal.start()
    yield rehearsal
    rehearsal.stop()
    shutil.rmtree(rehearsal.state_dir, ignore_errors=True)


@pytest.fixture
def cloud(shared: Rehearsal) -> Rehearsal:
    """The shared cloud, empty and ten times as fast as by default."""
    shared.control("POST", "/reset")
    shared.control("POST", "/time_scale", {"scale": 10})
    return shared


@pytest.fixture
def own_cloud(tmp_path: Path, key_file: Path) -> Iterator[Rehearsal]:
    """A cloud that a test may kill; it is not started yet."""
    rehearsal = Rehearsal(tmp_path / "state", free_port(), key_file)
    yield rehearsal
    rehearsal.stop()
