# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine has of what every pod is given: packages, accounts, tools, cores, InfiniBand. It only reads."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from pathlib import Path
from typing import Any

from ._packages import STATUS, missing, programs
from ._standing import read_account, read_group, read_tailscale
from ._uv_tool import Tool, missing_tools

INFINIBAND = Path("/sys/class/infiniband")
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
OS_RELEASE = Path("/etc/os-release")


def read_node(packages: list[str], tools: list[Tool], account: str, group: str) -> dict[str, Any]:
    user = pwd.getpwuid(os.geteuid())
    return {
        "root": os.geteuid() == 0,
        "user": user.pw_name,
        "home": os.path.expanduser("~"),
        "os": read_os(),
        "cpus": cpus(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "infiniband": has_infiniband(),
        "missing_packages": missing(packages) if STATUS.exists() else packages,
        "programs": programs(packages),
        "missing_tools": missing_tools(tools),
        "account": read_account(account) if account else None,
        "group": read_group(group) if group else None,
        "tailscale": read_tailscale(),
    }


def read_os() -> dict[str, str]:
    text = ""
    with contextlib.suppress(OSError):
        text = OS_RELEASE.read_text(encoding="utf-8", errors="replace")
    fields = {key.lower(): value.strip("\"'") for key, value in re.findall(r"^(ID|VERSION_ID|VERSION_CODENAME)=(.*)$", text, re.MULTILINE)}
    return {"id": fields.get("id", ""), "version": fields.get("version_id", ""), "codename": fields.get("version_codename", "")}


def cpus() -> int:
    """Cores that this process may use; in a container those that its quota pays for."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def has_infiniband() -> bool:
    with contextlib.suppress(OSError):
        return bool(os.listdir(INFINIBAND))
    return False
