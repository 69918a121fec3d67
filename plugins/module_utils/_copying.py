# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that copy: run with a limit of time, and heard while they run."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import WaitTimeout

EVERY_SECONDS = 5.0
_KEPT_BYTES = 256 * 1024
_TICK_SECONDS = 0.5
_PROGRESS = re.compile(rb"\s*([0-9][0-9,.]*)\s+[0-9]+%")


class Meter:
    """Says how far a transfer is, how fast it is and how long it will still take: at most one line every five seconds."""

    def __init__(self, label: str, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.total, self._say, self._clock = label, total, say, clock
        self._at, self._then = clock(), 0
        self._fresh = True

    def seen(self, done: int) -> None:
        now = self._clock()
        if self._fresh:
            # What an earlier try has left is there at once and says nothing about the rate.
            self._fresh, self._at, self._then = done == 0, now, done
        elif now - self._at >= EVERY_SECONDS and done <= self.total:
            rate = max(0.0, (done - self._then) / (now - self._at))
            rest = f"ETA {span((self.total - done) / rate)}" if rate else "nothing moves"
            self._say(f"{self.label}: {100 * done // max(self.total, 1)}% of {size(self.total)}, {size(rate)}/s, {rest}")
            self._at, self._then = now, done

    def after(self, before: int, done: int) -> None:
        """The same for one of several files, after so many bytes of others."""
        self.seen(before + done)


def span(seconds: float) -> str:
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def size(count: float) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


def summary(files: int, count: int, seconds: float, method: str) -> str:
    return f"{files} file{'' if files == 1 else 's'}, {size(count)} in {seconds:.1f} s, {size(count / max(seconds, 0.01))}/s by {method}"


def rsync_progress(text: bytes) -> int | None:
    """The bytes that rsync has written so far, from the last whole line of --info=progress2."""
    for line in reversed(text.split(b"\r")):
        found = _PROGRESS.match(line)
        if found and line is not text:
            return int(re.sub(rb"[,.]", b"", found.group(1)))
    return None


def run_watched(
    command: list[str],
    timeout: float,
    *,
    stdin: bytes = b"",
    bound: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
    tick: Callable[[bytes], None] = lambda heard: None,
    kept: int = _KEPT_BYTES,
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end; `tick` is given the end of what the program has said, twice a second. Of each stream the last `kept` bytes stay."""
    end = time.monotonic() + timeout
    said = {"stdout": b"", "stderr": b""}
    with tempfile.TemporaryFile() as given, selectors.DefaultSelector() as ready:
        given.write(stdin)
        given.seek(0)
        child = subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=bound, env=None if environment is None else dict(environment)
        )
        try:
            for name in said:
                ready.register(getattr(child, name), selectors.EVENT_READ, name)
            told = time.monotonic()
            while ready.get_map():
                for key, _mask in ready.select(_TICK_SECONDS):
                    piece = os.read(key.fd, 65536)
                    said[key.data] = (said[key.data] + piece)[-kept:]
                    if not piece:
                        ready.unregister(key.fileobj)
                now = time.monotonic()
                if now >= end:
                    raise subprocess.TimeoutExpired(command, timeout)
                if now - told >= _TICK_SECONDS:
                    tick(said["stdout"])
                    told = now
            child.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired as err:
            program = os.path.basename(command[0])
            raise WaitTimeout(f"{program} took longer than {timeout:g} s", hint="run the stage again; it goes on where it was") from err
        finally:
            child.kill()
            child.wait()
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
    return subprocess.CompletedProcess(command, child.returncode, said["stdout"], said["stderr"])
