# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account's SSH keys: what opens the gateway."""

from __future__ import annotations

from rehearsal.store import Store

FACT = "account_ssh_keys"


def account_keys(store: Store) -> list[str]:
    """Public keys in OpenSSH's form, one each."""
    return [str(key) for key in store.load_fact(FACT) or []]


def set_account_keys(store: Store, keys: list[str]) -> None:
    """The whole list is replaced, as RunPod's PUT does."""
    store.save_fact(FACT, [key.strip() for key in keys if key.strip()])
