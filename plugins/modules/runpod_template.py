#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runpod_template
short_description: Create, change or delete a template of the RunPod account
version_added: 0.1.0
description:
  - A template holds the settings of a container, so that a pod is made of it with one click in RunPod's console or by its id.
  - RunPod copies a template into a pod when the pod is made, and keeps no link. Changing or deleting the template changes no pod.
  - Only the given options are compared and changed. O(env) and O(secret_env) together are the whole environment.
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
    description: Whether it is to exist. One that a pod still refers to cannot be deleted.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the template. With O(id), its new name. Two templates of the same name are refused until O(id) says which one.
    type: str
  id:
    description: Id of an existing template. Nothing is ever created under a given id.
    type: str
  image:
    description: Container image. Needed for a new template.
    type: str
  args:
    description: What the container is started with instead of the image's own command, in one line as a shell would read it. RunPod's images then start no SSH.
    type: str
  disk_gib:
    description: Container disk, lost at every stop. RunPod's default when not given.
    type: int
  volume_gib:
    description: Volume of the pod, kept while it is stopped; 10 or more, or V(0) for none. It cannot be taken out of an existing template.
    type: int
  volume_path:
    description: Where the volume is mounted; V(/workspace) when not given.
    type: str
  ports:
    description: Exposed ports, such as V(22/tcp). Without that one there is no SSH that Ansible can use.
    type: list
    elements: str
  env:
    description: Environment of the container.
    type: dict
  secret_env:
    description:
      - More of it, kept out of results, diffs and logs; values of 8 characters or more.
      - RunPod itself shows them to whoever may read the account's templates.
    type: dict
  registry:
    description: Name or id of the credential for the image's registry, see M(podcycle.gpu.runpod_registry_auth). An empty text takes it away.
    type: str
  category:
    description: Where the console shows it. It chooses no hardware.
    type: str
    choices: [NVIDIA, AMD, CPU]
  public:
    description: Whether everybody on RunPod sees it, its environment included.
    type: bool
  serverless:
    description: Whether it is for serverless workers. No pod can be made of such a template.
    type: bool
  start_ssh:
    description: Whether pods made of it get the account's SSH keys, see M(podcycle.gpu.runpod_ssh_key). RunPod's default is true.
    type: bool
  start_jupyter:
    description: Whether pods made of it start JupyterLab, in images that know how. RunPod's default is true.
    type: bool
  cuda_versions:
    description: CUDA versions that a host may have, exactly; any when empty.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Create a template
  podcycle.gpu.runpod_template:
    name: trainer
    image: runpod/base:1.0.2-ubuntu2404
    disk_gib: 40
    volume_gib: 20
    ports: [22/tcp]
    env:
      RUN_KIND: demo

- name: Delete it
  podcycle.gpu.runpod_template:
    name: trainer
    state: absent
"""

RETURN = r"""
template:
  description: The template, or what it would be in check mode; the deleted one with O(state=absent).
  type: dict
  returned: success
  contains:
    id: {description: The template's id., type: str, returned: always, sample: 30zmvf89kd}
    name: {description: Its name., type: str, returned: always, sample: trainer}
    source:
      description: V(own), V(official) (RunPod's), V(verified) or V(community); V(public) when it was read by its id.
      type: str
      returned: always
      sample: own
    image: {description: Container image., type: str, returned: always, sample: "runpod/base:1.0.2-ubuntu2404"}
    args: {description: What the container is started with instead of the image's own command., type: str, returned: always, sample: ""}
    disk_gib: {description: Container disk in GiB., type: int, returned: always, sample: 50}
    volume_gib: {description: Volume of the pod in GiB; V(0) for none., type: int, returned: always, sample: 20}
    volume_path: {description: Where it is mounted., type: str, returned: always, sample: /workspace}
    ports: {description: Exposed ports., type: list, elements: str, returned: always, sample: [22/tcp]}
    env: {description: Environment; what looks like a secret is hidden., type: dict, returned: always, sample: {PUBLIC: "1", HF_TOKEN: (hidden)}}
    registry: {description: Id of the credential for the image's registry., type: str, returned: always, sample: 6n2k8v4d}
    category: {description: 'V(NVIDIA), V(AMD) or V(CPU).', type: str, returned: always, sample: NVIDIA}
    public: {description: Whether others see it., type: bool, returned: always, sample: false}
    serverless: {description: Whether it is for serverless workers and no pod can be made of it., type: bool, returned: always, sample: false}
    start_ssh: {description: Whether its pods get the account's SSH keys., type: bool, returned: always, sample: true}
    start_jupyter: {description: Whether its pods start JupyterLab., type: bool, returned: always, sample: false}
    cuda_versions: {description: CUDA versions that a host may have; any when empty., type: list, elements: str, returned: always, sample: []}
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
      sample: "template 'trainer' is ambiguous"
    effect: {description: Whether the cloud may have acted all the same. V(none) or V(unknown)., type: str, returned: always, sample: none}
    details: {description: What is known besides., type: dict, returned: always, sample: {}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _templates
from ansible_collections.podcycle.gpu.plugins.module_utils._account import runpod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **runpod_spec(),
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str"},
            "id": {"type": "str"},
            "image": {"type": "str"},
            "args": {"type": "str"},
            "disk_gib": {"type": "int"},
            "volume_gib": {"type": "int"},
            "volume_path": {"type": "str"},
            "ports": {"type": "list", "elements": "str"},
            "env": {"type": "dict"},
            "secret_env": {"type": "dict", "no_log": True},
            "registry": {"type": "str"},
            "category": {"type": "str", "choices": ["NVIDIA", "AMD", "CPU"]},
            "public": {"type": "bool"},
            "serverless": {"type": "bool"},
            "start_ssh": {"type": "bool"},
            "start_jupyter": {"type": "bool"},
            "cuda_versions": {"type": "list", "elements": "str"},
        },
        required_one_of=[("name", "id")],
        supports_check_mode=True,
    )
    try:
        result = _templates.change_template(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
