# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import with_inventory


class ActionModule(ActionBase):
    """The module, whose remedies then name the inventory: only the controller knows what was typed."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(with_inventory(self._execute_module(task_vars=task_vars)))
        return result
