# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._run import RunFolder

SPEC = {
    "run_dir": {"type": "path", "required": True},
    "name": {"type": "str", "required": True},
    "content": {"type": "raw", "required": True},
}


class ActionModule(ActionBase):
    """Writes one of the run folder's known files; never leaves the controller."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: self._write(checked(SPEC, self._task.args))))
        return result

    def _write(self, args: dict[str, Any]) -> dict[str, Any]:
        folder = RunFolder(Path(args["run_dir"]))
        changed = folder.write(args["name"], args["content"], check_mode=bool(self._task.check_mode))
        return {"changed": changed, "path": str(folder.path / args["name"])}
