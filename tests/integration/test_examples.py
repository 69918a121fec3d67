# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every EXAMPLES block is run as it stands in the documentation, but for names, paths and times of the table below.

Account, endpoint and state folder come from the environment, as the examples mean it. The hosts come from the inventory plugin's own example.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

from support.docker import FakeDocker
from support.rclone import rclone
from support.stack import cutlass_repo
from support.stage import API, KEYS, Stage, constants
from support.steps import Args
from support.world import ROOT, World, free_port, make_world

# Where each module's examples run, in this order; the pod's own come between its rent and its end.
STACK = ("cuda_toolkit", "cutlass", "torch_env", "stack_info", "stack_drift", "stack_receipt")
ACCOUNT = ("runpod_template", "runpod_template_info", "runpod_network_volume", "runpod_network_volume_info", "runpod_registry_auth", "runpod_ssh_key")
BEFORE = (
    *("offer_info", "gpu_catalog", *ACCOUNT, "run", "run_event", "run_file", "run_report", *STACK, "rehearsal_cloud", "training_image"),
    *("pod", "pod_info", "pod_status", "pod_logs", "doctor", "lease_info", "lease", "run_verify"),
)
SHELL = ("file_set", "shell_env", "pod_service", "node_info", "system_packages", "uv_tool")
ON_POD = ("bootstrap_script", "lease_guard", "transfer", "remote_files", "artifact_info", "job", *SHELL)
# The group that the inventory's example makes of the GPU that the pod's example asks for.
HOSTS = "gpu_NVIDIA_GeForce_RTX_4090"


def replaced(value: Any, words: dict[str, str]) -> Any:
    """The same with words replaced in every text."""
    text = json.dumps(value)
    for old, new in words.items():
        text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    return json.loads(text)


def examples_of(documents: dict[str, Any], module: str, words: dict[str, str], added: dict[str, Args]) -> list[Args]:
    name = f"podcycle.gpu.{module}"
    tasks: list[Args] = replaced(documents[module]["EXAMPLES"], words)
    return [{**task, name: {**(task[name] or {}), **added.get(module, {})}, "register": f"did_{module}"} for task in tasks]


def in_a_pod() -> list[Args]:
    """What the examples expect to find on a pod: a program, a script, a result."""
    files = {"venv/bin/python": "#!/bin/sh\necho trained\n", "src/train.py": "import time\ntime.sleep(300)\n", "runs/demo/model.pt": "weights\n"}
    files |= {f"bucket/chess/{name}.jsonl": "{}\n" for name in ("train", "val")}
    script = "\n".join(f"mkdir -p $(dirname {name}) && printf '%b' {json.dumps(content)} > {name} && chmod +x {name}" for name, content in files.items())
    return [
        {"name": "Wait for SSH", "ansible.builtin.wait_for_connection": {"timeout": 60, "sleep": 0.2}},
        {"name": "Bring rclone", "ansible.builtin.copy": {"src": rclone(), "dest": "{{ workspace }}/../bin/rclone", "mode": "0755"}},
        {"name": "Prepare the pod", "ansible.builtin.shell": {"cmd": script, "chdir": "{{ workspace }}"}},
    ]


def plays_of(stage: Stage, documents: dict[str, Any]) -> list[Args]:
    path = stage.world.path
    later = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    key = next(task["podcycle.gpu.pod"]["ssh_public_key"] for task in documents["pod"]["EXAMPLES"] if "ssh_public_key" in task["podcycle.gpu.pod"])
    added: dict[str, Args] = {
        "run": {"rehearsal": True},
        "rehearsal_cloud": {"port": free_port(), "state_dir": str(path / "second")},
        "pod_status": {"watch_limit": 1},
        "lease_guard": {"base_url": stage.account["endpoint"]},
        # Git hosts may be out of reach, and the links of the system scope would be the machine's own.
        "cutlass": {"repo": f"file://{cutlass_repo(path / 'cutlass')}", "compile": False, "scope": "user"},
    }
    here = {"/workspace": str(path / "torch"), key: "{{ did_run.run.public_key }}"}
    there = {"/workspace": "{{ workspace }}", "s3:bucket": ":local:{{ workspace }}/bucket", "2026-11-01T10:00:00Z": later}
    first = [task for module in BEFORE for task in examples_of(documents, module, here, added)[: 1 if module == "pod" else None]]
    last = examples_of(documents, "pod", here, added)[1:]
    pods = in_a_pod() + [task for module in ON_POD for task in examples_of(documents, module, there, added)]
    return [
        {"hosts": "localhost", "gather_facts": False, "tasks": [*first, {"name": "Look", "ansible.builtin.meta": "refresh_inventory"}]},
        {"hosts": HOSTS, "gather_facts": False, "tasks": pods},
        {"hosts": "localhost", "gather_facts": False, "tasks": last},
    ]


def lay_inventory(world: World) -> None:
    """The inventory plugin's example, beside the variables that a process pod needs."""
    folder = world.path / "example"
    shutil.copytree(world.path / "inventory", folder)
    (folder / "pods.yml").write_text(constants(ROOT / "plugins" / "inventory" / "pods.py")["EXAMPLES"], encoding="utf-8")


def test_every_example_runs(documents: dict[str, Any]) -> None:
    assert sorted((*BEFORE, *ON_POD)) == sorted(documents)
    world = make_world("examples")
    try:
        world.start_cloud(50)
        world.dataset(world.path / "data" / "smoke")
        lay_inventory(world)
        # No engine is asked of a machine that runs the examples.
        path = f"{FakeDocker(world.path / 'docker').home}:{os.environ['PATH']}"
        account = {"PATH": path, "RUNPOD_API_KEY": KEYS["runpod"], "RUNPOD_REST_V2_URL": f"http://127.0.0.1:{world.port}{API['runpod']}"}
        stage = Stage(world, "runpod")
        rows = stage.play(plays_of(stage, documents), world.path / "example", [], PODCYCLE_STATE_DIR=str(world.state), **account)
        wanted = Counter(task["name"] for module in documents.values() for task in module["EXAMPLES"])
        assert wanted - Counter(row["task"] for row in rows) == Counter()
        assert [row["task"] for row in rows if row["module"] == "transfer" and row["result"]["transferred"] == ["train.jsonl", "val.jsonl"]]
        world.nothing_bills()
    finally:
        world.close()
