#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: transfer
short_description: Copy files to or from a pod, hashed on both ends
version_added: 0.1.0
description:
  - Sends only what differs, by rsync over the pod's own SSH settings, resumable, and compares sha256 on both ends afterwards.
  - Where rsync is missing here or on the pod, files go one by one through scp; those that arrived whole are left out by the next run.
  - A line at most every five seconds says how much is done, how fast it goes and how long it will still take; by scp to a pod, it comes only after each file.
  - A file that changes on the pod while it is fetched is fetched again up to O(tries) times, and listed in RV(refused) if it is never still.
  - What a pod says of its files is checked before it is used. Links, devices, unsafe names and files over O(max_bytes) are never fetched.
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
  direction:
    description: To the pod or from it.
    type: str
    choices: [push, pull]
    required: true
  src:
    description: The folder to copy from; on the controller for V(push), on the pod for V(pull).
    type: str
    required: true
  dest:
    description: The folder to copy to.
    type: str
    required: true
  patterns:
    description: Shell patterns of paths below O(src); a star also crosses folders.
    type: list
    elements: str
    default: ["*"]
  exclude:
    description: Shell patterns of paths below O(src) that are left out, whatever O(patterns) says.
    type: list
    elements: str
    default: []
  required:
    description: Files without which the transfer fails.
    type: list
    elements: str
    default: []
  max_bytes:
    description: Size above which a file is refused.
    type: int
    default: 21474836480
  tries:
    description: How often rsync or scp is tried; each try goes on where the last one broke off.
    type: int
    default: 3
  timeout:
    description: Seconds that one try may take.
    type: int
    default: 3600
  bandwidth_limit_kib_s:
    description:
      - Highest rate in KiB a second; V(0) for none.
      - RunPod's SSH gateway has no such limit. A pod behind it moves 0.1 to 2 MiB a second; a lower limit than 4096 is refused there.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Push a data set
  podcycle.gpu.transfer:
    direction: push
    src: data/smoke
    dest: /workspace/data/smoke
    required: [train.jsonl, val.jsonl]
"""

RETURN = r"""
files:
  description: The files that matched, with path, size and sha256.
  type: list
  elements: dict
  returned: success
  sample: [{path: train.jsonl, size: 714584, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}]
transferred:
  description: Paths that differed and have arrived; in check mode those that would be sent.
  type: list
  elements: str
  returned: success
  sample: [train.jsonl]
refused:
  description: What matched and was refused, and why.
  type: list
  elements: dict
  returned: success
  sample: []
bytes:
  description: Their bytes.
  type: int
  returned: success
  sample: 714584
bytes_sent:
  description: Bytes of content that really travelled; less than RV(bytes) when a transfer went on where an earlier one broke off.
  type: int
  returned: when something was sent
  sample: 714584
method:
  description: V(rsync), V(scp) where rsync is missing, or V(gateway).
  type: str
  returned: when something was sent
  sample: rsync
summary:
  description: Files, bytes, time, rate and method in one line; empty when nothing was sent.
  type: str
  returned: success
  sample: 2 files, 697.8 KiB in 0.4 s, 1.7 MiB/s by rsync
seconds:
  description: Time of the transfer.
  type: float
  returned: when something was sent
  sample: 0.4
mib_s:
  description: Rate in MiB a second.
  type: float
  returned: when something was sent
  sample: 1.7
"""
