#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: system_packages
short_description: Install missing Debian packages
version_added: 0.1.0
description:
  - Installs by C(apt-get) what is missing, and nothing else. The package lists are read anew only when they are older than a day, or when they do not serve.
  - A well-known package whose program was deleted behind dpkg's back, such as C(git) without C(/usr/bin/git), is installed again.
  - Needs neither C(python3-apt) nor a certain interpreter, and finishes what an interrupted run left half-configured.
  - In check mode C(apt-get) is asked whether it knows them, without root and without a trace; where it cannot be asked, the module warns.
extends_documentation_fragment:
  - podcycle.gpu.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  names:
    description: Names of the packages, with C(=VERSION) where one is wanted.
    type: list
    elements: str
    required: true
  cache_dir:
    description:
      - Folder on a volume in which the packages stay that were fetched, apart for each release.
      - From there they come again, also where the distribution's archive cannot be reached.
    type: path
"""

EXAMPLES = r"""
- name: What every pod needs
  podcycle.gpu.system_packages:
    names: [git, rsync]
  check_mode: true
"""

RETURN = r"""
installed:
  description: The packages that were missing, or without their program, and are installed now, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [rsync]
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(system_packages) or V(bad_input).
      type: str
      returned: always
      sample: system_packages
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "install tmux: packages need root"
    effect:
      description: Always V(none).
      type: str
      returned: always
      sample: none
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._packages import install, look_up, missing


def main() -> None:
    module = AnsibleModule(
        argument_spec={"names": {"type": "list", "elements": "str", "required": True}, "cache_dir": {"type": "path"}}, supports_check_mode=True
    )
    cache = Path(module.params["cache_dir"]) if module.params["cache_dir"] else None
    try:
        wanted = missing(module.params["names"])
        if wanted and not module.check_mode:
            install(wanted, cache)
        unsure = look_up(wanted) if wanted and module.check_mode else ""
    except PodcycleError as error:
        module.fail_json(**failure(error))
    except OSError as error:
        module.fail_json(msg=f"install {', '.join(module.params['names'])}: {error}")
    if unsure:
        module.warn(unsure)
    diff = {"before": "", "after": "".join(f"{name}\n" for name in wanted), "after_header": "packages"}
    module.exit_json(changed=bool(wanted), installed=wanted, diff=diff if wanted else {})


if __name__ == "__main__":
    main()
