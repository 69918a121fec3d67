# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses the services of this machine: an SSH server, Jupyter Lab, the inference API, the repository and its environment."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SERVICES = Path("/workspace/.podcycle/services")


def ask(address: str, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(address, data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, None


def want(true: object, what: object) -> None:
    if not true:
        raise SystemExit(str(what))


end = time.monotonic() + 60
while ask("http://127.0.0.1:8000/healthz")[0] != 200 and time.monotonic() < end:
    time.sleep(1)
answer = ask("http://127.0.0.1:8000/infer", {"context": "e2e4 e7e5 g1f3", "topk": 3})
want(answer[0] == 200 and len(answer[1]["topk"]) == 3 and answer[1]["model_path"] == "/workspace/runs/r1/model.pt", answer)
want((SERVICES / "heartbeat").exists(), "no heartbeat")
token = (SERVICES / "jupyter.token").read_text()
want((SERVICES / "jupyter.token").stat().st_mode & 0o777 == 0o600, "the token can be read by others")
kernels = ask(f"http://127.0.0.1:8888/api/kernelspecs?token={token}")
want(kernels[0] == 200 and "pod" in kernels[1]["kernelspecs"], kernels)
want(ask("http://127.0.0.1:8888/api/contents")[0] == 403, "Jupyter asks for no token")
with socket.create_connection(("127.0.0.1", 2222), timeout=10) as connection:
    want(connection.recv(4) == b"SSH-", "no SSH server")
sockets = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
heard = {line.split()[3] for line in sockets.splitlines()}
# Its port is not rented, that of the inference API is.
want("127.0.0.1:8888" in heard and "0.0.0.0:8888" not in heard and "0.0.0.0:8000" in heard, heard)
want(Path("/workspace/repo/requirements.txt").is_file(), "no repository")
want(subprocess.run(["/workspace/repo-venv/bin/python", "-c", "import chess"], check=False).returncode == 0, "the requirements are missing")
rows = [json.loads(line) for line in Path("/workspace/runs/r1/runpod_phase_times.jsonl").read_text().splitlines()]
want({row["source"] for row in rows} == {"runpod_entrypoint", "runpod_services", "runpod_trainer"}, rows)
logs = "".join(path.read_text(errors="replace") for path in Path("/workspace/.podcycle/supervisor").glob("*.log"))
want(token not in logs, "the token stands in a log")
