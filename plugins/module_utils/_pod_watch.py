# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog of a machine, as its start script sees it: what it says, whether it runs, and starting it by hand.

Python 3.10 and the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ._pod_state import LOCK_FD, Setup, SetupError, watched
from ._receipts import taken
from ._uv import last_words, run_program

# As the role cuda_watchdog looks for them, and what its program says of a broken GPU.
JOBS = ("jobs/*/status.json", "jobs/*/*/status.json", "runs/*/jobs/*/status.json")
GPU_BROKEN = 3


def watchdog_of(setup: Setup) -> Path:
    return setup.workspace / ".podcycle" / "watchdog" / "cuda_watchdog.py"


def verified(setup: Setup, env: dict[str, str], *, asked: bool = True) -> str:
    """What the watchdog sees, if there is one, and whether it runs where it was asked for: Ansible's word alone is no proof. The rest of the last line."""
    if not watchdog_of(setup).exists():
        return ""
    done = run_program([sys.executable, str(watchdog_of(setup)), "check", "--quick"], env, timeout=300)
    said = "; ".join(line.removeprefix("broken: ") for line in (done.stdout or done.stderr).splitlines() if not line.startswith("note: "))
    if done.returncode not in (0, GPU_BROKEN):
        hint = "run this script again, or look closer: " + shlex.join(["python3", str(watchdog_of(setup)), "check"])
        raise SetupError(f"verify this machine: the watchdog says {last_words(said) or f'nothing and ended with {done.returncode}'}", hint=hint)
    if asked and watched(setup.settings["variables"]) and not taken([str(watchdog_of(setup).with_name("run.lock"))]):
        log = watchdog_of(setup).with_name("watchdog.log")
        raise SetupError("verify this machine: the watchdog does not run", hint=f"see {log}, then run this script again")
    return f" but for a GPU: {last_words(said)}" if done.returncode else ""


def _checks(setup: Setup) -> dict[str, Any]:
    return runpy.run_path(str(setup.collection / "roles" / "cuda_watchdog" / "files" / "watchdog_checks.py"))


def running_job(setup: Setup) -> str | None:
    """The folder of a job that runs, where no watchdog is left to ask."""
    found = _checks(setup)["busy"]([f"{setup.workspace}/{pattern}" for pattern in JOBS])
    return str(found) if found else None


def watch(setup: Setup, *, detach: bool) -> int:
    """The watchdog in this process or in one of its own; the lock is let go, since healing takes it."""
    program = watchdog_of(setup)
    if not program.exists():
        raise SetupError(f"watch this machine: {program} is not there", hint="run this script without --watchdog first")
    command = [sys.executable, str(program), "run"]
    with contextlib.suppress(OSError):
        os.close(LOCK_FD)
    if not detach:
        os.execv(command[0], command)
    with (program.parent / "watchdog.log").open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
    # One watchdog looks after a workspace; another one ends at once, and the first one's state tells who it is.
    pid = child.pid
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = child.wait(timeout=1)
        state = program.parent / "state.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            pid = int(json.loads(state.read_text(encoding="utf-8"))["pid"])
        if not Path(f"/proc/{pid}").exists():
            said = (program.parent / "watchdog.log").read_text(encoding="utf-8", errors="replace").splitlines()
            raise SetupError(f"watch this machine: the watchdog ended with {code}: {next(reversed(said), 'it said nothing')}", hint="run this script again")
    sys.stdout.write(f"{pid}\n")
    return 0
