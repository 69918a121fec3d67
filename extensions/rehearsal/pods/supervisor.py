# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that is one pod: it holds the pod's namespaces, starts its pid 1 and its SSH server, and ends everything in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh

from rehearsal import procs
from rehearsal.pods import layout, sandbox, sshd

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)


class Supervisor:
    """One pod, from container start to container end. A process that left its pid namespace open for children cannot have threads,
    so the SSH server is a child, inside."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.pod_dir = Path(spec["pod_dir"])
        self.environment: dict[str, str] = spec["env"]
        self.isolation: str = spec["isolation"]
        self.has_key = layout.write_authorized_keys(self.pod_dir, self.environment)
        self.session_environment = layout.session_environment(self.pod_dir)
        self.init_pid: int | None = None
        self.sshd_pid: int | None = None

    def enclose(self) -> None:
        sandbox.become_subreaper()
        if self.isolation == "namespaces":
            fence = sandbox.Fence(self.pod_dir, Path(self.spec["state_dir"]), layout.passwd(self.pod_dir), layout.kept_paths())
            sandbox.enter(fence)
            self.init_pid = sandbox.start_init({"HOME": "/root", "PATH": layout.SYSTEM_PATH} | self.environment)
            sandbox.drop_mount_right()
        else:
            self.session_environment = self.environment | self.session_environment
        os.chdir(self.pod_dir / "home")
        os.environ.clear()
        os.environ.update(self.session_environment)

    def start_sshd(self, sock: socket.socket, key: asyncssh.SSHKey) -> None:
        delay = self.spec["ssh_delay"] if self.has_key else None
        pid = os.fork()
        if pid != 0:
            self.sshd_pid = pid
            return
        sandbox.die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os._exit(sshd.main(sshd.Sshd(self.pod_dir, self.session_environment, key), sock, delay))

    def watch(self) -> None:
        """Until told to end: SIGTERM politely, SIGINT at once; SIGUSR1 changes the host key."""
        while True:
            number = signal.sigwait(WATCHED)
            if number == signal.SIGCHLD:
                reap()
            elif number == signal.SIGUSR1 and self.sshd_pid is not None:
                procs.send(self.sshd_pid, signal.SIGUSR1)
            else:
                self.end(float(self.spec["grace_seconds"]) if number == signal.SIGTERM else 0.0)
                return

    def end(self, grace: float) -> None:
        if grace > 0:
            self._terminate_all()
            end = time.monotonic() + grace
            while time.monotonic() < end and self._busy():
                time.sleep(0.02)
                reap()
        if self.init_pid is not None:
            # The kernel ends the whole namespace with its pid 1, which itself lasts until every child of this process has been waited for.
            procs.send(self.init_pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
            return
        while below := procs.descendants(os.getpid()):
            for pid in below:
                procs.send(pid, signal.SIGKILL)
            time.sleep(0.01)
            reap()

    def _terminate_all(self) -> None:
        if self.init_pid is None:
            for pid in procs.descendants(os.getpid()):
                procs.send(pid, signal.SIGTERM)
            return
        # Only a process inside the pid namespace can signal all of it; children of this one are inside.
        child = os.fork()
        if child == 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)

    def _busy(self) -> bool:
        """Whether anything but pid 1 and the SSH server is left; inside the namespace these two came first."""
        if self.init_pid is None:
            return any(pid != self.sshd_pid for pid in procs.descendants(os.getpid()))
        return any(name.isdigit() and int(name) > 2 for name in os.listdir("/proc"))


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass


def run(spec: Mapping[str, Any], reply: socket.socket) -> None:
    """Body of the forked supervisor; it answers over `reply` once the port is known and then lives on its own."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    started = procs.start_ticks(os.getpid())
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    key = asyncssh.generate_private_key("ssh-ed25519")
    pod = Supervisor({**spec, "env": {**spec["env"], "RUNPOD_TCP_PORT_22": str(port)}})
    pod.enclose()
    pod.start_sshd(sock, key)
    answer = {
        "pid": os.getpid(),
        "pid_started": started,
        "port": port,
        "host_key": key.export_public_key("openssh").decode("ascii").strip(),
        "host_key_fingerprint": key.get_fingerprint("sha256"),
        "isolation": pod.isolation,
        "sshd": pod.has_key and spec["ssh_delay"] is not None,
    }
    reply.sendall(json.dumps(answer).encode() + b"\n")
    reply.close()
    pod.watch()
