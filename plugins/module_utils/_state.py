# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state folder: one place, one owner, private; owner id, run folders, run locks.

A run lock names host, pid and start time of the ansible-playbook that holds it: a process
id alone is recycled.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError
from ansible_collections.podcycle.gpu.plugins.module_utils._model import check_run_id, rfc3339, utc_now

_MARKER = "podcycle-state"


def default_state_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("PODCYCLE_STATE_DIR"):
        return Path(environ["PODCYCLE_STATE_DIR"]).expanduser()
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "podcycle"


def private(path: str, flags: int) -> int:
    """An opener for files that nobody else may read."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number."""

    host: str
    pid: int
    started: int
    # A keeper holds a run for as long as it gives the pods back.
    keeper: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        started = start_ticks(pid)
        return None if started is None else cls(socket.gethostname(), pid, started)

    @property
    def alive(self) -> bool:
        """On another host nobody can look, so it counts as alive."""
        return self.host != socket.gethostname() or start_ticks(self.pid) == self.started

    def to_dict(self) -> dict[str, Any]:
        return {"host": self.host, "pid": self.pid, "started": self.started, **({"keeper": True} if self.keeper else {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProcessId:
        return cls(str(data["host"]), int(data["pid"]), int(data["started"]), data.get("keeper") is True)


def start_ticks(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot (proc(5), field 22); None when gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


class StateDir:
    """The folder that remembers what was rented. Created 0700 on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def open(self) -> StateDir:
        """Create or check the folder; raises StateError for one that is not ours."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = self.path.stat()
        except OSError as err:
            raise StateError(f"cannot use the state folder {self.path}: {err.strerror}", hint="set PODCYCLE_STATE_DIR to a folder of yours") from err
        if info.st_uid != os.geteuid():
            raise StateError(f"the state folder {self.path} belongs to user {info.st_uid}, not to you", hint="set PODCYCLE_STATE_DIR to a folder of yours")
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise StateError(f"the state folder {self.path} can be read by others", hint=f"run: chmod 700 {self.path}")
        marker = self.path / _MARKER
        if not marker.exists():
            strange = any(entry.name != "rehearsal" and not entry.name.startswith(".") for entry in self.path.iterdir())
            # Another process may have made the marker in between.
            if strange and not marker.exists():
                raise StateError(
                    f"the state folder {self.path} holds files that are not ours and has no {_MARKER} file", hint="set PODCYCLE_STATE_DIR to an empty folder"
                )
            with contextlib.suppress(FileExistsError):
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return self

    @property
    def owner(self) -> str:
        """The persistent id that stamps every pod of this state folder."""
        path = self.path / "owner"
        with self.lock("owner"):
            if not path.exists():
                write_atomic(path, secrets.token_hex(4) + "\n")
            text = path.read_text(encoding="ascii").strip()
        if len(text) != 8 or any(char not in "0123456789abcdef" for char in text):
            raise StateError(f"{path} does not hold an owner id of 8 hexadecimal digits", hint="restore it from a backup; pods rented before carry the old id")
        return text

    def run_dir(self, run_id: str) -> Path:
        # The mode of a mkdir does not reach the parents that it makes.
        path = self.sub("runs") / check_run_id(run_id)
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def sub(self, name: str) -> Path:
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    @contextlib.contextmanager
    def lock(self, name: str, timeout_seconds: float = 60.0) -> Iterator[None]:
        """An exclusive lock that the kernel drops when its process ends."""
        path = self.sub("locks") / name
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _flock(handle, path, timeout_seconds)
            yield
        finally:
            os.close(handle)

    def take_run(self, run_id: str, holder: ProcessId) -> ProcessId | None:
        """Make `holder` the run's controller; returns the dead one that had it before, if any.

        Raises StateError naming the live process that holds the run.
        """
        with self.lock(f"run-{check_run_id(run_id)}"):
            before = self.run_holder(run_id)
            if before is not None and before != holder and before.alive:
                doing, hint = f"driven by {before}", "wait for it, stop it, or use another run_id"
                if before.keeper:
                    doing = f"given back by its keeper, {before}"
                    hint = f"wait until it is done or pauses (its log: {self.run_dir(run_id) / 'keeper.log'}), then type the same command again"
                raise StateError(f"run {run_id} is being {doing}", hint=hint, pid=before.pid, host=before.host)
            self._write_holder(run_id, holder)
            return None if before == holder else before

    def wrest_run(self, run_id: str, holder: ProcessId, seconds: float = 30.0) -> ProcessId | None:
        """The same, but a process of this machine that drives the run is interrupted first, as by Ctrl-C; StateError when it goes on for so long."""
        with self.lock(f"run-{check_run_id(run_id)}"):
            before = self.run_holder(run_id)
            drives = before is not None and before != holder and not before.keeper and before.host == socket.gethostname() and before.alive
            if drives:
                # Before it ends, so that the keeper sees a controller that lives all the while.
                self._write_holder(run_id, holder)
        if before is None or not drives:
            return self.take_run(run_id, holder)
        try:
            _interrupt(before, run_id, seconds)
        except BaseException:
            self.leave_run(run_id, holder, before)
            raise
        return before

    def leave_run(self, run_id: str, holder: ProcessId, before: ProcessId | None) -> None:
        """Leave a run as it was before `holder` took it, if `holder` still has it: whoever comes next is not refused."""
        with self.lock(f"run-{check_run_id(run_id)}"):
            if self.run_holder(run_id) != holder:
                return
            path = self.run_dir(run_id) / "controller.json"
            try:
                if before is not None:
                    self._write_holder(run_id, before)
                    return
            except OSError:
                # A full disk takes no new file, but lets one go.
                path.unlink()
                raise
            path.unlink()

    def end_run(self, run_id: str, account: str) -> None:
        """Whoever works on the run now rents nothing more for it in this account; whoever begins later may."""
        holder = self.run_holder(run_id)
        told = {"at": time.time(), "holder": holder.to_dict() if holder else None}
        write_atomic(self.run_dir(run_id) / f"ended-{account}.json", json.dumps(told) + "\n")

    def ended(self, run_id: str, account: str, since: float) -> bool:
        """Whether the run was ended while its holder had it, or after `since`."""
        path = self.path / "runs" / run_id / f"ended-{account}.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            holder = ProcessId.from_dict(told["holder"]) if told["holder"] else None
            return float(told["at"]) >= since or (holder is not None and holder == self.run_holder(run_id))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise StateError(f"cannot read whether run {run_id} was ended: {path}: {err}", hint="remove the file, then type the same again") from err

    def _write_holder(self, run_id: str, holder: ProcessId) -> None:
        write_atomic(self.run_dir(run_id) / "controller.json", json.dumps({**holder.to_dict(), "since": rfc3339(utc_now())}) + "\n")

    def run_holder(self, run_id: str) -> ProcessId | None:
        path = self.path / "runs" / run_id / "controller.json"
        try:
            return ProcessId.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise StateError(f"cannot read the run lock {path}: {err}", hint="remove the file if no ansible-playbook runs for this run_id") from err


def _interrupt(driver: ProcessId, run_id: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    try:
        os.kill(driver.pid, signal.SIGINT)
    except ProcessLookupError:
        return
    except PermissionError as err:
        raise StateError(f"run {run_id} is being driven by {driver}, which belongs to another user", hint=f"have it ended: kill -INT {driver.pid}") from err
    while driver.alive:
        if time.monotonic() >= end:
            raise StateError(
                f"run {run_id} is being driven by {driver}, which was interrupted and still runs after {seconds:.0f} s",
                hint=f"end it, then type the same again: kill {driver.pid}",
            )
        time.sleep(0.05)


def _flock(handle: int, path: Path, timeout_seconds: float) -> None:
    end = time.monotonic() + timeout_seconds
    pause = 0.001
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise StateError(
                    f"waited {timeout_seconds:.0f} s for the lock {path}", hint="another run is still working on it; see who with: fuser -v " + str(path)
                ) from None
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
