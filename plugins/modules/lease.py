#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lease
short_description: Give back leases that are over, hold them, or keep them
version_added: 0.1.0
description:
  - Ends pods that ledger and stamp prove ours and whose lease is over. A lease is over when its deadline or its hold has passed, or when
    its controller is gone and the keeper's grace with it.
  - Foreign pods are reported and never touched. Run it in check mode to see what it would do.
  - On RunPod it also removes the SSH keys that were lent to the account for its gateway, of runs that are over. They are known by the notes of this machine, or
    by our owner id in their comment; then they stay while a pod of the run is there, and for as long as their renting may still wait for one.
  - A held lease ends after O(minutes), a kept one at its deadline, also when the controller is gone.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes
  - podcycle.gpu.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  action:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  state:
    description: The state of the selected leases.
    type: str
    choices: [released, held, kept]
    default: released
  select:
    description:
      - Leases that are V(over), V(all) open leases that no live controller drives, or V(every) open lease, those in use too; runs that are renting
        then rent no more.
    type: str
    choices: [over, all, every]
    default: over
  minutes:
    description: How long O(state=held) lasts.
    type: int
    default: 30
  run_id:
    description: Only leases of this run; needed for V(held) and V(kept).
    type: str
  owner:
    description:
      - Act by stamp alone on pods and keys with this owner id, for when the ledger is lost.
      - Whoever gives it must know that no other machine with this owner id still works.
    type: str
  gone:
    description:
      - Ids, or names, of pods that you have looked for in the provider's console in vain. Their leases are closed.
      - Only for leases that were rented with a key which is lost, since no other key proves that a pod is gone. A pod that the cloud shows is refused.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: See what would be given back
  podcycle.gpu.lease:
    state: released
  check_mode: true

- name: Hold the pods of a run for a quarter of an hour
  podcycle.gpu.lease:
    state: held
    run_id: demo
    minutes: 15
"""

RETURN = r"""
reaped:
  description: What was given back, or would be in check mode.
  type: list
  elements: dict
  returned: when O(state=released)
  sample: [{stamp: podcycle-demo-pod-0-1a2b3c4d-9f8e7d6c, pod_id: 9f8e7d6c5b4a39, run_id: demo, notes: [its deadline has passed]}]
keys:
  description: The SSH keys that were removed from the account, or would be in check mode.
  type: list
  elements: dict
  returned: when O(state=released)
  sample: [{run_id: demo, fingerprint: "SHA256:uX0a", comment: podcycle-demo-gateway-1a2b3c4d-9f8e7d6c-1795397113}]
left_alone:
  description: Open leases that are not over, and why.
  type: list
  elements: dict
  returned: when O(state=released)
  sample: []
strays:
  description: Pods that bear our owner id and that the ledger does not know; O(owner) gives them back.
  type: list
  elements: dict
  returned: when O(state=released)
  sample: []
strangers:
  description: Pods of the account that were not touched.
  type: list
  elements: dict
  returned: when O(state=released)
  sample: []
owner:
  description: The owner id in our stamps.
  type: str
  returned: when O(state=released)
  sample: 1a2b3c4d
leases:
  description: The leases that are held or kept.
  type: list
  elements: dict
  returned: when O(state=held) or O(state=kept)
  sample: []
until:
  description: When the hold ends.
  type: str
  returned: when O(state=held) or O(state=kept)
  sample: "2026-11-01T10:30:00Z"
usd_per_hour:
  description: What the held or kept pods cost together, in dollars an hour, while they run.
  type: str
  returned: when O(state=held) or O(state=kept)
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
    module = AnsibleModule(
        argument_spec={
            **cloud_spec(),
            "state": {"type": "str", "choices": ["released", "held", "kept"], "default": "released"},
            "select": {"type": "str", "choices": ["over", "all", "every"], "default": "over"},
            "minutes": {"type": "int", "default": 30},
            "run_id": {"type": "str"},
            "owner": {"type": "str"},
            "gone": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        work = _leases.reap if module.params["state"] == "released" else _leases.mark
        result = work(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
