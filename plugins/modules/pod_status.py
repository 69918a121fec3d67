#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod_status
short_description: Show every pod of ours with its job and its cost
version_added: 0.1.0
description:
  - Compares the ledger with the cloud as M(podcycle.gpu.lease_info) does, and asks each running pod over SSH how busy its GPUs are and how far
    its job has got. All pods are asked at once; one that does not answer says so in its row.
  - Nothing is changed, and no host key is accepted that was not seen before.
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
  run_id:
    description: Only pods of this run.
    type: str
  workspace:
    description:
      - Folder on the pods below which the runs keep their jobs; C({pod_id}) in it stands for the id of each pod.
      - When it is not given, the one that M(podcycle.gpu.run) made the run with, else C(/workspace).
    type: str
  ssh:
    description: Whether to ask the pods themselves.
    type: bool
    default: true
  ssh_timeout:
    description: Seconds that a connection may take.
    type: float
    default: 10.0
  watch:
    description:
      - Look again every so many seconds, and print, until no pod is left or the task is interrupted; once when V(0).
      - After the first look, a cloud that fails to answer is told in a line and asked again; that time counts as no pod's silence.
    type: float
    default: 0.0
  watch_limit:
    description: Seconds after which O(watch) ends; never when V(0).
    type: float
    default: 0.0
  until_ended:
    description: With O(watch), end also when every pod's job has ended, or when one has stalled.
    type: bool
    default: false
  stall_seconds:
    description:
      - A job that has shown no sign of life for longer is stalled, by the pod's own clock; never when V(0).
      - With O(watch), so is a pod whose job could not be read for longer, because it is out of reach, stopped, or has none.
    type: float
    default: 900.0
"""

EXAMPLES = r"""
- name: Look at every pod
  podcycle.gpu.pod_status:
  register: seen

- name: Watch the pods of a run for a minute
  podcycle.gpu.pod_status:
    run_id: demo
    watch: 10
    watch_limit: 60
"""

RETURN = r"""
pods:
  description: The open leases and what their pods say.
  type: list
  elements: dict
  returned: success
  contains:
    stamp: {description: The pod's name., type: str, returned: always, sample: podcycle-demo-pod-0-1a2b3c4d-9f8e7d6c}
    run_id: {description: The run., type: str, returned: always, sample: demo}
    index: {description: Place in the group., type: int, returned: always, sample: 0}
    cloud: {description: The cloud., type: str, returned: always, sample: runpod}
    pod_id: {description: The provider's id., type: str, returned: always, sample: 9f8e7d6c5b4a39}
    state: {description: What the cloud shows; V(unknown) when it cannot be told., type: str, returned: always, sample: running}
    gpu: {description: GPU model., type: str, returned: always, sample: NVIDIA L40S}
    gpu_count: {description: GPUs in the pod., type: int, returned: always, sample: 1}
    region: {description: Data center., type: str, returned: always, sample: EU-RO-1}
    since: {description: Begin of the lease., type: str, returned: always, sample: "2026-11-01T10:00:00Z"}
    deadline: {description: End of the lease., type: str, returned: always, sample: "2026-11-01T14:00:00Z"}
    hours_left: {description: Hours until the end of the lease., type: float, returned: always, sample: 3.2}
    usd_per_hour: {description: Price in dollars an hour., type: str, returned: always, sample: "0.8600"}
    cost_usd: {description: Dollars since the lease began., type: str, returned: always, sample: "0.6880"}
    why: {description: Why the lease goes on or is over., type: str, returned: always, sample: driven by process 4711 on laptop}
    endpoint: {description: Where SSH answers., type: dict, returned: always, sample: {host: 203.0.113.7, port: 10341, user: root, via: direct}}
    links:
      description: Addresses of the pod's HTTP ports.
      type: list
      elements: str
      returned: always
      sample: ["https://9f8e7d6c5b4a39-8888.proxy.runpod.net"]
    gpus:
      description:
        - For each GPU C(utilization_gpu) in percent, C(memory_used) and C(memory_total) in MiB, C(temperature_gpu) in degrees, C(power_draw) in watts.
      type: list
      elements: dict
      returned: always
      sample: []
    job:
      description:
        - The job that was started last, with C(name), C(state), C(summary), C(progress), its C(seconds), C(silent_seconds) and whether it is
          C(stalled); none when there is none.
      type: dict
      returned: always
      sample: {name: train, state: running, summary: "epoch 1/1  loss 3.21  ETA 0:40", progress: {}, seconds: 21.5, silent_seconds: 0.8, stalled: false}
    services:
      description:
        - What the role C(services) keeps running there and how it is reached, each with C(name), C(port), C(where) it listens, C(url) when its
          port is rented through the proxy, C(tunnel), the command that brings it here by SSH, and C(token_file) on the pod.
      type: list
      elements: dict
      returned: always
      sample: []
    trouble: {description: Why the pod could not be asked., type: str, returned: always, sample: SSH did not answer in time}
stalled:
  description: Pods, as run and place, whose jobs are stalled, or could not be read for that long.
  type: list
  elements: str
  returned: success
  sample: []
ended:
  description: Whether there is a job on every pod and all of them have ended.
  type: bool
  returned: success
  sample: false
seen:
  description: Whether an earlier look of the same task saw a pod.
  type: bool
  returned: success
  sample: false
typed:
  description: How another playbook is typed, with the inventory of this one, up to its name.
  type: str
  returned: success
  sample: ansible-playbook -i inventories/runpod playbooks/
lines:
  description: The same as a table for people.
  type: list
  elements: str
  returned: success
  sample: ["nothing is rented"]
strays:
  description: Names of pods that bear our stamp and stand in no ledger.
  type: list
  elements: str
  returned: success
  sample: []
burn_usd_per_hour:
  description: Dollars an hour that running pods of ours cost now.
  type: str
  returned: success
  sample: "0.8600"
cost_usd:
  description: Dollars that the open leases have cost so far.
  type: str
  returned: success
  sample: "0.6880"
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""
