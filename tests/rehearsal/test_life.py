# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting, stopping, and what survives."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def rehearse(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "extensions")}
    return subprocess.run([sys.executable, "-m", "rehearsal", *words], env=environment, capture_output=True, text=True, timeout=40, check=False)


def running_from(state_dir: Path) -> list[str]:
    return subprocess.run(["pgrep", "-f", str(state_dir)], capture_output=True, text=True, check=False).stdout.split()


def test_start_twice_then_stop(own_cloud: Any) -> None:
    where = ["--state-dir", str(own_cloud.state_dir), "--port", str(own_cloud.port)]
    begin = time.monotonic()
    first = own_cloud.start("--time-scale", "10")
    print(f"\nstarted in {time.monotonic() - begin:.2f} s")
    second = own_cloud.start()
    assert (first["changed"], second["changed"]) == (True, False) and first["pid"] == second["pid"]
    assert own_cloud.state_dir.stat().st_mode & 0o777 == 0o700
    assert json.loads(rehearse("status", *where).stdout)["running"] is True
    pod = own_cloud.create()
    own_cloud.reachable(pod["id"])
    assert rehearse("stop", *where).returncode == 0
    assert running_from(own_cloud.state_dir) == []
    assert rehearse("status", *where).returncode == 3
    assert json.loads(rehearse("stop", *where).stdout)["changed"] is False
    own_cloud.start()
    assert own_cloud.get(pod["id"])["status"] == "EXITED"
    assert rehearse("reset", *where).returncode == 0
    assert own_cloud.call("GET", "/v2/pods").json["pods"] == []


def test_refusals(own_cloud: Any, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    for command in ("start", "stop", "reset"):
        done = rehearse(command, "--state-dir", str(foreign), "--port", str(own_cloud.port))
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "not made by the rehearsal cloud" in done.stderr
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", own_cloud.port))
        other.listen()
        done = rehearse("start", "--state-dir", str(own_cloud.state_dir), "--port", str(own_cloud.port))
        assert done.returncode == 1 and f"held by process {os.getpid()}" in done.stderr and "PODCYCLE_REHEARSAL_PORT=N" in done.stderr
    own_cloud.start()
    done = rehearse("start", "--state-dir", str(tmp_path / "second"), "--port", str(own_cloud.port))
    assert done.returncode == 1 and str(own_cloud.state_dir) in done.stderr and "PODCYCLE_REHEARSAL_PORT=N" in done.stderr


def test_a_killed_server_cuts_no_ssh(own_cloud: Any) -> None:
    started = own_cloud.start("--time-scale", "10")
    volume = {"mounts": {"persistent": {"size": 10, "path": "/workspace"}}}
    pod, stopped = own_cloud.create("goes-on", **volume), own_cloud.create("stopped", **volume)
    port = own_cloud.reachable(pod["id"])
    own_cloud.running(stopped["id"])
    own_cloud.call("POST", f"/v2/pods/{stopped['id']}/action", {"action": "stop"})
    session = subprocess.Popen([*own_cloud.ssh_words(port), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert session.stdin and session.stdout
    session.stdin.write("before\n")
    assert session.stdout.readline() == "before\n"
    before = own_cloud.control("GET", "/meter")["pods"][pod["id"]]
    requests = own_cloud.control("GET", "/requests")["requests"]
    os.kill(started["pid"], signal.SIGKILL)
    own_cloud.wait(lambda: not Path(f"/proc/{started['pid']}").exists())
    session.stdin.write("while it is down\n")
    assert session.stdout.readline() == "while it is down\n"
    again = own_cloud.start()
    assert again["changed"] and again["pid"] != started["pid"]
    session.stdin.write("after\n")
    assert session.stdout.readline() == "after\n"
    session.stdin.close()
    assert session.wait(5) == 0
    listed = {one["name"]: one["status"] for one in own_cloud.call("GET", "/v2/pods").json["pods"]}
    assert listed == {"goes-on": "RUNNING", "stopped": "EXITED"}
    assert own_cloud.get(pod["id"])["ssh"]["direct"]["port"] == port
    assert own_cloud.control("GET", "/meter")["pods"][pod["id"]]["seconds"] > before["seconds"]
    assert own_cloud.control("GET", "/requests")["requests"][: len(requests)] == requests
    assert own_cloud.call("DELETE", f"/v2/pods/{pod['id']}").status == 204
    assert own_cloud.ssh(port, "true").returncode == 255


def test_a_boot_goes_on_after_a_restart(own_cloud: Any) -> None:
    started = own_cloud.start("--time-scale", "2")
    pod = own_cloud.create()
    assert own_cloud.get(pod["id"])["status"] == "PROVISIONING"
    os.kill(started["pid"], signal.SIGKILL)
    own_cloud.wait(lambda: not Path(f"/proc/{started['pid']}").exists())
    own_cloud.start("--time-scale", "10")
    own_cloud.reachable(pod["id"])


def test_a_pod_asked_for_twice_has_one_process(own_cloud: Any) -> None:
    """A server killed between the start of a pod and the note of it asks again."""
    own_cloud.start("--time-scale", "10")
    pod = own_cloud.create()
    own_cloud.reachable(pod["id"])
    first = own_cloud.control("GET", f"/pods/{pod['id']}")
    own_cloud.stop("--keep-pods")
    store = sqlite3.connect(own_cloud.state_dir / "cloud.sqlite")
    body = {**json.loads(store.execute("SELECT body FROM pods").fetchone()[0]), "status": "STARTING", "pid": None, "pid_started": None, "runtime_ready": False}
    store.execute("UPDATE pods SET body = ?", (json.dumps(body),))
    store.commit()
    store.close()
    own_cloud.start()
    own_cloud.reachable(pod["id"])
    second = own_cloud.control("GET", f"/pods/{pod['id']}")
    assert second["pid"] != first["pid"] and not Path(f"/proc/{first['pid']}").exists()


def test_keep_pods_ends_the_api_alone(own_cloud: Any) -> None:
    own_cloud.start("--time-scale", "10")
    port = own_cloud.reachable(own_cloud.create()["id"])
    own_cloud.stop("--keep-pods")
    assert own_cloud.ssh(port, "echo here").stdout == "here\n"
    own_cloud.stop()
    assert own_cloud.ssh(port, "true").returncode == 255
    assert running_from(own_cloud.state_dir) == []
