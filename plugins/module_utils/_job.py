# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the job module does on the pod: start, re-attach, cancel, and read a job's folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import _job_runner as runner
from ._errors import PodcycleError

LIVE = ("starting", "running")
START_SECONDS = 15.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class JobError(PodcycleError):
    code = "job_error"


class JobInputError(JobError):
    code = "job_bad_spec"


class JobDiffers(JobError):
    code = "job_differs"


class JobNotStarted(JobError):
    code = "job_not_started"


@dataclass(frozen=True)
class JobSpec:
    name: str
    command: list[str] = field(default_factory=list)
    chdir: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def check_name(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise JobInputError(f"job {self.name!r}: a job's name is 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit")

    def check(self) -> None:
        self.check_name()
        if not self.command or not self.command[0]:
            raise JobInputError(f"job {self.name}: the command is empty; give it as a list, the program first")
        for text in (*self.command, *self.environment, *self.environment.values()):
            if "\0" in text:
                raise JobInputError(f"job {self.name}: a NUL character stands in the command or its environment; no program can be given one")

    @property
    def sha256(self) -> str:
        text = json.dumps([self.command, self.chdir, self.environment], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Job:
    """One job's folder on this machine."""

    def __init__(self, spec: JobSpec, jobs_dir: Path) -> None:
        self.spec = spec
        self.jobs_dir = jobs_dir
        self.dir = jobs_dir / spec.name

    def record(self) -> dict[str, Any]:
        """The status file, with V(lost) where the runner is gone without having written an end."""
        status = runner.read_json(self.dir / "status.json")
        if status.get("state") in LIVE and not self._alive(status, "runner_pid", "runner_started"):
            # The end may have been written between the two readings.
            status = runner.read_json(self.dir / "status.json")
            if status.get("state") in LIVE:
                status["state"] = "lost"
        return status

    def start(self, *, check_mode: bool) -> tuple[bool, dict[str, Any]]:
        self.spec.check()
        if check_mode:
            status = self.record()
            would = self._must_start(status)
            return would, {**status, "name": self.spec.name, "state": "starting"} if would else status
        with self._locked():
            status = self.record()
            if not self._must_start(status):
                return False, status
            self._end_orphan(status)
            self._prepare(int(status.get("attempt") or 0) + 1)
            self._launch()
            return True, self._started()

    def cancel(self, grace_seconds: float, *, check_mode: bool) -> tuple[bool, dict[str, Any]]:
        self.spec.check_name()
        status = self.record()
        orphan = status.get("state") == "lost" and self._alive(status, "pid", "pid_started")
        if status.get("state") not in LIVE and not orphan:
            return False, status
        if check_mode:
            return True, {**status, "state": "cancelled"}
        with self._locked():
            runner.write_json(self.dir / "cancel.json", {"requested_at": runner.now(), "grace_seconds": grace_seconds}, sync=True)
            if orphan:
                self._end_orphan(status, grace_seconds)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(status["runner_pid"]), signal.SIGTERM)
        return True, self.record()

    def wait(self, seconds: float) -> dict[str, Any]:
        """The record once the job has ended, or the last one when the time is over."""
        end = time.monotonic() + seconds
        while True:
            status = self.record()
            if status.get("state") not in LIVE or time.monotonic() >= end:
                return status
            time.sleep(0.1)

    def log_tail(self, lines: int) -> list[str]:
        try:
            with (self.dir / "job.log").open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - 400 * lines))
                text = stream.read(400 * lines).decode("utf-8", errors="replace")
        except OSError:
            return []
        return text.splitlines()[-lines:] if lines else []

    def _must_start(self, status: dict[str, Any]) -> bool:
        same = status.get("spec_sha256") == self.spec.sha256
        if status.get("state") in LIVE and not same:
            raise JobDiffers(
                f"start job {self.spec.name}: another command is running under this name (pid {status.get('pid')}, since {status.get('started_at')}); "
                "wait for it, cancel it with state=cancelled, or use another name",
                job_dir=str(self.dir),
            )
        return not (same and (status.get("state") in LIVE or status.get("state") == "succeeded"))

    @staticmethod
    def _alive(status: dict[str, Any], pid_key: str, started_key: str) -> bool:
        pid = status.get(pid_key)
        return isinstance(pid, int) and pid > 1 and runner.process_started(pid) == status.get(started_key)

    def _end_orphan(self, status: dict[str, Any], grace_seconds: float = 10.0) -> None:
        """A command whose runner was killed must not go on beside its successor."""
        if not self._alive(status, "pid", "pid_started"):
            return
        pid = int(status["pid"])
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
            end = time.monotonic() + seconds
            while self._alive(status, "pid", "pid_started") and time.monotonic() < end:
                time.sleep(0.05)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.dir / ".lock").open("a", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            hint = "make room on that disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name another folder with jobs_dir"
            raise JobError(f"job {self.spec.name}: {self.dir} cannot be written: {error.strerror}", hint=hint) from error

    def _prepare(self, attempt: int) -> None:
        spec = {
            "name": self.spec.name,
            "command": self.spec.command,
            "chdir": self.spec.chdir,
            "environment": self.spec.environment,
            "sha256": self.spec.sha256,
            "attempt": attempt,
        }
        log = self.dir / "job.log"
        if log.exists():
            log.replace(self.dir / f"job.{attempt - 1}.log")
        for stale in ("status.json", "cancel.json", "progress.json", "runner.log"):
            (self.dir / stale).unlink(missing_ok=True)
        log.touch(mode=0o600)
        (self.dir / "spec.json").touch(mode=0o600)
        runner.write_json(self.dir / "spec.json", spec, sync=True)
        (self.dir / "spec.json").chmod(0o600)
        (self.dir / "runner.py").write_text(inspect.getsource(runner), encoding="utf-8")

    def _launch(self) -> None:
        with (self.dir / "runner.log").open("ab") as diary:
            subprocess.run(
                [sys.executable, str(self.dir / "runner.py"), str(self.dir)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=diary,
                timeout=START_SECONDS,
                check=False,
            )

    def _started(self) -> dict[str, Any]:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            status = runner.read_json(self.dir / "status.json")
            if status.get("state", "starting") != "starting":
                return self.record()
            time.sleep(0.02)
        words = (self.dir / "runner.log").read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "none"
        raise JobNotStarted(
            f"start job {self.spec.name}: its runner wrote no status in {self.dir} within {START_SECONDS:.0f} s; is the disk full? its last words: {words}",
            job_dir=str(self.dir),
        )


def public(status: dict[str, Any], job: Job) -> dict[str, Any]:
    """The record as it is returned: always the same keys, the folder and the log named."""
    keys = (
        "name", "state", "attempt", "pid", "runner_pid", "runner_started", "exit_code", "signal", "message",
        "cancel_requested", "started_at", "ended_at", "heartbeat_at", "active_at", "progress",
    )  # fmt: skip
    result = {key: status.get(key) for key in keys}
    result["name"] = job.spec.name
    result["state"] = status.get("state") or "absent"
    return {**result, "dir": str(job.dir), "log": str(job.dir / "job.log"), "command": shlex.join(job.spec.command) if job.spec.command else None}
