# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role has brought about on a machine, signed for, so that one look tells whether all of it still stands.

A receipt holds the digest of what was wanted, and of every file of it the kind, mode, owner, size, time and target, and of the folders on the
way there mode and owner; of a file that others write into as well only our block, and of the system's lists of packages and accounts only
the entries that were wanted. Of a process that has to run it holds the lock that it keeps, since systemd and supervisor start it again as
another. A file that was changed, replaced or lost, another driver, a lock that nobody holds: then it does not stand, and the role works.
SCHEMA rises when the same wish would be brought about in another way, or is signed for in another way.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

from . import _standing
from ._aside import read_json, write_json
from ._blocks import block_of
from ._errors import PodcycleError, UsageError
from ._shell_env import MARKER, SYSTEM_BASHRC, SYSTEM_PROFILE

SCHEMA = 9
FOLDER = ".podcycle/receipts"
PARTS = ".podcycle/stack/parts.json"
# A program that was started a moment ago has to read its files before it takes its lock.
_START_SECONDS = 10.0
# Python and git write into these when they only read.
_RESTLESS = frozenset({"__pycache__", ".git"})
_MASKING = (".bash_profile", ".bash_login")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


def signature(path: str) -> list[Any] | None:
    """None for what is not there. Folders change with what is put into them, and are known by their mode and owner; links by where they lead, if anywhere."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    about = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
    if stat.S_ISDIR(status.st_mode):
        return about
    target = [os.readlink(path), os.path.exists(path)] if stat.S_ISLNK(status.st_mode) else [""]
    return [*about, status.st_size, status.st_mtime_ns, *target]


def tree_digest(top: str) -> str | None:
    """One digest over all files below a folder and the folders that lead to them; None for what is no folder."""
    if not os.path.isdir(top):
        return None
    real = os.path.realpath(top)
    status = os.stat(real)
    lines = [f"{status.st_mode}\0{status.st_uid}\n"]
    _entries(real, "", lines)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _entries(folder: str, below: str, lines: list[str]) -> None:
    try:
        with os.scandir(folder) as rows:
            found = sorted(rows, key=lambda row: row.name)
    except PermissionError:
        return
    for row in found:
        status, name = row.stat(follow_symlinks=False), f"{below}/{row.name}"
        if not stat.S_ISDIR(status.st_mode):
            target = os.readlink(row.path) if stat.S_ISLNK(status.st_mode) else ""
            lines.append(f"{name}\0{status.st_mode}\0{status.st_uid}\0{status.st_size}\0{status.st_mtime_ns}\0{target}\n")
        elif row.name not in _RESTLESS:
            before = len(lines)
            lines.append(f"{name}\0{status.st_mode}\0{status.st_uid}\n")
            _entries(row.path, name, lines)
            # Of a folder without files nothing came.
            if len(lines) == before + 1:
                lines.pop()


def touched(top: str, since: float) -> tuple[str, bool]:
    """A path below a folder that was written after that time, to show a person where to look, and whether it is a folder of which only mode or owner changed.

    A file comes first, then a folder with another mode, then one that lost a file. The time of a file's inode comes last: it also moves when a
    cache that shares the file links it elsewhere.
    """
    folders, restated, closed = "", "", ""
    for folder, below, names in os.walk(os.path.realpath(top)):
        below[:] = sorted(set(below) - _RESTLESS)
        for name in sorted([*names, *(name for name in below if os.path.islink(os.path.join(folder, name)))]):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if status.st_mtime > since:
                    return path, False
                restated = restated or (path if status.st_ctime > since else "")
        with contextlib.suppress(OSError):
            status = os.lstat(folder)
            folders = folders or (folder if status.st_mtime > since else "")
            closed = closed or (folder if status.st_ctime > since >= status.st_mtime else "")
    return closed or folders or restated, bool(closed) and not folders


def _block(path: str, marker: str) -> str | None:
    """Our block of that marker, and nothing about the file that it is in."""
    try:
        return block_of(Path(path).read_text(encoding="utf-8", errors="surrogateescape"), marker)
    except OSError:
        return None


def block_signature(path: str) -> str | None:
    """Our block in a start file of the shells. Empty where a login file has none and keeps bash from the .profile that has it."""
    found = _block(path, MARKER)
    if found is None and os.path.basename(path) in _MASKING and os.path.exists(path) and block_signature(os.path.join(os.path.dirname(path), ".profile")):
        return ""
    return found


def own_block(path: str, marker: str) -> list[Any] | None:
    """Our block of that marker, and the mode and owner of the file that it is in; None where there is none."""
    found = _block(path, marker)
    try:
        status = os.stat(path)
    except OSError:
        return None
    return None if found is None else [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, found]


def held(path: str) -> bool:
    """Whether a process holds the lock (flock) on that file. Who only asks stands in nobody's way for longer than a moment."""
    try:
        with open(path, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def taken(locks: list[str]) -> bool:
    """Wait until each of them is held, as long as starting may take."""
    end = time.monotonic() + _START_SECONDS
    while not all(map(held, locks)):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


def shell_files(workspace: str) -> list[str]:
    """The files that are ours alone, by which every shell learns of the stack, in either scope."""
    return [f"{workspace}/.podcycle/env.sh", SYSTEM_PROFILE]


def shared_shell_files(home: str) -> list[str]:
    """Those that others write into as well."""
    return [SYSTEM_BASHRC, *(f"{home}/{name}" for name in (".bashrc", ".profile", *_MASKING))]


def sign(workspace: Path, name: str, wanted: dict[str, Any], machine: dict[str, str]) -> dict[str, Any]:
    """The receipt for what stands now."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"sign for {name!r}: a receipt's name is lower-case letters, digits and underscores")
    paths = list(wanted.get("paths") or [])
    trees = list(wanted.get("trees") or [])
    blocks: list[str] = []
    if wanted.get("shell"):
        paths += shell_files(str(workspace))
        blocks = shared_shell_files(os.path.expanduser("~"))
        # Its own part of the environment: that of another role may change and this one stands.
        paths += sorted(str(path) for path in (workspace / ".podcycle/env.d").glob(f"*-{name}.sh"))
    marked = {str(path): str(marker) for path, marker in (wanted.get("blocks") or {}).items()}
    hooks = {str(path): str(marker) for path, marker in (wanted.get("hooks") or {}).items()}
    node = dict(wanted.get("node") or {})
    locks = list(wanted.get("locks") or [])
    for path in (*paths, *trees, *marked, *hooks, *locks):
        if not os.path.isabs(path):
            raise UsageError(f"sign for {name}: {path!r} is no absolute path")
    return {
        "schema": SCHEMA,
        "digest": str(wanted["digest"]),
        "machine": machine,
        "paths": {path: signature(path) for path in paths},
        "blocks": {path: block_signature(path) for path in blocks},
        "own_blocks": {path: [marker, own_block(path, marker)] for path, marker in marked.items()},
        "hooks": {path: [marker, _block(path, marker)] for path, marker in hooks.items()},
        "node": {"wanted": node, "sources": {path: signature(path) for path in _standing.sources(node)}, "found": _standing.standing(node)},
        "trees": {tree: tree_digest(tree) for tree in trees},
        "locks": locks,
    }


def sign_all(workspace: Path, wanted: dict[str, Any], stack: dict[str, Any], *, write: bool) -> list[str]:
    """Sign for each, and name those whose receipt was not there in these words."""
    machine = machine_of(stack["parts"])
    for name, one in wanted.items():
        if not isinstance(one, dict) or not one.get("digest"):
            raise UsageError(f"sign for {name}: a receipt is a dictionary with at least a digest")
    receipts = {name: sign(workspace, name, one, machine) for name, one in wanted.items()}
    signed = [name for name, receipt in receipts.items() if read_json(workspace / FOLDER / f"{name}.json", SCHEMA) != receipt]
    if write:
        # Also one that says the same, for its time: what was set right before this is no place to look at.
        for name, receipt in receipts.items():
            write_json(workspace / FOLDER / f"{name}.json", receipt)
        write_json(workspace / PARTS, {"schema": SCHEMA, "parts": stack["parts"]})
        # What was signed a moment ago stands, unless a process did not come up.
        for name, receipt in receipts.items():
            faults = [] if taken(receipt["locks"]) else _unheld(receipt["locks"])
            stack.setdefault("receipts", {})[name] = _judged(receipt["digest"], faults)
    return signed


def signed_parts(workspace: Path) -> dict[str, str]:
    """The parts of the stack when it was last signed for; empty when it never was."""
    record = read_json(workspace / PARTS, SCHEMA) or {}
    return {str(part): str(value) for part, value in (record.get("parts") or {}).items()}


def sign_set_up(workspace: Path, wanted: dict[str, Any]) -> None:
    """Sign for what a start script has left, on the machine that the stack was last signed for on."""
    parts = signed_parts(workspace)
    if parts:
        write_json(workspace / FOLDER / "pod_setup.json", sign(workspace, "pod_setup", wanted, machine_of(parts)))


def broken(receipts: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows, as drift has them, of all that does not stand although its version may be right."""
    return [{"part": name, "expected": "as it was signed for", "found": fault} for name, one in sorted(receipts.items()) for fault in one["faults"]]


def differs(receipt: dict[str, Any], machine: dict[str, str], since: float = 0.0) -> list[str]:
    """All why a receipt does not stand any more. It was signed at C(since)."""
    if receipt.get("schema") != SCHEMA:
        return ["signed by another version of the collection"]
    faults = []
    if receipt.get("machine") != machine:
        changed = [part for part in machine if machine[part] != (receipt.get("machine") or {}).get(part)]
        faults.append(f"another machine: {', '.join(changed) or 'unknown'}")
    faults += _unheld(receipt["locks"])
    seen: list[tuple[str, Any, Any]] = [(path, was, signature(path)) for path, was in receipt["paths"].items()]
    seen += [(f"the block {marker} in {path}", was, own_block(path, marker)) for path, (marker, was) in receipt["own_blocks"].items()]
    seen += [(f"the block {marker} in {path}", was, _block(path, marker)) for path, (marker, was) in receipt["hooks"].items()]
    faults += [_told(what, was, found) for what, was, found in seen if found != was]
    for path, block in receipt["blocks"].items():
        text = block_signature(path)
        if text != block:
            faults.append(f"the block {MARKER} in {path} {'was changed' if text else 'is missing'}")
    faults += _node_faults(receipt["node"])
    faults += [_tree_fault(tree, was, found, since) for tree, was in receipt["trees"].items() if (found := tree_digest(tree)) != was]
    return faults


def _tree_fault(tree: str, was: str | None, found: str | None, since: float) -> str:
    if was is None or found is None:
        return _told(tree, was, found)
    where, closed = touched(tree, since) if since else ("", False)
    return f"the mode or the owner of {where} was changed" if closed else f"files below {tree} were changed{': look at ' if where else ''}{where}"


def _unheld(locks: list[str]) -> list[str]:
    return [f"no process holds {path}" for path in locks if not held(path)]


def _told(what: str, was: Any, found: Any) -> str:
    return f"{what} is missing" if found is None else f"{what} is there and was not" if was is None else f"{what} was changed"


def _node_faults(node: dict[str, Any]) -> list[str]:
    wanted = node["wanted"]
    # The system's lists are read only when one of them was written since.
    if all(signature(path) == was for path, was in node["sources"].items()) and not _standing.lost(wanted):
        return []
    found = _standing.standing(wanted)
    return [_told(what, was, found.get(what)) for what, was in node["found"].items() if not _standing.same(was, found.get(what))]


def _judged(digest: str, faults: list[str]) -> dict[str, Any]:
    return {"digest": digest[:128], "stands": not faults, "why": "; ".join(faults)[:300], "faults": [fault[:300] for fault in faults]}


def read_all(workspace: Path, machine: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Each receipt's digest, and whether everything it stands for is as it was."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((workspace / FOLDER).glob("*.json")):
        try:
            receipt = json.loads(path.read_text(encoding="utf-8"))
            faults = differs(receipt, machine, path.stat().st_mtime)
            digest = str(receipt["digest"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, PodcycleError):
            digest, faults = "", ["the receipt cannot be read"]
        found[path.stem] = _judged(digest, faults)
    return found


def machine_of(parts: dict[str, str]) -> dict[str, str]:
    """What a machine must still have for a receipt to stand; a volume may come back to another one."""
    return {part: parts.get(part, "none") for part in ("os", "arch", "driver", "gpu.count", "gpu.names", "gpu.compute_capability")}
