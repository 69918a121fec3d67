# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import BARE, NoReply, RateLimited, ServerError, Unreachable, UsageError, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._status import note_silence, pod_status
from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import with_inventory

display = Display()
# What says nothing about the pods: a watch outlives it.
_PASSING = (ServerError, NoReply, Unreachable, RateLimited)

SPEC = {
    **cloud_spec(),
    "run_id": {"type": "str"},
    "workspace": {"type": "str"},
    "ssh": {"type": "bool", "default": True},
    "ssh_timeout": {"type": "float", "default": 10.0},
    "watch": {"type": "float", "default": 0.0},
    "watch_limit": {"type": "float", "default": 0.0},
    "until_ended": {"type": "bool", "default": False},
    "stall_seconds": {"type": "float", "default": 900.0},
}


class ActionModule(ActionBase):
    """Looks at every pod of ours; again and again when it is to watch, which only the controller can print meanwhile."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(with_inventory(guarded(lambda: self._look(checked(SPEC, self._task.args)))))
        return result

    @staticmethod
    def _look(args: dict[str, Any]) -> dict[str, Any]:
        if min(args["watch"], args["watch_limit"], args["stall_seconds"]) < 0 or args["ssh_timeout"] < 1:
            raise UsageError("watch, watch_limit and stall_seconds are seconds from 0 on, ssh_timeout seconds from 1 on")
        began = looked = time.monotonic()
        seen: dict[str, float] = {}
        found: dict[str, Any] = {}
        while True:
            told: list[str] = []
            try:
                found = {**pod_status(args), "seen": bool(seen), "typed": BARE}
                note_silence(found, seen, time.monotonic(), args["stall_seconds"])
                told = found["lines"]
            except _PASSING as err:
                if not found:
                    raise
                told = [f"the pods cannot be looked at now: {clean_text(err.message)}; the watch goes on"]
                # While nobody can look, no pod falls silent.
                seen = {stamp: at + time.monotonic() - looked for stamp, at in seen.items()}
            looked = time.monotonic()
            over = not found["pods"] or (args["watch_limit"] and time.monotonic() - began + args["watch"] > args["watch_limit"])
            if not args["watch"] or over or (args["until_ended"] and (found["ended"] or found["stalled"])):
                return found
            display.display(time.strftime("%H:%M:%S UTC", time.gmtime()))
            for line in told:
                display.display(line)
            time.sleep(args["watch"])
