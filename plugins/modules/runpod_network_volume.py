#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runpod_network_volume
short_description: Create, grow, rename or delete a network volume of the RunPod account
version_added: 0.1.0
description:
  - A network volume outlives the pods that use it and costs money from its creation until it is deleted. Check mode and the diff tell the price.
  - Size, data center and tier are checked before anything is sent. A volume never shrinks and never moves.
  - A volume that a pod uses, running or stopped, is not deleted, and the failure names the pods.
extends_documentation_fragment:
  - podcycle.gpu.runpod
  - podcycle.gpu.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  state:
    description: Whether it is to exist. V(absent) deletes it with all that it holds.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the volume. With O(id), its new name. Two volumes of the same name are refused until O(id) says which one.
    type: str
  id:
    description: Id of an existing volume. Nothing is ever created under a given id.
    type: str
  size_gib:
    description: Size, from 10 to 4096. Needed for a new volume; an existing one can grow.
    type: int
  data_center:
    description: Where it is to lie. Pods that use it are rented there. Needed for a new volume.
    type: str
  tier:
    description: Kind of storage; the data center's own default when not given.
    type: str
    choices: [standard, high_performance]
"""

EXAMPLES = r"""
- name: Create a network volume
  podcycle.gpu.runpod_network_volume:
    name: dataset
    size_gib: 50
    data_center: EU-RO-1

- name: Let it grow
  podcycle.gpu.runpod_network_volume:
    name: dataset
    size_gib: 100

- name: Delete it with all that it holds
  podcycle.gpu.runpod_network_volume:
    name: dataset
    state: absent
"""

RETURN = r"""
network_volume:
  description: The volume, or what it would be in check mode; none with O(state=absent).
  type: dict
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
failure:
  description: What went wrong, for programs.
  type: dict
  returned: failure
  contains:
    code: {description: Kind of failure., type: str, returned: always, sample: bad_input}
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "delete network volume dataset (2q9m7x4c): in use by pod 9f8e7d6c5b4a39 (trainer, running)"
    effect: {description: Whether the cloud may have acted all the same. V(none) or V(unknown)., type: str, returned: always, sample: none}
    details: {description: What is known besides., type: dict, returned: always, sample: {}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _volumes
from ansible_collections.podcycle.gpu.plugins.module_utils._account import runpod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **runpod_spec(),
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str"},
            "id": {"type": "str"},
            "size_gib": {"type": "int"},
            "data_center": {"type": "str"},
            "tier": {"type": "str", "choices": ["standard", "high_performance"]},
        },
        required_one_of=[("name", "id")],
        supports_check_mode=True,
    )
    try:
        result = _volumes.change_volume(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
