#!/usr/bin/env python3
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks after the stack of one pod: nvcc, CUTLASS, torch and the GPUs. Standard library only, Python 3.10.

  cuda_watchdog.py check [--quick] [--json]   look once; 0 healthy, 1 the stack is broken, 3 a GPU is broken, 2 cannot look
  cuda_watchdog.py run [--once]               look every interval, heal what can be healed
  cuda_watchdog.py heal [--anyway]            heal now; --anyway also while a job runs
  cuda_watchdog.py status [--json]            what the last look found, and what comes next
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import fcntl
import glob
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

try:
    import _nvml
except ImportError:
    _nvml = None  # type: ignore[assignment]

HERE = Path(__file__).resolve().parent
HEALTHY, BROKEN, USAGE, GPU_BROKEN = 0, 1, 2, 3
LOG_BYTES = 1 << 20
HISTORY = 20
# Xid errors that a program's own fault raises (NVIDIA, Xid Errors, "User App" causes); the GPU goes on.
APPLICATION_XIDS = {13, 31, 43, 45, 68, 69, 136}
_XID = re.compile(r"NVRM: Xid \((?P<where>[^)]{1,40})\): (?P<number>\d{1,4})\b,?\s*(?P<text>.{0,160})")
_NVCC = re.compile(r"\bV(\d+\.\d+\.\d+)\b")
_TORCH_PARTS = re.compile(r"(?:torch|numpy|triton|nvidia_[a-z0-9_]+)-[^/]+\.dist-info")
_IMPORT = """
import json, torch
x = torch.eye(8)
ok = float((x @ x).sum()) == 8.0
if torch.version.cuda and torch.cuda.is_available():
    for n in range(torch.cuda.device_count()):
        y = torch.eye(64, device="cuda:%d" % n)
        ok = ok and float((y @ y).sum()) == 64.0
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "cuda_available": torch.cuda.is_available(), "right": ok}))
"""
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


def now() -> str:
    return stamp(time.time())


def stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def read_json(path: Path, limit: int = 1 << 24) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(limit))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_text(path: Path, limit: int = 1 << 20) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def write_json(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def one_line(text: object, limit: int = 200) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text)).strip()[:limit]


def run_program(command: list[str], timeout: float, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment, check=False
        )
    except OSError as error:
        return 127, "", f"it cannot be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, "", f"it did not end within {timeout:.0f} s"
    return done.returncode, done.stdout, done.stderr


def changed_size(folder: str, files: dict[str, int]) -> str | None:
    """The first file that is not there or has another size than was written down."""
    for name, size in files.items():
        try:
            found = os.stat(f"{folder}/{name}").st_size
        except OSError:
            return f"{name} is missing"
        if found != size:
            return f"{name} has {found} bytes, not {size}"
    return None


class Check:
    """One look at the machine."""

    def __init__(self, config: dict[str, Any], memory: dict[str, Any], *, quick: bool) -> None:
        self.config = config
        self.memory = memory
        self.quick = quick
        self.broken: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.parts: dict[str, Any] = {}

    def look(self) -> dict[str, Any]:
        started = time.monotonic()
        for part, one in (("nvcc", self.nvcc), ("cutlass", self.cutlass), ("torch", self.torch)):
            if isinstance(self.config[part], dict):
                self.parts[part] = one(self.config[part])
        if self.config["gpu"]:
            self.parts["gpu"] = self.gpu()
        return {
            "ok": not self.broken,
            "mode": "quick" if self.quick else "full",
            "checked_at": now(),
            "broken": self.broken,
            "notes": self.notes,
            "parts": self.parts,
            "seconds": round(time.monotonic() - started, 3),
        }

    def fault(self, part: str, message: str, *, healable: bool = True) -> None:
        self.broken.append({"part": part, "message": one_line(message, 300), "healable": healable})

    def nvcc(self, wish: dict[str, Any]) -> dict[str, Any]:
        prefix = next((path for path in wish["prefixes"] if os.path.lexists(os.path.join(path, "bin", "nvcc"))), wish["prefixes"][0])
        nvcc = os.path.join(prefix, "bin", "nvcc")
        record = next((read_json(path) for path in sorted(Path(prefix).glob(".podcycle-*.json"))), {})
        if not os.access(nvcc, os.X_OK):
            self.fault("nvcc", f"{nvcc} is missing")
            return {"path": nvcc, "version": None}
        files = record.get("files")
        trouble = changed_size(prefix, files) if isinstance(files, dict) else None
        if trouble:
            self.fault("nvcc", f"in {prefix}, {trouble}")
        code, out, err = run_program([nvcc, "--version"], 20)
        found = _NVCC.search(out)
        version = found.group(1) if code == 0 and found else None
        wanted = wish.get("version") or record.get("version")
        if version is None:
            self.fault("nvcc", f"{nvcc} does not run: {one_line(err or out) or f'it ended with {code}'}")
        elif wanted and version != wanted:
            self.fault("nvcc", f"{nvcc} is V{version}, not V{wanted}")
        return {"path": nvcc, "version": version}

    def cutlass(self, wish: dict[str, Any]) -> dict[str, Any]:
        tree = Path(wish["path"])
        text = read_text(tree / "include/cutlass/version.h")
        numbers = [re.search(rf"^#define\s+CUTLASS_{word}\s+(\d+)", text, re.MULTILINE) for word in ("MAJOR", "MINOR", "PATCH")]
        version = ".".join(number.group(1) for number in numbers if number) if all(numbers) else None
        commit = head_commit(tree)
        record = read_json(tree / ".podcycle-cutlass.json")
        found = {"path": str(tree), "version": version, "commit": commit}
        if version is None:
            self.fault("cutlass", f"{tree} is not there or is no CUTLASS")
            return found
        if not record:
            self.fault("cutlass", f"{tree} was never proven whole")
        wanted = wish.get("commit") or record.get("commit")
        if wanted and commit != wanted:
            self.fault("cutlass", f"{tree} is at commit {commit or 'none'}, not at {wanted}")
        files = record.get("files")
        trouble = changed_size(str(tree), files) if isinstance(files, dict) else None
        if trouble:
            self.fault("cutlass", f"in {tree}, {trouble}")
        return found

    def torch(self, wish: dict[str, Any]) -> dict[str, Any]:
        venv = Path(wish["venv"])
        python = venv / "bin" / "python"
        record = read_json(venv / ".podcycle-torch.json")
        found = {"venv": str(venv), "version": record.get("torch"), "imported": False}
        trouble = self._torch_files(venv, python, record, wish)
        if trouble:
            self.fault("torch", trouble)
            return found
        if self.quick:
            return found
        code, out, err = run_program([str(python), "-c", _IMPORT], 300, {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")})
        proof = read_proof(out)
        if code or not proof:
            words = (err.strip() or f"it ended with {code}").splitlines()[-1]
            self.fault("torch", f"importing torch in {venv} fails: {words}")
            return found
        if not proof.get("right"):
            # A wrong product comes from the silicon or the build; a new build is worth a try.
            self.fault("torch", f"a matrix product in {venv} comes out wrong")
        if record.get("cuda_available") and not proof.get("cuda_available"):
            self.fault("gpu", f"torch in {venv} no longer finds a GPU", healable=False)
        return {**found, "version": proof.get("version"), "cuda": proof.get("cuda"), "cuda_available": proof.get("cuda_available"), "imported": True}

    @staticmethod
    def _torch_files(venv: Path, python: Path, record: dict[str, Any], wish: dict[str, Any]) -> str | None:
        if not os.access(python, os.X_OK):
            return f"{python} is missing"
        if not record:
            return f"{venv} was never proven whole"
        wanted = wish.get("version")
        if wanted and str(record.get("torch")).partition("+")[0] != str(wanted).partition("+")[0]:
            return f"torch in {venv} is {record.get('torch')}, not {wanted}"
        site = next(iter(sorted((venv / "lib").glob("python3.*/site-packages"))), None)
        if site is None:
            return f"{venv} has no packages"
        records = {entry.partition("-")[0]: site / entry / "RECORD" for entry in os.listdir(site) if _TORCH_PARTS.fullmatch(entry)}
        for name in ("torch", "numpy"):
            if name not in records:
                return f"{name} is missing in {venv}"
        for name, path in records.items():
            trouble = changed_size(str(site), sizes_of(path))
            if trouble or not path.exists():
                return f"{name} in {venv} is damaged: {trouble or 'its RECORD is missing'}"
        return None

    def gpu(self) -> dict[str, Any]:
        self._kernel_log()
        if _nvml is None:
            self.notes.append("the GPUs were not looked at: _nvml.py is missing beside this program")
            return {"count": None}
        found = _nvml.read()
        seen = self.memory.setdefault("gpus", {})
        if found["trouble"]:
            self.fault("gpu", f"the driver does not answer: {found['trouble']}", healable=False)
            return {"count": None, "driver": found["driver"]}
        present = {gpu["uuid"]: gpu for gpu in found["gpus"] if gpu["uuid"]}
        for gpu in found["gpus"]:
            name = f"GPU {gpu['index']} ({gpu['name'] or 'unknown'})"
            if gpu["lost"]:
                self.fault("gpu", f"{name} is lost: it has fallen off the bus or must be reset; give the pod back", healable=False)
            elif gpu["ecc_uncorrected"]:
                self.fault("gpu", f"{name} has {gpu['ecc_uncorrected']} uncorrected ECC errors since the driver was loaded; give the pod back", healable=False)
        if not any(gpu["lost"] for gpu in found["gpus"]):
            for uuid, name in seen.items():
                if uuid not in present:
                    self.fault("gpu", f"{name} ({uuid}) is gone; give the pod back", healable=False)
        seen.update({uuid: f"GPU {gpu['index']} ({gpu['name'] or 'unknown'})" for uuid, gpu in present.items()})
        return {"count": len(found["gpus"]), "driver": found["driver"]}

    def _kernel_log(self) -> None:
        """Xid errors since the boot; the ones of the hardware stay a fault until the machine is restarted."""
        boot = read_text(Path("/proc/sys/kernel/random/boot_id")).strip()
        if self.memory.get("boot") != boot:
            self.memory.update(boot=boot, kernel_sequence=-1, xids=[], gpus={})
        for sequence, line in kernel_lines(self.config["kernel_log"], self.memory["kernel_sequence"]):
            self.memory["kernel_sequence"] = sequence
            found = _XID.search(line)
            if not found:
                continue
            number, where = int(found["number"]), one_line(found["where"])
            message = f"Xid {number} on {where}: {one_line(found['text'])}"
            if number in APPLICATION_XIDS:
                self.notes.append(f"{message} (a program's own fault)")
            elif len(self.memory["xids"]) < HISTORY:
                self.memory["xids"].append(message)
        for message in self.memory["xids"]:
            self.fault("gpu", message, healable=False)


def read_proof(out: str) -> dict[str, Any]:
    try:
        value = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return value if isinstance(value, dict) else {}


def sizes_of(record: Path) -> dict[str, int]:
    try:
        with record.open(newline="", encoding="utf-8") as stream:
            return {row[0]: int(row[2]) for row in csv.reader(stream) if len(row) == 3 and row[2] and not row[0].startswith("../")}
    except (OSError, ValueError):
        return {}


def head_commit(tree: Path) -> str | None:
    """The commit that HEAD names, read from git's own files."""
    head = read_text(tree / ".git" / "HEAD").strip()
    if not head.startswith("ref: "):
        return head if re.fullmatch(r"[0-9a-f]{40}", head) else None
    name = head.removeprefix("ref: ")
    packed = re.search(rf"^([0-9a-f]{{40}}) {re.escape(name)}$", read_text(tree / ".git" / "packed-refs"), re.MULTILINE)
    return read_text(tree / ".git" / name).strip() or (packed.group(1) if packed else None)


def kernel_lines(source: str, after: int) -> Iterator[tuple[int, str]]:
    """Records of the kernel's ring buffer, V(priority,sequence,microseconds,flags;text) each; nothing where it may not be read."""
    try:
        number = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        for _record in range(100_000):
            try:
                raw = os.read(number, 8192)
            except BrokenPipeError:
                # Older records were overwritten meanwhile.
                continue
            except OSError:
                return
            if not raw:
                return
            for line in raw.decode("utf-8", "replace").splitlines():
                head, _semicolon, text = line.partition(";")
                fields = head.split(",")
                if len(fields) > 2 and fields[1].isdigit() and int(fields[1]) > after:
                    yield int(fields[1]), text
    finally:
        os.close(number)


def process_started(pid: object) -> int | None:
    """The start time of a living process in clock ticks since boot."""
    if not isinstance(pid, int) or pid < 2:
        return None
    fields = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else None


def busy(patterns: list[str]) -> str | None:
    """The folder of a job that runs now."""
    for pattern in patterns:
        for path in glob.iglob(pattern):
            job = read_json(Path(path), 1 << 16)
            if job.get("state") not in ("starting", "running"):
                continue
            for pid, started in (("runner_pid", "runner_started"), ("pid", "pid_started")):
                if job.get(pid) and process_started(job[pid]) == job.get(started):
                    return os.path.dirname(path)
    return None


class Watchdog:
    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.clock = clock
        self.config, self.digest = load_config(folder)
        self.state = read_json(folder / "state.json")
        self.talk = False
        if self.state.get("config") != self.digest:
            self.state.update(config=self.digest, attempts=0, next_attempt_at=0)
        self.memory: dict[str, Any] = self.state.setdefault("memory", {})
        self.memory.setdefault("kernel_sequence", -1)

    def check(self, *, quick: bool) -> dict[str, Any]:
        return Check(self.config, self.memory, quick=quick).look()

    def save(self, **changes: Any) -> None:
        self.state.update(changes, pid=os.getpid())
        try:
            write_json(self.folder / "state.json", self.state)
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
        if self.state.get("status") in ("waiting", "broken"):
            wait = min(wait, max(1.0, float(self.state.get("next_attempt_at") or 0) - self.clock()))
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
            self.state.update(attempts=0, next_attempt_at=0)
        if result["mode"] == "full":
            self.state["full_at"] = self.clock()
        status = "healthy" if result["ok"] else "gpu_broken" if not healable else "broken"
        self.save(result=result, status=status, cycles=int(self.state.get("cycles") or 0) + 1)

    def consider(self, result: dict[str, Any]) -> None:
        """Heal, unless there is a reason to wait; each reason is logged once."""
        attempts, job = int(self.state.get("attempts") or 0), None if self.config["heal_while_busy"] else busy(self.config["jobs"])
        if not self.config["heal_command"]:
            self.hold("no_heal_command", "healing is switched off")
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
            self.save(status="healing", why=None, attempts=attempts)
            started, began = time.monotonic(), now()
            code = self.run_heal(lock)
            after = self.check(quick=False)
            healed = not any(row["healable"] for row in after["broken"])
            seconds = round(time.monotonic() - started, 1)
            pause = min(self.config["backoff_seconds"] * 2 ** (attempts - 1), self.config["backoff_limit_seconds"])
            row = {"at": began, "broken": what, "exit_code": code, "seconds": seconds, "healed": healed}
            self.state["history"] = [*self.state.get("history", []), row][-HISTORY:]
            self.state["next_attempt_at"] = 0 if healed else self.clock() + pause
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
            self.save(started_at=now(), status=self.state.get("status") or "starting")
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
    return {**DEFAULTS, **given}, hashlib.sha256(raw).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The number of the open lock file; None when somebody else holds it."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield number
    finally:
        os.close(number)


def heal_lock(folder: Path) -> contextlib.AbstractContextManager[int | None]:
    return locked(folder / "heal.lock")


def single(folder: Path) -> contextlib.AbstractContextManager[int | None]:
    return locked(folder / "run.lock")


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
    result = dog.check(quick=False)
    if not any(row["healable"] for row in result["broken"]):
        show(result)
        return exit_code(result)
    dog.state["attempts"] = 0
    return HEALTHY if dog.heal(result) else BROKEN


def do_status(dog: Watchdog, given: argparse.Namespace) -> int:
    with single(dog.folder) as alone:
        running = alone is None
    shown = {key: value for key, value in dog.state.items() if key not in ("memory", "config")}
    result = shown.get("result") or {"broken": [], "notes": [], "parts": {}, "seconds": 0}
    if given.json:
        sys.stdout.write(json.dumps({"running": running, **shown}) + "\n")
        return exit_code(result)
    last = shown.get("history", [{}])[-1]
    sys.stdout.write(f"{'running' if running else 'not running'}, {shown.get('status', 'has never looked')}\n")
    sys.stdout.write(f"last look {result.get('checked_at', 'never')}, next {shown.get('next_check_at', 'never') if running else 'never'}\n")
    if shown.get("why"):
        sys.stdout.write(f"{shown['why']}\n")
    if last:
        sys.stdout.write(f"last healing {last['at']}: {'healed' if last['healed'] else 'not healed'} in {last['seconds']} s ({last['broken']})\n")
    if result["broken"]:
        show(result)
    return exit_code(result)


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
    given = parser.parse_args(arguments)
    try:
        dog = Watchdog(given.dir)
        if given.command == "run":
            dog.talk = True
            return dog.run(once=given.once)
        return {"check": do_check, "heal": do_heal, "status": do_status}[given.command](dog, given)
    except ConfigError as error:
        sys.stderr.write(f"cuda_watchdog: {error}\n")
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
