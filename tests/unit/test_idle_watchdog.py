# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The idle watchdog as it runs on a pod: its own process, real files, a GPU and a cloud that do as told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.harness import FULL

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (
    "roles/services/files/idle_watchdog.py",
    "roles/cuda_watchdog/files/watchdog_checks.py",
    "plugins/module_utils/_guard.py",
)
NVML = """
import json, os
def read():
    found = {"available": True, "trouble": None, "gpus": []}
    found.update(json.load(open(os.path.join(os.path.dirname(__file__), "gpus.json"))))
    return found
"""
QUICK = {"idle_seconds": 1.0, "interval_seconds": 0.05, "backoff_seconds": 0.1, "backoff_limit_seconds": 0.3}


class Pod:
    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.process: subprocess.Popen[str] | None = None
        self.id, self.key = "p1", "rpa_pod_key"
        for program in PROGRAMS:
            shutil.copy(ROOT / program, root)
        (root / "_nvml.py").write_text(NVML)
        self.gpu(0)

    def gpu(self, percent: int | None, held: int = 900, **more: Any) -> None:
        part = self.root / "gpus.part"
        part.write_text(json.dumps({"gpus": [{"index": 0, "utilization_percent": percent, "memory_used_mib": held}], **more}))
        part.replace(self.root / "gpus.json")

    def start(self, **changes: Any) -> None:
        paths = {"jobs": [f"{self.root}/jobs/*/status.json"], "heartbeats": [f"{self.root}/heartbeat"], "base_url": self.url}
        (self.root / "config.json").write_text(json.dumps({**QUICK, **paths, **changes}))
        environment = {**os.environ, "RUNPOD_POD_ID": self.id, "RUNPOD_API_KEY": self.key}
        self.process = subprocess.Popen(
            [sys.executable, str(self.root / "idle_watchdog.py"), "run"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def stop(self) -> str:
        assert self.process is not None
        assert self.process.poll() is None, self.process.communicate()[0]
        self.process.send_signal(signal.SIGTERM)
        out, _err = self.process.communicate(timeout=10)
        assert self.process.returncode == 0
        return out

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "state.json").read_text()))


@pytest.fixture
def pod(tmp_path: Path, stub: Any) -> Iterator[Pod]:
    made = Pod(tmp_path, stub.url)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(timeout=10)


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_failed_stop_is_asked_again_for_as_long_as_the_pod_lives(pod: Pod, stub: Any, told: Any) -> None:
    stub.tell(told(500), told(200, cut=0, silent=True), told(409), told(200, {}))
    # An open service with somebody on it is no work.
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pod.start()
        until(lambda: len(stub.seen) >= 5)
    assert set(map(json.dumps, [list(row) for row in stub.seen])) == {json.dumps(["POST", "/v2/pods/p1/action", {"action": "stop"}])}
    assert {headers["authorization"] for headers in stub.headers} == {"Bearer rpa_pod_key"}
    out = pod.stop()
    words = ("the cloud answered 500", "the cloud did not answer", "the cloud answered 409", "the cloud answered 200; if it still lives, again in")
    assert [word for word in words if word not in out] == []
    assert "rpa_pod_key" not in out + json.dumps(pod.state)


def job(pod: Pod) -> Iterator[None]:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        folder = pod.root / "jobs/train"
        folder.mkdir(parents=True)
        status = {"state": "running", "pid": process.pid, "pid_started": started}
        (folder / "status.json").write_text(json.dumps(status))
        try:
            yield
        finally:
            # Its status still says that it runs.
            process.kill()


def gpu(pod: Pod) -> Iterator[None]:
    pod.gpu(55)
    yield
    pod.gpu(3)


def memory(pod: Pod) -> Iterator[None]:
    pod.gpu(3, held=1100)
    yield
    pod.gpu(3, held=1024)


def heartbeat(pod: Pod) -> Iterator[None]:
    stop = pod.root / "no-more"
    with subprocess.Popen(["sh", "-c", f"while [ ! -e {stop} ]; do touch {pod.root}/heartbeat; sleep 0.2; done"]):
        try:
            yield
        finally:
            stop.touch()


@pytest.mark.parametrize("work", [gpu, memory, job, heartbeat])
def test_work_keeps_a_pod_and_its_end_lets_it_go(pod: Pod, stub: Any, told: Any, work: Callable[[Pod], Iterator[None]]) -> None:
    stub.tell(told(204))
    working = work(pod)
    next(working)
    pod.start(action="terminate", gpu_mem_mb=1024)
    time.sleep(2.5)
    assert stub.seen == [] and pod.state["status"] in ("active", "idle")
    next(working, None)
    until(lambda: stub.seen)
    assert stub.seen[0] == ("POST", "/v2/pods/p1/action", {"action": "terminate"})


def test_work_that_comes_back_takes_the_wish_back(pod: Pod, stub: Any, told: Any) -> None:
    stub.tell(told(503))
    pod.start()
    until(lambda: stub.seen)
    pod.gpu(90)
    until(lambda: pod.state["attempts"] == 0)
    asked = len(stub.seen)
    time.sleep(0.8)
    assert len(stub.seen) == asked and "works again: GPU 0 computes (90 %)" in pod.stop()


def test_the_cloud_understands_what_is_asked(pod: Pod, rehearsal: Any) -> None:
    ports = {"ports": ["22/tcp"], "env": {"PUBLIC_KEY": "ssh-ed25519 AAAA me"}}
    gpu = {"gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1}, "cloud": "SECURE"}
    made = rehearsal.create({"name": "idle", "image": "runpod/base:1", "disk": 20, **gpu, **ports})
    until(lambda: [row["status"] for row in rehearsal.pods() if row["id"] == made["id"]] == ["RUNNING"])
    pod.url, pod.id, pod.key = rehearsal.url, made["id"], FULL
    pod.start()
    until(lambda: [row["status"] for row in rehearsal.pods() if row["id"] == made["id"]] == ["EXITED"])
    assert [(row["method"], row["status"]) for row in rehearsal.requests("POST") if row["path"].endswith("/action")][0] == ("POST", 200)


def test_a_driver_that_hangs_is_told_and_keeps_no_pod(pod: Pod, stub: Any, told: Any) -> None:
    stub.tell(told(200, {}))
    pod.gpu(None, trouble="NVML did not answer within 20 s", gpus=[])
    pod.start()
    until(lambda: stub.seen)
    assert pod.stop().count("the GPUs cannot be read") == 1


def test_idleness_outlives_the_watchdog_but_not_the_machine_and_not_other_bounds(pod: Pod, stub: Any, told: Any) -> None:
    stub.tell(told(200, {}))
    pod.start(idle_seconds=600)
    until((pod.root / "state.json").exists)
    pod.stop()
    long_ago = {**pod.state, "active_at": pod.state["active_at"] - 3600}
    (pod.root / "state.json").write_text(json.dumps({**long_ago, "boot": "another life"}))
    pod.start(idle_seconds=600)
    until(lambda: pod.state["boot"] != "another life")
    assert stub.seen == []
    pod.stop()
    (pod.root / "state.json").write_text(json.dumps(long_ago))
    pod.start(idle_seconds=300)
    until(lambda: pod.state["pid"] == pod.process.pid)
    assert stub.seen == [] and pod.state["idle_seconds"] < 60
    pod.stop()
    (pod.root / "state.json").write_text(json.dumps(long_ago))
    pod.start(idle_seconds=600)
    until(lambda: stub.seen)


ENDING = """
import os, subprocess, types
from pathlib import Path
import idle_watchdog
told = []
os.kill = lambda *given: told.append(("kill", *map(int, given)))
subprocess.run = lambda command, **_more: (told.append(command), types.SimpleNamespace(returncode=0))[1]
for idle_watchdog.SYSTEMD_RUNS in (Path("/nowhere"), Path("/")):
    told.append(idle_watchdog.end_machine()[0])
print(told)
"""


def test_exit_ends_process_1_of_a_container_and_powers_a_machine_off(pod: Pod) -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], cwd=pod.root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[('kill', 1, 15), True, ['systemctl', 'poweroff'], True]"


@pytest.mark.parametrize(("change", "words"), [({"idle_seconds": 0}, "idle_seconds 0"), ({"action": "sleep"}, "none of stop, terminate, exit, none")])
def test_settings_without_sense_are_refused(pod: Pod, change: dict[str, Any], words: str) -> None:
    pod.start(**change)
    assert pod.process is not None
    assert words in pod.process.communicate(timeout=10)[0] and pod.process.returncode == 2
