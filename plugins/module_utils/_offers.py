# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What offer_info answers."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._catalog import newest
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import resolve_gpus
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import CloudError, UsageError
from ansible_collections.podcycle.gpu.plugins.module_utils._http import is_loopback
from ansible_collections.podcycle.gpu.plugins.module_utils._market import choose, stocked
from ansible_collections.podcycle.gpu.plugins.module_utils._model import PodWish, usd
from ansible_collections.podcycle.gpu.plugins.module_utils._session import money_option, open_cloud, open_state


def list_offers(options: Mapping[str, Any]) -> dict[str, Any]:
    cap = money_option("max_usd_per_hour", options["max_usd_per_hour"])
    if options["gpu_count"] < 1 or options["min_vram_gib"] < 0 or options["limit"] < 0 or (cap is not None and cap <= 0):
        raise UsageError("gpu_count and max_usd_per_hour must be above 0, min_vram_gib and limit not below 0")
    as_of, rehearsal, warnings = None, False, []
    live: dict[tuple[str, str], tuple[Decimal | None, str]] = {}
    if options["offline"]:
        book = newest(open_state(options), options["cloud"])
        name, as_of, known = book.cloud, book.as_of, book.gpu_types()
        listed = book.offers(options["gpu_count"], options["cloud_type"], spot=options["spot"])
    else:
        cloud = open_cloud(options)
        name, rehearsal, known = cloud.name, is_loopback(cloud.endpoint), cloud.gpu_types() if options["gpu"] else []
        listed = cloud.offers(options["gpu_count"], spot=options["spot"], options={"cloud_type": options["cloud_type"]})
        try:
            live = cloud.live_prices(options["gpu_count"])
        except CloudError as err:
            # The catalog's prices stand without it.
            warnings = [f"no live stock and no spot prices: {err}"]
        listed = stocked(listed, live)
    wish = PodWish(
        run_id="offers",
        name="pod",
        count=1,
        gpus=resolve_gpus(options["gpu"], known, name),
        gpu_count=options["gpu_count"],
        max_usd_per_hour=cap,
        image="",
        disk_gib=1,
        volume_gib=0,
        volume_path="",
        ports=(),
        regions=tuple(options["regions"]),
        options={"min_vram_gib": options["min_vram_gib"] or None},
    )
    rows = []
    for offer in choose(listed, wish, name):
        spot, stock = live.get((offer.gpu, offer.cloud_type), (None, None))
        rows.append({**offer.to_dict(), "spot_usd_per_hour": usd(offer.usd_per_hour if offer.spot else spot), "stock": stock})
    return {"changed": False, "offers": rows[: options["limit"]] if options["limit"] else rows, "as_of": as_of, "rehearsal": rehearsal, "warnings": warnings}


def worst_case(usd_per_hour: Decimal, count: int, seconds: int) -> Decimal:
    """What a group costs when nothing ends it before its leases do."""
    return usd_per_hour * count * seconds / 3600
