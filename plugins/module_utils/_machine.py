# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is: its system, its place, its room. Everything is read from files; nothing here raises."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from ._errors import PodcycleError
from ._uv import run_program

SUPPORTED = {"ubuntu": ("22.04", "24.04"), "debian": ("12", "13")}
ARCHITECTURES = ("x86_64", "aarch64")
_OS_RELEASE = Path("/etc/os-release")


class Unsupported(PodcycleError):
    code = "unsupported_machine"


def read_text(path: Path | str, limit: int = 1 << 20) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(limit)
    except OSError:
        return ""


def read_os() -> dict[str, Any]:
    rows = dict(re.findall(r"^([A-Z_]+)=\"?(.*?)\"?$", read_text(_OS_RELEASE), re.MULTILINE))
    found = {"id": rows.get("ID", "unknown"), "version": rows.get("VERSION_ID", ""), "codename": rows.get("VERSION_CODENAME", "")}
    name = rows.get("PRETTY_NAME") or f"{found['id']} {found['version']}".strip()
    return {**found, "name": name, "supported": found["version"] in SUPPORTED.get(found["id"], ()) and platform.machine() in ARCHITECTURES}


def refuse_unsupported(what: str) -> None:
    """One sentence for a machine that the stack is not made for."""
    system, arch = read_os(), platform.machine()
    if system["supported"]:
        return
    raise Unsupported(
        f"{what}: this machine runs {system['name']} on {arch}",
        hint="the stack is made for Ubuntu 22.04 and 24.04 and Debian 12 and 13 on x86_64 and aarch64: choose another image for the pod",
    )


def read_init() -> str:
    return "systemd" if os.path.isdir("/run/systemd/system") and read_text("/proc/1/comm").strip() == "systemd" else "other"


def read_container() -> str | None:
    """An SSH session does not inherit the variables that a cloud gives to the pod's first process."""
    names = set(os.environ) | {row.partition("=")[0] for row in read_text("/proc/1/environ").split("\0")}
    if "RUNPOD_POD_ID" in names:
        return "runpod"
    if names & {"VAST_CONTAINERLABEL", "VAST_TCP_PORT_22"}:
        return "vast"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/.dockerenv") or re.search(r"/(docker|containerd|kubepods)", read_text("/proc/1/cgroup")):
        return "docker"
    return None


def read_user() -> dict[str, Any]:
    uid = os.geteuid()
    try:
        import pwd

        row = pwd.getpwuid(uid)
        name, home = row.pw_name, row.pw_dir
    except (ImportError, KeyError):
        name, home = str(uid), os.environ.get("HOME", "/")
    sudo = uid == 0 or (shutil.which("sudo") is not None and run_program(["sudo", "-n", "true"], timeout=5).returncode == 0)
    return {"name": name, "uid": uid, "home": home, "root": uid == 0, "sudo": sudo}


def read_disks(workspace: Path) -> list[dict[str, Any]]:
    """Each file system once, under the first path that asks for it."""
    found: dict[int, dict[str, Any]] = {}
    for path in (nearest(workspace), Path("/"), Path("/tmp")):
        try:
            device, usage = os.stat(path).st_dev, shutil.disk_usage(path)
        except OSError:
            continue
        found.setdefault(device, {"path": str(path), "total_gib": round(usage.total / 2**30, 1), "free_gib": round(usage.free / 2**30, 1)})
    return list(found.values())


def nearest(path: Path) -> Path:
    """The path itself, or its nearest parent that is there."""
    return next((place for place in (path, *path.parents) if place.exists()), Path("/"))


def free_gib(path: Path) -> float:
    return shutil.disk_usage(nearest(path)).free / 2**30


def read_memory_gib() -> float:
    found = re.search(r"^MemTotal:\s*(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE)
    total = int(found.group(1)) / 2**20 if found else 0.0
    limit = read_text("/sys/fs/cgroup/memory.max").strip()
    return round(min(total, int(limit) / 2**30) if limit.isdigit() else total, 1)


def read_cpus() -> int:
    """Cores that this process may use; a container's quota counts."""
    count = len(os.sched_getaffinity(0))
    quota, _space, period = read_text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    return max(1, min(count, -(-int(quota) // int(period)))) if quota.isdigit() and period.isdigit() and int(period) else count
