# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stock and prices: finite, per data center and cloud type, and changeable by tests."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

from rehearsal.market_data import ALWAYS_IN_STOCK, DATA_CENTERS, GPU_ROWS, GpuRow

CLOUDS = ("SECURE", "COMMUNITY")


class Market:
    """Free GPUs as `(gpu id, data center, cloud) -> count`."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.rows: dict[str, GpuRow] = {row.id: row for row in GPU_ROWS}
        state = state or {}
        self.sold_out: bool = state.get("sold_out", False)
        self._prices: dict[str, dict[str, str | None]] = state.get("prices", {})
        if "stock" in state:
            self._stock = {tuple(key.split("|")): count for key, count in state["stock"].items()}
        else:
            self._stock = initial_stock(self.rows)

    def state(self) -> dict[str, Any]:
        return {"sold_out": self.sold_out, "prices": self._prices, "stock": {"|".join(key): count for key, count in self._stock.items()}}

    def price(self, gpu_id: str, cloud: str) -> Decimal | None:
        row = self.rows[gpu_id]
        text = self._prices.get(gpu_id, {}).get(cloud, row.secure if cloud == "SECURE" else row.community)
        return None if text is None else Decimal(text)

    def spot_price(self, gpu_id: str, cloud: str) -> Decimal | None:
        """The lowest bid that is taken."""
        row = self.rows[gpu_id]
        text = self._prices.get(gpu_id, {}).get(f"{cloud}_SPOT", row.secure_spot if cloud == "SECURE" else row.community_spot)
        return None if text is None else Decimal(text)

    def set_price(self, gpu_id: str, cloud: str, usd_per_hour: str | None) -> None:
        self._prices.setdefault(gpu_id, {})[cloud] = usd_per_hour

    def set_stock(self, gpu_id: str, count: int, data_center: str | None, cloud: str | None) -> None:
        for center in [data_center] if data_center else [row.id for row in DATA_CENTERS]:
            for kind in [cloud] if cloud else CLOUDS:
                self._stock[(gpu_id, center, kind)] = count

    def free(self, gpu_id: str, data_center: str, cloud: str) -> int:
        return 0 if self.sold_out else self._stock.get((gpu_id, data_center, cloud), 0)

    def place(self, gpu_id: str, count: int, cloud: str, data_centers: list[str] | None) -> str | None:
        """The data center with most free GPUs that can hold the pod, or None."""
        wanted = data_centers or [row.id for row in DATA_CENTERS]
        best = max(wanted, key=lambda center: self.free(gpu_id, center, cloud), default=None)
        return best if best is not None and self.free(gpu_id, best, cloud) >= count else None

    def take(self, gpu_id: str, count: int, data_center: str, cloud: str) -> bool:
        if self.free(gpu_id, data_center, cloud) < count:
            return False
        self._stock[(gpu_id, data_center, cloud)] -= count
        return True

    def give_back(self, gpu_id: str, count: int, data_center: str, cloud: str) -> None:
        key = (gpu_id, data_center, cloud)
        self._stock[key] = self._stock.get(key, 0) + count

    def availability(self, gpu_id: str, cloud: str | None = None, data_center: str | None = None, count: int = 1) -> str:
        centers = [data_center] if data_center else [row.id for row in DATA_CENTERS]
        clouds = [cloud] if cloud else CLOUDS
        free = max((self.free(gpu_id, center, kind) for center in centers for kind in clouds), default=0)
        if free < count:
            return "NONE"
        return "LOW" if free < 3 else "MEDIUM" if free < 8 else "HIGH"

    def centers_with(self, gpu_id: str, cloud: str | None, count: int) -> list[str]:
        clouds = [cloud] if cloud else CLOUDS
        return [row.id for row in DATA_CENTERS if any(self.free(gpu_id, row.id, kind) >= count for kind in clouds)]


def initial_stock(rows: dict[str, GpuRow]) -> dict[tuple[str, ...], int]:
    """The same stock on every start: about a third of the data centers has some of each type that has a price."""
    stock: dict[tuple[str, ...], int] = {}
    for row in rows.values():
        for cloud in CLOUDS:
            if (row.secure if cloud == "SECURE" else row.community) is None:
                continue
            for center in DATA_CENTERS:
                digest = hashlib.sha256(f"{row.id}|{center.id}|{cloud}".encode()).digest()
                if digest[0] < 85:
                    stock[(row.id, center.id, cloud)] = 1 + digest[1] % 8
            if row.id in ALWAYS_IN_STOCK:
                stock[(row.id, DATA_CENTERS[0].id, cloud)] = ALWAYS_IN_STOCK[row.id]
    return stock
