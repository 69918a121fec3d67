# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m rehearsal start|stop|status|serve|reset"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rehearsal import DEFAULT_PORT, DEFAULT_STATE_DIR, procs, statedir

HEALTH_SECONDS = 20.0
LOOPBACK = "127.0.0.1"


# Playbooks and `make cycle` have no such option: their inventory reads the environment.
OTHER_PORT = "choose another: --port N here, PODCYCLE_REHEARSAL_PORT=N in the environment of make cycle and the playbooks"


class CliError(Exception):
    """One sentence for the person at the terminal."""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.state_dir = options.state_dir.absolute()
    commands = {"start": start, "stop": stop, "status": status, "serve": serve, "reset": reset}
    try:
        return commands[options.command](options)
    except (CliError, statedir.StateDirError) as error:
        print(f"rehearsal {options.command}: {error}", file=sys.stderr)
        return 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rehearsal", description="The rehearsal cloud: RunPod on loopback, at no cost.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "start": "start it in the background and print where it is",
        "stop": "end the server, and its pods",
        "status": "say whether it runs",
        "serve": "run the server in the foreground",
        "reset": "end all pods and forget everything",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--state-dir", type=Path, default=Path(DEFAULT_STATE_DIR), help=f"folder of its state (default {DEFAULT_STATE_DIR})")
        command.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"loopback port (default {DEFAULT_PORT})")
        if name in ("start", "serve"):
            command.add_argument("--time-scale", type=float, help="waits of the cloud are this many times shorter")
            command.add_argument("--image-cache", type=Path, help="a uv cache that every new pod finds in its own cache folder")
            command.add_argument("--isolation", choices=("auto", "convention"), default="auto", help="auto uses namespaces where they are allowed")
            command.add_argument("--process", choices=("process", "none"), default="process", help="none: records only, nothing behind them")
        if name == "stop":
            command.add_argument("--keep-pods", action="store_true", help="end the API server alone")
    return parser.parse_args(arguments)


def call(port: int, method: str, path: str, body: dict[str, Any] | None = None, seconds: float = 5.0) -> dict[str, Any] | None:
    """The control API's answer; None when nothing that speaks it listens there."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}/_control{path}", method=method, data=data)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as answer:
            parsed = json.loads(answer.read())
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return parsed if isinstance(parsed, dict) else None


def healthy(port: int, seconds: float = 2.0) -> dict[str, Any] | None:
    answer = call(port, "GET", "/health", seconds=seconds) if port_taken(port) else None
    return answer if answer is not None and answer.get("ok") and "state_dir" in answer else None


def port_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def describe(health: dict[str, Any], changed: bool) -> str:
    names = ("url", "control_url", "pid", "state_dir", "isolation", "isolation_reason", "time_scale")
    return json.dumps({**{name: health.get(name) for name in names}, "changed": changed})


def start(options: argparse.Namespace) -> int:
    health = healthy(options.port)
    if health is not None and Path(health["state_dir"]) == options.state_dir:
        print(describe(health, False))
        return 0
    refuse_foreign(options, health)
    statedir.claim(options.state_dir)
    if statedir.server_holds(options.state_dir):
        health = wait_healthy(options, None)
        print(describe(health, False))
        return 0
    child = launch(options)
    print(describe(wait_healthy(options, child), True))
    return 0


def refuse_foreign(options: argparse.Namespace, health: dict[str, Any] | None) -> None:
    port = options.port
    if health is not None:
        raise CliError(f"port {port} is held by the rehearsal cloud of {health['state_dir']} (pid {health['pid']}); stop that one or {OTHER_PORT}")
    record = statedir.read_record(options.state_dir, "server.json")
    if record is not None and record["port"] != port and statedir.server_holds(options.state_dir):
        where = f"port {record['port']} (pid {record['pid']})"
        raise CliError(f"the rehearsal cloud of {options.state_dir} already runs on {where}; stop it first or use that port")
    if port_taken(port) and not statedir.server_holds(options.state_dir):
        pid = procs.listener_pid(port)
        who = f"by process {pid}" if pid else "by another program"
        raise CliError(f"port {port} on {LOOPBACK} is held {who}, which is not a rehearsal cloud; end it or {OTHER_PORT}")


def launch(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The server in a session of its own; it outlives this process, which is gone in a moment."""
    words = [sys.executable, "-m", "rehearsal", "serve", "--state-dir", str(options.state_dir), "--port", str(options.port)]
    words += ["--isolation", options.isolation, "--process", options.process]
    if options.time_scale is not None:
        words += ["--time-scale", str(options.time_scale)]
    if options.image_cache is not None:
        words += ["--image-cache", str(options.image_cache.absolute())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with open(options.state_dir / "server.log", "ab") as log:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, cwd="/")


def wait_healthy(options: argparse.Namespace, child: subprocess.Popen[bytes] | None) -> dict[str, Any]:
    end = time.monotonic() + HEALTH_SECONDS
    while time.monotonic() < end:
        health = healthy(options.port)
        if health is not None and Path(health["state_dir"]) == options.state_dir:
            return health
        if child is not None and child.poll() is not None:
            break
        time.sleep(0.03)
    log = options.state_dir / "server.log"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    last = f": {lines[-1]}" if lines else ""
    raise CliError(f"the server did not come up on port {options.port}; its log is {log}{last}")


def stop(options: argparse.Namespace) -> int:
    if not options.state_dir.is_dir():
        print(json.dumps({"changed": False, "state_dir": str(options.state_dir)}))
        return 0
    if not statedir.is_ours(options.state_dir):
        raise CliError(f"the folder {options.state_dir} was not made by the rehearsal cloud; nothing was ended")
    changed = stop_server(options)
    if not options.keep_pods:
        changed = statedir.end_processes(options.state_dir) > 0 or changed
        (options.state_dir / "run" / "zygote.json").unlink(missing_ok=True)
    print(json.dumps({"changed": changed, "state_dir": str(options.state_dir)}))
    return 0


def stop_server(options: argparse.Namespace) -> bool:
    record = statedir.read_record(options.state_dir, "server.json")
    if record is None or not procs.alive(record["pid"], record["pid_started"]):
        return False
    call(record["port"], "POST", "/shutdown", {"keep_pods": options.keep_pods}, seconds=15.0)
    if not procs.wait_gone(record["pid"], record["pid_started"], 5.0):
        procs.send(record["pid"], signal.SIGKILL)
        procs.wait_gone(record["pid"], record["pid_started"], 2.0)
    return True


def status(options: argparse.Namespace) -> int:
    health = healthy(options.port)
    if health is None or Path(health["state_dir"]) != options.state_dir:
        print(json.dumps({"running": False, "state_dir": str(options.state_dir)}))
        return 3
    print(json.dumps({"running": True, **json.loads(describe(health, False))}))
    return 0


def reset(options: argparse.Namespace) -> int:
    health = healthy(options.port)
    if health is not None and Path(health["state_dir"]) == options.state_dir:
        if call(options.port, "POST", "/reset", {}, seconds=30.0) is None:
            raise CliError(f"the server on port {options.port} did not finish its reset; see {options.state_dir / 'server.log'}")
    elif options.state_dir.exists():
        if not statedir.is_ours(options.state_dir):
            raise CliError(f"the folder {options.state_dir} was not made by the rehearsal cloud; nothing was deleted")
        if statedir.server_holds(options.state_dir):
            raise CliError(f"a server runs from {options.state_dir} on another port; name it with --port")
        statedir.end_processes(options.state_dir)
        statedir.wipe(options.state_dir)
    print(json.dumps({"changed": True, "state_dir": str(options.state_dir)}))
    return 0


def serve(options: argparse.Namespace) -> int:
    refuse_foreign(options, None)
    statedir.claim(options.state_dir)
    if statedir.server_holds(options.state_dir):
        raise CliError(f"a rehearsal cloud already runs from {options.state_dir}")
    from rehearsal import server

    record = {"pid": os.getpid(), "pid_started": procs.start_ticks(os.getpid()), "port": options.port}
    (options.state_dir / "run" / "server.json").write_text(json.dumps(record), encoding="utf-8")
    return server.serve(server.Options(options.state_dir, options.port, options.time_scale, options.image_cache, options.isolation, options.process))
