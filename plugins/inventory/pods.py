# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: pods
short_description: Live pods of all configured clouds
version_added: 0.1.0
description:
  - Lists the pods that exist now, with everything that SSH needs to reach them and check their identity.
  - Text that a cloud returns is plain data here, never a template; only a checked address and port reach Ansible's own variables.
  - Hosts are grouped by cloud (C(cloud_runpod)), state (C(state_running)) and run (C(run_ID)).
author: podcycle.gpu contributors (@podcycle)
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Marks the file as this plugin's.
    required: true
    choices: [podcycle.gpu.pods]
  clouds:
    description:
      - The accounts to list, each a dictionary with C(cloud) and, where needed, C(endpoint), C(api_key), C(account), C(state_dir) and
        C(request_timeout) as in M(podcycle.gpu.pod_info).
      - A text may name environment variables as C(${NAME:-default}).
      - With C(absent_ok=true) an endpoint that cannot be connected to counts as empty, which suits a rehearsal cloud that is not running.
    type: list
    elements: dict
    default: [{cloud: runpod}]
  scope:
    description: Only pods that our ledger or owner id proves ours, or every pod of the account.
    type: str
    choices: [ours, all]
    default: ours
  states:
    description: States of the pods to list.
    type: list
    elements: str
    default: [starting, running, stopped, failed, unknown]
  filters:
    description: Keep a pod when every listed field has one of the listed values, such as C(run_id) or C(gpu).
    type: dict
    default: {}
  exclude_filters:
    description: Leave a pod out when every listed field has one of the listed values.
    type: dict
    default: {}
  on_error:
    description:
      - What happens when a cloud cannot be listed, for want of a key or of an answer.
      - With V(fail) the inventory cannot be read; where C(any_unparsed_is_failed) is set that ends the command, with one sentence.
      - With V(defer) C(ansible-playbook) warns and goes on without these pods, since the playbooks of this collection ask the cloud themselves;
        every other command fails.
    type: str
    choices: [fail, defer]
    default: fail
  hostvars_prefix:
    description: Prefix of the host variables.
    type: str
    default: podcycle_
  hostname:
    description: Field that names the host; V(place) is the run id and the place in its group.
    type: str
    choices: [place, id, name]
    default: place
"""

EXAMPLES = r"""
# inventories/runpod/pods.yml
plugin: podcycle.gpu.pods
clouds:
  - cloud: runpod
filters:
  state: [running]
keyed_groups:
  - key: podcycle_gpu
    prefix: gpu
"""

import os
import re
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import group_name
from ansible_collections.podcycle.gpu.plugins.module_utils._listing import live_pods
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint
from ansible_collections.podcycle.gpu.plugins.module_utils._pods import lease_facts
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess, gateway_variables, masters_base, masters_name

_EXIT_PARSER = 4  # of ansible-inventory, when nothing can be parsed
# Names that mean something to Ansible: a pod called localhost would get the controller's own tasks.
_RESERVED = frozenset({"localhost", "all", "ungrouped"})


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "podcycle.gpu.pods"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(("pods.yml", "pods.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        key = self.get_cache_key(path)
        use_cache = self.get_option("cache") and cache
        rows: list[dict[str, Any]] | None = None
        if use_cache:
            rows = self._cache.get(key)
        if rows is None:
            try:
                rows = [row for cloud in self.get_option("clouds") for row in self._rows(cloud)]
            except errors.PodcycleError as err:
                self._give_up(path, err)
                return
            if self.get_option("cache"):
                self._cache[key] = rows
        taken: set[str] = set()
        # Each file of host keys is read once, however many pods it names.
        pinned: dict[str, frozenset[str]] = {}
        for row in rows:
            if self._wanted(row):
                self._add(row, taken, pinned)

    def _give_up(self, path: str, err: errors.PodcycleError) -> None:
        """Say why there is no listing. Ends the process where Ansible would do so next, without the complaints of every other inventory plugin."""
        if self.get_option("on_error") == "defer" and "start_at_task" in context.CLIARGS:
            Display().warning(f"{path} lists no pods: {err}")
            return
        if C.config.get_config_value("INVENTORY_ANY_UNPARSED_IS_FAILED"):
            Display().error(f"{path}: {err}", wrap_text=False)
            raise SystemExit(_EXIT_PARSER)
        # Ansible would print the cause's sentence once more.
        raise AnsibleParserError(f"{path}: {err}") from None

    def _rows(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Plain data of each pod, as it may be cached: no key, no secret."""
        environ = dict(os.environ)
        options = {name: _expanded(value, environ) for name, value in options.items()}
        if options.get("absent_ok"):
            options.setdefault("request_timeout", 3)
        try:
            session = open_session(options, environ)
            pods = live_pods(session, everyone=self.get_option("scope") == "all")
        except (errors.Unreachable, errors.NoReply, errors.ProxyRefused):
            # Nothing listens there, or something else that does not speak HTTP; whoever starts the cloud says which.
            if options.get("absent_ok"):
                return []
            raise
        rows = []
        for pod, lease in pods:
            row = {**pod.to_dict(), **lease_facts(lease), "rehearsal": session.rehearsal}
            key_file = session.state.path / "runs" / (row["run_id"] or "-") / "id_ed25519"
            row["key_file"] = str(key_file) if lease is not None and key_file.exists() else None
            row["known_hosts_file"] = (lease.wish.get("known_hosts_file") if lease else None) or str(key_file.parent / "known_hosts")
            rows.append(row)
        return rows

    def _wanted(self, row: dict[str, Any]) -> bool:
        if row["state"] not in self.get_option("states"):
            return False
        keep, drop = self.get_option("filters"), self.get_option("exclude_filters")
        return _matches(row, keep) and not (drop and _matches(row, drop))

    def _add(self, row: dict[str, Any], taken: set[str], pinned: dict[str, frozenset[str]]) -> None:
        """One host; a name that is taken gets the pod's id behind it."""
        choice = self.get_option("hostname")
        placed = row["run_id"] is not None and choice == "place"
        wanted = f"{row['run_id']}-{row['index']}" if placed else row["name"] if choice == "name" and _plain(row["name"]) else row["id"]
        host = wanted if wanted not in taken else f"{wanted}-{row['id']}"
        if host in _RESERVED:
            host = f"pod-{host}"
        taken.add(host)
        inventory = self.inventory
        if inventory is None:
            return
        inventory.add_host(host)
        variables = self._variables(row, pinned)
        for name, value in variables.items():
            inventory.set_variable(host, name, value)
        for group in (f"cloud_{row['cloud']}", f"state_{row['state']}", *((f"run_{group_name(row['run_id'])}",) if row["run_id"] else ())):
            inventory.add_group(group)
            inventory.add_child(group, host)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)

    def _variables(self, row: dict[str, Any], pinned: dict[str, frozenset[str]]) -> dict[str, Any]:
        """What the host is told; only a checked address and port reach Ansible's own names."""
        prefix = self.get_option("hostvars_prefix")
        variables = {f"{prefix}{name}": value for name, value in row.items() if name not in ("key_file", "known_hosts_file")}
        seen = row["endpoint"]
        endpoint = seen and Endpoint.parse(seen["host"], seen["port"], seen["user"], seen["via"])
        if not endpoint:
            return variables
        direct = endpoint.via == "direct"
        if direct:
            variables.update(ansible_host=endpoint.host, ansible_port=endpoint.port, ansible_user=endpoint.user)
        else:
            # One server for all pods: its address says nothing of this one.
            variables.update(gateway_variables(endpoint, SshAccess(Path(row["key_file"] or ""), Path(row["known_hosts_file"]))), ansible_user="root")
        # Ansible makes the folder when it connects; thousands of pods that are only listed leave none.
        variables["ansible_control_path_dir"] = str(masters_base() / masters_name(row["id"]))
        if row["key_file"]:
            file = row["known_hosts_file"]
            access = SshAccess(Path(row["key_file"]), Path(file))
            variables["ansible_ssh_private_key_file"] = row["key_file"]
        if row["key_file"] and direct:
            known = pinned[file] = pinned[file] if file in pinned else access.all_pinned()
            variables["ansible_ssh_common_args"] = access.words(row["id"], first_contact=row["id"] not in known)
        return variables


def _expanded(value: Any, environ: dict[str, str]) -> Any:
    """The operator's own text with ${NAME} and ${NAME:-default} filled in."""
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{([A-Z_][A-Z0-9_]*)(?::-([^}]*))?\}", lambda found: environ.get(found[1]) or found[2] or "", value)


def _matches(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(row.get(name) in (values if isinstance(values, list) else [values]) for name, values in wanted.items())


def _plain(name: str) -> bool:
    return bool(name) and name.isascii() and all(char.isalnum() or char in "._-" for char in name)
