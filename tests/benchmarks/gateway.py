# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway beside direct SSH, to the same rehearsal pod in one run: seconds per command, transfer rates, what keeping a session saves.

Usage: python tests/benchmarks/gateway.py [--commands 20] [--mib 4] [--runs 3] [--latency-ms 0]

Direct SSH is ssh and sftp over a living ControlMaster, as Ansible uses them. `--latency-ms` is added by the gateway to what is typed, and to nothing else.
Medians; the ratio is gateway to direct.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / ".collections")]
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_link import Address, Limits, Link  # noqa: E402
from support.cloud import KEY, Cloud  # noqa: E402


class Multiplexed(Address):
    """The same through a ControlMaster: what keeping a connection alone would save."""

    def words(self, connect_seconds: float) -> list[str]:
        options = ["ControlMaster=auto", "ControlPersist=60"]
        path = f"ControlPath={Path(self.known_hosts_file).with_name('gateway_master')}"
        words = [path if word == "ControlPath=none" else word for word in super().words(connect_seconds)]
        return [words[0], *(word for option in options for word in ("-o", option)), *words[1:]]


class Scene:
    """A pod with both ways to it."""

    def __init__(self, cloud: Cloud, folder: Path, latency_ms: int) -> None:
        self.folder = folder
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        public = self.key.with_suffix(".pub").read_text(encoding="ascii").strip()
        cloud.control("PUT", "/account_keys", {"keys": [public]})
        cloud.control("POST", "/gateway", {"latency_ms": latency_ms})
        self._endpoint = cloud.endpoint
        body = {"name": "b", "image": "x", "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1}, "disk": 20, "ports": ["22/tcp"], "env": {"PUBLIC_KEY": public}}
        pod = self._call("POST", "/pods", body)
        while not (pod["ssh"]["direct"] and pod["runtime"]):
            time.sleep(0.1)
            pod = self._call("GET", f"/pods/{pod['id']}")
        self.there = cloud.state_dir / "pods" / pod["id"] / "workspace"
        direct, self.proxy = pod["ssh"]["direct"], pod["ssh"]["proxy"]
        self.options = [
            "-F", "none", "-o", f"UserKnownHostsFile={folder}/hosts", "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
            "-i", str(self.key),
        ]  # fmt: skip
        self._master = ["-o", f"ControlPath={folder}/master", "-o", f"Port={direct['port']}"]
        self.target = f"root@{direct['host']}"
        while self.ssh("-o", "ControlMaster=yes", "-o", "ControlPersist=600", self.target, "true").returncode:
            time.sleep(0.2)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._endpoint + path, data, {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read())

    def ssh(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ssh", *self.options, *self._master, *words], input=stdin, capture_output=True, timeout=120, check=False)

    def sftp(self, order: str) -> None:
        subprocess.run(["sftp", *self.options, *self._master, "-b", "-", self.target], input=order.encode(), capture_output=True, timeout=300, check=True)

    def link(self, persist: float, kind: type[Address] = Address) -> Link:
        address = kind(self.proxy["host"], self.proxy["port"], self.proxy["username"], str(self.key), str(self.folder / "gateway_hosts"))
        return Link(address, Limits(persist_seconds=persist, folder=str(self.folder / "kept")))


def median(work: Callable[[], object], times: int) -> float:
    taken = []
    for _turn in range(times):
        began = time.monotonic()
        work()
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


def row(what: str, gateway: float, direct: float, mib: float = 0.0) -> None:
    rate = f"  {mib / gateway:6.2f} beside {mib / direct:7.2f} MiB/s" if mib else ""
    print(f"{what:44} gateway {gateway:7.3f} s  direct {direct:7.3f} s  ratio {gateway / direct:6.1f}{rate}", flush=True)


def measure(scene: Scene, commands: int, mib: int, runs: int) -> None:
    kept = scene.link(600)
    kept.run(b"true")

    def task() -> None:
        """As a task of Ansible does: take the session that was kept, run, and leave it."""
        one = scene.link(600)
        one.run(b"true")
        one.rest()

    def fresh() -> None:
        one = scene.link(0)
        one.run(b"true")
        one.rest()

    def multiplexed() -> None:
        one = scene.link(0, Multiplexed)
        one.run(b"true")
        one.rest()

    payload = os.urandom(150_000).hex().encode()
    direct = median(lambda: scene.ssh(scene.target, "true"), commands)
    row("a command in an open session", median(lambda: kept.run(b"true"), commands), direct)
    task()
    row("a command in a session that was kept", median(task, commands), direct)
    row("a command in a new session", median(fresh, max(3, commands // 4)), direct)
    multiplexed()
    row("a command in a new session over a master", median(multiplexed, max(3, commands // 4)), direct)
    row("a command with 300 KB of input", median(lambda: kept.run(b"cat >/dev/null", payload), runs), median(
        lambda: scene.ssh(scene.target, "cat >/dev/null", stdin=payload), runs))  # fmt: skip
    row("a command with 1 MB of output", median(lambda: kept.run(b"head -c 1000000 /dev/urandom"), runs), median(
        lambda: scene.ssh(scene.target, "head -c 1000000 /dev/urandom"), runs))  # fmt: skip
    source = scene.folder / "source"
    source.write_bytes(os.urandom(mib << 20))
    size = source.stat().st_size

    def put() -> None:
        with source.open("rb") as stream:
            kept.put(stream, size, str(scene.there / "by_gateway"))

    row(f"{mib} MiB there", median(put, runs), median(lambda: scene.sftp(f"put {source} {scene.there}/by_sftp\n"), runs), mib)
    row(f"{mib} MiB back", median(lambda: kept.fetch(f"{scene.there}/by_gateway", scene.folder / "back"), runs), median(
        lambda: scene.sftp(f"get {scene.there}/by_sftp {scene.folder}/back_sftp\n"), runs), mib)  # fmt: skip
    if (scene.folder / "back").read_bytes() != source.read_bytes():
        raise SystemExit("the file that came back is another one")
    session = kept.session()
    print(f"window {session.pace.window} bytes, {session.pace.damaged} times sent again; load average {os.getloadavg()[0]:.1f}")
    kept.rest()
    scene.link(600).reset()
    scene.ssh("-O", "exit", scene.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=20)
    parser.add_argument("--mib", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="podcycle-bench-") as folder, Cloud("--time-scale", "10", process="process") as cloud:
        measure(Scene(cloud, Path(folder), options.latency_ms), options.commands, options.mib, options.runs)


if __name__ == "__main__":
    main()
