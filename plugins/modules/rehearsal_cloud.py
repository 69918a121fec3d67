#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rehearsal_cloud
short_description: Start or stop the embedded rehearsal cloud
version_added: 0.1.0
description:
  - Starts an emulator of the clouds on the loopback interface, whose pods are processes on this machine with real SSH. Nothing is paid.
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
  state:
    description: Whether it is to run.
    type: str
    choices: [started, stopped]
    default: started
  port:
    description: Loopback port.
    type: int
    default: 8787
  state_dir:
    description: Folder of its state and its pods.
    type: path
    default: .state/rehearsal
  image_cache:
    description: A uv cache that every new pod finds in its own cache folder, as if baked into its image; ignored while it does not exist.
    type: path
  time_scale:
    description: Waits of the cloud are this many times shorter.
    type: float
  reset:
    description: Whether to end all pods and forget everything first.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Start the rehearsal cloud
  podcycle.gpu.rehearsal_cloud:

- name: Stop it
  podcycle.gpu.rehearsal_cloud:
    state: stopped
"""

RETURN = r"""
url:
  description: Where it listens.
  type: str
  returned: when O(state=started)
  sample: http://127.0.0.1:8787
control_url:
  description: Where tests steer it.
  type: str
  returned: when O(state=started)
  sample: http://127.0.0.1:8787/_control
isolation:
  description: How its pods are kept off the rest of the file system, V(namespaces) or V(convention).
  type: str
  returned: when O(state=started)
  sample: namespaces
isolation_reason:
  description: Why it is not V(namespaces), if so.
  type: str
  returned: when O(state=started)
  sample: user namespaces are not allowed here
time_scale:
  description: How many times shorter its waits are.
  type: float
  returned: when O(state=started)
  sample: 1.0
pid:
  description: Process id of its server.
  type: int
  returned: when it runs
  sample: 4711
running:
  description: Whether it runs now.
  type: bool
  returned: in check mode
  sample: true
state_dir:
  description: Folder of its state and its pods.
  type: str
  returned: always
  sample: /home/me/.state/rehearsal
"""
