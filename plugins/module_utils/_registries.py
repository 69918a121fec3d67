# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials for private container registries: written, used by their id, never read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._account import Desk, create_once, find_own, open_desk, refuse_in_use, trying
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import Registry
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_graphql import connect_graphql


def change_registry(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    desk = open_desk(options)
    name, gone = options.get("name"), options["state"] == "absent"
    with trying(f"read the registry credentials for {name or options.get('id')}"):
        rows = desk.account.registries()
    before = find_own(rows, "registry credential", "podcycle.gpu.runpod_registry_auth", name=name, wanted_id=options.get("id"), missing_ok=gone)
    if gone:
        return _delete(desk, before, check_mode)
    given = bool(options.get("username") and options.get("password"))
    renewed = before is not None and options["update_password"] == "always"
    if not given and (before is None or renewed):
        raise errors.UsageError(f"store registry credential {name}: it needs username and password")
    after = before or Registry("", str(name))
    if renewed and not check_mode:
        # REST v2 has no way to change one, and a new one would have another id than templates and pods know.
        with trying(f"change registry credential {after.name} ({after.id})"):
            connect_graphql(desk.http, desk.key_source).update_registry(after.id, options["username"], options["password"])
    elif before is None and not check_mode:
        after = create_once(
            desk, "registry credential", after.name, lambda: desk.account.create_registry(after.name, options["username"], options["password"]),
            desk.account.registries,
        )  # fmt: skip
    return _result(desk, before, after, renewed)


def _result(desk: Desk, before: Registry | None, after: Registry | None, renewed: bool = False, warnings: list[str] | None = None) -> dict[str, Any]:
    sides: list[dict[str, Any]] = [{"name": one.name, "password": "(hidden)"} if one else {} for one in (before, after)]
    if renewed:
        sides[1]["password"] = "(hidden), written again"
    return {
        "changed": renewed or before != after,
        "registry_auth": {"id": after.id, "name": after.name} if after else None,
        "diff": {"before": sides[0], "after": sides[1]},
        "warnings": warnings or [],
        "rehearsal": desk.rehearsal,
    }


def _delete(desk: Desk, before: Registry | None, check_mode: bool) -> dict[str, Any]:
    losing: list[str] = []
    if before is not None:
        label = f"{before.name} ({before.id})"
        with trying(f"read who uses registry credential {label}"):
            refuse_in_use("registry credential", label, [one for one in desk.account.tenants() if one.registry == before.id])
            losing = [row.name for row in desk.account.templates() if row.registry == before.id]
        if not check_mode:
            try:
                with trying(f"delete registry credential {label}"):
                    desk.account.delete_registry(before.id)
            except errors.NotFound:
                pass
    warnings = [f"these templates lose their credential with {before.name}: {', '.join(losing)}"] if before and losing else []
    return _result(desk, before, None, warnings=warnings)
