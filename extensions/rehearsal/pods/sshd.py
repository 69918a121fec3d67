# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SSH server inside a pod."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import asyncssh

from rehearsal.pods.session import Sessions

LOGIN_GRACE_SECONDS = 60


class Sshd:
    def __init__(self, pod_dir: Path, environment: Mapping[str, str], key: asyncssh.SSHKey) -> None:
        self._authorized_keys = pod_dir / "home" / ".ssh" / "authorized_keys"
        self._sessions = Sessions(pod_dir, environment)
        self._key = key
        self._listener: asyncssh.SSHAcceptor | None = None

    def is_authorized(self, username: str, key: asyncssh.SSHKey) -> bool:
        if username != "root" or not self._authorized_keys.is_file():
            return False
        for line in self._authorized_keys.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(asyncssh.KeyImportError, ValueError):
                if line.strip() and not line.startswith("#") and asyncssh.import_public_key(line).public_data == key.public_data:
                    return True
        return False

    async def run(self, sock: socket.socket, delay: float | None) -> None:
        """Listen after the delay, for ever; until then, or with no delay given at all, connections are refused."""
        loop = asyncio.get_running_loop()
        # A polite end of the pod signals every process in it, this one too.
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        loop.add_signal_handler(signal.SIGUSR1, self._change_host_key)
        if delay is None:
            await asyncio.Event().wait()
            return
        await asyncio.sleep(delay)
        self._listener = await asyncssh.listen(
            sock=sock,
            server_factory=lambda: Door(self),
            server_host_keys=[self._key],
            process_factory=self._sessions.handle,
            sftp_factory=FileTransfer,
            encoding=None,
            line_editor=False,
            allow_scp=False,
            agent_forwarding=False,
            login_timeout=LOGIN_GRACE_SECONDS,
            backlog=128,
        )
        await asyncio.Event().wait()

    def _change_host_key(self) -> None:
        if self._listener is not None:
            self._listener.update(server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")])


class FileTransfer(asyncssh.SFTPServer):
    """OpenSSH's server ends an sftp session with exit status 0; without it scp reports a failure."""

    def exit(self) -> None:
        channel = self.channel
        if isinstance(channel, asyncssh.SSHServerChannel):
            channel.exit(0)


class Door(asyncssh.SSHServer):
    """Who may come in."""

    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._sshd.is_authorized(username, key)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


def main(sshd: Sshd, sock: socket.socket, delay: float | None) -> int:
    try:
        asyncio.run(sshd.run(sock, delay))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0
