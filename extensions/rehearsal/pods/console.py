# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Login shells in a pod for whoever hands in a terminal: what a container engine's exec is to the real gateway. Needs no sshd and no key."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path

# Socket addresses hold about 100 bytes; a path through an open folder is short.
VIA_DESCRIPTOR = "/proc/self/fd/{}/{}"


def place(state_dir: Path, pod_id: str) -> tuple[Path, str]:
    """The folder and the name of a pod's console socket."""
    return state_dir / "run", f"console-{pod_id}.sock"


def listen(state_dir: Path, pod_id: str) -> socket.socket:
    folder, name = place(state_dir, pod_id)
    (folder / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(VIA_DESCRIPTOR.format(number, name))
    finally:
        os.close(number)
    listener.listen(16)
    return listener


def connect(state_dir: Path, pod_id: str) -> socket.socket:
    """Raises OSError when the pod has no console."""
    folder, name = place(state_dir, pod_id)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        link.connect(VIA_DESCRIPTOR.format(number, name))
    except OSError:
        link.close()
        raise
    finally:
        os.close(number)
    return link


def serve(listener: socket.socket, environment: Mapping[str, str]) -> None:
    """For ever: one child for each shell; it answers with the shell's exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        link, _from = listener.accept()
        if os.fork() != 0:
            link.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError, ValueError, IndexError):
            shell(link, environment)
        os._exit(0)


def shell(link: socket.socket, environment: Mapping[str, str]) -> None:
    message, terminals, _flags, _address = socket.recv_fds(link, 4096, 1)
    wanted = json.loads(message)
    program = environment["SHELL"]
    child = subprocess.Popen(
        ["-" + os.path.basename(program)],
        executable=program,
        stdin=terminals[0],
        stdout=terminals[0],
        stderr=terminals[0],
        cwd="/",
        env={**environment, "TERM": str(wanted.get("term") or "dumb")},
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(terminals[0])
    link.sendall(f"{child.wait()}\n".encode())


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
