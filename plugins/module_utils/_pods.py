# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pod modules do: options to a wish, the engine's slots to a result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_key import lend, take_back, wants_gateway
from ansible_collections.podcycle.gpu.plugins.module_utils._giving_back import Slot, Waits, each
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._offers import worst_case
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, money_option, naming_rentals, open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess, close_masters, control_path_dir, gateway_overrides, gateway_variables
from ansible_collections.podcycle.gpu.plugins.module_utils._state import private

DEFAULT_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
DEFAULT_DISK_GIB = 40
_WAITS = {"capacity": 0, "boot": 900, "endpoint": 300, "sshd": 300, "stop": 180, "release": 180, "settle": 12}


def pod_spec() -> dict[str, dict[str, Any]]:
    """The argument spec of the pod module, without what every cloud module has."""
    return {
        "run_id": {"type": "str", "required": True},
        "name": {"type": "str", "default": "pod"},
        "state": {"type": "str", "choices": ["running", "restarted", "stopped", "absent"], "default": "running"},
        "count": {"type": "int", "default": 1},
        "gpu": {"type": "list", "elements": "str", "default": []},
        "gpu_count": {"type": "int", "default": 1},
        "min_vram_gib": {"type": "int", "default": 0},
        "max_usd_per_hour": {"type": "str"},
        "spot": {"type": "bool", "default": False},
        "regions": {"type": "list", "elements": "str", "default": []},
        "image": {"type": "str"},
        "disk_gib": {"type": "int"},
        "volume_gib": {"type": "int", "default": 0},
        "volume_path": {"type": "str", "default": "/workspace"},
        "ports": {"type": "list", "elements": "str"},
        "env": {"type": "dict", "default": {}},
        "secret_env": {"type": "dict", "default": {}, "no_log": True},
        "ssh_public_key": {"type": "str", "no_log": False},
        "ssh_private_key_file": {"type": "path", "no_log": False},
        "known_hosts_file": {"type": "path"},
        "lease": {"type": "dict", "default": {}, "options": {"hours": {"type": "str", "default": "4"}}},
        "waits": {"type": "dict", "default": {}, "options": {name: {"type": "float", "default": seconds} for name, seconds in _WAITS.items()}},
        "runpod": {
            "type": "dict",
            "default": {},
            "options": {
                "cloud_type": {"type": "str", "choices": ["secure", "community", "any"], "default": "secure"},
                "min_cuda_version": {"type": "str"},
                "template": {"type": "str"},
                "network_volume": {"type": "str"},
                "start_command": {"type": "list", "elements": "str"},
                "install_sshd": {"type": "bool"},
                "registry": {"type": "str"},
                "secrets": {"type": "dict", "no_log": False},
                "preset_env": {"type": "bool"},
                "ssh_via": {"type": "str", "choices": ["auto", "direct", "gateway"], "default": "auto"},
            },
        },
        "known_pods": {"type": "list", "elements": "dict", "default": []},
        "spare_kept": {"type": "bool", "default": False},
        "interrupt_grace_minutes": {"type": "float", "default": 15.0},
        "progress_file": {"type": "path"},
    }


def make_wish(options: Mapping[str, Any]) -> model.PodWish:
    """The checked wish; raises UsageError before anything is sent."""
    own = {"cloud_type": "secure", **{key: value for key, value in (options["runpod"] or {}).items() if value is not None}}
    version = own.get("min_cuda_version")
    if version and not re.match(r"[0-9]{1,2}\.[0-9]{1,2}\Z", str(version)):
        raise errors.UsageError(f"min_cuda_version is {errors.clean_text(version, 20)!r}; it must look like 12.8")
    _check_runpod(own, options)
    # What a template brings is asked of it; the cloud fills it in.
    template = own.get("template")
    hours = money_option("lease.hours", (options["lease"] or {}).get("hours") or "4")
    return model.check_wish(
        model.PodWish(
            run_id=options["run_id"],
            name=options["name"],
            count=options["count"],
            gpus=tuple(options["gpu"]),
            gpu_count=options["gpu_count"],
            max_usd_per_hour=money_option("max_usd_per_hour", options["max_usd_per_hour"]),
            image=options["image"] or ("" if template else DEFAULT_IMAGE),
            disk_gib=options["disk_gib"] if options["disk_gib"] is not None else 0 if template else DEFAULT_DISK_GIB,
            volume_gib=options["volume_gib"],
            volume_path=options["volume_path"],
            ports=tuple(dict.fromkeys(port.lower() for port in options["ports"] or (() if template else ("22/tcp",)))),
            env={str(key): str(value) for key, value in options["env"].items()},
            secret_env={str(key): str(value) for key, value in options["secret_env"].items()},
            ssh_public_key=options["ssh_public_key"],
            spot=options["spot"],
            regions=tuple(options["regions"]),
            lease=model.LeaseTerms(Decimal(4) if hours is None else hours),
            options={**own, "min_vram_gib": options["min_vram_gib"] or None},
        )
    )


def _check_runpod(own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    for name, secret in (own.get("secrets") or {}).items():
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", str(name)) or not re.match(r"[A-Za-z0-9_-]{1,100}\Z", str(secret)):
            told = errors.clean_text(f"{name}: {secret}", 80)
            raise errors.UsageError(f"runpod.secrets: {told!r} must be the name of an environment variable and the name of a secret in RunPod's console")
        if name in options["env"] or name in (options["secret_env"] or {}):
            raise errors.UsageError(f"runpod.secrets: {name} stands in env or secret_env too; keep one of them")
    if 0 < options["volume_gib"] < 10:
        raise errors.UsageError(f"volume_gib is {options['volume_gib']}; RunPod's volumes hold 10 GiB or more, and 0 is none")
    if own.get("network_volume") and options["volume_gib"]:
        raise errors.UsageError("volume_gib and runpod.network_volume are two volumes, and RunPod mounts one: keep one of them")
    if own.get("network_volume") and own["cloud_type"] != "secure":
        raise errors.UsageError(f"runpod.network_volume needs cloud_type secure, not {own['cloud_type']}: RunPod has network volumes in its data centers only")


def make_engine(options: Mapping[str, Any], session: Session) -> Engine:
    waits = Waits(**{**_WAITS, **{key: value for key, value in (options.get("waits") or {}).items() if value is not None}})
    ssh = None
    if options.get("ssh_private_key_file") and options.get("known_hosts_file"):
        ssh = SshAccess(Path(options["ssh_private_key_file"]), Path(options["known_hosts_file"]))
    return Engine(session.cloud, session.ledger, session.state, ssh=ssh, waits=waits, notify=_notifier(options.get("progress_file")))


def _notifier(path: str | None) -> Callable[[str], None]:
    if not path:
        return lambda text: None

    def write(text: str) -> None:
        with open(path, "a", encoding="utf-8", opener=private) as stream:
            stream.write(errors.clean_text(text, 300) + "\n")

    return write


def converge(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """What the pod module returns; raises PodcycleError with the pods that are rented in its details."""
    wish = make_wish(options)
    session = open_session(options)
    with naming_rentals(session, wish.run_id):
        return _converge(options, session, wish, check_mode)


def _converge(options: Mapping[str, Any], session: Session, wish: model.PodWish, check_mode: bool) -> dict[str, Any]:
    engine = make_engine(options, session)
    notes: list[str] = []
    warnings: list[str] = []
    if options["state"] == "running":
        slots, notes = _rent(options, session, engine, wish, check_mode)
    elif options["state"] == "stopped":
        slots = _stop(engine, session, wish, check_mode)
    elif options["state"] == "restarted":
        slots = _restart(engine, session, wish, check_mode)
    else:
        known = [(str(row.get("id")), str(row.get("name"))) for row in options["known_pods"]]
        slots = engine.release_run(wish.run_id, check_mode=check_mode, known=known, spare_kept=options["spare_kept"])
        if not check_mode and session.cloud.name == "runpod":
            warnings = take_back(options, session, wish.run_id)
    for slot in slots:
        slot.notes += notes
    if not check_mode:
        _close_masters(slots)
    _raise_first(slots)
    result: dict[str, Any] = {
        "changed": any(slot.changed for slot in slots),
        "pods": [_row(slot, engine, session) for slot in slots if slot.after or slot.before],
        "diff": {"before": _picture(slots, wish, before=True), "after": _picture(slots, wish, before=False)},
        "rehearsal": session.rehearsal,
        "warnings": warnings,
    }
    if options["state"] == "running":
        dearest = max((offer.usd_per_hour for offer in engine.planned), default=Decimal(0)) if check_mode else Decimal(0)
        total = sum((max(slot.after.usd_per_hour or Decimal(0), dearest if not slot.before else Decimal(0)) for slot in slots if slot.after), Decimal(0))
        result["worst_case_usd"] = model.usd(worst_case(total, 1, wish.lease.seconds))
    if options["state"] == "absent":
        result["remaining"] = [pod.id for pod in engine.strays(wish.run_id)]
    return result


def _rent(options: Mapping[str, Any], session: Session, engine: Engine, wish: model.PodWish, check_mode: bool) -> tuple[list[Slot], list[str]]:
    if session.cloud.name != "runpod" or not wants_gateway(wish):
        return engine.rent(wish, check_mode=check_mode), []
    gateway_overrides()
    if check_mode:
        return engine.rent(wish, check_mode=True), []
    waits = engine.waits
    note = lend(options, session, wish, waits.capacity + waits.boot + waits.endpoint + waits.sshd)

    def unused(err: errors.PodcycleError) -> None:
        """Without any pod there is nothing to reach; who rents for the same run at the same time goes on with the key."""
        left = take_back(options, session, wish.run_id, spare_waiting=True)
        err.hint = "; ".join(filter(None, (err.hint, *left)))

    try:
        slots = engine.rent(wish, check_mode=False)
    except errors.PodcycleError as err:
        unused(err)
        raise
    failed = next((slot.error for slot in slots if slot.error is not None), None)
    if failed is not None:
        unused(failed)
    return slots, [note] if note else []


def _stop(engine: Engine, session: Session, wish: model.PodWish, check_mode: bool) -> list[Slot]:
    slots = [Slot(lease.stamp.index, lease=lease) for lease in session.ledger.of_run(wish.run_id) if lease.open]

    def one(slot: Slot) -> None:
        if slot.lease is None:
            return
        slot.before = engine.lookout.by_id(slot.lease) if slot.lease.pod_id else None
        slot.changed = slot.before is not None and slot.before.state != model.STOPPED
        if check_mode:
            slot.after = replace(slot.before, state=model.STOPPED, endpoint=None) if slot.before else None
        else:
            slot.after = engine.stop(slot.lease)

    return each(slots, one)


def _restart(engine: Engine, session: Session, wish: model.PodWish, check_mode: bool) -> list[Slot]:
    slots = [Slot(lease.stamp.index, lease=lease) for lease in session.ledger.of_run(wish.run_id) if lease.open]
    if not slots:
        raise errors.UsageError(f"restart the pods of run {wish.run_id}: it has none", hint="see: ansible-playbook playbooks/leases.yml")

    def one(slot: Slot) -> None:
        if slot.lease is not None:
            slot.before = engine.lookout.by_id(slot.lease) if slot.lease.pod_id else None
            slot.changed = slot.before is not None
            slot.after = slot.before if check_mode else engine.restart(slot.lease)

    return each(slots, one)


def _raise_first(slots: list[Slot]) -> None:
    failed = [slot.error for slot in slots if slot.error is not None]
    if not failed:
        return
    first = failed[0]
    if len(slots) > 1:
        first.message = f"{len(failed)} of {len(slots)} pods failed; the first: {first.message}"
    raise first


def _row(slot: Slot, engine: Engine, session: Session) -> dict[str, Any]:
    pod = slot.after or slot.before
    if pod is None:
        return {}
    row = pod.to_dict()
    row["index"] = slot.index
    row["run_id"] = row["run_id"] or (slot.lease.stamp.run_id if slot.lease else None)
    lease = session.ledger.lease(slot.lease.stamp) if slot.lease else None
    row.update(lease_facts(lease), notes=[errors.clean_text(note) for note in slot.notes])
    if engine.ssh is not None and slot.after is not None and pod.id:
        row["ssh_args"] = engine.ssh.words(pod.id)
        row["control_path_dir"] = str(control_path_dir(pod.id))
        row["connection"] = connection_facts(pod, engine.ssh)
    return row


def _close_masters(slots: list[Slot]) -> None:
    """End the SSH masters of pods that were stopped, started or given back: their address may be another pod's by now."""
    for slot in slots:
        if slot.changed and slot.before is not None:
            close_masters(control_path_dir(slot.before.id))


def connection_facts(pod: model.Pod, access: SshAccess) -> dict[str, Any]:
    """Ansible's variables for a pod that only the gateway reaches; empty for any other."""
    if pod.endpoint is None or pod.endpoint.via != "gateway":
        return {}
    return gateway_variables(pod.endpoint, access)


def lease_facts(lease: Lease | None) -> dict[str, Any]:
    if lease is None:
        return {"deadline": None, "cost_usd": None}
    facts = lease.to_dict(model.utc_now())
    return {"deadline": facts["deadline"], "cost_usd": facts["cost_usd"]}


def _picture(slots: list[Slot], wish: model.PodWish, *, before: bool) -> dict[str, Any]:
    """The group as the diff shows it: only what a person decides on, and so what check mode can foresee."""
    rows = {}
    for slot in slots:
        pod = slot.before if before else slot.after
        if pod is not None:
            rows[f"pod-{slot.index}"] = {
                "state": pod.state if before or pod.state != model.STARTING else model.RUNNING,
                "gpu": f"{pod.gpu_count} x {pod.gpu}",
                # What a stopped pod's storage costs is not told.
                "usd_per_hour": None if pod.state == model.STOPPED else model.usd(pod.usd_per_hour),
                **({"region": pod.region} if wish.regions else {}),
            }
    return rows
