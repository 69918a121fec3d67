# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys and what they may do."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

ACCOUNT = "rehearsal"


@dataclass(frozen=True)
class Key:
    label: str
    account: str
    may_read: bool
    may_write: bool
    pod_id: str | None = None


KNOWN = {
    "rpa_rehearsal_full": Key("full", ACCOUNT, True, True),
    "rpa_rehearsal_readonly": Key("readonly", ACCOUNT, True, False),
    "rpa_rehearsal_none": Key("none", ACCOUNT, False, False),
}


def pod_key() -> str:
    return "rpa_pod_" + secrets.token_hex(20)


def bearer(header: str | None) -> str | None:
    if not header:
        return None
    scheme, _mark, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
