# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rank and filter offers: the user's preferences first, then price, memory and stock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Offer, PodWish, usd

# Availability is a hint only: NONE may hide a data center that has some, HIGH is no promise.
_AVAILABILITY = {"high": 0, "medium": 0, "low": 1, "unknown": 1, "none": 2}
_STOCK = {"high": 0, "medium": 1, "low": 2, "none": 4}


def rank(offers: Sequence[Offer]) -> list[Offer]:
    """Cheapest first among those that seem to be there; more memory breaks a tie, then more stock."""
    return sorted(offers, key=lambda offer: (*_worth(offer), _STOCK.get(offer.stock or offer.availability, 3), offer.gpu_name))


def _worth(offer: Offer) -> tuple[bool, Decimal, int]:
    return (_AVAILABILITY.get(offer.availability, 1) == 2, offer.usd_per_hour, -offer.vram_gib)


def is_tied(ordered: Sequence[Offer], wish: PodWish) -> bool:
    """Whether live stock could change the order: two are worth the same, and it is not known of both."""
    once = {(offer.gpu, offer.cloud_type): offer for offer in ordered}
    return any(
        _worth(one) == _worth(other) and (not wish.gpus or one.gpu == other.gpu) and not (one.stock and other.stock)
        for one, other in pairwise(once.values())
    )  # fmt: skip


def stocked(offers: Sequence[Offer], live: Mapping[tuple[str, str], tuple[Decimal | None, str]]) -> list[Offer]:
    """The same offers with the stock that the provider tells now."""
    return [replace(offer, stock=live.get((offer.gpu, offer.cloud_type), (None, ""))[1]) for offer in offers]


def choose(offers: Sequence[Offer], wish: PodWish, cloud: str) -> list[Offer]:
    """The offers to try, in order; raises UsageError with the cheapest when the price cap excludes all."""
    fitting = [offer for offer in offers if not wish.gpus or offer.gpu in wish.gpus]
    least = wish.options.get("min_vram_gib")
    if least:
        fitting = [offer for offer in fitting if offer.vram_gib >= int(least)]
    if not fitting:
        raise UsageError(
            f"{cloud} offers no pod with {wish.gpu_count} x {' or '.join(wish.gpus) or 'GPU'}{f' of {least} GiB' if least else ''}",
            hint="see ansible-playbook playbooks/offers.yml, or try another cloud_type",
        )
    capped = [offer for offer in fitting if wish.max_usd_per_hour is None or offer.usd_per_hour <= wish.max_usd_per_hour]
    if not capped:
        cheapest = min(fitting, key=lambda offer: offer.usd_per_hour)
        raise UsageError(
            f"max_usd_per_hour {usd(wish.max_usd_per_hour)} is below every offer of {cloud} that fits",
            hint=f"the cheapest is {cheapest.gpu_count} x {cheapest.gpu_name} at {usd(cheapest.usd_per_hour)} $/h ({cheapest.cloud_type})",
        )
    ordered = rank(capped)
    if wish.gpus:
        place = {gpu: number for number, gpu in enumerate(wish.gpus)}
        ordered.sort(key=lambda offer: place[offer.gpu])
    if not wish.regions:
        return ordered
    return [replace(offer, region=region) for offer in ordered for region in wish.regions]


def drift(lease: Lease, wish: PodWish) -> list[str]:
    """What is wished otherwise than it was rented; only a new pod can change it."""
    found = []
    for name, value in wish.public().items():
        if name in lease.wish and lease.wish[name] != value and name not in ("max_usd_per_hour", "env_names"):
            found.append(f"{name} of this pod is {lease.wish[name]}, {value} is wished; it stays as it is, only another run_id gets a new pod")
    return found
