# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One file, copied to a machine that has nothing else, sets it up; again, after a kill, and without a network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.world import CACHE, ROOT

ROLES = ["pytorch", "chess_training"]


class Machine:
    """A home folder, a workspace and an environment of its own, on this machine's system."""

    def __init__(self, path: Path) -> None:
        self.home, self.workspace, self.script = path / "home", path / "workspace", path / "one.sh"
        self.home.mkdir()
        passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA"))}
        self.env = {**passed, "HOME": str(self.home), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}

    def command(self, *words: str, before: tuple[str, ...] = ()) -> list[str]:
        return [*before, "bash", str(self.script), "--workspace", str(self.workspace), *words]

    def run(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words, before=before), env=self.env, capture_output=True, text=True, timeout=900, check=False)

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.workspace / ".podcycle/bootstrap/status.json").read_text(encoding="utf-8"))
        return found

    def files(self) -> set[str]:
        return {str(path.relative_to(self.workspace)) for path in self.workspace.rglob("*") if ".podcycle" not in path.parts and "cache" not in path.parts}


def linked(source: str, target: str) -> None:
    """A hard link, where both are on one file system; /tmp often is one of its own."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    variables = {"stack_scope": "user", "stack_roles": ROLES, "pytorch_backend": "cpu", "pytorch_accept_cpu_on_gpu": True, "bootstrap_dest": str(made.script)}
    write = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "playbooks/pod_setup.yml", "-e", json.dumps(variables)]
    subprocess.run(write, cwd=ROOT, check=True, capture_output=True)
    made.workspace.mkdir()
    if (CACHE / "archive-v0").exists():
        shutil.copytree(CACHE, made.workspace / "cache/uv", copy_function=linked, symlinks=True)
    return made


def cut_off(machine: Machine) -> None:
    """Kill everything while it works."""
    child = subprocess.Popen(machine.command(), env=machine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ends = time.monotonic() + 300
    while not (machine.workspace / "venv").exists() and time.monotonic() < ends and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait(timeout=30)


def test_one_file_is_all_that_a_machine_needs(machine: Machine) -> None:
    checked = machine.run("--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "would change pytorch, chess_training" in checked.stdout
    assert not (machine.workspace / ".podcycle/bootstrap/status.json").exists()
    assert not machine.files() - {"bin", "bin/uv"} and not list(machine.home.iterdir())

    cut_off(machine)
    first = machine.run()
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.rstrip().endswith("[Bootstrap] Environment ready") and machine.status()["changed"]
    # Looked at from outside.
    proof = "import torch, chess_trainer; print(float((torch.eye(3) @ torch.eye(3)).sum()))"
    done = subprocess.run([str(machine.workspace / "venv/bin/python"), "-c", proof], env=machine.env, capture_output=True, text=True, check=False)
    assert done.stdout == "3.0\n", done.stderr
    assert (machine.workspace / "pod_setup.sh").read_bytes() == machine.script.read_bytes()

    phases = machine.status()["phases"]
    assert isinstance(phases, dict) and {"python", "archive", "uv", "ansible", "converge", "pytorch", "chess_training"} <= set(phases)
    second = machine.run()
    assert second.returncode == 0 and machine.status()["changed"] == 0, second.stdout

    for shell, lines in ((["-ic"], 1), (["-lic"], 1), (["-lc"], 0), (["-c"], 0)):
        said = subprocess.run(["bash", *shell, "true"], env=machine.env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert said.stdout == "[Bootstrap] Environment ready\n" * lines, shell

    # The disk was wiped, the volume's tools and the copy on it are left, and nothing else can be reached.
    shutil.rmtree(machine.home)
    machine.home.mkdir()
    for gone in ("venv", ".podcycle/ansible", ".podcycle/bootstrap/collection"):
        shutil.rmtree(machine.workspace / gone)
    machine.script = machine.workspace / "pod_setup.sh"
    alone = ("unshare", "-rn") if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0 else ()
    healed = machine.run(before=alone)
    assert healed.returncode == 0 and (machine.workspace / "venv/bin/python").exists(), healed.stdout + healed.stderr
