# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at a pod's stack: nvcc, CUTLASS, torch and the GPUs, against what their roles wrote down when they had proven it."""

from __future__ import annotations

import csv
import fcntl
import glob
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

try:
    import _nvml
except ImportError:
    _nvml = None  # type: ignore[assignment]

XIDS = 20
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
    """The first file that is not there or has another size than was written down; links count as themselves."""
    for name, size in files.items():
        try:
            found = os.lstat(f"{folder}/{name}").st_size
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
        lost = lost_healer(self.config["heal_command"])
        if lost:
            self.notes.append(lost)
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
        prefix, record = self._toolkit(wish)
        nvcc = os.path.join(prefix, "bin", "nvcc")
        if not os.access(nvcc, os.X_OK):
            self.fault("nvcc", f"{nvcc} is missing")
            return {"path": nvcc, "version": None}
        files = record.get("files")
        trouble = changed_size(prefix, files) if isinstance(files, dict) else None
        if trouble:
            self.fault("nvcc", f"in {prefix}, {trouble}")
        elif "proof" not in record:
            self.fault("nvcc", f"{prefix} was never proven whole")
        code, out, err = run_program([nvcc, "--version"], 20)
        found = _NVCC.search(out)
        version = found.group(1) if code == 0 and found else None
        wanted = wish.get("version") or (record.get("fingerprint") or {}).get("nvcc")
        if version is None:
            self.fault("nvcc", f"{nvcc} does not run: {one_line(err or out) or f'it ended with {code}'}")
        elif wanted and version != wanted:
            self.fault("nvcc", f"{nvcc} is V{version}, not V{wanted}")
        return {"path": nvcc, "version": version}

    @staticmethod
    def _toolkit(wish: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The toolkit that the role cuda13 has proven: its own with a stamp inside, or another's that it noted in the workspace."""
        own = read_json(Path(wish["prefix"], ".podcycle-cuda.json"))
        note = read_json(Path(wish["note"])) if wish.get("note") else {}
        if own or not isinstance(note.get("path"), str):
            return wish["prefix"], own
        return note["path"], note

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
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        if record.get("library_path"):
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (str(record["library_path"]), environment.get("LD_LIBRARY_PATH"))))
        code, out, err = run_program([str(python), "-c", _IMPORT], 300, environment)
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
            elif len(self.memory["xids"]) < XIDS:
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


def busy(patterns: list[str] | str) -> str | None:
    """The folder of a job that runs now."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in glob.iglob(pattern):
            job = read_json(Path(path), 1 << 16)
            if job.get("state") not in ("starting", "running"):
                continue
            for pid, started in (("runner_pid", "runner_started"), ("pid", "pid_started")):
                if job.get(started) is not None and process_started(job.get(pid)) == job[started]:
                    return os.path.dirname(path)
    return None


def lost_healer(command: list[str]) -> str | None:
    """Why the command that heals cannot even begin: it, or the script that it is to read, is not there."""
    script = command[1:2] if command and os.path.basename(command[0]) in ("sh", "bash", "dash") else []
    for path in (*command[:1], *(word for word in script if word.startswith("/"))):
        if not (os.path.isfile(path) if path in script else shutil.which(path)):
            return f"{path} is missing, so nothing can be healed: run playbooks/bootstrap.yml for this machine, or copy that file there again"
    return None


def watching(folder: Path) -> bool:
    """Whether a watchdog runs: it holds its lock as long. Who asks does not stand in another one's way."""
    try:
        with (folder / "run.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
