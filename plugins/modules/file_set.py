#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Folders, files, links and marked blocks in one round trip
version_added: 0.1.0
description:
  - Brings any number of folders, files, links and marked blocks to their wanted state with one task.
  - All of them are looked at before the first is written. Each file is written aside and renamed into place.
  - The diff shows at most 60 lines or 4 KiB of a file that differ; of longer ones the number of lines and the sha256.
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
  files:
    description: The wanted paths, in the order in which they are made.
    required: true
  root:
    description: Folder that is taken for C(/), for the file system of an image.
    type: path
    default: /
"""

EXAMPLES = r"""
- name: A shared folder, a setting and a link
  podcycle.gpu.file_set:
    files:
      - {path: /workspace/shared, state: folder, mode: "0750"}
      - {path: /workspace/shared/note.txt, content: "kept\n", mode: "0640"}
      - {path: /workspace/current, state: link, target: shared}

- name: Two lines on top of a file that others write too
  podcycle.gpu.file_set:
    files:
      - path: /workspace/profile
        state: block
        marker: demo
        at: top
        text: |
          export EDITOR=vim
          export PAGER=less
"""

RETURN = r"""
paths:
  description: The paths that changed, or would change in check mode.
  returned: success
  type: list
  elements: str
  sample: [/workspace/shared]
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(file_set) or V(bad_input).
      type: str
      returned: always
      sample: file_set
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "make the file /workspace/shared: a folder is there already"
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
from ansible_collections.podcycle.gpu.plugins.module_utils._file_set import FILES, FileSet, entries_of


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {**FILES, "required": True},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    try:
        changes = FileSet(entries_of(module.params["files"]), Path(module.params["root"]), check_mode=module.check_mode).converge()
    except PodcycleError as error:
        module.fail_json(**failure(error))
    module.exit_json(changed=bool(changes), paths=[str(change.path) for change in changes], diff=[change.diff() for change in changes])


if __name__ == "__main__":
    main()
