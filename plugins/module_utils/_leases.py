# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger against the cloud: what is ours, what it has cost, what is over, what is unknown."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _ledger as book
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_key import Swept, Terms, being_lent, sweep
from ansible_collections.podcycle.gpu.plugins.module_utils._giving_back import Desk, Slot, each
from ansible_collections.podcycle.gpu.plugins.module_utils._keeper import living
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._lookout import Lookout
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Pod
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, naming_rentals, open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import SystemClock

# A create that was presumed void is still looked for this long: a listing can lag.
_WATCH = timedelta(hours=24)


@dataclass
class Audit:
    """One comparison of the ledger with the account."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    strays: list[Pod] = field(default_factory=list)
    strangers: list[Pod] = field(default_factory=list)


def audit(session: Session, run_id: str | None = None) -> Audit:
    """Compare; reads only. An unknown stays unknown."""
    now = model.utc_now()
    pods = [pod for pod in session.cloud.list() if pod.state != model.GONE]
    by_id, by_name = {pod.id: pod for pod in pods}, {pod.name: pod for pod in pods}
    found = Audit()
    seen: set[str] = set()
    for lease in session.ledger.leases():
        watched = lease.state == book.PRESUMED_VOID and now - (lease.ended_at or now) < _WATCH
        if not lease.open and not watched:
            continue
        pod = by_id.get(lease.pod_id) if lease.pod_id else by_name.get(str(lease.stamp))
        if pod is not None:
            seen.add(pod.id)
        if (watched and pod is None) or (run_id and lease.stamp.run_id != run_id):
            continue
        row = {**lease.to_dict(now), "observed": _observe(session, lease, pod), **verdict(session, lease, now)}
        found.rows.append(row)
        found.leases[str(lease.stamp)] = lease
        if pod is not None:
            found.pods[str(lease.stamp)] = pod
    owner = session.state.owner
    for pod in pods:
        if pod.id in seen:
            continue
        (found.strays if pod.stamp and pod.stamp.owner == owner else found.strangers).append(pod)
    return found


def _observe(session: Session, lease: Lease, pod: Pod | None) -> str:
    if pod is not None:
        return pod.state
    if not lease.pod_id or lease.key_id != session.cloud.key_id:
        return model.UNKNOWN
    try:
        return session.cloud.get(lease.pod_id).state
    except errors.NotFound:
        return model.GONE
    except errors.CloudError:
        return model.UNKNOWN


def verdict(session: Session, lease: Lease, now: datetime) -> dict[str, Any]:
    """Whether a lease is over, and why: its deadline, its hold, or a controller that is gone for good."""
    if lease.deadline and now >= lease.deadline:
        return {"over": True, "why": "its deadline has passed"}
    holder = session.state.run_holder(lease.stamp.run_id)
    if holder is not None and holder.alive:
        return {"over": False, "why": f"being given back by its keeper, {holder}" if holder.keeper else f"driven by {holder}"}
    held = model.parse_time(lease.marks.get("held_until"))
    if held:
        return {"over": now >= held, "why": f"held for its artifacts until {model.rfc3339(held)}"}
    if lease.marks.get("kept"):
        return {"over": False, "why": "kept on purpose until its deadline"}
    if holder is None:
        return {"over": False, "why": "rented outside a cycle; it ends at its deadline"}
    until = model.parse_time(lease.marks.get("gives_back_at"))
    if until and now < until and living(session.state.path / "runs" / lease.stamp.run_id) is not None:
        return {"over": False, "why": f"its controller is gone; the keeper gives it back at {model.rfc3339(until)}"}
    return {"over": True, "why": f"its controller ({holder}) is gone"}


def lease_info(options: Mapping[str, Any]) -> dict[str, Any]:
    session = open_session(options)
    with naming_rentals(session, options.get("run_id")):
        found = audit(session, options.get("run_id"))
    now = model.utc_now()
    costs = [Decimal(row["cost_usd"]) for row in found.rows if row["cost_usd"]]
    rates = [Decimal(row["usd_per_hour"]) for row in found.rows if row["usd_per_hour"] and row["observed"] in (model.STARTING, model.RUNNING)]
    return {
        "changed": False,
        "leases": found.rows,
        "ended": [lease.to_dict(now) for lease in session.ledger.of_run(options.get("run_id") or "") if lease.pod_id and not lease.open],
        "owner": session.state.owner,
        "ledger": str(session.ledger.path),
        "strays": [pod.to_dict() for pod in found.strays],
        "strangers": [pod.to_dict() for pod in found.strangers],
        "cost_usd": model.usd(sum(costs, Decimal(0))),
        "burn_usd_per_hour": model.usd(sum(rates, Decimal(0))),
        "rehearsal": session.rehearsal,
    }


def reap(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Give back what ledger and stamp prove ours and whose lease is over; foreign pods are only reported."""
    session = open_session(options)
    with naming_rentals(session, options.get("run_id"), "reap.yml -e reap_now=true"):
        return _reap(session, options, check_mode)


def _reap(session: Session, options: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    every = options["select"] == "every"
    warnings = _end_runs(session, options) if every and not check_mode else []
    found = audit(session, options.get("run_id"))
    everything = options["select"] == "all"
    gone = _said_to_be_gone(session, found, options)
    slots = [
        Slot(found.leases[row["stamp"]].stamp.index, lease=found.leases[row["stamp"]], notes=[row["why"]])
        for row in found.rows
        if row["over"] or row["stamp"] in gone or every or (everything and not _driven(session, found.leases[row["stamp"]]))
    ]
    slots += [
        Slot(pod.stamp.index if pod.stamp else -1, before=pod, notes=["its stamp is ours, the ledger does not know it"]) for pod in _by_stamp(found, options)
    ]
    kept = [row for row in found.rows if not any(slot.lease is not None and str(slot.lease.stamp) == row["stamp"] for slot in slots)]
    if not check_mode:
        desk = Desk(session.cloud, session.ledger, session.state, gone=gone)
        each(slots, lambda slot: _end(desk, slot))
        if every:
            # What was being rented when the first look was taken.
            failed_already = {str(slot.lease.stamp) for slot in slots if slot.lease is not None and slot.error is not None}
            late = [lease for stamp, lease in audit(session, options.get("run_id")).leases.items() if stamp not in failed_already]
            slots += each([Slot(lease.stamp.index, lease=lease, notes=["it was being rented"]) for lease in late], lambda slot: _end(desk, slot))
    swept = _sweep(session, options, found, slots, check_mode) if session.cloud.name == "runpod" else Swept()
    warnings += swept.warnings
    result = {
        "changed": bool(slots or swept.rows),
        "keys": swept.rows,
        "owner": session.state.owner,
        "left_alone": kept,
        "warnings": warnings,
        "rehearsal": session.rehearsal,
        "reaped": [_line(slot) for slot in slots if slot.error is None],
        "strays": [pod.to_dict() for pod in found.strays if not any(slot.before is pod for slot in slots)],
        "strangers": [pod.to_dict() for pod in found.strangers if not any(slot.before is pod for slot in slots)],
    }
    failed = [slot.error for slot in slots if slot.error is not None]
    if failed:
        failed[0].details.update(reaped=result["reaped"], failed=[str(error) for error in failed])
        raise failed[0]
    return result


def _sweep(session: Session, options: Mapping[str, Any], found: Audit, slots: list[Slot], check_mode: bool) -> Swept:
    """Keys that were lent to the account for the gateway, of runs that rent no more: noted here, or with our owner id in their comment."""

    def over(run_id: str) -> bool:
        # Who is driven, or rents outside a run, may be waiting for capacity, and its next pod needs the key; an ended one rents no more.
        return options["select"] == "every" or not (_driven_run(session, run_id) or being_lent(session, run_id))

    done = [slot for slot in slots if slot.error is None]
    ended = {slot.lease.pod_id for slot in done if slot.lease} | {slot.before.id for slot in done if slot.before}
    seen = [*found.pods.values(), *found.strays, *found.strangers]

    def living() -> set[tuple[str, str]]:
        """By the listing that was acted upon and by another one: one alone may have been cut short."""
        pods = [pod for pod in (*seen, *session.cloud.list()) if pod.state != model.GONE and pod.id not in ended]
        return {(pod.stamp.owner, pod.stamp.run_id) for pod in pods if pod.stamp}

    owners = frozenset({session.state.owner, options.get("owner") or session.state.owner})
    # In check mode they are open still.
    closing = {str(slot.lease.stamp) for slot in slots if slot.lease is not None}

    def leased(run_id: str) -> bool:
        return any(lease.open and not (check_mode and str(lease.stamp) in closing) for lease in session.ledger.of_run(run_id))

    terms = Terms(over, leased, owners, functools.cache(living), options.get("run_id"))
    return sweep(options, session, terms, check_mode=check_mode)


def _said_to_be_gone(session: Session, found: Audit, options: Mapping[str, Any]) -> frozenset[str]:
    """The stamps of the leases whose pods a person has not found in the provider's console; what lives or is driven is refused."""
    rows = {name: row for row in found.rows for name in (row["pod_id"], row["stamp"]) if name}
    gone = []
    for name in options.get("gone") or ():
        what, row = f"close the lease of {errors.clean_text(name, 200)}", rows.get(name)
        if row is None:
            raise errors.UsageError(f"{what}: there is no such open lease", hint="see: ansible-playbook playbooks/leases.yml")
        if row["observed"] not in (model.UNKNOWN, model.GONE):
            hint = f"give it back: ansible-playbook playbooks/stop.yml -e run_id={row['run_id']}"
            raise errors.UsageError(f"{what}: {session.cloud.name} shows the pod, {row['observed']}", hint=hint)
        if _driven(session, found.leases[row["stamp"]]):
            raise errors.UsageError(f"{what}: it is {row['why']}", hint="wait until that has ended, or end it, then type the same again")
        gone.append(row["stamp"])
    return frozenset(gone)


def _end_runs(session: Session, options: Mapping[str, Any]) -> list[str]:
    """What is renting now shall not rent anew in place of what is given back; the runs that could not be told, in sentences."""
    rented = {lease.stamp.run_id for lease in session.ledger.leases() if lease.open}
    runs = rented | {path.parent.name for path in (session.state.path / "runs").glob("*/controller.json")}
    troubles = []
    for run_id in sorted(runs):
        if options.get("run_id") not in (None, run_id):
            continue
        # A full disk too: the pods are to be given back all the same.
        try:
            if run_id not in rented and not _driven_run(session, run_id):
                continue
            session.state.end_run(run_id, session.ledger.path.stem)
        except (errors.PodcycleError, OSError) as err:
            told = err.message if isinstance(err, errors.PodcycleError) else err.strerror
            troubles.append(f"run {run_id} could not be told that it is ended: {told}; if it is renting, it may rent again: end its ansible-playbook")
    return troubles


def _driven(session: Session, lease: Lease) -> bool:
    return _driven_run(session, lease.stamp.run_id)


def _driven_run(session: Session, run_id: str) -> bool:
    holder = session.state.run_holder(run_id)
    return holder is not None and holder.alive


def _by_stamp(found: Audit, options: Mapping[str, Any]) -> list[Pod]:
    """Pods that only their stamp proves ours: an explicit owner id is needed, since the ledger is silent."""
    owner = options.get("owner")
    if not owner:
        return []
    pods = [pod for pod in (*found.strays, *found.strangers) if pod.stamp and pod.stamp.owner == owner]
    return [pod for pod in pods if not options.get("run_id") or (pod.stamp and pod.stamp.run_id == options["run_id"])]


def _end(desk: Desk, slot: Slot) -> None:
    if slot.lease is not None:
        slot.notes.append(desk.release(desk.ledger.lease(slot.lease.stamp)))
    elif slot.before is not None:
        slot.notes.append(desk.end_pod(slot.before))


def _line(slot: Slot) -> dict[str, Any]:
    stamp = slot.lease.stamp if slot.lease else (slot.before.stamp if slot.before else None)
    return {
        "stamp": str(stamp),
        "pod_id": slot.lease.pod_id if slot.lease else slot.before.id if slot.before else None,
        "run_id": stamp.run_id if stamp else None,
        "notes": slot.notes,
    }


def mark(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Hold a run's leases for a bounded time, or keep them until their deadline."""
    session = open_session(options)
    if not options.get("run_id"):
        raise errors.UsageError(f"state {options['state']} needs a run_id")
    if options["state"] == "held" and not 1 <= options["minutes"] <= 24 * 60:
        raise errors.UsageError(f"minutes is {options['minutes']}; a hold lasts between 1 minute and a day")
    now = model.utc_now()
    until = model.rfc3339(now + timedelta(minutes=options["minutes"]))
    wanted: dict[str, Any] = {"held_until": until, "kept": None} if options["state"] == "held" else {"kept": True, "held_until": None}
    leases = _still_there(session, [lease for lease in session.ledger.of_run(options["run_id"]) if lease.open], check_mode)
    fresh = [lease for lease in leases if not _marked(lease, options["state"], now)]
    for lease in fresh if not check_mode else ():
        session.ledger.write(lease.stamp, "mark", **wanted)
        lease.marks.update(wanted)
    rates = [lease.usd_per_hour or Decimal(0) for lease in leases]
    return {
        "changed": bool(fresh),
        "leases": [lease.to_dict(now) for lease in leases],
        "usd_per_hour": model.usd(sum(rates, Decimal(0))),
        "until": next((lease.marks.get("held_until") for lease in leases if lease.marks.get("held_until")), None) if options["state"] == "held" else None,
        "rehearsal": session.rehearsal,
    }


def _still_there(session: Session, leases: list[Lease], check_mode: bool) -> list[Lease]:
    """Those whose pods are not proven gone, which the ledger then knows; without the cloud's answer none is."""
    lookout, found = Lookout(session.cloud, session.ledger, SystemClock()), [*leases]
    with suppress(errors.PodcycleError):
        for lease in leases:
            if lease.pod_id and (lookout.by_id(lease) if check_mode else lookout.settle(lease)) is None:
                found.remove(lease)
    return found


def _marked(lease: Lease, state: str, now: datetime) -> bool:
    held = model.parse_time(lease.marks.get("held_until"))
    return bool(held and held > now) if state == "held" else bool(lease.marks.get("kept"))
