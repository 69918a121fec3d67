# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session through the gateway works with: how fast it goes, what it sends, what it may fail with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import CloudError
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_agent import FIRST_BYTES

# 180 bytes are 240 characters: below the least that POSIX grants a terminal's line (255).
LINE_BYTES = 180
FIRST_WINDOW, LEAST_WINDOW, MOST_WINDOW = 8 * 1024, 1024, 128 * 1024


class GatewayError(CloudError):
    """The way to the pod's shell does not work."""

    code = "gateway"


class SessionLost(GatewayError):
    """The session ended or fell silent."""


class RemoteFile(GatewayError):
    """The far side cannot read or write a file."""

    code = "remote_file"


class NoSuchFile(RemoteFile):
    """There is nothing to read."""


class Damaged(Exception):
    """Something did not arrive as it was sent."""


@dataclass(frozen=True)
class Secret:
    """How a password prompt is answered: what asks for it, what shows that none is wanted, and the password."""

    prompt: str
    granted: str
    password: str

    def content(self) -> bytes:
        if any("\n" in text for text in (self.prompt, self.granted, self.password)):
            raise GatewayError("a prompt or password with a line break cannot be answered through the gateway")
        return f"{self.prompt}\n{self.granted}\n{self.password}\n".encode()


@dataclass(frozen=True)
class Finished:
    status: int
    stdout: bytes
    stderr: bytes


@dataclass
class Pace:
    """How much may be under way unconfirmed: grows until something is damaged, then stays below that."""

    window: int = FIRST_WINDOW
    ceiling: int = MOST_WINDOW
    pause: float = 0.0
    read: int = FIRST_BYTES
    damaged: int = 0
    # Seconds until a chunk is confirmed, as of late.
    answer: float = 0.3
    _since: int = 0
    _full: int = 0
    _cautious: int = 16

    def good(self, size: int, seconds: float) -> None:
        self.answer += (seconds - self.answer) / 4
        self._since += size
        if self._since >= self.window:
            self._since = 0
            self.window = min(self.ceiling, self.window + self.window // 2)
            self.pause = self.pause / 2 if self.pause > 0.01 else 0.0
            self._full = self._full + 1 if self.window == self.ceiling else 0
            if self._full > self._cautious:
                self._full, self.ceiling = 0, min(MOST_WINDOW, self.ceiling * 5 // 4)

    def bad(self) -> None:
        self.damaged += 1
        self.ceiling = max(LEAST_WINDOW, self.window * 3 // 4)
        self.window = max(LEAST_WINDOW, self.window // 2)
        self.pause = min(0.5, max(0.02, self.pause * 2))
        self._since = self._full = 0
        self._cautious = min(4096, self._cautious * 2)

    def patience(self, most: float) -> float:
        """How long a chunk may be unconfirmed."""
        return min(most, max(0.5, 8 * self.answer))

    @property
    def chunk(self) -> int:
        """Bytes of content in one chunk, half of the window as lines: the far side takes its time for each chunk, so few large ones are quicker."""
        return max(LINE_BYTES * 2, self.window * 3 // 8 // LINE_BYTES * LINE_BYTES)


@dataclass
class Part:
    """Something to be brought into a slot."""

    slot: str
    size: int
    read: Callable[[int, int], bytes]
    have: int = 0
    # Told how much has been confirmed.
    moved: Callable[[int], None] = lambda have: None

    @classmethod
    def of(cls, slot: str, content: bytes) -> Part:
        return cls(slot, len(content), lambda start, length: content[start : start + length])

    @classmethod
    def of_file(cls, slot: str, stream: BinaryIO, size: int, have: int, moved: Callable[[int], None]) -> Part:
        def read(start: int, length: int) -> bytes:
            stream.seek(start)
            return stream.read(length)

        return cls(slot, size, read, have, moved)
