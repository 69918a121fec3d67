# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts about processes, read from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot: together with the pid it names one process for good."""
    fields = _stat_fields(pid)
    return None if fields is None else int(fields[19])


def alive(pid: int | None, started: int | None) -> bool:
    if not pid or not started:
        return False
    fields = _stat_fields(pid)
    return fields is not None and int(fields[19]) == started and fields[0] not in ("Z", "X")


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the command name; the first one is the state."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def descendants(root: int) -> list[int]:
    """All processes below root, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat_fields(int(entry))
            if fields is not None and fields[0] not in ("Z", "X"):
                children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    todo = list(children.get(root, []))
    while todo:
        pid = todo.pop(0)
        found.append(pid)
        todo.extend(children.get(pid, []))
    return found


def send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_tree(root: int, started: int | None) -> None:
    """SIGKILL a process and everything below it, unless the pid belongs to another process by now."""
    if not alive(root, started):
        return
    for _turn in range(20):
        below = descendants(root)
        for pid in below:
            send(pid, signal.SIGKILL)
        if not below:
            break
        time.sleep(0.01)
    send(root, signal.SIGKILL)


def wait_gone(pid: int, started: int | None, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid, started):
        if time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True


def listener_pid(port: int) -> int | None:
    """The process that listens on a loopback port, where /proc shows it."""
    inodes: set[str] = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            for link in os.listdir(f"/proc/{entry}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/fd/{link}") in inodes:
                        return int(entry)
    return None
