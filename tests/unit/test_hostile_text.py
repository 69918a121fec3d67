# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cloud or a pod says, tried through Ansible itself: nothing runs, nothing is a template, nothing breaks the output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _pods
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, clean_text, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._guard import start_ticks
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient, RawReply
from ansible_collections.podcycle.gpu.plugins.module_utils._job_follow import clean
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import SystemClock
from support.harness import FULL

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# The product stands nowhere unless somebody has multiplied.
PRODUCT, FACTORS = "8641969", "1234567 * 7"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def payloads(marker: str) -> dict[str, str]:
    """What does not hide one another stands in one text."""
    template = f"{{{{ {FACTORS} }}}}{{{{ lookup('pipe', 'touch {marker}') }}}}{{% for a in range(9) %}}{{{{ {FACTORS} }}}}{{% endfor %}}{{# hidden #}}"
    return {
        "template": f"{template}</td><script>alert(1)</script>",
        "shell": f"'; touch {marker}; $(touch {marker}) `touch {marker}` | touch {marker} && touch {marker} #",
        "yaml": "x\n- hosts: all\n  ansible_host: evil.example\n!unsafe &a *a %TAG ! : - [",
        "python": f"__import__('os').system('touch {marker}')",
        "ansible": 'ansible_connection=local", "ansible_host": "evil.example", "__ansible_unsafe": "x',
        "control": "red\x1b[31m\x1b]0;title\x07\x1b[2J\r\x00\x08\x7f\x9b31m ünï\u202egnp.exe\u2066\u2028\u2029\ufeff\ud800 日本 \U0001f4a9",
        "long": "A" * 10_240,
    }


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def texts(marker: Path) -> dict[str, str]:
    return payloads(str(marker))


@pytest.fixture
def cloud(texts: dict[str, str]) -> Iterator[str]:
    """Every string of its answers is hostile; `/v2/NAME/...` answers as an error with that text."""
    pods = [
        {
            "id": f"pod{name}", "name": text, "status": "RUNNING", "image": text, "disk": 20, "ports": [text, "22/tcp"], "gpu": {"id": text, "count": 1},
            "cloud": text, "dataCenterId": text, "ssh": {"direct": {"host": "203.0.113.7", "port": 10341, text: text}}, "cost": 0.59, "runtime": {text: text},
            "createdAt": text, "ansible_host": "evil.example", text: text,
        }
        for name, text in texts.items()
    ]  # fmt: skip
    pods += [{**pod, "id": f"{pod['id']}2", "status": texts[name]} for pod, name in zip(pods, texts, strict=True)]
    pods += [{**pod, "id": f"{pod['id']}3", "ssh": {"direct": {"host": texts[name], "port": texts[name]}}} for pod, name in zip(pods, texts, strict=False)]
    gpus = [{"id": text, "name": text, "memory": 24, "secure": True, "price": {"secure": 0.5}, "availability": text} for text in texts.values()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/")
            broken = texts.get(path.partition("/")[0])
            body: Any = {"title": broken, "detail": broken, "error": broken, "code": broken} if broken else {"pods": pods} if "pods" in path else {"gpus": gpus}
            content = json.dumps(body).encode()
            self.send_response(400 if broken else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def ansible(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_NOCOLOR": "1", "PATH": f"{tmp_path}/bin:{BIN}:{os.environ['PATH']}",
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / words[0]), *words[1:]]
        return subprocess.run(command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False)

    return run


def harmless(text: str, marker: Path) -> None:
    assert not marker.exists() and PRODUCT not in text
    assert [ascii(line)[:300] for line in text.splitlines() if CONTROL.search(line)] == [] and "Traceback" not in text


def write_inventory(tmp_path: Path, url: str) -> Path:
    folder = tmp_path / "inventory"
    folder.mkdir()
    cloud = {"cloud": "runpod", "api_key": "rpa_of_a_test", "endpoint": f"{url}/v2", "state_dir": str(tmp_path / "state")}
    keys = ("podcycle_region", "podcycle_gpu", "podcycle_image", "podcycle_name", "podcycle_cloud_type", "podcycle_provider_status")
    options = {
        "scope": "all", "states": ["running", "unknown"], "keyed_groups": [{"key": key, "prefix": "k"} for key in keys],
        "compose": {"copied": "podcycle_image"}, "groups": {"odd": "'x' in podcycle_name"},
    }  # fmt: skip
    (folder / "pods.yml").write_text(yaml.safe_dump({"plugin": "podcycle.gpu.pods", "clouds": [cloud], **options}), encoding="utf-8")
    return folder


def test_a_listing_of_hostile_pods_is_an_inventory(cloud: str, texts: dict[str, str], marker: Path, tmp_path: Path, ansible: Any) -> None:
    folder = write_inventory(tmp_path, cloud)
    done = ansible("ansible-inventory", "-i", str(folder), "--list", "-vvvv")
    assert done.returncode == 0, done.stderr
    harmless(done.stdout + done.stderr, marker)
    listed = json.loads(done.stdout[done.stdout.index("\n{") :])
    hosts = listed["_meta"]["hostvars"]
    assert set(hosts) == {f"pod{name}{number}" for name in texts for number in ("", "2", "3")}
    assert [group for group in listed if not re.fullmatch(r"[^\W\d]\w*", group)] == []
    allowed = {"ansible_host", "ansible_port", "ansible_user", "ansible_control_path_dir", "copied"}
    for name, variables in hosts.items():
        assert {key for key in variables if not key.startswith("podcycle_")} <= allowed
        host = variables.get("ansible_host")
        # ansible-inventory shows a text that is no template inside a mark.
        assert (host["__ansible_unsafe"] if isinstance(host, dict) else host) == (None if name.endswith(("2", "3")) else "203.0.113.7"), name
        assert len(json.dumps(variables)) < 12_000
    graph = ansible("ansible-inventory", "-i", str(folder), "--graph")
    assert graph.returncode == 0, graph.stderr
    harmless(graph.stdout + graph.stderr, marker)


def cloud_tasks(url: str, tmp_path: Path, texts: dict[str, str]) -> list[dict[str, Any]]:
    access = {"cloud": "runpod", "api_key": "rpa_of_a_test", "state_dir": str(tmp_path / "state"), "endpoint": f"{url}/v2"}
    events = {"run_dir": str(tmp_path / "run"), "stage": "start"}
    tasks: list[dict[str, Any]] = [
        {"podcycle.gpu.pod_info": {**access, "scope": "all"}, "register": "pods"},
        {"podcycle.gpu.offer_info": access, "register": "offers"},
        {"podcycle.gpu.lease_info": access, "register": "leases"},
        {"ansible.builtin.debug": {"msg": "{{ pods }} {{ offers }} {{ leases }}"}},
        {"ansible.builtin.debug": {"var": "item"}, "loop": "{{ pods.pods | map(attribute='name') | list }}"},
        {"podcycle.gpu.run_event": {**events, "status": "note", "message": "{{ item }}"}, "loop": "{{ pods.pods | map(attribute='image') | unique }}"},
    ]
    for name in texts:
        event = {**events, "status": "failed", "cause": "{{ ansible_failed_result }}", "task": "{{ ansible_failed_task.name }}"}
        rescue = [{"podcycle.gpu.run_event": event}, {"ansible.builtin.debug": {"msg": "SAID {{ ansible_failed_result.msg }}"}}]
        tasks.append({"block": [{"name": "Ask", "podcycle.gpu.offer_info": {**access, "endpoint": f"{url}/{name}/v2"}}], "rescue": rescue})
    return tasks


def odd_name(text: str) -> str:
    """The text as the name of a file, as far as a file can bear it."""
    return text.encode("utf-8", "surrogatepass")[:200].decode("utf-8", "ignore").replace("/", "%").replace("\0", "") + ".json"


def pod_tasks(tmp_path: Path, texts: dict[str, str]) -> list[dict[str, Any]]:
    """Jobs on a machine that says what it likes: output, progress, names of files, and its own files of the job."""
    program = (
        "import json, os, sys, time\ntext = open(sys.argv[1], errors='surrogatepass').read()\nname = os.environ['PODCYCLE_PROGRESS_FILE']\n"
        "open(name + '.p', 'w').write(json.dumps({'summary': text, text[:60]: text, 'ansible_host': text}))\nos.replace(name + '.p', name)\n"
        "sys.stdout.buffer.write((text + chr(10)).encode('utf-8', 'surrogatepass'))\nsys.stdout.flush()\ntime.sleep(3)\nsys.exit(9)"
    )
    events = {"run_dir": str(tmp_path / "run"), "stage": "train"}
    odd = tmp_path / "odd"
    odd.mkdir()
    jobs = []
    for name, text in texts.items():
        (odd / odd_name(text)).touch()
        (tmp_path / f"say-{name}").write_bytes(text.encode("utf-8", "surrogatepass"))
        job = {"name": name, "jobs_dir": str(tmp_path / "jobs"), "command": [sys.executable, "-c", program, str(tmp_path / f"say-{name}")], "poll_seconds": 0.3}
        jobs.append({"podcycle.gpu.job": {**job, "state": "started"}})
        rescue = [
            {"podcycle.gpu.run_event": {**events, "status": "failed", "cause": "{{ ansible_failed_result }}", "task": "Follow"}},
            {"ansible.builtin.debug": {"msg": "{{ ansible_failed_result }}"}},
        ]
        jobs.append({"block": [{"podcycle.gpu.job": {**job, "state": "finished"}}], "rescue": rescue})
    listing: list[dict[str, Any]] = [
        {"podcycle.gpu.artifact_info": {"root": str(odd), "patterns": ["*.json"]}, "register": "odd"},
        {"ansible.builtin.debug": {"msg": "{{ odd }}"}},
    ]
    starts, follows = jobs[::2], jobs[1::2]
    return [*listing, *starts, *follows]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def machine_tasks(tmp_path: Path, texts: dict[str, str]) -> list[dict[str, Any]]:
    """A pod whose programs say what they like: ssh and rsync's other end, uv, nvidia-smi, and the guard's own file."""
    for name, text in texts.items():
        (tmp_path / f"text-{name}").write_bytes(text.encode("utf-8", "surrogatepass"))
        script(tmp_path / f"bin-{name}" / "uv", f'[ "$1" = --version ] && exec echo uv 0.9.30\ncat {tmp_path}/text-{name} >&2; exit 1')
        script(tmp_path / f"bin-{name}" / "nvidia-smi", f"printf '580.65.06, '; tr '\\n' ' ' < {tmp_path}/text-{name}; echo")
        script(tmp_path / f"broken-{name}" / "nvidia-smi", f"cat {tmp_path}/text-{name} >&2; exit 9")
        guard = {"pid": os.getpid(), "started": start_ticks(os.getpid()), "armed": False, "why": text, "deadline": text, "base_url": text, text: text}
        (tmp_path / f"guard-{name}").mkdir()
        (tmp_path / f"guard-{name}" / "status.json").write_text(json.dumps(guard), encoding="utf-8")
    # In the place of ssh: a host that is a payload says it and hangs up, any other one does what it is told.
    script(tmp_path / "bin" / "ssh", f'for word; do shift; case $word in text-*) cat {tmp_path}/$word >&2; exit 12;; there) exec "$@";; esac; done; exit 13')
    pull = {"direction": "pull", "src": str(tmp_path / "odd"), "dest": str(tmp_path / "pulled"), "patterns": ["*.json"], "tries": 1}
    event = {"run_dir": str(tmp_path / "run"), "stage": "push", "status": "failed", "cause": "{{ ansible_failed_result }}", "task": "Push"}
    rescue = [
        {"podcycle.gpu.run_event": event},
        {"ansible.builtin.debug": {"msg": "HEARD {{ ansible_failed_result.msg }}"}},
    ]
    tasks: list[dict[str, Any]] = []
    for name in texts:
        path = f"{tmp_path}/bin-{name}:{os.environ['PATH']}"
        broken = {"environment": {"PATH": f"{tmp_path}/broken-{name}:{os.environ['PATH']}"}}
        torch = {"venv": str(tmp_path / f"venv-{name}"), "bin_dir": str(tmp_path / f"bin-{name}"), "version": "2.13.0"}
        guard = {"dir": str(tmp_path / f"guard-{name}"), "deadline": "2099-01-01T00:00:00Z"}
        failing: list[dict[str, Any]] = [
            {"podcycle.gpu.transfer": pull, "vars": {"ansible_host": f"text-{name}"}},
            {"podcycle.gpu.torch_env": {**torch, "backend": "cpu", "accept_cpu_on_gpu": True}, "environment": {"PATH": path}},
            {"podcycle.gpu.torch_env": torch, **broken},
        ]
        tasks += [{"block": [task], "rescue": rescue} for task in failing]
        tasks += [
            {"podcycle.gpu.lease_guard": guard, "check_mode": True, "register": "guard"},
            {"podcycle.gpu.stack_info": {"workspace": str(tmp_path / f"venv-{name}")}, "environment": {"PATH": path}, "register": "stack"},
            {"ansible.builtin.debug": {"msg": "{{ guard }} {{ stack }}"}},
        ]
    honest = {"podcycle.gpu.transfer": pull, "vars": {"ansible_host": "there"}, "register": "pulled"}
    return [*tasks, honest, {"ansible.builtin.debug": {"msg": "{{ pulled }}"}}]


@pytest.mark.one_end
def test_hostile_machines_in_a_playbook(texts: dict[str, str], marker: Path, tmp_path: Path, ansible: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "odd").mkdir()
    for name, text in texts.items():
        (tmp_path / "odd" / odd_name(text)).write_text(name, encoding="utf-8")
    play = {"hosts": "localhost", "gather_facts": False, "tasks": machine_tasks(tmp_path, texts)}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = ansible("ansible-playbook", "-i", "other,", str(tmp_path / "play.yml"), "-v")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    harmless(done.stdout + done.stderr, marker)
    assert f"rescued={3 * len(texts)}" in done.stdout.replace(" ", "") and done.stdout.count("HEARD ") == 3 * len(texts)
    for said in ("HEARD rsync failed 1 times: ", "HEARD make the virtual environment ", "HEARD install PyTorch: the GPU driver does not answer"):
        assert done.stdout.count(said) == len(texts), said
    assert sorted(path.read_text() for path in (tmp_path / "pulled").iterdir()) == sorted(name for name, text in texts.items() if odd_name(text).isprintable())
    records = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(records) == 3 * len(texts) and CONTROL.findall("".join(str(record) for record in records)) == []


def test_hostile_answers_in_a_playbook(cloud: str, texts: dict[str, str], marker: Path, tmp_path: Path, ansible: Any) -> None:
    (tmp_path / "run").mkdir()
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [*cloud_tasks(cloud, tmp_path, texts), *pod_tasks(tmp_path, texts)]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = ansible("ansible-playbook", "-i", "other,", str(tmp_path / "play.yml"), "-v")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    harmless(done.stdout + done.stderr, marker)
    assert f"rescued={2 * len(texts)}" in done.stdout.replace(" ", "") and done.stdout.count("SAID ") == len(texts)
    events = (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in events.splitlines()]
    assert len(records) == 3 * len(texts) and CONTROL.findall("".join(str(record) for record in records)) == []
    assert max(len(record.get("message", "")) for record in records) <= 2000


STEPS = {"create": ("POST", "/pods", "running"), "stop": ("POST", "/action", "stopped"), "delete": ("DELETE", "/pods/", "absent")}
SHAPES: dict[str, Callable[[str], Any]] = {
    "an error": lambda text: {"title": text, "detail": text, "error": text, "code": text},
    "a pod": lambda text: {"id": "p4x8demo1q", "name": text, "status": "RUNNING", "image": text, text: text, "cost": text},
    "a name as id": lambda text: {"id": text, "name": text, "status": text},
    "a text": lambda text: text,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_hostile_answers_to_what_changes(
    step: str, status: int, rehearsal: Any, state: Any, clock: Any, texts: dict[str, str], marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Create, stop and delete: whatever is answered, the failure is one printable sentence, and what is ours can be given back."""
    send = HttpClient._send
    monkeypatch.setattr(SystemClock, "monotonic", lambda self: clock.monotonic())
    monkeypatch.setattr(SystemClock, "sleep", lambda self, seconds: clock.sleep(seconds))
    method, path, wanted = STEPS[step]
    said: list[Any] = []

    def answer(client: HttpClient, verb: str, place: str, body: dict[str, Any] | None) -> RawReply:
        if said and verb == method and path in place:
            return RawReply(status, {"content-type": "application/json"}, json.dumps(said[0]).encode())
        return send(client, verb, place, body)

    monkeypatch.setattr(HttpClient, "_send", answer)
    defaults = {name: row.get("default") for name, row in _pods.pod_spec().items()}
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(state.path), "account": "default", "gpu": ["RTX 4090"]}
    failed = 0
    for number, (text, shape) in enumerate(product(texts.values(), SHAPES.values())):
        options = {**defaults, **account, "run_id": f"r{number}", "waits": {"release": 20.0, "stop": 20.0, "settle": 3.0}}
        if step != "create":
            _pods.converge({**options, "state": "running"}, check_mode=False)
        said.append(shape(text))
        try:
            heard = json.dumps(_pods.converge({**options, "state": wanted}, check_mode=False), ensure_ascii=False, default=str)
        except PodcycleError as error:
            failed += 1
            heard = json.dumps(failure(error), ensure_ascii=False)
        said.clear()
        assert heard.isprintable() and len(heard) < 20_000
        _pods.converge({**options, "state": "absent"}, check_mode=False)
    assert not marker.exists() and rehearsal.pods() == []
    assert failed == len(texts) * len(SHAPES) or (step, status) == ("delete", 200)


@pytest.mark.parametrize("limit", [20, 400])
def test_a_line_of_a_stranger_is_printable(texts: dict[str, str], limit: int) -> None:
    for text in texts.values():
        for line in (clean_text(text, limit), clean(text, limit)):
            assert line.isprintable() and len(line) <= limit and line.encode("utf-8")
