# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rent, adopt, fail over, stop and give back: the state machine, once, for all clouds.

A create is never blindly repeated: intent to the ledger (on disk), send, and on any doubt look
for the stamp and adopt. Groups are one call with a thread for each pod. How pods are given back stands in _giving_back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import TypeVar

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _ledger as book
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._catalog import newest, unchecked
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import resolve_gpus
from ansible_collections.podcycle.gpu.plugins.module_utils._giving_back import Desk, Slot, each
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._market import choose, drift, is_tied, stocked
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Offer, Pod, PodWish
from ansible_collections.podcycle.gpu.plugins.module_utils._ready import Readiness
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import wait_for

Answer = TypeVar("Answer")
_RENT_AGAIN = "no other is rented in its place; to rent after all, type the same command again"


@dataclass
class Engine(Desk):
    """The desk that rents as well."""

    planned: list[Offer] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    # When this renting began: an end that was asked for later is meant for it.
    began: float = 0.0

    # ---- renting ----------------------------------------------------------------------------

    def rent(self, wish: PodWish, *, check_mode: bool) -> list[Slot]:
        """Bring `wish.count` pods to running; errors of single pods stand in their slots."""
        self.began = time.time()
        wish = model.check_wish(self.cloud.prepare(model.check_wish(wish)))
        slots = [Slot(index) for index in range(wish.count)]
        if check_mode:
            return self._foresee(wish, slots)
        plan: list[Offer] = []
        if any(self._open_lease(wish, slot.index) is None for slot in slots):
            plan = self.plan(wish)
        for slot in slots:
            slot.notes += self.warnings
        return each(slots, lambda slot: self._fill(wish, slot, plan))

    def plan(self, wish: PodWish) -> list[Offer]:
        """The offers to try, best first; raises UsageError when none fits the wish."""
        try:
            gpus = resolve_gpus(wish.gpus, self.cloud.gpu_types(), self.cloud.name) if wish.gpus else ()
            offers = self.cloud.offers(wish.gpu_count, spot=wish.spot, options=wish.options)
        except (errors.Forbidden, errors.ProxyRefused) as err:
            if not wish.gpus or wish.spot:
                raise
            catalog = newest(self.state, self.cloud.name)
            gpus, offers = unchecked(wish, catalog)
            as_of = f"prices are estimates as of {catalog.as_of}"
            self.warnings = [f"{err.message}; {', '.join(gpus)} goes on unchecked, and {as_of}: give the key the right to read the catalog"]
            self.notify(self.warnings[0])
            self.planned = choose(offers, wish.with_gpus(gpus), self.cloud.name)
            return self.planned
        wish = wish.with_gpus(gpus)
        self.planned = choose(offers, wish, self.cloud.name)
        if is_tied(self.planned, wish):
            self.planned = choose(stocked(offers, self._live_prices(wish.gpu_count)), wish, self.cloud.name)
        return self.planned

    def _live_prices(self, gpu_count: int) -> dict[tuple[str, str], tuple[Decimal | None, str]]:
        """A hint that nobody waits for: without it the catalog's order stands."""
        try:
            return self.cloud.live_prices(gpu_count, patient=False)
        except errors.PodcycleError as err:
            self.notify(f"offers of one price are tried without live stock: {err.message}")
            return {}

    def _foresee(self, wish: PodWish, slots: list[Slot]) -> list[Slot]:
        plan: list[Offer] = []
        for slot in slots:
            lease = self._open_lease(wish, slot.index)
            slot.notes += self.warnings
            slot.lease = lease
            slot.before = self._peek(lease) if lease else None
            if slot.before is not None:
                slot.changed = slot.before.state in (model.STOPPED, model.FAILED)
                slot.after = slot.before
                if slot.changed and lease is not None:
                    bid = self.cloud.start_price(slot.before, wish.max_usd_per_hour) if lease.wish.get("spot") else None
                    slot.after = replace(slot.before, state=model.RUNNING, usd_per_hour=bid or lease.usd_per_hour)
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

    def _open_lease(self, wish: PodWish, index: int) -> Lease | None:
        leases = [lease for lease in self.ledger.of_run(wish.run_id) if lease.stamp.index == index and lease.stamp.name == wish.name and lease.open]
        return leases[-1] if leases else None

    def _fill(self, wish: PodWish, slot: Slot, plan: Sequence[Offer]) -> None:
        with self._place(wish.run_id, wish.name, slot.index):
            lease = self._open_lease(wish, slot.index) or self.lookout.late(wish.run_id, wish.name, slot.index)
            pod = self.lookout.settle(lease) if lease else None
            if lease is not None and pod is not None and lease.state == book.RELEASING:
                # Whoever was giving it back died on the way: that is finished first.
                slot.notes.append(f"pod {pod.id} was being given back: {self.release(lease)}")
                lease = pod = None
            slot.before = pod
            if lease is not None and pod is not None:
                slot.lease = lease
                self.notify(f"{self.cloud.name}: pod {pod.id} of this run is there ({pod.state})")
                marks = {name: lease.marks.get(name) for name in ("kept", "held_until")}
                if any(marks.values()):
                    # Before it costs money again: whoever is killed from here on leaves a pod that its keeper gives back.
                    self.ledger.write(lease.stamp, "mark", kept=None, held_until=None)
                    slot.notes.append("it is in use again: it is neither kept nor held any more")
                try:
                    self._use_again(wish, slot, lease, pod)
                except errors.PodcycleError:
                    if self._left_as_found(lease, pod) and any(marks.values()):
                        self.ledger.write(lease.stamp, "mark", **marks)
                    raise
                return
            self._rent_anew(wish, slot, plan or self.plan(wish))

    def _use_again(self, wish: PodWish, slot: Slot, lease: Lease, pod: Pod) -> None:
        if pod.state in (model.STOPPED, model.FAILED):
            pod = self._start(lease, pod, wish.max_usd_per_hour)
            slot.changed = True
        elif lease.state == book.STOPPED:
            # Whoever was starting it died on the way.
            self.ledger.write(lease.stamp, "started", pod_id=pod.id)
        self._note_price(lease, pod)
        slot.notes += drift(lease, wish)
        slot.after = self._ready(wish).wait_ready(lease, pod)
        self._check_gpus(lease, slot.after)

    def _left_as_found(self, lease: Lease, found: Pod) -> bool:
        """A pod that was started and does not come up is stopped again: its volume may hold what nobody has fetched, and its GPU costs money."""
        now = self.ledger.lease(lease.stamp)
        if now.given_back:
            return False
        if found.state in (model.STOPPED, model.FAILED):
            try:
                self.stop(now)
            except errors.PodcycleError as err:
                self.notify(f"pod {found.id} could not be stopped again: {err.message}")
                return False
            self.notify(f"pod {found.id} was left stopped")
        return True

    def _rent_anew(self, wish: PodWish, slot: Slot, plan: Sequence[Offer]) -> None:
        """Create, wait, and draw once more when the host proves bad."""
        tried: list[Offer] = []
        for draw in (1, 2):
            lease, pod, offer = self._create(wish, slot, [offer for offer in plan if offer not in tried] or plan)
            slot.lease, slot.changed = lease, True
            try:
                slot.notes += drift(lease, wish)
                slot.after = self._ready(wish).wait_ready(lease, pod)
                return
            except (errors.WaitTimeout, errors.PodFailed) as err:
                if self.ledger.lease(lease.stamp).given_back:
                    raise errors.PodFailed(f"pod {pod.id} was given back by another command while it was starting", hint=_RENT_AGAIN) from err
                self.notify(f"pod {pod.id}: {err.message}; giving it back")
                self.release(lease)
                slot.notes.append(f"pod {pod.id} was given back: {err.message}")
                # Another host would start the same container.
                if draw == 2 or isinstance(err, errors.CrashLoop):
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
            # Behind the intent: whoever ends the run and then reads the ledger finds it.
            if self.state.ended(wish.run_id, self.ledger.path.stem, self.began):
                self.ledger.write(lease.stamp, "void", proof="never sent")
                raise errors.PodFailed(f"run {wish.run_id} was ended by another command while it was renting", hint=_RENT_AGAIN)
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

    @staticmethod
    def _check_gpus(lease: Lease, pod: Pod) -> None:
        """A pod that was stopped may come back without its GPUs: its host gave them to others meanwhile."""
        rented = int(lease.wish.get("gpu_count") or 0)
        if pod.gpu_count < rented and lease.gpu:
            raise errors.PodFailed(
                f"pod {pod.id} came back with {pod.gpu_count} of {rented} GPUs: its host gave them to others while it was stopped",
                hint="start it again later; or give it back (playbooks/stop.yml), with what is on its volume, and use another run_id",
            )

    def _ready(self, wish: PodWish | None = None) -> Readiness:
        waits, via = self.waits, str((wish.options if wish else {}).get("ssh_via") or "auto")
        return Readiness(self.cloud, self.ledger, self.ssh, self.clock, waits.boot, waits.endpoint, waits.sshd, self.notify, via)

    # ---- stop and start -----------------------------------------------------------------------

    def _start(self, lease: Lease, pod: Pod, cap: Decimal | None) -> Pod:
        if self.ssh is not None:
            self.ssh.forget(pod.id)
        self._note_stop(lease, pod)
        self.ledger.write(lease.stamp, "starting", pod_id=pod.id)
        self.notify(f"starting stopped pod {pod.id}")
        # RunPod shows the old status for a moment after the start was accepted.
        seen = self._push(lambda: self.cloud.start(pod.id, cap), lease, lambda seen: seen is None or seen.state != model.STOPPED, f"pod {pod.id} to start")
        self.ledger.write(lease.stamp, "started", pod_id=pod.id)
        return seen or pod

    def _note_stop(self, lease: Lease, pod: Pod) -> None:
        """Of a pod that its provider has stopped: from here on its GPU costs nothing."""
        if pod.state == model.STOPPED and lease.stopped_at is None and lease.state != book.RELEASING:
            self.ledger.write(lease.stamp, "stopped", pod_id=pod.id)

    def _note_price(self, lease: Lease, pod: Pod) -> None:
        """A spot pod costs what was bid for it last; a stopped one shows no price, or 0."""
        if pod.usd_per_hour and pod.usd_per_hour != lease.usd_per_hour:
            self.notify(f"pod {pod.id} costs {model.usd(pod.usd_per_hour)} $/h now")
            self.ledger.write(lease.stamp, "priced", usd_per_hour=str(pod.usd_per_hour))

    def restart(self, lease: Lease) -> Pod:
        """Start the container anew on the same host, proven by its later start time: the answer to the request alone proves nothing."""
        pod = self.lookout.settle(lease)
        if pod is None or pod.state != model.RUNNING:
            state = pod.state if pod else "gone"
            raise errors.UsageError(f"restart pod {lease.pod_id or lease.stamp}: it is {state}", hint="start it with: ansible-playbook playbooks/start.yml")
        before, pod_id = pod.started_at, pod.id
        if self.ssh is not None:
            self.ssh.forget(pod_id)
        self.notify(f"restarting pod {pod_id}")

        def restarted(seen: Pod | None) -> bool:
            return seen is None or seen.state == model.RUNNING and seen.started_at is not None and seen.started_at != before

        again = self._push(lambda: self.cloud.restart(pod_id), lease, restarted, f"pod {pod_id} to restart")
        if again is None:
            raise errors.PodFailed(f"pod {pod_id} is gone while it was restarting", hint="the provider ended it; run again with the same run_id")
        return self._ready().wait_ready(lease, again)

    def stop(self, lease: Lease) -> Pod | None:
        """Stop a pod and read back that it stopped; None when it is gone."""
        pod = self.lookout.settle(lease)
        if pod is None or pod.state == model.STOPPED:
            if pod is not None:
                self._note_stop(lease, pod)
            return pod
        pod_id = pod.id
        self.ledger.write(lease.stamp, "stopping", pod_id=pod_id)
        stopped = self._push(lambda: self.cloud.stop(pod_id), lease, lambda seen: seen is None or seen.state == model.STOPPED, f"pod {pod_id} to stop")
        if stopped is None:
            self.ledger.write(lease.stamp, "released", pod_id=pod_id, proof="not found by id")
        else:
            self.ledger.write(lease.stamp, "stopped", pod_id=pod_id)
        return stopped

    def _push(self, act: Callable[[], None], lease: Lease, done: Callable[[Pod | None], bool], phase: str) -> Pod | None:
        """Ask, and ask again while the answer was lost, until the pod shows it; to stop or start twice is to do it once."""
        sent = False

        def look() -> Pod | None:
            nonlocal sent
            sent = sent or self._accepted(act)
            return self.lookout.by_id(lease)

        return wait_for(
            look, done, timeout_seconds=self.waits.stop, phase=phase, describe=lambda seen: seen.provider_status if seen else "gone", clock=self.clock
        )

    def _accepted(self, act: Callable[[], None]) -> bool:
        """Whether it was answered; a conflict is judged by reading back, and so is a pod that is not there."""
        try:
            act()
        except (errors.Conflict, errors.NotFound) as err:
            self.notify(err.message)
        except errors.CloudError as err:
            if err.effect == errors.EFFECT_NONE:
                raise
            self.notify(err.message)
            return False
        return True
