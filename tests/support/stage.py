# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks whose every task is written down: what it returned, what the cloud saw of it, which files it changed."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.world import CACHE, ROOT, World

CALLBACKS = ROOT / "tests" / "integration" / "callback"
KEYS = {"runpod": "rpa_rehearsal_full"}
API = {"runpod": "/v2"}


@dataclass
class Stage:
    """A world of one cloud, and what its playbooks did."""

    world: World
    cloud: str

    @property
    def account(self) -> dict[str, Any]:
        """What every module that talks to the cloud is given."""
        endpoint = f"http://127.0.0.1:{self.world.port}{API[self.cloud]}"
        return {"cloud": self.cloud, "api_key": KEYS[self.cloud], "endpoint": endpoint, "state_dir": str(self.world.state)}

    @property
    def defaults(self) -> dict[str, Any]:
        """What each play of ours begins with."""
        return {"gather_facts": False, "module_defaults": {"group/podcycle.gpu.all": self.account}}

    def renting(self, run_id: str) -> dict[str, Any]:
        """A play that opens a run and rents a pod that can be logged in to."""
        keys = {"ssh_public_key": "public_key", "ssh_private_key_file": "private_key_file", "known_hosts_file": "known_hosts_file"}
        opening = {"run_id": run_id, "rehearsal": True, "artifacts_dir": str(self.world.path / "artifacts")}
        pod = {"run_id": run_id, "gpu": ["RTX 4090"], "volume_gib": 10, **{name: f"{{{{ opened.run.{field} }}}}" for name, field in keys.items()}}
        tasks = [
            {"name": "Open", "podcycle.gpu.run": opening, "register": "opened"},
            {"name": "Rent", "podcycle.gpu.pod": pod},
            {"name": "Look", "ansible.builtin.meta": "refresh_inventory"},
        ]
        return {"hosts": "localhost", **self.defaults, "tasks": tasks}

    def play(self, plays: list[dict[str, Any]], inventory: Path, roots: list[Path], **env: str) -> list[dict[str, Any]]:
        """Run the plays as one playbook, from the world's own folder; one row for each task."""
        path = self.world.path
        (path / "steps.yml").write_text(yaml.safe_dump(plays, sort_keys=False, width=1000), encoding="utf-8")
        record = path / "steps.jsonl"
        settings = {"record": str(record), "control": f"http://127.0.0.1:{self.world.port}/_control", "roots": [str(root) for root in roots]}
        # The requirements of the machine's own wheels stay; the rest of the environment is the world's.
        more = {
            "STEPS": json.dumps(settings),
            "ANSIBLE_CALLBACK_PLUGINS": str(CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "steps",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "UV_CACHE_DIR": str(CACHE),
            **env,
        }
        done = self.world.begin(str(path / "steps.yml"), "--diff", cwd=path, env=more, inventory=str(inventory)).end(240)
        rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()] if record.exists() else []
        broken = [row for row in rows if row["failed"] and not row["task"].endswith("must fail")]
        assert done.code == 0 and not broken, f"{json.dumps(broken[:1], indent=2)[:4000]}\n{done.text[-3000:]}"
        return rows


def constants(path: Path) -> dict[str, str]:
    """The documentation blocks of a plugin."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant):
            found[node.targets[0].id] = str(node.value.value)
    return found
