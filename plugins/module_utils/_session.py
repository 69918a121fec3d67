# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that every module of a cloud shares, and what they open: driver, ledger, state folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import CLOUDS, make_cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, StateError, UsageError, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._http import is_loopback
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir, default_state_dir, write_atomic


def cloud_spec() -> dict[str, dict[str, Any]]:
    """The argument spec behind the documentation fragment podcycle.gpu.cloud."""
    return {
        "cloud": {"type": "str", "choices": list(CLOUDS), "default": "runpod"},
        "api_key": {"type": "str", "no_log": True},
        "endpoint": {"type": "str"},
        "request_timeout": {"type": "float", "default": 30.0},
        "account": {"type": "str", "default": "default"},
        "state_dir": {"type": "path"},
    }


@dataclass(frozen=True)
class Session:
    cloud: Cloud
    ledger: Ledger
    state: StateDir

    @property
    def rehearsal(self) -> bool:
        """Only a rehearsal cloud listens on this machine itself."""
        return is_loopback(self.cloud.endpoint)


def open_state(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> StateDir:
    path = options.get("state_dir")
    return StateDir(Path(path).expanduser() if path else default_state_dir(os.environ if environ is None else environ)).open()


def open_cloud(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Cloud:
    return make_cloud(str(options.get("cloud") or "runpod"), options, os.environ if environ is None else environ, Path.cwd())


def open_session(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Session:
    """Everything a paid action needs; sends nothing. Raises CredentialError, StateError, UsageError."""
    cloud = open_cloud(options, environ)
    state = open_state(options, environ)
    return Session(cloud, Ledger(state, cloud.name, cloud.endpoint, str(options.get("account") or "default")), state)


def remember_workspace(state: StateDir, run_id: str, workspace: str) -> None:
    """So that whoever looks at the run's pods later need not be told."""
    if workspace_of_run(state, run_id) != workspace:
        write_atomic(state.run_dir(run_id) / "workspace", f"{workspace}\n")


def workspace_of_run(state: StateDir, run_id: str) -> str:
    """The folder that the run was begun with, or /workspace."""
    try:
        return (state.path / "runs" / run_id / "workspace").read_text(encoding="utf-8").strip() or "/workspace"
    except (OSError, ValueError):
        return "/workspace"


@contextmanager
def naming_rentals(session: Session, run_id: str | None, command: str = "leases.yml") -> Iterator[None]:
    """A failure says which pods are still rented by the ledger, and what to type to give them back; without a run, `command`."""
    try:
        yield
    except PodcycleError as err:
        leases = []
        # A ledger that cannot be read must not hide what went wrong.
        with suppress(StateError):
            leases = [lease for lease in session.ledger.leases() if lease.open and run_id in (None, lease.stamp.run_id)]
        err.details["rented_pods"] = [lease.pod_id for lease in leases if lease.pod_id]
        if leases:
            names = ", ".join(lease.pod_id or f"one that may bear the name {lease.stamp}" for lease in leases)
            typed = f"stop.yml -e run_id={run_id}" if run_id else command
            remedy = f"pods that may still be billed: {names}; when it works again: ansible-playbook playbooks/{typed}"
            err.hint = f"{err.hint}; {remedy}" if err.hint else remedy
        raise


def money_option(name: str, value: object) -> Decimal | None:
    if value in (None, ""):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise UsageError(f"{name} is {clean_text(value, 40)!r}; it must be a number")
    return amount
