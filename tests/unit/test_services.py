# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role services: its table of settings, what is brought before the services start, and their start without Ansible."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _status
from support.services import FILES, ROOT, load, put

pod_settings, prepare = load("pod_settings"), load("prepare")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmineminemineminemineminemineminemineminemine me@here"
# A value of each name that is not its default, and what the settings say then.
GIVEN: dict[str, tuple[str, Any]] = {
    "START_SSHD": ("1", True), "START_JUPYTER": ("true", True), "START_INFERENCE_API": ("yes", True), "START_HF_WATCH": ("on", True),
    "START_IDLE_WATCHDOG": ("1", True), "REPO_URL": ("https://example.org/x.git", None), "REPO_REF": ("dev", None), "REPO_DIR": ("/data/x", None),
    "CLONE_REPO_ON_START": ("0", False), "GIT_AUTO_PULL": ("0", False), "VENV_DIR": ("/opt/venvs/x", None), "SYNC_REQUIREMENTS_ON_START": ("0", False),
    "FORCE_PIP_SYNC": ("1", True), "RUNNER_USER": ("runner", None), "AUTHORIZED_KEYS": (KEY, None), "SSHD_PORT": ("2222", 2222),
    "JUPYTER_PORT": ("8899", 8899), "JUPYTER_ROOT_DIR": ("/data", None), "INFERENCE_API_HOST": ("0.0.0.0", None), "INFERENCE_API_PORT": ("8001", 8001),
    "INFERENCE_API_MODEL_PATH": ("/data/model.pt", None), "INFERENCE_API_DEVICE": ("cpu", None), "INFERENCE_API_TOPK_DEFAULT": ("3", 3),
    "HF_REPO_ID": ("me/bot", None), "HF_REPO_TYPE": ("dataset", None), "HF_SYNC_SOURCE_DIR": ("/data/out", None),
    "HF_SYNC_PATTERNS": ("*.pt, *.csv", ["*.pt", "*.csv"]), "HF_SYNC_INTERVAL_SECONDS": ("60", 60), "IDLE_TIMEOUT_SECONDS": ("900", 900),
    "IDLE_CHECK_INTERVAL_SECONDS": ("30", 30), "IDLE_GPU_UTIL_THRESHOLD": ("5", 5), "IDLE_GPU_MEM_MB_THRESHOLD": ("1024", 1024),
    "ACTIVITY_HEARTBEAT_FILE": ("/tmp/beat", None),
    "AUTOSTOP_ACTION": ("exit", None), "RUNPOD_PHASE_TIMING_ENABLED": ("0", False), "RUNPOD_PHASE_TIMING_LOG": ("/data/times.jsonl", None),
    "RUNPOD_PHASE_TIMING_RUN_ID": ("r9", None),
}  # fmt: skip
ROWS = [row for row in pod_settings.SETTINGS if row.name]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.env)
def test_each_name_of_the_environment_is_read_and_a_variable_goes_before_it(row: Any) -> None:
    text, wanted = GIVEN[row.env]
    wanted = text if wanted is None else wanted
    plain = pod_settings.resolve({}, {}, "/workspace")
    found = pod_settings.resolve({}, {row.env: text}, "/workspace")
    assert found["settings"] == {**plain["settings"], row.name: wanted} and plain["settings"][row.name] != wanted
    assert found["origin"][row.name] == row.env and plain["origin"][row.name] == "default"
    back = plain["settings"][row.name]
    given = pod_settings.resolve({row.name: back}, {row.env: text}, "/workspace")
    assert given["settings"][row.name] == back and given["origin"][row.name] == f"services_{row.name}"
    # A name that the container gives without a value is one that it does not give.
    assert pod_settings.resolve({}, {row.env: ""}, "/workspace") == plain


def test_the_table_names_each_once_and_the_document_and_the_options_show_it() -> None:
    assert {row.env for row in ROWS} == GIVEN.keys() and len({row.env for row in pod_settings.SETTINGS}) == len(pod_settings.SETTINGS)
    assert pod_settings.table() in (ROOT / "docs/services.md").read_text(encoding="utf-8")
    spec = yaml.safe_load((ROOT / "roles/services/meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    kinds = {name.removeprefix("services_"): option["type"] for name, option in spec.items() if "default" not in option}
    assert kinds == {row.name: row.kind for row in ROWS}
    assert all(f"C({row.env})" in str(spec[f"services_{row.name}"]["description"]) for row in ROWS)
    own = yaml.safe_load((ROOT / "roles/services/vars/main.yml").read_text(encoding="utf-8"))["__services_own"]
    assert {f"services_{name}" for name in own} == {name for name, option in spec.items() if "default" in option} | {"services_found"}


def test_names_that_change_nothing_are_told() -> None:
    notes = pod_settings.resolve({}, {"START_OTEL_COLLECTOR": "1"}, "/w")["notes"]
    assert len(notes) == 1 and notes[0] == "START_OTEL_COLLECTOR is '1': no collector is brought"
    assert pod_settings.resolve({}, {"START_OTEL_COLLECTOR": "0"}, "/w")["notes"] == []
    assert pod_settings.resolve({}, {"AUTOSTOP_ACTION": "runpod_api"}, "/w")["settings"]["idle_action"] == "stop"


@pytest.mark.parametrize(
    ("given", "environ", "words"),
    [
        ({}, {"JUPYTER_PORT": "88888"}, "JUPYTER_PORT is '88888' and has to be a number from 1 to 65535"),
        ({"jupyter": "maybe"}, {}, "services_jupyter is 'maybe', which is neither 1 nor 0"),
        ({}, {"REPO_DIR": "/a/../etc"}, "REPO_DIR is '/a/../etc', which is no folder"),
        ({}, {"AUTOSTOP_ACTION": "sleep"}, "none of stop, terminate, exit, none"),
        ({"jupyter_prt": 1}, {}, "services_jupyter_port was meant, perhaps"),
        ({}, {"SSHD_PORT": "--5"}, "SSHD_PORT is '--5' and has to be a number from 1 to 65535"),
        ({}, {"SSHD_PORT": "\u00b2"}, "SSHD_PORT is '\u00b2' and has to be a number"),
    ],
)
def test_values_without_sense_are_refused_by_name(given: dict[str, Any], environ: dict[str, str], words: str) -> None:
    with pytest.raises(pod_settings.SettingsError, match=re.escape(words)):
        pod_settings.resolve(given, environ, "/workspace")


@pytest.mark.parametrize(
    ("ports", "host", "url"),
    [
        (["22/tcp", "8888/http"], "0.0.0.0", "https://p1-8888.proxy.runpod.net"),
        (["8888/tcp"], "0.0.0.0", None),
        (["22/tcp", "18888/http"], "127.0.0.1", None),
        ([], "127.0.0.1", None),
    ],
)
def test_jupyter_is_open_to_the_pods_port_only_where_that_is_rented(ports: list[str], host: str, url: str | None) -> None:
    settings = pod_settings.resolve({"jupyter": True}, {}, "/workspace")["settings"]
    assert pod_settings.places(settings, ports, "p1")["jupyter"] == {"wanted": True, "host": host, "port": 8888, "url": url}


def test_the_way_to_each_service_is_told() -> None:
    settings = pod_settings.resolve({"jupyter": True, "inference": True}, {}, "/workspace")["settings"]
    template = jinja2.Environment().from_string((ROOT / "playbooks/templates/services.j2").read_text(encoding="utf-8"))
    known = {"inventory_hostname": "r1-1", "podcycle_id": "p1", "ansible_host": "203.0.113.7", "ansible_port": 2201, "reach_token_file": "/w/jupyter.token"}
    text = template.render(reach_seen={"places": pod_settings.places(settings, ["8888/http"], "p1")}, **known)
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[0] == "jupyter on r1-1: https://p1-8888.proxy.runpod.net" and lines[2] == "  its token is in /w/jupyter.token on the pod"
    assert lines[3] == "inference on r1-1: on the pod only, port 8000"
    assert " ".join(lines[4].split()) == "here as http://127.0.0.1:8000 by: ssh -N -L 8000:127.0.0.1:8000 -p 2201 root@203.0.113.7"
    text = template.render(reach_seen={"places": pod_settings.places(settings, ["8000/tcp", "8888/http"], "p1")}, **known, podcycle_ssh_via="gateway")
    ways = [line.strip() for line in text.splitlines() if line.strip() and "token" not in line]
    assert ways[1::2] == ["RunPod's gateway brings no port here", "RunPod's gateway brings no port here: rent 8000/http"]
    assert ways[2] == "inference on r1-1: on every address of the pod, port 8000"
    # A pod's word is no address and no command.
    hostile = {"places": {"jupyter": {"wanted": True, "port": "1; rm -rf /", "url": "http://evil"}, "x": {"wanted": True, "port": 1, "url": None}}}
    text = template.render(reach_seen=hostile, **known)
    assert "evil" not in text and "rm -rf" not in text and "x on" not in text


@pytest.mark.parametrize("wanted", [True, False])
def test_the_ways_are_told_of_what_the_pod_has_and_nothing_where_none_is_open(tmp_path: Path, wanted: bool) -> None:
    put = tmp_path / ".podcycle/services/services.json"
    put.parent.mkdir(parents=True)
    put.write_text(json.dumps({"places": {"jupyter": {"wanted": wanted, "host": "127.0.0.1", "port": 8888, "url": None}}}))
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/services.yml").read_text(encoding="utf-8"))
    assert tasks[0]["loop"][1] in pod_settings.IMAGE_WORKSPACES and tasks[0]["loop"][1] == _status._IMAGE
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.include_tasks": "tasks/services.yml"}]}]
    play[0]["vars_files"] = ["vars/shown.yml"]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    for name in ("tasks", "templates", "vars"):
        (tmp_path / name).symlink_to(ROOT / "playbooks" / name)
    given = ["-e", f"workspace={tmp_path}", "-e", f"ansible_python_interpreter={sys.executable}"]
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml"), *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (f"its token is in {tmp_path}/.podcycle/services/jupyter.token on the pod" in " ".join(done.stdout.split())) == wanted


# ---- before the services start -------------------------------------------------------------------


class Pod:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.home = root, root / "home"
        self.home.mkdir()
        account = SimpleNamespace(pw_dir=str(self.home), pw_uid=os.geteuid(), pw_gid=os.getegid(), pw_name="me")
        monkeypatch.setattr(prepare.pwd, "getpwuid", lambda _uid: account)
        self.environ: dict[str, str] = {"PATH": os.environ["PATH"]}
        monkeypatch.setattr(prepare.phase_times, "container_environment", lambda: self.environ)

    def ask(self, check: bool = False, **given: Any) -> dict[str, Any]:
        wish = {"given": given, "workspace": str(self.root), "ports": [], "run_id": "r1", "check": check}
        return dict(prepare.answer(wish))

    def rows(self) -> list[tuple[str, str]]:
        path = self.root / "runs/r1/runpod_phase_times.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        assert all(row["source"] == "runpod_entrypoint" and row["run_id"] == "r1" for row in rows)
        return [(row["phase"], row["status"]) for row in rows]


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


def test_keys_are_a_block_and_those_of_others_stay(pod: Pod) -> None:
    path = pod.home / ".ssh/authorized_keys"
    path.parent.mkdir()
    path.write_text("ssh-rsa AAAA other\n")
    pod.environ["AUTHORIZED_KEYS"] = f"{KEY}\n"
    assert pod.ask(check=True)["changed"] and path.read_text() == "ssh-rsa AAAA other\n"
    assert pod.ask()["changed"] and KEY in path.read_text() and path.read_text().startswith("ssh-rsa AAAA other\n") and path.stat().st_mode & 0o777 == 0o600
    assert not pod.ask()["changed"] and pod.rows() == [("ensure_ssh_keys", "ok")] * 2
    pod.environ["AUTHORIZED_KEYS"] = ""
    assert pod.ask()["changed"] and path.read_text() == "ssh-rsa AAAA other\n"
    assert "no public key" in pod.ask(authorized_keys="rm -rf /")["errors"][0] and pod.rows()[-1] == ("ensure_ssh_keys", "error")
    assert "there is no account nobody-here" in pod.ask(account="nobody-here")["phases"][0]["note"]


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (KEY, True),
        (f'from="10.0.0.0/8,!10.1.1.1",no-pty {KEY}', True),
        (f'command="tmux new -A",restrict {KEY}', True),
        ("sk-ssh-ed25519@openssh.com AAAA", True),
        (f'command="tmux new {KEY}', False),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", False),
        ("ssh-ed25519", False),
    ],
)
def test_a_line_with_a_key_is_known_before_a_pod_is_rented(line: str, good: bool) -> None:
    command = [sys.executable, str(FILES / "pod_settings.py"), "--check"]
    ways = (({"authorized_keys": line}, {}, "services_authorized_keys"), ({}, {"AUTHORIZED_KEYS": f"  # mine\n{line}"}, "AUTHORIZED_KEYS"))
    for given, environ, where in ways:
        asked = json.dumps({"given": given, "environ": environ, "workspace": "/workspace"})
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == good and (good or done.stderr == f"{where} holds a line that is no public key: {line[:30]!r}\n"), done.stderr


def test_an_accounts_link_is_not_followed(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pod.root / "theirs"
    theirs.mkdir()
    (theirs / ".ssh").symlink_to(pod.home)
    account = SimpleNamespace(pw_dir=str(theirs), pw_uid=os.geteuid() + 1, pw_gid=1, pw_name="runner")
    monkeypatch.setattr(prepare.pwd, "getpwnam", lambda _name: account)
    assert "leads through a link" in pod.ask(account="runner", authorized_keys=KEY)["errors"][0] and list(pod.home.iterdir()) == []


def test_the_token_is_made_once_given_one_replaces_it_and_it_is_told_nowhere(pod: Pod) -> None:
    path = pod.root / ".podcycle/services/jupyter.token"
    assert pod.ask(jupyter=True, check=True)["token_stamp"] == 0 and not path.exists()
    assert pod.ask(jupyter=True)["changed"] and path.stat().st_mode & 0o777 == 0o600
    token = path.read_text()
    assert len(token) == 48 and not pod.ask(jupyter=True)["changed"] and path.read_text() == token
    pod.environ["JUPYTER_TOKEN"] = "a-given-one"
    before = pod.ask()["token_stamp"]
    told = pod.ask(jupyter=True)
    assert told["token_stamp"] != before and path.read_text() == "a-given-one" and "a-given-one" not in json.dumps(told) and token not in json.dumps(told)
    assert not pod.ask(jupyter=False)["changed"]
    pod.environ["JUPYTER_TOKEN"] = "short"
    assert "8 to 200" in pod.ask(jupyter=True)["errors"][0] and path.read_text() == "a-given-one"


def test_a_foreign_folder_is_an_error_and_the_rest_goes_on(pod: Pod) -> None:
    (pod.root / "repo").mkdir()
    (pod.root / "repo/thesis.tex").write_text("x")
    told = pod.ask(repo_url="file:///nowhere", authorized_keys=KEY, jupyter=True)
    assert len(told["errors"]) == 1 and "holds thesis.tex and is no clone" in told["errors"][0]
    assert pod.rows() == [("ensure_ssh_keys", "ok"), ("ensure_jupyter_token", "ok"), ("clone_or_update_repo", "error"), ("sync_repo_requirements", "ok")]


def test_a_key_in_the_repositorys_address_is_told_nowhere(pod: Pod) -> None:
    pod.environ["REPO_URL"] = "http://me:s3cretkey@127.0.0.1:9/x.git"
    told = pod.ask()
    assert told["errors"] and told["settings"]["repo_url"] == "http://127.0.0.1:9/x.git" and "s3cretkey" not in json.dumps(told)


@pytest.mark.parametrize("place", ["bin/uv", "cache/uv/bin/uv"])
def test_requirements_are_installed_when_they_changed_and_never_another_torch(pod: Pod, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.shutil, "which", lambda _name: None)
    monkeypatch.setenv("HOME", str(pod.home))
    repo, venv, calls = pod.root / "repo", pod.root / "venv", pod.root / "calls"
    site = venv / "lib/python3.11/site-packages"
    for name in ("torch-2.13.0+cpu", "chess-1.0"):
        (site / f"{name}.dist-info").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to(sys.executable)
    uv = pod.root / place
    uv.parent.mkdir(parents=True)
    fail = f"[ ! -e {pod.root}/fail ] || {{ echo no such package >&2; exit 1; }}"
    uv.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nwhile [ "$1" != -c ]; do shift; done\ncat "$2" >> {calls}\n{fail}\n')
    uv.chmod(0o755)
    repo.mkdir()
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    given = {"repo_url": "file:///nowhere", "clone_repo": False, "pull_repo": False}
    (repo / "requirements.txt").write_text("chess\n")
    (pod.root / "fail").touch()
    assert "no such package" in " ".join(pod.ask(**given)["errors"])
    (pod.root / "fail").unlink()

    def phase(**more: Any) -> str:
        return str(pod.ask(**given, **more)["phases"][-1]["did"])

    assert phase(check=True) == "would be installed"
    assert [phase(), phase(), phase(force_sync=True)] == ["installed", "as they are", "installed"]
    assert calls.read_text().count("torch==2.13.0+cpu\n") == 3
    (repo / "requirements.txt").write_text("chess==1.1\n")
    assert phase() == "installed"


def test_half_an_environment_does_not_stay(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.shutil, "which", lambda _name: None)
    monkeypatch.setenv("HOME", str(pod.home))
    python = pod.root / "python3"
    python.write_text('#!/bin/sh\nmkdir -p "$3/bin" && touch "$3/bin/python"\necho ensurepip is not available\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(prepare.sys, "executable", str(python))
    subprocess.run(["git", "init", "-q", str(pod.root / "repo")], check=True)
    (pod.root / "repo/requirements.txt").write_text("chess\n")
    told = pod.ask(repo_url="file:///nowhere", clone_repo=False, pull_repo=False, venv=str(pod.root / "new"))
    assert "ensurepip is not available" in told["errors"][-1] and not (pod.root / "new").exists()


# ---- on a pod that runs the training image -----------------------------------------------------------


@pytest.fixture
def image_pod(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> Pod:
    first = pod.root / "cmdline"
    first.write_bytes(b"/usr/bin/tini\0--\0/usr/bin/python3\0/opt/podcycle/image/start.py\0sleep\0infinity\0")
    monkeypatch.setattr(prepare, "FIRST_COMMAND", first)
    return pod


def test_what_the_training_image_brings_is_not_brought_again(image_pod: Pod) -> None:
    image_pod.environ.update(START_JUPYTER="1", START_IDLE_WATCHDOG="1", REPO_URL="file:///nowhere")
    told = image_pod.ask(jupyter=True, inference=True)
    assert [told["settings"][name] for name in ("jupyter", "idle_watchdog", "repo_url", "inference")] == [False, False, "", True]
    assert told["errors"] == [] and not told["changed"] and not (image_pod.root / ".podcycle/services/jupyter.token").exists()
    assert not told["places"]["jupyter"]["wanted"] and told["places"]["inference"]["wanted"]
    assert told["notes"][0].startswith("jupyter, idle_watchdog, repo_url: brought by the training image")
    assert "nowhere" in image_pod.ask(repo_url="file:///nowhere")["errors"][0], "another repository than the image's is brought"
    prepare.FIRST_COMMAND.write_bytes(b"/start.sh\0")
    image_pod.environ.pop("REPO_URL")
    assert image_pod.ask()["settings"]["jupyter"] and image_pod.ask()["notes"] == []


def test_the_image_itself_brings_all_that_the_environment_asks_for_and_nothing_for_a_bad_one(image_pod: Pod) -> None:
    first = prepare.FIRST_COMMAND.read_text()
    environ = {"START_JUPYTER": "1"}
    assert [pod_settings.brought_by_image(environ, place, first) for place in ("/workspace", "/opt/podcycle", *pod_settings.IMAGE_WORKSPACES)] == [
        ["jupyter"], ["jupyter"], None, None,
    ]  # fmt: skip
    assert pod_settings.brought_by_image({**environ, "JUPYTER_PORT": "99999"}, "/workspace", first) == []


def test_the_keys_that_the_image_brought_stay(image_pod: Pod) -> None:
    path = image_pod.home / ".ssh/authorized_keys"
    path.parent.mkdir()
    text = f"# BEGIN {prepare.MARKER}\n{KEY}\n# END {prepare.MARKER}\n"
    path.write_text(text)
    assert not image_pod.ask()["changed"] and path.read_text() == text
    given = {"authorized_keys": KEY.replace("mine", "your")}
    assert image_pod.ask(**given)["changed"] and path.read_text().startswith(text) and given["authorized_keys"] in path.read_text()
    assert not image_pod.ask(**given)["changed"]
    # A start of the container brings its own block and leaves this one.
    starts = prepare.Preparation({"settings": {"authorized_keys": KEY, "account": ""}, "workspace": str(image_pod.root)}, {}, check=False)
    assert not starts.keys().changed
    image_pod.environ["AUTHORIZED_KEYS"] = KEY
    assert image_pod.ask()["changed"] and path.read_text() == text and not image_pod.ask()["changed"]


# ---- without Ansible -----------------------------------------------------------------------------


def test_the_entrypoint_starts_supervisor_and_hands_over_whatever_happened(tmp_path: Path) -> None:
    entry = put(tmp_path / ".podcycle/services/entry", "entrypoint", "prepare", "pod_settings", "repository", "phase_times", "_blocks")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/thesis.tex").write_text("x")
    given = {"repo_url": "file:///nowhere", "authorized_keys": ""}
    (entry / "wish.json").write_text(json.dumps({"given": given, "workspace": str(tmp_path), "ports": [], "run_id": ""}))
    supervisor = tmp_path / ".podcycle/supervisor"
    (supervisor / "venv/bin").mkdir(parents=True)
    (supervisor / "supervisord.conf").write_text(f"[supervisord]\npidfile={tmp_path}/run/supervisord.pid\n")
    (supervisor / "venv/bin/python").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\n')
    (supervisor / "venv/bin/python").chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, str(entry / "entrypoint.py")]
    done = subprocess.run([*command, "echo", "handed", "over"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "handed over" and "is no clone" in done.stdout
    if not Path("/run/systemd/system").is_dir():
        assert "supervisor was started" in done.stdout
        assert (tmp_path / "started").read_text().split() == [f"{supervisor}/venv/bin/supervisord", "-c", f"{supervisor}/supervisord.conf"]
    rows = [json.loads(line) for line in (tmp_path / ".podcycle/timings/runpod_phase_times.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["status"]) for row in rows][-1] == ("start_services", "ok")
    bare = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert bare.returncode == 1


def test_every_program_of_the_role_stands_in_its_table() -> None:
    sources = yaml.safe_load((ROOT / "roles/services/vars/main.yml").read_text(encoding="utf-8"))["__services_sources"]
    assert {path.name for path in FILES.glob("*.py")} - {"from_memory.py"} <= sources.keys()
