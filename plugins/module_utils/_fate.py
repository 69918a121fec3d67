# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a pod of ours that does not answer: its cloud is asked, and believed when it shows the end twice in a row."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._lookout import Lookout
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import SystemClock

# A spot pod that was stopped with its volume: the checkpoint is there, and can be bid for.
OUTBID, STOPPED, GONE = "pod_outbid", "pod_stopped", "pod_gone"
EVERY_SECONDS = 15.0
_CONFIRM_SECONDS = 1.0
_ENDED = (model.STOPPED, model.FAILED, model.GONE)


class PodEnded(errors.PodcycleError):
    """The pod on which something ran is stopped or gone."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code


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
                self.shown = f"whether the pod still runs could not be asked: {err.message}"
            else:
                self.shown = f"{self._cloud.name} shows the pod {state}"
                self._sightings = self._sightings + 1 if state in _ENDED else 0
            self._next = now + (_CONFIRM_SECONDS if self._sightings else self._every)
        return self._sightings > 1

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
        if lease.given_back:
            told = f"{what}: pod {self._pod_id} was given back meanwhile, by another command or at the end of its lease"
            return PodEnded(GONE, told, f"{again}: it rents anew")
        if pod is None:
            return PodEnded(GONE, f"{what}: {cloud} has removed pod {self._pod_id}{money}", f"{again}: it rents another pod")
        if pod.state == model.STOPPED and lease.last_event in ("stopping", "stopped"):
            return PodEnded(STOPPED, f"{what}: pod {pod.id} was stopped by another command", again)
        if pod.state == model.STOPPED and lease.wish.get("spot") and not spent:
            told = f"{what}: {cloud} has stopped spot pod {pod.id}: it was outbid{', or the balance, which could not be asked, is spent' if money else ''}"
            if keeps_its_files(lease):
                return PodEnded(OUTBID, told, f"its volume keeps the checkpoint; {again}: it bids again and goes on from there")
            return PodEnded(STOPPED, f"{told}; its checkpoint is lost, since it has no volume", f"{again}: it begins anew (with volume_gib it would go on)")
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
