#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runpod_network_volume_info
short_description: Read the network volumes of the RunPod account
version_added: 0.1.0
description:
  - Lists the account's network volumes with their price and the pods that use them.
extends_documentation_fragment:
  - podcycle.gpu.runpod
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  name:
    description: Only volumes of exactly this name.
    type: str
  id:
    description: Only the volume with this id, instead of O(name).
    type: str
"""

EXAMPLES = r"""
- name: List the network volumes
  podcycle.gpu.runpod_network_volume_info:
"""

RETURN = r"""
network_volumes:
  description: The volumes.
  type: list
  elements: dict
  returned: success
  contains:
    id: {description: The volume's id., type: str, returned: always, sample: 2q9m7x4c}
    name: {description: Its name; RunPod does not keep names apart., type: str, returned: always, sample: dataset}
    size_gib: {description: Its size in GiB., type: int, returned: always, sample: 100}
    data_center: {description: Where it lies for as long as it lives., type: str, returned: always, sample: EU-RO-1}
    tier: {description: 'V(standard) or V(high_performance).', type: str, returned: always, sample: standard}
    usd_per_month: {description: What it costs by RunPod's list of the standard tier., type: str, returned: always, sample: "7.0000"}
    pods: {description: 'The pods that use it, each with C(id), C(name) and C(status).', type: list, elements: dict, returned: always, sample: []}
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _volumes
from ansible_collections.podcycle.gpu.plugins.module_utils._account import runpod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **runpod_spec(),
            "name": {"type": "str"},
            "id": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        result = _volumes.volume_info(module.params)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
