#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: remote_files
short_description: Copy files between a host and an object store, by rclone
version_added: 0.1.0
description:
  - Copies what differs between a folder of the host and a remote of rclone, and compares checksums afterwards.
  - The remote is described by rclone's own variables in the environment of ansible-playbook, for example E(RCLONE_CONFIG_S3_TYPE),
        E(RCLONE_CONFIG_S3_ACCESS_KEY_ID) and E(RCLONE_CONFIG_S3_SECRET_ACCESS_KEY) for C(s3:bucket). Those of this remote, and no others, go to the host;
    they are never in an argument, a file or a result.
  - Where the remote has a file C(checksums.sha256), every file that is pulled must be in it. What is pushed is read back and hashed.
extends_documentation_fragment:
  - podcycle.gpu.attributes
  - podcycle.gpu.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  action:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  direction:
    description: To the host (V(pull)) or to the remote (V(push)).
    type: str
    choices: [pull, push]
    required: true
  remote:
    description: C(name:path) or C(:backend:path), without parameters.
    type: str
    required: true
  path:
    description: The folder on the host.
    type: path
    required: true
  patterns:
    description: Shell patterns of paths; a star also crosses folders.
    type: list
    elements: str
    default: ["*"]
  exclude:
    description: Shell patterns of paths that are left out, whatever O(patterns) says.
    type: list
    elements: str
    default: []
  required:
    description: Files without which nothing is copied.
    type: list
    elements: str
    default: []
  max_bytes:
    description: Size above which a file is refused.
    type: int
    default: 21474836480
  probe:
    description:
      - Only look whether the remote answers within a minute, and has what is O(required).
      - A remote that means the pod's own disk, or that is to be pulled where there is no rclone, is left to the pod; RV(probed) then is V(false).
    type: bool
    default: false
  tries:
    description: How often rclone tries.
    type: int
    default: 3
  timeout:
    description: Seconds that the copy may take.
    type: int
    default: 3600
  bandwidth_limit_kib_s:
    description: Highest rate in KiB a second; V(0) for none.
    type: int
    default: 0
  settings:
    description: Set by the action plugin, the variables as JSON; what is given here is replaced.
    type: str
"""

EXAMPLES = r"""
- name: Pull a data set
  podcycle.gpu.remote_files:
    direction: pull
    remote: s3:bucket/chess
    path: /workspace/data/chess
    required: [train.jsonl, val.jsonl]
"""

RETURN = r"""
probed:
  description: Whether the remote has answered.
  type: bool
  returned: success
  sample: true
files:
  description: The files that both sides have now, with path, size and sha256; empty in check mode.
  type: list
  elements: dict
  returned: success
  sample: [{path: train.jsonl, size: 714584, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}]
transferred:
  description: Paths that differed and were copied.
  type: list
  elements: str
  returned: success
  sample: [train.jsonl]
refused:
  description: What matched and was refused, and why.
  type: list
  elements: dict
  returned: success
  sample: []
bytes:
  description: Bytes that differed.
  type: int
  returned: success
  sample: 714584
verified:
  description: What the files were compared by; empty in check mode.
  type: str
  returned: success
  sample: checksums.sha256
summary:
  description: Files, bytes, time and rate in one line; empty when nothing was copied.
  type: str
  returned: success
  sample: 2 files, 697.8 KiB in 0.4 s, 1.7 MiB/s by rclone
seconds:
  description: Time of the copy.
  type: float
  returned: when something was copied
  sample: 0.4
mib_s:
  description: Rate in MiB a second.
  type: float
  returned: when something was copied
  sample: 1.7
"""

import json

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._rclone import Rclone, exchange


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "direction": {"type": "str", "choices": ["pull", "push"], "required": True},
            "remote": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "patterns": {"type": "list", "elements": "str", "default": ["*"]},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "required": {"type": "list", "elements": "str", "default": []},
            "max_bytes": {"type": "int", "default": 20 * 1024**3},
            "probe": {"type": "bool", "default": False},
            "tries": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 3600},
            "bandwidth_limit_kib_s": {"type": "int", "default": 0},
            # One text, so that hiding it hides none of the short words that also stand in paths.
            "settings": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    rclone = Rclone(given["remote"], json.loads(given["settings"] or "{}"), given["bandwidth_limit_kib_s"], given["tries"], given["timeout"])
    try:
        rclone.need(bring=not module.check_mode and not given["probe"])
        result = exchange(rclone, given, module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    except OSError as error:
        module.fail_json(msg=f"cannot use {given['path']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
