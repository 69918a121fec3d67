#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_catalog
short_description: Keep today's GPU models and prices for ranking without the cloud
version_added: 0.1.0
description:
  - Reads the catalog of the cloud and writes it, dated, into the state folder, where M(podcycle.gpu.offer_info) with C(offline) ranks it.
  - Spot prices are the live ones where the key may ask for them; else those of the shipped catalog, whose date C(source) then bears.
  - A catalog that differs by its date only is no change.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: podcycle.gpu contributors (@podcycle)
"""

EXAMPLES = r"""
- name: Refresh the catalog
  podcycle.gpu.gpu_catalog:
"""

RETURN = r"""
catalog:
  description: The catalog, with C(as_of), C(source) and C(gpus), each with its C(id), C(name), C(memory_gb) and prices of one GPU in dollars an hour.
  type: dict
  returned: success
  sample: {cloud: runpod, as_of: "2026-02-26", source: "https://api.runpod.io/v2/catalog/gpus", gpus: []}
before_as_of:
  description: Day of the catalog that was in use before; none when it could not be read.
  type: str
  returned: success
  sample: "2026-02-26"
path:
  description: The file.
  type: str
  returned: success
  sample: /home/me/.local/state/podcycle/catalogs/runpod.json
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _catalog
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec


def main() -> None:
    module = AnsibleModule(argument_spec=cloud_spec(), supports_check_mode=True)
    try:
        result = _catalog.refresh(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
