# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Python program in an environment of its own, with a link to its command in the workspace's bin folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ._errors import PodcycleError, UsageError
from ._file_set import Entry, FileSet
from ._unresolved import places, unresolved
from ._uv import UvCacheError, find_links_of, find_uv, install_uv, last_words, run_program

STAMP = ".podcycle-tool.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\],-]*(==[A-Za-z0-9.+!-]+)?")


class UvToolError(PodcycleError):
    code = "uv_tool"


@dataclass(frozen=True)
class Tool:
    package: str
    version: str
    command: str
    workspace: Path
    probe: tuple[str, ...] = ("--version",)
    extra: tuple[str, ...] = ()
    python: str = ""

    @property
    def venv(self) -> Path:
        return self.workspace / ".podcycle" / "tools" / self.package

    @property
    def program(self) -> Path:
        return self.venv / "bin" / self.command

    @property
    def link(self) -> Path:
        return self.workspace / "bin" / self.command

    @property
    def wanted(self) -> str:
        """What is asked for, in one line; another interpreter is another wish."""
        base = os.path.realpath(self.python) if self._own_python() else ""
        return " ".join(filter(None, (self.version, *self.extra, base)))

    def _own_python(self) -> bool:
        return bool(self.python) and os.access(self.python, os.X_OK)

    def check(self) -> None:
        for word in (self.package, self.command):
            if not _NAME.fullmatch(word):
                raise UsageError(f"uv_tool {self.package!r}: {word!r} is not a name of letters, digits, dots and dashes")
        for word in self.extra:
            if not _REQUIREMENT.fullmatch(word):
                raise UsageError(f"uv_tool {self.package!r}: {word!r} is no requirement such as name==1.0")

    def record(self) -> dict[str, str] | None:
        """What was proven, when its files are still there."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.venv / STAMP).read_text(encoding="utf-8"))
            if isinstance(found, dict) and os.access(self.venv / "bin" / "python", os.X_OK) and os.access(self.program, os.X_OK):
                return found
        return None

    def satisfied(self) -> bool:
        record = self.record()
        return record is not None and self._linked() and record.get("wanted") == self.wanted and self._whole()

    def _linked(self) -> bool:
        return os.path.islink(self.link) and os.path.realpath(self.link) == os.path.realpath(self.program)

    def _whole(self) -> bool:
        return bool(list(self.venv.glob(f"lib/python3.*/site-packages/{self.package.replace('-', '_')}-*.dist-info/RECORD")))

    def make(self) -> dict[str, str]:
        bin_dir, cache = self.workspace / "bin", Path(os.environ.get("UV_CACHE_DIR") or self.workspace / "cache" / "uv")
        uv = find_uv(bin_dir, "", cache) or install_uv(bin_dir)
        environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
        environment["UV_CACHE_DIR"] = str(cache)
        pythons = (self.python, "/usr/bin/python3", getattr(sys, "_base_executable", ""))
        python = next((path for path in pythons if path and os.access(path, os.X_OK)), sys.executable)
        requirement = f"{self.package}=={self.version}" if self.version else self.package
        for arguments in (
            ["venv", "--quiet", "--clear", "--no-python-downloads", "--python", python, str(self.venv)],
            ["pip", "install", "--quiet", "--python", str(self.venv / "bin" / "python"), requirement, *self.extra],
        ):
            try:
                done = uv.run(arguments, environment)
            except UvCacheError as error:
                hint = "let this account write there, or set UV_CACHE_DIR to another folder in the machine's environment"
                raise UvToolError(f"install {requirement} into {self.venv}: {error.message}", hint=hint) from error
            if done.returncode:
                none = unresolved(done.stderr)
                if none:
                    sentence = none.sentence(places(find_links_of([])))
                    raise UvToolError(f"install {requirement} into {self.venv}: {sentence}", hint="name a version that exists, or leave it out")
                said = last_words(done.stderr, 300)
                raise UvToolError(f"install {requirement} into {self.venv}: {said}", hint="check the version and the machine's network, or leave it out")
        done = run_program([str(self.program), *self.probe], environment, timeout=120)
        if done.returncode:
            said = " ".join(done.stderr.split())[-300:]
            raise UvToolError(f"install {requirement}: {self.program} {' '.join(self.probe)} ended with {done.returncode}: {said}")
        record = {"wanted": self.wanted, "said": (done.stdout or done.stderr).strip()[:200]}
        FileSet([Entry(str(self.venv / STAMP), content=json.dumps(record)), Entry(str(self.link), "link", target=str(self.program))]).converge()
        return record

    def shown(self) -> str:
        """The program as it lies here, in words, for a diff."""
        record, lines = self.record(), []
        if record and self._whole():
            lines.append(self._named(record.get("wanted", "")))
        elif self.venv.exists():
            lines.append(f"{self.package}, not whole, in {self.venv}")
        if self._linked():
            lines.append(f"{self.link} -> {self.program}")
        return "".join(f"{line}\n" for line in lines)

    def planned(self) -> str:
        return f"{self._named(self.wanted)}\n{self.link} -> {self.program}\n"

    def _named(self, wanted: str) -> str:
        return f"{self.package}{f' {wanted}' if wanted else ''} in {self.venv}"

    def remove(self, *, check_mode: bool) -> bool:
        entries = [Entry(str(self.venv), "absent", recursive=True)]
        if self._linked():
            entries.insert(0, Entry(str(self.link), "absent"))
        return bool(FileSet(entries, check_mode=check_mode).converge())


def missing_tools(tools: list[Tool]) -> list[str]:
    """Packages of the tools that neither the workspace nor, where no version is asked for, the system has."""
    for tool in tools:
        tool.check()
    system = "/usr/local/bin:/usr/bin:/bin"
    return [tool.package for tool in tools if not tool.satisfied() and (tool.version or shutil.which(tool.command, path=system) is None)]
