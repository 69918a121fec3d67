# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SSH gateway of the rehearsal cloud, as awkward as the real one.

It asks for a terminal, ignores the command of an exec request, refuses subsystems and forwarding, knows the account's keys and not the pod's,
prints a banner, and mangles what is typed too fast or in lines that are too long. `Behaviour` says how, and the control API changes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rehearsal.cloud import LOOPBACK, Cloud
from rehearsal.keys import ACCOUNT
from rehearsal.pods import console

if TYPE_CHECKING:
    import asyncssh

NO_TERMINAL = b"Error: Your SSH client doesn't support PTY\r\n"
PORT_FACT = "gateway_port"


@dataclass
class Behaviour:
    """How the gateway treats a session's input; 0 means that it does not."""

    # Bytes of a line beyond this many are lost, as a terminal in its usual mode loses them.
    line_limit: int = 4095
    # What waits for the pod's terminal; bytes beyond are lost.
    queue_kib: int = 16
    # How fast the queue is emptied, in KiB/s; 0 is as fast as the pod reads.
    drain_kib_s: int = 0
    # One byte in so many KiB is changed.
    flip_every_kib: int = 0
    # The next session ends after so many KiB, once.
    cut_after_kib: int = 0
    # The next session falls silent after so many KiB, once.
    mute_after_kib: int = 0
    # How much later the pod sees what is typed.
    latency_ms: int = 0


class Gateway:
    """One listening place; asyncssh, which takes long to import, comes with the first connection."""

    def __init__(self, cloud: Cloud, state_dir: Path) -> None:
        self.cloud = cloud
        self.state_dir = state_dir
        self.behaviour = Behaviour()
        self.sessions = 0
        self._socket = self._bind()
        self._key_file = state_dir / "gateway_host_key"
        self._task: asyncio.Task[None] | None = None
        cloud.gateway_port = self.port
        cloud.at_reset.append(self._forget)

    def _bind(self) -> socket.socket:
        """The port of before, when it is free: clients pin the host key to it."""
        for port in (int(self.cloud.store.load_fact(PORT_FACT) or 0), 0):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((LOOPBACK, port))
            except OSError:
                sock.close()
                continue
            sock.listen(64)
            sock.setblocking(False)
            self.cloud.store.save_fact(PORT_FACT, int(sock.getsockname()[1]))
            return sock
        raise OSError("no port for the gateway")

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def _forget(self) -> None:
        self.behaviour = Behaviour()
        self.cloud.store.save_fact(PORT_FACT, self.port)

    def open(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._first)

    def _first(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._task = loop.create_task(self._listen())

    async def _listen(self) -> None:
        from rehearsal.gateway_door import listen

        await listen(self, self._socket, self._key_file)

    def describe(self) -> dict[str, Any]:
        keys = self.cloud.belongings.ssh_keys(ACCOUNT)
        return {"host": LOOPBACK, "port": self.port, "sessions": self.sessions, "keys": keys, "behaviour": asdict(self.behaviour)}

    def change(self, changes: dict[str, Any]) -> None:
        unknown = set(changes) - set(asdict(self.behaviour))
        if unknown:
            raise ValueError(f"the gateway has no {', '.join(sorted(unknown))}; known: {', '.join(asdict(self.behaviour))}")
        self.behaviour = Behaviour(**{**asdict(self.behaviour), **{name: int(value) for name, value in changes.items()}})


class Terminal:
    """A login shell in a pod on a terminal of ours, and what the gateway does to what is typed there."""

    def __init__(self, gateway: Gateway, channel: asyncssh.SSHServerChannel[bytes]) -> None:
        self._gateway = gateway
        self._channel = channel
        self._behaviour = gateway.behaviour
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._line = 0
        self._typed = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.muted = False
        self.master, self._slave = os.openpty()
        os.set_blocking(self.master, False)

    def resize(self, columns: int, rows: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows or 24, columns or 80, 0, 0))

    def typed(self, content: bytes) -> None:
        """What comes from the client, less what the gateway loses."""
        behaviour, before = self._behaviour, self._typed
        self._typed += len(content)
        if behaviour.cut_after_kib and self._typed > behaviour.cut_after_kib * 1024:
            self._gateway.behaviour.cut_after_kib = behaviour.cut_after_kib = 0
            self._channel.abort()
            return
        if behaviour.mute_after_kib and self._typed > behaviour.mute_after_kib * 1024:
            self._gateway.behaviour.mute_after_kib = behaviour.mute_after_kib = 0
            self.muted = True
        if self.muted:
            return
        if behaviour.latency_ms:
            asyncio.get_running_loop().call_later(behaviour.latency_ms / 1000, self._take, content, before)
        else:
            self._take(content, before)

    def _take(self, content: bytes, before: int) -> None:
        behaviour, end = self._behaviour, before + len(content)
        content = self._shorten(content)
        flip = behaviour.flip_every_kib * 1024
        if flip and content and before // flip != end // flip:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        room = behaviour.queue_kib * 1024 - self._queued if behaviour.queue_kib else len(content)
        content = content[: max(0, room)]
        if content:
            self._queue.append(content)
            self._queued += len(content)
            self._more.set()

    def _shorten(self, content: bytes) -> bytes:
        limit = self._behaviour.line_limit
        if not limit:
            return content
        kept = []
        for piece in content.splitlines(keepends=True):
            body = piece.rstrip(b"\r\n")
            kept.append(body[: max(0, limit - self._line)] + piece[len(body) :])
            self._line = 0 if len(body) < len(piece) else self._line + len(body)
        return b"".join(kept)

    def pause(self, paused: bool) -> None:
        self._room.clear() if paused else self._room.set()

    async def run(self, pod_id: str, term: str) -> int:
        """The shell's exit status."""
        try:
            link = console.connect(self._gateway.state_dir, pod_id)
        except OSError:
            self._channel.write(b"Error: the pod has no container that runs\r\n")
            return 1
        slave, self._slave = self._slave, -1
        loop = asyncio.get_running_loop()
        with link:
            socket.send_fds(link, [json.dumps({"term": term}).encode()], [slave])
            os.close(slave)
            link.setblocking(False)
            tasks = [loop.create_task(self._write()), loop.create_task(self._read())]
            try:
                answer = await loop.sock_recv(link, 64)
                await asyncio.wait(tasks[1:], timeout=0.3)
            finally:
                for task in tasks:
                    task.cancel()
        status = int(answer or b"1")
        return status if status >= 0 else 128 - status

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                content = self._queue.popleft()
                view = memoryview(content)
                while view:
                    step = view[: min(len(view), 1024)]
                    done = await self._put(step)
                    self._queued -= done
                    view = view[done:]
                    if self._behaviour.drain_kib_s:
                        await asyncio.sleep(done / 1024 / self._behaviour.drain_kib_s)

    async def _put(self, content: memoryview) -> int:
        while True:
            try:
                return os.write(self.master, content)
            except BlockingIOError:
                await asyncio.sleep(0.002)
            except OSError:
                return len(content)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.master, ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                await self._room.wait()
                try:
                    content = os.read(self.master, 65536)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                if not self.muted:
                    self._channel.write(content)
        finally:
            if self.master >= 0:
                loop.remove_reader(self.master)

    def close(self) -> None:
        """The shell and what it runs are hung up."""
        if self.master >= 0:
            # Its number is soon somebody else's.
            asyncio.get_running_loop().remove_reader(self.master)
        for number in (self.master, self._slave):
            if number >= 0:
                with contextlib.suppress(OSError):
                    os.close(number)
        self.master = self._slave = -1
