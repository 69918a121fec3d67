# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving back, and what it shares with renting: the terms of waiting, the place of a pod in its group, the proof of an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import VOID, Lease, Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._lookout import SETTLE_SECONDS, Lookout
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Pod
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Clock, SystemClock, wait_for

# A provider that allows 60 requests a minute takes this many creates at once.
_THREADS = 64


@dataclass(frozen=True)
class Waits:
    """Seconds for each thing that can take its time; each has a clock of its own."""

    capacity: float = 0.0
    boot: float = 900.0
    endpoint: float = 300.0
    sshd: float = 300.0
    stop: float = 180.0
    release: float = 180.0
    settle: float = SETTLE_SECONDS


@dataclass
class Slot:
    """One place of a group: what stood there, what stands there now."""

    index: int
    before: Pod | None = None
    after: Pod | None = None
    lease: Lease | None = None
    changed: bool = False
    notes: list[str] = field(default_factory=list)
    error: errors.PodcycleError | None = None


@dataclass
class Desk:
    """One account with its ledger, where pods are given back."""

    cloud: Cloud
    ledger: Ledger
    state: StateDir
    ssh: SshAccess | None = None
    waits: Waits = Waits()
    clock: Clock = field(default_factory=SystemClock)
    notify: Callable[[str], None] = lambda text: None
    # Stamps whose pods a person has looked for in the console in vain.
    gone: frozenset[str] = frozenset()

    @property
    def lookout(self) -> Lookout:
        return Lookout(self.cloud, self.ledger, self.clock, self.waits.settle, self.gone)

    def _place(self, run_id: str, name: str, index: int) -> AbstractContextManager[None]:
        """The lock of one place in a group: a rerun waits here until the first has finished its intent."""
        return self.state.lock(f"place-{run_id}-{name}-{index}", timeout_seconds=self.waits.boot + self.waits.endpoint + self.waits.sshd)

    def _peek(self, lease: Lease) -> Pod | None:
        """As settle, but writes nothing."""
        if lease.pod_id:
            return self.lookout.by_id(lease)
        found = [pod for pod in self.cloud.list() if pod.name == str(lease.stamp)]
        return found[0] if len(found) == 1 else None

    def release(self, lease: Lease) -> str:
        """Give one lease back and prove it; the proof in words. Raises StillAlive with the lease left open."""
        pod = self._settled(lease)
        if pod is None:
            return "there was no pod any more"
        self._note(lease, "releasing", pod_id=pod.id)
        said = self.end_pod(pod)
        self._note(lease, "released", pod_id=pod.id, proof=said)
        if self.ssh is not None:
            self.ssh.forget(pod.id)
        return said

    def _settled(self, lease: Lease) -> Pod | None:
        """As settle; where the ledger cannot be written, what can be seen without it."""
        try:
            return self.lookout.settle(lease)
        except errors.StateError as err:
            self.notify(str(err))
            pod = self._peek(lease)
            if pod is None:
                raise
            return pod

    def _note(self, lease: Lease, event: str, **data: str) -> None:
        """To the ledger, unless the disk is full: a pod is given back all the same, and the next look finds it gone."""
        try:
            self.ledger.write(lease.stamp, event, **data)
        except errors.StateError as err:
            self.notify(str(err))

    def end_pod(self, pod: Pod) -> str:
        """Terminate until a by-id not-found proves it."""
        trouble = ""

        def push() -> Pod | None:
            nonlocal trouble
            try:
                self.cloud.terminate(pod.id)
            except errors.NotFound:
                return None
            except (errors.Unauthorized, errors.Forbidden) as err:
                raise errors.StillAlive(
                    f"pod {pod.id} could not be given back: {err}", hint=f"end it in the provider's console: {pod.id}", pod_id=pod.id
                ) from err
            except errors.CloudError as err:
                if isinstance(err, errors.Conflict) and "locked" in err.message.lower():
                    hint = f"unlock {pod.id} in the provider's console, then type the same again; until then it goes on costing"
                    raise errors.StillAlive(f"pod {pod.id} could not be given back, it is locked: {err.message}", hint=hint, pod_id=pod.id) from err
                trouble = err.message
            try:
                seen = self.cloud.get(pod.id)
            except errors.NotFound:
                return None
            except errors.CloudError as err:
                trouble = err.message
                return pod
            return None if seen.state == model.GONE else seen

        try:
            wait_for(
                push,
                lambda seen: seen is None,
                timeout_seconds=self.waits.release,
                phase=f"pod {pod.id} to go away",
                clock=self.clock,
                describe=lambda seen: f"{seen.provider_status}{'; ' + trouble if trouble else ''}" if seen else "gone",
                on_tick=lambda seen, elapsed: self.notify(f"pod {pod.id} was given back {elapsed:.0f} s ago and is still there; {trouble}"),
            )
        except errors.WaitTimeout as err:
            raise errors.StillAlive(
                f"pod {pod.id} was given back but is still there and may be billed: {err.message}",
                hint=f"end it in the provider's console, or try again: ansible-playbook playbooks/reap.yml -e reap_now=true ({pod.id})",
                pod_id=pod.id,
            ) from err
        return "not found by id"

    def release_run(
        self, run_id: str, *, check_mode: bool = False, known: Sequence[tuple[str, str]] = (), spare_kept: bool = False
    ) -> list[Slot]:
        """Give back everything of a run: open leases, late arrivals that bear a stamp of the ledger, and `known` (id, stamp) pairs.

        With `spare_kept` those stay that an earlier pass stopped, kept or held on purpose.
        """
        spared = {lease.pod_id for lease in self.ledger.of_run(run_id) if spare_kept and (lease.marks.get("kept") or lease.marks.get("held_until"))}
        slots = [Slot(lease.stamp.index, lease=lease) for lease in self.ledger.of_run(run_id) if lease.open and lease.pod_id not in spared]
        if check_mode:
            for slot in slots:
                slot.before = self._peek(slot.lease) if slot.lease else None
                slot.changed = slot.before is not None
            return slots
        each(slots, self._give_back)
        leases = {str(lease.stamp): lease for lease in self.ledger.of_run(run_id)}
        done = spared | {slot.lease.pod_id for slot in slots if slot.lease}
        listed = self.cloud.list()
        proven_gone = {lease.pod_id for lease in leases.values() if not lease.open}
        asked = [pod_id for pod_id, _name in known if pod_id not in done | proven_gone | {pod.id for pod in listed}]
        strays = []
        for pod in (*listed, *self._known(asked)):
            lease = leases.get(pod.name)
            # Who bears a stamp whose pod is another one is not proven ours: names are free for anybody to take.
            proven = (pod.id, pod.name) in known or (lease is not None and (lease.pod_id or pod.id) == pod.id and lease.state != VOID)
            if pod.id not in done and pod.state != model.GONE and pod.stamp and pod.stamp.run_id == run_id and proven:
                strays.append(Slot(pod.stamp.index, before=pod, lease=lease))
        return slots + each(strays, self._give_back_stray)

    def _known(self, pod_ids: Sequence[str]) -> list[Pod]:
        """What the run folder remembers, asked for one by one: an empty listing is no proof."""
        found = []
        for pod_id in pod_ids:
            try:
                found.append(self.cloud.get(pod_id))
            except errors.NotFound:
                continue
        return found

    def _give_back(self, slot: Slot) -> None:
        lease = slot.lease
        if lease is None:
            return
        with self._place(lease.stamp.run_id, lease.stamp.name, lease.stamp.index):
            lease = self.ledger.lease(lease.stamp)
            slot.before = self._peek(lease)
            slot.notes.append(self.release(lease))
            slot.changed = slot.before is not None
            slot.lease = self.ledger.lease(lease.stamp)

    def _give_back_stray(self, slot: Slot) -> None:
        if slot.before is None:
            return
        if slot.lease is not None:
            self.lookout.adopt(slot.lease, slot.before)
            slot.notes.append(self.release(self.ledger.lease(slot.lease.stamp)))
        else:
            slot.notes.append(self.end_pod(slot.before))
        slot.changed = True

    def strays(self, run_id: str) -> list[Pod]:
        """Living pods with our owner id and this run in their stamp: after a release there must be none."""
        owner = self.state.owner
        return [pod for pod in self.cloud.list() if pod.state != model.GONE and pod.stamp and pod.stamp.owner == owner and pod.stamp.run_id == run_id]


def each(slots: list[Slot], work: Callable[[Slot], None]) -> list[Slot]:
    """Work on every slot at once; an explained error stays in its slot, any other ends the call."""

    def one(slot: Slot) -> None:
        try:
            work(slot)
        except errors.PodcycleError as err:
            slot.error = err

    if len(slots) == 1:
        one(slots[0])
    elif slots:
        with ThreadPoolExecutor(min(len(slots), _THREADS)) as pool:
            list(pool.map(one, slots))
    return slots
