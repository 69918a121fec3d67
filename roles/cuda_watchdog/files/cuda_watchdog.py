# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks after the stack of one pod: nvcc, CUTLASS, torch and the GPUs. Standard library only, Python 3.10.

  cuda_watchdog.py check [--quick] [--json]   look once; 0 healthy, 1 the stack is broken, 3 a GPU is broken, 2 cannot look
  cuda_watchdog.py run [--once]               look every interval, heal what can be healed
  cuda_watchdog.py heal [--anyway]            heal now; --anyway also while a job runs
  cuda_watchdog.py status [--json]            what the last look found, and what comes next
  cuda_watchdog.py busy                       0 and one line where a job forbids healing, else 1
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from watchdog_checks import Check, busy, lost_healer, now, one_line, read_json, stamp, watching, write_json

HERE = Path(__file__).resolve().parent
HEALTHY, BROKEN, USAGE, GPU_BROKEN = 0, 1, 2, 3
LOG_BYTES = 1 << 20
HISTORY = 20
# Seconds between two looks at whether what holds a healing up has ended.
HELD_UP_SECONDS = 30.0
# The least and the most that each number may be; the role refuses the same.
BOUNDS: dict[str, tuple[int, int]] = {
    "interval_seconds": (1, 86400),
    "full_seconds": (0, 31536000),
    "heal_timeout_seconds": (1, 604800),
    "heal_attempts": (1, 100),
    "backoff_seconds": (0, 86400),
    "backoff_limit_seconds": (0, 604800),
}
# What only the watchdog that runs knows of itself.
OWN = ("pid", "started_at", "stopped_at", "next_check_at")
DEFAULTS: dict[str, Any] = {
    "interval_seconds": 300,
    "full_seconds": 3600,
    "heal_command": [],
    "heal_timeout_seconds": 3600,
    "heal_while_busy": False,
    "heal_attempts": 5,
    "backoff_seconds": 60,
    "backoff_limit_seconds": 3600,
    "jobs": [],
    "nvcc": None,
    "cutlass": None,
    "torch": None,
    "gpu": True,
    "kernel_log": "/dev/kmsg",
}


class ConfigError(Exception):
    """The configuration cannot be used."""


class Watchdog:
    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.clock = clock
        self.config, self.digest = load_config(folder)
        self.state = read_json(folder / "state.json")
        self.talk = False
        self.running = False
        if self.state.get("config") != self.digest:
            self.state.update(config=self.digest, attempts=0, next_attempt_at=0)
        known = self.state.get("memory")
        self.memory: dict[str, Any] = known if isinstance(known, dict) else {}
        self.state["memory"] = self.memory
        self.memory.setdefault("kernel_sequence", -1)

    def check(self, *, quick: bool) -> dict[str, Any]:
        return Check(self.config, self.memory, quick=quick).look()

    def save(self, **changes: Any) -> None:
        """A healing by hand writes beside the watchdog that runs: each keeps what only the other knows."""
        self.state.update(changes)
        path = self.folder / "state.json"
        try:
            with alone_in(self.folder):
                there = read_json(path)
                for key in ("history", *(() if self.running else OWN)):
                    if key not in changes and key in there:
                        self.state[key] = there[key]
                write_json(path, self.state)
        except OSError as error:
            self.log(f"the state cannot be written: {error.strerror}")

    def log(self, text: str) -> None:
        line = f"{now()} {one_line(text, 1000)}\n"
        path = self.folder / "watchdog.log"
        with contextlib.suppress(OSError):
            if path.exists() and path.stat().st_size > LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))
            with path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        if self.talk:
            sys.stdout.write(line)
            sys.stdout.flush()

    def cycle(self) -> float:
        """Look, heal when it is time; the seconds until the next look."""
        due = self.clock() - float(self.state.get("full_at") or 0) >= self.config["full_seconds"]
        result = self.check(quick=not due)
        if not due and any(row["part"] == "torch" for row in result["broken"]):
            result["notes"].append("torch was not imported: its files already differ")
        self.note(result)
        if any(row["healable"] for row in result["broken"]):
            self.consider(result)
        wait = float(self.config["interval_seconds"])
        attempt = float(self.state.get("next_attempt_at") or 0)
        if self.state.get("status") == "waiting":
            wait = min(wait, HELD_UP_SECONDS)
        elif self.state.get("status") == "broken" and attempt:
            wait = min(wait, max(1.0, attempt - self.clock()))
        self.save(next_check_at=stamp(self.clock() + wait))
        return wait

    def note(self, result: dict[str, Any]) -> None:
        """Write down what was found, and say what is new."""
        messages = [row["message"] for row in result["broken"]]
        before = [row["message"] for row in self.state.get("result", {}).get("broken", [])]
        for row in result["broken"]:
            if row["message"] not in before:
                self.log(f"broken: {row['part']}: {row['message']}")
        for text in result["notes"]:
            if text not in self.state.get("result", {}).get("notes", []):
                self.log(f"note: {text}")
        if before and not messages:
            self.log("healthy again")
        healable = [row for row in result["broken"] if row["healable"]]
        if not healable:
            self.state.update(attempts=0, next_attempt_at=0, why=None)
        if result["mode"] == "full":
            self.state["full_at"] = self.clock()
        status = "healthy" if result["ok"] else "gpu_broken" if not healable else "broken"
        self.save(result=result, status=status, cycles=int(self.state.get("cycles") or 0) + 1)

    def consider(self, result: dict[str, Any]) -> None:
        """Heal, unless there is a reason to wait; each reason is logged once."""
        attempts, job = int(self.state.get("attempts") or 0), None if self.config["heal_while_busy"] else busy(self.config["jobs"])
        if not self.config["heal_command"]:
            self.hold("no_heal_command", "healing is switched off")
        elif lost := lost_healer(self.config["heal_command"]):
            self.hold("no_heal_command", lost)
        elif attempts >= self.config["heal_attempts"]:
            self.hold("given_up", f"given up after {attempts} attempts; see heal.log, then: cuda_watchdog.py heal")
        elif job:
            self.hold("waiting", f"not healing while the job in {job} runs")
        elif self.clock() >= float(self.state.get("next_attempt_at") or 0):
            self.heal(result)

    def hold(self, status: str, why: str) -> None:
        if self.state.get("why") != why:
            self.log(why)
        self.save(status=status, why=why)

    def heal(self, result: dict[str, Any]) -> bool:
        with heal_lock(self.folder) as lock:
            if lock is None:
                self.hold("waiting", "another healing is under way")
                return False
            attempts = int(self.state.get("attempts") or 0) + 1
            what = "; ".join(row["message"] for row in result["broken"] if row["healable"])
            self.log(f"healing, attempt {attempts} of {self.config['heal_attempts']}: {what}")
            started = time.monotonic()
            row: dict[str, Any] = {"at": now(), "broken": what, "exit_code": None, "seconds": None, "healed": None}
            # Only who holds this lock writes history. The row comes first, so that a healing that was cut off is told too.
            history = [*past(read_json(self.folder / "state.json") or self.state), row][-HISTORY:]
            self.save(status="healing", why=None, attempts=attempts, history=history)
            code = self.run_heal(lock)
            after = self.check(quick=False)
            healed = not any(row["healable"] for row in after["broken"])
            seconds = round(time.monotonic() - started, 1)
            pause = min(self.config["backoff_seconds"] * 2 ** (attempts - 1), self.config["backoff_limit_seconds"])
            row.update(exit_code=code, seconds=seconds, healed=healed)
            self.save(history=history, next_attempt_at=0 if healed else self.clock() + pause)
            words = f"healed in {seconds} s" if healed else f"not healed: the command ended with {code} after {seconds} s; next attempt in {pause} s"
            self.log(words)
            self.note(after)
            return healed

    def run_heal(self, lock: int) -> int:
        """The command's exit code. It holds the lock itself too, so that it stays locked when this process ends."""
        log = self.folder / "heal.log"
        environment = {**os.environ, "PODCYCLE_WATCHDOG": "1"}
        with log.open("wb") as output:
            try:
                child = subprocess.Popen(
                    self.config["heal_command"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
                    start_new_session=True, pass_fds=(lock,), cwd="/",
                )  # fmt: skip
            except OSError as error:
                self.log(f"{self.config['heal_command'][0]} cannot be started: {error.strerror}")
                return 127
            try:
                return child.wait(self.config["heal_timeout_seconds"])
            except subprocess.TimeoutExpired:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(10)
                return 124

    def run(self, *, once: bool) -> int:
        with single(self.folder) as alone:
            if not alone:
                self.log("another watchdog looks after this workspace already")
                return USAGE
            wake, bell = os.pipe()
            os.set_blocking(bell, False)
            ending: list[int] = []
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda got, _frame: ending.append(got))
            signal.signal(signal.SIGUSR1, lambda _got, _frame: None)
            signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
            self.running = True
            self.save(pid=os.getpid(), started_at=now(), status=self.state.get("status") or "starting")
            self.log(f"looking every {self.config['interval_seconds']} s")
            while True:
                pause = self.cycle()
                if once or ending:
                    break
                ready = select.select([wake], [], [], pause)[0]
                if ready:
                    os.read(wake, 512)
                if ending:
                    break
            self.save(stopped_at=now(), pid=None)
            return exit_code(self.state["result"])


def load_config(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "config.json"
    try:
        raw = path.read_bytes()
        given = json.loads(raw)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); run the role cuda_watchdog") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path} holds no settings; run the role cuda_watchdog")
    for name, (low, high) in BOUNDS.items():
        number = given.get(name, low)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
            raise ConfigError(f"{path} says {name} {one_line(number, 40)}, which has to be from {low} to {high}; set cuda_watchdog_{name} and run the role")
    return {**DEFAULTS, **given}, hashlib.sha256(raw).hexdigest()


@contextlib.contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[int | None]:
    """The number of the open lock file; None when somebody else holds it, and still does when it is tried once more."""
    number, mine = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), None
    try:
        for pause in (patience, 0.0):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = number
                break
            time.sleep(pause)
        yield mine
    finally:
        os.close(number)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """For the moment that reading and writing take; on the folder itself, since the file is replaced."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def past(state: dict[str, Any]) -> list[dict[str, Any]]:
    rows = state.get("history")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def heal_lock(folder: Path) -> contextlib.AbstractContextManager[int | None]:
    return locked(folder / "heal.lock")


def single(folder: Path) -> contextlib.AbstractContextManager[int | None]:
    # Who only asks whether one runs holds the lock for a moment.
    return locked(folder / "run.lock", patience=0.2)


def exit_code(result: dict[str, Any]) -> int:
    broken = result.get("broken", [])
    return HEALTHY if not broken else BROKEN if any(row["healable"] for row in broken) else GPU_BROKEN


def show(result: dict[str, Any]) -> None:
    lines = [f"broken: {row['part']}: {row['message']}" for row in result["broken"]] + [f"note: {text}" for text in result["notes"]]
    sys.stdout.write("".join(f"{line}\n" for line in lines or [f"healthy ({', '.join(result['parts']) or 'nothing to look at'}; {result['seconds']} s)"]))


def do_check(dog: Watchdog, given: argparse.Namespace) -> int:
    result = dog.check(quick=given.quick)
    if given.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show(result)
    return exit_code(result)


def do_heal(dog: Watchdog, given: argparse.Namespace) -> int:
    dog.talk = True
    job = busy(dog.config["jobs"])
    if job and not given.anyway:
        sys.stderr.write(f"cuda_watchdog heal: the job in {job} runs; wait for it, or add --anyway\n")
        return USAGE
    if not dog.config["heal_command"]:
        sys.stderr.write("cuda_watchdog heal: no command is set; set cuda_watchdog_heal_command and run the role\n")
        return USAGE
    lost = lost_healer(dog.config["heal_command"])
    if lost:
        sys.stderr.write(f"cuda_watchdog heal: {lost}\n")
        return USAGE
    result = dog.check(quick=False)
    if not any(row["healable"] for row in result["broken"]):
        show(result)
        return exit_code(result)
    dog.state["attempts"] = 0
    return HEALTHY if dog.heal(result) else BROKEN


def do_status(dog: Watchdog, given: argparse.Namespace) -> int:
    running = watching(dog.folder)
    shown = {key: value for key, value in dog.state.items() if key not in ("memory", "config")}
    result = shown.get("result") or {"broken": [], "notes": [], "parts": {}, "seconds": 0}
    if given.json:
        sys.stdout.write(json.dumps({"running": running, **shown}) + "\n")
        return exit_code(result)
    last = next(reversed(past(shown)), None)
    sys.stdout.write(f"{'running' if running else 'not running'}, {shown.get('status', 'has never looked')}\n")
    sys.stdout.write(f"last look {result.get('checked_at', 'never')}, next {shown.get('next_check_at', 'never') if running else 'never'}\n")
    if shown.get("why"):
        sys.stdout.write(f"{shown['why']}\n")
    if last:
        sys.stdout.write(f"last healing {last['at']}: {outcome(dog, last)} ({last['broken']})\n")
    if result["broken"]:
        show(result)
    return exit_code(result)


def outcome(dog: Watchdog, row: dict[str, Any]) -> str:
    if row["healed"] is None:
        with heal_lock(dog.folder) as free:
            return "under way" if free is None else "it was cut off"
    return f"{'healed' if row['healed'] else 'not healed'} in {row['seconds']} s"


def do_busy(dog: Watchdog, _given: argparse.Namespace) -> int:
    job = None if dog.config["heal_while_busy"] else busy(dog.config["jobs"])
    if not job:
        return BROKEN
    broken = [row["message"] for row in dog.check(quick=True)["broken"]]
    why = "this script has not set this machine up" if watching(dog.folder) else "the watchdog does not run"
    sys.stdout.write(f"{next(iter(broken), why)}; a job runs in {one_line(job)}\n")
    return HEALTHY


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cuda_watchdog.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=HERE, help="folder of the configuration and the state")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check")
    check.add_argument("--quick", action="store_true")
    check.add_argument("--json", action="store_true")
    run = commands.add_parser("run")
    run.add_argument("--once", action="store_true")
    heal = commands.add_parser("heal")
    heal.add_argument("--anyway", action="store_true")
    status = commands.add_parser("status")
    status.add_argument("--json", action="store_true")
    commands.add_parser("busy")
    given = parser.parse_args(arguments)
    try:
        dog = Watchdog(given.dir)
        if given.command == "run":
            dog.talk = True
            return dog.run(once=given.once)
        return {"check": do_check, "heal": do_heal, "status": do_status, "busy": do_busy}[given.command](dog, given)
    except ConfigError as error:
        sys.stderr.write(f"cuda_watchdog: {error}\n")
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
