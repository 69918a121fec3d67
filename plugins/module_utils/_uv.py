# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uv on a machine that may have nothing but python3."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ._errors import PodcycleError

# The first uv whose torch backends include cu130.
LEAST_VERSION = (0, 9, 0)
NETWORK = re.compile(r"(?i)failed to fetch|error sending request|dns error|connection refused|timed? ?out|could not connect|tunnel|unreachable")
_OS_ERROR = re.compile(r"([A-Z][\w -]+) \(os error (\d+)\)")
# EPERM, EACCES, EROFS; and where the cache is to be made also ENOENT, EEXIST and ENOTDIR.
_FORBIDDEN, _IN_THE_WAY = {1, 13, 30}, {2, 17, 20}


class UvError(PodcycleError):
    code = "uv"


class UvCacheError(UvError):
    remedy = "let this account write there, or set UV_CACHE_DIR to another folder (for a role: pytorch_cache_dir, cutlass_cache_dir or cuda13_cache_dir)"


def run_program(command: list[str], environment: dict[str, str] | None = None, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run to the end; a program that cannot be started or takes too long is an exit code and a sentence like any other failure."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=environment, timeout=timeout, check=False
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} could not be started: {error.strerror}")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} was ended after {timeout:.0f} s")


@dataclass(frozen=True)
class Uv:
    path: Path
    version: str

    def run(self, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = run_program([str(self.path), *arguments], environment)
        what = f"uv {' '.join(itertools.takewhile(lambda word: not word.startswith('-'), arguments))}"
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            hint = "see with free -m and dmesg whether memory ran out, then run this again" if name == "SIGKILL" else "run this again"
            raise UvError(f"{what}: it was ended by {name}", hint=hint)
        trouble = _cache_trouble(done.stderr, environment.get("UV_CACHE_DIR", "")) if done.returncode else ""
        if trouble:
            raise UvCacheError(f"{what}: {trouble}")
        return done


def _cache_trouble(said: str, cache: str) -> str:
    """Which folder of its cache uv could not write; it names that among the causes of anything, also of a failed download."""
    error, making = _OS_ERROR.search(said), re.search(r"(?i)failed to initialize cache(?: at `(/[^`]+)`)?", said)
    home = Path(cache or (making and making.group(1)) or "uv")
    named = [path for path in map(Path, re.findall(r"[`\"](/[^`\"]+)[`\"]", said)) if path.is_relative_to(home)]
    if error is None or not (making or named):
        return ""
    if int(error.group(2)) not in (_FORBIDDEN | _IN_THE_WAY if making or "failed to create directory" in said else _FORBIDDEN):
        return ""
    folder = named[-1] if named else home
    if folder != home and (folder.suffix or folder.name.startswith(".tmp")):
        folder = folder.parent
    return f"{f'its cache {home}' if folder == home else f'{folder}, in its cache,'} cannot be written: {error.group(1)}"


def find_uv(bin_dir: Path, wanted: str = "", cache_dir: Path | None = None) -> Uv | None:
    """A uv that will do: the workspace's own, one beside this interpreter, on PATH, or in the cache; exactly C(wanted) when a version is given."""
    on_path = shutil.which("uv")
    places = [bin_dir / "uv", Path(sys.executable).parent / "uv", *([Path(on_path)] if on_path else []), Path.home() / ".local/bin/uv"]
    if cache_dir is not None:
        places.append(cache_dir / "bin" / "uv")
    for place in places:
        if not os.access(place, os.X_OK):
            continue
        version = _version_of(place)
        if version and (version == wanted if wanted else _number(version) >= LEAST_VERSION):
            return Uv(place, version)
    return None


def install_uv(bin_dir: Path, wanted: str = "") -> Uv:
    """Put uv into C(bin_dir) with whichever pip can be found or made."""
    requirement = f"uv=={wanted}" if wanted else f"uv>={'.'.join(map(str, LEAST_VERSION))}"
    try:
        bin_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UvError(f"install uv: {bin_dir} cannot be made: {error.strerror}; name another folder with pytorch_workspace") from error
    said = "no pip was found"
    with tempfile.TemporaryDirectory(prefix=".uv-", dir=bin_dir) as scratch:
        for pip in _pips(Path(scratch)):
            target = Path(scratch, "target")
            done = run_program([*pip, "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target), requirement], timeout=600)
            if done.returncode == 0 and (target / "bin" / "uv").exists():
                (target / "bin" / "uv").replace(bin_dir / "uv")
                break
            said = done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else f"pip ended with {done.returncode}"
    found = find_uv(bin_dir, wanted)
    if found is None:
        raise UvError(
            f"install {requirement} into {bin_dir}: {said}",
            hint="check the machine's network, or put a uv program on its PATH or into that folder",
        )
    return found


def keep_uv(uv: Uv, cache_dir: Path) -> None:
    """Leave the program in its cache, so that a cache that comes with an image or a volume brings it along."""
    kept = cache_dir / "bin" / "uv"
    if kept.exists():
        return
    part = kept.with_name(f".uv.{os.getpid()}")
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(uv.path, part)
        except OSError:
            shutil.copy2(uv.path, part)
        part.replace(kept)


def keep_byte_code(venv: Path, cache_dir: Path) -> int:
    """Leave the byte code that an import has written beside the cached sources, and say how many files came new.

    uv writes no byte code but links whatever lies in its unpacked archives, and Python checks each file against its source:
    the next environment made from this cache imports torch in a third of the time.
    """
    homes: dict[tuple[int, int], str] = {}
    kept = 0
    with contextlib.suppress(OSError):
        for folder, _folders, names in os.walk(cache_dir / "archive-v0"):
            for name in names:
                if name.endswith(".py"):
                    status = os.stat(os.path.join(folder, name))
                    homes[status.st_dev, status.st_ino] = folder
        for code in (venv / "lib").glob("python3.*/site-packages/**/__pycache__/*.pyc"):
            source = os.stat(code.parent.parent / f"{code.name.partition('.')[0]}.py")
            home = homes.get((source.st_dev, source.st_ino))
            if home is None or os.path.exists(os.path.join(home, "__pycache__", code.name)):
                continue
            os.makedirs(os.path.join(home, "__pycache__"), exist_ok=True)
            os.link(code, os.path.join(home, "__pycache__", code.name))
            kept += 1
    return kept


def _pips(scratch: Path) -> list[list[str]]:
    pythons = dict.fromkeys(found for found in (sys.executable, shutil.which("python3"), "/usr/bin/python3") if found and os.access(found, os.X_OK))
    for python in pythons:
        if run_program([python, "-m", "pip", "--version"], timeout=60).returncode == 0:
            return [[python, "-m", "pip"]]
    for python in pythons:
        if run_program([python, "-m", "venv", str(scratch / "venv")], timeout=120).returncode == 0:
            return [[str(scratch / "venv" / "bin" / "python"), "-m", "pip"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run_program(["apt-get", "update", "-qq"], environment, timeout=300)
        if run_program(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3-pip"], environment, timeout=600).returncode == 0:
            return [["/usr/bin/python3", "-m", "pip"]]
    return []


def _version_of(path: Path) -> str | None:
    done = run_program([str(path), "--version"], timeout=30)
    found = re.search(r"\buv (\d+\.\d+\.\d+)", done.stdout)
    return found.group(1) if done.returncode == 0 and found else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def one_line(text: str) -> str:
    """What a program said, without the frame that uv draws around it."""
    return " ".join(line.strip(" \u2570\u2500\u25b6\u251c\u2502\u00d7") for line in text.strip().splitlines() if line.strip())


def last_words(text: str, limit: int = 500) -> str:
    words = one_line(text)
    return words if len(words) <= limit else "..." + words[-limit:]


def uv_environment(cache_dir: str = "") -> dict[str, str]:
    """The machine's own settings, without those that would lead uv or a fresh interpreter elsewhere."""
    drop = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "UV_FIND_LINKS", "UV_TORCH_BACKEND")
    environment = {key: value for key, value in os.environ.items() if key not in drop}
    if cache_dir:
        environment["UV_CACHE_DIR"] = cache_dir
    return environment


def install_wheels(uv: Uv, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Install over the network; where that cannot be reached, from the cache alone."""
    command = ["pip", "install", "--quiet", *arguments]
    done = uv.run(command, environment)
    if done.returncode and NETWORK.search(done.stderr):
        again = uv.run([*command, "--offline"], environment)
        return again if again.returncode == 0 else done
    return done


def base_python() -> str:
    """The interpreter below this one's virtual environment: an environment that is based on another one dies with it."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for place in (os.path.join(sys.base_prefix, "bin", name), os.path.join(sys.base_prefix, "bin", "python3"), getattr(sys, "_base_executable", "")):
        if place and os.access(place, os.X_OK):
            return place
    return sys.executable


def find_links_of(given: list[str]) -> list[str]:
    """The wheel folders that were named, else those that the machine's uv or pip is set up with."""
    if given:
        return [link for link in given if link]
    if os.environ.get("UV_FIND_LINKS"):
        return os.environ["UV_FIND_LINKS"].split(",")
    return os.environ.get("PIP_FIND_LINKS", "").split()
