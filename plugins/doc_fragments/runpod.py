# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  cloud:
    description: Always V(runpod).
    type: str
    choices: [runpod]
    default: runpod
  api_key:
    description:
      - The key of the account.
      - When it is not given, it is looked for in E(RUNPOD_API_KEY), then in the keyring (service V(runpod), user V(RUNPOD_API_KEY)),
        then in the file named by E(RUNPOD_DOTENV_PATH), or else in V(.env.runpod) and V(.env).
    type: str
  endpoint:
    description:
      - Base URL of RunPod's REST API, version 2; E(RUNPOD_REST_V2_URL) when not given, then RunPod's own.
      - Unencrypted HTTP is accepted on the loopback interface only, where the rehearsal cloud listens.
    type: str
  request_timeout:
    description: Seconds that one request may take.
    type: float
    default: 30.0
  account:
    description: A name for the account, as in M(podcycle.gpu.pod). What is read and changed here is told apart by the key alone.
    type: str
    default: default
  state_dir:
    description:
      - Private folder of locks and leases.
      - E(PODCYCLE_STATE_DIR) when not given, then V($XDG_STATE_HOME/podcycle).
    type: path
"""
