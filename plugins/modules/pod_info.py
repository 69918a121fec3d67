#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_info
short_description: Read the pods of an account
version_added: 0.1.0
description:
  - Lists pods as the cloud shows them now; ours by default, with their lease and how to reach them.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  run_id:
    description: Only pods of this run.
    type: str
  scope:
    description: Only pods that our ledger or owner id proves ours, or every pod of the account.
    type: str
    choices: [ours, all]
    default: ours
  ssh_private_key_file:
    description: Private key of the run, to return complete SSH options.
    type: path
  known_hosts_file:
    description: Where the host keys of the run are pinned.
    type: path
"""

EXAMPLES = r"""
- name: Read the pods of a run
  podcycle.gpu.pod_info:
    run_id: demo
"""

RETURN = r"""
pods:
  description: The pods, with the fields of M(podcycle.gpu.pod).
  type: list
  elements: dict
  returned: success
  contains:
    id: {description: The provider's id., type: str, returned: always, sample: 9f8e7d6c5b4a39}
    name: {description: The provider's name; the stamp for a pod of ours., type: str, returned: always, sample: podcycle-demo-pod-0-1a2b3c4d-9f8e7d6c}
    state: {description: Observed state., type: str, returned: always, sample: running}
    ours: {description: Whether ledger or owner id prove it ours., type: bool, returned: always, sample: true}
    endpoint: {description: Where SSH answers., type: dict, returned: always, sample: {host: 203.0.113.7, port: 10341, user: root, via: direct}}
    gateway: {description: Where RunPod's gateway answers for it., type: dict, returned: always, sample: null}
    ssh_via: {description: V(direct) or V(gateway)., type: str, returned: always, sample: direct}
    connection: {description: Ansible's variables where only the gateway leads to it., type: dict, returned: when known_hosts_file is given, sample: {}}
    ssh_args: {description: Options for ssh that check the pod's identity., type: str, returned: when known_hosts_file is given}
    control_path_dir: {description: Folder of this pod's SSH masters., type: str, returned: when known_hosts_file is given}
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _listing
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **cloud_spec(),
            "run_id": {"type": "str"},
            "scope": {"type": "str", "choices": ["ours", "all"], "default": "ours"},
            "ssh_private_key_file": {"type": "path", "no_log": False},
            "known_hosts_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        result = _listing.pod_info(module.params)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
