#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run_file
short_description: Write one of the known files of a run folder
version_added: 0.1.0
description:
  - Writes atomically, and only when the content differs. Dictionaries become JSON.
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
  run_dir:
    description: The run folder.
    type: path
    required: true
  name:
    description: The file, such as V(provision.json) or V(collected/manifest.json).
    type: str
    required: true
  content:
    description: A dictionary, or text.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Write the manifest
  podcycle.gpu.run_file:
    run_dir: artifacts/cycles/demo
    name: collected/manifest.json
    content:
      run_id: demo
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: success
  sample: artifacts/cycles/demo/collected/manifest.json
"""
