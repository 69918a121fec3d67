#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lease_guard
short_description: Arm the guard that ends a pod from within
version_added: 0.1.0
description:
  - Starts a detached process on the pod that terminates it at the deadline with the pod's own key, whatever has become of the controller.
  - The guard counts as armed only after that key has been shown to read the pod.
extends_documentation_fragment:
  - podcycle.gpu.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: podcycle.gpu contributors (@podcycle)
options:
  state:
    description: Whether the guard is to run.
    type: str
    choices: [armed, disarmed]
    default: armed
  dir:
    description: Folder of the guard on the pod.
    type: path
    required: true
  base_url:
    description: Base URL of the cloud's API as the pod reaches it.
    type: str
    default: https://api.runpod.io/v2
  deadline:
    description: When to end the pod, in UTC, RFC 3339; needed for O(state=armed).
    type: str
"""

EXAMPLES = r"""
- name: End this pod at ten, whatever happens
  podcycle.gpu.lease_guard:
    dir: /workspace/.podcycle/guard
    deadline: "2026-11-01T10:00:00Z"
"""

RETURN = r"""
armed:
  description: Whether the guard runs and its key works.
  type: bool
  returned: success
  sample: true
why:
  description: Why it is not armed.
  type: str
  returned: success
  sample: ""
deadline:
  description: When it ends the pod.
  type: str
  returned: success
  sample: "2026-11-01T10:00:00Z"
"""

import inspect
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _guard
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._model import parse_time


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["armed", "disarmed"], "default": "armed"},
            "dir": {"type": "path", "required": True},
            "base_url": {"type": "str", "default": "https://api.runpod.io/v2"},
            "deadline": {"type": "str"},
        },
        required_if=[("state", "armed", ["deadline"])],
        supports_check_mode=True,
    )
    params = module.params
    folder = Path(params["dir"])
    status = _guard.read_status(folder)
    if params["state"] == "disarmed":
        changed = bool(status.get("armed"))
        if changed and not module.check_mode:
            _guard.end_watch(folder)
        module.exit_json(changed=changed, armed=False, why="", deadline=None)
    moment = parse_time(params["deadline"])
    if moment is None:
        module.fail_json(msg=f"deadline {params['deadline']!r} is not a time in RFC 3339")
        return
    changed = not status.get("armed") or status.get("deadline") != moment.timestamp() or status.get("base_url") != params["base_url"]
    if changed and not module.check_mode:
        try:
            status = _guard.arm(folder, inspect.getsource(_guard), params["base_url"], moment.timestamp())
        except OSError as err:
            module.fail_json(msg=f"cannot start the guard in {folder}: {clean_text(err)}")
    module.exit_json(changed=changed, armed=bool(status.get("armed")), why=clean_text(status.get("why") or ""), deadline=params["deadline"])


if __name__ == "__main__":
    main()
