#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_toolkit
short_description: Have a CUDA toolkit with exactly the wanted nvcc
version_added: 0.1.0
author:
  - podcycle.gpu contributors (@podcycle)
description:
  - Takes a toolkit of the wanted version that is on the machine, or installs one, compiles and links a real kernel with it, runs that where there is a GPU,
    and only then stamps it. A toolkit that has lost or changed files is made again.
  - By V(wheels) it needs no root; the folder gets the layout and the links of a toolkit from NVIDIA's installers.
options:
  workspace:
    description:
      - Folder that keeps the work over a restart of the pod.
    type: path
    required: true
  prefix:
    description:
      - Folder of the toolkit. C(cuda-13.0) in O(workspace) for CUDA 13.0 when not given. Not for O(method=apt), whose packages go into C(/usr/local).
    type: path
  version:
    description:
      - Release of the toolkit.
    type: str
    required: true
  nvcc_version:
    description:
      - Version that C(nvcc --version) must name.
    type: str
    required: true
  method:
    description:
      - V(wheels) by C(uv) from the Python package index, V(apt) from NVIDIA's repository, V(runfile) by NVIDIA's installer.
    type: str
    choices: [wheels, apt, runfile]
    default: wheels
  components:
    description:
      - More parts than compiler, runtime and headers, by the names that the wheel C(cuda-toolkit) has for them, such as V(cublas).
    type: list
    elements: str
    default: []
  reuse:
    description:
      - Whether a toolkit of the wanted version that others have installed will do. Always so with O(method=apt).
    type: bool
    default: true
  scope:
    description:
      - V(system) also makes the links C(/usr/local/cuda-13.0) and C(/usr/local/cuda), the latter only where there is none; V(user) makes none;
        V(auto) is V(system) for root.
    type: str
    choices: [auto, system, user]
    default: auto
  compat:
    description:
      - V(auto) installs NVIDIA's forward compatibility library where the driver is older than 580.65.06. It needs root, and works on data center GPUs
        under the driver branches 535, 550, 565, 570 and 575.
    type: str
    choices: [never, auto]
    default: never
  accept_old_driver:
    description:
      - Accept a driver on which the compiled programs do not run.
    type: bool
    default: false
  find_links:
    description:
      - Folders or addresses with wheels. The machine's own E(UV_FIND_LINKS) or E(PIP_FIND_LINKS) when not given.
    type: list
    elements: str
    default: []
  index_url:
    description:
      - Package index to take the wheels from before the public one.
    type: str
  runfile:
    description:
      - Address or path of NVIDIA's installer, for O(method=runfile).
    type: str
  runfile_checksum:
    description:
      - Its checksum, V(sha256:), V(sha512:) or V(md5:) and the digits.
    type: str
  apt_repository:
    description:
      - Address of the apt repository. NVIDIA's for this distribution when not given.
    type: str
  apt_fingerprint:
    description:
      - Fingerprint that the repository's signing key, C(3bf863cc.pub), must have.
    type: str
    default: EB693B3035CD5710E231E123A4B469963BF863CC
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
  - module: podcycle.gpu.cutlass
"""

EXAMPLES = r"""
- name: The CUDA 13.0 toolkit
  podcycle.gpu.cuda_toolkit:
    workspace: /workspace
    version: 13.0.2
    nvcc_version: 13.0.88
    scope: user
  register: cuda

- name: With NVTX, in a folder of its own
  podcycle.gpu.cuda_toolkit:
    workspace: /workspace
    version: 13.0.2
    nvcc_version: 13.0.88
    prefix: /workspace/cuda-nvtx
    components: [nvtx]
    reuse: false
    scope: user
"""

RETURN = r"""
cuda_toolkit:
  description: The toolkit as it was proven.
  returned: success
  type: dict
  contains:
    path:
      description: Its folder.
      type: str
      returned: always
      sample: /workspace/cuda-13.0
    nvcc:
      description: Its compiler.
      type: str
      returned: always
      sample: /workspace/cuda-13.0/bin/nvcc
    nvcc_version:
      description: Version of the compiler. Null in check mode when it is not there yet.
      type: str
      returned: always
      sample: 13.0.88
    did:
      description: What was done, or in check mode would be; V(install), V(prove), V(compat), V(link).
      type: list
      elements: str
      returned: always
      sample: [install, prove]
    why:
      description: Why an installation was needed.
      type: str
      returned: always
      sample: there is no whole toolkit in /workspace/cuda-13.0
    arch:
      description: Architecture that the kernel was compiled for. V(sm_90) on a machine without a GPU.
      type: str
      returned: always
      sample: sm_90
    proof:
      description: What the compiled kernel said; null when it was proven before.
      type: dict
      returned: always
      sample: {runtime: 13000, devices: 1, error: 0, wrong: 0, said: cudaSuccess}
    compat:
      description: The forward compatibility library that is in use, else null.
      type: dict
      returned: always
      sample: {path: /usr/local/cuda-13.0/compat, version: 580.95.05}
    environment:
      description: What shells need, in the terms of M(podcycle.gpu.shell_env).
      type: dict
      returned: always
      sample:
        variables: {CUDA_HOME: /workspace/cuda-13.0}
        path: [/workspace/cuda-13.0/bin]
        library_path: [/workspace/cuda-13.0/lib64]
    seconds:
      description: How long each step took that was needed.
      type: dict
      returned: always
      sample: {"install": 4.1, "prove": 2.2}
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(cuda_mismatch), V(cuda_toolkit), V(cuda_not_verified), V(unsupported_machine), V(fetch), V(gpu_driver) or V(uv).
      type: str
      returned: always
      sample: cuda_mismatch
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "install CUDA 13.0.2: its programs need driver 580.65.06 or later, and this machine has 570.172.08"
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._cuda_step import converge
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "workspace": {"type": "path", "required": True},
            "prefix": {"type": "path"},
            "version": {"type": "str", "required": True},
            "nvcc_version": {"type": "str", "required": True},
            "method": {"type": "str", "choices": ["wheels", "apt", "runfile"], "default": "wheels"},
            "components": {"type": "list", "elements": "str", "default": []},
            "reuse": {"type": "bool", "default": True},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "compat": {"type": "str", "choices": ["never", "auto"], "default": "never"},
            "accept_old_driver": {"type": "bool", "default": False},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "index_url": {"type": "str"},
            "runfile": {"type": "str"},
            "runfile_checksum": {"type": "str"},
            "apt_repository": {"type": "str"},
            "apt_fingerprint": {"type": "str", "default": "EB693B3035CD5710E231E123A4B469963BF863CC"},
            "cache_dir": {"type": "path"},
            "uv_version": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        changed, found, diff = converge(module.params, check_mode=module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    module.exit_json(changed=changed, cuda_toolkit=found, diff=diff)


if __name__ == "__main__":
    main()
