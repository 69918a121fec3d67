# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and files through an interactive terminal that mangles what it carries.

Everything goes as base64 in short lines, in chunks with a checksum that the far side confirms; what was damaged
is sent again, more slowly. What runs is `_gateway_agent`; a session here is two file descriptors that lead to it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_agent import AGENT, BEAT_SECONDS, FIRST_BYTES, SLOTS, loader, posix_cksum
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_lines import Lines
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import (
    LINE_BYTES,
    Damaged,
    Finished,
    GatewayError,
    NoSuchFile,
    Pace,
    Part,
    RemoteFile,
    Secret,
    SessionLost,
)

LEAST_READ = 1536
# A chunk that is not confirmed for so long is asked about; a slow one is none the worse for it.
STALL_SECONDS = 3.0
MOST_STALLS = 6
READ_AHEAD = 4


@dataclass
class Session(Lines):
    """One agent at the end of a terminal. Whoever was interrupted while it worked throws it away: `clean` says so."""

    kind: str = "sha256sum"
    seq: int = 0
    pace: Pace = field(default_factory=Pace)
    clean: bool = False
    _longest: int = 0

    # -- beginning -------------------------------------------------------------

    def begin(self, seconds: float) -> Session:
        """From a login shell's prompt to an agent that waits for orders."""
        end = time.monotonic() + seconds
        self.marker = secrets.token_hex(6).encode()
        self._await_quiet(end)
        greeting = self.heard()
        pause = 3.0
        while True:
            self._send(loader(self.marker.decode()))
            if self._hear({"L"}, min(end, time.monotonic() + pause)):
                break
            if time.monotonic() >= end:
                raise SessionLost(f"the shell behind the gateway did not answer within {seconds:.0f} s; it said: {greeting}")
            pause *= 1.5
        for turn in range(MOST_STALLS):
            text = (AGENT + ".\n").encode()
            for piece in text.splitlines(keepends=True) if turn else [text]:
                self._send(piece)
                time.sleep(0.02 if turn else 0)
            answer = self._hear({"K", "L"}, time.monotonic() + pause)
            if answer and answer[0] == "K":
                self.kind = "cksum" if answer[1:] == ["cksum"] else "sha256sum"
                self.clean = True
                return self
            self.pace.bad()
            self._send(b"\n.\n")
            self._hear({"L"}, time.monotonic() + pause)
        raise SessionLost("the shell behind the gateway is there, but what is sent to it does not arrive whole")

    def _await_quiet(self, end: float) -> None:
        """A login shell that still reads its profile may throw away what is typed."""
        heard = 0.0
        patience = time.monotonic() + 5.0
        while time.monotonic() < min(end, patience):
            if self._fill(min(end, time.monotonic() + 0.3)):
                heard = time.monotonic()
            elif heard:
                return

    def alive(self) -> bool:
        """Whether the agent of a session that was put aside still answers."""
        try:
            with self._working():
                self._where(2)
        except GatewayError:
            return False
        return True

    def facts(self) -> dict[str, Any]:
        """What whoever takes the session over must know."""
        return {
            "marker": self.marker.decode(), "kind": self.kind, "seq": self.seq,
            "window": self.pace.window, "ceiling": self.pace.ceiling, "pause": self.pace.pause, "read": self.pace.read,
        }  # fmt: skip

    @classmethod
    def taken_over(cls, reader: int, writer: int, facts: dict[str, Any], silence: float) -> Session:
        pace = Pace(int(facts["window"]), int(facts["ceiling"]), float(facts["pause"]), int(facts["read"]))
        return cls(reader, writer, silence, str(facts["marker"]).encode(), str(facts["kind"]), int(facts["seq"]), pace, True)

    # -- what it does ----------------------------------------------------------

    def run(self, command: bytes, stdin: bytes = b"", secret: Secret | None = None) -> Finished:
        """Run a command once; raises SessionLost when what became of it cannot be known."""
        asked = secret.content() if secret else b""
        parts = [Part.of("c", command), Part.of("i", stdin), Part.of("b", asked)]
        with self._working():
            turn = self.seq + 1
            words = self._deliver([part for part in parts if part.size], f"X {turn} {len(command)} {len(stdin)} {len(asked)}", "B", turn)
            self.seq = turn
            # The words of an answer are lost when it had to be asked for again; what came of it is said then.
            words, pushed = self._ended(turn) if len(words) == 1 else (words, False)
            status, out, err = (int(word) for word in words)
            begun = self._pushed(out, err) if pushed else (b"", b"")
            stdout, stderr = (
                start + b"".join(self._chunks(slot, len(start), size)) for slot, size, start in (("o", out, begun[0]), ("e", err, begun[1]))
            )
        return Finished(status, stdout, stderr)

    def put(self, source: BinaryIO, size: int, partial: str, dest: str, moved: Callable[[int], None] = lambda have: None) -> int:
        """Bring a file there; answers how many of its bytes were there already. What is there of it is kept when the session ends."""
        with self._working():
            there, known = self._open(partial)
            start = there if 0 < there <= size and known == self.digest_of(source, there) else 0
            if there > 0 and not start:
                self._open(partial, "new")
            if size == 0 or start < size:
                self._deliver([Part.of_file("f", source, size, start, moved)], "", "", 0)
            target = Part.of("a", _path(dest))
            words = self._deliver([target], f"T {target.size} {size} {self.digest_of(source, size)}", "T", 0)
            if words[0] != "0":
                why = clean_text(" ".join(words[2:]) or "the place is not writable", 200)
                raise RemoteFile(f"cannot write {clean_text(dest, 200)}: {why}", tidy=True)
        return start

    def look(self, source: str) -> tuple[int, str]:
        """Size and digest of a file there, which stays open for `read`."""
        with self._working():
            size, known = self._open(source)
            if size < 0:
                raise NoSuchFile(f"cannot read {clean_text(source, 200)}: it is no readable file", tidy=True)
        return size, known

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """The open file's bytes from `start` on; `start` is a multiple of LEAST_READ."""
        with self._working():
            yield from self._chunks("f", start, size)

    def end(self) -> None:
        """Ask the agent to go; whoever owns the descriptors closes them."""
        with suppress(GatewayError):
            self._send(b"\nQ\n", time.monotonic() + 0.5)

    def digest(self, content: bytes) -> str:
        """What the far side's `dig` says of the same bytes."""
        return f"{hashlib.sha256(content).hexdigest()}.-" if self.kind == "sha256sum" else f"{posix_cksum(content)}.{len(content)}"

    # -- inside: orders --------------------------------------------------------

    @contextmanager
    def _working(self) -> Iterator[None]:
        if not self.clean:
            raise SessionLost("the session was interrupted while it worked")
        self.clean = False
        try:
            yield
        except RemoteFile as err:
            self.clean = bool(err.details.get("tidy"))
            raise
        self.clean = True

    def digest_of(self, source: BinaryIO, size: int) -> str:
        source.seek(0)
        if self.kind != "sha256sum":
            return self.digest(source.read(size))
        total, left = hashlib.sha256(), size
        while left and (block := source.read(min(left, 1 << 20))):
            total.update(block)
            left -= len(block)
        return f"{total.hexdigest()}.-"

    def _open(self, path: str, how: str = "") -> tuple[int, str]:
        name = Part.of("a", _path(path))
        size, known = self._deliver([name], f"O {name.size} {how}", "O", 0)[:2]
        return (-1, "") if size == "-" else (int(size), known)

    def _deliver(self, parts: list[Part], order: str, answer: str, turn: int) -> list[str]:
        """Bring the parts into their slots and give the order, until it is confirmed; answers the words of the confirmation."""
        stalls = 0
        while True:
            before = sum(part.have for part in parts)
            try:
                words = self._attempt(parts, order, answer, turn, self.pace.patience(STALL_SECONDS) * (1 + stalls))
                self._longest = 0
                return words
            except Damaged:
                self.pace.bad()
                where = self._where()
                self._longest = 0
                if turn and where[0] == turn:
                    return [str(number) for number in where[6:]]
                for part in parts:
                    part.have = min(part.size, where[1 + SLOTS.index(part.slot)])
                stalls = 0 if sum(part.have for part in parts) > before else stalls + 1
                if stalls >= MOST_STALLS:
                    raise SessionLost("what is sent through the gateway does not arrive whole, however slowly it is sent") from None

    def _attempt(self, parts: list[Part], order: str, answer: str, turn: int, patience: float) -> list[str]:
        place = {part.slot: part.have for part in parts}
        under_way: deque[tuple[Part, int, int, float]] = deque()
        waiting = 0
        ordered = False
        todo = deque(part for part in parts if part.have < part.size or not part.size)
        while True:
            if todo and (not under_way or waiting + self.pace.chunk * 3 // 2 <= self.pace.window):
                part = todo[0]
                content = part.read(place[part.slot], min(self.pace.chunk, part.size - place[part.slot]))
                if not content and part.size:
                    raise GatewayError("a file became shorter while it was sent")
                lines = self._lines(part.slot, place[part.slot], content)
                self._send(lines)
                place[part.slot] += len(content)
                under_way.append((part, place[part.slot], len(lines), time.monotonic()))
                waiting += len(lines)
                if place[part.slot] >= part.size:
                    todo.popleft()
                if self.pace.pause:
                    time.sleep(self.pace.pause)
                continue
            if not todo and not ordered:
                ordered = True
                if order:
                    self._send(f"{order}\n".encode())
            if not order and not under_way:
                return []
            words = self._hear({"A", "N", "V", "F", answer}, time.monotonic() + patience)
            if words is None or words[0] in "NV":
                raise Damaged
            if words[0] == "F":
                raise RemoteFile(f"the pod {clean_text(' '.join(words[1:]), 200)}")
            if words[0] == "A":
                # A confirmation that is not of the oldest chunk under way means that one was lost.
                if not under_way or words[1:] != [under_way[0][0].slot, str(under_way[0][1])]:
                    raise Damaged
                part, have, size, sent = under_way.popleft()
                part.have = have
                part.moved(have)
                waiting -= size
                self.pace.good(size, time.monotonic() - sent)
            elif ordered and answer in ("O", "T") and words[1:3] != words[3:5] and words[1:2] != words[2:3]:
                raise Damaged
            elif ordered and (not turn or words[1:] == [str(turn)]):
                return words[1:]

    def _lines(self, slot: str, start: int, content: bytes) -> bytes:
        rows = [base64.b64encode(content[at : at + LINE_BYTES]) for at in range(0, len(content), LINE_BYTES)]
        text = b"".join(line + b"\n" for line in rows)
        self._longest = max(self._longest, len(text))
        known = self.digest(b"%s %d %d\n" % (slot.encode(), start, len(content)) + content)
        return b"W %s %d %d\n%sZ %d %s\n" % (slot.encode(), start, len(text), text, len(content), known.encode())

    def _where(self, tries: int = MOST_STALLS) -> list[int]:
        """Every order before it is done or lost when this is answered: SEQ, the sizes of the slots, and what came of the last command."""
        last = time.monotonic() + self.silence
        for turn in range(tries):
            # A chunk that lost a part of itself is waited for: these are the bytes that it lacks.
            for _piece in range(0, max(self._longest, 4096 * turn), 1024):
                self._send(b"\n" * 1024)
                time.sleep(0.004)
            nonce = secrets.token_hex(4)
            self._send(f"\nR {nonce}\n".encode())
            end = min(last, time.monotonic() + STALL_SECONDS * (1 + turn))
            while words := self._hear({"R"}, end):
                if len(words) == 20 and words[1] == nonce and words[2:11] == words[11:] and all(word.isdigit() for word in words[2:]):
                    return [int(word) for word in words[2:11]]
        raise SessionLost("the far side of the gateway does not answer any more")

    def _ended(self, turn: int) -> tuple[list[str], bool]:
        """What came of the command, however long it takes, for as long as its beat is heard; and whether its output follows unasked."""
        words = self._hear({"X"}, time.monotonic() + min(self.silence, 3.0 * BEAT_SECONDS))
        if words is not None and words[1:2] == [str(turn)] and words[2:5] == words[5:] and all(word.isdigit() for word in words[2:]):
            return words[2:5], True
        try:
            where = self._where()
        except SessionLost as err:
            raise SessionLost("nothing was heard through the gateway any more while a command ran; it may still be running") from err
        return [str(number) for number in where[6:]], False

    # -- inside: content that comes --------------------------------------------

    def _pushed(self, out: int, err: int) -> tuple[bytes, bytes]:
        """The first chunks of a command's output, which follow its end unasked; nothing of what does not arrive whole."""
        found = {"o": b"", "e": b""}
        for slot, size in (("o", out), ("e", err)):
            if not size:
                continue
            content = self._chunk(slot, 0, FIRST_BYTES, STALL_SECONDS)
            if content is None or len(content) < min(size, FIRST_BYTES):
                self._spoiled()
                break
            found[slot] = content[: min(size, FIRST_BYTES)]
        return found["o"], found["e"]

    def _spoiled(self) -> None:
        """What was asked for and is still to come goes by."""
        self.pace.damaged += 1
        self._where()

    def _chunks(self, slot: str, start: int, size: int) -> Iterator[bytes]:
        """Ask ahead for chunks and take them in turn."""
        place, asked, losses, length = start, start, 0, self.pace.read
        while place < size:
            while asked < size and (asked - place) // length < READ_AHEAD:
                self._send(f"G {slot} {asked} {length}\n".encode())
                asked += length
            content = self._chunk(slot, place, length, STALL_SECONDS * (1 + losses) + (self.silence if losses > 2 else 0))
            if content is None or len(content) < min(length, size - place):
                losses += 1
                if losses > MOST_STALLS * 2:
                    raise SessionLost("what comes through the gateway does not arrive whole, however slowly it is asked for")
                self._spoiled()
                asked = place
                # Chunks lie at multiples of their length.
                smaller = max(LEAST_READ, length // 2)
                length = smaller if place % smaller == 0 else LEAST_READ
                self.pace.read = length
                continue
            losses = 0
            content = content[: size - place]
            yield content
            place += length

    def _chunk(self, slot: str, start: int, length: int, patience: float) -> bytes | None:
        """The next chunk, when it is the one that was asked for and whole."""
        head = self._hear({"D"}, time.monotonic() + patience)
        if head is None or head[1:] != [slot, str(start), str(length)]:
            return None
        rows: list[bytes] = []
        while True:
            line = self._line(time.monotonic() + patience)
            if line is None:
                return None
            words = self._marked(line)
            if words is None:
                rows.append(line)
            elif words[0] == "E":
                break
            elif words[0] != "H":
                return None
        try:
            content = base64.b64decode(b"".join(rows), validate=True)
        except binascii.Error:
            return None
        return content if words[1:] == [slot, str(start), str(len(content)), self.digest(content)] else None


def _path(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
