# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a finished run whole, and is nothing of it rented any more? Reads the run folder, the ledger and the cloud; writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import safe_relative, sha256_of
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._run import RunFolder
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._table import columns

_MOST_BYTES = 16 << 20
# Rounding is no cost.
_CENTS = Decimal("0.001")


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    found: str


def verify(options: Mapping[str, Any]) -> dict[str, Any]:
    """Every finding in its order; `ok` when all are."""
    path = Path(options["run_dir"]).expanduser()
    if not (path / "run.json").is_file():
        raise errors.UsageError(f"{path} is no folder of a run: it has no run.json", hint="they lie in artifacts/cycles/")
    found, rehearsal = [*_folder(path)], False
    if options.get("require_gone", True):
        session = open_session(options)
        found, rehearsal = [*found, *_gone(path, session)], session.rehearsal
    rows = columns([("ok" if one.ok else "FAIL", one.name, one.found) for one in found])
    return {"changed": False, "ok": all(one.ok for one in found), "findings": [asdict(one) for one in found], "lines": rows, "rehearsal": rehearsal}


def _folder(path: Path) -> Iterator[Finding]:
    folder = RunFolder(path)
    complete = folder.complete()
    yield Finding("stages", complete, "the newest pass ended well" if complete else _why_incomplete(folder))
    provision = _json(path / "provision.json")
    pods = [pod for pod in _rows(provision, "pods") if pod.get("id")]
    told = f"rented: {', '.join(errors.clean_text(pod['id'], 80) for pod in pods)}" if pods else "provision.json is missing, or names no pod"
    yield Finding("provision", bool(pods), told)
    manifest = _json(path / "collected" / "manifest.json")
    base = path / "collected" / "run_artifacts"
    several = len(_rows(manifest, "pods")) > 1
    for number, pod in enumerate(_rows(manifest, "pods")):
        name = str(pod.get("pod") or number)
        root = base / f"pod-{name.rpartition('-')[2]}" if several else base
        yield from _artifacts(errors.clean_text(name, 80), root, _rows(pod, "files"))
        yield from _training(errors.clean_text(name, 80), root)
    if not _rows(manifest, "pods"):
        yield Finding("artifacts", False, "collected/manifest.json is missing, or names no pod")
    verdicts = sorted((path / "local_validation").glob("*validation.json"))
    good = [file for file in verdicts if _json(file).get("ok") is True]
    yield Finding("validation", bool(verdicts) and len(good) == len(verdicts), f"{len(good)} of {len(verdicts)} models were opened here and found good")
    cost = _json(path / "cost.json").get("cost_usd")
    yield Finding("cost", isinstance(cost, str), f"{errors.clean_text(cost, 20)} $" if isinstance(cost, str) else "cost.json is missing")


def _why_incomplete(folder: RunFolder) -> str:
    failed = [record for record in folder.since_start() if record["status"] == "failed"]
    return errors.clean_text(failed[0].get("message") or f"{failed[0]['stage']} failed", 200) if failed else "the newest pass did not come to its end"


def _artifacts(name: str, root: Path, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    bad = []
    for row in rows:
        relative = str(row.get("path") or "")
        file = root / relative
        if not safe_relative(relative) or not file.is_file() or file.is_symlink():
            bad.append(f"{errors.clean_text(relative, 80)} is missing")
        elif file.stat().st_size != row.get("size") or sha256_of(file) != row.get("sha256"):
            bad.append(f"{errors.clean_text(relative, 80)} is not what was collected")
    told = f"{len(rows)} files as they were collected, by size and SHA-256" if rows and not bad else "; ".join(bad[:3]) or "the manifest names no file"
    yield Finding(f"artifacts of {name}", bool(rows) and not bad, told + (f" and {len(bad) - 3} more" if len(bad) > 3 else ""))
    model_there = any(row.get("path") == "model.pt" for row in rows)
    yield Finding(f"model of {name}", model_there, "model.pt is there" if model_there else "there is no model.pt")


def _training(name: str, root: Path) -> Iterator[Finding]:
    status = _json(root / "jobs" / "train" / "status.json")
    code = status.get("exit_code")
    told = f"it ended with {errors.clean_text(code, 20)}" if "exit_code" in status else "there is no status of the job"
    yield Finding(f"training of {name}", code == 0, told)


def _gone(path: Path, session: Session) -> Iterator[Finding]:
    """By id, one pod after the other: a listing proves nothing."""
    told = _json(path / "provision.json")
    run_id, ids = str(told.get("run_id") or path.name), [str(pod["id"]) for pod in _rows(told, "pods") if pod.get("id")]
    about, cloud, endpoint = _json(path / "run.json"), session.cloud.name, session.cloud.endpoint
    was = tuple(errors.clean_text(about.get(name) or "nobody knows where", 100) for name in ("cloud", "endpoint"))
    if was != (cloud, endpoint) or told.get("cloud", cloud) != cloud:
        asked = f"the run was on {was[0]} at {was[1]}, and {cloud} at {endpoint} was asked"
        yield Finding("pods gone", False, f"{asked}: type the same again with the inventory that the run began with (-i), without another cloud or endpoint")
        return
    leases = session.ledger.of_run(run_id)
    still = [lease.pod_id or str(lease.stamp) for lease in leases if lease.open]
    unknown = [errors.clean_text(pod_id, 80) for pod_id in ids if pod_id not in {lease.pod_id for lease in leases}]
    if still:
        yield Finding("ledger", False, f"open: {', '.join(still)}")
    elif unknown:
        lost = f"{session.ledger.path} has no lease of {', '.join(unknown)}"
        yield Finding("ledger", False, f"{lost}: type the same again with the account and the state_dir that the run was rented with")
    else:
        yield Finding("ledger", True, f"every lease of the run is closed, {len(leases)} in all{_since_reported(path, leases)}")
    left = []
    for pod_id in dict.fromkeys([*ids, *(lease.pod_id for lease in leases if lease.pod_id)]):
        try:
            pod = session.cloud.get(pod_id)
        except errors.NotFound:
            continue
        except errors.PodcycleError as err:
            left.append(f"{errors.clean_text(pod_id, 80)} cannot be looked up ({err.message})")
            continue
        left += [f"{pod.id} is {pod.state}"] if pod.state != model.GONE else []
    told_left = "; ".join(left) + f"; give them back: ansible-playbook playbooks/stop.yml -e run_id={run_id}"
    yield Finding("pods gone", not left, told_left if left else f"{session.cloud.name} knows none of them any more")


def _since_reported(path: Path, leases: Sequence[Lease]) -> str:
    """Pods that were kept, stopped or held cost more than the report of their run could know."""
    spent = sum((lease.cost(model.utc_now()) or Decimal(0) for lease in leases), Decimal(0))
    try:
        reported = model.to_money(_json(path / "cost.json").get("cost_usd"))
    except errors.SchemaError:
        reported = None
    if reported is None or spent - reported < _CENTS:
        return ""
    return f", for {model.usd(spent)} $; cost.json is older, and written anew by: ansible-playbook playbooks/stop.yml -e run_id={leases[0].stamp.run_id}"


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _rows(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = body.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
