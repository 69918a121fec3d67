# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rent, adopt, fail over, stop and give back: the state machine, once, for all clouds.

A create is never blindly repeated: intent to the ledger (on disk), send, and on any doubt look
for the stamp and adopt. Groups are one call with a thread for each pod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _ledger as book
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud, resolve_gpus
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease, Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._lookout import SETTLE_SECONDS, Lookout
from ansible_collections.podcycle.gpu.plugins.module_utils._market import choose, drift
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Offer, Pod, PodWish
from ansible_collections.podcycle.gpu.plugins.module_utils._ready import Readiness
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Clock, SystemClock, wait_for

Item = TypeVar("Item")
Answer = TypeVar("Answer")
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
class Engine:
    cloud: Cloud
    ledger: Ledger
    state: StateDir
    ssh: SshAccess | None = None
    waits: Waits = Waits()
    clock: Clock = field(default_factory=SystemClock)
    notify: Callable[[str], None] = lambda text: None
    planned: list[Offer] = field(default_factory=list)

    @property
    def lookout(self) -> Lookout:
        return Lookout(self.cloud, self.ledger, self.clock, self.waits.settle)

    # ---- renting ----------------------------------------------------------------------------

    def rent(self, wish: PodWish, *, check_mode: bool) -> list[Slot]:
        """Bring `wish.count` pods to running; errors of single pods stand in their slots."""
        model.check_wish(wish)
        slots = [Slot(index) for index in range(wish.count)]
        if check_mode:
            return self._foresee(wish, slots)
        plan: list[Offer] = []
        if any(self._open_lease(wish, slot.index) is None for slot in slots):
            plan = self.plan(wish)
        return each(slots, lambda slot: self._fill(wish, slot, plan))

    def plan(self, wish: PodWish) -> list[Offer]:
        """The offers to try, best first; raises UsageError when none fits the wish."""
        gpus = resolve_gpus(wish.gpus, self.cloud.gpu_types(), self.cloud.name) if wish.gpus else ()
        offers = self.cloud.offers(wish.gpu_count, spot=wish.spot, options=wish.options)
        self.planned = choose(offers, wish.with_gpus(gpus), self.cloud.name)
        return self.planned

    def _foresee(self, wish: PodWish, slots: list[Slot]) -> list[Slot]:
        plan: list[Offer] = []
        for slot in slots:
            lease = self._open_lease(wish, slot.index)
            slot.lease = lease
            slot.before = self._peek(lease) if lease else None
            if slot.before is not None:
                slot.changed = slot.before.state in (model.STOPPED, model.FAILED)
                price = lease.usd_per_hour if lease else None
                slot.after = replace(slot.before, state=model.RUNNING, usd_per_hour=price) if slot.changed else slot.before
                continue
            plan = plan or self.plan(wish)
            best = plan[0]
            slot.changed = True
            slot.after = Pod(
                self.cloud.name,
                "",
                "",
                model.RUNNING,
                "",
                best.gpu,
                best.gpu_count,
                best.usd_per_hour,
                best.region,
                best.cloud_type,
                wish.image,
                wish.disk_gib,
                wish.volume_gib or None,
                wish.ports,
                spot=wish.spot,
            )
        return slots

    def _peek(self, lease: Lease) -> Pod | None:
        """As settle, but writes nothing."""
        if lease.pod_id:
            return self.lookout.by_id(lease)
        found = [pod for pod in self.cloud.list() if pod.name == str(lease.stamp)]
        return found[0] if len(found) == 1 else None

    def _open_lease(self, wish: PodWish, index: int) -> Lease | None:
        leases = [lease for lease in self.ledger.of_run(wish.run_id) if lease.stamp.index == index and lease.stamp.name == wish.name and lease.open]
        return leases[-1] if leases else None

    def _place(self, run_id: str, name: str, index: int) -> AbstractContextManager[None]:
        """The lock of one place in a group: a rerun waits here until the first has finished its intent."""
        return self.state.lock(f"place-{run_id}-{name}-{index}", timeout_seconds=self.waits.boot + self.waits.endpoint + self.waits.sshd)

    def _fill(self, wish: PodWish, slot: Slot, plan: Sequence[Offer]) -> None:
        with self._place(wish.run_id, wish.name, slot.index):
            lease = self._open_lease(wish, slot.index) or self.lookout.late(wish.run_id, wish.name, slot.index)
            pod = self.lookout.settle(lease) if lease else None
            slot.before = pod
            if lease is not None and pod is not None:
                slot.lease = lease
                self.notify(f"{self.cloud.name}: pod {pod.id} of this run is there ({pod.state})")
                if lease.state == book.RELEASING:
                    raise errors.StateError(f"pod {pod.id} is being given back", hint="wait until it is gone, or use another run_id")
                if pod.state in (model.STOPPED, model.FAILED):
                    self._start(lease, pod)
                    slot.changed = True
                slot.notes += drift(lease, wish)
                slot.after = self._ready().wait_ready(lease, pod)
                return
            self._rent_anew(wish, slot, plan or self.plan(wish))

    def _rent_anew(self, wish: PodWish, slot: Slot, plan: Sequence[Offer]) -> None:
        """Create, wait, and draw once more when the host proves bad."""
        tried: list[Offer] = []
        for draw in (1, 2):
            lease, pod, offer = self._create(wish, slot, [offer for offer in plan if offer not in tried] or plan)
            slot.lease, slot.changed = lease, True
            try:
                slot.notes += drift(lease, wish)
                slot.after = self._ready().wait_ready(lease, pod)
                return
            except errors.WaitTimeout as err:
                self.notify(f"pod {pod.id}: {err.message}; giving it back")
                self.release(lease)
                slot.notes.append(f"pod {pod.id} was given back: {err.message}")
                if draw == 2:
                    raise
                tried.append(offer)

    def _create(self, wish: PodWish, slot: Slot, plan: Sequence[Offer]) -> tuple[Lease, Pod, Offer]:
        start = self.clock.monotonic()
        refused: list[str] = []
        while True:
            for offer in plan:
                found = self._attempt(wish, slot, offer)
                if isinstance(found, str):
                    refused.append(found)
                    continue
                return (*found, offer)
            waited = self.clock.monotonic() - start
            if waited >= self.waits.capacity:
                names = ", ".join(dict.fromkeys(f"{offer.gpu_name} ({offer.region or 'any data center'})" for offer in plan))
                raise errors.NoCapacity(
                    f"create pod {wish.name}-{slot.index} of run {wish.run_id} on {self.cloud.name}: no capacity for {names}",
                    hint="nothing was rented; try `-e gpu=...`, another cloud_type, or see playbooks/offers.yml",
                    said=refused[-1] if refused else None,
                )
            self.notify(f"no capacity on {self.cloud.name}; waited {waited:.0f} s of {self.waits.capacity:.0f} s")
            self.clock.sleep(min(15.0, self.waits.capacity - waited))

    def _attempt(self, wish: PodWish, slot: Slot, offer: Offer) -> tuple[Lease, Pod] | str:
        """One create of one offer: the pod, or why this offer surely cannot be had."""
        for _again in range(2):
            facts = {**wish.public(), "known_hosts_file": str(self.ssh.known_hosts_file) if self.ssh else None}
            deadline = model.utc_now() + timedelta(seconds=wish.lease.seconds)
            lease = self.ledger.begin(wish.run_id, wish.name, slot.index, self.cloud.key_id, facts, deadline)
            self.ledger.write(lease.stamp, "attempt", gpu=offer.gpu, region=offer.region, usd_per_hour=str(offer.usd_per_hour))
            self.notify(f"renting {offer.gpu_count} x {offer.gpu_name} on {self.cloud.name} at {model.usd(offer.usd_per_hour)} $/h")
            try:
                pod = self.cloud.create(wish, lease.stamp, offer)
            except errors.NoCapacity as err:
                self.ledger.write(lease.stamp, "void", proof="refused", said=err.message)
                slot.notes.append(err.message)
                self.notify(err.message)
                return err.message
            except errors.CloudError as err:
                if err.effect == errors.EFFECT_NONE:
                    self.ledger.write(lease.stamp, "void", proof="refused", said=err.message)
                    raise
                self.ledger.write(lease.stamp, "doubt", said=err.message)
                self.notify(f"{err.message}; looking whether the pod was created all the same")
                lost = self.lookout.settle(self.ledger.lease(lease.stamp))
                if lost is None:
                    slot.notes.append(f"create was in doubt ({err.message}) and no pod came of it")
                    continue
                slot.notes.append(f"adopted pod {lost.id}: {err.message}")
                pod = lost
            else:
                self.lookout.adopt(lease, pod)
            self._check_price(wish, lease, pod)
            return self.ledger.lease(lease.stamp), pod
        raise errors.ServerError(
            f"create pod {wish.name}-{slot.index} of run {wish.run_id}: {self.cloud.name} failed twice and created nothing", hint="try again in a minute"
        )

    def _check_price(self, wish: PodWish, lease: Lease, pod: Pod) -> None:
        if wish.max_usd_per_hour is not None and pod.usd_per_hour is not None and pod.usd_per_hour > wish.max_usd_per_hour:
            self.release(self.ledger.lease(lease.stamp))
            raise errors.UsageError(
                f"pod {pod.id} came at {model.usd(pod.usd_per_hour)} $/h, above max_usd_per_hour {model.usd(wish.max_usd_per_hour)}; it was given back"
            )

    def _ready(self) -> Readiness:
        waits = self.waits
        return Readiness(self.cloud, self.ledger, self.ssh, self.clock, waits.boot, waits.endpoint, waits.sshd, self.notify)

    # ---- stop and start -----------------------------------------------------------------------

    def _start(self, lease: Lease, pod: Pod) -> None:
        if self.ssh is not None:
            self.ssh.forget(pod.id)
        self.ledger.write(lease.stamp, "starting", pod_id=pod.id)
        self.notify(f"starting stopped pod {pod.id}")
        self._tolerant(lambda: self.cloud.start(pod.id))
        self.ledger.write(lease.stamp, "started", pod_id=pod.id)

    def stop(self, lease: Lease) -> Pod | None:
        """Stop a pod and read back that it stopped; None when it is gone."""
        pod = self.lookout.settle(lease)
        if pod is None or pod.state == model.STOPPED:
            return pod
        self.ledger.write(lease.stamp, "stopping", pod_id=pod.id)
        self._tolerant(lambda: self.cloud.stop(pod.id))
        stopped = wait_for(
            lambda: self.lookout.by_id(lease),
            lambda seen: seen is None or seen.state == model.STOPPED,
            timeout_seconds=self.waits.stop,
            phase=f"pod {pod.id} to stop",
            describe=lambda seen: seen.provider_status if seen else "gone",
            clock=self.clock,
        )
        if stopped is None:
            self.ledger.write(lease.stamp, "released", pod_id=pod.id, proof="not found by id")
        else:
            self.ledger.write(lease.stamp, "stopped", pod_id=pod.id)
        return stopped

    def _tolerant(self, act: Callable[[], None]) -> None:
        """A conflict or a lost answer is judged by reading back, which every caller does next."""
        try:
            act()
        except (errors.Conflict, errors.NotFound) as err:
            self.notify(err.message)
        except errors.CloudError as err:
            if err.effect == errors.EFFECT_NONE:
                raise
            self.notify(err.message)

    # ---- giving back ----------------------------------------------------------------------------

    def release(self, lease: Lease) -> str:
        """Give one lease back and prove it; the proof in words. Raises StillAlive with the lease left open."""
        pod = self.lookout.settle(lease)
        if pod is None:
            return "there was no pod any more"
        self.ledger.write(lease.stamp, "releasing", pod_id=pod.id)
        said = self.end_pod(pod)
        self.ledger.write(lease.stamp, "released", pod_id=pod.id, proof=said)
        if self.ssh is not None:
            self.ssh.forget(pod.id)
        return said

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

    def release_run(self, run_id: str, *, check_mode: bool = False, known: Sequence[tuple[str, str]] = ()) -> list[Slot]:
        """Give back everything of a run: open leases, late arrivals that bear its stamp and our owner id, and `known` (id, stamp) pairs."""
        slots = [Slot(lease.stamp.index, lease=lease) for lease in self.ledger.of_run(run_id) if lease.open]
        if check_mode:
            for slot in slots:
                slot.before = self._peek(slot.lease) if slot.lease else None
                slot.changed = slot.before is not None
            return slots
        each(slots, self._give_back)
        ended = {slot.lease.pod_id for slot in slots if slot.lease}
        lost = [pod for pod in self.cloud.list() if (pod.id, pod.name) in known and pod.stamp and pod.stamp.run_id == run_id and pod.state != model.GONE]
        others = {pod.id: pod for pod in (*self.strays(run_id), *lost) if pod.id not in ended}
        return slots + each([Slot(pod.stamp.index if pod.stamp else -1, before=pod) for pod in others.values()], self._give_back_stray)

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
        if slot.before is not None:
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
