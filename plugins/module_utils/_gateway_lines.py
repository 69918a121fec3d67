# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines that come and go over a terminal behind the gateway; ours begin with a marker, whatever else is printed there."""

from __future__ import annotations

import os
import re
import select
import time
from dataclasses import dataclass, field

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_agent import BEAT_SECONDS
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import SessionLost

_ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])")


@dataclass
class Lines:
    """Two file descriptors that lead to a terminal; `silence` is how many seconds may pass without a sign of life."""

    reader: int
    writer: int
    silence: float = 60.0
    marker: bytes = b""
    said: bytes = field(default=b"", init=False)
    _buffer: bytearray = field(default_factory=bytearray, init=False)

    def __post_init__(self) -> None:
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)

    def heard(self) -> str:
        """The last of what came that was no answer of ours."""
        return clean_text(_ESCAPES.sub(b"", self.said + bytes(self._buffer)).decode("utf-8", "replace").strip()[-300:], 300) or "nothing"

    def _hear(self, kinds: set[str], end: float) -> list[str] | None:
        """The next answer of one of these kinds; a beat is a sign of life and nothing more."""
        while True:
            line = self._line(end)
            if line is None:
                return None
            words = self._marked(line)
            if words is None:
                self.said = (self.said + line + b"\n")[-2000:]
            elif words[0] == "H":
                # The far side works and answers nothing else.
                end = max(end, time.monotonic() + min(self.silence, 3.0 * BEAT_SECONDS))
            elif words[0] in kinds:
                return words

    def _marked(self, line: bytes) -> list[str] | None:
        if not line.startswith(self.marker + b" "):
            return None
        words = line[len(self.marker) + 1 :].decode("ascii", "replace").split()
        return words or None

    def _line(self, end: float) -> bytes | None:
        searched = 0
        while True:
            place = self._buffer.find(b"\n", searched)
            if place >= 0:
                line = bytes(self._buffer[:place])
                del self._buffer[: place + 1]
                return line.rstrip(b"\r")
            searched = len(self._buffer)
            if not self._fill(end):
                return None

    def _fill(self, end: float) -> bool:
        """More of what comes; False when it is too late."""
        left = end - time.monotonic()
        if left <= 0 or not select.select([self.reader], [], [], left)[0]:
            return False
        self._take()
        return True

    def _take(self) -> None:
        try:
            content = os.read(self.reader, 65536)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if not content:
            raise SessionLost(f"the session through the gateway ended; the last that came was: {self.heard()}")
        self._buffer += content

    def _send(self, content: bytes, end: float | None = None) -> None:
        view = memoryview(content)
        end = end or time.monotonic() + self.silence
        while view:
            readable, writable, _rest = select.select([self.reader], [self.writer], [], max(0.0, end - time.monotonic()))
            if readable:
                self._take()
            if writable:
                try:
                    view = view[os.write(self.writer, view) :]
                except BlockingIOError:
                    continue
                except OSError as err:
                    raise SessionLost(f"the session through the gateway ended; the last that came was: {self.heard()}") from err
            elif not readable and time.monotonic() >= end:
                raise SessionLost(f"the gateway took nothing for {self.silence:.0f} s")
