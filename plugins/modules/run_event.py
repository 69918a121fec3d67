#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run_event
short_description: Write one event of a stage, or judge a stage
version_added: 0.1.0
description:
  - Appends to events.jsonl of the run folder; works on the controller only, also for a pod that is out of reach.
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
  stage:
    description: The stage.
    type: str
    choices: [start, converge, push, train, collect, validate, stop]
    required: true
  status:
    description: What happened; V(judge) fails when a pod of O(hosts) failed or was out of reach in the stage.
    type: str
    choices: [started, ok, failed, skipped, warning, note, judge]
    required: true
  phase:
    description: Part of the stage; the stage itself when empty.
    type: str
    default: ""
  message:
    description: One sentence.
    type: str
    default: ""
  cause:
    description: Result of the task that failed; its message and last log lines are noted.
    type: raw
  task:
    description: Name of the task that failed.
    type: str
    default: ""
  hosts:
    description: Pods that must have ended the stage well.
    type: list
    elements: str
    default: []
  phase_times:
    description: A runpod_phase_times.jsonl that was collected from the pod; its rows join events.jsonl as the stage V(pod), each once.
    type: path
  fail:
    description: Whether a failure also fails this task.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Note the beginning
  podcycle.gpu.run_event:
    run_dir: artifacts/cycles/demo
    stage: push
    status: started
"""

RETURN = r"""
ok:
  description: Whether the stage is well.
  type: bool
  returned: success
  sample: true
"""
