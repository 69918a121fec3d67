# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small process that keeps the sessions of one pod between tasks, since Ansible runs each task in a process of its own.

It holds descriptors and never reads what goes through them. Who takes a session holds a connection to this process for as long as it
works; when that connection ends without the session being given back, nobody knows in which state it is, and its ssh is ended.
Run as a program: `_gateway_park.py SOCKET SECONDS`; it needs the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 4096
START_SECONDS = 5.0


@dataclass
class Kept:
    """A session at rest."""

    reader: int
    writer: int
    facts: dict[str, Any]
    until: float

    def end(self) -> None:
        finish(self.facts.get("pid"), self.facts.get("started"))
        for number in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(number)


@dataclass
class Park:
    listener: socket.socket
    seconds: float
    kept: list[Kept] = field(default_factory=list)
    # The ssh that each connected process works with.
    lent: dict[socket.socket, tuple[Any, Any]] = field(default_factory=dict)
    over: bool = False

    def serve(self) -> None:
        idle_since = time.monotonic()
        while not self.over:
            with selectors.DefaultSelector() as selector:
                for link in (self.listener, *self.lent):
                    selector.register(link, selectors.EVENT_READ)
                for one in self.kept:
                    selector.register(one.reader, selectors.EVENT_READ)
                ready = [key.fileobj for key, _mask in selector.select(1.0)]
            now = time.monotonic()
            if self.listener in ready:
                self.lent[self.listener.accept()[0]] = (None, None)
            for link in [one for one in ready if isinstance(one, socket.socket) and one in self.lent]:
                self._answer(link)
            # A session at rest says nothing; one that does has ended.
            for one in [one for one in self.kept if one.reader in ready or one.until < now]:
                self.kept.remove(one)
                one.end()
            if self.kept or self.lent:
                idle_since = now
            elif now - idle_since > START_SECONDS:
                break
        for one in self.kept:
            one.end()

    def _answer(self, link: socket.socket) -> None:
        try:
            message, numbers, _flags, _from = socket.recv_fds(link, MOST_BYTES, 2)
            order = json.loads(message) if message else None
        except (OSError, ValueError):
            order, numbers = None, []
        if not isinstance(order, dict):
            finish(*self.lent.pop(link))
            link.close()
            return
        what, facts = order.get("do"), order.get("facts") or {}
        with contextlib.suppress(OSError):
            if what == "take":
                self._lend(link)
            elif what == "own":
                self.lent[link] = (facts.get("pid"), facts.get("started"))
                link.sendall(b"{}")
            elif what == "keep" and len(numbers) == 2:
                self.lent[link] = (None, None)
                self.kept.append(Kept(numbers[0], numbers[1], facts, time.monotonic() + self.seconds))
                link.sendall(b"{}")
            elif what == "exit":
                self.over = True
                link.sendall(b"{}")

    def _lend(self, link: socket.socket) -> None:
        if not self.kept:
            link.sendall(b"{}")
            return
        one = self.kept.pop()
        self.lent[link] = (one.facts.get("pid"), one.facts.get("started"))
        socket.send_fds(link, [json.dumps({"facts": one.facts}).encode()], [one.reader, one.writer])
        os.close(one.reader)
        os.close(one.writer)


def start_time(pid: int) -> int | None:
    """In clock ticks since boot, where /proc says so."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return int(stream.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def finish(pid: Any, started: Any) -> None:
    """End an ssh, unless its number belongs to another process by now."""
    if isinstance(pid, int) and pid > 1 and start_time(pid) == started:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)


class Visit:
    """A client's connection to the park of one pod."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    @classmethod
    def to(cls, path: str, seconds: float, *, start: bool = True) -> Visit | None:
        """The park at this place, started when it is not there; None when there is none."""
        end = time.monotonic() + START_SECONDS
        started = False
        while True:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.settimeout(START_SECONDS)
            try:
                link.connect(path)
                return cls(link)
            except OSError:
                link.close()
            if not start or time.monotonic() >= end:
                return None
            if not started:
                started = True
                words = [sys.executable, "-E", "-s", os.path.abspath(__file__), path, str(seconds)]
                nothing = subprocess.DEVNULL
                subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, cwd="/")
            time.sleep(0.02)

    def take(self) -> tuple[int, int, dict[str, Any]] | None:
        """A session that was at rest."""
        try:
            self._link.sendall(b'{"do": "take"}')
            message, numbers, _flags, _from = socket.recv_fds(self._link, MOST_BYTES, 2)
            facts = json.loads(message).get("facts")
        except (OSError, ValueError, AttributeError):
            return None
        return (numbers[0], numbers[1], facts) if len(numbers) == 2 and isinstance(facts, dict) else None

    def own(self, pid: int) -> None:
        """This process works with an ssh that it started."""
        self._ask({"do": "own", "facts": {"pid": pid, "started": start_time(pid)}}, [])

    def keep(self, reader: int, writer: int, facts: dict[str, Any]) -> bool:
        return self._ask({"do": "keep", "facts": facts}, [reader, writer])

    def exit(self) -> None:
        self._ask({"do": "exit"}, [])

    def _ask(self, message: dict[str, Any], numbers: list[int]) -> bool:
        try:
            socket.send_fds(self._link, [json.dumps(message).encode()], numbers)
            return self._link.recv(MOST_BYTES) == b"{}"
        except OSError:
            return False

    def close(self) -> None:
        self._link.close()


def close_park(place: str) -> bool:
    """End the sessions at rest in this place."""
    visit = Visit.to(place, 0, start=False)
    if visit is None:
        return False
    visit.exit()
    visit.close()
    end = time.monotonic() + 2
    while os.path.exists(place) and time.monotonic() < end:
        time.sleep(0.02)
    return True


def main(path: str, seconds: float) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.umask(0o077)
    listener.bind(path)
    listener.listen(64)
    try:
        Park(listener, seconds).serve()
    finally:
        for name in (path, f"{path}.lock"):
            with contextlib.suppress(OSError):
                os.unlink(name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], float(sys.argv[2])))
