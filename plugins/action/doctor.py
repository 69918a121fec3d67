# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._doctor import examine
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec
from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import with_inventory

SPEC = cloud_spec()


class ActionModule(ActionBase):
    """Examines the controller itself, so it never leaves it."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(with_inventory(guarded(lambda: examine(checked(SPEC, self._task.args), ansible_version))))
        return result
