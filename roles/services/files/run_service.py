# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one program running: started again when it ends, with pauses that double while it keeps ending. Standard library only.

What it is to run stands in service.json beside it. It never ends by itself, and its own end takes the program along.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import phase_times

HERE = Path(__file__).resolve().parent
STOP_SECONDS = 8.0
LOOK_SECONDS = 0.25
_PR_SET_PDEATHSIG = 1
DEFAULTS: dict[str, Any] = {
    "environment": {},
    "venv": "",
    "pass": [],
    "chdir": "/",
    "port": 0,
    "wait_for_port": False,
    "backoff_seconds": 1.0,
    "backoff_limit_seconds": 60.0,
    "steady_seconds": 30.0,
    "ready_seconds": 300.0,
    "timings": "",
    "timings_run": "",
}


def listens(port: int) -> bool:
    """Whether somebody on this machine accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Service:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.given = {**DEFAULTS, **json.loads((folder / "service.json").read_text(encoding="utf-8"))}
        self.name = str(self.given["name"])
        self.ending = False
        self.restarts = self.failures = 0
        # Whether somebody else served the port when the program was started.
        self.taken = False
        self.wake, bell = os.pipe()
        for number in (self.wake, bell):
            os.set_blocking(number, False)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        for name in ("SIGTERM", "SIGINT", "SIGCHLD"):
            signal.signal(getattr(signal, name), self.noticed)

    def noticed(self, number: int, _frame: object) -> None:
        self.ending = self.ending or number != signal.SIGCHLD

    def times(self) -> phase_times.PhaseTimes:
        """Where the current run wants its phases; looked up each time, since runs come and go."""
        try:
            run = json.loads(Path(self.given["timings_run"]).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            run = {}
        log, run_id = run.get("log") or self.given["timings"], run.get("run_id") or ""
        return phase_times.PhaseTimes("runpod_services", Path(log) if log else None, str(run_id))

    def library(self) -> str:
        """What PyTorch needs for forward compatibility, as it was proven; looked up at each start, since the pod may be converged meanwhile."""
        try:
            return str(json.loads(Path(self.given["venv"], ".podcycle-torch.json").read_text(encoding="utf-8")).get("library_path") or "")
        except (OSError, ValueError, AttributeError):
            return ""

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {self.name}: {text}\n")
        sys.stdout.flush()

    def note(self, state: str, **more: Any) -> None:
        part = self.folder / ".running.json.part"
        with contextlib.suppress(OSError):
            part.write_text(json.dumps({"state": state, "pid": os.getpid(), "restarts": self.restarts, "at": time.time(), **more}), encoding="utf-8")
            part.replace(self.folder / "running.json")

    def sleep(self, seconds: float) -> None:
        """Until a signal comes, at the longest."""
        if self.ending:
            return
        if select.select([self.wake], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 4096)

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.ending and time.monotonic() < end:
            self.sleep(end - time.monotonic())

    def run(self) -> int:
        while not self.ending:
            self.wait_for_the_port()
            if self.ending:
                break
            code, lived = self.one_life()
            if self.ending:
                break
            self.failures = 1 if lived >= self.given["steady_seconds"] else self.failures + 1
            pause = min(self.given["backoff_seconds"] * 2 ** min(self.failures - 1, 30), self.given["backoff_limit_seconds"])
            pause = max(0.1, float(pause))
            self.restarts += 1
            self.say(f"ended with {code} after {lived:.1f} s; again in {pause:.1f} s")
            self.note("waiting", exit_code=code, pause_seconds=pause)
            self.pause(pause)
        self.note("stopped")
        return 0

    def wait_for_the_port(self) -> None:
        """The image's own server stays; only when it is gone its place is taken. What an earlier keeper left behind is given time to end."""
        port = self.given["port"]
        self.taken = False
        if not port or not listens(port):
            return
        if not self.given["wait_for_port"]:
            end = time.monotonic() + STOP_SECONDS
            while not self.ending and listens(port) and time.monotonic() < end:
                self.pause(LOOK_SECONDS)
            self.taken = not self.ending and listens(port)
            if self.taken:
                self.say(f"port {port} is served by another program; end that, or give this service another port")
            return
        self.say(f"port {self.given['port']} is served already; waiting until it is free")
        self.note("standing by")
        misses = 0
        while not self.ending and misses < 3:
            self.pause(1.0)
            misses = 0 if listens(self.given["port"]) else misses + 1

    def one_life(self) -> tuple[int, float]:
        """Start the program and wait for its end: its exit code, and how long it lived."""
        began = time.monotonic()
        passed = {key: value for key, value in phase_times.container_environment().items() if key in self.given["pass"]}
        environment = {**os.environ, **passed, **self.given["environment"]}
        if library := self.library():
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (library, environment.get("LD_LIBRARY_PATH"))))
        try:
            child = subprocess.Popen(
                self.given["command"], cwd=self.given["chdir"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            self.say(f"cannot be started: {error}")
            self.times().write(f"start_{self.name}", "error", 0, 127)
            return 127, 0.0
        self.note("starting", child=child.pid)
        ready = False
        while child.poll() is None and not self.ending:
            if not ready and (ready := self.is_ready(time.monotonic() - began)):
                self.note("running", child=child.pid)
                self.times().write(f"start_{self.name}", "ok", int((time.monotonic() - began) * 1000))
            self.sleep(60.0 if ready else LOOK_SECONDS)
        lived = time.monotonic() - began
        if child.poll() is None:
            self.end(child)
            self.times().write(f"run_{self.name}", "ok", int(lived * 1000))
            return 0, lived
        # What it left behind would hold its port or the GPU.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        self.times().write(f"run_{self.name}" if ready else f"start_{self.name}", "error", int(lived * 1000), code)
        return code, lived

    def is_ready(self, seconds: float) -> bool:
        port = self.given["port"]
        if not port:
            return seconds >= 1.0
        there, taken = listens(port), self.taken
        self.taken = taken and there
        return there and not taken

    def end(self, child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.say(f"does not end by itself after {STOP_SECONDS:.0f} s")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    return Service(folder).run()


if __name__ == "__main__":
    sys.exit(main())
