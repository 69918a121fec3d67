# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._rclone import Rclone, is_local, read_remote, settings_of, variables_of


class ActionModule(ActionBase):
    """Gives the module those variables of the controller's environment that describe the remote."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: self._work(task_vars or {})))
        return result

    def _work(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args = dict(self._task.args)
        remote = str(args.get("remote") or "")
        settings = settings_of(remote, os.environ)
        name, local = read_remote(remote)[0], self._connection.transport == "local"
        if str(args.get("probe", False)).lower() in ("true", "yes", "1") and args.get("direction") == "pull":
            # The pod is the one to pull it.
            self._describe(name, settings)
            if is_local(remote, settings) or not Rclone.there():
                return {"changed": False, "probed": False}
        elif not local:
            self._describe(name, settings)
        limit = int(args.get("bandwidth_limit_kib_s") or 0)
        if limit < 0:
            raise errors.UsageError(f"bandwidth_limit_kib_s is {limit}, and must be 0 for no limit or more", hint="-e transfer_bwlimit=1024 is 1 MiB a second")
        return dict(self._execute_module(module_args={**args, "settings": json.dumps(settings)}, task_vars=task_vars))

    @staticmethod
    def _describe(name: str, settings: dict[str, str]) -> None:
        variable = f"{variables_of(name)}TYPE"
        if name and variable not in settings:
            raise errors.UsageError(f"nothing in the environment describes the remote {name}: to a pod", hint=f"export {variable}=s3, and what else it needs")
