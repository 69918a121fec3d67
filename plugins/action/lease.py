# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as NormalAction

from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import with_inventory


class ActionModule(NormalAction):
    """The module, whose remedies then name the inventory: only the controller knows what was typed. meta/runtime.yml has the modules that it runs too."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = with_inventory(super().run(tmp, task_vars))
        return found
