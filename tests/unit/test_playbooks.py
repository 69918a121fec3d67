# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import datetime
import itertools
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils._receipts import machine_of, read_all, signed_parts
from ansible_collections.podcycle.gpu.plugins.module_utils._stack import drift_table
from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import with_inventory
from support.harness import FULL
from support.world import ROOT

# These write into start files of shells, service managers and package lists.
SYSTEM_ROLES = {"node", "cuda13", "cutlass", "cuda_watchdog"}


def plays_on_the_controller() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text(encoding="utf-8")):
            if play.get("hosts") == "localhost":
                yield path.name, play


def tasks_of(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part) or [])


def test_a_limit_of_time_for_a_transfer_reaches_the_program_that_copies() -> None:
    """The module's own limit is an hour; what the user allows must not end there."""
    limited = []
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text(encoding="utf-8")):
            for task in tasks_of(play.get("tasks") or []):
                given = task.get("podcycle.gpu.transfer") or task.get("podcycle.gpu.remote_files")
                if given and not given.get("probe"):
                    assert "transfer_timeout_seconds" in str(given.get("timeout")), f"{path.name}: {task['name']}"
                    limited.append(path.name)
    assert sorted({*limited}) == ["collect.yml", "push.yml", "stop.yml"]


def told_to_hosts(
    folder: Path, plays: list[dict[str, Any]], hosts: dict[str, dict[str, Any]], *words: str, given: dict[str, Any] | None = None
) -> dict[str, str]:
    """What one ansible-playbook says of each of these hosts, all of which are this machine, with the host's line of the recap."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.json").write_text(json.dumps({"all": {"vars": local, "hosts": hosts}}), encoding="utf-8")
    (folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, **play} for play in plays]), encoding="utf-8")
    program = str(Path(sys.executable).parent / "ansible-playbook")
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(folder), "ANSIBLE_REMOTE_TEMP": str(folder), "LC_ALL": "C.UTF-8"}
    command = [program, "-i", str(folder / "hosts.json"), str(folder / "play.yml"), "-e", json.dumps(given or {}), *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    said = dict.fromkeys(hosts, "")
    for line in re.split(r"^(?=\w+: \[|TASK |PLAY )", done.stdout, flags=re.MULTILINE):
        if found := re.match(r"\w+: \[([\w.-]+)\]", line):
            said[found[1]] += line
    for name, line in re.findall(r"^(\S+) +: (ok=.*)$", done.stdout, re.MULTILINE):
        said[name] += line
    assert "" not in said.values(), done.stdout + done.stderr
    return {name: " ".join(text.split()) for name, text in said.items()}


def pod(index: int, state: str) -> dict[str, Any]:
    return {"run_id": "r1", "index": index, "job": {"name": "train", "state": state}}


WATCHES: list[tuple[dict[str, Any], str]] = [
    ({"pods": [pod(0, "succeeded")], "ended": True}, ""),
    ({"pods": [pod(0, "succeeded"), pod(1, "failed"), pod(2, "lost")], "ended": True}, "the job train of r1-1: failed, the job train of r1-2: lost; see"),
    ({"pods": [pod(0, "running")]}, "watched run r1 for max_watch_seconds=9 and its jobs have not ended"),
    ({"pods": []}, "watch run r1: it has no pod, so there is nothing to watch; see what is rented:"),
    ({"pods": [], "seen": True}, "run r1 has no pod any more, and the end of its jobs was not seen; see how it went:"),
    ({"pods": [pod(0, "running")], "stalled": ["r1-0"]}, "r1-0 showed no sign of life for 900 s; done about it: nothing; stop: not done: because"),
]


def test_a_watch_says_how_it_ended(tmp_path: Path) -> None:
    """It ends well only when every job has succeeded."""
    judge = yaml.safe_load((ROOT / "playbooks/watch.yml").read_text(encoding="utf-8"))[-1]
    hosts = {}
    for number, (seen, _words) in enumerate(WATCHES):
        seen = {"ended": False, "stalled": [], "seen": False, "typed": "ansible-playbook playbooks/", **seen}
        hosts[f"case{number}"] = {"watch_seen": seen, "watch_stalled": seen["stalled"]}
    known = {"watch_plan": [], "watch_undone": "; stop: not done: because", "run_id": "r1", "max_watch_seconds": 9}
    told = told_to_hosts(tmp_path, [{**judge, "hosts": "all"}], hosts, given=known)
    for text, (seen, words) in zip(told.values(), WATCHES, strict=True):
        assert words in text and text.count("fatal: ") == bool(words) and f"failed={int(bool(words))} " in text, (seen, text)


# Questions, and what only passes the word on.
UNCHANGING = {"ansible.builtin.set_fact", "ansible.builtin.include_tasks", "ansible.builtin.fail", "ansible.builtin.assert", "ansible.builtin.debug"}


def test_every_task_that_can_change_a_machine_is_counted() -> None:
    """The summary reads what was registered under a role's prefix; a digest of inputs may not see it."""
    for role in ("node", "cuda13", "cutlass", "pytorch", "cuda_watchdog", "chess_training"):
        inputs = re.search(r"varnames', '(\^[^']+)'", (ROOT / f"roles/{role}/vars/main.yml").read_text(encoding="utf-8"))
        assert inputs is not None, role
        names = []
        for path in sorted((ROOT / f"roles/{role}/tasks").glob("*.yml")):
            for task in tasks_of(yaml.safe_load(path.read_text(encoding="utf-8"))):
                if not {"block", *UNCHANGING} & set(task):
                    names.append(task.get("register", ""))
                    assert names[-1].lstrip("_").startswith(f"{role}_"), f"{path}: {task['name']}"
                    assert not re.match(inputs.group(1), names[-1]), f"{path}: {task['name']}"
        assert len(names) == len(set(names)), role


@pytest.mark.parametrize(
    ("registered", "told"),
    [
        ({"node_found": {"changed": False}, "__node_result_files": {"changed": False}}, []),
        ({"__node_result_files": {"changed": True}, "__pytorch_result_shell": {"changed": True}, "pytorch_result": {"changed": True}}, ["node", "pytorch"]),
        ({"bootstrap_look": {"changed": True}, "pod_setup_hook": {"changed": True}, "pod_setup_copy": {"skipped": True}}, ["python", "pod_setup"]),
    ],
)
def test_the_summary_tells_all_that_has_changed(registered: dict[str, Any], told: list[str]) -> None:
    play = yaml.safe_load((ROOT / "playbooks/bootstrap.yml").read_text(encoding="utf-8"))[1]
    pattern = re.search(r"'(\^[^']+)'", play["vars"]["bootstrap_results"])
    assert pattern is not None
    environment = jinja2.Environment(autoescape=False)
    environment.filters["to_json"] = json.dumps
    template = environment.from_string((ROOT / "playbooks/templates/changed.j2").read_text(encoding="utf-8"))
    known = {"bootstrap_look": {"changed": False}, **registered}
    results = [name for name in known if re.match(pattern.group(1), name)]
    assert json.loads(template.render(**known, bootstrap_results=results, lookup=lambda _plugin, name: known[name])) == told


@pytest.mark.parametrize(("check", "phases"), [(False, ["phase node 2.0 s", "phase pod_setup 10.0 s"]), (True, [])])
def test_a_check_has_no_phases_to_tell(check: bool, phases: list[str]) -> None:
    """Its roles note no times, so that those of all would count as the script's."""
    template = jinja2.Environment(autoescape=False).from_string((ROOT / "playbooks/templates/summary.j2").read_text(encoding="utf-8"))
    parts = {"nvcc": "none", "cutlass.version": "none", "torch": "none"}
    about = {"os": {"name": "Debian 12"}, "arch": "x86_64", "driver": {"version": ""}, "gpus": [], "parts": parts, "init": "", "fingerprint": "f"}
    known = {
        "stack_before": {"stack": about}, "stack_began": "100", "bootstrap_began": "90", "bootstrap_changed": [], "ansible_check_mode": check,
        "node_done": "102", "pod_setup_done": "112",
    }  # fmt: skip
    now = datetime.datetime.fromtimestamp(115, datetime.timezone.utc)
    lines = template.render(**known, lookup=lambda _plugin, name, default="": known.get(name, default), now=lambda utc: now).splitlines()
    assert [line for line in lines if line.startswith("phase")] == phases and "took 25.0 s" in lines


MISTYPED: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"stack": "cpu", "stack_scope": "user", "stack_roles": ["node", "pod_setup"]}, ""),
    ({"stack": "CPU"}, "none of full and cpu"),
    ({"stack_scope": "users"}, "none of auto, system and user"),
    ({"stack_roles": "cuda13"}, "no list out of node, cuda13"),
    ({"stack_roles": ["node", "cuda"]}, "no list out of node, cuda13"),
    ({"stack_roles": []}, "stack_roles is [], which is no list out of node, cuda13"),
    ({"workspace": "relative"}, 'workspace is "relative", which is no absolute path below /'),
    ({"workspace": "/"}, "no absolute path below /"),
    ({"workspace": "/my pod/w", "usd_per_hour": 2.5}, ""),
    ({"workspace": "/../w", "usd_per_hour": 0.00005}, "no absolute path below /"),
    ({"workspace": "//w/.x", "usd_per_hour": 0.00005}, ""),
    ({"usd_per_hour": "abc"}, 'usd_per_hour is "abc", which is no price in dollars: type -e usd_per_hour=2.69'),
    ({"podcycle_usd_per_hour": "-1"}, 'podcycle_usd_per_hour is "-1", which is no price'),
]


def test_what_is_mistyped_is_refused_first(tmp_path: Path) -> None:
    """By the checks of tasks/look.yml, which come before anything is asked of the machine."""
    checks = list(itertools.takewhile(lambda task: "ansible.builtin.fail" in task, yaml.safe_load((ROOT / "playbooks/tasks/look.yml").read_text("utf-8"))))
    hosts = {f"case{number}": variables for number, (variables, _told) in enumerate(MISTYPED)}
    said = told_to_hosts(tmp_path, [{"tasks": [*checks, {"ansible.builtin.debug": {"msg": "goes on"}}]}], hosts)
    for text, (variables, told) in zip(said.values(), MISTYPED, strict=True):
        assert (told or "goes on") in text and ("fatal: " in text) == bool(told) == ("goes on" not in text), (variables, text)


PERSON = {"name": "me", "uid": 1000, "home": "/home/me", "made": False, "groups": ["podcycle"], "locked": False, "password": True}
OURS = {**PERSON, "made": True, "password": False}


ACCOUNTS: list[tuple[dict[str, Any] | None, Any, str]] = [
    (PERSON, 8, "right=True ours=False"),
    ({**PERSON, "locked": True, "password": False}, 8, "right=True ours=False"),
    ({**PERSON, "groups": []}, 8, "right=False ours=False"),
    (OURS, 8, "right=True ours=True"),
    ({**OURS, "locked": True}, "8", "right=False ours=True"),
    (None, 8, "right=False ours=True"),
    ({**PERSON, "uid": 0}, 8, "has the user id 0 there; it is to be an account that is not root"),
    (PERSON, -4, "node_omp_threads is -4, which is no whole number from 1 on"),
    (PERSON, "many", 'node_omp_threads is "many", which is no whole number'),
]


def test_a_persons_account_is_left_alone_and_root_is_refused(tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROOT / "roles/node/tasks/bring.yml").read_text(encoding="utf-8"))
    user = next(task["ansible.builtin.user"] for task in tasks if "ansible.builtin.user" in task)
    refusals = [task for task in tasks if "ansible.builtin.fail" in task]
    told_of = "right={{ __node_runner_right }} ours={{ __node_runner_ours }} {{ password }}"
    say = {"ansible.builtin.debug": {"msg": told_of}, "vars": {"password": user["update_password"]}}
    hosts: dict[str, dict[str, Any]] = {}
    for number, (account, threads, _told) in enumerate(ACCOUNTS):
        found = {"node": {"root": True, "cpus": 4, "infiniband": True, "home": "/root", "account": account, "group": {"gid": 9}, "programs": []}}
        # Above the defaults of the role, which the play brings as a file of its own.
        hosts[f"case{number}"] = {"case": {"node_found": found, "node_omp_threads": threads}}
    files = [str(ROOT / "roles/node" / part / "main.yml") for part in ("defaults", "vars")]
    set_them = {"ansible.builtin.set_fact": {name: f"{{{{ case.{name} }}}}" for name in ("node_found", "node_omp_threads")}}
    said = told_to_hosts(tmp_path, [{"vars_files": files, "tasks": [set_them, *refusals, say]}], hosts, given={"node_runner": "me"})
    for text, (account, threads, told) in zip(said.values(), ACCOUNTS, strict=True):
        assert told in text.replace('\\"', '"'), (account, threads, text)
        assert "ours" not in told or ("always" if "ours=True" in told else "on_create") in text, (account, threads, text)


def test_a_repository_of_tailscale_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROOT / "roles/node/tasks/tailscale.yml").read_text(encoding="utf-8"))
    fetch = next(task for task in tasks if "block" in task)
    fetch["block"][0]["ansible.builtin.get_url"]["dest"] = str(tmp_path / "key")
    machine = {"os": {"id": "debian", "codename": "bookworm"}, "tailscale": {"path": None}}
    given = {"__node_machine": machine, "node_tailscale_repository": "http://127.0.0.1:9/stable", "ansible_python_interpreter": sys.executable}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given, "tasks": [fetch]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml")]
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_REMOTE_TEMP": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode == 2 and not (tmp_path / "key").exists(), done.stdout + done.stderr
    assert "fetch the key of Tailscale's packages from http://127.0.0.1:9/stable/debian/bookworm.noarmor.gpg: Request failed" in said, said
    assert "Connection refused" in said and "type -e node_tailscale_repository=URL" in said


@pytest.mark.parametrize("scope", ["auto", "system"])
def test_a_user_with_sudo_gets_the_machines_workspace(tmp_path: Path, scope: str) -> None:
    environment = jinja2.Environment(autoescape=False)
    environment.filters["quote"] = shlex.quote
    source = (ROOT / "playbooks/templates/look.sh.j2").read_text(encoding="utf-8")
    script = environment.from_string(source).render(ansible_check_mode=True, stack_scope=scope)
    for name, does in (("sudo", "exit 0"), ("id", "echo 1000")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    said = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    assert "workspace=/workspace\n" in said


@pytest.mark.parametrize(
    ("words", "sudo", "least"),
    [((), False, 0), (("-b",), False, 2), ((), True, 1), (("-e", "stack_scope=user"), True, 0)],
)
def test_rights_are_those_of_the_command_line_or_of_sudo(tmp_path: Path, words: tuple[str, ...], sudo: bool, least: int) -> None:
    """A program that stands for sudo and counts how often Ansible takes it, on a machine whose user may or may not have sudo."""
    taken_once = f'echo >> {tmp_path}/taken; export SUDO_COMMAND="$*"; while [ "$1" != /bin/sh ]; do shift; done; exec "$@"'
    for name, does in (("sudo", f"exit {int(not sudo)}"), ("id", "echo 1000"), ("become", taken_once)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", "playbooks/drift.yml", *words]
    command += ["-e", f"ansible_become_exe={tmp_path}/become", "-e", f"workspace={tmp_path}"]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_BECOME_ALLOW_SAME_USER": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    taken = (tmp_path / "taken").read_text(encoding="utf-8").count("\n") if (tmp_path / "taken").exists() else 0
    assert taken == least and "nothing was signed for there yet" in " ".join(done.stdout.split()), done.stdout + done.stderr


@pytest.mark.parametrize(("options", "installs"), [({}, False), ({"find_installs": True}, True), ({"find_installs": True, "ansible_check_mode": True}, False)])
def test_only_a_converge_that_is_none_in_check_mode_installs_python(tmp_path: Path, options: dict[str, Any], installs: bool) -> None:
    environment = jinja2.Environment(autoescape=False)
    environment.filters["quote"] = shlex.quote
    source = (ROOT / "playbooks/templates/look.sh.j2").read_text(encoding="utf-8")
    script = environment.from_string(re.sub("for found in .*; do", "for found in /nonesuch; do", source)).render({"ansible_check_mode": False, **options})
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\n", encoding="utf-8")
    (tmp_path / "apt-get").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    said = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    assert "\npython=\n" in said and (tmp_path / "called").exists() is installs


def test_a_login_that_tailscale_refuses_says_why_without_the_key(tmp_path: Path) -> None:
    join = yaml.safe_load((ROOT / "roles/node/tasks/tailscale.yml").read_text(encoding="utf-8"))[-1]
    program = tmp_path / "tailscale"
    program.write_text('#!/bin/sh\necho "backend error: invalid key: $(cat) is not valid" >&2; exit 1\n', encoding="utf-8")
    program.chmod(0o755)
    given = {"node_tailscale_auth_key": "tskey-auth-SECRET", "ansible_python_interpreter": sys.executable}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given, "tasks": [join]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-vvv", "-i", "localhost,", str(tmp_path / "play.yml")]
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_REMOTE_TEMP": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env={**env, "PATH": f"{tmp_path}:{env['PATH']}"}, capture_output=True, text=True, check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode == 2 and "tailscale up ended with 1: backend error: invalid key: ... is not valid; see that the auth key" in said, said
    assert "SECRET" not in done.stdout + done.stderr


def told_by(folder: Path, tasks: list[dict[str, Any]], given: dict[str, Any], *words: str, form: str = "yaml") -> str:
    """What ansible-playbook says of these tasks on this machine."""
    known = {"ansible_python_interpreter": sys.executable, **given}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": known, "tasks": tasks}
    (folder / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(folder / "play.yml"), *words]
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(folder), "ANSIBLE_REMOTE_TEMP": str(folder), "ANSIBLE_CALLBACK_RESULT_FORMAT": form, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown_in(book: str) -> list[dict[str, Any]]:
    """The tasks of a playbook that show lines; the play that has them knows how."""
    plays = yaml.safe_load((ROOT / "playbooks" / book).read_text(encoding="utf-8"))
    found = [(task, play) for play in plays for task in play.get("tasks", []) if "lines" in str(task.get("ansible.builtin.debug"))]
    assert found and all(play["vars_files"] == ["vars/shown.yml"] for _task, play in found)
    return [task for task, _play in found]


SHOWN = yaml.safe_load((ROOT / "playbooks/vars/shown.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_the_table_of_drift_stays_a_table(tmp_path: Path, form: str) -> None:
    found = f"files below /workspace/venv were changed: look at /workspace/venv/lib/python3.12/site-packages/{'a' * 80}.py"
    rows = [{"part": "chess_training", "expected": "as it was signed for", "found": found}, {"part": "torch", "expected": "2.13.0", "found": "none"}]
    table = drift_table(rows)
    said = told_by(tmp_path, shown_in("drift.yml"), {**SHOWN, "drift_found": {"drifted": True, "table": table}}, form=form)
    lines = [line.strip().strip('",') for line in said.splitlines()]
    assert [line for line in lines if line.startswith(("part ", "chess_training ", "torch "))] == table.splitlines()


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_is_shown_can_be_typed_as_it_stands(tmp_path: Path, form: str) -> None:
    books = {"status": "status_seen", "logs": "logs_read", "doctor": "doctor_found", "regression": "regression_doctor", "watch": "watch_seen"}
    tasks = [task for book in books for task in shown_in(f"{book}.yml")]
    given = {name: {"lines": [f"{book}:", f"  ssh -N {'-o Word=1 ' * 20}{book}@host"]} for book, name in books.items()}
    tasks += shown_in("verify_run.yml")
    given |= {"verify_found": {"lines": [given["status_seen"]["lines"][1]], "rehearsal": False}}
    lines = [line.strip(' ",') for line in told_by(tmp_path, tasks, {**SHOWN, **given}, form=form).splitlines()]
    names = [*books, "status"]
    assert [line for line in lines if line.startswith("ssh -N")] == [f"ssh -N {'-o Word=1 ' * 20}{name}@host" for name in names]
    assert all(shown_in(book) for book in ("templates.yml", "offers.yml", "quick_launch.yml"))


@pytest.mark.one_end
def test_a_converge_brings_back_what_calls_the_script_and_signs_for_it(tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROOT / "playbooks/bootstrap.yml").read_text(encoding="utf-8"))[1]
    wanted = [task for task in tasks["tasks"] if task["name"].startswith(("Remember at login", "Sign for the script"))]
    assert len(wanted) == 2
    sign = yaml.safe_load((ROOT / "playbooks/tasks/sign.yml").read_text(encoding="utf-8"))
    machine = {"home": str(tmp_path), "uid": os.getuid(), "mark_file": str(tmp_path / "mark"), "mark": "p1", "hooks": "2"}
    script = {"payload": "p1", "script": "#!/bin/sh\n", "hook": {"marker": "o", "text": "true\n"}}
    receipts = tmp_path / "w/.podcycle/receipts"
    given = {"workspace": str(tmp_path / "w"), "bootstrap_machine": machine, "pod_setup_script": script, "bootstrap_stands": tasks["vars"]["bootstrap_stands"]}
    files = [tmp_path / name for name in ("w/pod_setup.sh", ".bashrc", ".profile", "mark")]
    (tmp_path / "w").mkdir()
    for lost in (None, *files):
        if lost:
            lost.unlink()
        judged = read_all(tmp_path / "w", machine_of(signed_parts(tmp_path / "w")))
        assert [one["faults"] for one in judged.values()] == ([[f"{'the block o in ' if lost.name[0] == '.' else ''}{lost} is missing"]] if lost else [])
        told = told_by(tmp_path, [*wanted, *sign], {**given, "stack_receipts": judged})
        assert "changed=1 " in told and all(path.exists() for path in files), told
    digest = json.loads((receipts / "pod_setup.json").read_text(encoding="utf-8"))["digest"]
    judged = read_all(tmp_path / "w", machine_of(signed_parts(tmp_path / "w")))
    assert digest == "p1" and "ok=0 " in told_by(tmp_path, wanted, {**given, "stack_receipts": judged})


def test_a_cycle_signs_for_the_script_that_heals_when_it_has_to(tmp_path: Path) -> None:
    pods = yaml.safe_load((ROOT / "playbooks/converge.yml").read_text(encoding="utf-8"))[1]
    (task,) = [task for task in tasks_of(pods["tasks"]) if task["name"] == "Sign for the script that heals"]
    cases: list[tuple[tuple[bool, str] | None, int]] = [(None, 1), ((True, "p1"), 0), ((False, "p1"), 1), ((True, "p0"), 1)]
    hosts: dict[str, dict[str, Any]] = {}
    for number, (judged, _signs) in enumerate(cases):
        receipts = {"pod_setup": {"stands": judged[0], "digest": judged[1]}} if judged else {}
        for name, script in (("with", {"payload": "p1"}), ("without", {"skipped": True})):
            hosts[f"{name}{number}"] = {"pod_setup_script": script, "stack_receipts": receipts}
    said = told_to_hosts(tmp_path, [{"tasks": [task]}], hosts)
    for number, (judged, signs) in enumerate(cases):
        assert f"ok={signs} " in said[f"with{number}"] and "ok=0 " in said[f"without{number}"], (judged, said)


@pytest.mark.parametrize(
    ("complete", "told"),
    [(True, "r1 is complete and has no pod any more; use another run_id, or"), (False, "rent one first: a start.yml -e run_id=r1, or")],
)
def test_a_stage_without_a_pod_says_what_can_be_done(complete: bool, told: str, tmp_path: Path) -> None:
    refuse = yaml.safe_load((ROOT / "playbooks/tasks/join.yml").read_text(encoding="utf-8"))[-1]
    given = {"cycle_run": {"id": "r1", "typed": "a ", "complete": complete}}
    said = told_by(tmp_path, [{"ansible.builtin.debug": refuse["ansible.builtin.fail"]}], given, form="json")
    assert told in said


@pytest.mark.one_end
def test_a_folder_that_shuts_accounts_out_is_opened_again(tmp_path: Path) -> None:
    plays, hosts = [], {}
    for role in ("pytorch", "cuda13", "cutlass"):
        tree = str(tmp_path / role)
        (tmp_path / role / "bin").mkdir(parents=True)
        (tmp_path / role / "bin/program").touch(0o700)
        tasks = yaml.safe_load((ROOT / f"roles/{role}/tasks/bring.yml").read_text(encoding="utf-8"))
        plays.append({"hosts": role, "tasks": [task for task in tasks if "shut out" in task["name"]]})
        hosts[role] = {"pytorch_venv": tree, "cuda13_result": {"cuda_toolkit": {"path": tree}}, "cutlass_result": {"cutlass": {"path": tree}}}
    for words, changed, after in (((), 0, 0o755), (("--check",), 1, 0o700), ((), 1, 0o755), ((), 0, 0o755)):
        for role in hosts if words else ():
            (tmp_path / role / "bin").chmod(0o700)
        for role, said in told_to_hosts(tmp_path, plays, hosts, *words).items():
            assert f"ok=1 changed={changed} " in said, (role, words, said)
            tree = tmp_path / role
            assert stat.S_IMODE((tree / "bin").stat().st_mode) == after and stat.S_IMODE((tree / "bin/program").stat().st_mode) == 0o700, role
    for role in hosts:
        shutil.rmtree(tmp_path / role)
    assert all("changed=0 " in said and "failed=0 " in said for said in told_to_hosts(tmp_path, plays, hosts, "--check").values())


def test_an_account_that_was_locked_is_unlocked(tmp_path: Path) -> None:
    """For Ansible's module a password with a lock before it is the same password."""
    tasks = yaml.safe_load((ROOT / "roles/node/tasks/bring.yml").read_text(encoding="utf-8"))
    (user,) = [task["ansible.builtin.user"] for task in tasks if "ansible.builtin.user" in task]
    show = {"ansible.builtin.debug": {"msg": "lock {{ lock }}"}, "vars": {"lock": user["password_lock"]}}
    assert "lock False" in told_by(tmp_path, [show], {"__node_runner_ours": True})


def test_the_trainer_says_in_a_diff_what_it_does(tmp_path: Path) -> None:
    """Its task is a command, which has no diff of its own."""
    role = tmp_path / "roles" / "chess_training"
    role.parent.mkdir()
    role.symlink_to(ROOT / "roles/chess_training")
    (tmp_path / "venv/lib/python3.12/site-packages").mkdir(parents=True)
    given = {
        "ansible_python_interpreter": sys.executable,
        "chess_training_src_dir": str(tmp_path / "src"),
        "chess_training_venv": str(tmp_path / "venv"),
        "chess_training_uv": "/bin/true",
    }
    tasks = [{"ansible.builtin.include_role": {"name": "chess_training"}}]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": given, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml"), "--check"]
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_REMOTE_TEMP": str(tmp_path), "LC_ALL": "C.UTF-8"}
    for words, told in ((["--diff"], True), ([], False)):
        done = subprocess.run([*command, *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        files = len(list((ROOT / "roles/chess_training/files/chess_trainer").glob("*.py"))) + 2
        sentence = f"would write {files} and remove 0 files for {tmp_path}/src/chess_trainer and install numpy"
        assert (sentence in done.stdout) is told, done.stdout
    assert not (tmp_path / "src").exists()


@pytest.mark.parametrize(
    ("environment", "given", "least"),
    [({"RUNPOD_MIN_MEMORY_GB": "40"}, {}, 40), ({}, {"min_vram_gib": 48}, 48), ({}, {}, 24), ({}, {"gpu": "L40S"}, 0), ({}, {"quick_min_vram_gib": 16}, 16)],
)
def test_a_quick_launch_asks_for_the_memory_that_was_named(tmp_path: Path, environment: dict[str, str], given: dict[str, Any], least: int) -> None:
    start = yaml.safe_load((ROOT / "playbooks/start.yml").read_text(encoding="utf-8"))
    wish = next(task["podcycle.gpu.pod"] for play in start for task in tasks_of(play["tasks"]) if "podcycle.gpu.pod" in task)
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": f"asks for {wish['min_vram_gib']}."}}]}
    (tmp_path / "start.yml").write_text(json.dumps([play]), encoding="utf-8")
    launch = yaml.safe_load((ROOT / "playbooks/quick_launch.yml").read_text(encoding="utf-8"))[:1]
    (tmp_path / "quick.yml").write_text(json.dumps(launch), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "quick.yml"), "-e", json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60)
    assert f"asks for {least}." in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("key", "read"), [("ok", True), ("fail", False)])
def test_the_regression_reads_the_account_with_whatever_key_the_doctor_found(tmp_path: Path, key: str, read: bool) -> None:
    """The keyring and .env.runpod count too."""
    play = yaml.safe_load((ROOT / "playbooks/regression.yml").read_text(encoding="utf-8"))[0]
    live, judge = (task for task in play["tasks"] if task["name"] in ("Read the live account", "Judge"))
    checks = [{"name": "key", "status": key}, {"name": "API", "status": "ok"}]
    tasks = [{"ansible.builtin.debug": {"msg": "reads"}, "when": live["when"]}, judge]
    variables = {**play["vars"], "regression_doctor": {"checks": checks}, "cloud_api_key": "" if read else "k" * 20}
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}]), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml")]
    done = subprocess.run(command, env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)
    assert ("reads" in done.stdout) is read and done.returncode == 0, done.stdout + done.stderr


def test_a_remedy_names_the_inventory_that_was_typed() -> None:
    """The default inventory is the rehearsal: without a name the remedy would look there."""
    told = {"msg": "pod x is there; ansible-playbook playbooks/reap.yml", "checks": [{"remedy": "ansible-playbook playbooks/stop.yml -e run_id=r1"}], "n": 1}
    assert with_inventory(told, {"inventory": ["inventories/runpod"]}) == {
        "msg": "pod x is there; ansible-playbook -i inventories/runpod playbooks/reap.yml",
        "checks": [{"remedy": "ansible-playbook -i inventories/runpod playbooks/stop.yml -e run_id=r1"}],
        "n": 1,
    }
    assert with_inventory(told, {}) == told
    installed = with_inventory(told, {"inventory": ["mine"], "args": ("podcycle.gpu.cycle",)})
    assert installed["msg"] == "pod x is there; ansible-playbook -i mine podcycle.gpu.reap.yml"


def test_modules_of_a_cloud_name_the_inventory_too(tmp_path: Path) -> None:
    """A module does not know what was typed: each that talks of our playbooks runs through an action plugin."""
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    own = {path.stem for path in (ROOT / "plugins/action").glob("*.py")}
    routed = {name for name, to in runtime["plugin_routing"]["modules"].items() if to == {"action_plugin": "podcycle.gpu.lease"}}
    assert set(runtime["action_groups"]["runpod"]) - own == routed
    (tmp_path / "typed").write_text("[some]\n", encoding="utf-8")
    task = {"podcycle.gpu.offer_info": {"offline": True, "min_vram_gib": 4000, "state_dir": str(tmp_path / "state")}}
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "typed"), str(tmp_path / "play.yml")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)
    assert f"see ansible-playbook -i {tmp_path}/typed playbooks/offers.yml" in " ".join(done.stdout.split()), done.stdout + done.stderr


def test_a_data_set_is_published_only_when_that_is_confirmed(tmp_path: Path) -> None:
    """A program that stands for the trainer's Python: it answers as the trainer does, and notes what it was told."""
    log, data, program = tmp_path / "asked", tmp_path / "data", tmp_path / "python"
    program.write_text(
        "#!/usr/bin/python3\nimport json, os, pathlib, sys\nwords = sys.argv[4:]\n"
        f"log, data = pathlib.Path({str(log)!r}), pathlib.Path({str(data)!r})\n"
        "log.write_text((log.read_text() if log.exists() else '') + json.dumps(words) + '\\n')\n"
        "made = {'fetch': 'train.jsonl', 'build': 'train.jsonl', 'seal': 'manifest.json'}.get(words[0])\n"
        "assert sys.argv[1:4] == ['-m', 'chess_trainer', 'dataset'] and os.environ['PYTHONPATH'].endswith('/roles/chess_training/files')\n"
        "if made:\n    data.mkdir(exist_ok=True)\n    (data / made).write_text('x')\n"
        "elif '--repo=me/open' in words and '--public' not in words:\n    sys.exit('publish: is public; add --public if they may')\n"
        "elif '--yes' not in words:\n    sys.exit('publish: would upload train.jsonl; add --yes to do it')\n"
        "else:\n    print(json.dumps({'commit': 'c0ffee', 'changed': not words[1].endswith('same')}))\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    (tmp_path / "hosts").write_text("[some]\n", encoding="utf-8")

    def play(*words: str, home: str = os.environ["HOME"], **variables: Any) -> tuple[int, str, list[list[str]]]:
        log.unlink(missing_ok=True)
        given = json.dumps({"dataset_python": str(program), "dataset_dir": str(data), **variables})
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts"), "playbooks/dataset.yml", "-e", given, *words]
        environment = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "HOME": home}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
        asked = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        return done.returncode, " ".join(done.stdout.split()), asked

    code, said, asked = play(dataset_fetch="me/games", dataset_book=True)
    assert code and "a folder is fetched or built, not both" in said and not asked
    code, said, asked = play("--check", dataset_fetch="me/games", dataset_publish="me/games", confirm="YES")
    assert (code, asked) == (0, []) and "changed=1 " in said and f"would fetch me/games into {data}, seal it, publish {data} to me/games" in said
    fetch = ["fetch", "--repo=me/games", f"--out={data}", "--revision=main", "--prefix=sets/a"]
    publish = ["publish", str(data), "--repo=me/games", "--revision=main", "--prefix=sets/a"]
    code, said, asked = play(dataset_fetch="me/games", dataset_publish="me/games", dataset_prefix="sets/a")
    assert (code, asked) == (0, [fetch, ["seal", str(data)], publish]) and "changed=1" in said
    assert "would upload train.jsonl; confirm it, type the same again with -e confirm=YES" in said
    code, said, asked = play(dataset_moves=["./a.txt", "/b.txt"], dataset_build_options=["--games=9"], dataset_publish="me/open", confirm="YES")
    assert asked[0] == ["build", f"--out={data}", "--games=9", "--moves", str(ROOT / "a.txt"), "/b.txt"] and "--yes" in asked[-1]
    assert code and "is public; add --public if they may" in said
    code, said, asked = play(dataset_publish="me/open", dataset_public=True, confirm="YES")
    assert code == 0 and asked[-1][-2:] == ["--public", "--yes"] and "published to me/open as commit c0ffee" in said and "changed=1" in said
    (tmp_path / "home/same").mkdir(parents=True)
    code, said, asked = play(dataset_publish="me/games", dataset_dir="~/same", confirm="YES", home=str(tmp_path / "home"))
    assert asked[0] == ["seal", str(tmp_path / "home/same")] and "the same already in me/games as commit c0ffee" in said and "changed=0 " in said


@pytest.mark.parametrize(
    ("given", "brought"),
    [
        ({}, False),
        ({"services_found": {}, "services_ports": []}, False),
        ({"services_jupyter_port": 8899}, True),
        ({"pod_env": {"RESTART_JUPYTER": "1", "AUTHORIZED_KEYS_URL": "x"}}, False),
        ({"pod_env": {"START_JUPYTER": "1"}}, True),
        ({"pod_env": {"AUTHORIZED_KEYS": "ssh-ed25519 AAAA me"}}, True),
        ({"pod_secret_env": {"REPO_URL": "https://me:secret@example.org/x.git"}}, True),
        ({"services": False, "pod_env": {"START_JUPYTER": "1"}}, False),
    ],
)
def test_a_cycle_brings_services_where_one_is_asked_for(given: dict[str, Any], brought: bool, tmp_path: Path) -> None:
    block = next(task for task in yaml.safe_load((ROOT / "playbooks/converge.yml").read_text(encoding="utf-8"))[1]["tasks"] if "block" in task)["block"]
    wanted = next(task["when"] for task in block if task["name"] == "Converge the services")
    said = told_by(tmp_path, [{"name": "Bring them", "ansible.builtin.debug": {"msg": "brought"}, "when": wanted}], given)
    assert ("msg: brought" in said) == brought


def test_the_controllers_own_shells_and_services_are_left_alone() -> None:
    """The controller may be somebody's laptop: no play on it may converge more than a private environment for validation."""
    seen = 0
    for name, play in plays_on_the_controller():
        for task in tasks_of(play.get("tasks") or []):
            role = str((task.get("ansible.builtin.include_role") or {}).get("name", "")).rpartition(".")[2]
            assert role not in SYSTEM_ROLES, f"{name}: {task['name']}"
            if role == "pytorch":
                seen += 1
                assert task["vars"]["pytorch_environment"] is False, f"{name}: {task['name']}"
    assert seen >= 2


def test_editor_files_are_written_on_the_controller_whatever_the_inventory_says(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        "localhost,pod1,",
        str(ROOT / "playbooks/ide.yml"),
        "-e",
        f"ide_dir={tmp_path / 'ide'}",
    ]
    (tmp_path / "ide").mkdir()
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "unreachable=0" in done.stdout, done.stdout + done.stderr
    assert "pod1" in (tmp_path / "ide/.cursor/ssh_config").read_text(encoding="utf-8")


KEY = "{dir}/a key"
# What the inventory says of a host, and how ssh is called with it on a command line, as Ansible does.
SSH_WORDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "bare": ({}, []),
    "proxy": (
        {"ansible_ssh_common_args": "-o ProxyCommand='ssh -W %h:%p -q \"me\"@bastion' -oStrictHostKeyChecking=yes -o 'ServerAliveInterval 15'"},
        ["-o", 'ProxyCommand=ssh -W %h:%p -q "me"@bastion', "-oStrictHostKeyChecking=yes", "-o", "ServerAliveInterval 15"],
    ),
    "jump": (
        {"ansible_ssh_common_args": "-J me@b1,b2:2022 -l you", "ansible_ssh_extra_args": "-4Cvi '{dir}/a key' -p2222 -o Port=9", "ansible_user": "root"},
        ["-l", "root", "-J", "me@b1,b2:2022", "-4Cvi", KEY, "-p2222"],
    ),
    "first": (
        {"ansible_ssh_args": "-p 22022", "ansible_port": 2200, "ansible_ssh_private_key_file": KEY, "ansible_ssh_common_args": "-W x:1 -l you -o proxyjump=b1"},
        ["-p", "22022", "-i", KEY, "-o", "IdentitiesOnly=yes", "-l", "you", "-J", "b1"],
    ),
    "variable": ({"ansible_ssh_common_args": "-i ${HOME}/k -o Port= -o Compression=yes"}, ["-o", "IdentityFile=${HOME}/k", "-C"]),
    "file": ({"ansible_ssh_common_args": "-F {dir}/conf"}, ["-F", "{dir}/conf"]),
}
SSH_SAYS = ("hostname", "port", "user", "proxyjump", "proxycommand", "identityfile", "identitiesonly", "serveraliveinterval", "stricthostkeychecking",
            "compression", "addressfamily")  # fmt: skip


def said_by_ssh(*words: str) -> list[str]:
    done = subprocess.run(["ssh", "-G", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.partition(" ")[0] in SSH_SAYS]


def test_editors_reach_every_host_as_ansible_does(tmp_path: Path) -> None:
    (tmp_path / "a key").touch()
    (tmp_path / "conf").write_text("Host *\n  ServerAliveInterval 77\n", encoding="utf-8")
    (tmp_path / "ide").mkdir()
    words = json.loads(json.dumps(SSH_WORDS).replace("{dir}", str(tmp_path)))
    hosts = {name: {"ansible_host": "192.0.2.1", "workspace": f"/work space/{name}", **given} for name, (given, _words) in words.items()}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"localhost": {}, **hosts}}}), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts.json"), str(ROOT / "playbooks/ide.yml")]
    env = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*command, "-e", f"ide_dir={tmp_path / 'ide'}"], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = tmp_path / "ide/.cursor/ssh_config"
    # Whoever includes it there would include it for ever.
    assert "~/.ssh/config" not in config.read_text(encoding="utf-8")
    for name, (_given, by_hand) in words.items():
        assert said_by_ssh("-F", str(config), name) == said_by_ssh(*by_hand, "192.0.2.1"), name
        executor = yaml.safe_load((tmp_path / f"ide/.cursor/executors/{name}.yml").read_text(encoding="utf-8"))["executor"]
        assert executor["init_commands"] == [f"bash '/work space/{name}/pod_setup.sh'"] and executor["workingDirectory"] == f"/work space/{name}"
        assert executor["port"] == {"jump": 2222, "first": 22022}.get(name, 22), name
    install = json.loads((tmp_path / "ide/.cursor/environment.json").read_text(encoding="utf-8"))["install"]
    assert all(f"'/work space/{name}/pod_setup.sh'" in install for name in words)
    hosts["bare"]["ansible_ssh_common_args"] = "-o 'ProxyCommand=a\n  Match exec evil'"
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    done = subprocess.run([*command, "-e", f"ide_dir={tmp_path / 'ide'}"], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "holds a line break" in " ".join(done.stdout.split()), done.stdout


def played(rehearsal: Any, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A playbook of an account, against a rehearsal cloud of records."""
    env = {**os.environ, "RUNPOD_API_KEY": FULL, "RUNPOD_REST_V2_URL": rehearsal.url, "PODCYCLE_STATE_DIR": str(tmp_path / "state"), "ANSIBLE_NOCOLOR": "1"}
    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_HOME": str(tmp_path / "home")}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(ROOT / "inventories/runpod"), *words]
    return subprocess.run(command, cwd=ROOT, env={**env, **settings}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_a_one_click_template_brings_ssh_and_the_start_script(rehearsal: Any, tmp_path: Path) -> None:
    source = ["-e", "bootstrap_archive_source=https://example.org/collection.tar.gz"]
    refused = played(rehearsal, tmp_path, "playbooks/template.yml")
    assert refused.returncode != 0 and "Say -e bootstrap_archive_source=URL" in " ".join(refused.stdout.split()) and rehearsal.writes() == []
    secret = played(rehearsal, tmp_path, "playbooks/template.yml", *source, "-e", '{"node_environment": {"HF_TOKEN": "hf_1"}}')
    assert secret.returncode != 0 and "node_environment.HF_TOKEN looks like a secret" in " ".join(secret.stdout.split()) and rehearsal.writes() == []
    for count in (1, 0):
        done = played(rehearsal, tmp_path, "playbooks/template.yml", *source)
        assert done.returncode == 0 and f"changed={count} " in done.stdout, done.stdout
    (sent,) = [row["body"] for row in rehearsal.requests("POST")]
    assert (sent["image"], sent["ports"], sent["startSsh"], sent["startJupyter"]) == ("ubuntu:24.04", ["22/tcp"], True, False)
    shell, option, line = shlex.split(sent["args"])
    assert (shell, option) == ("bash", "-c") and "'" not in line and '"' not in line
    script = base64.b64decode(line.split()[1]).decode()
    assert script.index("/usr/sbin/sshd") < script.index("https://example.org/collection.tar.gz") and "exec /start.sh" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    # Each key by itself, and none twice.
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/authorized_keys").write_text("ssh-ed25519 AAAA one\n", encoding="utf-8")
    lines = script[script.index("  printf '%s\\n' \"${PUBLIC_KEY:-}\"") : script.index("  ssh-keygen -A")]
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PUBLIC_KEY": "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two"}
    for _turn in range(2):
        subprocess.run(["sh", "-euc", lines], env=home, check=True)
    assert (tmp_path / ".ssh/authorized_keys").read_text(encoding="utf-8") == "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n"
    own = ["-e", "template_name=plain template_image=runpod/base:1 template_bootstrap=false", "-e", '{"template_env": {"A": "{{ 6 * 7 }}"}}']
    assert played(rehearsal, tmp_path, "playbooks/template.yml", *own).returncode == 0
    assert rehearsal.requests("POST")[-1]["body"] == {
        "name": "plain", "image": "runpod/base:1", "disk": 40, "ports": ["22/tcp"], "env": {"A": "42"}, "category": "NVIDIA", "public": False, "startSsh": True,
        "startJupyter": False, "allowedCudaVersions": [], "mounts": {"persistent": {"size": 20, "path": "/workspace"}},
    }, "the image's own command and no credential"  # fmt: skip
    listed = played(rehearsal, tmp_path, "playbooks/templates.yml", "-e", "template_name='pytorch 2.8'")
    assert listed.returncode == 0 and "30zmvf89kd" in listed.stdout and "runpod-ubuntu" not in listed.stdout, listed.stdout
    elsewhere = played(rehearsal, tmp_path, "playbooks/templates.yml", "-e", "cloud=vast")
    assert elsewhere.returncode != 0 and "must be one of: runpod" in elsewhere.stdout, "another cloud's endpoint and key"
    everything = played(rehearsal, tmp_path, "playbooks/templates.yml").stdout
    assert all(word in everything for word in ("own", "podcycle", "official", "community", "(serverless)"))
