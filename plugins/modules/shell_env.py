#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: shell_env
short_description: Variables and search paths for every shell of a pod
version_added: 0.1.0
description:
  - Writes one file for each part of the stack below C(.podcycle/env.d) in the workspace, and one hook that makes bash read them
    in login shells, in interactive shells and for C(ssh HOST COMMAND).
  - The hook prints nothing, starts no program, and is silent too when the workspace is gone.
  - Search path entries are put in front, each once, however often the files are read. Folders that do not exist are left out.
extends_documentation_fragment:
  - podcycle.gpu.attributes
  - podcycle.gpu.files
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  name:
    description: Name of the part.
    type: str
    required: true
  state:
    description: Whether the part's file is to be there. The hook goes with the last of them.
    type: str
    choices: [present, absent]
    default: present
  workspace:
    description: Folder that the pod keeps its work in.
    type: path
    default: /workspace
  scope:
    description:
      - V(system) puts the hook into C(/etc/profile.d/podcycle.sh) and on top of C(/etc/bash.bashrc), which needs root.
      - V(user) puts it on top of C(~/.bashrc) and C(~/.profile), and of C(~/.bash_profile) and C(~/.bash_login) where they are.
      - V(auto) is V(system) for root.
    type: str
    choices: [auto, system, user]
    default: auto
  order:
    description: Parts with a higher number are read later, and so come first in the search paths.
    type: int
    default: 50
  variables:
    description:
      - Variables to export, with their values as they are.
      - Where the name of one looks like a secret, or its value is an address with a password, only root and O(group) may read the part's file, and no diff
        shows the value. The shells of other accounts pass over the file.
    type: dict
    default: {}
  path:
    description: Folders to put in front of C(PATH), the first one foremost.
    type: list
    elements: str
    default: []
  library_path:
    description: Folders to put in front of C(LD_LIBRARY_PATH), the first one foremost.
    type: list
    elements: str
    default: []
  files:
    description: Paths that belong to the part, laid out before its environment, as M(podcycle.gpu.file_set) does it. They stay with O(state=absent).
    default: []
  home:
    description: Home folder for O(scope=user). That of the user who runs the task when not given.
    type: path
  group:
    description: Group that may read the part's file when there is a secret in it (mode 0640). The owner alone when not given (0600).
    type: str
  root:
    description: Folder that is taken for C(/), for the file system of an image.
    type: path
    default: /
"""

EXAMPLES = r"""
- name: The toolkit's compiler comes first in every shell
  podcycle.gpu.shell_env:
    name: cuda13
    workspace: /workspace
    scope: user
    home: /workspace/home
    order: 20
    variables: {CUDA_HOME: /workspace/cuda-13.0}
    path: [/workspace/cuda-13.0/bin]
    library_path: [/workspace/cuda-13.0/lib64]
"""

RETURN = r"""
shell_env:
  description: Where the environment is written.
  returned: success
  type: dict
  contains:
    file:
      description: The part's own file.
      type: str
      returned: always
      sample: /workspace/.podcycle/env.d/20-cuda13.sh
    reader:
      description: The file that reads all parts.
      type: str
      returned: always
      sample: /workspace/.podcycle/env.sh
    scope:
      description: The scope that was taken.
      type: str
      returned: always
      sample: system
    hooks:
      description: The start files that carry the hook.
      type: list
      elements: str
      returned: always
      sample: [/etc/profile.d/podcycle.sh, /etc/bash.bashrc]
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
      description: V(file_set) or V(bad_input).
      type: str
      returned: always
      sample: bad_input
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "shell_env cuda13: 'bin' is not an absolute path without colons"
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
from ansible_collections.podcycle.gpu.plugins.module_utils._file_set import FILES, entries_of
from ansible_collections.podcycle.gpu.plugins.module_utils._shell_env import ShellEnv


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "workspace": {"type": "path", "default": "/workspace"},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "order": {"type": "int", "default": 50},
            "variables": {"type": "dict", "default": {}},
            "path": {"type": "list", "elements": "str", "default": []},
            "library_path": {"type": "list", "elements": "str", "default": []},
            "files": {**FILES, "default": []},
            "home": {"type": "path"},
            "group": {"type": "str"},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    given = module.params
    env = ShellEnv(
        name=given["name"],
        workspace=given["workspace"],
        scope=given["scope"],
        order=given["order"],
        variables={key: str(value) for key, value in given["variables"].items()},
        path=given["path"],
        library_path=given["library_path"],
        files=entries_of(given["files"]),
        home=given["home"] or "",
        group=given["group"] or "",
        root=Path(given["root"]),
    )
    # Out of what -vvv shows as well; shorter ones would be words of any sentence.
    module.no_log_values |= {value for name in env.secrets if len(value := env.variables[name]) >= 8}
    try:
        changes = env.converge(present=given["state"] == "present", check_mode=module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    found = {"file": env.file, "reader": env.reader, "scope": "system" if env.system else "user", "hooks": env.places()}
    paths = [str(change.path) for change in changes]
    module.exit_json(changed=bool(changes), diff=[change.diff() for change in changes], shell_env={**found, "paths": paths})


if __name__ == "__main__":
    main()
