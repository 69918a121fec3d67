# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of the stack's shells: one file for each part in the workspace, and one hook into the shells' start files.

bash reads the start files so: a login shell /etc/profile and then the first of ~/.bash_profile, ~/.bash_login and ~/.profile; an interactive
one /etc/bash.bashrc and ~/.bashrc. Debian and Ubuntu build it with SSH_SOURCE_BASHRC, so the command of C(ssh HOST COMMAND) reads the last two as well,
and their stock ~/.bashrc returns at once there: the hook has to stand on top.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import UsageError
from ._file_set import Change, Entry, FileSet
from ._secrets import is_secret

MARKER = "podcycle.gpu environment"
SYSTEM_PROFILE = "/etc/profile.d/podcycle.sh"
SYSTEM_BASHRC = "/etc/bash.bashrc"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WRITTEN = "# Written by podcycle.gpu; changes are lost.\n"
# Takes the entry out of the list wherever it stands and puts it in front; a folder that is not there is left out.
_FIRST = """podcycle_first() {
    podcycle_list=":${1:+$1:}"
    if [ -d "$2" ]; then
        while :; do
            case $podcycle_list in
                *:"$2":*) podcycle_list="${podcycle_list%%:"$2":*}:${podcycle_list#*:"$2":}" ;;
                *) break ;;
            esac
        done
        podcycle_list=":$2$podcycle_list"
    fi
    podcycle_list="${podcycle_list#:}"
    podcycle_list="${podcycle_list%:}"
}
"""
_READER = """for podcycle_file in {folder}/*.sh; do
    if [ -r "$podcycle_file" ]; then
        . "$podcycle_file"
    fi
done
unset podcycle_file
"""


@dataclass(frozen=True)
class ShellEnv:
    name: str
    workspace: str
    scope: str = "auto"
    order: int = 50
    variables: dict[str, str] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    library_path: list[str] = field(default_factory=list)
    files: list[Entry] = field(default_factory=list)
    home: str = ""
    group: str = ""
    root: Path = Path("/")

    @property
    def reader(self) -> str:
        return f"{self.workspace}/.podcycle/env.sh"

    @property
    def folder(self) -> str:
        return f"{self.workspace}/.podcycle/env.d"

    @property
    def file(self) -> str:
        return f"{self.folder}/{self.order:02d}-{self.name}.sh"

    @property
    def system(self) -> bool:
        return os.geteuid() == 0 if self.scope == "auto" else self.scope == "system"

    @property
    def secrets(self) -> list[str]:
        """Names of the variables that not everybody on the machine may read."""
        return [name for name, value in self.variables.items() if is_secret(name, value)]

    def check(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"shell_env {self.name!r}: a name is 1 to 41 letters, digits, dots, dashes and underscores")
        if not self.workspace.startswith("/"):
            raise UsageError(f"shell_env {self.name}: the workspace {self.workspace!r} is not an absolute path")
        if not 0 <= self.order <= 99:
            raise UsageError(f"shell_env {self.name}: the order {self.order} is not a number from 0 to 99")
        for variable, value in self.variables.items():
            if not _VARIABLE.fullmatch(variable):
                raise UsageError(f"shell_env {self.name}: {variable!r} is not the name of a variable")
            if "\0" in value:
                raise UsageError(f"shell_env {self.name}: a NUL character stands in {variable}")
        for place in (*self.path, *self.library_path):
            if not place.startswith("/") or re.search(r"[:\n\0]", place):
                raise UsageError(f"shell_env {self.name}: {place!r} is not an absolute path without colons; a search path cannot hold it")

    def text(self) -> str:
        """The part's file: POSIX shell, silent, without a process of its own, the same when it is read twice."""
        lines = [_WRITTEN]
        lines += [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.variables.items())]
        if self.path or self.library_path:
            lines.append(_FIRST)
            for variable, places in (("PATH", self.path), ("LD_LIBRARY_PATH", self.library_path)):
                for place in reversed(places):
                    lines.append(f'podcycle_first "${{{variable}-}}" {shlex.quote(place)}\n')
                    # An empty LD_LIBRARY_PATH would mean the current folder.
                    lines.append(f'if [ -n "$podcycle_list" ]; then export {variable}="$podcycle_list"; fi\n')
            lines.append("unset -f podcycle_first\nunset podcycle_list\n")
        return "".join(lines)

    def hook(self) -> str:
        reader = shlex.quote(self.reader)
        return f"if [ -r {reader} ]; then . {reader}; fi\n"

    def places(self) -> list[str]:
        """The start files that carry the hook."""
        if self.system:
            return [SYSTEM_PROFILE, SYSTEM_BASHRC]
        home = self.home or os.path.expanduser("~")
        masking = [f"{home}/{name}" for name in (".bash_profile", ".bash_login") if (self.root / f"{home}/{name}".lstrip("/")).exists()]
        return [f"{home}/.bashrc", f"{home}/.profile", *masking]

    def others(self) -> list[str]:
        """Files of this part under another number, and those of other parts."""
        folder = self.root / self.folder.lstrip("/")
        return sorted(f"{self.folder}/{path.name}" for path in folder.glob("*.sh") if path.name != Path(self.file).name)

    def entries(self, *, present: bool) -> list[Entry]:
        stale = [path for path in self.others() if re.fullmatch(rf"\d\d-{re.escape(self.name)}\.sh", Path(path).name)]
        entries = [Entry(path, "absent", hidden=True) for path in stale]
        if present:
            reader = _WRITTEN + _READER.format(folder=shlex.quote(self.folder))
            entries += [self._own(), Entry(self.reader, content=reader, mode="0644")]
            return [*self.files, *entries, *(self._hooked(path) for path in self.places())]
        entries.append(Entry(self.file, "absent", hidden=True))
        if set(self.others()) == set(stale):
            # The hook goes before what it reads.
            entries = [*(self._unhooked(path) for path in self.places()), Entry(self.reader, "absent"), *entries]
        return entries

    def _own(self) -> Entry:
        """The reader passes over a file that an account may not read."""
        if not self.secrets:
            return Entry(self.file, content=self.text(), mode="0644", hidden=True)
        return Entry(self.file, content=self.text(), mode="0640" if self.group else "0600", group=self.group or None, hidden=True)

    def _hooked(self, path: str) -> Entry:
        if path == SYSTEM_PROFILE:
            return Entry(path, content=_WRITTEN + self.hook(), mode="0644")
        return Entry(path, "block", marker=MARKER, text=self.hook(), at="top")

    @staticmethod
    def _unhooked(path: str) -> Entry:
        return Entry(path, "absent", marker=None if path == SYSTEM_PROFILE else MARKER)

    def converge(self, *, present: bool, check_mode: bool) -> list[Change]:
        self.check()
        return FileSet(self.entries(present=present), self.root, check_mode=check_mode).converge()
