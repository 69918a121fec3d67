#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_logs
short_description: Read what the provider, the container and the job of a pod wrote last
version_added: 0.1.0
description:
  - Reads the provider's own log of each pod of ours, in which an image that cannot be pulled is told, the container's, and that of the job
    that was started last.
  - The logs of a pod are lost when it is given back. One that cannot be read is told, and keeps none of the others from being read.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  run_id:
    description: Only pods of this run.
    type: str
  sources:
    description: Which logs to read.
    type: list
    elements: str
    choices: [system, container, job]
    default: [system, container, job]
  tail:
    description: Lines of each log.
    type: int
    default: 40
  workspace:
    description:
      - Folder on the pods below which the runs keep their jobs; C({pod_id}) in it stands for the id of each pod.
      - When it is not given, the one that M(podcycle.gpu.run) made the run with, else C(/workspace).
    type: str
"""

EXAMPLES = r"""
- name: Read why the pods of a run do not start
  podcycle.gpu.pod_logs:
    run_id: demo
    sources: [system]
    tail: 10
"""

RETURN = r"""
pods:
  description: Each pod with its logs.
  type: list
  elements: dict
  returned: success
  contains:
    pod_id: {description: The provider's id., type: str, returned: always, sample: 9f8e7d6c5b4a39}
    run_id: {description: The run., type: str, returned: always, sample: demo}
    index: {description: Place in the group., type: int, returned: always, sample: 0}
    state: {description: Observed state., type: str, returned: always, sample: running}
    logs: {description: Lines by the name of their source., type: dict, returned: always, sample: {system: ["2026-11-01T10:00:00Z create container"]}}
    troubles: {description: Why a log could not be read., type: dict, returned: always, sample: {}}
lines:
  description: The same as text for people.
  type: list
  elements: str
  returned: success
  sample: ["nothing is rented"]
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _status
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec

_SOURCES = ["system", "container", "job"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **cloud_spec(),
            "run_id": {"type": "str"},
            "sources": {"type": "list", "elements": "str", "choices": _SOURCES, "default": _SOURCES},
            "tail": {"type": "int", "default": 40},
            "workspace": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        result = _status.pod_logs(module.params)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
