# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be settled before an environment is made: its interpreter, its lock file, its room."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from ._errors import PodcycleError
from ._uv import Uv, base_python, last_words, run_program

LOCK = ".podcycle-lock.txt"
NEEDED_GIB = {"cpu": 1.5, "cuda": 9.0}
# The oldest that PyTorch and our own programs run on.
_OLDEST = (3, 10)


class TorchEnvError(PodcycleError):
    code = "torch_env"


def choose_python(uv: Uv, least: str, home: str, environment: dict[str, str]) -> tuple[str, str]:
    """The machine's own interpreter when it is new enough, else one that uv brings, else the own one with a note."""
    own, wanted = base_python(), numbers(least)
    if sys.version_info[: len(wanted)] >= wanted:
        return own, ""
    # Kept on the volume: a pod that starts anew has lost its home folder, and with it every environment based there.
    environment = {**environment, **({"UV_PYTHON_INSTALL_DIR": home} if home else {}), "UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "60"}
    command = ["python", "find", "--quiet", "--managed-python", "--no-python-downloads", least]
    found = uv.run(command, environment)
    said = ""
    if found.returncode:
        done = run_program([str(uv.path), "python", "install", "--no-bin", least], environment, timeout=600)
        said = last_words(done.stderr, 200)
        found = uv.run(command, environment)
    path = found.stdout.strip()
    if found.returncode == 0 and os.access(path, os.X_OK):
        return path, ""
    have = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _OLDEST:
        raise TorchEnvError(
            f"make a virtual environment with Python {least}: uv could not bring it ({said}), and the machine's own {have} is too old",
            hint="name an interpreter with pytorch_python",
        )
    return own, f"Python {least} could not be brought ({said}); the environment has the machine's own {have}"


def check_lock(lock: str, version: str, extra_packages: list[str]) -> None:
    """A lock file must pin the wanted torch and numpy, with hashes, and name every extra package."""
    pins = {_plain(name): pin for name, pin in re.findall(r"^\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)", lock, re.MULTILINE)}
    what = f"install torch {version} from the lock file"
    pinned = pins.get("torch")
    if pinned is None or pinned.partition("+")[0] != version.partition("+")[0]:
        raise TorchEnvError(f"{what}: it pins torch to {pinned or 'nothing'}; set pytorch_version to what it pins, or lock again")
    if "--hash=" not in lock:
        raise TorchEnvError(f"{what}: it has no hashes; make it with: uv pip compile --generate-hashes")
    missing = [name for name in ("numpy", *extra_packages) if plain_name(name) not in pins]
    if missing:
        raise TorchEnvError(f"{what}: it does not pin {', '.join(missing)}; lock again with them")


def cached_torch(cache: Path, wish: Any) -> bool:
    """Whether an unpacked torch of this version lies in uv's cache."""
    wanted = f"torch-{wish.version.partition('+')[0]}"
    return any(found.name.startswith((f"{wanted}.dist-info", f"{wanted}+")) for found in cache.glob("archive-v*/*/torch-*.dist-info"))


def plain_name(requirement: str) -> str:
    return _plain(re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
