#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runpod_ssh_key
short_description: Add an SSH key to the RunPod account, or remove it
version_added: 0.1.0
description:
  - Pods that are started with RunPod's own SSH switch, from the console or a template, get all keys of the account when their container starts.
    A key that is added later reaches them with their next start. Pods of M(podcycle.gpu.pod) bring their own key and need none here.
  - RunPod knows only the whole list, and a write replaces it. The module reads the list, changes the one key, writes, and reads again; when another
    program has undone the change, it is made again. Other keys stay as they are, comments included.
  - Keys are compared by type and key. A comment makes no other key.
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
    description: Whether the account is to have the key.
    type: str
    choices: [present, absent]
    default: present
  public_key:
    description: The public key, one line as in a C(.pub) file.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Add a key
  podcycle.gpu.runpod_ssh_key:
    public_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQZ me@example.com
"""

RETURN = r"""
ssh_key:
  description: The key that was asked for.
  type: dict
  returned: success
  contains:
    public_key: {description: As it was given., type: str, returned: always, sample: ssh-ed25519 AAAA me@example.com}
    fingerprint: {description: As ssh-keygen shows it., type: str, returned: always, sample: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"}
ssh_keys:
  description: All keys of the account, or what they would be in check mode.
  type: list
  elements: str
  returned: success
  sample: [ssh-ed25519 AAAA me@example.com]
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
      sample: "public_key holds a private key"
    effect: {description: Whether the cloud may have acted all the same. V(none) or V(unknown)., type: str, returned: always, sample: none}
    details: {description: What is known besides., type: dict, returned: always, sample: {}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _account_keys
from ansible_collections.podcycle.gpu.plugins.module_utils._account import runpod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **runpod_spec(),
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "public_key": {"type": "str", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    try:
        result = _account_keys.change_key(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
