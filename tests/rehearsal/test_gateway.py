# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal cloud's gateway refuses what the real one refuses, and the link gets through it all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_link import Address, Limits, Link, Refused, StrangeGateway
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import SessionLost
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import close_masters

MakeLink = Callable[..., Link]


@pytest.fixture
def pod(cloud: Any) -> Any:
    """A pod without any port: there is no direct way to it."""
    cloud.control("PUT", "/account_keys", {"keys": [cloud.key_file.with_suffix(".pub").read_text(encoding="ascii")]})
    return cloud.running(cloud.create(ports=[])["id"])


@pytest.fixture
def link(cloud: Any, pod: Any, tmp_path: Path) -> Iterator[MakeLink]:
    made: list[Link] = []

    def make(key: Path | None = None, persist: float = 0, silence: float = 20) -> Link:
        proxy = pod["ssh"]["proxy"]
        address = Address(proxy["host"], proxy["port"], proxy["username"], str(key or cloud.key_file), str(tmp_path / "known_hosts"))
        made.append(Link(address, Limits(15, 30, silence, persist, str(tmp_path / "cp"))))
        return made[-1]

    yield make
    for one in made:
        one.reset()


def ssh(cloud: Any, pod: Any, *words: str, user: str | None = None) -> subprocess.CompletedProcess[bytes]:
    proxy = pod["ssh"]["proxy"]
    command = [
        "ssh", "-F", "none", "-o", f"UserKnownHostsFile={cloud.key_file.with_name('gateway')}", "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes",
        "-o", "LogLevel=ERROR", "-o", "ExitOnForwardFailure=yes", "-i", str(cloud.key_file), "-p", str(proxy["port"]), "-l", user or proxy["username"], *words,
    ]  # fmt: skip
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)


def test_the_gateway_is_as_narrow_as_the_real_one(cloud: Any, pod: Any) -> None:
    assert pod["ssh"]["direct"] is None
    plain = ssh(cloud, pod, "127.0.0.1", "echo hello")
    assert plain.returncode == 1 and b"Your SSH client doesn't support PTY" in plain.stdout and b"hello" not in plain.stdout
    sftp = ssh(cloud, pod, "-s", "127.0.0.1", "sftp")
    assert sftp.returncode == 255 and b"subsystem request failed on channel 0" in sftp.stderr
    nobody = ssh(cloud, pod, "-tt", "127.0.0.1", user="nobody-0a1b2c3d")
    assert nobody.returncode == 1 and b"no running pod" in nobody.stdout
    proxy = pod["ssh"]["proxy"]
    words = ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={cloud.key_file.with_name('gateway')}"]
    forwarded = subprocess.run(
        ["ssh", *words, "-i", str(cloud.key_file), "-p", str(proxy["port"]), "-W", f"127.0.0.1:{cloud.port}", f"{proxy['username']}@127.0.0.1"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert forwarded.returncode != 0 and b"forwarding failed" in forwarded.stderr


def test_commands_and_files(link: MakeLink, pod: Any, cloud: Any, tmp_path: Path) -> None:
    way = link()
    done = way.run(b"exit 7")
    assert (done.status, done.stdout, done.stderr) == (7, b"", b"")
    assert f"RUNPOD_POD_ID={pod['id']}\n".encode() in way.run(b"env").stdout
    content = os.urandom(300_000)
    assert way.run(b"cat", content).stdout == content
    source = tmp_path / "source"
    source.write_bytes(content)
    there = cloud.pod_dir(pod["id"]) / "workspace" / "file"
    with source.open("rb") as stream:
        way.put(stream, len(content), str(there))
    assert there.read_bytes() == content
    way.fetch(str(there), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content and way.opened == 1


def test_only_the_accounts_keys_open_it_and_the_gateways_key_is_pinned(link: MakeLink, pod: Any, cloud: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    with pytest.raises(Refused, match="does not take the key"):
        link(other).run(b"true")
    assert link().run(b"true").status == 0
    pinned = (tmp_path / "known_hosts").read_text()
    name, kind, _key = pinned.split()
    (tmp_path / "known_hosts").write_text(f"{name} {kind} {other.with_suffix('.pub').read_text().split()[1]}\n")
    with pytest.raises(StrangeGateway, match="nothing was sent there"):
        link().run(b"true")


BEHAVIOURS: list[dict[str, int]] = [{"drain_kib_s": 64, "queue_kib": 8}, {"flip_every_kib": 32, "queue_kib": 0}, {"line_limit": 255, "latency_ms": 20}]


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=str)
def test_what_the_gateway_mangles_arrives_whole(link: MakeLink, cloud: Any, behaviour: dict[str, int]) -> None:
    cloud.control("POST", "/gateway", behaviour)
    content = os.urandom(100_000)
    way = link()
    assert way.run(b"cat", content).stdout == content
    session = way.session()
    assert "flip_every_kib" not in behaviour or session.pace.damaged > 0


def test_long_lines_and_long_bursts_are_really_lost(cloud: Any, pod: Any) -> None:
    """The gateway's own doing, shown without the link."""
    cloud.control("POST", "/gateway", {"line_limit": 1000})
    proxy = pod["ssh"]["proxy"]
    command = [
        "ssh", "-F", "none", "-tt", "-o", f"UserKnownHostsFile={cloud.key_file.with_name('gateway')}", "-o", "StrictHostKeyChecking=accept-new", "-o",
        "BatchMode=yes", "-o", "LogLevel=ERROR", "-i", str(cloud.key_file), "-p", str(proxy["port"]), f"{proxy['username']}@127.0.0.1",
    ]  # fmt: skip
    typed = f"stty raw -echo; head -n 1 | wc -c; exit 9\n{'x' * 3000}\n".encode()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        time.sleep(1)
        first, rest = typed.split(b"\n", 1)
        process.stdin.write(first + b"\n")
        process.stdin.flush()
        time.sleep(1)
        process.stdin.write(rest)
        process.stdin.flush()
        said = process.stdout.read()
    assert process.returncode == 9 and b"1001" in said and b"REHEARSAL GATEWAY" in said


def test_a_transfer_goes_on_after_the_session_was_cut(link: MakeLink, pod: Any, cloud: Any, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    (tmp_path / "source").write_bytes(content)
    there = cloud.pod_dir(pod["id"]) / "workspace" / "file"
    cloud.control("POST", "/gateway", {"cut_after_kib": 120})
    way = link()
    with (tmp_path / "source").open("rb") as stream:
        way.put(stream, len(content), str(there))
    assert there.read_bytes() == content and way.opened == 2
    assert [path.name for path in there.parent.iterdir()] == ["file"]


def test_a_mute_session_is_unreachable_and_a_file_still_arrives(link: MakeLink, pod: Any, cloud: Any, tmp_path: Path) -> None:
    cloud.control("POST", "/gateway", {"mute_after_kib": 10})
    with pytest.raises(SessionLost):
        link(silence=3).run(b"cat", os.urandom(30_000))
    cloud.control("POST", "/gateway", {"mute_after_kib": 30})
    way = link(silence=3)
    (tmp_path / "source").write_bytes(b"x" * 50_000)
    with (tmp_path / "source").open("rb") as stream:
        way.put(stream, 50_000, str(cloud.pod_dir(pod["id"]) / "workspace" / "file"))
    assert way.opened == 2


def test_a_session_is_kept_for_the_next_process(link: MakeLink, cloud: Any, pod: Any, tmp_path: Path) -> None:
    first, second = link(persist=30), link(persist=30)
    before = cloud.control("GET", "/gateway")["sessions"]
    assert first.run(b"echo $PPID").status == 0
    first.rest()
    assert second.run(b"true").status == 0 and second.opened == 0
    assert cloud.control("GET", "/gateway")["sessions"] == before + 1
    second.rest()
    second.reset()
    assert second.run(b"true").status == 0 and second.opened == 1
    assert cloud.control("GET", "/gateway")["sessions"] == before + 2
    second.rest()
    assert len(list((tmp_path / "cp").iterdir())) == 2
    assert close_masters(tmp_path / "cp") == 1 and not (tmp_path / "cp").exists(), "as when a pod is given back"


def test_a_kept_session_that_does_not_answer_is_opened_anew(link: MakeLink) -> None:
    way = link(persist=30, silence=3)
    assert way.run(b"true").status == 0
    pid = way.pid
    way.rest()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert way.run(b"echo again").stdout == b"again\n" and way.opened == 2
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_kept_session_whose_pod_restarted_is_opened_anew(link: MakeLink, cloud: Any, pod: Any) -> None:
    way = link(persist=30)
    assert way.run(b"true").status == 0
    way.rest()
    cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "restart"})
    cloud.running(pod["id"])
    assert way.run(b"echo again").stdout == b"again\n" and way.opened == 2
