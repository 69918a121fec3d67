# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's key among the account's SSH keys, for as long as the run has pods: RunPod's gateway knows the account's keys only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, cloud_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._state import write_atomic

# Beside the run's key; written before the account is, so that a key is found again whatever happens in between.
MARK = "lent_to_the_account"


def wants_gateway(wish: model.PodWish) -> bool:
    """Whether the pod may have to be reached through the gateway: it publishes no SSH, or a machine of a third party has no public address."""
    via = wish.options.get("ssh_via") or "auto"
    return via == "gateway" or (via == "auto" and (_closed(wish) or wish.options.get("cloud_type") in ("community", "any")))


def _closed(wish: model.PodWish) -> bool:
    """Without ports the template's are taken, and 22/tcp beside them."""
    return bool(wish.ports) and "22/tcp" not in wish.ports


def lend(options: Mapping[str, Any], session: Session, wish: model.PodWish) -> str:
    """Put the run's key into the account before a pod is asked for; empty, or why it could not be and the direct way has to do."""
    if not wish.ssh_public_key:
        return "there is no key for the gateway: give ssh_public_key"
    folder = session.state.run_dir(wish.run_id)
    write_atomic(folder / MARK, wish.ssh_public_key.strip() + "\n")
    try:
        _change(options, wish.ssh_public_key, "present")
    except errors.PodcycleError as err:
        if wish.options.get("ssh_via") == "gateway" or _closed(wish):
            raise
        return f"the gateway will not let us in: {err.message}"
    return ""


def take_back(options: Mapping[str, Any], session: Session, run_ids: set[str]) -> list[str]:
    """Remove the keys of runs that were lent to the account and have no pod any more; what could not be removed, in sentences."""
    troubles = []
    for run_id in sorted(run_ids):
        mark = session.state.path / "runs" / run_id / MARK
        if any(lease.open for lease in session.ledger.of_run(run_id)) or not mark.is_file():
            continue
        try:
            _change(options, mark.read_text(encoding="utf-8"), "absent")
        # A full disk too: the pods were given back, and that is to be told.
        except (errors.PodcycleError, OSError) as err:
            told = err.message if isinstance(err, errors.PodcycleError) else err.strerror
            troubles.append(f"the key of run {run_id} stays among the account's SSH keys: {told}; reap.yml -e reap_now=true removes it")
        else:
            mark.unlink(missing_ok=True)
    return troubles


def lent(session: Session) -> set[str]:
    """Runs whose keys may stand in the account."""
    return {path.parent.name for path in (session.state.path / "runs").glob(f"*/{MARK}")}


def _change(options: Mapping[str, Any], public_key: str, state: str) -> None:
    # Few pods are reached through the gateway, and every task pays for what it imports.
    from ansible_collections.podcycle.gpu.plugins.module_utils._account_keys import change_key

    change_key({**{name: options.get(name) for name in cloud_spec()}, "public_key": public_key, "state": state}, check_mode=False)
