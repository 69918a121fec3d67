# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real playbooks against a rehearsal cloud of their own: its own port, state, inventory, home folder and artifacts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._state import start_ticks

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BUILD = ROOT / ".build"
CACHE = BUILD / "image-cache"
SMOKE = ROOT / "roles" / "chess_training" / "files" / "smoke"
FULL = "rpa_rehearsal_full"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: Callable[[], Any], seconds: float, wanted: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {seconds:.0f} s still not: {wanted}")


@dataclass
class Result:
    """What one command said and how it ended."""

    code: int
    text: str

    def recap(self, host: str) -> dict[str, int]:
        """The host's line of Ansible's recap."""
        line = re.search(rf"^{re.escape(host)} +: (.*)$", self.text, re.MULTILINE)
        assert line, f"no recap of {host} in:\n{self.text[-4000:]}"
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line.group(1))}

    def ok(self) -> Result:
        assert self.code == 0, f"status {self.code}:\n{self.text[-6000:]}"
        return self

    def failed(self) -> Result:
        assert self.code not in (0, 250), f"status {self.code}:\n{self.text[-6000:]}"
        assert "Traceback" not in self.text, self.text[-6000:]
        return self

    @property
    def flat(self) -> str:
        """The text with every run of white space as one blank: Ansible wraps long lines."""
        return " ".join(self.text.split())


@dataclass
class Running:
    """A playbook that is under way."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, words: str, seconds: float = 90) -> None:
        until(lambda: words in self.text or self.process.poll() is not None, seconds, f"{words!r} in the output")
        assert words in self.text, f"ended with {self.process.poll()} without saying {words!r}:\n{self.text[-4000:]}"

    def signal_group(self, number: int) -> None:
        """As a terminal does: to ansible-playbook and its workers."""
        os.killpg(self.process.pid, number)

    def end(self, seconds: float = 120) -> Result:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"not done after {seconds} s:\n{self.text[-6000:]}") from None
        return Result(self.process.returncode, self.text)


@dataclass
class World:
    """A rehearsal cloud, an inventory that points at it, and the folders that a person would have."""

    path: Path
    port: int = field(default_factory=free_port)
    running: list[Running] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    # Threads start playbooks too, and each needs a log of its own.
    numbers: Iterator[int] = field(default_factory=itertools.count)
    # The folder that holds `.state`; the world's own unless a test runs from elsewhere.
    home: Path = Path()

    def __post_init__(self) -> None:
        self.home = self.path

    # ---- folders ------------------------------------------------------------------------------

    def build(self) -> World:
        for name in ("home", "tmp", "inventory/group_vars", "data", "artifacts"):
            (self.path / name).mkdir(parents=True)
        source = ROOT / "inventories" / "rehearsal"
        shutil.copy(source / "group_vars" / "all.yml", self.path / "inventory" / "group_vars" / "all.yml")
        text = (source / "pods.yml").read_text(encoding="utf-8")
        text = text.replace("127.0.0.1:8787", f"127.0.0.1:{self.port}").replace("state_dir: .state/podcycle", f"state_dir: {self.state}")
        (self.path / "inventory" / "pods.yml").write_text(text, encoding="utf-8")
        self.dataset(self.path / "data")
        self.share_validation_venv()
        house = ROOT / ".venv" / "bin" / "python"
        if house.parent != BIN and house.exists():
            # PyTorch is in the cache for the checkout's own Python; another one would download gigabytes.
            self.extra["pytorch_python"] = str(house.resolve())
        return self

    def dataset(self, folder: Path, train: int = 60, val: int = 12) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, count in (("train.jsonl", train), ("val.jsonl", val)):
            lines = (SMOKE / name).read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / name).write_text("".join(lines[:count]), encoding="utf-8")
        return folder

    def share_validation_venv(self) -> None:
        """One environment that validates for all worlds; the first one makes it."""
        shared = BUILD / "e2e" / "validation"
        shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.mkdir(mode=0o700, parents=True)
        (self.state / "podcycle-state").touch(mode=0o600)
        (self.state / "validation").symlink_to(shared / "validation")
        (self.state / "validation-venv").symlink_to(shared / "venv")
        (shared / "validation").mkdir(exist_ok=True)
        (shared / "venv").mkdir(exist_ok=True)

    @property
    def state(self) -> Path:
        return self.home / ".state" / "podcycle"

    @property
    def cloud_dir(self) -> Path:
        return self.home / ".state" / "rehearsal"

    def run_dir(self, run_id: str) -> Path:
        return self.home / "artifacts" / "cycles" / run_id

    def read(self, run_id: str, name: str) -> Any:
        return json.loads((self.run_dir(run_id) / name).read_text(encoding="utf-8"))

    def events(self, run_id: str) -> list[dict[str, Any]]:
        try:
            lines = (self.run_dir(run_id) / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def event(self, run_id: str, stage: str, status: str) -> list[dict[str, Any]]:
        return [event for event in self.events(run_id) if (event["stage"], event["phase"], event["status"]) == (stage, stage, status)]

    # ---- commands -----------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "ANSIBLE_", "PODCYCLE_", "XDG_", "PYTEST_"))}
        return {
            **kept,
            "HOME": str(self.path / "home"),
            "TMPDIR": str(self.path / "tmp"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PODCYCLE_HOME": str(self.path),
            "PODCYCLE_REHEARSAL_PORT": str(self.port),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            **more,
        }

    def options(self, **variables: Any) -> dict[str, Any]:
        return {
            "artifacts_dir": str(self.path / "artifacts"),
            "rehearsal_image_cache": str(CACHE),
            "dataset_dir": str(self.path / "data"),
            "train_seconds": 2,
            **self.extra,
            **variables,
        }

    def begin(self, playbook: str, *words: str, env: dict[str, str] | None = None, inventory: str | None = None, cwd: Path = ROOT, **variables: Any) -> Running:
        """Start a playbook in a session of its own, as a terminal does."""
        log = self.path / f"output-{next(self.numbers)}.log"
        command = [str(BIN / "ansible-playbook"), "-i", inventory or str(self.path / "inventory"), playbook]
        command += ["-e", json.dumps(self.options(**variables)), *words]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=cwd, env=self.environment(**(env or {})), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        started = Running(process, log)
        self.running.append(started)
        return started

    def play(self, playbook: str, *words: str, seconds: float = 240, **more: Any) -> Result:
        return self.begin(playbook, *words, **more).end(seconds)

    def command(self, *words: str, seconds: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / words[0]), *words[1:]], cwd=ROOT, env=self.environment(**env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    # ---- the cloud ----------------------------------------------------------------------------

    def cloud(self, verb: str, *words: str) -> None:
        done = subprocess.run(
            [str(BIN / "python"), "-m", "rehearsal", verb, "--state-dir", str(self.cloud_dir), "--port", str(self.port), *words],
            env=self.environment(PYTHONPATH=str(ROOT / "extensions")), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start_cloud(self, scale: int = 10) -> None:
        self.cloud("start", "--time-scale", str(scale), *(["--image-cache", str(CACHE)] if CACHE.is_dir() else []))

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, data=None if body is None else json.dumps(body).encode())
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.ask(method, f"/_control{path}", body)

    def live(self) -> list[dict[str, Any]]:
        """Pods that are not gone, in the order of their places in the group."""
        pods = [pod for pod in self.control("GET", "/pods")["pods"] if pod["status"] != "TERMINATED"]
        return sorted(pods, key=lambda pod: str(pod["name"]))

    def pod_ids(self, run_id: str) -> list[str]:
        return [pod["id"] for pod in self.read(run_id, "provision.json")["pods"]]

    def workspace(self, pod_id: str) -> Path:
        return self.cloud_dir / "pods" / pod_id / "workspace"

    def job(self, run_id: str, pod_id: str) -> dict[str, Any]:
        """The status file of the training; empty until there is one."""
        path = self.workspace(pod_id) / "runs" / run_id / "jobs" / "train" / "status.json"
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        return {}

    def checkpointed(self, run_id: str, pod_id: str) -> bool:
        return any((self.workspace(pod_id) / "runs" / run_id / "ckpt").glob("last*.pt"))

    def posts(self) -> list[dict[str, Any]]:
        return [entry for entry in self.control("GET", "/requests")["requests"] if entry["method"] == "POST"]

    def nothing_bills(self) -> None:
        meter = self.control("GET", "/meter")
        assert meter["open"] == [], meter
        assert self.live() == []

    # ---- the keeper ---------------------------------------------------------------------------

    def keeper(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "runs" / run_id / "keeper.json").read_text(encoding="utf-8"))
        return found

    def kill_keeper(self, run_id: str) -> None:
        known = self.keeper(run_id)
        if start_ticks(known["pid"]) == known["started"]:
            os.kill(known["pid"], signal.SIGKILL)
            until(lambda: start_ticks(known["pid"]) != known["started"], 10, "the keeper is gone")

    def close(self) -> None:
        for one in self.running:
            if one.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    one.signal_group(signal.SIGKILL)
                one.process.wait()
        for path in (self.state / "runs").glob("*"):
            if (path / "keeper.json").exists():
                self.kill_keeper(path.name)
        self.cloud("stop")
        for _attempt in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.1)


def make_world(name: str) -> World:
    path = BUILD / "e2e" / f"{name[:12]}-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return World(path).build()


def trainers(workspace: Path) -> list[int]:
    """The processes of this machine that train in a pod's workspace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"chess_trainer" in words and b"train" in words and any(str(workspace).encode() in word for word in words):
            found.append(int(path.parent.name))
    return found
