#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cutlass
short_description: Have the CUTLASS headers at a pinned tag, branch or commit
version_added: 0.1.0
author:
  - podcycle.gpu contributors (@podcycle)
description:
  - Fetches CUTLASS shallow into a folder aside, checks it, compiles a tensor core GEMM from it, stamps it and only then puts it in place.
  - A tree that is stamped, untouched and at its pin is left alone, without asking the network.
options:
  workspace:
    description:
      - Folder that keeps the work over a restart of the pod.
    type: path
    required: true
  dest:
    description:
      - Folder of the tree. C(cutlass) in O(workspace) when not given.
    type: path
  source:
    description:
      - V(git) from a repository, V(wheel) the headers that the Python package C(nvidia-cutlass) carries.
    type: str
    choices: [git, wheel]
    default: git
  repo:
    description:
      - The repository; a mirror or a local folder will do.
    type: str
    default: https://github.com/NVIDIA/cutlass.git
  version:
    description:
      - Tag, branch or full commit. For O(source=wheel) its version, with or without C(v).
    type: str
    required: true
  update:
    description:
      - Whether a branch is followed to its newest commit, over the network. Otherwise it stays at the commit that was fetched first.
    type: bool
    default: false
  timeout_seconds:
    description:
      - How long git may take before the repository counts as not answering.
    type: int
    default: 300
  compile:
    description:
      - Compile a GEMM for the GPU of this machine, V(sm_90) where there is none, before the tree counts as whole.
    type: bool
    default: true
  scope:
    description:
      - V(system) also makes the link C(/opt/cutlass); V(user) does not; V(auto) is V(system) for root.
    type: str
    choices: [auto, system, user]
    default: auto
  find_links:
    description:
      - Folders or addresses with wheels, for O(source=wheel). The machine's own E(UV_FIND_LINKS) or E(PIP_FIND_LINKS) when not given.
    type: list
    elements: str
    default: []
  index_url:
    description:
      - Package index to take the wheel from before the public one.
    type: str
  cache_dir:
    description:
      - Cache of C(uv). The one that the machine's E(UV_CACHE_DIR) names, else C(cache/uv) in O(workspace), when not given.
    type: path
  uv_version:
    description:
      - Exact version of C(uv). Any recent enough one when not given.
    type: str
attributes:
  check_mode:
    description: Can run in check mode and return what it would do without changing anything.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: full
seealso:
  - module: podcycle.gpu.cuda_toolkit
"""

EXAMPLES = r"""
- name: CUTLASS 4.2
  podcycle.gpu.cutlass:
    workspace: /workspace
    version: v4.2.0

- name: The newest of a branch, from a mirror
  podcycle.gpu.cutlass:
    workspace: /workspace
    dest: /workspace/cutlass-main
    repo: https://git.example.com/mirrors/cutlass.git
    version: main
    update: true

- name: The headers of the Python package
  podcycle.gpu.cutlass:
    workspace: /workspace
    dest: /workspace/cutlass-wheel
    source: wheel
    version: 4.2.0
    scope: user
"""

RETURN = r"""
cutlass:
  description: The tree as it was proven.
  returned: success
  type: dict
  contains:
    path:
      description: Its folder.
      type: str
      returned: always
      sample: /workspace/cutlass
    version:
      description: Version that its header names. Null in check mode when it is not there yet.
      type: str
      returned: always
      sample: 4.2.0
    commit:
      description: Commit that is checked out. Null for the wheel.
      type: str
      returned: always
      sample: 57e3cfb47a2d9e0d46eb6335c3dc411498efa198
    ref:
      description: Tag, branch or commit that was asked for.
      type: str
      returned: always
      sample: v4.2.0
    did:
      description: What was done, or in check mode would be; V(fetch), V(compile), V(link).
      type: list
      elements: str
      returned: always
      sample: [fetch, compile]
    why:
      description: Why it was needed.
      type: str
      returned: always
      sample: there is no whole CUTLASS in /workspace/cutlass
    arch:
      description: Architecture that the GEMM is compiled for.
      type: str
      returned: always
      sample: sm_90
    replaced:
      description: Where an earlier tree that was not as it had been fetched was moved to, else null.
      type: str
      returned: always
      sample: /workspace/cutlass.replaced-20261122T101500Z
    environment:
      description: What shells need, in the terms of M(podcycle.gpu.shell_env).
      type: dict
      returned: always
      sample: {variables: {CUTLASS_PATH: /workspace/cutlass}}
    seconds:
      description: How long each step took that was needed.
      type: dict
      returned: always
      sample: {"fetch": 2.3, "compile": 4.0}
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(git_ref), V(git_timeout), V(git), V(not_cutlass), V(cutlass_not_verified), V(cutlass), V(unsupported_machine) or V(uv).
      type: str
      returned: always
      sample: git_ref
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "fetch CUTLASS v9 from https://github.com/NVIDIA/cutlass.git: there is no branch, tag or full commit v9 in it"
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._cutlass_step import converge
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "workspace": {"type": "path", "required": True},
            "dest": {"type": "path"},
            "source": {"type": "str", "choices": ["git", "wheel"], "default": "git"},
            "repo": {"type": "str", "default": "https://github.com/NVIDIA/cutlass.git"},
            "version": {"type": "str", "required": True},
            "update": {"type": "bool", "default": False},
            "timeout_seconds": {"type": "int", "default": 300},
            "compile": {"type": "bool", "default": True},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "index_url": {"type": "str"},
            "cache_dir": {"type": "path"},
            "uv_version": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        changed, found, diff = converge(module.params, check_mode=module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    module.exit_json(changed=changed, cutlass=found, diff=diff)


if __name__ == "__main__":
    main()
