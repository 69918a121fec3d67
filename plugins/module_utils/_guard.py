# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease's guard on the pod itself: ends the pod at its deadline with the pod's own key.

Runs on the pod with Python 3.10 and the standard library alone. RunPod puts RUNPOD_POD_ID and a
pod-scoped RUNPOD_API_KEY into the container's environment, which SSH sessions do not see but
/proc/1/environ does. The key's rights are not documented, so a harmless read is tried first.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

AGENT = "podcycle.gpu/0.1.0 (lease guard)"
RETRY_SECONDS = 30.0
_NAMES = ("RUNPOD_POD_ID", "RUNPOD_API_KEY")


def pod_environment() -> dict[str, str]:
    """What the container was started with."""
    found = {name: os.environ[name] for name in _NAMES if os.environ.get(name)}
    try:
        entries = Path("/proc/1/environ").read_bytes().split(b"\0")
    except OSError:
        entries = []
    for entry in entries:
        key, _equals, value = entry.decode("utf-8", "replace").partition("=")
        if key in _NAMES and value:
            found[key] = value
    return found


def call(base_url: str, pod: dict[str, str], method: str, timeout: float = 20.0, *, action: str = "") -> int:
    """Status of one request about this pod, or for an action on it; 0 when no answer came."""
    headers = {"Authorization": f"Bearer {pod['RUNPOD_API_KEY']}", "User-Agent": AGENT, "Accept": "application/json"}
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/pods/{pod['RUNPOD_POD_ID']}{'/action' if action else ''}",
        method=method,
        data=json.dumps({"action": action}).encode() if action else None,
        headers={**headers, "Content-Type": "application/json"} if action else headers,
    )
    handlers: list[Any] = [urllib.request.ProxyHandler({})] if base_url.startswith("http://") else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as err:
        return err.code
    except (OSError, http.client.HTTPException):
        return 0


def start_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def read_status(folder: Path) -> dict[str, Any]:
    """The guard's own word, and whether that process still lives."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"armed": False, "why": "no guard was started"}
    if not isinstance(status, dict) or start_ticks(int(status.get("pid") or 0)) != status.get("started") or status.get("started") is None:
        return {"armed": False, "why": "the guard's process is gone"}
    return status


def write_status(folder: Path, **status: Any) -> None:
    pid = os.getpid()
    temporary = folder / "status.json.new"
    temporary.write_text(json.dumps({"pid": pid, "started": start_ticks(pid), "at": time.time(), **status}), encoding="utf-8")
    temporary.replace(folder / "status.json")


def watch(folder: Path, base_url: str, deadline: float) -> None:
    """Wait for the deadline, then terminate until nothing answers any more."""
    pod = pod_environment()
    facts = {"deadline": deadline, "base_url": base_url, "pod_id": pod.get("RUNPOD_POD_ID")}
    if len(pod) < len(_NAMES):
        write_status(folder, armed=False, why="the container's environment has no RUNPOD_POD_ID and RUNPOD_API_KEY", **facts)
        return
    code = call(base_url, pod, "GET")
    if code != 200:
        write_status(folder, armed=False, why=f"reading this pod with its own key answered {code or 'nothing'}", **facts)
        return
    write_status(folder, armed=True, why="", **facts)
    while time.time() < deadline:
        time.sleep(max(0.2, min(30.0, deadline - time.time())))
    while True:
        code = call(base_url, pod, "DELETE")
        # On a full disk too the pod is to be ended.
        with suppress(OSError):
            write_status(folder, armed=True, why=f"the deadline has passed; terminating answered {code}", **facts)
        time.sleep(RETRY_SECONDS)


def end_watch(folder: Path) -> bool:
    status = read_status(folder)
    (folder / "status.json").unlink(missing_ok=True)
    if status.get("pid") and status.get("started") is not None and start_ticks(int(status["pid"])) == status["started"]:
        os.kill(int(status["pid"]), 9)
        return True
    return False


def arm(folder: Path, source: str, base_url: str, deadline: float, patience_seconds: float = 30.0) -> dict[str, Any]:
    """Start the guard as a process of its own and wait for its word."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    end_watch(folder)
    script = folder / "guard.py"
    script.write_text(source, encoding="utf-8")
    with (folder / "guard.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, str(script), str(folder), base_url, str(deadline)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        if (folder / "status.json").exists():
            return read_status(folder) if json.loads((folder / "status.json").read_text(encoding="utf-8"))["armed"] else _word(folder)
        time.sleep(0.05)
    return {"armed": False, "why": f"the guard said nothing for {patience_seconds:.0f} s"}


def _word(folder: Path) -> dict[str, Any]:
    word: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    return word


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
