# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One process that has everything imported and forks a supervisor per pod: a pod starts in milliseconds and outlives the API server."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rehearsal import procs
from rehearsal.pods import sandbox

LOOK_SECONDS = 5.0
Run = Callable[[Mapping[str, Any], socket.socket], None]


def socket_address(run_dir: Path) -> tuple[str, int]:
    """Socket addresses hold about 100 bytes; a path through an open folder is short. The descriptor must stay open while the path is used."""
    folder = os.open(run_dir, os.O_PATH | os.O_DIRECTORY)
    return f"/proc/self/fd/{folder}/zygote.sock", folder


def isolation_of(run_dir: Path, wanted: str) -> tuple[str, str | None]:
    if wanted == "convention":
        return wanted, "asked for"
    reason = sandbox.probe(run_dir)
    return ("namespaces", None) if reason is None else ("convention", reason)


def serve(state_dir: Path, wanted: str) -> None:
    run_dir = state_dir / "run"
    path, folder = socket_address(run_dir)
    (run_dir / "zygote.sock").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(128)
    isolation, reason = isolation_of(run_dir, wanted)
    record = {"pid": os.getpid(), "pid_started": procs.start_ticks(os.getpid()), "isolation": isolation, "reason": reason}
    temporary = run_dir / "zygote.json.new"
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(run_dir / "zygote.json")

    # asyncssh takes close to a second to import: once here, never again in a pod.
    from rehearsal.pods import supervisor

    pods: dict[str, tuple[int, int | None]] = {}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(LOOK_SECONDS)
    while True:
        try:
            connection, _rest = listener.accept()
        except TimeoutError:
            if not (state_dir / "run" / "zygote.json").exists():
                _end_children()
                return
            continue
        connection.settimeout(LOOK_SECONDS)
        with connection:
            _answer(connection, listener, folder, isolation, supervisor.run, pods)


def _end_children() -> None:
    """The state folder was deleted: nobody can end these pods any more."""
    for pid in procs.descendants(os.getpid()):
        procs.send(pid, signal.SIGKILL)


def _answer(connection: socket.socket, listener: socket.socket, folder: int, isolation: str, run: Run, pods: dict[str, tuple[int, int | None]]) -> None:
    try:
        with connection.makefile("rb") as lines:
            spec = json.loads(lines.readline())
    except (OSError, ValueError):
        return
    # A server that was killed while it started a pod asks for the same pod again.
    if spec["pod_dir"] in pods:
        procs.kill_tree(*pods[spec["pod_dir"]])
    child = os.fork()
    if child != 0:
        pods[spec["pod_dir"]] = (child, procs.start_ticks(child))
        return
    listener.close()
    os.close(folder)
    connection.settimeout(None)
    status = 1
    try:
        run({**spec, "isolation": isolation}, connection)
        status = 0
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--isolation", default="auto")
    options = parser.parse_args()
    serve(options.state_dir, options.isolation)


if __name__ == "__main__":
    main()
