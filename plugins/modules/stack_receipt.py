#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_receipt
short_description: Sign for what roles have brought about on a machine
version_added: 0.1.0
author:
  - podcycle.gpu contributors (@podcycle)
description:
  - Notes the digest of what was wanted beside the kind, mode, owner, size and time of every file that came of it, and the locks that its processes hold.
  - M(podcycle.gpu.stack_info) tells later, in one round trip, whether all of it still stands. The roles of the stack have nothing to do then.
  - Nothing of the machine is changed by it, so it never reports a change.
options:
  workspace:
    description:
      - Folder that the machine keeps its work in. The receipts lie in C(.podcycle/receipts) below it.
    type: path
    default: /workspace
  receipts:
    description:
      - A receipt for each name.
    type: dict
    required: true
attributes:
  check_mode:
    description: Can run in check mode and return what it would do without changing anything.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: none
notes:
  - A receipt has C(digest), and as far as needed C(paths), C(trees) (all files below a folder, and the folders), C(locks) (files that a process
    has to hold a lock on, as flock takes it, for as long as it runs), and C(shell), true where the environment of shells belongs to it.
  - Of files that others write into as well a receipt has its own share only. C(blocks) names the marker of our block in each such file, and
    C(hooks) in those whose mode is somebody else's affair; C(node) names C(packages), an C(account), a C(group), and with C(tailscale) the login to
    the tailnet.
"""

EXAMPLES = r"""
- name: Sign for a folder and a link to it
  podcycle.gpu.stack_receipt:
    workspace: /workspace
    receipts:
      tools:
        digest: 5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9
        trees: [/workspace/tools]
        paths: [/usr/local/bin/tool]
"""

RETURN = r"""
signed:
  description: Names of the receipts that are new or say something else now.
  returned: success
  type: list
  elements: str
  sample: [cuda13, pytorch]
stack:
  description: The stack as M(podcycle.gpu.stack_info) reads it after that.
  returned: success
  type: dict
  sample: {fingerprint: c13c74fdd58e1cfc38bfa057952ae8a07fe7a0c4d95105a78851200cf4caac8b}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _receipts
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._stack import places_of, read_stack


def main() -> None:
    module = AnsibleModule(
        argument_spec={"workspace": {"type": "path", "default": "/workspace"}, "receipts": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    workspace = module.params["workspace"]
    stack = read_stack(places_of({"workspace": workspace, "venv": None, "cutlass": [], "verify": "auto"}))
    try:
        signed = _receipts.sign_all(Path(workspace), module.params["receipts"], stack, write=not module.check_mode)
    except PodcycleError as error:
        module.fail_json(**failure(error))
    except OSError as error:
        module.fail_json(msg=f"write the receipts into {workspace}/{_receipts.FOLDER}: {error.strerror}")
    module.exit_json(changed=False, signed=signed, stack=stack)


if __name__ == "__main__":
    main()
