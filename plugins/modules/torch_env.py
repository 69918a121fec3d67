#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: torch_env
short_description: Make a virtual environment with the PyTorch build that fits the machine
version_added: 0.1.0
author:
  - podcycle.gpu contributors (@podcycle)
description:
  - Reads the NVIDIA driver, chooses the PyTorch build that runs on it, and installs it with C(uv) into a virtual environment.
    Brings C(uv) along when the machine has none.
  - The environment is proven in a fresh interpreter, on the GPU when there is one, and only then stamped as whole.
    An environment without that stamp, with damaged files or made for another driver is repaired.
options:
  venv:
    description:
      - The virtual environment.
    type: path
    required: true
  bin_dir:
    description:
      - Folder in which C(uv) is looked for first, and into which it is installed when the machine has no fitting one.
    type: path
    required: true
  version:
    description:
      - Version of PyTorch, without the build's name.
    type: str
    required: true
  backend:
    description:
      - The build. V(auto) takes V(cu130) for driver 580.65.06 or later, V(cu128) for 525.60.13 or later, and V(cpu) on a machine without an NVIDIA GPU.
      - A build that does not fit the machine is an error.
    type: str
    choices: [auto, cpu, cu128, cu130]
    default: auto
  accept_cpu_on_gpu:
    description:
      - Allow O(backend=cpu) on a machine with a GPU.
    type: bool
    default: false
  compat:
    description:
      - V(auto) lets a driver older than 580.65.06 count as the one that NVIDIA's forward compatibility library of this machine stands in for,
        on a GPU and under a branch of the driver that it is made for. M(podcycle.gpu.cuda_toolkit) brings the library.
    type: str
    choices: [never, auto]
    default: never
  python:
    description:
      - Interpreter for the environment, when it is a path.
      - A version such as V(3.12) is the least one. The machine's own interpreter is taken when it is new enough, else C(uv) brings one into C(python)
        beside O(bin_dir); where that cannot be downloaded, the machine's own is taken from Python 3.10 on, and RV(torch_env.notes) says so.
      - The one that this module runs on, outside of any virtual environment, when not given.
    type: str
  extra_packages:
    description:
      - More packages for the environment, as requirements.
    type: list
    elements: str
    default: []
  find_links:
    description:
      - Folders or addresses with wheels. The machine's own E(UV_FIND_LINKS) or E(PIP_FIND_LINKS) when not given.
      - A torch wheel of the wanted version and build in a local folder is taken without asking the PyTorch index.
    type: list
    elements: str
    default: []
  lock:
    description:
      - Content of a lock file, a list of requirements with hashes as C(uv pip compile --generate-hashes) writes it. Then nothing else is installed.
      - It must pin torch to O(version), and NumPy and O(extra_packages) too.
    type: str
  index_url:
    description:
      - Package index to take PyTorch from instead of the public one.
    type: str
  cache_dir:
    description:
      - Cache of C(uv). On the same file system as O(venv), files are linked instead of copied.
      - When not given, the one that the machine's E(UV_CACHE_DIR) names, else C(cache/uv) beside O(bin_dir).
    type: path
  uv_version:
    description:
      - Exact version of C(uv). Any recent enough one when not given.
    type: str
  verify:
    description:
      - Import torch in a fresh interpreter also where the stamp vouches for its files, and repair what does not import.
    type: bool
    default: false
attributes:
  check_mode:
    description: Can run in check mode and return what it would do without changing anything.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: full
"""

EXAMPLES = r"""
- name: The PyTorch that fits the driver
  podcycle.gpu.torch_env:
    venv: /workspace/venv
    bin_dir: /workspace/bin
    version: 2.13.0

- name: From a folder of wheels, on the CPU
  podcycle.gpu.torch_env:
    venv: /workspace/venv
    bin_dir: /workspace/bin
    version: 2.13.0
    backend: cpu
    find_links: [/srv/wheels]
"""

RETURN = r"""
torch_env:
  description: The environment as it was proven.
  returned: success
  type: dict
  contains:
    venv:
      description: The virtual environment.
      type: str
      returned: always
      sample: /workspace/venv
    python:
      description: Its interpreter.
      type: str
      returned: always
      sample: /workspace/venv/bin/python
    python_version:
      description: Version of that interpreter.
      type: str
      returned: always
      sample: 3.11.7
    uv:
      description: The C(uv) that was used.
      type: str
      returned: when it was needed
      sample: /workspace/bin/uv
    backend:
      description: The build that was chosen.
      type: str
      returned: always
      sample: cu130
    torch:
      description: Version that the fresh interpreter reported. Null in check mode when it is not there yet.
      type: str
      returned: always
      sample: 2.13.0+cu130
    numpy:
      description: Version of NumPy.
      type: str
      returned: always
      sample: 2.4.6
    cuda:
      description: CUDA version of the build. Null for the CPU build.
      type: str
      returned: always
      sample: "13.0"
    cuda_available:
      description: Whether the fresh interpreter could compute on a GPU.
      type: bool
      returned: always
      sample: true
    devices:
      description: GPUs that PyTorch computed on.
      type: list
      elements: str
      returned: always
      sample: [NVIDIA H100 80GB HBM3]
    driver_version:
      description: Version of the NVIDIA driver. Null without one.
      type: str
      returned: always
      sample: 580.95.05
    gpus:
      description: GPUs that the driver lists.
      type: list
      elements: str
      returned: always
      sample: [NVIDIA H100 80GB HBM3]
    arch_list:
      description: GPU architectures that the build has kernels for. Empty for the CPU build.
      type: list
      elements: str
      returned: always
      sample: [sm_80, sm_90]
    notes:
      description: What came otherwise than asked for, in sentences.
      type: list
      elements: str
      returned: always
      sample: []
    environment:
      description: What shells need, in the terms of M(podcycle.gpu.shell_env).
      type: dict
      returned: always
      sample: {variables: {}, path: [/workspace/venv/bin]}
    seconds:
      description: How long each step took that was needed.
      type: dict
      returned: always
      sample: {"venv": 0.03, "install": 0.6, "verify": 4.9}
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description:
        - V(torch_backend_mismatch), V(gpu_driver), V(torch_index_unreachable), V(torch_not_verified), V(uv) or V(torch_env).
      type: str
      returned: always
      sample: torch_index_unreachable
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "install torch 2.13.0 (cu130) into /workspace/venv: the PyTorch package index could not be reached"
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {}
"""

import os
import re
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._gpu_driver import (
    CUDA13_DRIVER,
    Driver,
    choose_backend,
    forward,
    no_forward,
    read_driver,
    standing_in,
)
from ansible_collections.podcycle.gpu.plugins.module_utils._toolkits import find_compat
from ansible_collections.podcycle.gpu.plugins.module_utils._torch_env import TorchEnv, Wish
from ansible_collections.podcycle.gpu.plugins.module_utils._uv import Uv, base_python, find_links_of, find_uv, install_uv, keep_byte_code, keep_uv


def seen_driver(params: dict[str, Any], *, check_mode: bool) -> tuple[Driver, str, str]:
    """The driver as programs see it, the folder of the library through which they do, and why not, where that was asked for."""
    driver = read_driver()
    if params["compat"] == "never" or not driver.too_old:
        return driver, "", ""
    found = standing_in(find_compat([], Path(params["bin_dir"]).parent))
    # In check mode the library may be still to come.
    if not found and not check_mode:
        return driver, "", "there is no forward compatibility library on this machine; the role cuda13 brings it with cuda13_compat"
    through = forward(driver, found["version"] if found else CUDA13_DRIVER)
    return (through, found["path"] if found else "", "") if through.forward else (driver, "", no_forward(driver) or "")


def converge(params: dict[str, Any], *, check_mode: bool) -> tuple[bool, dict[str, Any], dict[str, str]]:
    driver, library, note = seen_driver(params, check_mode=check_mode)
    bin_dir, wanted = Path(params["bin_dir"]), params["uv_version"] or ""
    cache_dir = Path(params["cache_dir"] or os.environ.get("UV_CACHE_DIR") or bin_dir.parent / "cache" / "uv")
    least = params["python"] if re.fullmatch(r"\d+(\.\d+)+", params["python"] or "") else ""
    wish = Wish(
        venv=Path(params["venv"]),
        version=params["version"],
        backend=choose_backend(params["backend"], driver, accept_cpu_on_gpu=params["accept_cpu_on_gpu"], torch=params["version"]),
        python="" if least else params["python"] or base_python(),
        least_python=least,
        python_home=str(bin_dir.parent / "python"),
        lock=params["lock"] or "",
        extra_packages=params["extra_packages"],
        find_links=find_links_of(params["find_links"]),
        index_url=params["index_url"] or "",
        cache_dir=str(cache_dir),
        library_path=library,
    )
    env = TorchEnv(wish, driver)
    env.notes += [note] if note else []
    env.preflight()
    broken = False
    if env.satisfied():
        broken = params["verify"] and not env.works(write=not check_mode)
    if env.satisfied() and not broken:
        return False, describe(env, env.record() or {}, None), {"before": "", "after": ""}
    diff = env.diff()
    if check_mode:
        env.look_up(find_uv(bin_dir, wanted, cache_dir) or find_uv(bin_dir, "", cache_dir))
        return True, describe(env, {"notes": env.notes}, None), diff
    started = time.monotonic()
    uv = find_uv(bin_dir, wanted, cache_dir) or install_uv(bin_dir, wanted)
    env.seconds["uv"] = round(time.monotonic() - started, 2)
    record = env.make(uv, broken=broken)
    keep_uv(uv, cache_dir)
    keep_byte_code(env.wish.venv, cache_dir)
    return True, describe(env, record, uv), diff


def describe(env: TorchEnv, record: dict[str, Any], uv: Uv | None) -> dict[str, Any]:
    keys = ("torch", "numpy", "cuda", "cuda_available", "devices")
    return {
        "venv": str(env.wish.venv),
        "python": str(env.python),
        "python_version": record.get("python"),
        "uv": str(uv.path) if uv else record.get("uv"),
        "backend": env.wish.backend,
        **{key: record.get(key) for key in keys},
        "driver_version": env.driver.version,
        "gpus": env.driver.gpus,
        "arch_list": record.get("arch_list") or [],
        "notes": record.get("notes") or [],
        "environment": {"variables": {}, "path": [str(env.wish.venv / "bin")]},
        "seconds": env.seconds,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "venv": {"type": "path", "required": True},
            "bin_dir": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "backend": {"type": "str", "choices": ["auto", "cpu", "cu128", "cu130"], "default": "auto"},
            "accept_cpu_on_gpu": {"type": "bool", "default": False},
            "compat": {"type": "str", "choices": ["never", "auto"], "default": "never"},
            "python": {"type": "str"},
            "extra_packages": {"type": "list", "elements": "str", "default": []},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "lock": {"type": "str"},
            "index_url": {"type": "str"},
            "cache_dir": {"type": "path"},
            "uv_version": {"type": "str"},
            "verify": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        changed, found, diff = converge(module.params, check_mode=module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    for note in found["notes"] if module.check_mode else []:
        module.warn(note)
    module.exit_json(changed=changed, torch_env=found, diff=diff)


if __name__ == "__main__":
    main()
