# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who comes in at the gateway, and what kind of session is given."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path

import asyncssh

from rehearsal.gateway import NO_TERMINAL, Gateway, Terminal
from rehearsal.keys import ACCOUNT
from rehearsal.records import Pod

BANNER = "\r\n-- REHEARSAL GATEWAY --\r\nThis is pod {}, enjoy it while it is paid.\r\n\r\n"


async def listen(gateway: Gateway, sock: socket.socket, key_file: Path) -> None:
    if not key_file.exists():
        key_file.touch(mode=0o600)
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(key_file)
    await asyncssh.listen(
        sock=sock,
        server_factory=lambda: Door(gateway),
        server_host_keys=[asyncssh.read_private_key(key_file)],
        encoding=None,
        line_editor=False,
        agent_forwarding=False,
        login_timeout=60,
        backlog=64,
    )


class Door(asyncssh.SSHServer):
    """The account's keys open every pod of the account; the user name says which."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._user = ""

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        for line in self._gateway.cloud.belongings.ssh_keys(ACCOUNT):
            with contextlib.suppress(asyncssh.KeyImportError, ValueError):
                if asyncssh.import_public_key(line).public_data == key.public_data:
                    return True
        return False

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return Session(self._gateway, self._user)


class Session(asyncssh.SSHServerSession[bytes]):
    """A login shell, whatever was asked for."""

    def __init__(self, gateway: Gateway, user: str) -> None:
        self._gateway = gateway
        self._user = user
        self._term: str | None = None
        self._size = (80, 24)
        self._terminal: Terminal | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]) -> bool:
        self._term, self._size = term_type, (term_size[0], term_size[1])
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        return False

    def session_started(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def _pod(self) -> Pod | None:
        pod_id, _mark, suffix = self._user.rpartition("-")
        pod = self._gateway.cloud.pods.get(pod_id)
        return pod if pod is not None and pod.proxy_suffix == suffix and pod.status == "RUNNING" else None

    async def _serve(self) -> None:
        if self._term is None:
            self._channel.write(NO_TERMINAL)
            self._channel.exit(1)
            return
        pod = self._pod()
        if pod is None:
            self._channel.write(f"Error: there is no running pod {self._user}\r\n".encode())
            self._channel.exit(1)
            return
        self._channel.write(BANNER.format(pod.id).encode())
        self._terminal = Terminal(self._gateway, self._channel)
        self._terminal.resize(*self._size)
        self._gateway.sessions += 1
        try:
            self._channel.exit(await self._terminal.run(pod.id, self._term))
        finally:
            self._terminal.close()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._terminal is not None:
            self._terminal.typed(data)

    def eof_received(self) -> bool:
        """A terminal knows no end of input: the session stays."""
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is not None:
            self._terminal.resize(width, height)

    def break_received(self, msec: int) -> bool:
        return True

    def pause_writing(self) -> None:
        if self._terminal is not None:
            self._terminal.pause(True)

    def resume_writing(self) -> None:
        if self._terminal is not None:
            self._terminal.pause(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._terminal is not None:
            self._terminal.close()
