# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a Python package into a source folder and onto the path of a virtual environment.

Reads one JSON object from standard input and prints one; writes only what differs, and nothing in check mode.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path


def replace(path: Path, content: bytes, program: bool) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    if program:
        partial.chmod(0o755)
    os.replace(partial, path)


def current(path: Path, program: bool) -> bytes | None:
    """What a file holds now; nothing where a program cannot be started."""
    try:
        return None if program and path.stat().st_mode & 0o777 != 0o755 else path.read_bytes()
    except FileNotFoundError:
        return None


def installed(site_packages: Path | None) -> set[str]:
    """Names of the distributions in a virtual environment."""
    found = site_packages.glob("*.dist-info") if site_packages else []
    return {re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in found}


def find_uv(given: str, workspace: Path) -> str:
    """The one that was named, or where the roles of the stack leave it: in the workspace, on PATH, or in uv's own cache."""
    cache = Path(os.environ.get("UV_CACHE_DIR") or workspace / "cache" / "uv")
    places = (workspace / "bin" / "uv", shutil.which("uv"), Path.home() / ".local/bin/uv", cache / "bin" / "uv")
    return given or next((str(place) for place in places if place and os.access(place, os.X_OK)), "")


def main() -> int:
    """Compare, write what differs, and tell."""
    wanted = json.load(sys.stdin)
    venv = Path(wanted["venv"])
    site_packages = next(iter(sorted(venv.glob("lib/python3*/site-packages"))), None)
    if site_packages is None and not wanted["check"]:
        print(f"{venv} is not a virtual environment with Python 3; run the role pytorch first, or set chess_training_venv", file=sys.stderr)
        return 1
    # Without an environment, which only check mode accepts, nothing can be said about its packages.
    here = installed(site_packages)
    missing = [name for name in wanted["packages"] if site_packages and re.sub(r"[-_.]+", "-", name).lower() not in here]
    uv = find_uv(wanted["uv"], Path(wanted["workspace"]))
    if missing and not uv and not wanted["check"]:
        print(f"install {', '.join(missing)} into {venv}: there is no uv; run the role pytorch first, or name one with chess_training_uv", file=sys.stderr)
        return 1
    folder = Path(wanted["src_dir"]) / wanted["package"]
    files = {folder / name: text.encode() for name, text in wanted["files"].items()}
    if site_packages is not None:
        files[site_packages / f"{wanted['package']}.pth"] = f"{wanted['src_dir']}\n".encode()
    programs = {venv / "bin" / name: text.encode() for name, text in wanted["programs"].items()}
    files |= programs
    different = [path for path, content in files.items() if current(path, path in programs) != content]
    stale = [path for path in sorted(folder.glob("*.py")) if path not in files]
    if not wanted["check"]:
        for path in different:
            replace(path, files[path], path in programs)
        for path in stale:
            path.unlink()
    changed = bool(different or stale)
    print(json.dumps({"changed": changed, "written": len(different), "removed": len(stale), "missing": missing, "folder": str(folder), "uv": uv}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
