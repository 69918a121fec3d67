#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Open a run on the controller
version_added: 0.1.0
description:
  - Checks that the run may begin, makes or finds its run folder and its SSH key, and locks the run for this ansible-playbook.
  - Options of ansible-playbook that would leave out parts of a cycle are refused, since they could rent and never give back.
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
  run_id:
    description: Names the run; made from the time when not given and O(create=true).
    type: str
  create:
    description: Whether a run that does not exist yet is made, or is an error.
    type: bool
    default: true
  lock:
    description: Whether this ansible-playbook is to drive the run; without it, one that another process drives can be looked at, or its job cancelled.
    type: bool
    default: true
  take_over:
    description:
      - With O(lock), interrupt the ansible-playbook that drives the run on this machine, as Ctrl-C does, and wait up to 30 seconds until it has ended.
      - One on another machine, and a keeper that gives the pods back, are left alone, and the run is refused.
    type: bool
    default: false
  whole_cycle:
    description: Whether the whole cycle follows.
    type: bool
    default: false
  rehearsal:
    description: Whether the inventory is one of a rehearsal cloud; an endpoint that does not fit is refused.
    type: bool
    default: false
  workspace:
    description:
      - Folder on the pods below which the run keeps its jobs; C({pod_id}) in it stands for the id of each pod.
      - Remembered when O(create=true), so that M(podcycle.gpu.pod_status) and M(podcycle.gpu.pod_logs) look there.
    type: str
    default: /workspace
  artifacts_dir:
    description: Where run folders are kept.
    type: path
    default: artifacts
  cloud:
    description: The cloud of the run.
    type: str
    default: runpod
  api_key:
    description: The key of the account, as in M(podcycle.gpu.pod).
    type: str
  endpoint:
    description: Base URL of the cloud's API, as in M(podcycle.gpu.pod).
    type: str
  account:
    description: A name for the account.
    type: str
    default: default
  on_end:
    description: How a run that went well is to end; checked here, used at the end.
    type: str
    choices: [terminate, stop, keep]
    default: terminate
  on_failure:
    description: How a run that failed is to end.
    type: str
    choices: [terminate, hold]
    default: terminate
  hold_minutes:
    description: How long pods are held for artifacts that could not be brought home; V(0) never holds.
    type: int
    default: 30
  interrupt_grace_minutes:
    description: How long pods outlive their ansible-playbook.
    type: float
    default: 15.0
  train_preset:
    description: Preset of the training.
    type: str
    choices: [smoke, cpu, gpu, lstm, lstm-small]
    default: gpu
  train_seconds:
    description: Time budget of the training.
    type: float
    default: 600.0
  train_stall_seconds:
    description: Seconds without a sign of life after which a training fails; V(0) for no limit.
    type: float
    default: 300.0
  state_dir:
    description: Private folder that remembers every lease.
    type: path
"""

EXAMPLES = r"""
- name: Open a run
  podcycle.gpu.run:
    run_id: demo
"""

RETURN = r"""
run:
  description: The run, as the other modules want to know it.
  type: dict
  returned: success
  contains:
    id: {description: The run id., type: str, returned: always, sample: demo}
    typed:
      description: How another playbook is typed, with the inventory of this one, up to its name.
      type: str
      returned: always
      sample: ansible-playbook -i inventories/runpod playbooks/
    dir: {description: The run folder., type: str, returned: always, sample: /home/me/artifacts/cycles/demo}
    resumed: {description: Whether the folder was there before., type: bool, returned: always, sample: false}
    complete: {description: Whether nothing of it is missing and nothing is rented., type: bool, returned: outside check mode, sample: false}
    rehearsal: {description: Whether it is a rehearsal., type: bool, returned: always, sample: false}
    cloud: {description: The cloud., type: str, returned: always, sample: runpod}
    state_dir: {description: The state folder., type: str, returned: always, sample: /home/me/.local/state/podcycle}
    private_key_file: {description: The run's SSH key., type: str, returned: always, sample: /home/me/.local/state/podcycle/runs/demo/id_ed25519}
    public_key: {description: Its public half., type: str, returned: always, sample: ssh-ed25519 AAAA podcycle-demo}
    known_hosts_file: {description: Where host keys are pinned., type: str, returned: always, sample: /home/me/artifacts/cycles/demo/known_hosts}
    progress_file: {description: Where waits say what they wait for., type: str, returned: always, sample: /home/me/progress.log}
    collection_dir: {description: Where this collection lies., type: str, returned: always, sample: /home/me/podcycle.gpu}
    validation_venv: {description: Environment that validates models., type: str, returned: always, sample: /home/me/.local/state/podcycle/validation-venv}
"""
