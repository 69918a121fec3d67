# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a person who typed this command types another: what is told to be typed names the inventory, since the default one is the rehearsal.

Who has the collection installed has no folder playbooks, and types podcycle.gpu.NAME.yml; Ansible takes it with and without .yml.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

from ansible import constants as C
from ansible import context

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import BARE

INSTALLED = "podcycle.gpu."


def relative(path: str) -> str:
    """A path as short as a person would type it."""
    short = os.path.relpath(path) if path.startswith("/") else path
    return path if short.startswith("..") else short


def inventories(cli: Any) -> str:
    """The -i options of the command, with a space before each; empty where it took the default."""
    given = [str(item) for item in cli.get("inventory") or ()]
    return "" if given == list(C.DEFAULT_HOST_LIST) else "".join(f" -i {shlex.quote(relative(item))}" for item in given)


def with_inventory(result: Any, cli: Any = None) -> Any:
    """The same result, whose remedies name the inventory that was typed."""
    full = typed(cli)
    return result if full == BARE else _renamed(result, full)


def installed(cli: Any) -> bool:
    """Whether the command named a playbook by its collection."""
    return str((cli.get("args") or ("",))[0]).startswith(INSTALLED)


def typed(cli: Any = None) -> str:
    """How another playbook of ours is typed, up to its name."""
    given = context.CLIARGS if cli is None else cli
    return f"ansible-playbook{inventories(given)} {INSTALLED if installed(given) else 'playbooks/'}"


def _renamed(value: Any, full: str) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(one, full) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, full) for one in value]
    return value.replace(BARE, full) if isinstance(value, str) else value
