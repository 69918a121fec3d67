# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine has of what every pod is given: packages, accounts, tools, cores, InfiniBand. It only reads."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
from pathlib import Path
from typing import Any

from ._packages import STATUS, missing, programs
from ._uv_tool import Tool, missing_tools

INFINIBAND = Path("/sys/class/infiniband")
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# In the comment field of an account that the role node made.
MADE = "podcycle.gpu"
OS_RELEASE = Path("/etc/os-release")
SHADOW = Path("/etc/shadow")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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


def read_account(name: str) -> dict[str, Any] | None:
    """V(password) is set when a password would let in, V(locked) when sshd refuses keys too, V(made) when it is the role's own and no person's."""
    try:
        row = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = sorted(group.gr_name for group in grp.getgrall() if name in group.gr_mem)
    with contextlib.suppress(KeyError):
        groups.insert(0, grp.getgrgid(row.pw_gid).gr_name)
    secret = None
    with contextlib.suppress(OSError):
        for line in SHADOW.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if len(fields) > 1 and fields[0] == name:
                secret = fields[1]
    # OpenSSH calls an account locked when the field begins with an exclamation mark (LOCKED_PASSWD_PREFIX on Linux).
    locked, password = (None, None) if secret is None else (secret.startswith("!"), secret == "" or secret[0] not in "!*")
    about = {"name": name, "uid": row.pw_uid, "home": row.pw_dir, "shell": row.pw_shell, "made": row.pw_gecos.partition(",")[0] == MADE}
    return {**about, "groups": groups, "locked": locked, "password": password}


def read_group(name: str) -> dict[str, Any] | None:
    try:
        return {"name": name, "gid": grp.getgrnam(name).gr_gid}
    except KeyError:
        return None


def read_tailscale() -> dict[str, Any]:
    """Installed, and whether its state file says that somebody logged in."""
    program = shutil.which("tailscale", path=_SYSTEM_PATH)
    state = Path("/var/lib/tailscale/tailscaled.state")
    with contextlib.suppress(OSError):
        return {"path": program, "logged_in": bool(program) and b"_current-profile" in state.read_bytes()}
    return {"path": program, "logged_in": False}
