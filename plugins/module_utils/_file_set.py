# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders, files, links and marked blocks, compared and written in one go.

Everything is looked at before anything is written; each file is written aside and renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import re
import shutil
import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ._blocks import marks, merge_block, remove_block
from ._errors import PodcycleError
from ._secrets import masked

STATES = ("file", "folder", "link", "block", "absent")
_MODE = re.compile(r"0[0-7]{3,4}")
_NOBODY = -1
# What a diff shows of a file's content.
_SHOWN_LINES, _SHOWN_BYTES, _COMPARED_BYTES = 60, 4096, 200_000


class FileSetError(PodcycleError):
    code = "file_set"


class FileSetInput(FileSetError):
    code = "bad_input"


@dataclass(frozen=True)
class Entry:
    """One wanted path. What is None is left as it is; what is V(hidden) has secrets among its exports that no diff shows."""

    path: str
    state: str = "file"
    content: str | None = None
    mode: str | None = None
    owner: str | None = None
    group: str | None = None
    target: str | None = None
    marker: str | None = None
    text: str | None = None
    at: str = "bottom"
    recursive: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Seen:
    """A path as it is, or as it is to be."""

    kind: str = "absent"
    content: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""


@dataclass(frozen=True)
class Change:
    path: Path
    before: Seen
    after: Seen
    names: dict[str, str] = field(default_factory=dict)
    recursive: bool = False
    hidden: bool = False

    def diff(self) -> dict[str, str]:
        before, after = self._text(self.before, self.after, {}), self._text(self.after, self.before, self.names)
        if self.hidden:
            other = self.before.kind == self.after.kind and self.before.content != self.after.content and masked(before) == masked(after)
            before, after = masked(before), masked(after) + ("# What is hidden is another value.\n" if other else "")
        return {"before_header": str(self.path), "after_header": str(self.path), "before": before, "after": after}

    def _text(self, this: Seen, other: Seen, names: dict[str, str]) -> str:
        if this.kind == "absent":
            return ""
        lines = [] if this.kind == other.kind == "file" else [f"state: {this.kind}"]
        if this.kind == "link":
            return f"state: link\ntarget: {this.target}\n"
        if this.mode != other.mode or other.kind == "absent":
            lines.append(f"mode: {this.mode:04o}")
        if this.uid != other.uid:
            lines.append(f"owner: {names.get('owner') or _name_of(this.uid, user=True)}")
        if this.gid != other.gid:
            lines.append(f"group: {names.get('group') or _name_of(this.gid, user=False)}")
        head = "".join(f"{line}\n" for line in lines)
        return head + _shown(this.content, other.content) if this.kind == "file" and this.content != other.content else head


class FileSet:
    def __init__(self, entries: list[Entry], root: Path = Path("/"), *, check_mode: bool = False) -> None:
        self.entries = entries
        self.root = root
        self.check_mode = check_mode
        for entry in entries:
            check_entry(entry)

    def converge(self) -> list[Change]:
        """Compare, and write what differs. A file that somebody else changes meanwhile is looked at again."""
        for _try in range(3):
            changes = self.plan()
            if self.check_mode:
                return changes
            if all(read_path(change.path) == change.before for change in changes):
                break
        for change in changes:
            write_change(change)
        return changes

    def plan(self) -> list[Change]:
        first: dict[Path, Seen] = {}
        last: dict[Path, Change] = {}
        for entry in self.entries:
            path = self._place(entry)
            before = last[path].after if path in last else read_path(path)
            first.setdefault(path, before)
            after, names = self._wanted(entry, path, before)
            last[path] = Change(path, first[path], after, names, entry.recursive, entry.hidden)
        return [change for change in last.values() if change.before != change.after]

    def _place(self, entry: Entry) -> Path:
        path = self.root / entry.path.lstrip("/") if self.root != Path("/") else Path(entry.path)
        # What a person made a link is written where it points to.
        if entry.state == "folder" and path.is_dir() or entry.state == "block" or (entry.state == "absent" and entry.marker):
            real = Path(os.path.realpath(path))
            if self.root != Path("/") and not real.is_relative_to(Path(os.path.realpath(self.root))):
                raise FileSetError(f"write {path}: it is a link to {real}, outside of {self.root}; replace the link")
            return real
        return path

    def _wanted(self, entry: Entry, path: Path, before: Seen) -> tuple[Seen, dict[str, str]]:
        if entry.state == "absent":
            return self._without(entry, path, before), {}
        kind = "file" if entry.state == "block" else entry.state
        _refuse_kind(path, before, kind)
        if kind == "link":
            return Seen("link", target=str(entry.target)), {}
        fresh = before.kind == "absent"
        base = before if not fresh else Seen(kind, b"", 0o755 if kind == "folder" else 0o644, os.geteuid(), _group_of_new(path))
        content = base.content
        if entry.state == "block":
            content = merge_block(content.decode("utf-8", "surrogateescape"), str(entry.marker), str(entry.text), entry.at).encode("utf-8", "surrogateescape")
        elif entry.state == "file" and entry.content is not None:
            content = entry.content.encode("utf-8", "surrogateescape")
        uid = base.uid if entry.owner is None else self._id(entry.owner, path, user=True)
        gid = base.gid if entry.group is None else self._id(entry.group, path, user=False)
        mode = base.mode if entry.mode is None else int(entry.mode, 8)
        names = {key: name for key, name in (("owner", entry.owner), ("group", entry.group)) if name}
        return Seen(kind, content, mode, uid, gid), names

    @staticmethod
    def _without(entry: Entry, path: Path, before: Seen) -> Seen:
        if entry.marker:
            if before.kind != "file":
                return before
            text = before.content.decode("utf-8", "surrogateescape")
            rest = remove_block(text, entry.marker)
            return before if rest == text else Seen() if not rest.strip() else replace(before, content=rest.encode("utf-8", "surrogateescape"))
        if before.kind == "folder" and not entry.recursive and any(path.iterdir()):
            raise FileSetError(f"remove the folder {path}: it is not empty; say recursive if all of it is to go")
        return Seen()

    def _id(self, name: str, path: Path, *, user: bool) -> int:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid if user else grp.getgrnam(name).gr_gid
        if name.isdigit():
            return int(name)
        if self.check_mode:
            return _NOBODY
        what = "user" if user else "group"
        raise FileSetError(f"give {path} to {name}: this machine has no {what} of that name; make the {what} first")


def check_entry(entry: Entry) -> None:
    where = f"the entry {entry.path!r}"
    if not entry.path.startswith("/") or "\0" in entry.path or ".." in Path(entry.path).parts:
        raise FileSetInput(f"{where}: a path begins with / and holds no ..")
    if entry.state not in STATES:
        raise FileSetInput(f"{where}: the state {entry.state!r} is none of {', '.join(STATES)}")
    if entry.mode is not None and not _MODE.fullmatch(entry.mode):
        raise FileSetInput(f"{where}: the mode {entry.mode!r} is not an octal number in quotes, such as '0644'")
    if entry.state == "link" and not entry.target:
        raise FileSetInput(f"{where}: a link needs a target")
    if entry.state == "block" and (not entry.marker or entry.text is None):
        raise FileSetInput(f"{where}: a block needs a marker and a text")
    if entry.marker and ("\n" in entry.marker or any(line in (entry.text or "").splitlines() for line in marks(entry.marker))):
        raise FileSetInput(f"{where}: the marker is one line, and the text does not hold it")


def read_path(path: Path) -> Seen:
    try:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            return Seen("link", target=os.readlink(path))
        if stat.S_ISDIR(info.st_mode):
            return Seen("folder", b"", stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        if stat.S_ISREG(info.st_mode):
            return Seen("file", path.read_bytes(), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
    except (FileNotFoundError, NotADirectoryError):
        return Seen()
    except OSError as error:
        raise _explained("read", path, error) from error
    return Seen("device")


def write_change(change: Change) -> None:
    path, before, after = change.path, change.before, change.after
    try:
        if after.kind == "absent":
            _remove(path, before)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if after.kind == "folder":
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            _dress(path, after)
        elif after.kind == "link":
            part = _aside(path)
            os.symlink(after.target, part)
            part.replace(path)
        elif before.kind == "file" and before.content == after.content:
            _dress(path, after)
        else:
            _write(path, after)
    except OSError as error:
        raise _explained("write", path, error) from error


def _write(path: Path, after: Seen) -> None:
    part = _aside(path)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(after.content)
            stream.flush()
            _dress(part, after)
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _dress(path: Path, after: Seen) -> None:
    info = os.lstat(path)
    if (info.st_uid, info.st_gid) != (after.uid, after.gid):
        os.chown(path, after.uid, after.gid, follow_symlinks=False)
    # Changing the owner clears the setuid and setgid bits.
    os.chmod(path, after.mode)


def _remove(path: Path, before: Seen) -> None:
    if before.kind != "folder":
        path.unlink(missing_ok=True)
        return
    part = _aside(path)
    try:
        path.replace(part)
    except OSError as error:
        # A folder of a container's image cannot be renamed.
        if error.errno != errno.EXDEV:
            raise
        part = path
    shutil.rmtree(part)


def _aside(path: Path) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
    return part


def _refuse_kind(path: Path, before: Seen, kind: str) -> None:
    if before.kind in ("absent", kind) or {before.kind, kind} == {"file", "link"}:
        return
    raise FileSetError(f"make the {kind} {path}: a {before.kind} is there already; move it away, or name another path")


def _group_of_new(path: Path) -> int:
    """What a new file gets: the group of the process, or that of a folder with the setgid bit."""
    with contextlib.suppress(OSError):
        info = path.parent.stat()
        if info.st_mode & stat.S_ISGID:
            return info.st_gid
    return os.getegid()


def _name_of(number: int, *, user: bool) -> str:
    with contextlib.suppress(KeyError, OverflowError):
        return pwd.getpwuid(number).pw_name if user else grp.getgrgid(number).gr_name
    return str(number)


def _shown(content: bytes, other: bytes) -> str:
    """The text, or what to know it by where the change would fill the screen."""
    if content and _is_long(content, other):
        lines = len(content.splitlines())
        size = f"{len(content)} bytes" if b"\0" in content else f"{lines} line{'' if lines == 1 else 's'}"
        return f"({size}, sha256 {hashlib.sha256(content).hexdigest()[:12]}\u2026)\n"
    return content.decode("utf-8", "replace")


def _is_long(one: bytes, other: bytes) -> bool:
    """By the lines that differ: of a person's long start file only our block does."""
    if b"\0" in one + other or len(one) + len(other) > _COMPARED_BYTES:
        return True
    first, second = Counter(one.splitlines(True)), Counter(other.splitlines(True))
    changed = (first - second) + (second - first)
    return changed.total() > _SHOWN_LINES or sum(len(line) * count for line, count in changed.items()) > _SHOWN_BYTES


def _explained(verb: str, path: Path, error: OSError) -> FileSetError:
    hints = {
        errno.ENOSPC: "make room on that disk",
        errno.EROFS: "that file system is read-only: name a path on another one",
        errno.EACCES: "run with become, or use the user scope",
        errno.EPERM: "run with become, or use the user scope",
    }
    return FileSetError(f"{verb} {path}: {error.strerror}", hint=hints.get(error.errno or 0, ""))


# The option of the doc fragment podcycle.gpu.files.
FILES: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "options": {
        "path": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["file", "folder", "link", "block", "absent"], "default": "file"},
        "content": {"type": "str"},
        "mode": {"type": "str"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "target": {"type": "str"},
        "marker": {"type": "str"},
        "text": {"type": "str"},
        "at": {"type": "str", "choices": ["top", "bottom"], "default": "bottom"},
        "recursive": {"type": "bool", "default": False},
    },
}


def entries_of(rows: list[dict[str, Any]]) -> list[Entry]:
    return [Entry(**{key: value for key, value in row.items() if value is not None}) for row in rows]
