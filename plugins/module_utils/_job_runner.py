# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one job alive on a pod: started as ``python3 runner.py JOB_DIR``, standard library only.

The job module writes this file's source into the job's folder and starts it; from then on it
depends on nothing but Python 3.10 and that folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 2.0
EXIT_CHECKPOINTED = 75
PROGRESS_LIMIT = 16384
DEFAULT_GRACE_SECONDS = 60.0
# Kept aside so that the end of a job can be written on a disk that the job has filled.
RESERVE_BYTES = 65536
FULL_BELOW_BYTES = 1 << 20
# In an environment that torch_env made: how it was proven.
TORCH_STAMP = ".podcycle-torch.json"
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
_PR_SET_PDEATHSIG = 1


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def process_started(pid: int) -> int | None:
    """The start time of a living process in clock ticks since boot; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie keeps its entry in /proc until its parent has asked for its end.
    return None if fields[0] in "ZX" else int(fields[19])


def write_json(path: Path, value: dict[str, Any], *, sync: bool = False) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as stream:
        json.dump(value, stream)
        if sync:
            stream.flush()
            os.fsync(stream.fileno())
    part.replace(path)


def read_json(path: Path, limit: int = 65536) -> dict[str, Any]:
    """The JSON object in a file; empty when the file is missing, too long, torn or something else."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
        value = json.loads(raw) if len(raw) <= limit else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def out_of_memory_kills() -> int:
    """How many processes of this container the kernel has ended for want of memory; 0 where it does not say."""
    try:
        lines = MEMORY_EVENTS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ") and line.split()[1].isdigit()), 0)


def wake(number: int, frame: object) -> None:
    """Nothing to do here: that the signal came is read from the wake-up pipe."""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Runner:
    def __init__(self, job_dir: Path) -> None:
        self.job_dir = job_dir
        self.spec = read_json(job_dir / "spec.json", limit=4 << 20)
        self.progress_file = job_dir / "progress.json"
        self.reserve = job_dir / ".reserve"
        self.oom_kills = out_of_memory_kills()
        self.stop_at: float | None = None
        self.killed = False
        self.seen: tuple[int, int] = (0, 0)
        self.status: dict[str, Any] = {
            "name": self.spec.get("name", job_dir.name),
            "state": "starting",
            "spec_sha256": self.spec.get("sha256"),
            "attempt": self.spec.get("attempt", 1),
            "runner_pid": os.getpid(),
            "runner_started": process_started(os.getpid()),
            "pid": None,
            "pid_started": None,
            "exit_code": None,
            "signal": None,
            "message": None,
            "cancel_requested": False,
            "started_at": now(),
            "ended_at": None,
            "heartbeat_at": now(),
            "active_at": now(),
            "progress": None,
        }
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)

    def write(self, *, sync: bool = False, **changes: Any) -> None:
        self.status.update(changes, heartbeat_at=now())
        # A full disk must not end the job: the next heartbeat tries again, and the last word takes the reserve's place.
        for _try in range(2):
            try:
                write_json(self.job_dir / "status.json", self.status, sync=sync)
                return
            except OSError:
                if self.status["ended_at"] is None:
                    return
                self.reserve.unlink(missing_ok=True)

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, wake)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        self.progress_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.reserve.write_bytes(bytes(RESERVE_BYTES))
        self.write(sync=True)
        try:
            child = self.launch()
        except (OSError, ValueError) as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            self.write(sync=True, state="failed", exit_code=code, ended_at=now(), message=f"the command could not be started: {error}")
            return
        self.write(sync=True, state="running", pid=child.pid, pid_started=process_started(child.pid))
        self.watch(child)
        self.finish(child)

    def launch(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.spec.get("environment", {}), "PODCYCLE_PROGRESS_FILE": str(self.progress_file)}
        # What forward compatibility needs; a job has no login shell that would set it.
        library = read_json(Path(self.spec["command"][0]).parent.parent / TORCH_STAMP).get("library_path")
        if library:
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (str(library), environment.get("LD_LIBRARY_PATH"))))
        with (self.job_dir / "job.log").open("ab") as log:
            return subprocess.Popen(
                self.spec["command"],
                cwd=self.spec.get("chdir") or self.job_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        # WNOWAIT leaves the zombie, so that its process group cannot be given to a stranger before finish() has ended it.
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            ready = select.select([self.wake_read], [], [], self.pause())[0]
            if ready and signal.SIGTERM in os.read(self.wake_read, 4096):
                self.ask_to_stop(child)
            self.look(child)

    def pause(self) -> float:
        if self.stop_at is None or self.killed:
            return HEARTBEAT_SECONDS
        return min(HEARTBEAT_SECONDS, max(0.05, self.stop_at - time.monotonic()))

    def look(self, child: subprocess.Popen[bytes]) -> None:
        """One heartbeat: a cancel that was asked, a grace that ran out, progress."""
        if self.stop_at is None and (self.job_dir / "cancel.json").exists():
            self.ask_to_stop(child)
        if self.stop_at is not None and not self.killed and time.monotonic() >= self.stop_at:
            self.killed = True
            self.signal_group(child, signal.SIGKILL)
        self.read_progress()
        self.write()

    def ask_to_stop(self, child: subprocess.Popen[bytes]) -> None:
        request = self.job_dir / "cancel.json"
        if request.exists():
            self.status["cancel_requested"] = True
        if self.stop_at is not None:
            return
        grace = read_json(request).get("grace_seconds", DEFAULT_GRACE_SECONDS)
        self.stop_at = time.monotonic() + float(grace)
        # Only the leader: a shell or launcher passes the signal on, and workers of a trainer must not die before it has saved.
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)

    def signal_group(self, child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)

    def read_progress(self) -> None:
        try:
            log_size = (self.job_dir / "job.log").stat().st_size
        except OSError:
            log_size = 0
        try:
            stamp = self.progress_file.stat().st_mtime_ns
        except OSError:
            stamp = 0
        if (stamp, log_size) == self.seen:
            return
        grown = log_size != self.seen[1]
        before = self.status["progress"]
        if stamp and stamp != self.seen[0]:
            self.status["progress"] = read_json(self.progress_file, PROGRESS_LIMIT) or before
        self.seen = (stamp, log_size)
        # A program that keeps its file fresh by a thread says in active_ts when its work itself last got on.
        word = (self.status["progress"] or {}).get("active_ts")
        if grown or word is None or word != (before or {}).get("active_ts"):
            self.status["active_at"] = now()

    def finish(self, child: subprocess.Popen[bytes]) -> None:
        self.read_progress()
        # What the command left behind in its group would hold the GPU.
        self.signal_group(child, signal.SIGKILL)
        code = child.wait()
        if (self.job_dir / "cancel.json").exists() and self.stop_at is not None:
            self.status["cancel_requested"] = True
        self.write(
            sync=True,
            state=self.verdict(code),
            exit_code=code if code >= 0 else 128 - code,
            signal=signal.Signals(-code).name if code < 0 else None,
            message=self.cause(code),
            ended_at=now(),
        )
        self.reserve.unlink(missing_ok=True)

    def cause(self, code: int) -> str | None:
        """What the machine knows of a failure and the command could not say."""
        if self.verdict(code) != "failed":
            return None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            sure = out_of_memory_kills() > self.oom_kills
            return f"the command {how}: {'it ran out of memory' if sure else 'somebody did so, or the kernel because memory ran out'}"
        try:
            disk = os.statvfs(self.job_dir)
        except OSError:
            return None
        if disk.f_bavail * disk.f_frsize < FULL_BELOW_BYTES:
            return f"the command {how}, and the disk that holds {self.job_dir} is full; ask for a larger one with disk_gib or volume_gib"
        return None

    def verdict(self, code: int) -> str:
        if code == 0:
            return "succeeded"
        if self.status["cancel_requested"]:
            return "cancelled"
        if code == EXIT_CHECKPOINTED or self.stop_at is not None:
            return "preempted"
        return "failed"


def detach() -> bool:
    """Leave the caller's session for good; true in the process that goes on."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    # The second standard stream is the runner's own diary, opened by the job module.
    os.closerange(3, 4096)
    return True


def main() -> None:
    job_dir = Path(sys.argv[1])
    os.chdir(job_dir)
    if detach():
        Runner(job_dir).run()


if __name__ == "__main__":
    main()
