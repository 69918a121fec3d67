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
from rehearsal.pods import console, layout, sandbox, sshd

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCHLD)


class Supervisor:
    """One pod, from container start to container end. A process that left its pid namespace open for children cannot have threads,
    so the SSH server is a child, inside."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.pod_dir = Path(spec["pod_dir"])
        self.sock = listening_place(0)
        self.environment: dict[str, str] = {**spec["env"], "RUNPOD_TCP_PORT_22": str(self.port)}
        self.isolation: str = spec["isolation"]
        self.console = console.listen(Path(spec["state_dir"]), spec["pod_id"])
        self.has_key = layout.write_authorized_keys(self.pod_dir, self.environment)
        self.session_environment = layout.session_environment(self.pod_dir)
        self.init_pid: int | None = None
        self.sshd_pid: int | None = None
        self.console_pid: int | None = None
        self.restarted = False
        self.key = asyncssh.generate_private_key("ssh-ed25519")

    def enclose(self) -> None:
        sandbox.become_subreaper()
        volume = self.spec.get("volume")
        if self.isolation == "namespaces":
            mount = (Path(volume["source"]), Path(volume["target"])) if volume else None
            fence = sandbox.Fence(self.pod_dir, Path(self.spec["state_dir"]), layout.passwd(self.pod_dir), layout.kept_paths(), mount)
            sandbox.enter(fence)
            self.init_pid = sandbox.start_init({"HOME": "/root", "PATH": layout.SYSTEM_PATH} | self.environment)
            sandbox.drop_mount_right()
        else:
            self.session_environment = self.environment | self.session_environment
            if volume:
                layout.link_volume(Path(volume["source"]), Path(volume["target"]))
        os.chdir(self.pod_dir / "home")
        os.environ.clear()
        os.environ.update(self.session_environment)

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    def start_sshd(self, delay: float | None) -> None:
        pid = os.fork()
        if pid != 0:
            self.sshd_pid = pid
            return
        sandbox.die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os._exit(sshd.main(sshd.Sshd(self.pod_dir, self.session_environment, self.key), self.sock, delay))

    def start_console(self) -> None:
        """Shells for the gateway; they see the container's environment."""
        pid = os.fork()
        if pid != 0:
            self.console_pid = pid
            self.console.close()
            return
        sandbox.die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self.sock.close()
        console.serve(self.console, self.environment | self.session_environment)

    def cut_ssh(self) -> None:
        """End the SSH server and its connections; what was started through it lives on. Its port refuses until restore_ssh."""
        if self.sshd_pid is None:
            return
        procs.send(self.sshd_pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.sshd_pid, 0)
        self.sshd_pid = None
        port = self.port
        self.sock.close()
        self.sock = listening_place(port)

    def restore_ssh(self) -> None:
        if self.sshd_pid is None and self.has_key:
            self.start_sshd(0.0)
            self.restarted = True

    def watch(self) -> None:
        """Until told to end: SIGTERM politely, SIGINT at once; SIGUSR1 changes the host key, SIGUSR2 cuts SSH, SIGHUP brings it back."""
        while True:
            number = signal.sigwait(WATCHED)
            if number == signal.SIGCHLD:
                reap()
            elif number == signal.SIGUSR1 and self.sshd_pid is not None:
                procs.send(self.sshd_pid, signal.SIGUSR1)
            elif number == signal.SIGUSR2:
                self.cut_ssh()
            elif number == signal.SIGHUP:
                self.restore_ssh()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self.end(float(self.spec["grace_seconds"]) if number == signal.SIGTERM else 0.0)
                return

    def end(self, grace: float) -> None:
        if self.restarted:
            # Only the first SSH server has the process number that _busy() knows.
            self.cut_ssh()
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
        """Whether anything but pid 1, the SSH server and the console is left; inside the namespace these three came first."""
        if self.init_pid is None:
            return any(pid not in (self.sshd_pid, self.console_pid) for pid in procs.descendants(os.getpid()))
        return any(name.isdigit() and int(name) > 3 for name in os.listdir("/proc"))


def listening_place(port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


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
    pod = Supervisor(spec)
    pod.enclose()
    pod.start_sshd(spec["ssh_delay"] if pod.has_key else None)
    pod.start_console()
    answer = {
        "pid": os.getpid(),
        "pid_started": started,
        "port": pod.port,
        "host_key": pod.key.export_public_key("openssh").decode("ascii").strip(),
        "host_key_fingerprint": pod.key.get_fingerprint("sha256"),
        "isolation": pod.isolation,
        "sshd": pod.has_key and spec["ssh_delay"] is not None,
    }
    reply.sendall(json.dumps(answer).encode() + b"\n")
    reply.close()
    pod.watch()
