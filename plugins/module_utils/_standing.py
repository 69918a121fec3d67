# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role node brings about in files that others write into as well: packages, the account, its group, the login to the tailnet.

Only these count for its receipt: another package, account or member of a group is no affair of the role.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _packages

# In the comment field of an account that the role node made.
MADE = "podcycle.gpu"
SHADOW = Path("/etc/shadow")
TAILSCALE = Path("/var/lib/tailscale/tailscaled.state")
ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def standing(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """How each wanted thing stands; None for what is not there. A package in another version stands, where none was asked for."""
    packages = [str(name) for name in wanted.get("packages") or []]
    gone = set(_packages.missing(packages) if _packages.STATUS.exists() else packages)
    found: dict[str, Any] = {f"package {name}": None if name in gone else True for name in packages}
    account, group = str(wanted.get("account") or ""), str(wanted.get("group") or "")
    if account:
        found[f"account {account}"] = _account(account, group)
    if group:
        found[f"group {group}"] = (read_group(group) or {}).get("gid")
    if wanted.get("tailscale"):
        found["login to the tailnet"] = read_tailscale()["logged_in"] or None
    return found


def _account(name: str, group: str) -> dict[str, Any] | None:
    """Of a person's own account neither password nor lock: the role leaves them alone."""
    row = read_account(name)
    if row is None:
        return None
    kept = ("uid", "home", "made", "locked", "password") if row["made"] else ("uid", "home", "made")
    return {**{key: row[key] for key in kept}, "member": not group or group in row["groups"]}


def same(was: Any, found: Any) -> bool:
    """Whether a thing stands as it stood. What only /etc/shadow tells is left out where an account may not read it, then or now."""
    if not isinstance(was, dict) or not isinstance(found, dict):
        return bool(was == found)
    unknown = {key for key in ("locked", "password") if was.get(key) is None or found.get(key) is None and not os.access(SHADOW, os.R_OK)}
    return all(was.get(key) == found.get(key) for key in (was.keys() | found.keys()) - unknown)


def sources(wanted: Mapping[str, Any]) -> list[str]:
    """The files that it is read from: as long as all of them are as they were, nothing has to be read."""
    of_packages = [str(_packages.STATUS)] if wanted.get("packages") else []
    of_accounts = ACCOUNTS if wanted.get("account") or wanted.get("group") else ()
    return [*of_packages, *of_accounts, *([str(TAILSCALE)] if wanted.get("tailscale") else ())]


def lost(wanted: Mapping[str, Any]) -> bool:
    """Whether a program was deleted behind the back of dpkg, which none of these files tells."""
    return bool(_packages.lost_programs([str(name) for name in wanted.get("packages") or []]))


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
    with contextlib.suppress(OSError):
        return {"path": program, "logged_in": bool(program) and b"_current-profile" in TAILSCALE.read_bytes()}
    return {"path": program, "logged_in": False}
