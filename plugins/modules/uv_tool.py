#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: uv_tool
short_description: A Python program in an environment of its own
version_added: 0.1.0
description:
  - Installs a program by C(uv) into an environment of its own below the workspace, and starts it once.
  - Only then its command is linked into the workspace's C(bin) folder.
  - Brings C(uv) along when the machine has none.
extends_documentation_fragment:
  - podcycle.gpu.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  package:
    description: Name of the package.
    type: str
    required: true
  command:
    description: Its command. It has to end well with C(--version).
    type: str
    required: true
  version:
    description: Its version. The latest when not given.
    type: str
    default: ""
  extra:
    description: Packages that come into the same environment, such as V(fastapi==0.165.0).
    type: list
    elements: str
    default: []
  python:
    description: Interpreter that the environment is made from. The system's when not given, or when it is not there.
    type: str
    default: ""
  workspace:
    description: Folder that the pod keeps its work in.
    type: path
    default: /workspace
  state:
    description: Whether the program is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: A small program
  podcycle.gpu.uv_tool:
    package: pycowsay
    command: pycowsay
    workspace: /workspace
  check_mode: true
"""

RETURN = r"""
uv_tool:
  description: The program as it was proven.
  returned: success
  type: dict
  contains:
    path:
      description: The command's link.
      type: str
      returned: always
      sample: /workspace/bin/aws
    said:
      description: What it said when it was asked for its version. Null in check mode when it is not there yet, and when it is gone.
      type: str
      returned: always
      sample: aws-cli/1.42.0
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(uv_tool), V(uv) or V(bad_input).
      type: str
      returned: always
      sample: uv_tool
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "install awscli==0.0.0 into /workspace/.podcycle/tools/awscli: there is no such version"
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

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._uv_tool import Tool


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "package": {"type": "str", "required": True},
            "command": {"type": "str", "required": True},
            "version": {"type": "str", "default": ""},
            "extra": {"type": "list", "elements": "str", "default": []},
            "python": {"type": "str", "default": ""},
            "workspace": {"type": "path", "default": "/workspace"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    given = module.params
    tool = Tool(given["package"], given["version"], given["command"], Path(given["workspace"]), extra=tuple(given["extra"]), python=given["python"])
    record, before, after = None, "", ""
    try:
        tool.check()
        before = tool.shown()
        if given["state"] == "absent":
            changed = tool.remove(check_mode=module.check_mode)
        elif changed := not tool.satisfied():
            record, after = None if module.check_mode else tool.make(), tool.planned()
        else:
            record = tool.record()
    except PodcycleError as error:
        module.fail_json(**failure(error))
    diff = {"before": before, "after": after} if changed else {"before": "", "after": ""}
    module.exit_json(changed=changed, diff=diff, uv_tool={"path": str(tool.link), "said": record.get("said") if record else None})


if __name__ == "__main__":
    main()
