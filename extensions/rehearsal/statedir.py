# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state folder: whose it is, and what runs from it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from rehearsal import VERSION, procs

MARKER = "podcycle-rehearsal.json"


class StateDirError(Exception):
    """The folder cannot be used; the sentence says why."""


def claim(path: Path) -> None:
    """Make the folder ours, or refuse: what is not empty and lacks our marker belongs to somebody else."""
    if path.exists() and not path.is_dir():
        raise StateDirError(f"the state folder {path} is a file; name another one with --state-dir")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = path / MARKER
    if not marker.exists():
        if any(path.iterdir()):
            raise StateDirError(f"the folder {path} is not empty and was not made by the rehearsal cloud; name another one with --state-dir")
        marker.write_text(json.dumps({"kind": "rehearsal cloud of podcycle.gpu", "version": VERSION}) + "\n", encoding="utf-8")
    path.chmod(0o700)
    for name in ("run", "pods"):
        (path / name).mkdir(exist_ok=True)


def is_ours(path: Path) -> bool:
    return (path / MARKER).is_file()


def server_holds(path: Path) -> bool:
    """Whether an API server runs from this folder."""
    lock = path / "run" / "server.lock"
    if not lock.exists():
        return False
    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def read_record(path: Path, name: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((path / "run" / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def end_processes(path: Path) -> int:
    """End the zygote and every pod of this folder, with or without a server; answers how many were ended."""
    ended = 0
    for pid, started in supervisors(path):
        if procs.alive(pid, started):
            procs.kill_tree(pid, started)
            procs.wait_gone(pid, started, 3.0)
            ended += 1
    zygote = read_record(path, "zygote.json")
    if zygote is not None and procs.alive(zygote["pid"], zygote["pid_started"]):
        procs.kill_tree(zygote["pid"], zygote["pid_started"])
        procs.wait_gone(zygote["pid"], zygote["pid_started"], 3.0)
        ended += 1
    return ended


def supervisors(path: Path) -> list[tuple[int, int]]:
    """Supervisors are known by the records of the store."""
    if not (path / "cloud.sqlite").exists():
        return []
    from rehearsal.store import Store

    store = Store(path / "cloud.sqlite")
    found = [(pod.pid, pod.pid_started) for pod in store.load_pods() if pod.pid and pod.pid_started]
    store.close()
    return [(pid, started) for pid, started in found if pid and started]


def wipe(path: Path) -> None:
    """Back to an empty folder of ours."""
    for entry in list(path.iterdir()):
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    claim(path)
