# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API server process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from rehearsal.api.runpod import RunPodApi
from rehearsal.api.runpod_graphql import GraphQlApi
from rehearsal.cloud import LOOPBACK, Cloud
from rehearsal.control import Control
from rehearsal.faults import FaultBook, Hold
from rehearsal.gate import ConnectionAwareProtocol, Gate, RequestLog
from rehearsal.gateway import Gateway
from rehearsal.pods.process import ProcessPods, empty
from rehearsal.store import Store


@dataclass(frozen=True)
class Options:
    state_dir: Path
    port: int
    time_scale: float | None = None
    image_cache: Path | None = None
    isolation: str = "auto"
    process: str = "process"


def build(options: Options, cloud: Cloud) -> Starlette:
    gateway = Gateway(cloud, options.state_dir) if options.process == "process" else None
    hold, log = Hold(), RequestLog(options.state_dir / "requests.jsonl")
    url = f"http://{LOOPBACK}:{options.port}"
    facts = {"state_dir": str(options.state_dir), "url": url, "control_url": f"{url}/_control", "process": options.process}

    def key_label(token: str | None) -> str:
        key = cloud.key(token) if token else None
        return key.label if key else "none given" if token is None else "unknown"

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if options.time_scale is not None:
            cloud.start_scale = options.time_scale
            cloud.set_time_scale(options.time_scale)
        await cloud.processes.wait_zygote()
        await cloud.wake()
        if gateway is not None:
            gateway.open()
        yield

    middleware = [Middleware(Gate, faults=cloud.faults, hold=hold, log=log, key_label=key_label)]
    rest = RunPodApi(cloud)
    routes = [*Control(cloud, hold, log, facts, gateway).routes(), *GraphQlApi(cloud, rest).routes(), *rest.routes()]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


def serve(options: Options) -> int:
    """Serve until SIGTERM. The pods go on without the server."""
    run_dir = options.state_dir / "run"
    run_dir.mkdir(exist_ok=True)
    lock = os.open(run_dir / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(lock, False)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, options.port))
    processes = ProcessPods(options.state_dir, options.image_cache, options.isolation)
    processes.start_zygote()
    empty(options.state_dir / "trash")
    store = Store(options.state_dir / "cloud.sqlite")
    cloud = Cloud(store, processes, FaultBook(), options.process)
    config = uvicorn.Config(
        build(options, cloud),
        http=ConnectionAwareProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=30,
    )
    uvicorn.Server(config).run(sockets=[listener])
    store.close()
    return 0
