# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live pods joined with their leases: what pod_info and the inventory show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Pod
from ansible_collections.podcycle.gpu.plugins.module_utils._pods import connection_facts, lease_facts
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, naming_rentals, open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess, control_path_dir


def live_pods(session: Session, *, everyone: bool = False) -> list[tuple[Pod, Lease | None]]:
    """Pods that exist now, each with its lease if the ledger knows it, in a stable order."""
    owner = session.state.owner
    by_id: dict[str, Lease] = {}
    by_name: dict[str, Lease] = {}
    for lease in session.ledger.leases():
        if lease.pod_id:
            by_id[lease.pod_id] = lease
        else:
            by_name[str(lease.stamp)] = lease
    rows: list[tuple[Pod, Lease | None]] = []
    for pod in session.cloud.list():
        known = by_id.get(pod.id) or by_name.get(pod.name)
        ours = known is not None or (pod.stamp is not None and pod.stamp.owner == owner)
        if pod.state != model.GONE and (ours or everyone):
            rows.append((pod.reached(known.marks.get("ssh_via")) if known else pod, known))
    return sorted(rows, key=lambda row: (row[0].stamp.run_id if row[0].stamp else "~", row[0].stamp.index if row[0].stamp else 0, row[0].id))


def pod_info(options: Mapping[str, Any]) -> dict[str, Any]:
    session = open_session(options)
    access = None
    if options.get("ssh_private_key_file") and options.get("known_hosts_file"):
        access = SshAccess(Path(options["ssh_private_key_file"]), Path(options["known_hosts_file"]))
    owner = session.state.owner
    rows = []
    with naming_rentals(session, options.get("run_id")):
        found = live_pods(session, everyone=options["scope"] == "all")
    for pod, lease in found:
        if options.get("run_id") and not (pod.stamp and pod.stamp.run_id == options["run_id"]):
            continue
        row = {**pod.to_dict(), **lease_facts(lease), "ours": lease is not None or bool(pod.stamp and pod.stamp.owner == owner), "notes": []}
        if access is not None:
            row["ssh_args"] = access.words(pod.id)
            row["control_path_dir"] = str(control_path_dir(pod.id))
            row["connection"] = connection_facts(pod, access)
        rows.append(row)
    return {"changed": False, "pods": rows, "rehearsal": session.rehearsal}
