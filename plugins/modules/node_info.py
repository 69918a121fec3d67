#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: What a machine has of what every pod is given
version_added: 0.1.0
description:
  - Reads in one round trip which packages and tools are missing, the accounts, the cores and whether there is InfiniBand. It writes nothing.
extends_documentation_fragment:
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  packages:
    description: Names of Debian packages, with C(=VERSION) where one is wanted.
    type: list
    elements: str
    default: []
  tools:
    description: Python programs, as M(podcycle.gpu.uv_tool) takes them.
    type: list
    elements: dict
    default: []
    suboptions:
      package:
        description: Name of the package.
        type: str
        required: true
      command:
        description: Its command.
        type: str
        required: true
      version:
        description: Its version. Any, also that of the system, when not given.
        type: str
        default: ""
  workspace:
    description: Folder that the pod keeps its work in.
    type: path
    default: /workspace
  account:
    description: An account to look at.
    type: str
    default: ""
  group:
    description: A group to look at.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: What is missing
  podcycle.gpu.node_info:
    packages: [git, rsync]
    account: runner
"""

RETURN = r"""
node:
  description: The machine.
  returned: success
  type: dict
  contains:
    root:
      description: Whether this was root.
      type: bool
      returned: always
      sample: true
    user:
      description: Name of the user.
      type: str
      returned: always
      sample: root
    home:
      description: Home folder of the user.
      type: str
      returned: always
      sample: /root
    os:
      description: Name, version and codename of the distribution, in C(id), C(version) and C(codename).
      type: dict
      returned: always
      sample: {"id": "debian", "version": "12", "codename": "bookworm"}
    cpus:
      description: Cores that a program may use; in a container those that its quota pays for.
      type: int
      returned: always
      sample: 16
    systemd:
      description: Whether systemd is process 1.
      type: bool
      returned: always
      sample: true
    infiniband:
      description: Whether there is an InfiniBand device.
      type: bool
      returned: always
      sample: false
    missing_packages:
      description: Those of O(packages) that are not installed, or whose program was deleted behind dpkg's back.
      type: list
      elements: str
      returned: always
      sample: [rsync]
    programs:
      description: Where well-known ones of O(packages) put the program that they are wanted for, whether or not it is there.
      type: list
      elements: str
      returned: always
      sample: [/usr/bin/git, /usr/bin/rsync]
    missing_tools:
      description: Packages of those of O(tools) that are not installed.
      type: list
      elements: str
      returned: always
      sample: []
    account:
      description:
        - The account with C(name), C(uid), C(home), C(shell), C(groups), C(locked) (sshd refuses keys too) and C(password) (one lets in).
        - These two are null for who may not read them. C(made) is whether the role podcycle.gpu.node made it. Null when there is no such account.
      type: dict
      returned: always
      sample: {"name": "runner", "uid": 1000, "home": "/home/runner", "shell": "/bin/bash", "made": true, "groups": ["podcycle"], "locked": false}
    group:
      description: The group with C(name) and C(gid). Null when there is none.
      type: dict
      returned: always
      sample: {"name": "podcycle", "gid": 1000}
    tailscale:
      description: C(path) of the program, null without one, and C(logged_in).
      type: dict
      returned: always
      sample: {"path": null, "logged_in": false}
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(bad_input).
      type: str
      returned: always
      sample: bad_input
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "install packages: 'a b' is not the name of a Debian package"
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
from ansible_collections.podcycle.gpu.plugins.module_utils._node import read_node
from ansible_collections.podcycle.gpu.plugins.module_utils._uv_tool import Tool


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "tools": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "package": {"type": "str", "required": True},
                    "command": {"type": "str", "required": True},
                    "version": {"type": "str", "default": ""},
                },
            },
            "workspace": {"type": "path", "default": "/workspace"},
            "account": {"type": "str", "default": ""},
            "group": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    tools = [Tool(row["package"], row["version"], row["command"], Path(given["workspace"])) for row in given["tools"]]
    try:
        node = read_node(given["packages"], tools, given["account"], given["group"])
    except PodcycleError as error:
        module.fail_json(**failure(error))
    module.exit_json(changed=False, node=node)


if __name__ == "__main__":
    main()
