# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins of a run share: argument specs checked on the controller, failures as data, the controlling process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId

# plugins/module_utils/_controller.py lies two folders below the collection.
COLLECTION = Path(__file__).absolute().parent.parent.parent
_UNFIT = re.compile(r"argument '(\w+)' is of type [^:]*? and we were unable to convert to (\w+): ")
_WITHIN = re.compile(r" found in '([^']+)'")
_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "dict": "a dictionary"}
# What a playbook calls an option by another name.
_VARIABLES = {"count": "pod_count", "watch_limit": "max_watch_seconds"}


def checked(spec: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with defaults and types applied; raises UsageError naming every fault."""
    outcome = ArgumentSpecValidator(dict(spec)).validate(dict(args))
    if outcome.error_messages:
        raise errors.UsageError("; ".join(_plain(text, spec, args) for text in outcome.error_messages))
    return dict(outcome.validated_parameters)


def _plain(text: str, spec: Mapping[str, Any], args: Any) -> str:
    """What Ansible says of a value of the wrong type, in words for those who typed it; any other fault as it stands."""
    unfit = _UNFIT.match(text)
    if unfit is None:
        return text
    name, kind = unfit.groups()
    within = _WITHIN.search(unfit[0])
    path = within[1].split(" -> ") if within else []
    for part in path:
        spec, args = spec[part]["options"], args.get(part) if isinstance(args, Mapping) else None
    told = ".".join((*path, name)) + (f" ({_VARIABLES[name]})" if name in _VARIABLES and not path else "")
    # Only a number or a switch is surely no secret.
    shown = kind in ("int", "float", "bool") and not spec[name].get("no_log") and isinstance(args, Mapping)
    return f"{told}{f' is {errors.clean_text(args.get(name), 60)!r} and' if shown else ''} has to be {_WANTED.get(kind, kind)}"


def guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `work`, or an explained failure in the form that modules use too."""
    try:
        return work()
    except errors.PodcycleError as err:
        return {"failed": True, "changed": False, **errors.failure(err)}
    except OSError as err:
        told = errors.StateError(f"cannot use {err.filename or 'a file'}: {err.strerror or err}", hint="make room or mend its rights, then type the same again")
        return {"failed": True, "changed": False, **errors.failure(told)}


def playbook_process() -> ProcessId:
    """The ansible-playbook that this worker was forked from."""
    found = ProcessId.of(os.getppid())
    return found or ProcessId.of(os.getpid()) or ProcessId("", os.getpid(), 0)


def group_name(text: str) -> str:
    """A group name that Ansible takes, from text that a person or a cloud chose."""
    return "".join(char if char.isascii() and (char.isalnum() or char == "_") else "_" for char in text)
