#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact_info
short_description: List and hash files on a host
version_added: 0.1.0
description:
  - Lists the plain files under a folder that match patterns, with size and sha256.
  - Links, devices, unsafe names and files over the size limit are refused and reported.
extends_documentation_fragment:
  - podcycle.gpu.attributes.info
author: podcycle.gpu contributors (@podcycle)
options:
  root:
    description: The folder.
    type: path
    required: true
  patterns:
    description: Shell patterns of paths below O(root); a star also crosses folders.
    type: list
    elements: str
    default: ["*"]
  exclude:
    description: Shell patterns of paths below O(root) that are left out, whatever O(patterns) says.
    type: list
    elements: str
    default: []
  max_bytes:
    description: Size above which a file is refused.
    type: int
    default: 21474836480
  hashed:
    description: Whether to hash the files.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Hash the model and the metrics of a run
  podcycle.gpu.artifact_info:
    root: /workspace/runs/demo
    patterns: [model.pt, "*.json", "*.jsonl"]
"""

RETURN = r"""
exists:
  description: Whether the folder is there.
  type: bool
  returned: success
  sample: true
files:
  description: The files, sorted by path.
  type: list
  elements: dict
  returned: success
  contains:
    path: {description: Path below the folder., type: str, returned: always, sample: model.pt}
    size: {description: Size in bytes., type: int, returned: always, sample: 15500000}
    sha256: {description: Checksum., type: str, returned: when hashed, sample: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}
refused:
  description: What matched and was refused, and why.
  type: list
  elements: dict
  returned: success
  sample: []
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import survey


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "patterns": {"type": "list", "elements": "str", "default": ["*"]},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "max_bytes": {"type": "int", "default": 20 * 1024**3},
            "hashed": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        given = module.params
        result = survey(Path(given["root"]), given["patterns"], given["max_bytes"], exclude=given["exclude"], hashed=given["hashed"])
    except OSError as err:
        module.fail_json(msg=f"cannot read {module.params['root']}: {err}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
