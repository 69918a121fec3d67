# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who answers at a pod's address: real SSH servers whose host keys change and whose ports are recycled."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from ansible_collections.podcycle.gpu.plugins.action.run_event import look_closer
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint
from ansible_collections.podcycle.gpu.plugins.module_utils._run import OUT_OF_REACH, RunFolder, troubles
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess, close_masters, control_path_dir, known_hosts_of, make_key

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
POD, OTHER = f"podofatest{os.getpid()}", f"othersofatest{os.getpid()}"


class Anyone(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


class Machine:
    """An SSH server that answers every command with its name, and remembers the commands."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.commands: list[str | None] = []
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.listener: asyncssh.SSHAcceptor = self._do(self._listen())

    async def _listen(self) -> asyncssh.SSHAcceptor:
        keys = [asyncssh.generate_private_key("ssh-ed25519")]
        return await asyncssh.listen("127.0.0.1", self.port, server_factory=Anyone, server_host_keys=keys, process_factory=self._serve, reuse_address=True)

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def _serve(self, process: asyncssh.SSHServerProcess[str]) -> None:
        self.commands.append(process.command)
        process.stdout.write(f"I am {self.name}\n")
        process.exit(0)

    def change_key(self) -> None:
        self.listener.update(server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")])

    def leave_the_port(self) -> None:
        """Connections that are made live on."""

        async def close() -> None:
            self.listener.close()

        self._do(close())

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start(port: int) -> Iterator[Callable[[str], Machine]]:
    made: list[Machine] = []

    def begin(name: str) -> Machine:
        made.append(Machine(name, port))
        return made[-1]

    yield begin
    for pod_id in (POD, OTHER):
        close_masters(control_path_dir(pod_id))
    for machine in made:
        machine.end()


@pytest.fixture
def access(tmp_path: Path) -> SshAccess:
    make_key(tmp_path / "key", "a test")
    (tmp_path / "my run").mkdir()
    return SshAccess(tmp_path / "key", tmp_path / "my run" / "known_hosts")


def test_a_changed_host_key_is_refused_with_the_way_out(access: SshAccess, start: Callable[[str], Machine], port: int) -> None:
    machine, endpoint = start("pod"), Endpoint("127.0.0.1", port)
    assert access.probe(POD, endpoint) == "" and access.probe(POD, endpoint) == ""
    assert access.known_hosts_file.stat().st_mode & 0o077 == 0
    machine.change_key()
    machine.commands.clear()
    with pytest.raises(errors.StrangeHostKey) as caught:
        access.probe(POD, endpoint, run_id="r1")
    assert "give the pod back: ansible-playbook playbooks/stop.yml -e run_id=r1" in str(caught.value)
    assert str(caught.value).startswith(f"the SSH host key of pod {POD} is not the one seen at first contact") and machine.commands == []
    advised = re.search(r"forget the old key: (.*), and run again", str(caught.value))
    assert advised
    subprocess.run(shlex.split(advised.group(1)), check=True, capture_output=True)
    assert access.probe(POD, endpoint) == ""
    assert known_hosts_of(access.words(POD)) == str(access.known_hosts_file)


def ansible(tmp_path: Path, access: SshAccess, port: int, host: str) -> str:
    """What a host says to a bare command, or what Ansible says of it."""
    hosts = {
        name: {
            "ansible_host": "127.0.0.1", "ansible_port": port, "ansible_user": "root", "ansible_ssh_private_key_file": str(access.private_key_file),
            "ansible_ssh_common_args": access.words(pod_id), "ansible_control_path_dir": str(control_path_dir(pod_id)),
        }
        for name, pod_id in (("old", POD), ("new", OTHER))
    }  # fmt: skip
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment.update(ANSIBLE_CONFIG=str(tmp_path / "none.cfg"), ANSIBLE_HOME=str(tmp_path / "home"), PATH=f"{BIN}:{os.environ['PATH']}")
    command = [str(BIN / "ansible"), "-i", str(tmp_path / "hosts.json"), host, "-m", "ansible.builtin.raw", "-a", "hostname"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False)
    return done.stdout + done.stderr


def test_a_recycled_address_is_told_apart_while_a_master_to_the_old_pod_lives(
    access: SshAccess, start: Callable[[str], Machine], port: int, tmp_path: Path
) -> None:
    old, endpoint = start("the old pod"), Endpoint("127.0.0.1", port)
    assert access.probe(POD, endpoint) == ""
    assert "I am the old pod" in ansible(tmp_path, access, port, "old")
    assert list(control_path_dir(POD).iterdir()), "a master lives"
    old.leave_the_port()
    new = start("the new pod")
    assert access.probe(OTHER, endpoint) == ""
    assert "I am the new pod" in ansible(tmp_path, access, port, "new")
    assert close_masters(control_path_dir(POD)) == 1
    new.commands.clear()
    said = ansible(tmp_path, access, port, "old")
    assert "UNREACHABLE" in said and "I am" not in said and new.commands == []


def test_a_pod_that_fell_silent_is_asked_why(access: SshAccess, start: Callable[[str], Machine], port: int, tmp_path: Path) -> None:
    folder = RunFolder.of(tmp_path, "r1")
    folder.create("runpod", "http://127.0.0.1/v2")
    access = SshAccess(access.private_key_file, folder.path / "known_hosts")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = int(probe.getsockname()[1])
    machine = start("pod")
    for pod_id in (POD, OTHER):
        assert access.probe(pod_id, Endpoint("127.0.0.1", port)) == ""
    machine.change_key()
    hosts = ["r1-0", "r1-1", "r1-2", "r1-3"]
    about = {"ansible_host": "127.0.0.1", "ansible_port": str(port), "ansible_ssh_private_key_file": str(access.private_key_file)}
    known = [{"podcycle_id": POD}, {"podcycle_id": OTHER, "ansible_port": closed}, {"podcycle_id": "never-seen"}, {}]
    hostvars = {host: {**about, **row} for host, row in zip(hosts, known, strict=True)}
    folder.event("start", "started")
    for stage in ("converge", "collect"):
        folder.event(stage, "started")
        folder.event(stage, "ok", host="r1-3")
        look_closer(folder, stage, hosts, hostvars)
    found = [(trouble.stage, trouble.host, trouble.cause) for trouble in troubles(folder.since_start(), ("converge", "collect"), hosts)]
    assert {row[:2] for row in found} == {("converge", "r1-0"), ("converge", "r1-1"), ("converge", "r1-2")} and len(found) == 3
    causes = {host: cause for _stage, host, cause in found}
    assert causes["r1-0"].startswith(f"{OUT_OF_REACH}: the SSH host key of pod {POD} is not the one seen")
    assert causes["r1-1"].startswith(f"{OUT_OF_REACH}: no SSH at 127.0.0.1:{closed}") and causes["r1-2"] == OUT_OF_REACH


UNCHECKED = re.compile(
    r"StrictHostKeyChecking\W{1,4}(no|off|false)\b|(?<!Global)(?<!\w)UserKnownHostsFile\W{1,4}/dev/null|"
    r"host_key_checking\W{1,4}(false|no|off|0)\b|NoHostAuthentication",
    re.IGNORECASE,
)


@pytest.mark.parametrize("bad", ["-o StrictHostKeyChecking=no", "StrictHostKeyChecking off", '"UserKnownHostsFile=/dev/null"', "host_key_checking = False"])
def test_nothing_anywhere_disables_the_check_of_host_keys(bad: str) -> None:
    assert UNCHECKED.search(bad)
    places = ("plugins", "playbooks", "roles", "inventories", "extensions", "meta", "docs")
    files = [path for place in places for path in (ROOT / place).rglob("*") if path.suffix in (".py", ".yml", ".yaml", ".cfg", ".md", ".j2", ".sh")]
    files += [ROOT / name for name in ("ansible.cfg", "cycle.yml", "README.md", "Makefile")]
    assert len(files) > 100
    assert [str(path) for path in files if UNCHECKED.search(path.read_text(encoding="utf-8"))] == []
