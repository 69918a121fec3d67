# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of a cloud: what the engine asks of each provider. Mapping only, no waiting, no retry of its own."""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Offer, Pod, PodWish, Stamp


@dataclass(frozen=True)
class GpuType:
    """A GPU model as one cloud names it."""

    id: str
    name: str
    vram_gib: int


@dataclass(frozen=True)
class Account:
    """Money of an account, in dollars and dollars an hour."""

    balance_usd: Decimal
    burn_usd_per_hour: Decimal
    limit_usd_per_hour: Decimal | None = None

    @property
    def hours_left(self) -> Decimal | None:
        return self.balance_usd / self.burn_usd_per_hour if self.burn_usd_per_hour > 0 else None


class Cloud(ABC):
    """One provider. Every call raises a CloudError, whose C(effect) says whether it may have acted."""

    name: str
    endpoint: str
    key: str
    key_source: str

    @property
    def key_id(self) -> str:
        """A short fingerprint: which key a lease was made with, without telling the key."""
        return hashlib.sha256(f"podcycle\n{self.key}".encode()).hexdigest()[:12]

    @abstractmethod
    def check(self) -> None:
        """A cheap read that fails when the key or the way to the API is bad."""

    def clock_ahead(self) -> float | None:
        """Seconds that this machine's clock is ahead of the cloud's, by the Date of an answer, which tells whole seconds; None when it has none."""
        return None

    def may_write(self) -> bool:
        """Whether the key may rent and give back, found out without doing either."""
        return True

    def account(self) -> Account | None:
        """What the account has and burns; None where it cannot be told. Raises a CloudError when it is refused."""
        return None

    def live_prices(self, gpu_count: int, *, patient: bool = True) -> dict[tuple[str, str], tuple[Decimal | None, str]]:
        """By GPU id and kind of machine: the spot price of so many GPUs now, and the stock. Empty where there is no such thing; `patient` tries again."""
        return {}

    @abstractmethod
    def gpu_types(self) -> list[GpuType]:
        """Every GPU model of the catalog."""

    @abstractmethod
    def offers(self, gpu_count: int, *, spot: bool, options: dict[str, object]) -> list[Offer]:
        """Everything rentable for this many GPUs, unranked."""

    def prepare(self, wish: PodWish) -> PodWish:
        """The wish with what only this cloud can look up, such as the id behind a template's name; raises UsageError before money is spent."""
        return wish

    @abstractmethod
    def create(self, wish: PodWish, stamp: Stamp, offer: Offer) -> Pod:
        """Rent one pod named after the stamp. Raises NoCapacity when this offer cannot be had now."""

    @abstractmethod
    def get(self, pod_id: str) -> Pod:
        """One pod; raises NotFound only on a by-id not-found."""

    @abstractmethod
    def list(self) -> list[Pod]:
        """Every pod of the account, all pages."""

    @abstractmethod
    def start(self, pod_id: str, max_usd_per_hour: Decimal | None = None) -> None:
        """Start a stopped pod; where that is to bid for it again, never above the cap: raises NoCapacity."""

    def start_price(self, pod: Pod, max_usd_per_hour: Decimal | None) -> Decimal | None:
        """What a stopped spot pod would be bid for again at; raises NoCapacity above the cap."""
        return None

    @abstractmethod
    def stop(self, pod_id: str) -> None: ...

    def restart(self, pod_id: str) -> None:
        raise UsageError(f"{self.name} restarts no pods; stop and start it")

    def logs(self, pod_id: str, *, source: str, tail: int) -> tuple[str, ...]:
        """The last lines of the provider's own log of a pod (source system) or of its container."""
        raise UsageError(f"{self.name} keeps no logs of pods")

    def last_words(self, pod_id: str) -> tuple[str, ...]:
        """What the provider wrote about a pod last, for messages; empty where there is no such log."""
        return ()

    @abstractmethod
    def terminate(self, pod_id: str) -> None:
        """Give a pod back; raises NotFound when it is gone already."""


def resolve_gpus(wanted: Sequence[str], known: Iterable[GpuType], cloud: str) -> tuple[str, ...]:
    """Provider ids of the wanted GPUs, given as ids, display names or unique parts of either."""
    types = list(known)
    return tuple(_resolve(name, types, cloud) for name in wanted)


def _fold(name: str) -> str:
    """Some of RunPod's ids carry a double space, which nobody types."""
    return " ".join(name.casefold().split())


def _resolve(wanted: str, types: list[GpuType], cloud: str) -> str:
    folded = _fold(wanted)
    for field in ("id", "name"):
        exact = [gpu.id for gpu in types if _fold(str(getattr(gpu, field))) == folded]
        if len(exact) == 1:
            return exact[0]
    partial = [gpu for gpu in types if folded and (folded in _fold(gpu.id) or folded in _fold(gpu.name))]
    if len(partial) == 1:
        return partial[0].id
    if partial:
        raise UsageError(f"GPU {clean_text(wanted, 60)!r} is ambiguous on {cloud}", hint="it may be: " + ", ".join(gpu.name for gpu in partial[:8]))
    names = {_fold(gpu.name): gpu.name for gpu in types} | {_fold(gpu.id): gpu.name for gpu in types}
    near = list(dict.fromkeys(names[match] for match in difflib.get_close_matches(folded, list(names), n=6, cutoff=0.4)))
    raise UsageError(
        f"GPU {clean_text(wanted, 60)!r} is not known on {cloud}",
        hint=("nearest: " + ", ".join(near)) if near else "list them with: ansible-playbook playbooks/offers.yml",
    )
