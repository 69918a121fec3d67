# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a job from the controller: one shell command a poll, and what its answer means.

Everything that a pod answers is a stranger's text: limited in size, stripped of control characters, never a template.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

LIVE = ("starting", "running")
ENDED = ("succeeded", "failed", "cancelled", "preempted", "lost")
MARK = "--podcycle--"
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NUMBERS = ("exit_code", "pid", "runner_pid", "runner_started", "attempt")
_TEXTS = ("state", "signal", "message", "started_at", "ended_at", "heartbeat_at", "active_at")


def clean(text: object, limit: int = 200) -> str:
    """One line that is safe on a terminal."""
    line = "".join(letter if letter.isprintable() else " " for letter in _SEQUENCE.sub(" ", str(text)[: 4 * limit])).rstrip()
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def poll_command(job_dir: str, log_bytes: int, wait_seconds: float = 0) -> str:
    """A POSIX shell line that prints clock, status, the supervisor's line in /proc and the log's end.

    It waits on the pod for as long as the job runs, up to V(wait_seconds) in steps of half a second, so that an end is seen at once.
    """
    folder = shlex.quote(job_dir)
    runner = r"""sed -n 's/.*"runner_pid": \([0-9]*\).*/\1/p' status.json"""
    ended = r"""grep -q '"ended_at": "' status.json"""
    wait = f"n={int(2 * wait_seconds)}; while [ $n -gt 0 ] && ! {ended}; do sleep 0.5; n=$((n-1)); done; " if wait_seconds else ""
    return (
        f"cd {folder} && {{ {wait}:; }} && date -u +%s && echo {MARK} && {{ cat /proc/$({runner})/stat 2>/dev/null || echo gone; }} && echo {MARK}"
        f" && head -c 65536 status.json && echo && echo {MARK} && tail -c {log_bytes} job.log"
    )


def latest_command(jobs_dir: str, log_bytes: int) -> str:
    """The same for the job that was started last below a folder, after a line with its name."""
    here = poll_command(".", log_bytes)
    return f'cd {shlex.quote(jobs_dir)} 2>/dev/null && cd -- "$(ls -td -- */ | head -n 1)" && basename "$PWD" && {here}'


@dataclass
class Look:
    """What one poll saw. V(readable) is false when the answer was not that of a job's folder."""

    readable: bool = False
    clock: float = 0.0
    state: str = "unknown"
    status: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def summary(self) -> str:
        progress = self.status.get("progress")
        if isinstance(progress, dict) and isinstance(progress.get("summary"), str):
            return clean(progress["summary"], 160)
        return self.last_line

    @property
    def last_line(self) -> str:
        return clean(next((line for line in reversed(self.log) if line.strip()), ""), 160)


def parse_poll(answer: str) -> Look:
    parts = answer.split(MARK, 3)
    if len(parts) != 4:
        return Look()
    clock, runner, raw, log = (part.strip("\r\n") for part in parts)
    try:
        status = json.loads(raw[:65536])
        look = Look(True, float(clock), log=[clean(line, 400) for line in log.splitlines()])
    except (ValueError, RecursionError):
        return Look()
    if not isinstance(status, dict):
        return Look()
    look.status = _plain(status)
    look.state = str(look.status.get("state") or "unknown")
    if look.state in LIVE and not _same_process(runner, look.status.get("runner_started")):
        look.state = "lost"
    return look


def _plain(status: dict[str, Any]) -> dict[str, Any]:
    """The known fields, each of its own type."""
    plain: dict[str, Any] = {key: status[key] if isinstance(status.get(key), int) and not isinstance(status[key], bool) else None for key in _NUMBERS}
    plain.update({key: clean(status[key], 400) if isinstance(status.get(key), str) else None for key in _TEXTS})
    plain["cancel_requested"] = status.get("cancel_requested") is True
    progress = status.get("progress")
    plain["progress"] = _plain_progress(progress) if isinstance(progress, dict) else None
    return plain


def tidy(job: dict[str, Any]) -> None:
    """What the module on the pod says of its job, made safe to show."""
    tail, progress = job.get("log_tail"), job.get("progress")
    job["log_tail"] = [clean(line, 400) for line in tail[:1000]] if isinstance(tail, list) else []
    job["progress"] = _plain_progress(progress) if isinstance(progress, dict) else None
    job.update({key: clean(job[key], 400) for key in _TEXTS if isinstance(job.get(key), str)})


def _plain_progress(progress: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in list(progress.items())[:50]:
        if isinstance(value, str):
            kept[clean(key, 40)] = clean(value, 200)
        elif value is None or isinstance(value, (bool, int, float)):
            kept[clean(key, 40)] = value
    return kept


def _same_process(line: str, started: object) -> bool:
    fields = line.rpartition(")")[2].split()
    return len(fields) > 19 and fields[0] not in "ZX" and fields[19] == str(started)


def seconds_since(stamp: object, clock: float) -> float | None:
    """Seconds from an RFC 3339 time to the pod's own clock."""
    try:
        moment = datetime.fromisoformat(str(stamp).replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, clock - moment.timestamp())


def silence(look: Look) -> float:
    """How long the job has shown no sign of life, by the pod's clock."""
    signs = [seconds_since(look.status.get("heartbeat_at"), look.clock)]
    if look.status.get("progress"):
        signs.append(seconds_since(look.status.get("active_at"), look.clock))
    return max((sign for sign in signs if sign is not None), default=0.0)


def verdict_sentence(name: str, host: str, look: Look) -> str:
    status = look.status
    ran = seconds_since(status.get("started_at"), look.clock)
    if status.get("ended_at"):
        ended = seconds_since(status["ended_at"], look.clock)
        ran = None if ran is None or ended is None else max(0.0, ran - ended)
    after = f" after {ran:.0f} s" if ran is not None else ""
    if look.state == "lost":
        return (
            f"job {name} on {host}: lost; its supervisor is gone and recorded no end (killed, or the pod was restarted). Run the stage again to start it anew"
        )
    cause = f"was ended by {status['signal']}" if status.get("signal") else f"ended with exit code {status.get('exit_code')}"
    if look.state == "cancelled":
        return f"job {name} on {host}: cancelled{after}; the command {cause}. Run the stage again to go on from its last checkpoint"
    if look.state == "preempted":
        return f"job {name} on {host}: stopped by the machine{after}; the command {cause}. Run the stage again to go on from its last checkpoint"
    if status.get("message"):
        return f"job {name} on {host}: {status['message']}"
    last = f"; its last line: {look.last_line}" if look.last_line else ""
    return f"job {name} on {host}: the command {cause}{after}{last}"
