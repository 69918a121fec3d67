#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runpod_registry_auth
short_description: Store, change or delete a container registry credential of the RunPod account
version_added: 0.1.0
description:
  - With such a credential RunPod pulls images of a private registry. Templates and pods refer to it by its id.
  - RunPod shows neither user nor password again, so an existing credential counts as right unless O(update_password=always). Its id is found by its name alone.
  - One that a pod uses is not deleted, and the failure names the pods. Templates lose it without a word from RunPod; a warning names them.
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
    description: Whether it is to exist.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the credential.
    type: str
  id:
    description: Id of an existing credential. Nothing is ever created under a given id.
    type: str
  username:
    description: User of the registry. Needed for a new credential.
    type: str
  password:
    description: Password or token of the user. Needed for a new credential.
    type: str
  update_password:
    description:
      - Whether an existing credential is written again; V(always) reports a change each time.
      - This goes over RunPod's GraphQL API, since REST cannot do it, and the key needs access to that. The id stays.
    type: str
    choices: [on_create, always]
    default: on_create
"""

EXAMPLES = r"""
- name: Store a credential
  podcycle.gpu.runpod_registry_auth:
    name: hub
    username: me
    password: correct-horse-battery

- name: Find its id
  podcycle.gpu.runpod_registry_auth:
    name: hub
"""

RETURN = r"""
registry_auth:
  description: The credential, or what it would be in check mode; none with O(state=absent).
  type: dict
  returned: success
  contains:
    id: {description: Its id., type: str, returned: always, sample: 6n2k8v4d}
    name: {description: Its name., type: str, returned: always, sample: hub}
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
      sample: "store registry credential hub: it needs username and password"
    effect: {description: Whether the cloud may have acted all the same. V(none) or V(unknown)., type: str, returned: always, sample: none}
    details: {description: What is known besides., type: dict, returned: always, sample: {}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _registries
from ansible_collections.podcycle.gpu.plugins.module_utils._account import runpod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **runpod_spec(),
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str"},
            "id": {"type": "str"},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "update_password": {"type": "str", "choices": ["on_create", "always"], "default": "on_create", "no_log": False},
        },
        required_one_of=[("name", "id")],
        supports_check_mode=True,
    )
    try:
        result = _registries.change_registry(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
