# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's key among the account's SSH keys, for as long as the run has pods: RunPod's gateway knows the account's keys only.

Its comment in the account carries owner, run and nonce, so that it is known again when this machine's notes are lost, and until when its
renting may still wait for a pod.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, cloud_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId, write_atomic

# Beside the run's key; written before the account is, so that a key is found again whatever happens in between.
MARK = "lent_to_the_account"
# For what stands between the waits: requests, a slow disk, a clock that is not ours.
MARGIN_SECONDS = 900
# Who waits without end is believed for ten years.
LONGEST_SECONDS = 10 * 366 * 86400
_STAMP = re.compile(r"podcycle-(?P<run_id>[A-Za-z0-9][A-Za-z0-9._-]{0,59})-gateway-(?P<owner>[0-9a-f]{8})-(?P<nonce>[0-9a-f]{8})-(?P<until>[0-9]{1,12})\Z")


@dataclass(frozen=True)
class KeyStamp:
    """The comment of a key that was lent: whose it is, and the second until which a pod may still be waited for."""

    run_id: str
    owner: str
    nonce: str
    until: int

    def __str__(self) -> str:
        return f"podcycle-{self.run_id}-gateway-{self.owner}-{self.nonce}-{self.until}"

    @classmethod
    def of(cls, line: str) -> KeyStamp | None:
        from ansible_collections.podcycle.gpu.plugins.module_utils._account_keys import comment

        match = _STAMP.match(comment(line))
        return cls(match["run_id"], match["owner"], match["nonce"], int(match["until"])) if match else None


@dataclass(frozen=True)
class Mark:
    """What a run folder knows of a key that was lent. An earlier version of the collection noted the line alone."""

    line: str
    ledger: str = ""
    lenders: tuple[ProcessId, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Mark:
        line, _newline, rest = path.read_text(encoding="utf-8").partition("\n")
        try:
            more = json.loads(rest) if rest.strip() else {}
            return cls(line, str(more.get("ledger") or ""), tuple(ProcessId.from_dict(one) for one in more.get("lenders") or []))
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(line)

    def write(self, path: Path) -> None:
        write_atomic(path, f"{self.line}\n{json.dumps({'ledger': self.ledger, 'lenders': [one.to_dict() for one in self.lenders]})}\n")

    def waiting(self) -> list[ProcessId]:
        """Those that lent it and may still be renting: on this machine they are looked for, on another one their time must be over."""
        stamp = KeyStamp.of(self.line)
        late = stamp is None or time.time() >= stamp.until
        return [one for one in self.lenders if one.alive and not (late and one.host != socket.gethostname())]


def wants_gateway(wish: model.PodWish) -> bool:
    """Whether the pod may have to be reached through the gateway: it publishes no SSH, or a machine of a third party has no public address."""
    via = wish.options.get("ssh_via") or "auto"
    return via == "gateway" or (via == "auto" and (_closed(wish) or wish.options.get("cloud_type") in ("community", "any")))


def _closed(wish: model.PodWish) -> bool:
    """Without ports the template's are taken, and 22/tcp beside them."""
    return bool(wish.ports) and "22/tcp" not in wish.ports


def lend(options: Mapping[str, Any], session: Session, wish: model.PodWish, wait_seconds: float) -> str:
    """Put the run's key into the account before a pod is asked for; empty, or why it could not be and the direct way has to do."""
    if not wish.ssh_public_key:
        return "there is no key for the gateway: give ssh_public_key"
    try:
        _lend(options, session, wish, wait_seconds)
    except errors.PodcycleError as err:
        if wish.options.get("ssh_via") == "gateway" or _closed(wish):
            raise
        return f"the gateway will not let us in: {err.message}"
    return ""


def _lend(options: Mapping[str, Any], session: Session, wish: model.PodWish, wait_seconds: float) -> None:
    # Few pods are reached through the gateway, and every task pays for what it imports.
    from ansible_collections.podcycle.gpu.plugins.module_utils._account_keys import check_public_key, edit_keys, fingerprint, identity

    key = identity(check_public_key(str(wish.ssh_public_key)))
    path = session.state.run_dir(wish.run_id) / MARK
    rented = [lease for lease in session.ledger.of_run(wish.run_id) if lease.open and lease.pod_id]
    stamp = KeyStamp(wish.run_id, session.state.owner, secrets.token_hex(4), int(time.time() + min(wait_seconds, LONGEST_SECONDS) + MARGIN_SECONDS))
    line, own = " ".join((*key, str(stamp))), ProcessId.of(os.getpid())

    def add(keys: list[str]) -> list[str]:
        there = next((one for one in keys if identity(one) == key), None)
        before = KeyStamp.of(there) if there is not None else None
        if there is not None and before is None and not path.is_file():
            # A person's own key, which nobody has lent and nobody takes back.
            return keys
        named = before is not None and (before.run_id, before.owner) == (stamp.run_id, stamp.owner)
        # Who has all its pods waits for none. RunPod may have dropped the comment.
        stays = there is not None and (before is None or named and (before.until >= stamp.until or len(rented) >= wish.count))
        known = there if there is not None and named and stays else line
        others = [one for one in Mark.read(path).waiting() if one != own] if path.is_file() else []
        Mark(known, session.ledger.path.stem, (*others, *filter(None, [own]))).write(path)
        if stays:
            return keys
        return [*keys, line] if there is None else [line if one is there else one for one in keys]

    edit_keys(_account(options), f"add SSH key {fingerprint(line)}", add)


def take_back(options: Mapping[str, Any], session: Session, run_id: str, *, spare_waiting: bool = False) -> list[str]:
    """Remove the key of a run that was lent to the account and has no pod any more; what could not be removed, in sentences."""

    def over(one: str) -> bool:
        return one == run_id and not (spare_waiting and being_lent(session, one))

    def leased(one: str) -> bool:
        return any(lease.open for lease in session.ledger.of_run(one))

    return sweep(options, session, Terms(over, leased)).warnings


@dataclass(frozen=True)
class Terms:
    """Whose keys go: of runs that are over and have no lease, by this machine's notes, and for the owners by the comment in the account.

    Whose comment alone tells of it stays while a pod of (owner, run) is living, and until its renting cannot wait any more.
    """

    over: Callable[[str], bool]
    leased: Callable[[str], bool]
    owners: frozenset[str] = frozenset()
    living: Callable[[], set[tuple[str, str]]] = set
    run_id: str | None = None


@dataclass
class Swept:
    """Keys that were removed, or would be, and what could not be."""

    rows: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def sweep(options: Mapping[str, Any], session: Session, terms: Terms, *, check_mode: bool = False) -> Swept:
    def of_ended(marks: Mapping[str, Mark]) -> set[str]:
        return {one for one in marks if terms.run_id in (None, one) and terms.over(one) and not terms.leased(one)}

    ended = of_ended(_marks(session))
    if not ended and not terms.owners:
        return Swept()
    from ansible_collections.podcycle.gpu.plugins.module_utils._account_keys import comment, edit_keys, fingerprint, identity

    found = Swept()

    def drop(keys: list[str]) -> list[str]:
        # Asked under the account's lock, under which keys are lent: who has begun to rent meanwhile keeps its key.
        marks = _marks(session)
        ended.intersection_update(of_ended(marks))
        mine = {identity(marks[one].line): one for one in sorted(ended)}
        used = {identity(mark.line): mark.line for one, mark in marks.items() if one not in ended}
        left = []
        for one in keys:
            stamp = KeyStamp.of(one)
            if identity(one) in used:
                # Two runs may have been given the same key; it goes with the last of them, and bears its name until then.
                left.append(used[identity(one)] if stamp is not None and stamp.run_id in ended else one)
            elif identity(one) in mine or (stamp is not None and stamp.run_id not in marks and _stale(stamp, terms)):
                run_id = stamp.run_id if stamp else mine[identity(one)]
                row = {"run_id": run_id, "fingerprint": fingerprint(one), "comment": errors.clean_text(comment(one), 200)}
                found.rows += [row] if row not in found.rows else []
            else:
                left.append(one)
        # They are gone from the account, which was read right now.
        for run_id in ended if left == keys and not check_mode else ():
            (session.state.path / "runs" / run_id / MARK).unlink(missing_ok=True)
        return left

    try:
        edit_keys(_account(options), "remove the SSH keys of runs that are over", drop, check_mode=check_mode)
    # A full disk too: the pods were given back, and that is to be told.
    except (errors.PodcycleError, OSError) as err:
        told = err.message if isinstance(err, errors.PodcycleError) else err.strerror
        again = f"{told}; reap.yml -e reap_now=true removes it"
        found.warnings = [f"the key of run {one} stays among the account's SSH keys: {again}" for one in sorted(ended)]
        # Whose API key may not read the list has lent no key with it either.
        if not ended and not isinstance(err, (errors.Unauthorized, errors.Forbidden, errors.ProxyRefused)):
            found.warnings = [f"keys that were lent to the account for runs that are over may stay among its SSH keys: {told}"]
        found.rows = []
    return found


def _stale(stamp: KeyStamp, terms: Terms) -> bool:
    if stamp.owner not in terms.owners or terms.run_id not in (None, stamp.run_id) or time.time() < stamp.until:
        return False
    return terms.over(stamp.run_id) and not terms.leased(stamp.run_id) and (stamp.owner, stamp.run_id) not in terms.living()


def _marks(session: Session) -> dict[str, Mark]:
    """By run; keys that were lent to another account are that one's affair."""
    found: dict[str, Mark] = {}
    for path in (session.state.path / "runs").glob(f"*/{MARK}"):
        # Another process may take a key back meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found[path.parent.name] = Mark.read(path)
    return {run_id: mark for run_id, mark in found.items() if mark.ledger in ("", session.ledger.path.stem)}


def being_lent(session: Session, run_id: str) -> bool:
    """Whether another process that lent the run's key may still be renting with it."""
    mark, own = _marks(session).get(run_id), ProcessId.of(os.getpid())
    return mark is not None and any(one != own for one in mark.waiting())


def _account(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options.get(name) for name in cloud_spec()}
