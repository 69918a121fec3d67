# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files one by one through scp, for machines without rsync. A file takes its place when it is whole, so that a later run leaves out what has arrived."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import SCP_PARTIAL
from ansible_collections.podcycle.gpu.plugins.module_utils._copying import Meter, run_watched
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import CloudError, StateError, clean_text

_GONE = re.compile(r"^(?:\S*/)?scp: .*: No such file or directory", re.MULTILINE)


@dataclass
class Scp:
    """`ssh` are the words of an ssh command line up to the host; `shell` runs one command on the pod and raises when it fails."""

    ssh: list[str]
    host: str
    rate_kib_s: int
    tries: int
    timeout: float
    meter: Meter
    shell: Callable[[str], None]
    # Raises where trying again cannot help; says what went wrong before the next try.
    judge: Callable[[str], None]
    say: Callable[[str], None]

    def push(self, local: Path, root: str, rows: list[dict[str, Any]]) -> None:
        folders = sorted({f"{root}/{row['path']}".rpartition("/")[0] for row in rows} | {f"{root}/{SCP_PARTIAL}"})
        self.shell(f"mkdir -p -- {shlex.join(folders)}")
        done = 0
        for row in rows:
            partial, dest = f"{root}/{SCP_PARTIAL}/file", f"{root}/{row['path']}"
            self._copy([str(local / row["path"]), f"{self.host}:{partial}"], None)
            self.shell(f"mv -f -- {shlex.join([partial, dest])}")
            done += row["size"]
            self.meter.seen(done)
        self.shell(f"rmdir -- {shlex.quote(f'{root}/{SCP_PARTIAL}')}")

    def pull(self, root: str, local: Path, rows: list[dict[str, Any]], bound: Callable[[], None]) -> None:
        place = local / SCP_PARTIAL
        place.mkdir(mode=0o700, exist_ok=True)
        partial, done = place / "file", 0
        for row in rows:
            partial.unlink(missing_ok=True)
            before = done

            def tick(heard: bytes, before: int = before) -> None:
                self.meter.seen(before + (partial.stat().st_size if partial.is_file() else 0))

            # sftp reads the name on the pod as a shell's pattern.
            name = re.sub(r"([*?\[\]{}\\])", r"\\\1", f"{root}/{row['path']}")
            # A pod that works drops its old checkpoints while its files are fetched.
            if not self._copy([f"{self.host}:{name}", str(partial)], bound, tick):
                continue
            dest = local / row["path"]
            dest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.chmod(0o600)
            partial.replace(dest)
            done += row["size"]
            self.meter.seen(done)
        place.rmdir()

    def _copy(self, ends: list[str], bound: Callable[[], None] | None, tick: Callable[[bytes], None] = lambda heard: None) -> bool:
        """Whether there was something to copy."""
        program = shutil.which("scp")
        if program is None:
            raise StateError("neither rsync nor scp is installed here", hint="install one: apt-get install rsync")
        limit = ["-l", str(self.rate_kib_s * 8)] if self.rate_kib_s else []
        command = [program, "-s", "-q", "-p", *limit, *self.ssh, "--", *ends]
        said = ""
        for attempt in range(1, self.tries + 1):
            done = run_watched(command, self.timeout, bound=bound, tick=tick)
            if done.returncode == 0:
                return True
            raw = done.stderr.decode("utf-8", "replace")
            if bound is not None and _GONE.search(raw):
                return False
            said = clean_text(raw.strip(), 400)
            self.judge(raw)
            self.say(f"transfer try {attempt} of {self.tries} failed: {said}")
            if attempt < self.tries:
                time.sleep(min(2.0**attempt, 10.0))
        raise CloudError(f"scp failed {self.tries} times: {said}", hint="run the stage again with the same run_id; files that have arrived are left out")
