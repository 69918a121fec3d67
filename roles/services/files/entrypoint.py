# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the services of a pod again after a restart of its container, without Ansible. Standard library only.

  python3 WORKSPACE/.podcycle/services/entry/entrypoint.py [COMMAND ...]

Keys, token and repository are brought as the role brings them; then supervisor starts what was converged. COMMAND, if given, takes this
program's place: what the container is for goes on whatever became of the services.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import phase_times
import pod_settings
import prepare

HERE = Path(__file__).resolve().parent
SYSTEMD_RUNS = Path("/run/systemd/system")


def start_supervisor(workspace: Path) -> str:
    """What was done about it."""
    folder = workspace / ".podcycle" / "supervisor"
    config = folder / "supervisord.conf"
    if SYSTEMD_RUNS.is_dir() or not config.exists():
        return "nothing is kept by supervisor here"
    sockets = [line.partition("=")[2].strip() for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("pidfile=")]
    run = Path(sockets[0].replace("%%", "%")).parent
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [str(folder / "venv" / "bin" / "python"), str(folder / "venv" / "bin" / "supervisord"), "-c", str(config)]
    with (folder / "start.log").open("wb") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", timeout=60, check=False)
    said = " ".join((folder / "start.log").read_text(encoding="utf-8", errors="replace").split())[-200:]
    # It refuses to start twice, by its socket.
    running = "already listening" in said
    if done.returncode and not running:
        raise OSError(f"supervisor ended with {done.returncode}: {said}")
    return "supervisor runs already" if running else "supervisor was started"


def main() -> int:
    failed = False
    try:
        wish = json.loads((HERE / "wish.json").read_text(encoding="utf-8"))
        found = prepare.answer({**wish, "check": False})
        for row in found["phases"]:
            print(f"{row['phase']}: {row['error'] or row['did']}{': ' if row['note'] else ''}{row['note']}", flush=True)
        failed = bool(found["errors"])
        log = found["timing"]["log"]
        with phase_times.PhaseTimes("runpod_entrypoint", Path(log) if log else None, found["timing"]["run_id"]).phase("start_services"):
            print(start_supervisor(Path(wish["workspace"])), flush=True)
    except (OSError, ValueError, subprocess.TimeoutExpired, pod_settings.SettingsError) as error:
        print(f"start the services: {error}", file=sys.stderr, flush=True)
        failed = True
    if len(sys.argv) > 1:
        os.execvp(sys.argv[1], sys.argv[1:])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
