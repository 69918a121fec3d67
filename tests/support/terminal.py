# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A login shell on a terminal of this machine, and between it and the client somebody who may do to the bytes what he likes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import termios
import threading
from collections.abc import Callable

Change = Callable[[bytes], bytes]


def untouched(content: bytes) -> bytes:
    return content


class TerminalShell:
    """`up` and `down` change what goes to the shell and what comes from it; raising EOFError there cuts the line."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.up: Change = untouched
        self.down: Change = untouched
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._ours, self.theirs = socket.socketpair()
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @property
    def ends(self) -> tuple[int, int]:
        """Reader and writer for a client."""
        return self.theirs.fileno(), self.theirs.fileno()

    def _carry(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                ready = select.select([self._ours.fileno(), self._master, self._stop], [], [])[0]
                if self._stop in ready:
                    break
                if self._ours.fileno() in ready:
                    content = self._ours.recv(65536)
                    if not content:
                        break
                    view = memoryview(self.up(content))
                    while view:
                        view = view[os.write(self._master, view[:512]) :]
                        self._back()
                if self._master in ready:
                    self._back()
        self._ours.close()
        os.close(self._master)

    def _back(self) -> None:
        """What the shell says goes back also while it is typed to; never waits, since whoever typed may have taken it already."""
        if select.select([self._master], [], [], 0)[0]:
            content = self.down(os.read(self._master, 65536))
            if content:
                self._ours.sendall(content)

    def close(self) -> None:
        """The line is cut, and the shell hung up."""
        with contextlib.suppress(OSError):
            os.write(self._stopper, b"x")
        self._thread.join(timeout=10)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=5)
        self.theirs.close()
        for number in (self._stop, self._stopper):
            with contextlib.suppress(OSError):
                os.close(number)
