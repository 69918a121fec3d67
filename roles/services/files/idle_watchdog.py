# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stops a pod on which nothing works any more. Standard library only, Python 3.10.

Work is a GPU that computes, a job that runs, a heartbeat file that was touched. Open services and people who are logged in are no work.

  idle_watchdog.py run [--once]     look every interval, end the pod when it was idle for long enough
  idle_watchdog.py status           what the last look found, as JSON
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _guard
import _nvml
from watchdog_checks import busy, now, one_line, read_json, read_text, write_json

HERE = Path(__file__).resolve().parent
ACTIONS = ("stop", "terminate", "exit", "none")
# The least and the most that each number may be; the role refuses the same.
BOUNDS: dict[str, tuple[float, float]] = {
    "idle_seconds": (1, 2592000),
    "interval_seconds": (0.05, 3600),
    "gpu_percent": (0, 100),
    "gpu_mem_mb": (0, 10000000),
    "backoff_seconds": (0.05, 3600),
    "backoff_limit_seconds": (0.05, 86400),
}
DEFAULTS: dict[str, Any] = {
    "idle_seconds": 3600,
    "interval_seconds": 15,
    "gpu_percent": 10,
    "gpu_mem_mb": 0,
    "jobs": [],
    "heartbeats": [],
    "action": "stop",
    "base_url": "https://api.runpod.io/v2",
    "backoff_seconds": 30,
    "backoff_limit_seconds": 600,
}
SAVE_SECONDS = 60.0
SYSTEMD_RUNS = Path("/run/systemd/system")


class ConfigError(Exception):
    """The configuration cannot be used."""


def clock() -> float:
    """Seconds that go on when the machine's date is set, and through all processes of one boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def this_boot() -> str:
    """Names this life of the machine: a container that was stopped and started has another first process."""
    started = read_text(Path("/proc/1/stat")).rpartition(")")[2].split()
    return f"{read_text(Path('/proc/sys/kernel/random/boot_id')).strip()} {started[19] if len(started) > 19 else ''}"


class IdleWatchdog:
    def __init__(self, folder: Path, config: dict[str, Any], clock: Callable[[], float] = clock) -> None:
        self.folder, self.config, self.clock = folder, config, clock
        self.trouble: str | None = None
        self.saved = float("-inf")
        before, boot = read_json(folder / "state.json"), this_boot()
        wanted = [config[name] for name in (*BOUNDS, "action")]
        # What was idle before a restart of the machine says nothing about it now, and who asks for other bounds is at work on it.
        same = (before.get("boot"), before.get("wanted")) == (boot, wanted)
        known = before if same and isinstance(before.get("active_at"), (int, float)) else {}
        self.state: dict[str, Any] = {"attempts": 0, "last_sign": None, "active_at": clock(), **known, "boot": boot, "wanted": wanted, "pid": os.getpid()}
        self.state["active_at"] = min(float(self.state["active_at"]), clock())
        self.next_attempt = 0.0
        self.seen: dict[str, int] = {}

    def sign_of_work(self) -> str | None:
        """What works now; None when nothing does."""
        job = busy(self.config["jobs"])
        if job:
            return f"the job in {job} runs"
        gpus = _nvml.read()
        if gpus["trouble"] != self.trouble:
            self.trouble = gpus["trouble"]
            if self.trouble:
                self.say(f"the GPUs cannot be read, so only jobs and heartbeats count: {self.trouble}")
        for gpu in gpus["gpus"]:
            used = gpu.get("utilization_percent")
            if used is not None and used >= self.config["gpu_percent"]:
                return f"GPU {gpu['index']} computes ({used} %)"
            held, most = gpu.get("memory_used_mib"), self.config["gpu_mem_mb"]
            if held is not None and 0 < most < held:
                return f"GPU {gpu['index']} holds {held} MiB"
        return None

    def heartbeat(self) -> tuple[float, str] | None:
        """How long ago the newest heartbeat that was not seen before is, and its file."""
        found: tuple[float, str] | None = None
        for path in self.config["heartbeats"]:
            try:
                stamp = os.stat(path).st_mtime_ns
            except OSError:
                continue
            if self.seen.get(path) != stamp:
                self.seen[path] = stamp
                age = max(0.0, time.time() - stamp / 1e9)
                found = min(found, (age, path)) if found else (age, path)
        return found

    def look(self) -> float:
        """One look; the seconds until the next."""
        moment, sign = self.clock(), self.sign_of_work()
        beat = self.heartbeat()
        if sign:
            self.active(moment, sign)
        if beat and moment - beat[0] > self.state["active_at"]:
            self.active(moment - beat[0], f"{beat[1]} was touched")
        idle = self.clock() - self.state["active_at"]
        self.state.update(idle_seconds=round(idle, 1), looked_at=now(), gpu_trouble=self.trouble)
        pause = float(self.config["interval_seconds"])
        if idle < self.config["idle_seconds"]:
            self.state.update(status="active" if sign else "idle")
            return float(min(pause, max(0.05, self.config["idle_seconds"] - idle)))
        self.end(idle)
        return float(min(pause, max(0.05, self.next_attempt - self.clock())))

    def active(self, moment: float, sign: str) -> None:
        if self.state["attempts"]:
            self.say(f"works again: {sign}")
        self.state.update(active_at=moment, last_sign=sign, attempts=0)
        self.next_attempt = 0.0

    def end(self, idle: float) -> None:
        """Ask for the pod's end, again and again with growing pauses for as long as it lives and is idle."""
        if self.config["action"] == "none":
            if self.state.get("status") != "over":
                self.say(f"idle for {idle:.0f} s; nothing is done about it, since the action is none")
            self.state.update(status="over")
            self.next_attempt = self.clock() + self.config["backoff_limit_seconds"]
            return
        if self.clock() < self.next_attempt:
            return
        attempts = self.state["attempts"] + 1
        self.state.update(status="ending", attempts=attempts)
        self.save()
        done, words = self.act()
        pause = min(self.config["backoff_seconds"] * 2 ** min(attempts - 1, 20), self.config["backoff_limit_seconds"])
        self.next_attempt = self.clock() + pause
        self.state.update(answer=words)
        self.say(f"idle for {idle:.0f} s; {self.config['action']}: {words}; {'if it still lives, ' if done else ''}again in {pause:.0f} s")

    def act(self) -> tuple[bool, str]:
        action = self.config["action"]
        if action == "exit":
            return end_machine()
        pod = _guard.pod_environment()
        if len(pod) < 2:
            return False, "the container's environment has no RUNPOD_POD_ID and RUNPOD_API_KEY"
        code = _guard.call(self.config["base_url"], pod, "POST", action=action)
        return 200 <= code < 300, f"the cloud answered {code}" if code else "the cloud did not answer"

    def say(self, text: str) -> None:
        sys.stdout.write(f"{now()} {one_line(text, 600)}\n")
        sys.stdout.flush()

    def save(self) -> None:
        self.saved = self.clock()
        try:
            write_json(self.folder / "state.json", self.state)
        except OSError as error:
            self.say(f"the state cannot be written: {error.strerror}")

    def run(self, *, once: bool, ending: threading.Event) -> None:
        self.say(f"watching: {self.config['action']} after {self.config['idle_seconds']} s without work")
        told = None
        while True:
            pause = self.look()
            # The volume may be far away: small changes are written once a minute.
            word = (self.state["status"], self.state["attempts"], self.state["last_sign"])
            if once or word != told or self.clock() - self.saved >= SAVE_SECONDS:
                self.save()
            told = word
            if once or ending.wait(pause):
                return


def end_machine() -> tuple[bool, str]:
    """End process 1 of a container, power a whole machine off."""
    try:
        if SYSTEMD_RUNS.is_dir():
            done = subprocess.run(["systemctl", "poweroff"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
            return done.returncode == 0, f"systemctl poweroff ended with {done.returncode}"
        os.kill(1, signal.SIGTERM)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"process 1 could not be ended: {error}"
    return True, "process 1 was asked to end"


def load_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    given = read_json(path)
    if not given:
        raise ConfigError(f"{path} holds no settings; run the role services")
    config = {**DEFAULTS, **given}
    for name, (low, high) in BOUNDS.items():
        number = config[name]
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
            raise ConfigError(f"{path} says {name} {one_line(number, 40)}, which has to be from {low} to {high}")
    if config["action"] not in ACTIONS:
        raise ConfigError(f"{path} says action {one_line(config['action'], 40)}, which is none of {', '.join(ACTIONS)}")
    return config


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="idle_watchdog.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=HERE, help="folder of the configuration and the state")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--once", action="store_true")
    commands.add_parser("status")
    given = parser.parse_args(arguments)
    if given.command == "status":
        sys.stdout.write(json.dumps(read_json(given.dir / "state.json")) + "\n")
        return 0
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ending.set())
    try:
        dog = IdleWatchdog(given.dir, load_config(given.dir))
    except ConfigError as error:
        sys.stderr.write(f"idle_watchdog: {error}\n")
        return 2
    with contextlib.suppress(KeyboardInterrupt):
        dog.run(once=given.once, ending=ending)
    return 0


if __name__ == "__main__":
    sys.exit(main())
