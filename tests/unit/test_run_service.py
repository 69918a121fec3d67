# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps one service of a pod running, as its own process over programs that crash, hang and leave things behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._torch_proof import STAMP
from support.services import put


class Kept:
    def __init__(self, folder: Path) -> None:
        self.dir = put(folder / "service", "run_service", "phase_times")
        self.process: subprocess.Popen[str] | None = None

    def start(self, script: str, **more: Any) -> None:
        given = {"name": "demo", "command": ["/bin/sh", "-c", script], "backoff_seconds": 0.1, "backoff_limit_seconds": 0.4, "steady_seconds": 1.5}
        (self.dir / "service.json").write_text(json.dumps({**given, "timings": str(self.dir / "times.jsonl"), **more}))
        self.process = subprocess.Popen([sys.executable, str(self.dir / "run_service.py")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def lines(self, name: str) -> list[str]:
        path = self.dir / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.dir / "running.json").read_text())) if (self.dir / "running.json").exists() else {}

    def stop(self) -> str:
        assert self.process is not None and self.process.poll() is None
        self.process.terminate()
        out = self.process.communicate(timeout=20)[0]
        assert self.process.returncode == 0
        return out


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(timeout=10)


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_program_that_crashes_comes_back_with_growing_pauses(kept: Kept) -> None:
    kept.start(f"date +%s.%N >> {kept.dir}/starts; exit 3")
    until(lambda: len(kept.lines("starts")) >= 6)
    stamps = [float(line) for line in kept.lines("starts")]
    gaps = [later - sooner for sooner, later in zip(stamps, stamps[1:], strict=False)]
    assert gaps[0] >= 0.1 and gaps[1] >= 0.2 and all(gap >= 0.4 for gap in gaps[2:]), gaps
    out = kept.stop()
    assert "demo: ended with 3" in out and "again in 0.1 s" in out and out.count("again in 0.4 s") >= 2
    row = json.loads(kept.lines("times.jsonl")[0])
    assert [row[key] for key in ("source", "phase", "status", "exit_code")] == ["runpod_services", "start_demo", "error", 3]


def test_a_program_gets_the_library_that_torch_was_proven_with(kept: Kept) -> None:
    venv = kept.dir / "venv"
    kept.start(f'echo "[$LD_LIBRARY_PATH]" >> {kept.dir}/starts; exit 3', venv=str(venv), environment={"LD_LIBRARY_PATH": "/own"})
    until(lambda: kept.lines("starts"))
    venv.mkdir()
    (venv / STAMP).write_text('{"library_path": "/usr/local/cuda-13.0/compat"}')
    until(lambda: kept.lines("starts")[-1] == "[/usr/local/cuda-13.0/compat:/own]")
    assert kept.lines("starts")[0] == "[/own]"


def test_a_program_that_was_steady_comes_back_soon(kept: Kept) -> None:
    kept.start(f"date +%s.%N >> {kept.dir}/starts; exec sleep 600")
    for turn in range(1, 3):
        until(lambda turn=turn: len(kept.lines("starts")) == turn and kept.state.get("state") == "running")  # type: ignore[misc]
        time.sleep(1.0)
        os.kill(kept.state["child"], signal.SIGKILL)
    until(lambda: len(kept.lines("starts")) == 3)
    out = kept.stop()
    assert out.count("ended with 137") == out.count("again in 0.1 s") == 2
    assert [json.loads(line)["phase"] for line in kept.lines("times.jsonl")][:3] == ["start_demo", "run_demo", "start_demo"]


def test_its_end_takes_the_program_and_what_that_started_along(kept: Kept) -> None:
    kept.start(f"trap '' TERM; sleep 600 & echo $! > {kept.dir}/helper; echo $$ > {kept.dir}/pid; wait; wait")
    until(lambda: kept.lines("pid"))
    pids = [int(kept.lines(name)[0]) for name in ("pid", "helper")]
    assert "does not end by itself" in kept.stop()
    assert all(gone(pid) for pid in pids)


def test_a_killed_keeper_leaves_no_program_behind(kept: Kept) -> None:
    kept.start("exec sleep 600")
    until(lambda: kept.state.get("child"))
    assert kept.process is not None
    kept.process.kill()
    until(lambda: gone(kept.state["child"]))


def test_a_port_that_is_served_is_left_to_who_serves_it(kept: Kept) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        kept.start(f"echo x >> {kept.dir}/starts; exec sleep 600", port=port, wait_for_port=True)
        until(lambda: kept.state.get("state") == "standing by")
        time.sleep(1.0)
        assert kept.lines("starts") == []
    until(lambda: kept.lines("starts"))
    kept.stop()


def test_a_port_of_somebody_else_is_not_taken_for_the_programs_own(kept: Kept) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        kept.start(f"echo x >> {kept.dir}/starts; sleep 1; exit 3", port=port)
        until(lambda: kept.lines("starts"))
        states: set[str | None] = set()

        def waits() -> bool:
            states.add(kept.state.get("state"))
            return "waiting" in states

        until(waits)
    assert states == {"starting", "waiting"}
    assert f"port {port} is served by another program; end that, or give this service another port" in kept.stop()
    rows = [json.loads(line) for line in kept.lines("times.jsonl")]
    assert (rows[0]["phase"], rows[0]["status"], rows[0]["exit_code"]) == ("start_demo", "error", 3)


def test_rows_go_to_the_run_that_is_on(kept: Kept, tmp_path: Path) -> None:
    pointer = tmp_path / "run.json"
    pointer.write_text(json.dumps({"log": str(tmp_path / "runs/r1/times.jsonl"), "run_id": "r1"}))
    kept.start("exec sleep 600", timings_run=str(pointer))
    until((tmp_path / "runs/r1/times.jsonl").exists)
    pointer.write_text(json.dumps({"log": str(tmp_path / "runs/r2/times.jsonl"), "run_id": "r2"}))
    kept.stop()
    row = json.loads((tmp_path / "runs/r2/times.jsonl").read_text())
    assert [row[key] for key in ("run_id", "phase", "status")] == ["r2", "run_demo", "ok"] and row["elapsed_ms"] >= 900


def test_a_keeper_and_its_program_write_each_their_own(kept: Kept, tmp_path: Path) -> None:
    put(kept.dir, "idle_watchdog", "watchdog_checks", "_guard", "_nvml")
    config = {"idle_seconds": 600, "interval_seconds": 0.05, "action": "none", "heartbeats": [str(tmp_path / "beat")]}
    (kept.dir / "config.json").write_text(json.dumps(config))
    kept.start("", command=[sys.executable, str(kept.dir / "idle_watchdog.py"), "run"])
    until(lambda: kept.state.get("state") == "running")
    (tmp_path / "beat").touch()
    until(lambda: "was touched" in ((kept.dir / "state.json").exists() and json.loads((kept.dir / "state.json").read_text())["last_sign"] or ""))
    assert kept.state["state"] == "running" and kept.state["child"] == json.loads((kept.dir / "state.json").read_text())["pid"]
    kept.stop()
