# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: runpod_environment
short_description: Take the environment names of older RunPod scripts as variables
version_added: 0.1.0
description:
  - Reads E(RUNPOD_CYCLE_RUN_ID), E(RUNPOD_GPU_TYPE_ID), E(RUNPOD_TEMPLATE_NAME) and the others that the chess bot's scripts were driven by, and sets
    the variables of the playbooks from them. docs/migration.md has the whole table.
  - They go over what the inventory sets, and V(-e) goes over them. A name that is not set changes nothing.
  - The plugin must be enabled in C(vars_plugins_enabled) of ansible.cfg, behind C(host_group_vars).
requirements:
  - It is enabled in the ansible.cfg of this collection's own checkout.
author: podcycle.gpu contributors (@podcycle)
options: {}
"""

import os
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.inventory.group import Group
from ansible.plugins.vars import BaseVarsPlugin

from ansible_collections.podcycle.gpu.plugins.module_utils._environment_names import read_environment
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError


class VarsModule(BaseVarsPlugin):
    """Variables of the group all, from the environment."""

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        super().get_vars(loader, path, entities)
        rows = entities if isinstance(entities, list) else [entities]
        if not any(isinstance(entity, Group) and entity.name == "all" for entity in rows):
            return {}
        try:
            return read_environment(os.environ)
        except PodcycleError as err:
            # Ansible would print the cause's sentence once more.
            raise AnsibleParserError(str(err)) from None
