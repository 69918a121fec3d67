# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a pod of ours that does not answer: its cloud is asked, and believed when it shows the end twice in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._lookout import Lookout
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Clock, SystemClock

# A spot pod that was stopped with its volume: its files are there, and can be bid for.
OUTBID, STOPPED, GONE = "pod_outbid", "pod_stopped", "pod_gone"
FATES = (OUTBID, STOPPED, GONE)
EVERY_SECONDS = 15.0
_CONFIRM_SECONDS = 1.0
_ENDED = (model.STOPPED, model.FAILED, model.GONE)


class PodEnded(errors.PodcycleError):
    """The pod on which something ran is stopped or gone."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code


def account_of(variables: Mapping[str, Any], template: Callable[[Any], Any]) -> dict[str, Any]:
    """Where a run's pods were rented, from Ansible's variables: what stands in the arguments of a task may go to the pod, and the key must not."""
    run = template(variables.get("cycle_run")) or {}
    told = {name: template(variables.get(f"cloud_{name}")) or None for name in ("api_key", "endpoint", "account")}
    return {**told, "cloud": run.get("cloud"), "state_dir": run.get("state_dir") or template(variables.get("state_dir"))}


class Inquiry:
    """Asks the cloud for one pod, at most every so many seconds. V(shown) says in words what it answered last."""

    def __init__(self, options: Mapping[str, Any], pod_id: str, every: float = EVERY_SECONDS) -> None:
        self._options = {**options, "request_timeout": 10.0, "absent_ok": True}
        self._pod_id = pod_id
        self._every = every
        self._next: float | None = None
        self._sightings = 0
        self.shown = ""

    def ended(self, now: float) -> bool:
        """Whether the pod was seen stopped or gone twice in a row."""
        if self._next is None or now >= self._next:
            try:
                state = self._state()
            except errors.PodcycleError as err:
                self._sightings = 0
                self.shown = f"whether the pod still runs could not be asked: {err.message}"
            else:
                self.shown = f"{self._cloud.name} shows the pod {state}"
                self._sightings = self._sightings + 1 if state in _ENDED else 0
            self._next = now + (_CONFIRM_SECONDS if self._sightings else self._every)
        return self._sightings > 1

    def insist(self, what: str, seconds: float, clock: Clock) -> None:
        """Raises PodEnded when the cloud shows the pod's end, which it may do a moment after the pod is lost."""
        until = clock.monotonic() + seconds
        while not self.ended(clock.monotonic()):
            if clock.monotonic() >= until and not self._sightings:
                return
            clock.sleep(1.0)
        raise self.verdict(what)

    def _state(self) -> str:
        session = open_session(self._options)
        self._cloud = session.cloud
        known = [lease for lease in session.ledger.leases() if lease.pod_id == self._pod_id]
        if not known:
            raise errors.StateError(f"the ledger of this machine does not know pod {self._pod_id}")
        self._lease = known[-1]
        self._pod = Lookout(session.cloud, session.ledger, SystemClock()).by_id(self._lease)
        return self._pod.state if self._pod else model.GONE

    def verdict(self, what: str) -> PodEnded:
        """Why V(what) cannot go on, and what to type."""
        lease, pod, cloud = self._lease, self._pod, self._cloud.name
        balance = self._balance()
        spent = balance is not None and balance <= 0
        money = f": the account's balance is {model.usd(balance)} $" if spent else "; the account's balance could not be asked" if balance is None else ""
        again = f"{'add money to the account, then ' if spent else ''}type the same command again"
        # The pod's own guard ends it at the deadline and cannot write that down here.
        if lease.given_back or pod is None and lease.deadline is not None and lease.deadline <= model.utc_now():
            told = f"{what}: pod {self._pod_id} was given back meanwhile, by another command or at the end of its lease"
            return PodEnded(GONE, told, f"{again}: it rents anew")
        if pod is None:
            return PodEnded(GONE, f"{what}: {cloud} has removed pod {self._pod_id}{money}", f"{again}: it rents another pod")
        if pod.state == model.STOPPED and (lease.stopped_at is not None or lease.last_event == "stopping"):
            return PodEnded(STOPPED, f"{what}: pod {pod.id} was stopped by another command", again)
        if pod.state == model.STOPPED and lease.wish.get("spot") and not spent:
            # The API tells neither from the other.
            told = f"{what}: {cloud} shows spot pod {pod.id} stopped: it was outbid, or stopped in the console"
            told += ", or the balance, which could not be asked, is spent" if money else ""
            if keeps_its_files(lease):
                return PodEnded(OUTBID, told, f"its volume keeps its files; {again}: it bids again and goes on from there")
            return PodEnded(STOPPED, f"{told}; its files are lost, since it has no volume", f"{again}: it begins anew (with volume_gib it would go on)")
        shown = "has stopped" if pod.state == model.STOPPED else f"shows {pod.provider_status} for"
        return PodEnded(STOPPED, f"{what}: {cloud} {shown} pod {pod.id}{money}", again)

    def _balance(self) -> Decimal | None:
        try:
            account = self._cloud.account()
        except errors.PodcycleError:
            return None
        return account.balance_usd if account else None


def keeps_its_files(lease: Lease) -> bool:
    """Whether a stop leaves the workspace as it is."""
    return bool(lease.wish.get("volume_gib") or lease.wish.get("network_volume"))
