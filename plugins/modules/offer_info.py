#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: offer_info
short_description: List what can be rented now, best offer first
version_added: 0.1.0
description:
  - Reads the catalog of a cloud and ranks what fits by availability, price and memory.
  - Availability is the provider's hint, not a promise.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  gpu:
    description: GPU models in order of preference, by the provider's id, display name or a unique part of either; all when empty.
    type: list
    elements: str
    default: []
  gpu_count:
    description: GPUs in one pod.
    type: int
    default: 1
  min_vram_gib:
    description: Least memory of one GPU, in GiB.
    type: int
    default: 0
  max_usd_per_hour:
    description: Highest price of the whole pod, in dollars an hour.
    type: str
  cloud_type:
    description: Data-center machines, machines of third parties, or both.
    type: str
    choices: [secure, community, any]
    default: any
  regions:
    description: Data centers in order of preference; the provider chooses when empty.
    type: list
    elements: str
    default: []
  spot:
    description: Whether to list interruptible pods.
    type: bool
    default: false
  offline:
    description:
      - Rank the catalog of one day instead of asking the cloud; needs no key. Prices are those of RV(as_of), availability is unknown.
      - The catalog that M(podcycle.gpu.gpu_catalog) wrote last, or else the one that the collection brings, of 2026-02-26, with seven prices.
    type: bool
    default: false
  limit:
    description: Most offers to return; V(0) for all.
    type: int
    default: 20
"""

EXAMPLES = r"""
- name: List the cheapest offers
  podcycle.gpu.offer_info:

- name: List pods with two GPUs of at least 40 GiB each for at most 3 dollars an hour
  podcycle.gpu.offer_info:
    gpu_count: 2
    min_vram_gib: 40
    max_usd_per_hour: "3.00"
    cloud_type: secure

- name: Estimate without a key
  podcycle.gpu.offer_info:
    offline: true
    gpu: [H100 SXM, RTX 4090]
"""

RETURN = r"""
offers:
  description: What can be rented, best first.
  type: list
  elements: dict
  returned: success
  contains:
    cloud: {description: The cloud., type: str, returned: always, sample: runpod}
    gpu: {description: The provider's id of the GPU model., type: str, returned: always, sample: NVIDIA L40S}
    gpu_name: {description: Display name of the GPU model., type: str, returned: always, sample: L40S}
    gpu_count: {description: GPUs in the pod., type: int, returned: always, sample: 1}
    vram_gib: {description: Memory of one GPU in GiB., type: int, returned: always, sample: 48}
    usd_per_hour: {description: Price of the pod in dollars an hour., type: str, returned: always, sample: "0.8600"}
    usd_per_hour_sort: {description: The same as a number to sort by., type: float, returned: always, sample: 0.86}
    region: {description: Data center; none when the provider chooses., type: str, returned: always, sample: EU-RO-1}
    cloud_type: {description: Kind of machine., type: str, returned: always, sample: secure}
    spot: {description: Whether the pod may be interrupted., type: bool, returned: always, sample: false}
    spot_usd_per_hour: {description: Lowest bid for such an interruptible pod; none when it is not known., type: str, returned: always, sample: "0.4200"}
    stock: {description: Stock as another API of the provider tells it; none when it is not known., type: str, returned: always, sample: medium}
    availability: {description: The provider's hint., type: str, returned: always, sample: high}
as_of:
  description: The day of the prices with O(offline=true); none when the cloud was asked.
  type: str
  returned: success
  sample: "2026-02-26"
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _offers
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **cloud_spec(),
            "gpu": {"type": "list", "elements": "str", "default": []},
            "gpu_count": {"type": "int", "default": 1},
            "min_vram_gib": {"type": "int", "default": 0},
            "max_usd_per_hour": {"type": "str"},
            "cloud_type": {"type": "str", "choices": ["secure", "community", "any"], "default": "any"},
            "regions": {"type": "list", "elements": "str", "default": []},
            "spot": {"type": "bool", "default": False},
            "offline": {"type": "bool", "default": False},
            "limit": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    try:
        result = _offers.list_offers(module.params)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
