# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is true of a lease: asks the cloud, and never mistakes silence for absence.

A pod whose id is known is gone only after a by-id not-found. A create whose answer was lost is
looked for by its stamp in listings, and presumed void only after two that can be trusted.
"""

from __future__ import annotations

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _ledger as book
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease, Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._model import GONE, Pod, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Clock

# RunPod lists a new pod only seconds after creating it.
SETTLE_SECONDS = 12.0
DOUBT_SECONDS = 90.0
EMPTY_SECONDS = 45.0
# After its sending: a cloud goes on with a create although the one who asked was killed meanwhile.
ARRIVAL_SECONDS = 45.0


class Lookout:
    """Finds the pod of a lease, or proves that there is none."""

    def __init__(self, cloud: Cloud, ledger: Ledger, clock: Clock, settle_seconds: float = SETTLE_SECONDS, gone: frozenset[str] = frozenset()) -> None:
        self._cloud = cloud
        self._ledger = ledger
        self._clock = clock
        self._settle = settle_seconds
        # Stamps whose pods a person has looked for in the console in vain.
        self._gone = gone

    def by_id(self, lease: Lease) -> Pod | None:
        """The pod of a lease whose id is known; None when the cloud says that it is gone."""
        if lease.pod_id is None:
            raise errors.LeaseUnknown(f"the id of {lease.stamp} is not known", stamp=str(lease.stamp), effect=errors.EFFECT_UNKNOWN)
        try:
            pod = self._cloud.get(lease.pod_id)
            if pod.state != GONE:
                return pod
        except errors.NotFound:
            pass
        # Any key of the account shows that a pod lives; that of another account would find nothing.
        self._same_key(lease)
        return None

    def _same_key(self, lease: Lease) -> None:
        if lease.key_id != self._cloud.key_id and str(lease.stamp) not in self._gone:
            raise errors.LeaseUnknown(
                f"pod {lease.pod_id or lease.stamp} was rented with another key, so this one cannot tell whether it lives",
                hint="use the key it was rented with; where that is lost and the provider's console does not show the pod, close its lease: "
                f"ansible-playbook playbooks/reap.yml -e reap_now=true -e gone={lease.pod_id or lease.stamp}",
                pod_id=lease.pod_id,
                effect=errors.EFFECT_UNKNOWN,
            )

    def by_stamp(self, lease: Lease) -> Pod | None:
        """The pod of a create that may have taken effect; None when two sound listings lack it.

        Raises LeaseUnknown when listings cannot be trusted, or when two pods bear the stamp.
        """
        start = self._clock.monotonic()
        # A clock that was set back meanwhile makes nothing wait longer.
        arrival = ARRIVAL_SECONDS - max(0.0, (utc_now() - (lease.sent_at or lease.created_at)).total_seconds())
        sound = 0
        trouble = "the listing lacks pods that are known to live"
        pause = 0.5
        while True:
            try:
                listed = self._cloud.list()
                found = [pod for pod in listed if pod.name == str(lease.stamp) and pod.state != GONE]
                whole = bool(found) or self._whole({pod.id for pod in listed})
            except errors.CloudError as err:
                listed, found, whole, trouble = [], [], False, err.message
            if len(found) > 1:
                raise errors.LeaseUnknown(
                    f"{len(found)} pods bear the stamp {lease.stamp}: {', '.join(pod.id for pod in found)}",
                    hint="end the ones that are not yours in the provider's console, then run again",
                    stamp=str(lease.stamp),
                    effect=errors.EFFECT_UNKNOWN,
                )
            if found:
                return found[0]
            self._same_key(lease)
            waited = self._clock.monotonic() - start
            sound = sound + 1 if whole else 0
            # A listing that shows a pod which is known to live proves more than an empty one.
            if sound >= 2 and waited >= max(self._settle, arrival, 0.0 if listed else EMPTY_SECONDS):
                return None
            if waited >= DOUBT_SECONDS:
                raise errors.LeaseUnknown(
                    f"it is not known whether {self._cloud.name} created {lease.stamp}: looked for {waited:.0f} s; {trouble}",
                    hint="it stays in the ledger; run the same command again, or: ansible-playbook playbooks/reap.yml",
                    stamp=str(lease.stamp),
                    effect=errors.EFFECT_UNKNOWN,
                )
            self._clock.sleep(pause)
            pause = min(pause * 1.6, 5.0)

    def _whole(self, listed: set[str]) -> bool:
        """Whether a listing shows every pod that the ledger has as alive, or they are truly gone."""
        known = [lease for lease in self._ledger.leases() if lease.state == book.LEASED and lease.pod_id and lease.key_id == self._cloud.key_id]
        return all(lease.pod_id in listed or self.by_id(lease) is None for lease in known)

    def late(self, run_id: str, name: str, index: int) -> Lease | None:
        """A lease that was presumed void and whose pod turned up after all; it is adopted, so that no second one is rented."""
        place = (run_id, name, index)
        voids = [lease for lease in self._ledger.of_run(run_id) if lease.state == book.PRESUMED_VOID]
        voids = [lease for lease in voids if (lease.stamp.run_id, lease.stamp.name, lease.stamp.index) == place]
        names = {pod.name: pod for pod in self._cloud.list() if pod.state != GONE} if voids else {}
        for lease in voids:
            if str(lease.stamp) in names:
                self.adopt(lease, names[str(lease.stamp)])
                return self._ledger.lease(lease.stamp)
        return None

    def settle(self, lease: Lease) -> Pod | None:
        """The lease's pod, with what was learnt written to the ledger; None when there is none any more."""
        if lease.pod_id:
            pod = self.by_id(lease)
            if pod is None:
                self._ledger.write(lease.stamp, "released", proof="not found by id")
            return pod
        if lease.last_event == "intent":
            self._ledger.write(lease.stamp, "void", proof="never sent")
            return None
        pod = self.by_stamp(lease)
        if pod is None:
            self._ledger.write(lease.stamp, "presumed_void", proof="absent from two listings", looked_at=utc_now().isoformat(timespec="seconds"))
            return None
        self.adopt(lease, pod)
        return pod

    def adopt(self, lease: Lease, pod: Pod) -> None:
        price = None if pod.usd_per_hour is None else str(pod.usd_per_hour)
        self._ledger.write(lease.stamp, "leased", pod_id=pod.id, usd_per_hour=price, gpu=pod.gpu, region=pod.region)
        lease.pod_id, lease.state = pod.id, book.LEASED
