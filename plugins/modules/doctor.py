#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: doctor
short_description: See whether everything is well before a pod is rented
version_added: 0.1.0
description:
  - Looks at the tools of this machine, the state folder, the key and where it came from, the API, the rights of the key, the clock,
    the balance of the account with the hours it lasts at the present burn, and the open leases.
  - Each finding comes with what to do about it. Nothing is rented or changed. The rights are found out by stopping a pod that nobody has.
  - The task succeeds whatever is found; see RV(verdict).
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
"""

EXAMPLES = r"""
- name: Examine this machine and the account
  podcycle.gpu.doctor:
  register: examined
"""

RETURN = r"""
verdict:
  description: The worst status of all checks, V(ok), V(warn) or V(fail).
  type: str
  returned: success
  sample: ok
checks:
  description: Every check.
  type: list
  elements: dict
  returned: success
  contains:
    name: {description: What was looked at., type: str, returned: always, sample: clock}
    status: {description: "V(ok), V(warn) or V(fail).", type: str, returned: always, sample: ok}
    found: {description: What was found., type: str, returned: always, sample: right}
    remedy: {description: What to do; empty when it is well., type: str, returned: always, sample: ""}
lines:
  description: The same as a table for people.
  type: list
  elements: str
  returned: success
  sample: ["ok  clock  right"]
rehearsal:
  description: Whether a rehearsal cloud answered.
  type: bool
  returned: success
  sample: false
"""
