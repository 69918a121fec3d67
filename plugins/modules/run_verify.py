#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run_verify
short_description: See whether a finished run is whole and its pods are gone
version_added: 0.1.0
description:
  - Reads the folder of a run and checks that every stage ended well, that each collected file is still what was collected, by size and SHA-256,
    that each training ended with status 0, that each model was opened and found good, and that the cost is noted.
  - Asks the ledger whether every lease of the run is closed, and the cloud for each of its pods by id.
  - The task succeeds whatever is found; see RV(ok).
extends_documentation_fragment:
  - podcycle.gpu.cloud
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
  run_dir:
    description: The run folder.
    type: path
    required: true
  require_gone:
    description: Whether to ask the ledger and the cloud too; without it no key is needed.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Verify a run
  podcycle.gpu.run_verify:
    run_dir: artifacts/cycles/demo
  register: verified
"""

RETURN = r"""
ok:
  description: Whether all is well.
  type: bool
  returned: success
  sample: true
findings:
  description: Each check.
  type: list
  elements: dict
  returned: success
  contains:
    name: {description: What was looked at., type: str, returned: always, sample: pods gone}
    ok: {description: Whether it is well., type: bool, returned: always, sample: true}
    found: {description: What was found., type: str, returned: always, sample: runpod knows none of them any more}
lines:
  description: The same as a table for people.
  type: list
  elements: str
  returned: success
  sample: ["ok  cost  0.0102 $"]
rehearsal:
  description: Whether a rehearsal cloud was asked for the pods.
  type: bool
  returned: success
  sample: false
"""
