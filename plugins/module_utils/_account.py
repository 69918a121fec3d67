# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of a RunPod account share: their options, how a thing is found by name, and how it is made exactly once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import connection
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import RunPodAccount, Tenant
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient, is_loopback
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec

# A list may lag behind a create by some seconds.
LOOKS_SECONDS = (1.0, 3.0, 6.0)


class Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def runpod_spec() -> dict[str, dict[str, Any]]:
    """The argument spec behind the documentation fragment podcycle.gpu.runpod."""
    return {**cloud_spec(), "cloud": {"type": "str", "choices": ["runpod"], "default": "runpod"}}


@dataclass(frozen=True)
class Desk:
    """An account to work with."""

    account: RunPodAccount
    http: HttpClient
    key_source: str

    @property
    def rehearsal(self) -> bool:
        return is_loopback(self.http.base_url)


def open_desk(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Desk:
    """Sends nothing. Raises CredentialError and UsageError."""
    http, source = connection(options, os.environ if environ is None else environ, Path.cwd())
    return Desk(RunPodAccount(http), http, source)


@contextmanager
def trying(what: str) -> Iterator[None]:
    """A failure says what was tried, on what."""
    try:
        yield
    except errors.CloudError as err:
        err.message = f"{what}: {err.message}"
        raise


def find_own(rows: Sequence[T], kind: str, module: str, *, name: str | None, wanted_id: str | None, missing_ok: bool = False) -> T | None:
    """The one with this id, or else this name. Nothing is ever made under an id that was given, and two of a name are refused."""
    if not (wanted_id or name):
        raise errors.UsageError(f"which {kind}? Neither name nor id is given")
    if wanted_id:
        found = [row for row in rows if row.id == wanted_id]
        if not found and not missing_ok:
            raise errors.UsageError(
                f"there is no {kind} {errors.clean_text(wanted_id, 80)!r} among the account's own", hint=f"list them with {module}, or leave the id out"
            )
        return found[0] if found else None
    found = [row for row in rows if row.name == name]
    if len(found) > 1:
        ids = ", ".join(row.id for row in found)
        raise errors.UsageError(f"{len(found)} {kind}s are named {errors.clean_text(name, 80)!r}: {ids}", hint="say which one with id")
    return found[0] if found else None


def create_once(desk: Desk, kind: str, name: str, create: Callable[[], T], look: Callable[[], Sequence[T]]) -> T:
    """Sent once, where no other has the name. When nobody can say whether it took effect, it is looked for by its name, and taken."""
    try:
        with trying(f"create {kind} {name}"):
            return create()
    except errors.CloudError as err:
        if err.effect != errors.EFFECT_UNKNOWN:
            raise
        for seconds in LOOKS_SECONDS:
            desk.http.clock.sleep(seconds)
            # A look that fails says nothing, and must not hide what may have been made.
            with suppress(errors.CloudError):
                fresh = [row for row in look() if row.name == name]
                if len(fresh) == 1:
                    return fresh[0]
        err.hint = f"it may exist all the same and was not seen in three looks: look for {kind} {name} in RunPod's console before you type the command again"
        raise


def refuse_in_use(kind: str, name: str, tenants: Sequence[Tenant]) -> None:
    if tenants:
        raise errors.Conflict(
            f"delete {kind} {name}: in use by pod {', '.join(map(str, tenants))}",
            hint="give these pods back first: ansible-playbook playbooks/stop.yml -e run_id=..., or playbooks/leases.yml to see whose they are",
            pods=[tenant.id for tenant in tenants],
        )
