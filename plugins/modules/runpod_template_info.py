#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: runpod_template_info
short_description: Find templates of the RunPod account, RunPod's own and public ones
version_added: 0.1.0
description:
  - Lists templates, or finds one by its name. RunPod has no filter for it, so all lists are read, and of each public kind RunPod shows at most 100.
  - A template is a set of settings that is copied into a pod when the pod is made. What changes later in the template changes no pod.
extends_documentation_fragment:
  - podcycle.gpu.runpod
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  name:
    description:
      - Whole name or id of the wanted template, or a part of the name that only one has.
      - A whole name is looked for in the order of O(source). When none or several fit, the failure lists the candidates.
    type: str
  id:
    description: Id of the wanted template, instead of O(name); it may be one that no list shows.
    type: str
  source:
    description: Where to look. V(own) are the account's, V(official) RunPod's, V(verified) and V(community) those of others.
    type: list
    elements: str
    choices: [own, official, verified, community]
    default: [own, official, verified, community]
"""

EXAMPLES = r"""
- name: List the account's templates and RunPod's own
  podcycle.gpu.runpod_template_info:
    source: [own, official]

- name: Find one by a part of its name
  podcycle.gpu.runpod_template_info:
    name: pytorch 2.8
"""

RETURN = r"""
templates:
  description: The templates, own ones first.
  type: list
  elements: dict
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
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _templates
from ansible_collections.podcycle.gpu.plugins.module_utils._account import runpod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **runpod_spec(),
            "name": {"type": "str"},
            "id": {"type": "str"},
            "source": {"type": "list", "elements": "str", "choices": list(_templates.ALL_SOURCES), "default": list(_templates.ALL_SOURCES)},
        },
        supports_check_mode=True,
    )
    try:
        result = _templates.template_info(module.params)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
