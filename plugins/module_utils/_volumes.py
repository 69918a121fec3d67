# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network volumes of a RunPod account: they cost money from the moment they exist until they are deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._account import Desk, create_once, find_own, open_desk, refuse_in_use, trying
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import Tenant, Volume
from ansible_collections.podcycle.gpu.plugins.module_utils._model import usd

LEAST_GIB, MOST_GIB = 10, 4096
INFO = "podcycle.gpu.runpod_network_volume_info"
# In dollars for a GB and month: the first 1,000 and the rest.
PRICE, PRICE_BEYOND, BEYOND_GIB = Decimal("0.07"), Decimal("0.05"), 1000


def usd_per_month(volume: Volume) -> str | None:
    """Of the standard tier; RunPod publishes no price of the other one."""
    if volume.tier != "standard":
        return None
    return usd(PRICE * min(volume.size_gib, BEYOND_GIB) + PRICE_BEYOND * max(0, volume.size_gib - BEYOND_GIB))


def shown(volume: Volume, tenants: Sequence[Tenant]) -> dict[str, Any]:
    pods = [{"id": one.id, "name": one.name, "status": one.status.lower()} for one in tenants if one.volume == volume.id and volume.id]
    return {**asdict(volume), "usd_per_month": usd_per_month(volume), "pods": pods}


def volume_info(options: Mapping[str, Any]) -> dict[str, Any]:
    desk = open_desk(options)
    with trying("read the network volumes"):
        rows = desk.account.volumes()
        tenants = desk.account.tenants()
    if options.get("id") or options.get("name"):
        rows = [row for row in rows if (row.id == options["id"] if options.get("id") else row.name == options["name"])]
    return {"changed": False, "network_volumes": [shown(row, tenants) for row in rows], "rehearsal": desk.rehearsal}


def change_volume(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    size = options.get("size_gib")
    if size is not None and not LEAST_GIB <= size <= MOST_GIB:
        raise errors.UsageError(f"size_gib is {size}; RunPod's network volumes hold {LEAST_GIB} to {MOST_GIB} GiB")
    desk = open_desk(options)
    gone = options["state"] == "absent"
    with trying(f"read the network volumes for {options.get('name') or options.get('id')}"):
        rows, tenants = desk.account.volumes(), desk.account.tenants()
    before = find_own(rows, "network volume", INFO, name=options.get("name"), wanted_id=options.get("id"), missing_ok=gone)
    if gone:
        return _delete(desk, before, tenants, check_mode)
    if before is None:
        return _create(desk, options, check_mode)
    return _update(desk, before, tenants, options, check_mode)


def _result(desk: Desk, before: Volume | None, after: Volume | None, tenants: Sequence[Tenant] = ()) -> dict[str, Any]:
    sides = [{name: value for name, value in shown(one, ()).items() if name not in ("id", "pods")} if one else {} for one in (before, after)]
    return {
        "changed": before != after,
        "network_volume": shown(after, tenants) if after else None,
        "diff": {"before": sides[0], "after": sides[1]},
        "rehearsal": desk.rehearsal,
    }


def _create(desk: Desk, options: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    name, size, center, tier = options.get("name"), options.get("size_gib"), options.get("data_center"), options.get("tier")
    if not (name and size and center):
        raise errors.UsageError(f"create network volume {name}: it needs name, size_gib and data_center")
    with trying(f"create network volume {name}: read the data centers"):
        centers = desk.account.data_centers()
    offered = centers.get(str(center), ())
    if not offered or (tier and tier not in offered):
        fitting = sorted(one for one, tiers in centers.items() if (tier in tiers if tier else tiers))
        why = "is not known to RunPod" if center not in centers else f"offers no network volumes{f' of tier {tier}' if tier else ''}"
        raise errors.UsageError(f"create network volume {name}: data center {errors.clean_text(center, 40)!r} {why}", hint=f"choose of: {', '.join(fitting)}")
    after = Volume("", str(name), size, str(center), tier or ("standard" if "standard" in offered else offered[0]))
    if not check_mode:
        after = create_once(
            desk, "network volume", after.name, lambda: desk.account.create_volume(after.name, size, after.data_center, tier), desk.account.volumes
        )
    return _result(desk, None, after)


def _update(desk: Desk, before: Volume, tenants: Sequence[Tenant], options: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    label = f"change network volume {before.name} ({before.id})"
    for option, value in (("data_center", before.data_center), ("tier", before.tier)):
        if options.get(option) and options[option] != value:
            raise errors.UsageError(
                f"{label}: its {option} is {value} for as long as it lives, not {options[option]}", hint="create another one under another name, and copy"
            )
    size = options.get("size_gib") or before.size_gib
    if size < before.size_gib:
        raise errors.UsageError(
            f"{label}: it has {before.size_gib} GiB and a network volume never shrinks to {size}", hint="create a smaller one under another name, and copy"
        )
    after = replace(before, size_gib=size, name=options.get("name") or before.name)
    body = {name: value for name, value, old in (("name", after.name, before.name), ("size", size, before.size_gib)) if value != old}
    if body and not check_mode:
        with trying(label):
            after = desk.account.update_volume(before.id, body)
    return _result(desk, before, after, tenants)


def _delete(desk: Desk, before: Volume | None, tenants: Sequence[Tenant], check_mode: bool) -> dict[str, Any]:
    if before is not None:
        refuse_in_use("network volume", f"{before.name} ({before.id})", [one for one in tenants if one.volume == before.id])
        if not check_mode:
            try:
                with trying(f"delete network volume {before.name} ({before.id})"):
                    desk.account.delete_volume(before.id)
            except errors.NotFound:
                pass
            except errors.InvalidRequest as err:
                err.hint = "a serverless endpoint may use it, or a pod that came this minute: look in RunPod's console"
                raise
    return _result(desk, before, None)
