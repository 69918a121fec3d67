# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders that are made aside and put in place whole, one maker at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait for whoever else works on this folder; two names of one folder need one lock."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(folder: Path) -> None:
    """Remove what a maker that was killed after its last step has left beside a whole folder; nothing while another one is at work."""
    stale = list(folder.parent.glob(f".{folder.name}.part-*"))
    if not stale:
        return
    with contextlib.suppress(OSError), (folder.resolve().parent / f".{folder.resolve().name}.lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for part in stale:
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """A new sibling to build in; what killed makers have left behind goes first. Only for whoever holds the lock."""
    for stale in folder.parent.glob(f".{folder.name}.part-*"):
        shutil.rmtree(stale, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.part-", dir=folder.parent))
    part.chmod(0o755)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_in_place(made: Path, folder: Path, part: Path) -> None:
    """The new folder takes the old one's name; the old one goes into C(part), which is about to be removed."""
    if folder.is_symlink() or folder.exists():
        folder.rename(part / ".replaced")
    made.rename(folder)
    sync(folder.parent)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Written aside, forced to the disk, then renamed: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def read_json(path: Path, schema: int) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == schema else None


def sync(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def point_link(link: Path, target: Path) -> None:
    """A symbolic link that is replaced in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)
