# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The meter: what every pod and disk has cost, second by second, running and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from rehearsal.market_data import DISK_USD_PER_GIB_MONTH, HOURS_PER_MONTH, NETWORK_VOLUME_USD_PER_GIB_MONTH, VOLUME_STOPPED_USD_PER_GIB_MONTH
from rehearsal.records import Pod
from rehearsal.times import now, rfc3339

MICRO = Decimal("0.00000001")
# Kind of the intervals of network volumes, which bill whether or not a pod uses them.
NETWORK = "network"
SECONDS_PER_HOUR = Decimal(3600)


@dataclass
class Interval:
    """A stretch of time at one rate. `ended` is None while it bills."""

    id: int
    pod_id: str
    owner: str
    name: str
    kind: str
    state: str
    rate: str
    started: float
    ended: float | None

    def seconds(self, since: float | None = None, until: float | None = None) -> float:
        start = max(self.started, since) if since is not None else self.started
        end = self.ended if self.ended is not None else now()
        end = min(end, until) if until is not None else end
        return max(0.0, end - start)

    def usd(self, since: float | None = None, until: float | None = None) -> Decimal:
        return Decimal(str(self.seconds(since, until))) * Decimal(self.rate) / SECONDS_PER_HOUR


class Keeper(Protocol):
    def save_intervals(self, intervals: list[Interval]) -> None: ...


class Meter:
    def __init__(self, keeper: Keeper, intervals: list[Interval]) -> None:
        self._keeper = keeper
        self._by_pod: dict[str, list[Interval]] = {}
        self._next = 1
        for one in intervals:
            self._by_pod.setdefault(one.pod_id, []).append(one)
            self._next = max(self._next, one.id + 1)

    def of(self, pod_id: str) -> list[Interval]:
        return self._by_pod.get(pod_id, [])

    def pods(self) -> list[str]:
        return [name for name, intervals in self._by_pod.items() if intervals[0].kind != NETWORK]

    def volume(self, volume_id: str, owner: str, name: str, size_gib: int) -> None:
        """From now on a network volume bills for this size; for 0 no more."""
        moment = now()
        touched = [one for one in self.of(volume_id) if one.ended is None]
        for one in touched:
            one.ended = moment
        if size_gib:
            rate = (Decimal(NETWORK_VOLUME_USD_PER_GIB_MONTH) * size_gib / Decimal(HOURS_PER_MONTH)).quantize(MICRO)
            one = Interval(self._next, volume_id, owner, name, NETWORK, "running", format(rate, "f"), moment, None)
            self._next += 1
            self._by_pod.setdefault(volume_id, []).append(one)
            touched.append(one)
        self._keeper.save_intervals(touched)

    def running(self, pod: Pod) -> None:
        """From now on the pod bills as a running one."""
        self.switch_many([(pod, "running")])

    def stopped(self, pod: Pod) -> None:
        self.switch_many([(pod, "stopped")])

    def ended(self, pod: Pod) -> None:
        self.switch_many([(pod, "ended")])

    def switch_many(self, changes: list[tuple[Pod, str]]) -> None:
        moment = now()
        touched: list[Interval] = []
        for pod, state in changes:
            for one in self.of(pod.id):
                if one.ended is None:
                    one.ended = moment
                    touched.append(one)
            for kind, rate in rates(pod, state):
                one = Interval(self._next, pod.id, pod.owner, pod.name, kind, state, format(rate, "f"), moment, None)
                self._next += 1
                self._by_pod.setdefault(pod.id, []).append(one)
                touched.append(one)
        self._keeper.save_intervals(touched)

    def age(self, pod_id: str, seconds: float) -> None:
        for one in self.of(pod_id):
            one.started -= seconds
            one.ended = None if one.ended is None else one.ended - seconds
        self._keeper.save_intervals(self.of(pod_id))

    def clear(self) -> None:
        self._by_pod.clear()

    def reading(self, pod_id: str) -> dict[str, Any]:
        intervals = self.of(pod_id)
        compute = [one for one in intervals if one.kind in ("gpu", "cpu")]
        disks = [one for one in intervals if one.kind not in ("gpu", "cpu")]
        seconds = {state: max((sum(o.seconds() for o in intervals if o.state == state and o.kind == k) for k in _kinds(intervals)), default=0.0)
                   for state in ("running", "stopped")}  # fmt: skip
        open_now = [one for one in intervals if one.ended is None]
        return {
            "pod_id": pod_id,
            "name": intervals[-1].name,
            "owner": intervals[-1].owner,
            "since": rfc3339(min(one.started for one in intervals)),
            "seconds": round(sum(seconds.values()), 3),
            "seconds_running": round(seconds["running"], 3),
            "seconds_stopped": round(seconds["stopped"], 3),
            "rate_usd_per_hour": format(sum((Decimal(one.rate) for one in open_now), Decimal(0)), "f"),
            "compute_usd": money(sum((one.usd() for one in compute), Decimal(0))),
            "disk_usd": money(sum((one.usd() for one in disks), Decimal(0))),
            "usd": money(sum((one.usd() for one in intervals), Decimal(0))),
            "open": bool(open_now),
        }

    def total(self) -> Decimal:
        return sum((one.usd() for intervals in self._by_pod.values() for one in intervals), Decimal(0))

    def report(self) -> dict[str, Any]:
        readings = {name: self.reading(name) for name in self._by_pod}
        total = sum((Decimal(one["usd"]) for one in readings.values()), Decimal(0))
        pods = dict.fromkeys(self.pods())
        return {
            "pods": {name: readings[name] for name in pods},
            "volumes": {name: one for name, one in readings.items() if name not in pods},
            "open": [name for name, one in readings.items() if one["open"]],
            "total_usd": money(total),
        }


def _kinds(intervals: list[Interval]) -> set[str]:
    return {one.kind for one in intervals}


def money(amount: Decimal) -> str:
    return format(amount.quantize(MICRO), "f")


def rates(pod: Pod, state: str) -> list[tuple[str, Decimal]]:
    """What a pod bills per hour in a state: compute and container disk while it runs, the volume always."""
    month = Decimal(HOURS_PER_MONTH)
    found: list[tuple[str, Decimal]] = []
    volume = pod.persistent
    if state == "running":
        found.append(("gpu" if pod.gpu_id else "cpu", Decimal(pod.rate)))
        found.append(("disk", (Decimal(DISK_USD_PER_GIB_MONTH) * pod.disk_gib / month).quantize(MICRO)))
        if volume:
            found.append(("volume", (Decimal(DISK_USD_PER_GIB_MONTH) * volume["size"] / month).quantize(MICRO)))
    elif state == "stopped" and volume:
        found.append(("volume", (Decimal(VOLUME_STOPPED_USD_PER_GIB_MONTH) * volume["size"] / month).quantize(MICRO)))
    return found
