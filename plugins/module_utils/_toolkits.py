# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CUDA toolkits of a machine, and which nvcc its shells get."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._uv import run_program

_NVCC = re.compile(r"\bV(\d+\.\d+\.\d+)\b")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Where NVIDIA's installers and images put toolkits; Debian's own package has /usr/bin/nvcc.
_SYSTEM = ("/usr/local", "/opt", "/opt/nvidia")


@dataclass(frozen=True)
class Toolkit:
    path: str
    version: str

    @property
    def nvcc(self) -> Path:
        return Path(self.path, "bin", "nvcc")


def shell_path(workspace: Path) -> str:
    """PATH as our shells have it: the environment files of the workspace, on top of this process's own."""
    base = os.environ.get("PATH") or _DEFAULT_PATH
    folder = workspace / ".podcycle" / "env.d"
    if not folder.is_dir():
        return base
    script = 'for f in "$0"/*.sh; do [ -r "$f" ] && . "$f" >/dev/null 2>&1; done; printf %s "$PATH"'
    done = run_program(["/bin/sh", "-c", script, str(folder)], {**os.environ, "PATH": base}, timeout=10)
    return done.stdout.strip() or base


def nvcc_version(nvcc: Path | str) -> str | None:
    """V(13.0.88) when it runs and says so."""
    done = run_program([str(nvcc), "--version"], timeout=20)
    found = _NVCC.search(done.stdout)
    return found.group(1) if done.returncode == 0 and found else None


def winner(path: str) -> dict[str, Any] | None:
    """The nvcc that a shell with this PATH starts."""
    nvcc = shutil.which("nvcc", path=path)
    return {"path": nvcc, "version": nvcc_version(nvcc)} if nvcc else None


def find_toolkits(workspace: Path, more: tuple[str, ...] = ()) -> list[Toolkit]:
    """Every folder with a working nvcc, each once under its shortest name."""
    places = [*more, *_folders(workspace), os.environ.get("CUDA_HOME", "")]
    for parent in _SYSTEM:
        places += _folders(Path(parent))
    places.append("/usr")
    found: dict[str, Toolkit] = {}
    for place in filter(None, places):
        real = os.path.realpath(place)
        if real not in found and os.access(os.path.join(real, "bin", "nvcc"), os.X_OK):
            version = nvcc_version(os.path.join(real, "bin", "nvcc"))
            if version:
                found[real] = Toolkit(real, version)
    return list(found.values())


def _folders(parent: Path) -> list[str]:
    try:
        return sorted(str(parent / entry) for entry in os.listdir(parent) if re.fullmatch(r"cuda(-\d+(\.\d+)*)?", entry))
    except OSError:
        return []


def find_compat(toolkits: list[Toolkit], workspace: Path) -> dict[str, str] | None:
    """NVIDIA's forward compatibility library, the newest of them; its file name carries the driver version that it stands in for."""
    folders = [Path(toolkit.path) for toolkit in toolkits] + [Path(name) for parent in (workspace, Path("/usr/local")) for name in _folders(parent)]
    libraries = [library for folder in dict.fromkeys(folders) for library in sorted((folder / "compat").glob("libcuda.so.*.*"))]
    newest = max(libraries, key=lambda library: [int(part) for part in re.findall(r"\d+", library.name)], default=None)
    return {"path": str(newest.parent), "version": newest.name.removeprefix("libcuda.so.")} if newest else None
