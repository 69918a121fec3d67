# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages: which are missing, read from dpkg's own file, and how they come in, by apt-get alone.

Ansible's own apt module wants python3-apt, which a bare container lacks, and the interpreter that it was built for.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from ._errors import PodcycleError, UsageError
from ._machine import read_container, read_os
from ._uv import run_program

STATUS = Path("/var/lib/dpkg/status")
LISTS = Path("/var/lib/apt/lists")
USR = Path("/usr")
# What a package is wanted for, below USR: dpkg does not see when it is deleted behind its back.
PROGRAMS = {
    "build-essential": ("bin/g++", "bin/gcc", "bin/make"),
    "ca-certificates": ("sbin/update-ca-certificates",),
    "curl": ("bin/curl",),
    "git": ("bin/git",),
    "python3-dev": ("bin/python3-config",),
    "python3-pip": ("bin/pip3",),
    "rclone": ("bin/rclone",),
    "rsync": ("bin/rsync",),
    "tmux": ("bin/tmux",),
}
# Debian's policy for package names, with what apt takes behind them: an architecture, a version.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?")
_OLD_SECONDS = 24 * 3600
_GET = ["apt-get", "-y", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]
_KEEP = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
# No flush for every file, as Docker's own images of Debian and Ubuntu have it: a container's disk does not outlive a crash of its host.
_NO_FLUSH = ["-o", "Dpkg::Options::=--force-unsafe-io"]
_NETWORK = re.compile(r"(?i)temporary failure resolving|could not connect|connection (?:failed|refused|timed out)|unable to connect|failed to fetch")
_UNKNOWN = re.compile(r"Unable to locate package (\S+)|Package '?([^\s']+)'? has no installation candidate|Version '([^']+)' for '([^']+)' was not found")


class PackagesError(PodcycleError):
    code = "system_packages"


class ArchiveUnreachable(PackagesError):
    """The distribution's archive could not be reached."""


def check_names(names: Iterable[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"install packages: {name!r} is not the name of a Debian package, such as git or git=1:2.39.5-0+deb12u2")


def installed() -> dict[str, str]:
    """Version of each package that is wholly installed; virtual names that these provide have none."""
    found: dict[str, str] = {}
    try:
        text = STATUS.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise PackagesError(f"read {STATUS}: {error.strerror}; this machine has no dpkg: only Debian and Ubuntu are supported") from error
    for stanza in text.split("\n\n"):
        if "\nStatus: install ok installed" not in stanza and "\nStatus: hold ok installed" not in stanza:
            continue
        fields = dict(re.findall(r"^(Package|Version|Provides|Architecture): (.*)$", stanza, re.MULTILINE))
        for virtual in re.findall(r"(?:^|, )([a-z0-9][a-z0-9+.-]+)", fields.get("Provides", "")):
            found.setdefault(virtual, "")
        if "Package" in fields:
            found[fields["Package"]] = fields.get("Version", "")
            found[f"{fields['Package']}:{fields.get('Architecture', '')}"] = fields.get("Version", "")
    return found


def missing(names: list[str]) -> list[str]:
    """Those that are not installed in the wanted version, or whose programs are gone."""
    check_names(names)
    if not names:
        return []
    there = installed()

    def fits(name: str) -> bool:
        package, _equals, version = name.partition("=")
        return package in there and version in ("", there[package]) and not lost_programs([name])

    return [name for name in names if not fits(name)]


def programs(names: list[str]) -> list[str]:
    """Where these packages put what they are wanted for."""
    return sorted({str(USR / path) for name in names for path in PROGRAMS.get(re.split("[:=]", name)[0], ())})


def lost_programs(names: list[str]) -> list[str]:
    """Those of them that are not there; somebody's own of that name in /usr/local will do."""
    own = USR / "local"
    return [path for path in programs(names) if not (os.access(path, os.X_OK) or os.access(own / Path(path).relative_to(USR), os.X_OK))]


def _holders(paths: list[str]) -> list[str]:
    """The packages that these files came with, and for a link those of what it leads to: g++ is one, into another package."""
    done = run_program(["dpkg", "-S", *map(_end_of, paths)], timeout=60)
    return sorted(set(re.findall(r"^([a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?)(?:, [^/]+)?: /", done.stdout, re.MULTILINE)))


def _end_of(path: str) -> str:
    for _link in range(8):
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path


def install(names: list[str], cache: Path | None = None) -> None:
    """Bring the packages in; what an earlier run left half-done is finished first.

    What is fetched stays in a folder of `cache` for this release; from there it comes when the archive cannot be reached.
    """
    what = f"install {', '.join(names)}"
    if os.geteuid() != 0:
        raise PackagesError(f"{what}: packages need root", hint="run with become, or leave them out with the user scope")
    if shutil.which("apt-get") is None:
        raise PackagesError(f"{what}: this machine has no apt-get: only Debian and Ubuntu are supported")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_MODE": "l", "NEEDRESTART_SUSPEND": "1"}
    run_program(["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"], environment, timeout=900)
    there = installed()
    lost = lost_programs([name for name in names if name.partition("=")[0] in there])
    # For apt a package is there as long as dpkg says so.
    words = ["--reinstall", *dict.fromkeys((*names, *_holders(lost)))] if lost else names
    kept = _folder_of(cache) if cache else None
    where = ["-o", f"Dir::Cache::archives={kept}/", "-o", "APT::Keep-Downloaded-Packages=true"] if kept else []
    command = [*_GET, *_KEEP, *where, *(_NO_FLUSH if read_container() else ()), "install", "--no-install-recommends"]
    try:
        _fetch_and_install(what, [*command, *words], environment)
    except ArchiveUnreachable:
        debs = _newest(kept, set() if lost else set(there)) if kept else []
        if not debs or run_program([*command, *(["--reinstall"] if lost else []), "--no-download", *debs], environment, timeout=1800).returncode:
            raise
    left = missing(names)
    if left:
        raise PackagesError(f"{what}: apt-get ended well, and {', '.join(left)} is not installed; see /var/log/apt/term.log")


def _fetch_and_install(what: str, command: list[str], environment: dict[str, str]) -> None:
    refreshed = _lists_are_old()
    if refreshed:
        _refresh(what, environment)
    done = run_program(command, environment, timeout=1800)
    if done.returncode and not refreshed:
        # Lists that name versions which the archive no longer has answer 404.
        _refresh(what, environment)
        done = run_program(command, environment, timeout=1800)
    if done.returncode:
        raise _failed(what, done.stdout + done.stderr)


def _folder_of(cache: Path) -> Path:
    """Where packages of this release and architecture are kept; apt-get wants its folder for halves."""
    system = read_os()
    folder = cache / f"{system['id']}-{system['version']}-{platform.machine()}"
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    return folder


def _newest(folder: Path, there: set[str]) -> list[str]:
    """The latest of each package that is kept and not installed."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.deb"), key=lambda path: path.stat().st_mtime):
        found[path.name.partition("_")[0]] = path
    return [str(path) for name, path in sorted(found.items()) if name not in there]


def look_up(names: list[str]) -> str:
    """For check mode: whether apt knows these packages. In words why it could not be asked; it needs no root and leaves no trace."""
    what = f"install {', '.join(names)}"
    if shutil.which("apt-get") is None:
        raise PackagesError(f"{what}: this machine has no apt-get: only Debian and Ubuntu are supported")
    unsure = f"whether {', '.join(names)} can be installed was not looked up"
    if not any(LISTS.glob("*_Packages*")):
        return f"{unsure}: {LISTS} has no package lists yet; apt-get update fetches them"
    no_trace = ["-o", "Debug::NoLocking=1", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    done = run_program(["apt-get", "-s", "-q", *no_trace, "install", "--no-install-recommends", *names], {**os.environ, "LC_ALL": "C.UTF-8"}, timeout=300)
    if done.returncode == 0:
        return ""
    said = done.stdout + done.stderr
    if _UNKNOWN.search(said) and not _lists_are_old():
        raise PackagesError(f"{what}: {_said(said)}", hint=_advice(said))
    return f"{unsure}: apt-get said: {_said(said)}"


def _refresh(what: str, environment: dict[str, str]) -> None:
    done = run_program([*_GET, "-o", "APT::Update::Error-Mode=any", "update"], environment, timeout=600)
    if done.returncode:
        raise _failed(f"{what}: apt-get update", done.stdout + done.stderr)


def _lists_are_old() -> bool:
    found = [path.stat().st_mtime for path in LISTS.glob("*_Packages*")]
    return not found or time.time() - max(*found, LISTS.stat().st_mtime) > _OLD_SECONDS


def _said(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("E:", "Err:", "W: Failed", "dpkg: error"))] or text.splitlines() or ["it said nothing"]
    return " ".join(" ".join(lines[-4:]).split())[-400:]


def _failed(what: str, text: str) -> PackagesError:
    kind = ArchiveUnreachable if _NETWORK.search(text) and not _UNKNOWN.search(text) else PackagesError
    return kind(f"{what}: {_said(text)}", hint=_advice(text))


def _advice(text: str) -> str:
    if _UNKNOWN.search(text):
        return "this release has no such package: leave it out, or add its repository"
    return "check the machine's network and its package sources" if _NETWORK.search(text) else ""
