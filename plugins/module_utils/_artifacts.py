# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on one side of a transfer: listed by pattern, hashed, and nothing but plain files inside the root."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_CHUNK = 4 * 1024 * 1024
SCP_PARTIAL = ".scp-partial"
RSYNC_PARTIAL = ".rsync-partial"


def safe_relative(path: str) -> bool:
    """Whether a path that a stranger sent stays inside a folder and prints well."""
    return bool(path) and not path.startswith("/") and path.isprintable() and len(path) < 1000 and not any(part in ("", ".", "..") for part in path.split("/"))


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def survey(root: Path, patterns: Iterable[str], max_bytes: int, *, exclude: Iterable[str] = (), hashed: bool = True) -> dict[str, Any]:
    """The plain files under `root` that match, with size and sha256, and what was refused and why."""
    wanted, unwanted = list(patterns), list(exclude)
    files: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for path, relative in _walk(root):
        if not chosen(relative, wanted, unwanted):
            continue
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            refused.append({"path": relative[:300], "why": "not a plain file"})
        elif not safe_relative(relative):
            refused.append({"path": ascii(relative)[:300], "why": "an unsafe name"})
        elif info.st_size > max_bytes:
            refused.append({"path": relative, "why": f"{info.st_size} bytes, more than {max_bytes}"})
        else:
            files.append({"path": relative, "size": info.st_size, **({"sha256": sha256_of(path)} if hashed else {})})
    return {"exists": root.is_dir(), "files": sorted(files, key=lambda row: str(row["path"])), "refused": refused}


def chosen(relative: str, patterns: Iterable[str], exclude: Iterable[str]) -> bool:
    return any(matches(relative, pattern) for pattern in patterns) and not any(matches(relative, pattern) for pattern in exclude)


def matches(relative: str, pattern: str) -> bool:
    """Like a shell's pattern, except that a star also crosses folders."""
    return fnmatch.fnmatchcase(relative, pattern)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    for folder, folders, names in os.walk(root, followlinks=False):
        # What a transfer that broke off has left is no file of anybody's.
        folders[:] = sorted(name for name in folders if name not in (SCP_PARTIAL, RSYNC_PARTIAL))
        for name in names + [name for name in folders if (Path(folder) / name).is_symlink()]:
            path = Path(folder) / name
            yield path, path.relative_to(root).as_posix()
