#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pod
short_description: Rent a group of pods exactly once, stop it, or give it back
version_added: 0.1.0
description:
  - Brings O(count) pods of a run to the wanted state. A pod belongs to its place in the group of a run, so running the task again rents nothing more.
  - Every rental is written to the ledger before it is asked for. When the answer to a create is lost, the pod is looked for by its stamp and adopted.
  - Giving back is proven by reading back. In check mode the pod is returned as it would be, with its price.
extends_documentation_fragment:
  - podcycle.gpu.cloud
  - podcycle.gpu.attributes
  - podcycle.gpu.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  action:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  run_id:
    description: The run that the pods belong to; 1 to 60 letters, digits, V(.), V(_) or V(-).
    type: str
    required: true
  name:
    description: Name of the group within the run; 1 to 20 lower-case letters and digits.
    type: str
    default: pod
  state:
    description:
      - V(running) rents what is missing, starts what is stopped, and waits until SSH answers.
        A pod that was stopped and does not come up is stopped again.
      - V(restarted) starts the containers of running pods anew on the same hosts, proven by their later start time. What is not on a volume is lost.
      - V(stopped) ends the computing; storage goes on costing.
      - V(absent) gives back every pod of the run.
    type: str
    choices: [running, restarted, stopped, absent]
    default: running
  count:
    description: Pods in the group.
    type: int
    default: 1
  gpu:
    description: GPU models in order of preference, by id, display name or a unique part of either; the cheapest that fits when empty.
    type: list
    elements: str
    default: []
  gpu_count:
    description: GPUs in each pod.
    type: int
    default: 1
  min_vram_gib:
    description: Least memory of one GPU, in GiB.
    type: int
    default: 0
  max_usd_per_hour:
    description: Highest price of one pod, in dollars an hour, also when a spot pod is bid for again; no limit when not given.
    type: str
  spot:
    description: Whether the pods may be interruptible.
    type: bool
    default: false
  regions:
    description: Data centers in order of preference; the provider chooses when empty.
    type: list
    elements: str
    default: []
  image:
    description:
      - Container image; it must run an SSH server that reads E(PUBLIC_KEY).
      - That of O(runpod.template), or else V(runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404), when not given.
    type: str
  disk_gib:
    description: Container disk in GiB, lost when the pod stops. That of O(runpod.template), or else V(40), when not given.
    type: int
  volume_gib:
    description: Persistent volume in GiB, kept while the pod is stopped; none when V(0).
    type: int
    default: 0
  volume_path:
    description: Where the volume is mounted.
    type: str
    default: /workspace
  ports:
    description: Ports to publish, V(22/tcp) among them. V(22/tcp) and those of O(runpod.template) when not given.
    type: list
    elements: str
  env:
    description:
      - Environment of the container; visible in the provider's console.
      - RunPod's pods are also told their rented ports, as E(PODCYCLE_PORTS), unless this or the template names it, or there is no room for it among
        the 50 variables that RunPod allows.
    type: dict
    default: {}
  secret_env:
    description: Environment that must not be shown; values of 8 characters or more.
    type: dict
    default: {}
  ssh_public_key:
    description: The key that may log in.
    type: str
  ssh_private_key_file:
    description: Private half of O(ssh_public_key); with it and O(known_hosts_file), O(state=running) waits for a real login.
    type: path
  known_hosts_file:
    description: Where the host keys of this run's pods are pinned at first contact.
    type: path
  lease:
    description: The terms of the lease.
    type: dict
    default: {}
    suboptions:
      hours:
        description: Hours after which the pod is given back, whatever happens.
        type: str
        default: "4"
  waits:
    description: Seconds that each part of getting ready may take.
    type: dict
    default: {}
    suboptions:
      capacity:
        description: How long to go on asking while there is no capacity anywhere on the list.
        type: float
        default: 0
      boot:
        description: From the create to a running container; a large image takes many minutes.
        type: float
        default: 900
      endpoint:
        description: From running to an SSH address.
        type: float
        default: 300
      sshd:
        description: From an SSH address to a login.
        type: float
        default: 300
      stop:
        description: Until a stopped pod is seen stopped.
        type: float
        default: 180
      release:
        description: Until a pod that was given back is seen gone.
        type: float
        default: 180
      settle:
        description: How long a pod whose create was in doubt is looked for before two listings without it count, and 45 s from its sending on at least.
        type: float
        default: 12
  runpod:
    description: What only RunPod has.
    type: dict
    default: {}
    suboptions:
      cloud_type:
        description: Data-center machines, machines of third parties, or both.
        type: str
        choices: [secure, community, any]
        default: secure
      min_cuda_version:
        description: Least CUDA version that the host's driver supports, such as V(12.8).
        type: str
      template:
        description:
          - Template to make the pod from, by its id, its name or a unique part of the name; your own, public ones, and RunPod's.
          - RunPod copies it once. A later change of the template changes no pod. O(env) goes over the template's, name by name.
        type: str
      network_volume:
        description:
          - Network volume to mount at O(volume_path), by its id or name. It outlives the pod.
          - The pod is rented in the volume's data center, on secure machines only.
        type: str
      start_command:
        description: A command that runs in the container beside the services of the image, its SSH server among them; a program and its arguments.
        type: list
        elements: str
      install_sshd:
        description: Bring an SSH server into an image that has none, such as V(ubuntu:24.04); wants apt and the network, and takes some 20 s.
        type: bool
      registry:
        description: Id of the registry login with which a private image is pulled; see M(podcycle.gpu.runpod_registry_auth).
        type: str
      secrets:
        description:
          - Environment variables that RunPod fills from secrets of the account, as C(VARIABLE) to the secret's name in RunPod's console.
          - The values pass neither through Ansible nor through what RunPod's API shows.
        type: dict
      preset_env:
        description: Also set the environment of the chess bot's training image, E(START_SSHD) on and its other services off.
        type: bool
      ssh_via:
        description:
          - How the pod is reached; RV(pods[].ssh_via) says how it was.
          - V(direct) is its own SSH server at a public address, V(gateway) RunPod's, which takes keys of the account only and is slower
            (P(podcycle.gpu.runpod_gateway#connection)).
          - V(auto) takes the gateway where O(ports) has no V(22/tcp), or where the pod shows no public address within O(waits.endpoint).
        type: str
        choices: [auto, direct, gateway]
        default: auto
  known_pods:
    description:
      - Pods of the run, as dictionaries with C(id) and C(name), that O(state=absent) gives back too when the ledger has lost them.
      - A pod is touched only when the cloud shows it under exactly this name and the name is a stamp of this run.
    type: list
    elements: dict
    default: []
  spare_kept:
    description: With O(state=absent), leave alone what an earlier pass of the run stopped, kept or held on purpose.
    type: bool
    default: false
  interrupt_grace_minutes:
    description: How long the keeper waits for a rerun when the controller of a run is gone, before it gives the pods back.
    type: float
    default: 15
  progress_file:
    description: A file to which waits append a line of text; the task prints them as they come.
    type: path
"""

EXAMPLES = r"""
- name: Rent one pod for at most an hour
  podcycle.gpu.pod:
    run_id: demo
    gpu: [RTX 4090, L40S]
    max_usd_per_hour: "1.00"
    ssh_public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJKbLIxHcxGkcmjwbT2LDqPzTnJhVyxzMZjUt8S5nuQE demo"
    lease:
      hours: "1"

- name: Stop it; its volume goes on costing
  podcycle.gpu.pod:
    run_id: demo
    state: stopped

- name: Give it back
  podcycle.gpu.pod:
    run_id: demo
    state: absent
"""

RETURN = r"""
pods:
  description: The pods of the group after the task, in order of their place; with O(state=absent), those that were given back.
  type: list
  elements: dict
  returned: success
  contains:
    cloud: {description: The cloud., type: str, returned: always, sample: runpod}
    id: {description: The provider's id; empty in check mode for a pod to be rented., type: str, returned: always, sample: 9f8e7d6c5b4a39}
    name: {description: The stamp., type: str, returned: always, sample: podcycle-demo-pod-0-1a2b3c4d-9f8e7d6c}
    index: {description: Place in the group., type: int, returned: always, sample: 0}
    run_id: {description: The run., type: str, returned: always, sample: demo}
    state: {description: Observed state., type: str, returned: always, sample: running}
    provider_status: {description: The provider's own word for it., type: str, returned: always, sample: RUNNING}
    gpu: {description: GPU model., type: str, returned: always, sample: NVIDIA GeForce RTX 4090}
    gpu_count: {description: GPUs., type: int, returned: always, sample: 1}
    usd_per_hour: {description: Price in dollars an hour., type: str, returned: always, sample: "0.5900"}
    usd_per_hour_sort: {description: The same as a number., type: float, returned: always, sample: 0.59}
    region: {description: Data center., type: str, returned: always, sample: EU-RO-1}
    cloud_type: {description: Kind of machine., type: str, returned: always, sample: secure}
    image: {description: Container image., type: str, returned: always, sample: "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"}
    disk_gib: {description: Container disk in GiB., type: int, returned: always, sample: 40}
    volume_gib: {description: Persistent volume in GiB., type: int, returned: always, sample: 20}
    ports: {description: Published ports., type: list, elements: str, returned: always, sample: [22/tcp]}
    endpoint: {description: Where SSH answers., type: dict, returned: always, sample: {host: 203.0.113.7, port: 10341, user: root, via: direct}}
    gateway: {description: Where RunPod's gateway answers for it., type: dict, returned: always, sample: null}
    ssh_via: {description: Whether O(runpod.ssh_via=direct) or O(runpod.ssh_via=gateway) leads to it., type: str, returned: always, sample: direct}
    created_at: {description: Time of the create., type: str, returned: always, sample: "2026-11-01T10:00:00Z"}
    started_at: {description: Time of the last start., type: str, returned: always, sample: "2026-11-01T10:00:41Z"}
    spot: {description: Whether it may be interrupted., type: bool, returned: always, sample: false}
    deadline: {description: When the lease ends., type: str, returned: always, sample: "2026-11-01T11:00:00Z"}
    cost_usd: {description: Dollars since the lease began., type: str, returned: always, sample: "0.0123"}
    control_path_dir: {description: Folder of this pod's SSH masters., type: str, returned: when running, sample: /tmp/podcycle-1000/0a1b2c3d4e}
    connection: {description: Ansible's variables where only the gateway leads to it., type: dict, returned: when running, sample: {}}
    ssh_args: {description: Options for ssh that check this pod's identity., type: str, returned: when running, sample: -o HostKeyAlias=9f8e7d6c5b4a39}
    notes: {description: What was out of the ordinary., type: list, elements: str, returned: always, sample: []}
worst_case_usd:
  description: What the whole group costs if nothing ends it before its leases do; in check mode at the dearest offer that would be tried.
  type: str
  returned: when O(state=running)
  sample: "0.5900"
remaining:
  description: Pods of this run that the cloud still lists after O(state=absent); always empty on success outside check mode.
  type: list
  elements: str
  returned: when O(state=absent)
  sample: []
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
failure:
  description: The failure for programs.
  type: dict
  returned: failure
  sample: {code: no_capacity, message: no capacity, effect: none, details: {}}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils import _pods
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec


def main() -> None:
    module = AnsibleModule(argument_spec={**cloud_spec(), **_pods.pod_spec()}, supports_check_mode=True)
    try:
        result = _pods.converge(module.params, check_mode=module.check_mode)
    except PodcycleError as err:
        module.fail_json(**failure(err))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
