#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lease_info
short_description: Compare the ledger with the cloud
version_added: 0.1.0
description:
  - Tells for every open lease what it is, since when, what it has cost, what the cloud shows, and whether it is over.
  - Lists pods that bear our stamp but stand in no ledger, and pods of strangers.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  run_id:
    description: Only leases of this run.
    type: str
"""

EXAMPLES = r"""
- name: See what is rented and what it has cost
  podcycle.gpu.lease_info:
"""

RETURN = r"""
leases:
  description: The open leases.
  type: list
  elements: dict
  returned: success
  contains:
    stamp: {description: The pod's name., type: str, returned: always, sample: podcycle-demo-pod-0-1a2b3c4d-9f8e7d6c}
    run_id: {description: The run., type: str, returned: always, sample: demo}
    index: {description: Place in the group., type: int, returned: always, sample: 0}
    cloud: {description: The cloud., type: str, returned: always, sample: runpod}
    state: {description: What the ledger says., type: str, returned: always, sample: leased}
    observed: {description: What the cloud says; V(unknown) when it cannot be told., type: str, returned: always, sample: running}
    pod_id: {description: The provider's id., type: str, returned: always, sample: 9f8e7d6c5b4a39}
    since: {description: Begin of the lease., type: str, returned: always, sample: "2026-11-01T10:00:00Z"}
    deadline: {description: End of the lease., type: str, returned: always, sample: "2026-11-01T14:00:00Z"}
    usd_per_hour: {description: Price in dollars an hour., type: str, returned: always, sample: "0.5900"}
    cost_usd: {description: Dollars since the lease began., type: str, returned: always, sample: "0.1475"}
    open: {description: Whether it may still be billed., type: bool, returned: always, sample: true}
    over: {description: Whether reap may end it., type: bool, returned: always, sample: false}
    why: {description: Why it is over or not., type: str, returned: always, sample: driven by process 4711 on laptop}
    marks: {description: What the keeper or the cycle noted., type: dict, returned: always, sample: {}}
ended:
  description: The leases of O(run_id) that are over, with what they have cost.
  type: list
  elements: dict
  returned: success
  sample: []
strays:
  description: Pods that bear our stamp and stand in no ledger.
  type: list
  elements: dict
  returned: success
  sample: []
strangers:
  description: Pods of the account that are not ours.
  type: list
  elements: dict
  returned: success
  sample: []
owner:
  description: The owner id in our stamps.
  type: str
  returned: success
  sample: 1a2b3c4d
ledger:
  description: The ledger's file.
  type: str
  returned: success
  sample: /home/me/.local/state/podcycle/ledgers/runpod-0a1b2c3d4e5f.jsonl
cost_usd:
  description: Dollars that the open leases have cost so far.
  type: str
  returned: success
  sample: "0.1475"
burn_usd_per_hour:
  description: Dollars an hour that running pods of ours cost now.
  type: str
  returned: success
  sample: "0.5900"
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _leases
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec


def main() -> None:
    module = AnsibleModule(argument_spec={**cloud_spec(), "run_id": {"type": "str"}}, supports_check_mode=True)
    try:
        result = _leases.lease_info(module.params)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
