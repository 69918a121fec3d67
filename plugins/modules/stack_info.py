#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: Read the whole GPU stack of a machine in one round trip
version_added: 0.1.0
author:
  - podcycle.gpu contributors (@podcycle)
description:
  - Reads the operating system, the driver and its GPUs, every CUDA toolkit and the one that wins, CUTLASS, Python, PyTorch, disk and memory,
    and returns a fingerprint of what must be equal on a pod that is made again.
  - Never fails on a broken machine but reports it. The GPUs come from NVML, PyTorch from its files.
options:
  workspace:
    description:
      - Folder that keeps the work over a restart of the pod.
    type: path
    default: /workspace
  venv:
    description:
      - The virtual environment with PyTorch. C(venv) in O(workspace) when not given.
    type: path
  cutlass:
    description:
      - Folders in which CUTLASS is looked for; the first that holds it counts. C(cutlass) in O(workspace) and C(/opt/cutlass) when empty.
    type: list
    elements: path
    default: []
  verify:
    description:
      - When a fresh interpreter imports torch. V(auto) does so only when the stamp of M(podcycle.gpu.torch_env) does not vouch for the files
        and the driver that are found.
    type: str
    choices: [auto, never, always]
    default: auto
attributes:
  check_mode:
    description: Can run in check mode and return what it would do without changing anything.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: none
seealso:
  - module: podcycle.gpu.stack_drift
"""

EXAMPLES = r"""
- name: Read the stack
  podcycle.gpu.stack_info:
  register: found

- name: Read it, and import torch whatever its stamp says
  podcycle.gpu.stack_info:
    workspace: /workspace
    verify: always
"""

RETURN = r"""
stack:
  description: The stack. A part that is not there, or cannot be read, is null.
  returned: success
  type: dict
  contains:
    os:
      description: Distribution, and whether the stack is made for it.
      type: dict
      returned: always
      sample: {id: ubuntu, version: "24.04", codename: noble, name: Ubuntu 24.04.3 LTS, supported: true}
    arch:
      description: Architecture of the processor.
      type: str
      returned: always
      sample: x86_64
    kernel:
      description: Release of the kernel.
      type: str
      returned: always
      sample: 6.8.0-60-generic
    init:
      description: V(systemd) where it really runs as the first process, else V(other).
      type: str
      returned: always
      sample: other
    container:
      description: V(docker), V(podman), V(runpod), V(vast), or null.
      type: str
      returned: always
      sample: runpod
    user:
      description: The user that the module ran as; C(sudo) means without a password.
      type: dict
      returned: always
      sample: {name: root, uid: 0, home: /root, root: true, sudo: true}
    driver:
      description: The NVIDIA driver, the CUDA version that it carries, and why it does not answer.
      type: dict
      returned: always
      sample: {version: 580.95.05, cuda: "13.0", trouble: null}
    gpus:
      description: The GPUs. What one does not tell is null; C(lost) means fallen off the bus.
      type: list
      elements: dict
      returned: always
      sample:
        - {index: 0, name: NVIDIA H100 80GB HBM3, uuid: GPU-5a1c, memory_mib: 81559, compute_capability: "9.0", ecc: true, ecc_uncorrected: 0,
           persistence: true, lost: false, temperature_c: 31, utilization_percent: 0, memory_used_mib: 4}
    cuda:
      description: The nvcc that our shells start, every toolkit with a working nvcc, and the forward compatibility library.
      type: dict
      returned: always
      sample:
        nvcc: {path: /workspace/cuda-13.0/bin/nvcc, version: 13.0.88}
        toolkits: [{path: /workspace/cuda-13.0, version: 13.0.88, wins: true}]
        compat: null
    cutlass:
      description: CUTLASS; C(clean) is null for a tree that M(podcycle.gpu.cutlass) has not made.
      type: dict
      returned: always
      sample: {path: /workspace/cutlass, version: 4.2.0, commit: 57e3cfb47a2d9e0d46eb6335c3dc411498efa198, ref: v4.2.0, clean: true}
    python:
      description: The python3 that our shells start.
      type: dict
      returned: always
      sample: {path: /workspace/venv/bin/python3, version: 3.12.11}
    torch:
      description: PyTorch, by its files; C(proven) says whether a stamp vouches for it, an import has just shown it, or nothing has.
      type: dict
      returned: always
      sample:
        {venv: /workspace/venv, python: 3.12.11, version: 2.13.0+cu130, cuda: "13.0", proven: stamp, cuda_available: true,
         arch_list: [sm_80, sm_90], error: null}
    uv:
      description: The uv that would be used.
      type: dict
      returned: always
      sample: {path: /workspace/bin/uv, version: 0.9.30}
    disks:
      description: Room on the file systems of the workspace, of the root folder and of C(/tmp), each once.
      type: list
      elements: dict
      returned: always
      sample: [{path: /workspace, total_gib: 200.0, free_gib: 151.3}]
    memory_gib:
      description: Memory; the limit of a container counts.
      type: float
      returned: always
      sample: 251.6
    cpus:
      description: Cores that may be used; the quota of a container counts.
      type: int
      returned: always
      sample: 20
    trouble:
      description: Parts that could not be read, and why.
      type: list
      elements: str
      returned: always
      sample: []
    parts:
      description: What a pod made again must have equal.
      type: dict
      returned: always
      sample: {os: ubuntu 24.04, nvcc: 13.0.88, torch: 2.13.0+cu130}
    fingerprint:
      description: SHA-256 over C(parts).
      type: str
      returned: always
      sample: c13c74fdd58e1cfc38bfa057952ae8a07fe7a0c4d95105a78851200cf4caac8b
    receipts:
      description:
        - What M(podcycle.gpu.stack_receipt) has signed for, the digest of the wish, whether all of it still stands, and why not;
          C(faults) has each reason by itself.
      type: dict
      returned: always
      sample: {pytorch: {digest: 5feceb66ffc8, stands: true, why: "", faults: []}}
    seconds:
      description: How long the reading took.
      type: float
      returned: always
      sample: 0.2
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._stack import places_of, read_stack


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "workspace": {"type": "path", "default": "/workspace"},
            "venv": {"type": "path"},
            "cutlass": {"type": "list", "elements": "path", "default": []},
            "verify": {"type": "str", "choices": ["auto", "never", "always"], "default": "auto"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, stack=read_stack(places_of(module.params)))


if __name__ == "__main__":
    main()
