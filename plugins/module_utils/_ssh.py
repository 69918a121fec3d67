# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""First contact with a pod over SSH: its banner, a real login, and the host key pinned by it.

A key is accepted on first contact only, under an alias that is the pod's id; afterwards every
connection is strict. RunPod makes new host keys at each start, so a start of ours forgets the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError, StrangeHostKey, UsageError, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_park import close_park
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint
from ansible_collections.podcycle.gpu.plugins.module_utils._state import write_atomic

_MOST_BYTES = 1 << 20
_GATEWAY_NAMES = {"host": "RUNPOD_SSH_HOST", "port": "RUNPOD_SSH_PORT", "user": "RUNPOD_SSH_USER"}


@dataclass(frozen=True)
class SshAccess:
    """The key that opens a run's pods and the file that pins their host keys."""

    private_key_file: Path
    known_hosts_file: Path

    def arguments(self, pod_id: str, *, first_contact: bool = False) -> list[str]:
        """Options for ssh, the same for Ansible, rsync and our own probe."""
        return [
            "-o",
            f"UserKnownHostsFile={_quoted(self.known_hosts_file)}",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            f"StrictHostKeyChecking={'accept-new' if first_contact else 'yes'}",
            "-o",
            f"HostKeyAlias={pod_id}",
            "-o",
            "CheckHostIP=no",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityAgent=none",
            "-o",
            "ServerAliveInterval=15",
            "-o",
            "ServerAliveCountMax=4",
        ]

    def words(self, pod_id: str, *, first_contact: bool = False) -> str:
        """The same as one string, as Ansible's variables want it."""
        return shlex.join(self.arguments(pod_id, first_contact=first_contact))

    def pinned(self, pod_id: str) -> bool:
        return pod_id in self.all_pinned()

    def all_pinned(self) -> frozenset[str]:
        """The ids of all pods whose host keys are known."""
        return frozenset(line.split(" ", 1)[0] for line in self._lines())

    def forget(self, pod_id: str) -> None:
        lines = self._lines()
        kept = [line for line in lines if line.split(" ", 1)[0] != pod_id]
        if kept != lines:
            write_atomic(self.known_hosts_file, "".join(f"{line}\n" for line in kept))

    def _lines(self) -> list[str]:
        try:
            return self.known_hosts_file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def ask(
        self, pod_id: str, endpoint: Endpoint, command: str, timeout_seconds: float, *, first_contact: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one shell command on the pod and read the first MiB of what it says.

        Raises TimeoutExpired 10 s after `timeout_seconds`, which the connection may take.
        """
        words = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(timeout_seconds)}", "-o", "ControlPath=none"]
        words += ["-i", str(self.private_key_file), "-p", str(endpoint.port), *self.arguments(pod_id, first_contact=first_contact)]
        words += [f"{endpoint.user}@{endpoint.host}", command]
        try:
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError as err:
            raise StateError("the program ssh is not installed", hint="install openssh-client") from err
        said = {"stdout": b"", "stderr": b""}
        end = time.monotonic() + timeout_seconds + 10
        with child, selectors.DefaultSelector() as ready:
            for name in said:
                ready.register(getattr(child, name), selectors.EVENT_READ, name)
            try:
                while ready.get_map():
                    for key, _mask in ready.select(max(0.0, end - time.monotonic())):
                        piece = os.read(key.fd, 65536)
                        said[key.data] += piece
                        if not piece:
                            ready.unregister(key.fileobj)
                    if time.monotonic() >= end:
                        raise subprocess.TimeoutExpired("ssh", timeout_seconds + 10)
                    if max(map(len, said.values())) > _MOST_BYTES:
                        break
                else:
                    child.wait(max(0.1, end - time.monotonic()))
            finally:
                child.kill()
        return subprocess.CompletedProcess(words, child.returncode, said["stdout"][:_MOST_BYTES], said["stderr"][:_MOST_BYTES])

    def probe(self, pod_id: str, endpoint: Endpoint, timeout_seconds: float = 10.0, run_id: str = "") -> str:
        """Empty when a login works and the host key is pinned, else what is wrong for now; raises StrangeHostKey."""
        trouble = banner_trouble(endpoint, timeout_seconds)
        if trouble:
            return trouble
        try:
            done = self.ask(pod_id, endpoint, "true", timeout_seconds, first_contact=not self.pinned(pod_id))
        except subprocess.TimeoutExpired:
            return "the SSH login did not end"
        if done.returncode == 0:
            self.known_hosts_file.chmod(0o600)
            return ""
        said = done.stderr.decode("utf-8", "replace")
        stranger = identity_trouble(said, pod_id, str(self.known_hosts_file), run_id)
        if stranger:
            raise StrangeHostKey(stranger, pod_id=pod_id)
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith("Warning: Permanently added")]
        return clean_text(lines[-1] if lines else f"ssh ended with status {done.returncode}", 200)


def identity_trouble(said: str, pod_id: str, known_hosts_file: str, run_id: str = "") -> str:
    """The sentence for a person when ssh refused the pod's host key, from what ssh said; else empty."""
    if "IDENTIFICATION HAS CHANGED" not in said and "Host key verification failed" not in said:
        return ""
    return (
        f"the SSH host key of pod {pod_id} is not the one seen at first contact: another machine may answer at its address, so nothing was sent there; "
        f"if you restarted the pod yourself, forget the old key: ssh-keygen -R {shlex.quote(pod_id)} -f {shlex.quote(known_hosts_file)}, "
        f"and run again; otherwise give the pod back: ansible-playbook playbooks/stop.yml -e run_id={shlex.quote(run_id or 'ID')}"
    )


def known_hosts_of(ssh_args: str) -> str:
    """The file of pinned keys that SSH arguments name."""
    options = (word.removeprefix("UserKnownHostsFile=") for word in shlex.split(ssh_args) if word.startswith("UserKnownHostsFile="))
    return next(options, "~/.ssh/known_hosts").strip('"')


def _quoted(path: Path) -> str:
    """ssh splits a file option at spaces, unless it stands in double quotes."""
    return f'"{path}"' if " " in str(path) else str(path)


def banner_trouble(endpoint: Endpoint, timeout_seconds: float) -> str:
    """Empty when an SSH server says hello: a listed port can be minutes ahead of its sshd."""
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_seconds) as link:
            link.settimeout(timeout_seconds)
            hello = link.recv(64)
    except OSError as err:
        return f"no SSH at {endpoint.host}:{endpoint.port} ({clean_text(err, 80)})"
    return "" if hello.startswith(b"SSH-") else f"{endpoint.host}:{endpoint.port} does not speak SSH"


def make_key(path: Path, comment: str) -> str:
    """The public half of the run's ed25519 key, made when missing."""
    public = path.with_name(path.name + ".pub")
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True)
        except FileNotFoundError as err:
            raise StateError("the program ssh-keygen is not installed", hint="install openssh-client") from err
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as err:
            raise StateError(f"cannot make the SSH key {path}: {clean_text(getattr(err, 'stderr', b'') or err, 200)}") from err
    return public.read_text(encoding="utf-8").strip()


def masters_base() -> Path:
    """The private folder below which each pod has one for its SSH masters."""
    return _private(Path("/tmp") / f"podcycle-{os.geteuid()}")


def masters_name(pod_id: str, generation: str = "") -> str:
    """Short, since unix sockets hold about 100 bytes."""
    return hashlib.sha256(f"{pod_id}{generation}".encode()).hexdigest()[:10]


def control_path_dir(pod_id: str, generation: str = "") -> Path:
    """A folder of its own for the pod's SSH masters.

    Ansible names a master after host, port and user, so a pod on a recycled address would be
    reached through the old pod's living master if they shared a folder.
    """
    return _private(masters_base() / masters_name(pod_id, generation))


def _private(folder: Path) -> Path:
    """The folder, made when missing and surely ours alone."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    info = folder.lstat()
    if info.st_uid != os.geteuid() or folder.is_symlink() or info.st_mode & 0o077:
        raise StateError(f"{folder} is not a private folder of yours", hint=f"remove it: rm -r {folder}")
    return folder


def close_masters(folder: Path) -> int:
    """Ask every SSH master in the folder to end; returns how many there were."""
    count = 0
    for place in folder.glob("gw-??????????") if folder.is_dir() else ():
        count += close_park(str(place))
    for master in folder.glob("*") if folder.is_dir() else ():
        if master.name.startswith("gw-"):
            with contextlib.suppress(OSError):
                master.unlink()
            continue
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["ssh", "-F", "none", "-o", f"ControlPath={master}", "-O", "exit", "none"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=5,
                check=False,
            )
        with contextlib.suppress(OSError):
            master.unlink()
        count += 1
    with contextlib.suppress(OSError):
        folder.rmdir()
    return count


def gateway_known_hosts(access: SshAccess) -> Path:
    """The gateway's key is pinned beside those of the run's pods, in a file of its own."""
    return access.known_hosts_file.with_name("gateway_known_hosts")


def gateway_overrides() -> dict[str, Any]:
    """What RUNPOD_SSH_HOST and the like in the environment put before the API's word on where the gateway is; raises UsageError."""
    found = {}
    for name, variable in _GATEWAY_NAMES.items():
        text = os.environ.get(variable)
        if not text:
            continue
        given: dict[str, Any] = {"host": "gateway", "port": 22, name: text}
        place = Endpoint.parse(**given)
        if place is None:
            said = f"the environment variable {variable} is {clean_text(text, 60)!r}, which is no {name} of a gateway"
            raise UsageError(said, hint=f"mend it, or: unset {variable}")
        found[name] = getattr(place, name)
    return found


def gateway_variables(endpoint: Endpoint, access: SshAccess) -> dict[str, Any]:
    """What Ansible is told of a pod behind the gateway; what the environment names is left to the connection plugin, which reads it there."""
    variables = {"host": endpoint.host, "port": endpoint.port, "user": endpoint.user}
    return {
        "ansible_connection": "podcycle.gpu.runpod_gateway",
        **{f"ansible_runpod_gateway_{name}": value for name, value in variables.items() if not os.environ.get(_GATEWAY_NAMES[name])},
        "ansible_runpod_gateway_known_hosts_file": str(gateway_known_hosts(access)),
    }
