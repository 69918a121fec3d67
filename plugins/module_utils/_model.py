# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Provider-neutral types: offers, pods, endpoints and the wish for a pod.

Money is Decimal here, and a string with four decimals beside a sortable float at Ansible's
border, because results and host variables refuse Decimal. Times are UTC, RFC 3339.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import SchemaError, UsageError, clean_text

# Observed states, the same for every cloud.
STARTING, RUNNING, STOPPED, FAILED, GONE, UNKNOWN = "starting", "running", "stopped", "failed", "gone", "unknown"

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}\Z")
POD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}\Z")
# From 1 to 65535.
PORT = re.compile(r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])/(tcp|http)\Z")
GROUP_NAME = re.compile(r"[a-z0-9]{1,20}\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\Z")
_STAMP = re.compile(
    r"podcycle-(?P<run_id>[A-Za-z0-9][A-Za-z0-9._-]{0,59})-(?P<name>[a-z0-9]{1,20})-(?P<index>[0-9]{1,4})"
    r"-(?P<owner>[0-9a-f]{8})-(?P<nonce>[0-9a-f]{8})\Z"
)


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: object) -> datetime | None:
    """A provider's time stamp, or None when it is not one (RunPod mixes forms with and without milliseconds)."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        return None


def to_money(value: object) -> Decimal | None:
    """A price in dollars; None for null, raises SchemaError for what is no price."""
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation as err:
        raise SchemaError(f"not a price: {clean_text(value, 40)}") from err
    if not amount.is_finite() or amount < 0 or amount > 1_000_000:
        raise SchemaError(f"not a price: {clean_text(value, 40)}")
    return amount


def usd(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:.4f}"


def check_run_id(value: str) -> str:
    if not RUN_ID.match(value or "") or ".." in value:
        raise UsageError(
            f"run_id {clean_text(value, 80)!r} is not a safe file name",
            hint="use 1 to 60 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return value


@dataclass(frozen=True)
class Stamp:
    """The pod's name: it carries owner, run, place in the group and a nonce, since RunPod v2 has no tags."""

    run_id: str
    name: str
    index: int
    owner: str
    nonce: str

    def __str__(self) -> str:
        return f"podcycle-{self.run_id}-{self.name}-{self.index}-{self.owner}-{self.nonce}"

    @classmethod
    def parse(cls, text: object) -> Stamp | None:
        match = _STAMP.match(text) if isinstance(text, str) else None
        if match is None:
            return None
        return cls(match["run_id"], match["name"], int(match["index"]), match["owner"], match["nonce"])


@dataclass(frozen=True)
class Endpoint:
    """Where a pod's SSH answers."""

    host: str
    port: int
    user: str = "root"
    via: str = "direct"

    @classmethod
    def parse(cls, host: object, port: object, user: object = "root", via: str = "direct") -> Endpoint | None:
        """A checked endpoint, or None: only an IP address or hostname, a port 1-65535 and a plain user name pass."""
        if isinstance(port, str):
            port = int(port) if _PORT.match(port) else 0
        if not isinstance(user, str) or not _USER.match(user):
            return None
        if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
            return None
        try:
            # An IPv6 zone may hold any text at all.
            named = "%" in host or not ipaddress.ip_address(host)
        except ValueError:
            named = True
        return None if named and not _HOSTNAME.match(host) else cls(host, port, user, via)

    def to_dict(self) -> dict[str, Any]:
        return {"host": self.host, "port": self.port, "user": self.user, "via": self.via}


@dataclass(frozen=True)
class Offer:
    """Something rentable now. `usd_per_hour` is for all its GPUs together."""

    cloud: str
    gpu: str
    gpu_name: str
    gpu_count: int
    vram_gib: int
    usd_per_hour: Decimal
    region: str | None = None
    cloud_type: str = "secure"
    spot: bool = False
    availability: str = "unknown"
    # Live, where it was asked for: high, medium, low, none.
    stock: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "cloud": self.cloud,
            "gpu": self.gpu,
            "gpu_name": self.gpu_name,
            "gpu_count": self.gpu_count,
            "vram_gib": self.vram_gib,
            "usd_per_hour": usd(self.usd_per_hour),
            "usd_per_hour_sort": float(self.usd_per_hour),
            "region": self.region,
            "cloud_type": self.cloud_type,
            "spot": self.spot,
            "availability": self.availability,
        }


@dataclass(frozen=True)
class Pod:
    """One rented machine as its cloud shows it."""

    cloud: str
    id: str
    name: str
    state: str
    provider_status: str
    gpu: str | None = None
    gpu_count: int = 0
    usd_per_hour: Decimal | None = None
    region: str | None = None
    cloud_type: str | None = None
    image: str | None = None
    disk_gib: int | None = None
    volume_gib: int | None = None
    ports: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    # The way to its shell that needs no port, no SSH server and no public address of the pod.
    gateway: Endpoint | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    spot: bool = False
    uptime_seconds: int | None = None
    detail: str = ""

    @property
    def stamp(self) -> Stamp | None:
        return Stamp.parse(self.name)

    def reached(self, via: object) -> Pod:
        """The same pod with the way to it that was found to work."""
        return replace(self, endpoint=self.gateway) if via == "gateway" else self

    def to_dict(self) -> dict[str, Any]:
        return {
            "cloud": self.cloud,
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "provider_status": self.provider_status,
            "gpu": self.gpu,
            "gpu_count": self.gpu_count,
            "usd_per_hour": usd(self.usd_per_hour),
            "usd_per_hour_sort": None if self.usd_per_hour is None else float(self.usd_per_hour),
            "region": self.region,
            "cloud_type": self.cloud_type,
            "image": self.image,
            "disk_gib": self.disk_gib,
            "volume_gib": self.volume_gib,
            "ports": list(self.ports),
            "endpoint": self.endpoint.to_dict() if self.endpoint else None,
            "gateway": self.gateway.to_dict() if self.gateway else None,
            "ssh_via": self.endpoint.via if self.endpoint else None,
            "created_at": rfc3339(self.created_at) if self.created_at else None,
            "started_at": rfc3339(self.started_at) if self.started_at else None,
            "spot": self.spot,
            "run_id": self.stamp.run_id if self.stamp else None,
            "index": self.stamp.index if self.stamp else None,
        }


@dataclass(frozen=True)
class LeaseTerms:
    """Under which conditions a pod is rented; every limit is enforced by us, none by RunPod."""

    hours: Decimal

    @property
    def seconds(self) -> int:
        return int(self.hours * 3600)


@dataclass(frozen=True)
class PodWish:
    """What the user asks for, the same on every cloud; `options` holds what only one cloud has."""

    run_id: str
    name: str
    count: int
    gpus: tuple[str, ...]
    gpu_count: int
    max_usd_per_hour: Decimal | None
    image: str
    disk_gib: int
    volume_gib: int
    volume_path: str
    ports: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    secret_env: dict[str, str] = field(default_factory=dict)
    ssh_public_key: str | None = None
    spot: bool = False
    regions: tuple[str, ...] = ()
    lease: LeaseTerms = LeaseTerms(Decimal(4))
    options: dict[str, Any] = field(default_factory=dict)

    def with_gpus(self, gpus: tuple[str, ...]) -> PodWish:
        return replace(self, gpus=gpus)

    def public(self) -> dict[str, Any]:
        """What the ledger may hold: no environment values."""
        return {
            "gpus": list(self.gpus),
            "gpu_count": self.gpu_count,
            "max_usd_per_hour": usd(self.max_usd_per_hour),
            "image": self.image,
            "disk_gib": self.disk_gib,
            "volume_gib": self.volume_gib,
            "ports": list(self.ports),
            "spot": self.spot,
            "regions": list(self.regions),
            **{name: self.options.get(name) for name in ("template", "network_volume", "start_command")},
            "env_names": sorted({*self.env, *self.secret_env}),
            "lease_seconds": self.lease.seconds,
        }


def check_wish(wish: PodWish) -> PodWish:
    """Refuse, before any request, a wish that no cloud could fulfil."""
    check_run_id(wish.run_id)
    if not GROUP_NAME.match(wish.name):
        raise UsageError(f"name {clean_text(wish.name, 40)!r} must be 1 to 20 lower-case letters and digits")
    for label, value, low, high in (
        ("count", wish.count, 1, 200),
        ("gpu_count", wish.gpu_count, 1, 16),
        # A template may bring its own.
        ("disk_gib", wish.disk_gib, 0 if wish.options.get("template") else 1, 10_000),
        ("volume_gib", wish.volume_gib, 0, 10_000),
        ("lease.hours", wish.lease.hours, Decimal("0.01"), 24 * 30),
    ):
        if not low <= value <= high:
            raise UsageError(f"{label} is {value}; it must be between {low} and {high}")
    if wish.max_usd_per_hour is not None and wish.max_usd_per_hour <= 0:
        raise UsageError(f"max_usd_per_hour is {wish.max_usd_per_hour}; it must be above 0")
    for port in wish.ports:
        if not PORT.match(port):
            raise UsageError(f"port {clean_text(port, 20)!r} must look like 22/tcp or 8888/http, and its number lie between 1 and 65535")
    if wish.options.get("ssh_via") == "direct" and wish.ports and "22/tcp" not in wish.ports:
        raise UsageError(f"ports are {', '.join(wish.ports)}; without 22/tcp there is no direct SSH: add it, or set ssh_via to gateway")
    if (wish.volume_gib or wish.options.get("network_volume")) and not re.match(r"/[A-Za-z0-9._/-]{1,100}\Z", wish.volume_path):
        raise UsageError(f"volume_path {clean_text(wish.volume_path, 40)!r} must be an absolute path")
    for key in (*wish.env, *wish.secret_env):
        if not re.match(r"[A-Za-z_][A-Za-z0-9_.-]*\Z", key):
            raise UsageError(f"environment variable {clean_text(key, 40)!r} is no name: use letters, digits and '_', beginning with a letter")
    for key, secret in wish.secret_env.items():
        if len(secret) < 8:
            raise UsageError(f"secret_env value of {clean_text(key, 40)!r} is shorter than 8 characters, so masking it would mask half of every result")
    return wish
