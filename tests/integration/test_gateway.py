# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pod that publishes no SSH port is rented and worked with through the gateway: Ansible's own modules, ours, files and a job."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.stage import Stage
from support.world import World, make_world

# Asks as sudo does, and runs the command behind its options.
SUDO = """#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in -p) prompt=$2; shift 2 ;; -u) shift 2 ;; -*) shift ;; *) break ;; esac
done
printf '%s' "$prompt" >&2
IFS= read -r word
[ "$word" = "my secret" ] || { echo 'Sorry, try again.' >&2; exit 1; }
AS_ROOT=yes exec "$@"
"""


@pytest.fixture
def world() -> Iterator[World]:
    made = make_world("gateway")
    made.start_cloud()
    yield made
    made.close()


def test_a_pod_without_ports_is_worked_with(world: World) -> None:
    stage = Stage(world, "runpod")
    work = world.path / "work"
    (work / "set" / "deep").mkdir(parents=True)
    content = os.urandom(120_000)
    (work / "set" / "a.bin").write_bytes(content)
    (work / "set" / "deep" / "b.sh").write_text("#!/bin/sh\n")
    (work / "set" / "deep" / "b.sh").chmod(0o755)
    rent = stage.renting("gw")
    pod = rent["tasks"][1]
    pod["podcycle.gpu.pod"] |= {"ports": ["8888/http"], "waits": {"endpoint": 60, "sshd": 60}}
    pod["register"] = "rented"
    # Whoever registers the run's key in the account does it here.
    register = {
        "name": "Register the key",
        "ansible.builtin.uri": {
            "url": f"http://127.0.0.1:{world.port}/_control/account_keys", "method": "PUT", "body_format": "json",
            "body": {"keys": ["{{ opened.run.public_key }}"]},
        },
    }  # fmt: skip
    said = {"name": "Say how", "ansible.builtin.assert": {"that": ["rented.pods[0].ssh_via == 'gateway'", "rented.pods[0].endpoint.via == 'gateway'"]}}
    rent["tasks"][1:] = [register, pod, said, rent["tasks"][2]]
    there = "{{ pod_dir }}/workspace"
    push = {"direction": "push", "src": f"{work}/set", "dest": f"{there}/set"}
    become = {"become": True, "become_user": "daemon", "become_exe": f"{there}/sudo", "vars": {"ansible_become_password": "my secret"}}
    play = {
        "hosts": "state_running",
        **stage.defaults,
        "tasks": [
            {"name": "How", "ansible.builtin.assert": {"that": ["ansible_connection == 'podcycle.gpu.runpod_gateway'", "podcycle_ssh_via == 'gateway'"]}},
            {"name": "Ping", "ansible.builtin.ping": {}},
            {"name": "Command", "ansible.builtin.command": "printf grün", "register": "said", "failed_when": "said.stdout != 'grün'"},
            {"name": "Status", "ansible.builtin.raw": "exit 255", "register": "status", "failed_when": "status.rc != 255"},
            {"name": "Copy", "ansible.builtin.copy": {"src": f"{work}/set/a.bin", "dest": f"{there}/a.bin", "mode": "0600"}},
            {"name": "Fetch", "ansible.builtin.fetch": {"src": f"{there}/a.bin", "dest": f"{work}/back.bin", "flat": True}},
            {"name": "Reset", "ansible.builtin.meta": "reset_connection"},
            {"name": "Ours", "podcycle.gpu.stack_info": {}},
            {"name": "Push", "podcycle.gpu.transfer": push, "register": "pushed", "failed_when": "pushed is not changed"},
            {"name": "Push again", "podcycle.gpu.transfer": push, "register": "again", "failed_when": "again is changed"},
            {"name": "Pull", "podcycle.gpu.transfer": {"direction": "pull", "src": f"{there}/set", "dest": f"{work}/pulled"}},
            {
                "name": "Job",
                "podcycle.gpu.job": {"name": "j", "jobs_dir": f"{there}/jobs", "command": ["sleep", "1"], "state": "finished", "poll_seconds": 0.5},
                "register": "job",
                "failed_when": "job.job.state != 'succeeded'",
            },
            # A process pod's own sudo refuses.
            {"name": "Sudo", "ansible.builtin.copy": {"content": SUDO, "dest": f"{there}/sudo", "mode": "0755"}},
            {"name": "Become with a password", "ansible.builtin.command": "printenv AS_ROOT", **become, "register": "by", "failed_when": "by.stdout != 'yes'"},
            {"name": "Become must fail", "ansible.builtin.command": "true", **become, "vars": {"ansible_become_password": "wrong"}, "ignore_errors": True,
             "register": "refused"},
            {"name": "Refused, not unreachable", "ansible.builtin.assert": {"that": ["refused is failed", "refused is not unreachable"]}},
            {"name": "Time out and must fail", "ansible.builtin.command": "sleep 60", "timeout": 3, "ignore_errors": True, "register": "late"},
            {"name": "Not unreachable", "ansible.builtin.assert": {"that": ["late is failed", "late is not unreachable"]}},
            {"name": "Ping again", "ansible.builtin.ping": {}},
        ],
    }
    rows = stage.play([rent, play], world.path / "inventory", [])
    assert {"Ping", "Command", "Copy", "Fetch", "Ours", "Push", "Pull", "Job", "Ping again"} <= {row["task"] for row in rows}
    assert (work / "back.bin").read_bytes() == content == (work / "pulled" / "a.bin").read_bytes()
    script = world.workspace(world.live()[0]["id"]) / "set" / "deep" / "b.sh"
    assert script.stat().st_mode & 0o777 == 0o755 and (work / "pulled" / "deep" / "b.sh").stat().st_mode & 0o777 == 0o600
