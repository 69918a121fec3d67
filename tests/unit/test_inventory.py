# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin, through Ansible's own loader and command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import inventory_loader

from ansible_collections.podcycle.gpu.plugins.module_utils import _http
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
KEY = "rpa_rehearsal_full"
HOSTILE = "{{ lookup('pipe', 'touch /tmp/podcycle-pwned') }}"
POD = {
    "id": "p4x8demo1q", "status": "RUNNING", "image": HOSTILE, "disk": 20, "ports": ["22/tcp"], "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
    "cloud": "SECURE", "dataCenterId": "EU-RO-1 {# x #}", "ssh": {"direct": {"host": "203.0.113.7", "port": 10341}}, "cost": 0.59, "runtime": {},
}  # fmt: skip


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Parse a pods.yml as Ansible would."""
    # As in an installed collection, without our ansible.cfg: a failure is an exception, not the end of this process.
    monkeypatch.setenv("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "false")

    def parse(cloud: dict[str, Any], **options: Any) -> Any:
        path = tmp_path / "pods.yml"
        path.write_text(yaml.safe_dump({"plugin": "podcycle.gpu.pods", "clouds": [{"cloud": "runpod", "api_key": KEY, **cloud}], **options}))
        # The collection's modules are imported already, without Ansible's collection loader: the plugin is taken from its folder.
        inventory_loader.add_directory(str(ROOT / "plugins" / "inventory"))
        data, plugin = InventoryData(), inventory_loader.get("pods")
        plugin._redirected_names = None
        assert plugin.verify_file(str(path))
        plugin.parse(data, DataLoader(), str(path), cache=True)
        if options.get("cache"):
            plugin.update_cache_if_changed()
        data.reconcile_inventory()
        return data

    return parse


@pytest.fixture
def rented(engine: Engine, rehearsal: Any, make_wish: Callable[..., Any], state: Any) -> dict[str, Any]:
    """Two pods of one run and one of another, and how to find them."""
    for wish in (make_wish(count=2), make_wish(run_id="r2", gpus=("L40S",))):
        assert all(slot.error is None for slot in engine.rent(wish, check_mode=False))
    return {"endpoint": rehearsal.url, "state_dir": str(state.path)}


def test_hosts_groups_and_how_to_reach_them(load: Callable[..., Any], rented: dict[str, Any], state: Any) -> None:
    (state.run_dir("r1") / "id_ed25519").write_text("key")
    data = load(rented, keyed_groups=[{"key": "podcycle_region", "prefix": "dc"}], compose={"answer": "podcycle_index + 41"})
    assert set(data.hosts) == {"r1-0", "r1-1", "r2-0"}
    groups = data.get_groups_dict()
    assert set(groups["cloud_runpod"]) == set(groups["state_running"]) == set(data.hosts)
    assert set(groups["run_r1"]) == {"r1-0", "r1-1"} and groups["run_r2"] == ["r2-0"]
    assert sum(len(hosts) for name, hosts in groups.items() if name.startswith("dc_")) == 3
    first, other = (data.hosts[name].vars for name in ("r1-0", "r2-0"))
    assert (first["ansible_host"], first["ansible_user"], first["podcycle_run_id"], first["answer"]) == ("127.0.0.1", "root", "r1", 41)
    assert 1 <= first["ansible_port"] <= 65535 and first["podcycle_rehearsal"] is True and first["podcycle_usd_per_hour"] == "0.5900"
    assert f"HostKeyAlias={first['podcycle_id']}" in first["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=accept-new" in first["ansible_ssh_common_args"], "the key is not pinned yet"
    assert first["ansible_ssh_private_key_file"].endswith("/runs/r1/id_ed25519") and "ansible_ssh_private_key_file" not in other
    assert first["ansible_control_path_dir"] != other["ansible_control_path_dir"]
    assert not Path(first["ansible_control_path_dir"]).exists(), "who only lists leaves no folder for each pod"
    assert KEY not in json.dumps([host.vars for host in data.hosts.values()], default=str)


def test_a_pod_that_only_the_gateway_reaches(
    load: Callable[..., Any], rented: dict[str, Any], state: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.run_dir("r1") / "id_ed25519").write_text("key")
    lease = next(lease for lease in engine.ledger.of_run("r1") if lease.stamp.index == 0)
    engine.ledger.write(lease.stamp, "mark", ssh_via="gateway")
    through, direct = (load(rented).hosts[name].vars for name in ("r1-0", "r1-1"))
    assert through["ansible_connection"] == "podcycle.gpu.runpod_gateway" and through["podcycle_ssh_via"] == "gateway"
    assert through["ansible_runpod_gateway_user"].startswith(f"{through['podcycle_id']}-") and through["ansible_runpod_gateway_port"] == 22
    assert through["ansible_runpod_gateway_known_hosts_file"].endswith("/runs/r1/gateway_known_hosts")
    assert through["ansible_ssh_private_key_file"] == direct["ansible_ssh_private_key_file"] and through["ansible_control_path_dir"]
    assert not {"ansible_host", "ansible_port", "ansible_ssh_common_args"} & set(through)
    assert "ansible_connection" not in direct and direct["podcycle_ssh_via"] == "direct" and direct["podcycle_gateway"]["via"] == "gateway"
    monkeypatch.setenv("RUNPOD_SSH_HOST", "gateway.example.org")
    again = load(rented).hosts["r1-0"].vars
    assert "ansible_runpod_gateway_host" not in again and again["ansible_runpod_gateway_port"] == 22, "the environment has the last word"


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({"filters": {"run_id": "r1"}}, {"r1-0", "r1-1"}),
        ({"filters": {"run_id": ["r1", "r2"], "index": [0]}}, {"r1-0", "r2-0"}),
        ({"filters": {"gpu": ["NVIDIA L40S"]}}, {"r2-0"}),
        ({"exclude_filters": {"run_id": ["r1"], "index": [0]}}, {"r1-1", "r2-0"}),
        ({"filters": {"run_id": "r1"}, "exclude_filters": {"index": 1}}, {"r1-0"}),
        ({"filters": {"no_such_field": "x"}}, set()),
        ({"states": ["stopped"]}, set()),
    ],
)
def test_filters(load: Callable[..., Any], rented: dict[str, Any], options: dict[str, Any], hosts: set[str]) -> None:
    assert set(load(rented, **options).hosts) == hosts


def test_only_ours_unless_all_are_asked_for(load: Callable[..., Any], rented: dict[str, Any], rehearsal: Any) -> None:
    rehearsal.control("POST", "/pods/bulk", {"count": 1, "name_prefix": "all"})
    rehearsal.control("POST", "/pods/bulk", {"count": 1, "name_prefix": "somebody's pod"})
    assert set(load(rented).hosts) == {"r1-0", "r1-1", "r2-0"}
    names = set(load(rented, scope="all", hostname="name").hosts)
    assert len(names) == 5 and "all00000" in names and not any("somebody" in name for name in names), "a name that is no host name gives way to the id"
    ids = {pod["id"] for pod in rehearsal.pods()}
    assert set(load(rented, scope="all", hostname="id").hosts) == ids


@pytest.mark.parametrize("name", ["localhost", "all", "ungrouped"])
def test_no_pod_takes_a_name_that_ansible_knows(load: Callable[..., Any], stub: Any, told: Any, tmp_path: Path, name: str) -> None:
    stub.tell(told(200, {"pods": [{**POD, "id": name, "name": name}]}))
    for hostname in ("name", "id"):
        data = load({"endpoint": stub.url, "state_dir": str(tmp_path / "state")}, scope="all", hostname=hostname)
        assert name not in data.hosts and len(data.hosts) == 1


def test_two_pods_of_one_place_are_both_there(load: Callable[..., Any], stub: Any, told: Any, tmp_path: Path) -> None:
    name = "podcycle-r1-pod-0-0a1b2c3d-9f8e7d6"
    stub.tell(told(200, {"pods": [{**POD, "id": "a", "name": name + "a"}, {**POD, "id": "b", "name": name + "b"}]}))
    assert set(load({"endpoint": stub.url, "state_dir": str(tmp_path / "state")}, scope="all").hosts) == {"r1-0", "r1-0-b"}


def ansible(words: list[str], tmp_path: Path, *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_HOME": str(tmp_path / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {}),
    }  # fmt: skip
    return subprocess.run([str(BIN / words[0]), *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)


def write(tmp_path: Path, **options: Any) -> Path:
    folder = tmp_path / "inventory"
    folder.mkdir(exist_ok=True)
    cloud = {"cloud": "runpod", "api_key": KEY, "state_dir": str(tmp_path / "state"), **options.pop("cloud", {})}
    (folder / "pods.yml").write_text(yaml.safe_dump({"plugin": "podcycle.gpu.pods", "clouds": [cloud], **options}))
    return folder


def test_a_strangers_text_is_never_a_template(stub: Any, told: Any, tmp_path: Path) -> None:
    stub.tell(told(200, {"pods": [{**POD, "name": f"x{HOSTILE}"}]}))
    folder = write(tmp_path, cloud={"endpoint": stub.url}, scope="all", compose={"copied": "podcycle_image"}, keyed_groups=[{"key": "podcycle_region"}])
    play = tmp_path / "play.yml"
    play.write_text(yaml.safe_dump([{
        "hosts": "p4x8demo1q", "gather_facts": False, "connection": "local",
        "tasks": [{"ansible.builtin.debug": {"msg": "GOT {{ podcycle_image }} AND {{ copied }} AND {{ podcycle_name }}"}}],
    }]))  # fmt: skip
    done = ansible(["ansible-playbook", "-i", str(folder), str(play)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"GOT {HOSTILE} AND {HOSTILE} AND x{HOSTILE}" in " ".join(done.stdout.split())
    assert not Path("/tmp/podcycle-pwned").exists()


def test_an_endpoint_that_is_not_there(load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cloud = {"endpoint": f"http://127.0.0.1:{port}/v2", "state_dir": str(tmp_path / "state")}
    slept: list[float] = []
    monkeypatch.setattr(_http.SystemClock, "sleep", lambda clock, seconds: slept.append(seconds))
    assert set(load({**cloud, "absent_ok": True}).hosts) == set()
    assert slept == [], "what may be absent is asked for once"
    with pytest.raises(AnsibleParserError, match="cannot connect"):
        load(cloud)


def test_a_cloud_that_refuses_is_an_error_even_where_absence_is_not(load: Callable[..., Any], rehearsal: Any, tmp_path: Path) -> None:
    cloud = {"endpoint": rehearsal.url, "state_dir": str(tmp_path / "state"), "absent_ok": True}
    with pytest.raises(AnsibleParserError, match="401") as caught:
        load({**cloud, "api_key": "rpa_wrong_key"})
    assert "rpa_wrong_key" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, "Ansible prints a cause's sentence once more"
    rehearsal.fault("schema_changed", times=None, params={"drop": ["id"]})
    rehearsal.control("POST", "/pods/bulk", {"count": 1})
    with pytest.raises(AnsibleParserError, match="without a usable id"):
        load(cloud)


def test_the_command_fails_with_a_status_that_is_not_zero(rehearsal: Any, tmp_path: Path) -> None:
    folder = write(tmp_path, cloud={"endpoint": rehearsal.url, "api_key": "rpa_wrong_key"})
    done = ansible(["ansible-inventory", "-i", str(folder), "--list"], tmp_path)
    assert done.returncode != 0 and "HTTP 401" in done.stderr and "rpa_wrong_key" not in done.stdout + done.stderr


def test_no_key_is_one_sentence_and_only_a_warning_for_playbooks(tmp_path: Path) -> None:
    real, home = ROOT / "inventories" / "runpod", tmp_path / "home"
    home.mkdir()
    done = ansible(["ansible-inventory", "-i", str(real), "--list"], home)
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.strip().splitlines()) == 1 and "pods.yml: no key for runpod: looked at" in done.stderr
    book = tmp_path / "book.yml"
    book.write_text("- hosts: localhost\n  gather_facts: false\n  tasks: [{debug: {msg: went on}}]\n", encoding="utf-8")
    done = ansible(["ansible-playbook", "-i", str(real), str(book)], home)
    assert done.returncode == 0 and "went on" in done.stdout and "lists no pods: no key for runpod" in done.stderr


def test_the_cache_is_used_and_holds_no_key(load: Callable[..., Any], rented: dict[str, Any], rehearsal: Any, tmp_path: Path) -> None:
    cached = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache"), "cache_timeout": 60}
    first = load(rented, **cached)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files and all(KEY not in path.read_text() for path in files)
    rehearsal.control("DELETE", "/requests")
    second = load(rented, **cached)
    assert rehearsal.requests() == []
    assert {name: host.vars for name, host in second.hosts.items()} == {name: host.vars for name, host in first.hosts.items()}
