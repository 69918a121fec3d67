# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod REST v2 on the wire."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rehearsal.account import Template
from rehearsal.api.runpod_account import AccountApi
from rehearsal.api.runpod_body import read_create, read_json, read_object, with_template
from rehearsal.api.runpod_errors import BALANCE, GENERIC, HOST_FULL, LOCKED, NO_DISK, NO_INSTANCES, SPOT_AS_ON_DEMAND, ProblemError, problem
from rehearsal.api.runpod_limits import RateLimits
from rehearsal.api.runpod_logs import stream
from rehearsal.api.runpod_openapi import describe
from rehearsal.api.runpod_patch import expand, read_update, resets
from rehearsal.api.runpod_views import data_center, lead_to_gateway, show_bill, show_data_center, show_gpu, show_pod
from rehearsal.cloud import Cloud, NoCapacityError, WrongStateError, hourly_rate, new_id
from rehearsal.keys import Key, bearer, pod_key
from rehearsal.market_data import CPU_FLAVORS, CUDA_VERSIONS, DATA_CENTERS
from rehearsal.records import Pod
from rehearsal.times import now, rfc3339

Handler = Callable[[Request, Key], Awaitable[Response]]
LARGEST_DISK_GIB = 10_000
PAGE = 1000
CENTER_EXTRAS = ("GPU_AVAILABILITY", "CPU_AVAILABILITY")
BUCKETS = ("hour", "day", "week", "month", "year")


class RunPodApi:
    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.limits = RateLimits()
        cloud.at_reset.append(self.limits.clear)

    def routes(self) -> list[Route]:
        table: list[tuple[str, dict[str, Handler]]] = [
            ("/v2/pods", {"GET": self.list_pods, "POST": self.create_pod}),
            ("/v2/pods/{id}", {"GET": self.get_pod, "PATCH": self.update_pod, "DELETE": self.delete_pod}),
            ("/v2/pods/{id}/action", {"POST": self.act}),
            ("/v2/pods/{id}/logs", {"GET": self.logs}),
            ("/v2/catalog/gpus", {"GET": self.list_gpus}),
            ("/v2/catalog/gpus/{id:path}", {"GET": self.get_gpu}),
            ("/v2/catalog/datacenters", {"GET": self.list_data_centers}),
            ("/v2/catalog/datacenters/{id}", {"GET": self.get_data_center}),
            ("/v2/billing/pods", {"GET": self.billing}),
            *AccountApi(self.cloud).table(),
        ]
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]
        routes = [Route(path, self._endpoint(handlers), methods=methods) for path, handlers in table]
        return [Route("/v2/openapi.json", openapi, methods=["GET"]), *routes, Route("/{rest:path}", not_here, methods=methods)]

    def _endpoint(self, handlers: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            headers: dict[str, str] = {}
            try:
                key = self._authenticate(request)
                headers, wait = self.limits.count(key.account)
                if wait is not None:
                    response = problem(429, "Too Many Requests", "Rate limit exceeded.", headers={"retry-after": str(wait)})
                else:
                    handler = handlers.get(request.method)
                    if handler is None:
                        headers["allow"] = ", ".join(handlers)
                        raise ProblemError(405, f"{request.method} is not served on this path by the rehearsal cloud.")
                    response = await handler(request, key)
            except ProblemError as error:
                response = error.response()
            response.headers.update({"x-request-id": f"req_{new_id(20)}", **headers})
            return response

        return endpoint

    def _authenticate(self, request: Request) -> Key:
        token = bearer(request.headers.get("authorization"))
        key = self.cloud.key(token) if token else None
        if key is None:
            raise ProblemError(401, "A valid API key is required." if token is None else "The API key is invalid.")
        writes = request.method not in ("GET", "HEAD")
        allowed = (key.may_write if writes else key.may_read) if key.pod_id is None else pod_key_allows(key.pod_id, request)
        if not allowed:
            raise ProblemError(403, "The API key does not have access to this operation.")
        return key

    # -- pods --------------------------------------------------------------

    async def create_pod(self, request: Request, key: Key) -> Response:
        body = await read_json(request)
        wanted = read_create(body)
        if wanted["template_id"]:
            wanted = read_create(with_template(body, self._template(wanted["template_id"], key)))
        pod = self.place(request, wanted, key)
        return JSONResponse(self._changed(request, show_pod(pod, fresh=True)), 201)

    def place(self, request: Request, wanted: dict[str, Any], key: Key, finish: Callable[[Pod], None] | None = None) -> Pod:
        """Rent what was checked; `finish` sees the record before money is spent. ProblemError leaves no trace."""
        faults = self.cloud.faults
        if faults.take("balance_402", "POST", request.url.path) or self.cloud.broke():
            raise ProblemError(402, BALANCE)
        gpu = wanted["gpu"]
        for fault in faults.peek("no_capacity"):
            gpu_id, centers = (gpu or {}).get("id", ""), wanted["data_centers"] or [""]
            fits = re.search(fault.params.get("gpu", ""), gpu_id) and any(re.search(fault.params.get("data_center", ""), one) for one in centers)
            if fits and fault.strikes("POST", request.url.path, wanted["name"]):
                note_fault(request, "no_capacity")
                raise ProblemError(400, NO_INSTANCES)
        pod = self._new_pod(wanted, key)
        if finish is not None:
            finish(pod)
        try:
            self.cloud.rent(pod, self._near_volume(pod, wanted["data_centers"]))
        except NoCapacityError as error:
            raise ProblemError(400, NO_INSTANCES) from error
        return pod

    def _new_pod(self, wanted: dict[str, Any], key: Key) -> Pod:
        gpu, cpu = wanted["gpu"], wanted["cpu"]
        pod = Pod(
            new_id(), key.account, key.label, wanted["name"], wanted["image"], wanted["cloud"], None, 0, "0", wanted["disk"], now(), pod_key(),
            args=wanted["args"], registry=wanted["registry"], ports=wanted["ports"], env=wanted["env"], mounts=wanted["mounts"],
            global_networking=wanted["global_networking"], start_ssh=wanted["start_ssh"],
        )  # fmt: skip
        for center in wanted["data_centers"] or []:
            if data_center(center) is None:
                raise ProblemError(422, "validation failed", [{"location": "body.dataCenterIds", "message": f"unknown data center {center}"}])
        if wanted["disk"] > LARGEST_DISK_GIB:
            raise ProblemError(400, NO_DISK)
        if gpu is not None:
            price = self.cloud.market.price(gpu["id"], wanted["cloud"]) if gpu["id"] in self.cloud.market.rows else None
            # A wrong id, a missing count and a CUDA version that no host has all read as "no instances".
            if price is None or "count" not in gpu or not cuda_fits(gpu):
                raise ProblemError(400, NO_INSTANCES)
            if gpu["count"] > self.cloud.market.rows[gpu["id"]].max_count:
                raise ProblemError(400, NO_INSTANCES)
            pod.gpu_id, pod.gpu_count, pod.rate = gpu["id"], gpu["count"], hourly_rate(price, gpu["count"])
            return pod
        if cpu["id"] not in CPU_FLAVORS:
            raise ProblemError(400, NO_INSTANCES)
        pod.cpu_id, pod.vcpu_count = cpu["id"], cpu.get("vcpuCount", 2)
        pod.rate = hourly_rate(Decimal(CPU_FLAVORS[cpu["id"]]), pod.vcpu_count)
        return pod

    def _template(self, template_id: str, key: Key) -> Template:
        found = self.cloud.belongings.readable_template(template_id, key.account)
        if found is None:
            raise ProblemError(404, "template not found")
        return found

    def _near_volume(self, pod: Pod, centers: list[str] | None) -> list[str] | None:
        """A network volume is reached from its own data center and from secure cloud alone; elsewhere it reads as "no instances"."""
        if pod.network is None:
            return centers
        volume = self.cloud.belongings.volumes.get(pod.network["volumeId"])
        if volume is None or volume.account != pod.account:
            raise ProblemError(404, "network volume not found")
        if pod.cloud != "SECURE":
            raise ProblemError(400, GENERIC)
        if centers and volume.data_center not in centers:
            raise ProblemError(400, NO_INSTANCES)
        return [volume.data_center]

    async def list_pods(self, request: Request, key: Key) -> Response:
        limit = read_int(request, "limit", PAGE, 1, PAGE)
        first = read_cursor(request.query_params.get("cursor"))
        pods = self._visible(request, self.cloud.listed(key.account))
        page = pods[first : first + limit]
        more = first + limit < len(pods)
        cursor = base64.urlsafe_b64encode(f"v2:{first + limit}".encode()).decode() if more else None
        body = {"pods": [self._changed(request, show_pod(pod)) for pod in page], "pagination": {"nextCursor": cursor, "hasNextPage": more}}
        return JSONResponse(body)

    def _visible(self, request: Request, pods: list[Pod]) -> list[Pod]:
        faults = self.cloud.faults
        if faults.take("empty_list", "GET", request.url.path):
            note_fault(request, "empty_list")
            return []
        for fault in faults.peek("list_lag"):
            shown = len(pods)
            if "requests" in fault.params:
                looks = fault.params.setdefault("_looks", {})
                for pod in pods:
                    looks[pod.id] = looks.get(pod.id, 0) + 1
                pods = [pod for pod in pods if looks[pod.id] > int(fault.params["requests"])]
            else:
                pods = [pod for pod in pods if now() - pod.created_at > float(fault.params.get("seconds", 3.0))]
            fault.fired += len(pods) < shown
        return pods

    async def get_pod(self, request: Request, key: Key) -> Response:
        return JSONResponse(self._changed(request, show_pod(self._find(request, key))))

    async def update_pod(self, request: Request, key: Key) -> Response:
        pod = self._find(request, key)
        body = given = await read_object(request)
        if body.get("templateId"):
            body = expand(body, self._template(str(body["templateId"]), key))
        for name, value in read_update(body, pod).items():
            setattr(pod, name, value)
        self.cloud.save(pod)
        if resets(given) and pod.status == "RUNNING":
            await self.cloud.restart(pod)
        return JSONResponse(self._changed(request, show_pod(pod)))

    async def delete_pod(self, request: Request, key: Key) -> Response:
        await self.terminate(request, self._find(request, key))
        return Response(status_code=204)

    async def logs(self, request: Request, key: Key) -> Response:
        return await stream(request, self.cloud.logs, self._find(request, key).id, read_int)

    async def act(self, request: Request, key: Key) -> Response:
        body = await read_json(request)
        action = body.get("action") if isinstance(body, dict) else None
        if action not in ("start", "stop", "restart", "terminate") or set(body) != {"action"}:
            raise ProblemError(422, "validation failed", [{"location": "body.action", "message": "expected one of start, stop, restart, terminate"}])
        if key.pod_id is not None and action not in ("stop", "terminate"):
            raise ProblemError(403, "The API key does not have access to this operation.")
        pod = self._find(request, key)
        if action == "terminate":
            await self.terminate(request, pod)
            return Response(status_code=204)
        if pod.locked:
            raise ProblemError(409, LOCKED)
        if action == "start" and pod.bid is not None:
            raise ProblemError(400, SPOT_AS_ON_DEMAND)
        try:
            await {"start": self.cloud.start, "stop": self.cloud.stop, "restart": self.cloud.restart}[action](pod)
        except NoCapacityError as error:
            raise ProblemError(400, HOST_FULL) from error
        except WrongStateError as error:
            raise ProblemError(409, f"The action {action} is not valid for a pod in status {pod.status}.") from error
        return JSONResponse(self._changed(request, show_pod(pod)))

    async def terminate(self, request: Request, pod: Pod) -> None:
        faults, method, path = self.cloud.faults, request.method, request.url.path
        fault = faults.take("delete_refused", method, path, pod.name)
        if fault is not None:
            note_fault(request, "delete_refused")
            raise ProblemError(int(fault.params.get("status", 500)), str(fault.params.get("detail", "Something went wrong. Please try again later.")))
        if faults.take("delete_accepted_but_alive", method, path, pod.name):
            note_fault(request, "delete_accepted_but_alive")
            return
        if pod.locked:
            raise ProblemError(409, LOCKED)
        await self.cloud.terminate(pod)

    def _find(self, request: Request, key: Key) -> Pod:
        pod = self.cloud.find(request.path_params["id"], key.account)
        if pod is None:
            raise ProblemError(404, "pod not found")
        return pod

    def _changed(self, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        if self.cloud.gateway_port is not None:
            lead_to_gateway(body, self.cloud.gateway_port)
        fault = self.cloud.faults.take("schema_changed", request.method, request.url.path, body["name"])
        if fault is None:
            return body
        note_fault(request, "schema_changed")
        renamed = fault.params.get("rename", {})
        dropped = fault.params.get("drop", [] if renamed else ["status"])
        return {renamed.get(name, name): value for name, value in body.items() if name not in dropped}

    # -- catalog and bills ---------------------------------------------------

    async def list_gpus(self, request: Request, key: Key) -> Response:
        availability, cloud, count = read_catalog_query(request)
        market = self.cloud.market
        return JSONResponse({"gpus": [show_gpu(market, row, availability, cloud, count) for row in market.rows.values()]})

    async def get_gpu(self, request: Request, key: Key) -> Response:
        availability, cloud, count = read_catalog_query(request)
        row = self.cloud.market.rows.get(request.path_params["id"])
        if row is None:
            raise ProblemError(404, "GPU type not found")
        return JSONResponse(show_gpu(self.cloud.market, row, availability, cloud, count))

    async def list_data_centers(self, request: Request, key: Key) -> Response:
        gpus = "GPU_AVAILABILITY" in read_include(request, CENTER_EXTRAS)
        return JSONResponse({"dataCenters": [show_data_center(self.cloud.market, row, gpus) for row in DATA_CENTERS]})

    async def get_data_center(self, request: Request, key: Key) -> Response:
        row = data_center(request.path_params["id"])
        if row is None:
            raise ProblemError(404, "data center not found")
        return JSONResponse(show_data_center(self.cloud.market, row, "GPU_AVAILABILITY" in read_include(request, CENTER_EXTRAS)))

    async def billing(self, request: Request, key: Key) -> Response:
        query = request.query_params
        size = query.get("bucketSize", "day")
        if size not in BUCKETS:
            raise ProblemError(400, f"bucketSize must be one of {', '.join(BUCKETS)}.")
        last = read_int(request, "lastN", 1, 1, 10_000) if "lastN" in query else None
        try:
            records = show_bill(self.cloud, key.account, query.get("podId"), size, query.get("startTime"), query.get("endTime"), last)
        except ValueError as error:
            raise ProblemError(400, f"startTime and endTime must be RFC 3339 times: {error}") from error
        since, until = query.get("startTime") or min((record["startTime"] for record in records), default=rfc3339(now())), query.get("endTime")
        asked = {"bucketSize": size, "startTime": since, "endTime": until or rfc3339(now()), "podId": query.get("podId")}
        amounts = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")
        totals = {name: sum(record[name] for record in records) for name in amounts}
        told = {"query": asked, "recordCount": len(records), "uniquePodCount": len({record["podId"] for record in records}), "totals": totals}
        return JSONResponse({"records": records, "metadata": told})


async def openapi(request: Request) -> Response:
    return JSONResponse(describe())


async def not_here(request: Request) -> Response:
    return problem(404, "Not Found", "The rehearsal cloud does not serve this path.", headers={"x-request-id": f"req_{new_id(20)}"})


def pod_key_allows(pod_id: str, request: Request) -> bool:
    path = request.url.path
    own = f"/v2/pods/{pod_id}"
    return (path == own and request.method in ("GET", "DELETE")) or (path == f"{own}/action" and request.method == "POST")


def cuda_fits(gpu: dict[str, Any]) -> bool:
    allowed, least = gpu.get("allowedCudaVersions"), gpu.get("minCudaVersion")
    if allowed:
        return CUDA_VERSIONS[-1] in allowed
    try:
        return not least or [int(part) for part in least.split(".")] <= [int(part) for part in CUDA_VERSIONS[-1].split(".")]
    except ValueError:
        return False


def note_fault(request: Request, kind: str) -> None:
    entry = request.scope.get("state", {}).get("log_entry")
    if entry is not None:
        entry["fault"] = kind


def read_int(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise ProblemError(422, "validation failed", [{"location": f"query.{name}", "message": f"expected integer from {least} to {most}"}])
    return int(text)


def read_include(request: Request, known: tuple[str, ...]) -> list[str]:
    """Parts of an answer that are only there when they are asked for, with commas between them."""
    text = request.query_params.get("include")
    wanted = [] if text is None else text.split(",")
    for one in wanted:
        if one not in known:
            raise ProblemError(422, "validation failed", [{"location": "query.include", "message": f"expected one of {', '.join(known)}"}])
    return wanted


def read_cursor(text: str | None) -> int:
    if not text:
        return 0
    try:
        version, _mark, number = base64.urlsafe_b64decode(text.encode()).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise ProblemError(400, "The cursor is invalid.") from error
    if version != "v2" or not (number.isascii() and number.isdigit()):
        raise ProblemError(400, "The cursor is invalid.")
    return int(number)


def read_catalog_query(request: Request) -> tuple[bool, str | None, int]:
    query = request.query_params
    availability = "AVAILABILITY" in read_include(request, ("AVAILABILITY",))
    if query.get("product", "POD") != "POD" or availability != ("product" in query):
        raise ProblemError(400, "include=AVAILABILITY and product=POD must be given together.")
    cloud = query.get("cloud")
    if cloud is not None and cloud not in ("SECURE", "COMMUNITY"):
        raise ProblemError(400, "cloud must be SECURE or COMMUNITY.")
    return availability, cloud, read_int(request, "count", 1, 1, 64)
