# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH sessions of a process pod: exec, shell and PTY, in the manner of OpenSSH's server."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh

CHUNK = 65536
# The variables that Debian's sshd accepts from a client.
ACCEPTED_ENV = ("LANG", "LC_")
PTY_DRAIN_SECONDS = 0.3


class Sessions:
    """Starts programs in the pod and joins them to SSH channels."""

    def __init__(self, pod_dir: Path, environment: Mapping[str, str]) -> None:
        self._pod_dir = pod_dir
        self._environment = dict(environment)

    async def handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if process.subsystem:
            process.exit(127)
            return
        try:
            if process.term_type is not None:
                await self._with_terminal(process)
            else:
                await self._with_pipes(process)
        except (BrokenPipeError, ConnectionError, asyncssh.ConnectionLost, asyncssh.DisconnectError):
            process.close()

    def _command(self, process: asyncssh.SSHServerProcess[bytes]) -> tuple[list[str], str]:
        shell = self._environment["SHELL"]
        if process.command is None:
            return ["-" + os.path.basename(shell)], shell
        command: Any = process.command
        return [os.path.basename(shell), "-c", command], shell

    def _session_environment(self, process: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
        environment = dict(self._environment)
        for name, value in process.env.items():
            if isinstance(name, str) and isinstance(value, str) and name.startswith(ACCEPTED_ENV):
                environment[name] = value
        peer = process.get_extra_info("peername") or ("127.0.0.1", 0)
        here = process.get_extra_info("sockname") or ("127.0.0.1", 0)
        environment["SSH_CLIENT"] = f"{peer[0]} {peer[1]} {here[1]}"
        environment["SSH_CONNECTION"] = f"{peer[0]} {peer[1]} {here[0]} {here[1]}"
        return environment

    async def _with_pipes(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        argv, shell = self._command(process)
        child = subprocess.Popen(
            argv,
            executable=shell,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._environment["HOME"],
            env=self._session_environment(process),
            start_new_session=True,
            restore_signals=True,
        )
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        stdin = os.dup(child.stdin.fileno())
        child.stdin.close()
        feeder = asyncio.ensure_future(_feed(process, stdin, child.pid, None))
        try:
            await asyncio.gather(_pump(child.stdout.fileno(), process.stdout), _pump(child.stderr.fileno(), process.stderr), _ended(child))
        finally:
            feeder.cancel()
            child.stdout.close()
            child.stderr.close()
            if child.poll() is None:
                asyncio.ensure_future(_ended(child))
        _finish(process, child.returncode)

    async def _with_terminal(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        argv, shell = self._command(process)
        master, slave = os.openpty()
        _resize(master, process.term_size)
        environment = self._session_environment(process)
        environment["TERM"] = process.term_type or "dumb"
        environment["SSH_TTY"] = os.ttyname(slave) if os.path.exists("/proc/self/fd") else f"/dev/pts/{_pts_number(master)}"
        child = subprocess.Popen(
            argv,
            executable=shell,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=environment["HOME"],
            env=environment,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        feeder = asyncio.ensure_future(_feed(process, os.dup(master), child.pid, master))
        reader = asyncio.ensure_future(_pump(master, process.stdout))
        try:
            done, _rest = await asyncio.wait({asyncio.ensure_future(_ended(child)), reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader in done and reader.exception() is not None:
                raise BrokenPipeError
            await _ended(child)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader, PTY_DRAIN_SECONDS)
        finally:
            feeder.cancel()
            reader.cancel()
            await asyncio.sleep(0)
            os.close(master)
            if child.poll() is None:
                asyncio.ensure_future(_ended(child))
        _finish(process, child.returncode)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _pts_number(master: int) -> int:
    answer: bytes = fcntl.ioctl(master, termios.TIOCGPTN if hasattr(termios, "TIOCGPTN") else 0x80045430, b"\0" * 4)
    return int(struct.unpack("I", answer)[0])


def _resize(master: int, size: tuple[int, int, int, int]) -> None:
    columns, rows, width, height = size
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows or 24, columns or 80, width, height))


def _finish(process: asyncssh.SSHServerProcess[bytes], code: int) -> None:
    if code >= 0:
        process.exit(code)
        return
    name = signal.Signals(-code).name.removeprefix("SIG") if -code in signal.valid_signals() else "KILL"
    process.exit_with_signal(name, False, "", "en")


async def _ended(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    try:
        number = os.pidfd_open(child.pid)
    except ProcessLookupError:
        child.wait()
        return
    event = asyncio.Event()
    loop.add_reader(number, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(number)
        os.close(number)
    child.wait()


async def _ready(descriptor: int, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    (loop.add_writer if writing else loop.add_reader)(descriptor, event.set)
    try:
        await event.wait()
    finally:
        (loop.remove_writer if writing else loop.remove_reader)(descriptor)


async def _pump(descriptor: int, writer: asyncssh.SSHWriter[bytes]) -> None:
    """Copy from a program to the channel until its last writer is gone; a terminal ends with EIO."""
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            await _ready(descriptor, False)
            continue
        except OSError:
            return
        if not data:
            return
        writer.write(data)
        await writer.drain()


async def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            await _ready(descriptor, True)


async def _feed(process: asyncssh.SSHServerProcess[bytes], descriptor: int, pid: int, master: int | None) -> None:
    """Copy from the channel to a program, and pass on signals and window sizes."""
    os.set_blocking(descriptor, False)
    try:
        while True:
            try:
                data = await process.stdin.read(CHUNK)
            except asyncssh.TerminalSizeChanged as change:
                if master is not None:
                    _resize(master, change.term_size)
                continue
            except asyncssh.SignalReceived as received:
                number = getattr(signal, f"SIG{received.signal}", None)
                if number is not None:
                    os.killpg(pid, number)
                continue
            except asyncssh.BreakReceived:
                continue
            if not data:
                break
            await _write_all(descriptor, data)
    except (OSError, asyncssh.Error):
        pass
    finally:
        os.close(descriptor)
