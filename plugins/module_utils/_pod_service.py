# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that is kept running: by systemd where that is process 1, else by supervisor.

The running program carries a digest of its command, its environment and its files in its own environment, so that a look
at the process tells whether it was started from what is wanted now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import PodcycleError, UsageError
from ._file_set import Change, Entry, FileSet
from ._uv import run_program

DIGEST = "PODCYCLE_SERVICE"
OWNER = "PODCYCLE_SERVICE_OF"
START_SECONDS = 20.0
# A program that lives this long has read its files and started; supervisor says so only after a whole second.
SETTLE_SECONDS = 0.4
SYSTEMD_UNITS = "/etc/systemd/system"
SYSTEMD_RUNS = Path("/run/systemd/system")
# The program must not live in what it looks after, so an interpreter outside of any virtual environment.
_SYSTEM_PATH = "/usr/bin:/usr/local/bin:/bin:/usr/sbin:/sbin"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")


class ServiceError(PodcycleError):
    code = "pod_service"


@dataclass(frozen=True)
class Service:
    name: str
    command: list[str]
    workspace: str
    description: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    files: list[Entry] = field(default_factory=list)

    def check(self, *, present: bool) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"pod_service {self.name!r}: a name is 1 to 61 letters, digits, dashes and underscores")
        if not self.workspace.startswith("/"):
            raise UsageError(f"pod_service {self.name}: the workspace {self.workspace!r} is not an absolute path")
        if present and not (self.command and self.command[0]):
            raise UsageError(f"pod_service {self.name}: the command is empty; give it as a list, the program first")
        for text in (*self.command, *self.environment, *self.environment.values()):
            if re.search(r'["\n\0]', text):
                raise UsageError(f"pod_service {self.name}: {text!r} holds a quote, a line break or a NUL character, which the start files cannot carry")

    @property
    def resolved(self) -> list[str]:
        program = self.command[0]
        if program.startswith("/"):
            return self.command
        found = shutil.which(program, path=_SYSTEM_PATH) or shutil.which(program)
        if found is None and program.startswith("python"):
            found = getattr(sys, "_base_executable", sys.executable)
        if found is None:
            raise ServiceError(f"start {self.name}: there is no program {program} on this machine; name it with its whole path")
        return [found, *self.command[1:]]

    @property
    def digest(self) -> str:
        text = json.dumps([self.resolved, self.environment, [(entry.path, entry.content) for entry in self.files]], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @property
    def variables(self) -> dict[str, str]:
        return {"HOME": os.path.expanduser("~"), **self.environment, DIGEST: self.digest, OWNER: self.owner}

    @property
    def owner(self) -> str:
        return f"{self.name}@{self.workspace}"


@dataclass(frozen=True)
class Running:
    """What a supervisor says; V(current) when the process was started from what is wanted."""

    pid: int | None = None
    state: str = "absent"
    current: bool = False


def is_current(pid: int, digest: str) -> bool:
    try:
        return f"{DIGEST}={digest}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def strays(service: Service) -> list[int]:
    """Processes of this service by their own word; what they started has another command."""
    mark, command, found = f"{OWNER}={service.owner}".encode(), [part.encode() for part in service.resolved], []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if Path("/proc", entry, "cmdline").read_bytes().split(b"\0")[:-1] == command and mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def end_strays(service: Service) -> None:
    """A program whose supervisor was killed goes on alone, and would stand in the way of the next."""
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        left = strays(service)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + seconds
        while left and strays(service) and time.monotonic() < end:
            time.sleep(0.05)


class ServiceManager(ABC):
    """One way to keep a service running."""

    kind = ""

    def __init__(self, service: Service) -> None:
        self.service = service

    @abstractmethod
    def entries(self) -> list[Entry]: ...

    @abstractmethod
    def look(self, *, present: bool) -> Running: ...

    @abstractmethod
    def bring_up(self) -> None: ...

    @abstractmethod
    def take_down(self) -> None: ...

    def clean(self) -> list[Entry]:
        """What goes with the service."""
        return [Entry(entry.path, "absent") for entry in self.entries()]

    @abstractmethod
    def words(self) -> str:
        """What the service said last."""


class Systemd(ServiceManager):
    kind = "systemd"

    @property
    def unit(self) -> str:
        return f"{self.service.name}.service"

    def entries(self) -> list[Entry]:
        service = self.service
        variables = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in sorted(service.variables.items()))
        # A login sees the machine's own environment, its proxy and package index; systemd does not by itself.
        # The command that heals may restart this very service: it must not go down with it.
        text = (
            f"# Written by podcycle.gpu; changes are lost.\n[Unit]\nDescription={service.description or service.name}\n"
            f"RequiresMountsFor={_quoted(service.workspace)}\nStartLimitIntervalSec=0\n\n"
            f"[Service]\nType=simple\nEnvironmentFile=-/etc/environment\n{variables}"
            f"ExecStart={' '.join(_quoted(part).replace('$', '$$') for part in service.resolved)}\n"
            "Restart=always\nRestartSec=5\nKillMode=process\n\n[Install]\nWantedBy=multi-user.target\n"
        )
        return [Entry(f"{SYSTEMD_UNITS}/{self.unit}", content=text, mode="0644")]

    def clean(self) -> list[Entry]:
        return [Entry(f"{SYSTEMD_UNITS}/{self.unit}", "absent")]

    def look(self, *, present: bool) -> Running:
        done = run_program(["systemctl", "show", "-p", "MainPID,ActiveState,UnitFileState", self.unit], timeout=30)
        rows = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
        pid = int(rows.get("MainPID") or 0)
        if rows.get("ActiveState") not in ("active", "activating") or not pid:
            return Running(state="stopped" if rows.get("UnitFileState") else "absent")
        current = present and rows.get("UnitFileState") == "enabled" and is_current(pid, self.service.digest)
        return Running(pid, "running", current)

    def bring_up(self) -> None:
        self._ctl("daemon-reload")
        run_program(["systemctl", "stop", self.unit], timeout=90)
        end_strays(self.service)
        for arguments in (["enable", self.unit], ["restart", self.unit]):
            self._ctl(*arguments)

    def take_down(self) -> None:
        self._ctl("disable", "--now", self.unit)

    def _ctl(self, *arguments: str) -> None:
        done = run_program(["systemctl", *arguments], timeout=90)
        if done.returncode:
            said = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1][:300]
            raise ServiceError(f"systemctl {' '.join(arguments)}: {said}", hint=f"see: journalctl -u {self.unit}")

    def words(self) -> str:
        return run_program(["journalctl", "-u", self.unit, "-n", "5", "-o", "cat", "--no-pager"], timeout=30).stdout


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace("%", "%%") + '"'


def converge(manager: ServiceManager, *, present: bool, check_mode: bool) -> tuple[list[Change], Running, bool]:
    """The files that changed, the service as it is then, and whether it was started, restarted or ended."""
    service = manager.service
    service.check(present=present)
    before = manager.look(present=present)
    if present and before.state == "starting":
        before = _settled(manager, 2 * SETTLE_SECONDS)
    if not present:
        wanted = [*manager.clean(), *(Entry(entry.path, "absent", recursive=True) for entry in reversed(service.files))]
        ended = before.state != "absent" or bool(service.command and strays(service))
        if ended and not check_mode:
            manager.take_down()
            if service.command:
                end_strays(service)
        return FileSet(wanted, check_mode=check_mode).converge(), Running(), ended
    changes = FileSet(service.files, check_mode=check_mode).converge()
    defined = FileSet(manager.entries(), check_mode=check_mode).converge()
    changes += defined
    # A definition that somebody else wrote into is not what runs, or will not be after the next boot.
    if before.current and not defined:
        return changes, before, False
    if check_mode:
        return changes, Running(None, "running", True), True
    manager.bring_up()
    return changes, _wait(manager), True


def _wait(manager: ServiceManager) -> Running:
    found = _settled(manager, START_SECONDS)
    if not found.current:
        said = " ".join(manager.words().split())[-300:] or "nothing"
        raise ServiceError(f"start {manager.service.name} with {manager.kind}: it is {found.state} after {START_SECONDS:.0f} s; its last words: {said}")
    return found


def _settled(manager: ServiceManager, seconds: float) -> Running:
    """The service once one process of it has lived long enough, or as it is in the end."""
    start = since = time.monotonic()
    last = 0
    while True:
        found, now = manager.look(present=True), time.monotonic()
        if not found.pid or found.pid != last:
            since, last = now, found.pid or 0
        elif now - since >= SETTLE_SECONDS and (found.current or found.state == "starting" and is_current(found.pid, manager.service.digest)):
            return Running(found.pid, "running", True)
        if now - start >= seconds:
            return found
        time.sleep(0.05)
