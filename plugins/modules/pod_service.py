#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_service
short_description: Keep a program running, with or without systemd
version_added: 0.1.0
description:
  - Writes the files of a program and keeps it running, by systemd where that is process 1, else by C(supervisor),
    which is installed by C(uv) into an environment of its own in the workspace.
  - A running program is restarted only when its command, its environment or one of its files has changed since it was started.
  - Its own end never ends what it has started.
extends_documentation_fragment:
  - podcycle.gpu.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  name:
    description: Name of the service.
    type: str
    required: true
  state:
    description:
      - Whether the service is to run. With V(absent) its files go too, its folders with all that they hold, and C(supervisor) with the last of its services.
    type: str
    choices: [present, absent]
    default: present
  command:
    description: Program and arguments; needed for O(state=present). A program without a path is looked for in the system's folders first.
    type: list
    elements: str
    default: []
  description:
    description: What the service does, in one line.
    type: str
    default: ""
  environment:
    description: Variables of the program, besides C(HOME).
    type: dict
    default: {}
  files:
    description: Folders and files of the program, in the order in which they are made.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      state:
        description: What is to be there.
        type: str
        choices: [file, folder]
        default: file
      content:
        description: The whole content of a file.
        type: str
      mode:
        description: Permissions as an octal number in quotes.
        type: str
  workspace:
    description: Folder that the pod keeps its work in.
    type: path
    default: /workspace
  scope:
    description: V(system) may use systemd, which needs root. V(user) writes only below the workspace. V(auto) is V(system) for root.
    type: str
    choices: [auto, system, user]
    default: auto
  supervisor:
    description: What keeps the program running. V(auto) takes systemd in the system scope where it is process 1.
    type: str
    choices: [auto, systemd, supervisor]
    default: auto
  supervisor_version:
    description: Version of C(supervisor).
    type: str
    default: 4.3.0
"""

EXAMPLES = r"""
- name: A program that looks after something
  podcycle.gpu.pod_service:
    name: demo-watch
    workspace: /workspace
    scope: user
    command: [python3, /workspace/watch.py]
    files:
      - path: /workspace/watch.py
        content: |
          import time
          time.sleep(3600)

- name: No longer
  podcycle.gpu.pod_service:
    name: demo-watch
    workspace: /workspace
    scope: user
    files: [{path: /workspace/watch.py}]
    state: absent
"""

RETURN = r"""
pod_service:
  description: The service as it is now.
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      returned: always
      sample: cuda-watchdog
    supervisor:
      description: What keeps it running.
      type: str
      returned: always
      sample: systemd
    state:
      description: V(running) or V(absent).
      type: str
      returned: always
      sample: running
    pid:
      description: Its process. Null when it does not run, and in check mode when it would be started.
      type: int
      returned: always
      sample: 1234
    restarted:
      description: Whether it was started, restarted or ended.
      type: bool
      returned: always
      sample: false
    paths:
      description: The files that changed, or would change in check mode.
      type: list
      elements: str
      returned: always
      sample: []
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(pod_service), V(file_set), V(uv) or V(bad_input).
      type: str
      returned: always
      sample: pod_service
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "start demo-watch with systemd: it is stopped after 20 s; its last words: nothing"
    effect:
      description: Always V(none).
      type: str
      returned: always
      sample: none
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {}
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._file_set import entries_of
from ansible_collections.podcycle.gpu.plugins.module_utils._pod_service import SYSTEMD_RUNS, Service, ServiceError, ServiceManager, Systemd, converge
from ansible_collections.podcycle.gpu.plugins.module_utils._supervisor import Supervisor


def choose(params: dict[str, Any]) -> ServiceManager:
    system = os.geteuid() == 0 if params["scope"] == "auto" else params["scope"] == "system"
    service = Service(
        name=params["name"],
        command=params["command"],
        workspace=params["workspace"],
        description=params["description"],
        environment={key: str(value) for key, value in params["environment"].items()},
        files=entries_of(params["files"]),
    )
    wanted = params["supervisor"]
    if wanted == "systemd" and not (system and SYSTEMD_RUNS.is_dir()):
        raise ServiceError(f"run {service.name} with systemd: it is not process 1 here, or the scope is that of a user; set supervisor to auto")
    if wanted == "systemd" or (wanted == "auto" and system and SYSTEMD_RUNS.is_dir()):
        return Systemd(service)
    return Supervisor(service, params["supervisor_version"], system=system)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "command": {"type": "list", "elements": "str", "default": []},
            "description": {"type": "str", "default": ""},
            "environment": {"type": "dict", "default": {}},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "state": {"type": "str", "choices": ["file", "folder"], "default": "file"},
                    "content": {"type": "str"},
                    "mode": {"type": "str"},
                },
            },
            "workspace": {"type": "path", "default": "/workspace"},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "supervisor": {"type": "str", "choices": ["auto", "systemd", "supervisor"], "default": "auto"},
            "supervisor_version": {"type": "str", "default": "4.3.0"},
        },
        supports_check_mode=True,
    )
    present = module.params["state"] == "present"
    try:
        manager = choose(module.params)
        changes, running, restarted = converge(manager, present=present, check_mode=module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    service = {
        "name": manager.service.name,
        "supervisor": manager.kind,
        "state": running.state,
        "pid": running.pid,
        "restarted": restarted,
        "paths": [str(change.path) for change in changes],
    }
    module.exit_json(changed=bool(changes) or restarted, diff=[change.diff() for change in changes], pod_service=service)


if __name__ == "__main__":
    main()
