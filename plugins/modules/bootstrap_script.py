#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bootstrap_script
short_description: Write the script that sets a GPU machine up by itself
version_added: 0.1.0
description:
  - Renders one start script, for a pod's volume, a cloud's start command or plain user-data, that brings C(uv), ansible-core and this
    collection to a machine and converges it there with the playbook C(podcycle.gpu.bootstrap) and its roles.
  - The same collection and the same variables give the same bytes.
  - A script that is too long for its kind is packed with gzip and base64, and by reference when it is still too long.
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
  kind:
    description:
      - What the script is for. V(pod_setup) is the one that heals a machine and runs as often as it likes;
        the others are started by a cloud at each boot and do nothing on a machine that they have set up and whose watchdog runs.
      - V(runpod) is a container's start command and takes at most 131071 characters, V(vast) an onstart of 4048, V(gce) a startup-script of 262144,
        V(user_data) is for cloud-init and takes 16384.
    type: str
    choices: [pod_setup, runpod, vast, gce, user_data]
    default: pod_setup
  variables:
    description: Variables of the stack's roles, and V(stack), V(stack_scope), V(stack_roles). Secrets are refused, by name or as
      an address with a password, also inside dictionaries and lists; so are misspelt variables of the roles, and values that their roles do not take.
    type: dict
    default: {}
  host_variables:
    description:
      - Take the variables of the host that decide its stack as well; O(variables) win.
      - Secrets among them stay out, and so does C(stack_roles), which restricts one run.
    type: bool
    default: false
  strict:
    description:
      - Refuse a variable behind C(-e) of C(ansible-playbook), too, that is named after a role of the stack, that no role has, and that resembles one;
        and a value of the host that its role does not take.
      - With O(host_variables), refuse a secret behind C(-e) too, which the script cannot carry.
    type: bool
    default: false
  workspace:
    description: The persistent volume.
    type: str
    default: /workspace
  archive:
    description: Where the machine takes this collection from.
    type: str
    choices: [embedded, path, url]
    default: embedded
  archive_source:
    description: File on the machine, or address. Needed unless O(archive=embedded).
    type: str
  archive_sha256:
    description: Checksum of the archive at O(archive_source). That of O(archive_dest) when not given.
    type: str
  archive_dest:
    description: File on the controller into which to write the archive.
    type: path
  dest:
    description: File on the controller into which to write the script.
    type: path
  limit:
    description: The most characters that the script may have. The limit of O(kind) when not given.
    type: int
  reference_url:
    description: Address from which a script that is too long is fetched by a short one, with its checksum.
    type: str
  reference_dest:
    description: File on the controller into which to write what has to lie at O(reference_url).
    type: path
  then:
    description:
      - Command that the script becomes while the machine is being set up beside it.
      - For O(kind=runpod) the image's own C(/start.sh), or waiting for ever, when not given.
    type: list
    elements: str
  baseline_minutes:
    description: What setting such a machine up by hand takes, to compare with.
    type: float
    default: 20.0
  usd_per_hour:
    description: Price of the machine, to say what its set-up has cost.
    type: str
"""

EXAMPLES = r"""
- name: Write the script for the volume
  podcycle.gpu.bootstrap_script:
    dest: /workspace/start/pod_setup.sh

- name: Write an onstart for Vast.ai, by reference
  podcycle.gpu.bootstrap_script:
    kind: vast
    variables:
      pytorch_version: 2.13.0
    reference_url: https://example.org/podcycle/start.sh
    reference_dest: /workspace/start/start.sh
    dest: /workspace/start/onstart.sh
"""

RETURN = r"""
script:
  description: The script.
  type: str
  returned: success
  sample: "#!/usr/bin/env bash ..."
form:
  description: V(plain), V(packed) or V(reference).
  type: str
  returned: success
  sample: plain
size:
  description: Its length.
  type: int
  returned: success
  sample: 103412
sha256:
  description: Its checksum.
  type: str
  returned: success
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
payload:
  description: Names what the script brings about; a machine that was set up by it remembers this.
  type: str
  returned: success
  sample: 4b7c1f9a20d3e865
archive:
  description: The archive of this collection, C(sha256), C(size) and the number of its C(files).
  type: dict
  returned: success
  sample: {"sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", "size": 69077, "files": 48}
hook:
  description: The block for the files that a shell reads, its C(marker) and its C(text).
  type: dict
  returned: success
  sample: {"marker": "podcycle.gpu bootstrap", "text": "..."}
dest:
  description: Where the script was written.
  type: str
  returned: when O(dest) is given
  sample: /workspace/start/pod_setup.sh
left_out:
  description: Variables of the host, or parts of them, that look like a secret.
  type: list
  elements: str
  returned: success
  sample: []
"""
