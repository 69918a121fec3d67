# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control API for tests: faults, holds, meter, request log, market, and the fate of pods."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rehearsal import VERSION
from rehearsal.cloud import Cloud, WrongStateError
from rehearsal.faults import KINDS, FaultError, Hold
from rehearsal.gate import RequestLog
from rehearsal.gateway import Gateway
from rehearsal.keys import ACCOUNT
from rehearsal.market_data import DATA_CENTERS
from rehearsal.records import Pod
from rehearsal.times import rfc3339

Handler = Callable[[Request], Awaitable[Response]]
LONGEST_WAIT_SECONDS = 120.0


class RefusedError(Exception):
    """The control request makes no sense."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Control:
    def __init__(self, cloud: Cloud, hold: Hold, log: RequestLog, facts: dict[str, Any], gateway: Gateway | None = None) -> None:
        self.cloud = cloud
        self.hold = hold
        self.log = log
        self.facts = facts
        self.gateway = gateway

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("/health", "GET", self.health),
            ("/reset", "POST", self.reset),
            ("/shutdown", "POST", self.shutdown),
            ("/faults", "GET", self.list_faults),
            ("/faults", "POST", self.add_fault),
            ("/faults", "DELETE", self.clear_faults),
            ("/faults/{fault_id:int}", "DELETE", self.clear_faults),
            ("/requests", "GET", self.requests),
            ("/requests", "DELETE", self.clear_requests),
            ("/meter", "GET", self.meter),
            ("/pods", "GET", self.list_pods),
            ("/pods/bulk", "POST", self.bulk),
            ("/pods/{id}", "GET", self.get_pod),
            ("/pods/{id}/{verb}", "POST", self.act),
            ("/hold", "GET", self.get_hold),
            ("/hold", "POST", self.arm_hold),
            ("/hold/release", "POST", self.release_hold),
            ("/market", "GET", self.get_market),
            ("/market", "POST", self.set_market),
            ("/account", "POST", self.set_account),
            ("/time_scale", "POST", self.set_time_scale),
            ("/gateway", "GET", self.get_gateway),
            ("/gateway", "POST", self.set_gateway),
            ("/account_keys", "PUT", self.set_account_keys),
        ]
        return [Route("/_control" + path, guarded(handler), methods=[method]) for path, method, handler in table]

    async def health(self, request: Request) -> Response:
        zygote = self.cloud.processes.zygote()
        isolation = {"isolation": zygote["isolation"], "isolation_reason": zygote["reason"]} if zygote else {"isolation": None, "isolation_reason": None}
        return JSONResponse({"ok": True, "version": VERSION, "pid": os.getpid(), "time_scale": self.cloud.time_scale, **self.facts, **isolation})

    async def reset(self, request: Request) -> Response:
        self.hold.release()
        await self.cloud.reset()
        self.log.clear()
        return JSONResponse({"ok": True})

    async def shutdown(self, request: Request) -> Response:
        body = await read_object(request)
        self.hold.release()
        if not body.get("keep_pods"):
            await self.cloud.end_all_processes()
        os.kill(os.getpid(), signal.SIGTERM)
        return JSONResponse({"ok": True})

    # -- faults, holds, log ------------------------------------------------

    async def list_faults(self, request: Request) -> Response:
        return JSONResponse({"faults": self.cloud.faults.describe(), "kinds": {kind: text for kind, (_match, text) in KINDS.items()}})

    async def add_fault(self, request: Request) -> Response:
        return JSONResponse(self.cloud.faults.add(await read_object(request)).describe(), 201)

    async def clear_faults(self, request: Request) -> Response:
        return JSONResponse({"removed": self.cloud.faults.clear(request.path_params.get("fault_id"))})

    async def arm_hold(self, request: Request) -> Response:
        body = await read_object(request)
        match = body.get("match") or {}
        when = body.get("when", "before")
        if when not in ("before", "after"):
            raise RefusedError("when is before (the request has no effect yet) or after (it has, the answer waits)")
        self.hold.arm(str(match.get("method", "")), str(match.get("path", "")), int(body.get("nth", 1)), when)
        return JSONResponse(self.hold.state(), 201)

    async def get_hold(self, request: Request) -> Response:
        seconds = float(request.query_params.get("timeout", "10"))
        state = await self.hold.wait_held(min(seconds, LONGEST_WAIT_SECONDS))
        return JSONResponse(state, 200 if state["held"] or seconds == 0 else 408)

    async def release_hold(self, request: Request) -> Response:
        return JSONResponse({"released": self.hold.release()})

    async def requests(self, request: Request) -> Response:
        return JSONResponse({"requests": self.log.since(int(request.query_params.get("since", "0")))})

    async def clear_requests(self, request: Request) -> Response:
        self.log.clear()
        return JSONResponse({"ok": True})

    # -- world -------------------------------------------------------------

    async def meter(self, request: Request) -> Response:
        return JSONResponse(self.cloud.meter.report())

    async def list_pods(self, request: Request) -> Response:
        return JSONResponse({"pods": [show(pod) for pod in self.cloud.pods.values()]})

    async def get_pod(self, request: Request) -> Response:
        return JSONResponse(show(self._find(request)))

    async def bulk(self, request: Request) -> Response:
        body = await read_object(request)
        count, status = int(body.get("count", 1)), str(body.get("status", "RUNNING"))
        if not 1 <= count <= 100_000 or status not in ("RUNNING", "EXITED"):
            raise RefusedError("count is 1 to 100000 and status RUNNING or EXITED")
        prefix = str(body.get("name_prefix", "bulk-"))
        names = [str(name) for name in body.get("names") or (f"{prefix}{number:05d}" for number in range(count))]
        made = self.cloud.bulk(str(body.get("account", ACCOUNT)), "full", names, status)
        return JSONResponse({"created": len(made), "first": made[0], "last": made[-1]}, 201)

    async def act(self, request: Request) -> Response:
        pod, verb, body = self._find(request), request.path_params["verb"], await read_object(request)
        if verb == "preempt":
            try:
                await self.cloud.preempt(pod)
            except WrongStateError as error:
                raise RefusedError(f"pod {pod.id} is {pod.status}: only a live pod can be preempted", 409) from error
        elif verb == "kill_host":
            await self.cloud.kill_host(pod)
        elif verb == "age":
            self.cloud.age(pod, float(body.get("seconds", 0)))
        elif verb == "remove":
            await self.cloud.remove(pod)
        elif verb == "host_key":
            if not self.cloud.change_host_key(pod):
                raise RefusedError(f"pod {pod.id} has no process: its host key cannot change", 409)
        elif verb == "ssh":
            seconds = float(body.get("seconds", 1))
            if not 0.2 <= seconds <= 3600:
                raise RefusedError("seconds is how long SSH stays cut, from 0.2 to 3600")
            if not self.cloud.cut_ssh(pod, seconds):
                raise RefusedError(f"pod {pod.id} has no process: its SSH cannot be cut", 409)
        else:
            raise RefusedError(f"a pod has no action {verb!r}; known: preempt, kill_host, age, remove, host_key, ssh", 404)
        return JSONResponse(show(pod))

    async def get_market(self, request: Request) -> Response:
        return JSONResponse(self.cloud.market.state())

    async def set_market(self, request: Request) -> Response:
        """{"gpu": id, "stock": n, "data_center": id, "cloud": kind, "price": text} or {"sold_out": true}.

        A price of the cloud SECURE_SPOT or COMMUNITY_SPOT is the lowest bid; who has bid less is outbid at once.
        """
        body, market = await read_object(request), self.cloud.market
        cloud, center, gpu = body.get("cloud"), body.get("data_center"), body.get("gpu")
        if "sold_out" in body:
            market.sold_out = bool(body["sold_out"])
        if gpu is not None:
            if gpu not in market.rows:
                raise RefusedError(f"there is no GPU type {gpu!r} in the catalog")
            if center is not None and center not in {row.id for row in DATA_CENTERS}:
                raise RefusedError(f"there is no data center {center!r}")
            if "stock" in body:
                market.set_stock(gpu, int(body["stock"]), center, cloud)
            if "price" in body:
                text = None if body["price"] is None else format(Decimal(str(body["price"])), "f")
                for kind in [cloud] if cloud else ["SECURE", "COMMUNITY"]:
                    market.set_price(gpu, kind, text)
                await self.cloud.outbid()
        self.cloud.save_market()
        return JSONResponse({"ok": True, "sold_out": market.sold_out})

    async def set_account(self, request: Request) -> Response:
        """{"credit": "5.00"}: what the account has paid in; without money nothing is rented, and pods are stopped, then removed."""
        self.cloud.save_credit(format(Decimal(str((await read_object(request))["credit"])), "f"))
        return JSONResponse({"credit": self.cloud.belongings.credit, "balance": format(self.cloud.balance(), "f")})

    async def set_time_scale(self, request: Request) -> Response:
        """{"scale": 10} makes waits ten times shorter; {"timings": {...}} changes single ones."""
        body = await read_object(request)
        scale = float(body.get("scale", self.cloud.time_scale))
        if not 0.001 <= scale <= 100_000:
            raise RefusedError("scale is a number from 0.001 to 100000")
        self.cloud.set_time_scale(scale)
        if body.get("timings"):
            self.cloud.set_timings({name: float(value) for name, value in body["timings"].items()})
        return JSONResponse({"time_scale": scale, "timings": vars(self.cloud.timings)})

    async def get_gateway(self, request: Request) -> Response:
        if self.gateway is None:
            raise RefusedError("a cloud of records has no gateway", 404)
        return JSONResponse(self.gateway.describe())

    async def set_gateway(self, request: Request) -> Response:
        """{"line_limit": 4095, "queue_kib": 16, "cut_after_kib": 40, ...}: how the gateway treats the sessions that come next."""
        if self.gateway is not None:
            self.gateway.change(await read_object(request))
        return await self.get_gateway(request)

    async def set_account_keys(self, request: Request) -> Response:
        """{"keys": [...]} replaces the SSH keys that open the gateway."""
        self.cloud.belongings.set_ssh_keys(ACCOUNT, [str(key) for key in (await read_object(request)).get("keys") or []])
        return JSONResponse({"keys": self.cloud.belongings.ssh_keys(ACCOUNT)})

    def _find(self, request: Request) -> Pod:
        pod = self.cloud.pods.get(request.path_params["id"])
        if pod is None:
            raise RefusedError(f"there is no pod {request.path_params['id']}", 404)
        return pod


def show(pod: Pod) -> dict[str, Any]:
    """The whole record; the values of secret variables and the pod's key stay inside."""
    body = pod.to_dict()
    del body["pod_key"]
    body["env"] = sorted(pod.env)
    stamps = {name: rfc3339(body[name]) for name in ("created_at", "started_at", "ended_at")}
    return {**body, **stamps, "history": [[status, rfc3339(stamp)] for status, stamp in pod.history]}


def guarded(handler: Handler) -> Handler:
    """A web page that resolves its own name to loopback must not reach the control API."""

    async def endpoint(request: Request) -> Response:
        if (request.url.hostname or "") not in ("127.0.0.1", "localhost", "::1"):
            return JSONResponse({"error": "the control API answers on loopback names only"}, 403)
        try:
            return await handler(request)
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)
        except FaultError as error:
            return JSONResponse({"error": str(error)}, 400)
        except (ValueError, TypeError, KeyError, InvalidOperation) as error:
            return JSONResponse({"error": f"the request is not well formed: {error}"}, 400)

    return endpoint


async def read_object(request: Request) -> dict[str, Any]:
    raw = await request.body()
    body = json.loads(raw) if raw else {}
    if not isinstance(body, dict):
        raise RefusedError("the body is not a JSON object")
    return body
