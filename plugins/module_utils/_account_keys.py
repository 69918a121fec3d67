# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH keys of a RunPod account. The API knows only the whole list, and has no way to say "unless somebody else has written since".

So the list is read right before it is written and again a while after; who finds its own change undone makes it again. Runs on this
machine take turns by a lock. What another machine added between our reading and our writing can still be lost, if it does not look again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._account import Desk, open_desk, trying
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_state

ROUNDS = 5
SETTLE_SECONDS = 0.5
_KEY = re.compile(r"((?:ssh|ecdsa|sk)-[^\s]+)[ \t]+([A-Za-z0-9+/]+={0,3})(?:[ \t]+([^\r\n]*))?\Z")


def identity(line: str) -> tuple[str, str]:
    """Type and key: a comment makes no other key. What is no key is itself."""
    match = _KEY.match(line.strip())
    return (match[1], match[2]) if match else ("", line.strip())


def comment(line: str) -> str:
    match = _KEY.match(line.strip())
    return (match[3] or "").strip() if match else ""


def check_public_key(text: str) -> str:
    """One line as RunPod takes it; raises UsageError for a private key, several keys, options or rubbish."""
    line = text.strip()
    if "PRIVATE KEY" in line:
        raise errors.UsageError("public_key holds a private key", hint="give the content of the .pub file beside it, and consider that key as lost")
    match = _KEY.match(line)
    try:
        blob = base64.b64decode(match[2], validate=True) if match else b""
    except binascii.Error:
        blob = b""
    # A key begins with the length and the name of its own type.
    named = blob[4 : 4 + blob[3]].decode("ascii", "replace") if len(blob) > 4 else ""
    if match is None or named != match[1]:
        raise errors.UsageError(
            f"public_key {errors.clean_text(line, 60)!r} is not one line of TYPE KEY COMMENT",
            hint="give the content of a .pub file, such as ~/.ssh/id_ed25519.pub",
        )
    return line


def fingerprint(line: str) -> str:
    """As ssh-keygen -l shows it."""
    try:
        blob = base64.b64decode(identity(line)[1], validate=True)
    except (binascii.Error, ValueError):
        return "no key"
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def change_key(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    line = check_public_key(options["public_key"])
    desk = open_desk(options)
    present = options["state"] == "present"
    what = f"{'add' if present else 'remove'} SSH key {fingerprint(line)}"
    before, after = _edit(desk, options, what, lambda keys: merged(keys, line, present), check_mode)
    return _result(desk, before, after, line)


def edit_keys(options: Mapping[str, Any], what: str, change: Callable[[list[str]], list[str]], *, check_mode: bool = False) -> None:
    """Make the list what C(change) makes of it. That is asked again after each write, and is to ask for nothing more then."""
    _edit(open_desk(options), options, what, change, check_mode)


def _edit(desk: Desk, options: Mapping[str, Any], what: str, change: Callable[[list[str]], list[str]], check_mode: bool) -> tuple[list[str], list[str]]:
    if check_mode:
        with trying("read the account's SSH keys"):
            before = desk.account.ssh_keys()
        return before, change(before)
    lock = hashlib.sha256(f"{desk.http.base_url}\n{desk.http.key}".encode()).hexdigest()[:12]
    with open_state(options).lock(f"runpod-ssh-keys-{lock}"), trying(what):
        return _write(desk, change)


def merged(keys: list[str], line: str, present: bool) -> list[str]:
    """The list as it should be; a key that is there already stays as it was written."""
    wanted = identity(line)
    if not present:
        return [one for one in keys if identity(one) != wanted]
    return keys if any(identity(one) == wanted for one in keys) else [*keys, line]


def _write(desk: Desk, change: Callable[[list[str]], list[str]]) -> tuple[list[str], list[str]]:
    """Before our first change and after our last one."""
    first: list[str] | None = None
    keys: list[str] = []
    for _round in range(ROUNDS):
        keys = desk.account.ssh_keys()
        first = keys if first is None else first
        wanted = change(keys)
        if wanted == keys:
            return first, keys
        try:
            desk.account.replace_ssh_keys(wanted)
        except errors.InvalidRequest as err:
            odd = [errors.clean_text(one, 40) for one in wanted if not _KEY.match(one)]
            if odd:
                err.hint = f"RunPod takes no list with these lines, which stand in the account: {'; '.join(odd)}. Mend them in RunPod's console (Settings)"
            raise
        except errors.CloudError as err:
            # Whether a write took effect is seen by reading again.
            if err.effect != errors.EFFECT_UNKNOWN:
                raise
        desk.http.clock.sleep(SETTLE_SECONDS * random.uniform(1.0, 2.0))
    keys = desk.account.ssh_keys()
    if change(keys) == keys:
        return first or [], keys
    raise errors.Conflict(
        f"another program writes the account's keys at the same time: {ROUNDS} times our change was undone", hint="stop it, then type the command again"
    )


def _result(desk: Desk, before: list[str], after: list[str], line: str) -> dict[str, Any]:
    old, new = ([errors.clean_text(one, 2000) for one in keys] for keys in (before, after))
    return {
        "changed": before != after,
        "ssh_key": {"public_key": errors.clean_text(line, 2000), "fingerprint": fingerprint(line)},
        "ssh_keys": new,
        "diff": {"before": "".join(f"{one}\n" for one in old), "after": "".join(f"{one}\n" for one in new)},
        "rehearsal": desk.rehearsal,
    }
