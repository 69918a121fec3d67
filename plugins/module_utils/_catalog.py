# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cloud's GPU models and prices as of one day, for ranking and estimates without its API: shipped, or refreshed into the state folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import runpod_catalog
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud, GpuType, resolve_gpus
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_cloud, open_state
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir, write_atomic

KINDS = ("secure", "community", "secure_spot", "community_spot")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")


@dataclass(frozen=True)
class Row:
    """One GPU model; prices are for one GPU, by the kind of machine."""

    gpu: GpuType
    prices: Mapping[str, Decimal]


@dataclass(frozen=True)
class Catalog:
    """What a cloud offered on the day `as_of` (YYYY-MM-DD)."""

    cloud: str
    as_of: str
    source: str
    rows: tuple[Row, ...]

    def gpu_types(self) -> list[GpuType]:
        return [row.gpu for row in self.rows if row.gpu.id != "unknown"]

    def offers(self, gpu_count: int, cloud_type: str, *, spot: bool) -> list[model.Offer]:
        """The models with a known price as offers; nothing is known of availability."""
        found = []
        for row in self.rows:
            for kind in ("secure", "community") if cloud_type == "any" else (cloud_type,):
                price = row.prices.get(f"{kind}_spot" if spot else kind)
                if price and row.gpu.id != "unknown":
                    total = price * gpu_count
                    found.append(model.Offer(self.cloud, row.gpu.id, row.gpu.name, gpu_count, row.gpu.vram_gib, total, None, kind, spot, "unknown"))
        return found

    def to_dict(self) -> dict[str, Any]:
        gpus = [
            {"id": row.gpu.id, "name": row.gpu.name, "memory_gb": row.gpu.vram_gib, **{kind: str(price) for kind, price in sorted(row.prices.items())}}
            for row in self.rows
        ]
        return {"cloud": self.cloud, "as_of": self.as_of, "source": self.source, "gpus": gpus}


def shipped(cloud: str = "runpod") -> Catalog:
    prices = {gpu: dict(zip(KINDS, found, strict=True)) for gpu, found in runpod_catalog.PRICES.items()}
    rows = (
        Row(GpuType(gpu, name, memory), {kind: Decimal(price) for kind, price in prices.get(gpu, {}).items() if price})
        for gpu, name, memory in runpod_catalog.GPUS
    )
    return Catalog(cloud, runpod_catalog.AS_OF, runpod_catalog.SOURCE, tuple(rows))


def file_of(state: StateDir, cloud: str) -> Path:
    return state.path / "catalogs" / f"{cloud}.json"


def newest(state: StateDir, cloud: str) -> Catalog:
    """The refreshed catalog where there is one, else the shipped one."""
    path = file_of(state, cloud)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return shipped(cloud)
    try:
        return _read(json.loads(text), cloud)
    except (ValueError, KeyError, TypeError, errors.SchemaError) as err:
        hint = "write it anew: ansible-playbook playbooks/catalog.yml, or remove it"
        raise errors.StateError(f"the catalog {path} cannot be read: {errors.clean_text(err, 100)}", hint=hint) from err


def _read(body: Any, cloud: str) -> Catalog:
    if not _DAY.match(body["as_of"]):
        raise ValueError("as_of is no date")
    rows = []
    for row in body["gpus"]:
        prices = {kind: price for kind in KINDS if (price := model.to_money(row.get(kind)))}
        rows.append(Row(GpuType(str(row["id"]), str(row["name"]), int(row["memory_gb"])), prices))
    return Catalog(cloud, body["as_of"], str(body["source"]), tuple(rows))


def unchecked(wish: model.PodWish, book: Catalog) -> tuple[tuple[str, ...], list[model.Offer]]:
    """Offers for GPUs that cannot be looked up now, at the catalog's price or else the price cap; a name that it does not know must be the cloud's own id."""
    known = {row.gpu.id: row for row in book.rows}
    kind = str(wish.options.get("cloud_type") or "secure")
    found = []
    for wanted in wish.gpus:
        try:
            (gpu,) = resolve_gpus([wanted], book.gpu_types(), book.cloud)
        except errors.UsageError:
            gpu = wanted
        row = known.get(gpu)
        for place in ("secure", "community") if kind == "any" else (kind,):
            one = row.prices.get(place) if row else None
            price = one * wish.gpu_count if one else wish.max_usd_per_hour
            if price is None:
                raise errors.UsageError(
                    f"the price of {errors.clean_text(gpu, 60)} cannot be looked up, and is not known as of {book.as_of}",
                    hint="say what one pod may cost, in dollars an hour: -e max_usd_per_hour=...",
                )
            name, memory = (row.gpu.name, row.gpu.vram_gib) if row else (gpu, 0)
            found.append(model.Offer(book.cloud, gpu, name, wish.gpu_count, memory, price, None, place))
    return tuple(dict.fromkeys(offer.gpu for offer in found)), found


def fetch(cloud: Cloud) -> Catalog:
    """The catalog of today from the API, with the prices that it tells."""
    prices: dict[str, dict[str, Decimal]] = {}
    for offer in cloud.offers(1, spot=False, options={"cloud_type": "any"}):
        prices.setdefault(offer.gpu, {})[offer.cloud_type] = offer.usd_per_hour
    source = f"{cloud.endpoint}/catalog/gpus"
    try:
        for (gpu, kind), (spot, _stock) in cloud.live_prices(1).items():
            if spot:
                prices.setdefault(gpu, {})[f"{kind}_spot"] = spot
    except errors.CloudError:
        # Without the right to ask for them an old price tells more than none.
        old = shipped(cloud.name)
        for row in old.rows:
            prices.setdefault(row.gpu.id, {}).update({kind: price for kind, price in row.prices.items() if kind.endswith("_spot")})
        source += f"; spot prices as of {old.as_of} from {old.source}"
    types = sorted(cloud.gpu_types(), key=lambda gpu: gpu.id)
    rows = tuple(Row(gpu, prices.get(gpu.id, {})) for gpu in types)
    return Catalog(cloud.name, model.utc_now().strftime("%Y-%m-%d"), source, rows)


def refresh(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Write today's catalog into the state folder; another date alone is no change."""
    cloud = open_cloud(options)
    state = open_state(options)
    path, found = file_of(state, cloud.name), fetch(cloud)
    if not found.rows:
        raise errors.SchemaError(f"refresh the catalog of {cloud.name}: it lists no GPU at all", hint="the old one was kept")
    try:
        before: dict[str, Any] | None = newest(state, cloud.name).to_dict()
    except errors.StateError:
        before = None
    after = found.to_dict()
    changed = not path.exists() or before is None or before["gpus"] != after["gpus"]
    if not check_mode:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, json.dumps(after, indent=1) + "\n")
    diff = {"before": _told(before), "after": _told(after)}
    return {"changed": changed, "catalog": after, "before_as_of": before and before["as_of"], "path": str(path), "diff": diff}


def _told(catalog: Mapping[str, Any] | None) -> str:
    rows = catalog["gpus"] if catalog else []
    return "".join(f"{row['id']}: {row['memory_gb']} GB, {', '.join(f'{kind} {row[kind]}' for kind in KINDS if kind in row) or 'no price'}\n" for row in rows)
