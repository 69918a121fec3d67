# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CUTLASS source tree as its files tell it, without git and without network."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ._machine import read_text

STAMP = ".podcycle-cutlass.json"
SCHEMA = 1
VERSION_HEADER = Path("include", "cutlass", "version.h")
# What a compiler reads from a tree; the rest is examples, tests and documents.
HEADERS = ("include", "tools/util/include")


def tree_version(tree: Path) -> str | None:
    """V(4.2.0) from include/cutlass/version.h."""
    text = read_text(tree / VERSION_HEADER)
    numbers = [re.search(rf"^#define\s+CUTLASS_{word}\s+(\d+)", text, re.MULTILINE) for word in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number.group(1) for number in numbers if number) if all(numbers) else None


def head_commit(tree: Path) -> str | None:
    """The commit that HEAD names, read from git's own files."""
    git = tree / ".git"
    head = read_text(git / "HEAD").strip()
    if not head.startswith("ref: "):
        return head if re.fullmatch(r"[0-9a-f]{40}", head) else None
    name = head.removeprefix("ref: ")
    loose = read_text(git / name).strip()
    packed = re.search(rf"^([0-9a-f]{{40}}) {re.escape(name)}$", read_text(git / "packed-refs"), re.MULTILINE)
    return loose or (packed.group(1) if packed else None)


def read_stamp(tree: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(read_text(tree / STAMP, 1 << 24))
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA and isinstance(record.get("files"), dict) else None


def manifest(tree: Path) -> dict[str, int]:
    """Size of every header."""
    found: dict[str, int] = {}
    base = str(tree)
    for part in HEADERS:
        for folder, _folders, names in os.walk(os.path.join(base, part)):
            for name in names:
                path = os.path.join(folder, name)
                found[path[len(base) + 1 :]] = os.lstat(path).st_size
    return found


def every_file(tree: Path) -> dict[str, list[int]]:
    """Size and time of each file but git's own and the stamp."""
    found: dict[str, list[int]] = {}
    base = str(tree)
    for folder, folders, names in os.walk(base):
        if folder == base and ".git" in folders:
            folders.remove(".git")
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)[len(base) + 1 :]] = [status.st_size, status.st_mtime_ns]
    found.pop(STAMP, None)
    return found


def holds_only_what_came(tree: Path) -> bool:
    """Whether nothing in a tree can be somebody's work: no file that is new or changed, no other commit, no branch, no stash."""
    record = read_stamp(tree)
    if record is None or not isinstance(record.get("came"), dict) or head_commit(tree) != record.get("commit"):
        return False
    git = tree / ".git"
    if (git / "refs" / "stash").exists() or any(path.is_file() for path in (git / "refs" / "heads").rglob("*")):
        return False
    return all(record["came"].get(name) == mark for name, mark in every_file(tree).items())


def tree_trouble(tree: Path, record: dict[str, Any]) -> str | None:
    """What is no longer as it was stamped, else None."""
    commit = head_commit(tree)
    if commit != record.get("commit"):
        return f"HEAD is at {commit or 'nothing'}, not at {record.get('commit')}"
    found, wanted = manifest(tree), record["files"]
    if found == wanted:
        return None
    for word, names in (("missing", wanted.keys() - found.keys()), ("new", found.keys() - wanted.keys())):
        if names:
            return f"{len(names)} headers are {word}, such as {min(names)}"
    changed = sorted(name for name in wanted if found[name] != wanted[name])
    return f"{len(changed)} headers are changed, such as {changed[0]}"


def read_tree(tree: Path) -> dict[str, Any] | None:
    """Version, commit, ref and whether it is untouched; null where there is no CUTLASS."""
    version = tree_version(tree)
    if version is None:
        return None
    record = read_stamp(tree)
    clean = tree_trouble(tree, record) is None if record else None
    return {"path": str(tree), "version": version, "commit": head_commit(tree), "ref": record.get("ref") if record else None, "clean": clean}
