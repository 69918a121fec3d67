# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to one pod's shell through RunPod's gateway: ssh with a terminal, sessions that outlive a task, transfers that go on after a cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError, StrangeHostKey, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway import Session
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_agent import FIRST_BYTES
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_park import Visit, close_park, start_time
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import Finished, GatewayError, RemoteFile, Secret, SessionLost
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess, gateway_known_hosts, gateway_overrides

USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")
RECONNECTIONS = 5


class Refused(GatewayError):
    """The gateway does not let us in."""

    code = "gateway_refused"


@dataclass(frozen=True)
class Address:
    """One pod's shell at a gateway."""

    host: str
    port: int
    user: str
    private_key_file: str | None
    known_hosts_file: str

    @property
    def alias(self) -> str:
        """What the gateway's host key is pinned to."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def words(self, connect_seconds: float) -> list[str]:
        """The command line; what runs in the pod is never on it."""
        if not USER.match(self.user):
            raise GatewayError(f"{clean_text(self.user, 80)!r} is not a user of the gateway")
        access = SshAccess(Path(self.private_key_file or ""), Path(self.known_hosts_file).expanduser())
        key = ["-i", str(Path(self.private_key_file).expanduser())] if self.private_key_file else []
        return [
            "ssh", "-F", "none", "-tt", "-e", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ControlPath=none", "-o", "ClearAllForwardings=yes",
            "-o", f"ConnectTimeout={max(1, int(connect_seconds))}", *key, "-p", str(self.port),
            *access.arguments(self.alias, first_contact=not access.pinned(self.alias)), "-l", self.user, "--", self.host,
        ]  # fmt: skip


@dataclass
class Limits:
    connect_seconds: float = 30.0
    start_seconds: float = 60.0
    silence_seconds: float = 60.0
    # A session at rest is kept for so long; 0 keeps none.
    persist_seconds: float = 60.0
    # Where the sessions at rest are found; empty keeps none.
    folder: str = ""


class Link:
    """Commands and files for one pod; at most one session at a time."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.limits = limits
        self._session: Session | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        self._visit: Visit | None = None
        self.opened = 0

    def run(self, command: bytes, stdin: bytes = b"", secret: Secret | None = None) -> Finished:
        try:
            return self.session().run(command, stdin, secret)
        except GatewayError:
            self.drop()
            raise

    def put(self, source: BinaryIO, size: int, dest: str, moved: Callable[[int], None] = lambda have: None) -> None:
        """Bring a file there, going on where an earlier try ended."""
        content = hashlib.sha256()
        while block := source.read(1 << 20):
            content.update(block)
        partial = f"{dest}.{content.hexdigest()[:12]}.part"
        for turn in range(RECONNECTIONS + 1):
            try:
                self.session().put(source, size, partial, dest, moved)
                return
            except SessionLost:
                self.drop()
                if turn == RECONNECTIONS:
                    raise

    def fetch(self, source: str, dest: Path, most_bytes: int | None = None, moved: Callable[[int], None] = lambda have: None) -> None:
        """Bring a file here, going on where an earlier try ended."""
        for turn in range(RECONNECTIONS + 1):
            try:
                self._fetch(source, dest, most_bytes, moved)
                return
            except SessionLost:
                self.drop()
                if turn == RECONNECTIONS:
                    raise

    def _fetch(self, source: str, dest: Path, most_bytes: int | None, moved: Callable[[int], None]) -> None:
        session = self.session()
        size, known = session.look(source)
        if most_bytes is not None and size > most_bytes:
            raise RemoteFile(f"the pod has more of {clean_text(source, 200)} than it said: {size} bytes", tidy=True)
        partial = dest.with_name(f"{dest.name}.{hashlib.sha256(f'{known} {source}'.encode()).hexdigest()[:12]}.part")
        have = min(size, partial.stat().st_size) // FIRST_BYTES * FIRST_BYTES if partial.exists() else 0
        with partial.open("r+b" if partial.exists() else "w+b") as stream:
            stream.truncate(have)
            stream.seek(have)
            for content in session.read(have, size):
                stream.write(content)
                moved(stream.tell())
            stream.flush()
            if session.digest_of(stream, size) != known:
                partial.unlink()
                raise SessionLost(f"{clean_text(source, 200)} changed while it was read")
        partial.replace(dest)

    # -- sessions --------------------------------------------------------------

    def session(self) -> Session:
        """The one at work, one that was at rest, or a new one."""
        if self._session is not None and self._session.clean:
            return self._session
        self.drop()
        if self._keeps:
            Path(self.limits.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._visit = Visit.to(self._place, self.limits.persist_seconds)
            while self._visit is not None and (found := self._visit.take()) is not None:
                session = Session.taken_over(found[0], found[1], found[2], self.limits.silence_seconds)
                self.pid = found[2].get("pid")
                if session.alive():
                    self._session = session
                    return session
                self._end_session(session)
        self._session = self._open()
        return self._session

    @property
    def _keeps(self) -> bool:
        return bool(self.limits.persist_seconds and self.limits.folder)

    @property
    def _place(self) -> str:
        return os.path.join(self.limits.folder, "gw-" + hashlib.sha256(repr(self.address).encode()).hexdigest()[:10])

    def _open(self) -> Session:
        pipe = subprocess.PIPE
        environment = {**os.environ, "TERM": "dumb"}
        words = self.address.words(self.limits.connect_seconds)
        try:
            process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True)
        except FileNotFoundError as err:
            raise StateError("the program ssh is not installed", hint="install openssh-client") from err
        if process.stdin is None or process.stdout is None:
            raise AssertionError("Popen was asked for pipes")
        self._process, self.pid = process, process.pid
        if self._visit is not None:
            self._visit.own(process.pid)
        session = Session(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()), self.limits.silence_seconds)
        process.stdin.close()
        process.stdout.close()
        self.opened += 1
        try:
            session.begin(self.limits.start_seconds)
        except GatewayError as err:
            self._end_session(session)
            raise self._why(process, err) from err
        return session

    def _why(self, process: subprocess.Popen[bytes], err: GatewayError) -> GatewayError:
        """What ssh or the gateway said, as a sentence."""
        said = process.stderr.read() if process.stderr is not None and process.returncode is not None else b""
        text = said.decode("utf-8", "replace")
        where = f"{self.address.user}@{self.address.host}:{self.address.port}"
        if "IDENTIFICATION HAS CHANGED" in text or "Host key verification failed" in text:
            return StrangeGateway(
                f"the host key of the gateway {self.address.alias} is not the one in {self.address.known_hosts_file}: nothing was sent there",
                hint=f"if RunPod announced a new key: ssh-keygen -R '{self.address.alias}' -f {self.address.known_hosts_file}, and run again",
            )
        if "Permission denied" in text:
            return Refused(f"{where} does not take the key {self.address.private_key_file or 'of ~/.ssh'}: it wants a key of the account", hint="register it")
        lines = [line for line in text.splitlines() if line.strip()]
        told = f"ssh said: {clean_text(lines[-1], 200)}" if lines else err.message
        return Refused(f"no session with {where}: {told}")

    def rest(self) -> None:
        """The task is over: the session is kept for the next one, or ended."""
        session, self._session = self._session, None
        if session is not None and session.clean and self._visit is not None and self.pid:
            facts = {**session.facts(), "pid": self.pid, "started": start_time(self.pid)}
            if self._visit.keep(session.reader, session.writer, facts):
                self._forget(session)
                return
        if session is not None:
            session.end()
            self._end_session(session)
        self.drop()

    def _forget(self, session: Session) -> None:
        for number in (session.reader, session.writer):
            os.close(number)
        if self._process is not None and self._process.stderr is not None:
            self._process.stderr.close()
            # It lives on, and is somebody else's now.
            self._process.returncode = 0
        self._process = self.pid = None
        self._leave()

    def _leave(self) -> None:
        visit, self._visit = self._visit, None
        if visit is not None:
            visit.close()

    def drop(self) -> None:
        """End the session at once: the command that it runs is hung up."""
        session, self._session = self._session, None
        if session is not None:
            self._end_session(session)
        self._leave()

    def _end_session(self, session: Session) -> None:
        for number in (session.reader, session.writer):
            with contextlib.suppress(OSError):
                os.close(number)
        process, self._process = self._process, None
        pid, self.pid = self.pid, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
        elif pid and start_time(pid) is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, 15)

    def reset(self) -> None:
        """End every session with this pod, those at rest too."""
        self.drop()
        close_park(self._place)


def probe_gateway(endpoint: Endpoint, access: SshAccess, seconds: float = 30.0) -> str:
    """Empty when a shell in the pod answers, else what is wrong for now; raises StrangeGateway. The key must be one of the account's."""
    try:
        done = ask_gateway(endpoint, access, "exit 0", seconds)
    except StrangeGateway:
        raise
    except GatewayError as err:
        return clean_text(err.message, 200)
    return "" if done.status == 0 else f"a command in the pod ended with status {done.status}"


def ask_gateway(endpoint: Endpoint, access: SshAccess, command: str, seconds: float) -> Finished:
    """Run one shell command in the pod, in a session of its own; raises GatewayError, and UsageError for what the environment says of the gateway."""
    place = replace(endpoint, **gateway_overrides())
    address = Address(place.host, place.port, place.user, str(access.private_key_file), str(gateway_known_hosts(access)))
    link = Link(address, Limits(10, seconds, seconds, 0))
    try:
        return link.run(command.encode())
    finally:
        link.drop()


class StrangeGateway(Refused, StrangeHostKey):
    """The gateway is not the one that was pinned."""

    code = "strange_host_key"
