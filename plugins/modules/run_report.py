#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run_report
short_description: Judge a run and write its report
version_added: 0.1.0
description:
  - Decides from the run's events how its leases end. With O(write=true), writes cost.json, reports/observations.md and reports/report.html,
    prints a summary, and fails when anything failed or is still billed.
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
  on_end:
    description: How a run that went well ends.
    type: str
    choices: [terminate, stop, keep]
    default: terminate
  on_failure:
    description: How a run that failed ends; artifacts that could not be brought home hold the pods in any case.
    type: str
    choices: [terminate, hold]
    default: terminate
  hold_minutes:
    description: How long pods are held; V(0) never holds.
    type: int
    default: 30
  hosts:
    description: The run's pods.
    type: list
    elements: str
    default: []
  whole_cycle:
    description: Whether all stages are judged, or the last alone.
    type: bool
    default: false
  write:
    description: Whether to write the report.
    type: bool
    default: false
  ending:
    description: How the leases were ended.
    type: str
    choices: [terminate, stop, keep, hold]
  audit:
    description: What M(podcycle.gpu.lease_info) returned at the end.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Decide how the run ends
  podcycle.gpu.run_report:
    run_dir: artifacts/cycles/demo
    whole_cycle: true
"""

RETURN = r"""
ending:
  description: How the leases are to end.
  type: str
  returned: when O(write=false)
  sample: terminate
spare_kept:
  description: Whether pods that an earlier pass stopped, kept or held stay as they are, since this pass could not even start.
  type: bool
  returned: when O(write=false)
  sample: false
known_pods:
  description: Pods that provision.json names.
  type: list
  elements: dict
  returned: when O(write=false)
  sample: []
cost_usd:
  description: Dollars that the run has cost.
  type: str
  returned: when O(write=true)
  sample: "0.1475"
still_open:
  description: Pods that may still be billed against the wish.
  type: list
  elements: str
  returned: when O(write=true)
  sample: []
ok:
  description: Whether all went well.
  type: bool
  returned: when O(write=true)
  sample: true
"""
