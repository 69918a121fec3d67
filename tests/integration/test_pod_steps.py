# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that change a pod go through the twelve steps, on every registered cloud.

Each phase (create, change, delete) is four tasks: in check mode, for real, in check mode again, for real again. Check mode sends no
write and changes no file, says what the real run then does, and the second run does nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import CLOUDS
from support.rclone import rclone
from support.stack import cutlass_repo
from support.stage import Stage
from support.steps import Args, Walk, judge_module, judge_results, tasks_of
from support.world import World, make_world

CHANGING = ("lease_guard", "job", "transfer", "remote_files", "torch_env", "file_set", "shell_env", "pod_service", "uv_tool", "cuda_toolkit", "cutlass")
READING = ("artifact_info", "node_info", "stack_info", "stack_drift", "stack_receipt")


def at(hours: int) -> str:
    return (datetime.now(timezone.utc) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_walks(world: World, python: str) -> list[Walk]:
    """What runs on a pod, or over its SSH connection."""
    guard = {"dir": "{{ workspace }}/steps/guard", "base_url": "{{ endpoint }}"}
    job = {"name": "long", "jobs_dir": "{{ workspace }}/steps/jobs"}
    push = {"direction": "push", "dest": "{{ workspace }}/steps/data", "required": ["train.jsonl"]}
    pull = {"direction": "pull", "path": "{{ workspace }}/steps/pulled", "required": ["train.jsonl"]}
    torch: Args = {"venv": "{{ workspace }}/steps/venv", "bin_dir": "{{ workspace }}/steps/bin", "version": "2.13.0", "backend": "cpu", "python": python}
    torch["accept_cpu_on_gpu"] = True
    home = "{{ workspace }}/steps/home"
    note: Args = {"path": f"{home}/note", "content": "one\n"}
    shell: Args = {"name": "part", "workspace": "{{ workspace }}/steps", "scope": "user", "home": home, "variables": {"A": "1"}, "path": [f"{home}/bin"]}
    service: Args = {"name": "rest", "workspace": "{{ workspace }}/steps", "scope": "user", "command": ["/bin/sleep", "300"]}
    tool: Args = {"package": "supervisor", "version": "4.3.0", "command": "supervisord", "workspace": "{{ workspace }}/steps"}
    stack: Args = {"workspace": "{{ workspace }}/steps"}
    # The GPU that the stand-in for nvidia-smi shows runs no kernel.
    cuda: Args = {**stack, "scope": "user", "reuse": False, "accept_old_driver": True, "version": "13.0.2", "nvcc_version": "13.0.88"}
    cutlass: Args = {**stack, "scope": "user", "compile": False, "version": "v4.1.0", "repo": "file://{{ workspace }}/source/cutlass"}
    return [
        Walk(
            "lease_guard",
            {"create": {**guard, "deadline": at(1)}, "change": {**guard, "deadline": at(2)}, "delete": {**guard, "state": "disarmed"}},
        ),
        Walk(
            "job",
            {"create": {**job, "command": ["sleep", "300"]}, "delete": {**job, "state": "cancelled"}},
            lacks="change: another command under the name of a running job is refused",
            fails={**job, "name": "wrong", "command": ["false"], "state": "finished"},
        ),
        Walk(
            "transfer",
            {
                "create": {**push, "src": str(world.path / "data")},
                "change": {**push, "src": str(world.path / "data2")},
                "create back": {"direction": "pull", "src": "{{ workspace }}/steps/data", "dest": str(world.path / "artifacts" / "back")},
            },
            lacks="files are never deleted",
            reads={"artifact_info": {"root": "{{ workspace }}/steps/data"}},
        ),
        Walk(
            "remote_files",
            {
                "create": {**pull, "remote": ":local:{{ workspace }}/source/one"},
                "change": {**pull, "remote": ":local:{{ workspace }}/source/two"},
                "create back": {**pull, "direction": "push", "remote": ":local:{{ workspace }}/steps/stored"},
            },
            lacks="files are never deleted",
            fails={**pull, "remote": "bucket"},
        ),
        Walk(
            "torch_env",
            {"create": torch, "change": {**torch, "extra_packages": ["chess"]}},
            lacks="an environment goes with its pod",
            # The stand-in for nvidia-smi shows a GPU.
            fails={**torch, "accept_cpu_on_gpu": False, "venv": "{{ workspace }}/steps/other"},
        ),
        Walk(
            "file_set",
            {
                "create": {"files": [note, {"path": f"{home}/.bashrc", "state": "block", "marker": "m", "text": "x=1"}]},
                "change": {"files": [{**note, "mode": "0600"}, {"path": f"{home}/.bashrc", "state": "block", "marker": "m", "text": "x=2"}]},
                "delete": {"files": [{"path": f"{home}/.bashrc", "state": "absent", "marker": "m"}, {"path": note["path"], "state": "absent"}]},
            },
            fails={"files": [{"path": home, "content": "a folder stands there"}]},
        ),
        Walk(
            "shell_env",
            {"create": shell, "change": {**shell, "variables": {"A": "2"}, "files": [note]}, "delete": {**shell, "state": "absent"}},
            fails={**shell, "path": ["bin"]},
        ),
        Walk(
            "pod_service",
            {"create": service, "change": {**service, "environment": {"A": "2"}}, "delete": {**service, "state": "absent"}},
            fails={**service, "supervisor": "systemd"},
        ),
        Walk(
            "uv_tool",
            {"create": tool, "change": {**tool, "version": ""}, "delete": {**tool, "state": "absent"}},
            fails={**tool, "package": "../x"},
            reads={"node_info": {"packages": ["base-files"], "account": "root", "group": "root"}},
        ),
        Walk("node_info", {}, fails={"packages": ["-o=x"]}),
        Walk(
            "cuda_toolkit",
            {"create": cuda, "change": {**cuda, "components": ["nvtx"]}},
            lacks="a toolkit goes with its pod",
            fails={**cuda, "version": "12.8.1"},
        ),
        Walk(
            "cutlass",
            {"create": cutlass, "change": {**cutlass, "version": "v4.2.0"}},
            lacks="a tree goes with its pod",
            fails={**cutlass, "version": "v9"},
            reads={
                "stack_receipt": {**stack, "receipts": {"tree": {"digest": "d1", "trees": ["{{ workspace }}/steps/cutlass"]}}},
                "stack_info": stack,
                "stack_drift": {**stack, "expected": {"cutlass.version": "4.3.0"}},
            },
        ),
    ]  # fmt: skip


def bring_sources(world: World) -> list[Args]:
    """rclone, what it finds in a store, and a small CUTLASS onto the pod itself: a pod sees nothing of this machine's /tmp, where this checkout may lie."""
    archive = shutil.make_archive(str(world.path / "repository"), "tar", cutlass_repo(world.path / "source" / "cutlass").parent)
    return [
        {"name": "make room", "ansible.builtin.file": {"path": "{{ workspace }}/source", "state": "directory", "mode": "0755"}},
        {"name": "bring rclone", "ansible.builtin.copy": {"src": rclone(), "dest": "{{ workspace }}/../bin/rclone", "mode": "0755"}},
        *(
            {"name": f"bring {there}", "ansible.builtin.copy": {"src": f"{world.path}/{here}/", "dest": f"{{{{ workspace }}}}/source/{there}/", "mode": "0644"}}
            for here, there in (("data", "one"), ("data2", "two"))
        ),
        {"name": "bring a repository", "ansible.builtin.unarchive": {"src": archive, "dest": "{{ workspace }}/source"}},
    ]


@pytest.fixture(scope="module", params=CLOUDS)
def walked(request: pytest.FixtureRequest, house_python: str) -> Iterator[tuple[list[Walk], dict[str, Args]]]:
    """The walks, and what each of their tasks did, on one cloud."""
    world = make_world("walkpod")
    try:
        world.start_cloud(50)
        world.dataset(world.path / "data2", train=30)
        stage = Stage(world, request.param)
        walks = pod_walks(world, house_python)
        roots = [world.state, world.path / "artifacts", world.cloud_dir / "pods" / "*" / "workspace" / "steps"]
        tasks = [*bring_sources(world), *tasks_of(walks)]
        plays = [stage.renting("steps"), {"hosts": "run_steps", **stage.defaults, "vars": {"endpoint": stage.account["endpoint"]}, "tasks": tasks}]
        rows = stage.play(plays, world.path / "inventory", roots)
        yield walks, {row["task"]: row for row in rows}
    finally:
        world.close()


@pytest.mark.parametrize("module", CHANGING)
def test_twelve_steps(walked: tuple[list[Walk], dict[str, Args]], module: str) -> None:
    assert judge_module(*walked, module) == []


@pytest.mark.parametrize("module", (*CHANGING, *READING))
def test_results_are_as_documented(walked: tuple[list[Walk], dict[str, Args]], documents: dict[str, Any], module: str) -> None:
    """Over all steps, those that fail too, every documented field is returned, and no other."""
    assert judge_results(documents[module]["RETURN"], [row["result"] for row in walked[1].values() if row["module"] == module]) == []
