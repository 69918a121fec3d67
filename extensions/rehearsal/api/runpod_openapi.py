# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rehearsal cloud serves of RunPod REST v2, as OpenAPI; it describes this server, not the real one."""

from __future__ import annotations

from typing import Any

from rehearsal import VERSION
from rehearsal.account import SOURCES
from rehearsal.api.runpod_body import LARGEST_VOLUME_GIB, PORT, PUBLIC_KEY, VCPU_COUNTS, VERSION_TEXT
from rehearsal.api.runpod_shapes import BILL, DATA_CENTER, GPU_TYPE, POD, PROBLEM, REGISTRY, TEMPLATE, VOLUME, closed, listing, mounts, nullable
from rehearsal.logbook import MOST
from rehearsal.logbook import SOURCES as LOG_SOURCES
from rehearsal.market_data import DATA_CENTERS

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
NAMED: Json = {"type": "string", "minLength": 1}
TEXTS: Json = {"type": "array", "items": TEXT}
FLAG: Json = {"type": "boolean"}
TIME: Json = {"type": "string", "format": "date-time"}
CUDA: Json = {"type": "string", "pattern": VERSION_TEXT}
GPU = closed(
    {
        "id": NAMED, "count": {"type": "integer", "minimum": 1}, "allowedCudaVersions": TEXTS, "minCudaVersion": TEXT,
        "minRamPerGpu": {"type": "integer", "minimum": 0}, "minVcpuCountPerGpu": {"type": "integer", "minimum": 0},
    },
    "id",
)  # fmt: skip
CONTAINER: Json = {
    "name": NAMED,
    "image": TEXT,
    "args": TEXT,
    "disk": {"type": "integer", "minimum": 1},
    "mounts": mounts("persistent", "network"),
    "ports": {"type": "array", "items": {"type": "string", "pattern": PORT}},
    "env": {"type": "object", "additionalProperties": TEXT},
    "registry": nullable(TEXT),
}
CENTERS: Json = {"type": "array", "items": {"type": "string", "enum": [row.id for row in DATA_CENTERS]}}
CREATE: Json = {
    **closed(
        {
            **CONTAINER, "gpu": GPU, "cpu": closed({"id": NAMED, "vcpuCount": {"type": "integer", "enum": list(VCPU_COUNTS)}}, "id"),
            "cloud": {"type": "string", "enum": ["SECURE", "COMMUNITY"], "default": "SECURE"}, "dataCenterIds": CENTERS, "entrypoint": TEXTS, "cmd": TEXTS,
            "templateId": TEXT, "startSsh": {**FLAG, "default": False}, "startJupyter": {**FLAG, "default": False},
            "globalNetworking": {**FLAG, "default": False},
        },
        "name",
    ),
    "anyOf": [{"required": ["image"], "properties": {"image": NAMED}}, {"required": ["templateId"], "properties": {"templateId": NAMED}}],
}  # fmt: skip
SETTINGS: Json = {
    **CONTAINER, "mounts": mounts("persistent"), "category": {"type": "string", "enum": ["CPU", "NVIDIA", "AMD"]}, "serverless": FLAG, "public": FLAG,
    "startSsh": {**FLAG, "default": True}, "startJupyter": {**FLAG, "default": True}, "allowedCudaVersions": {"type": "array", "items": CUDA},
}  # fmt: skip
SIZE: Json = {"type": "integer", "minimum": 10, "maximum": LARGEST_VOLUME_GIB}
KIND: Json = {"type": "string", "enum": ["STANDARD", "HIGH_PERFORMANCE"]}
KEYS = closed({"keys": {"type": "array", "items": {"type": "string", "pattern": PUBLIC_KEY}}}, "keys")


def asked(name: str, schema: Json, where: str = "query") -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def some_of(*extras: str) -> Json:
    return {**asked("include", {"type": "array", "minItems": 1, "items": {"type": "string", "enum": list(extras)}}), "explode": False}


LOOK = [
    some_of("AVAILABILITY"),
    asked("product", {"type": "string", "enum": ["POD"]}),
    asked("cloud", {"type": "string", "enum": ["SECURE", "COMMUNITY"]}),
    asked("count", {"type": "integer", "minimum": 1, "maximum": 64}),
]
CENTER_LOOK = [some_of("GPU_AVAILABILITY", "CPU_AVAILABILITY")]
PAGES = [asked("limit", {"type": "integer", "minimum": 1, "maximum": 1000}), asked("cursor", TEXT)]
BILLS = [
    asked("podId", TEXT), asked("bucketSize", {"type": "string", "enum": ["hour", "day", "week", "month", "year"]}), asked("startTime", TIME),
    asked("endTime", TIME), asked("lastN", {"type": "integer", "minimum": 1, "maximum": 10_000}),
]  # fmt: skip
LOGS = [
    asked("source", {"type": "array", "items": {"type": "string", "enum": list(LOG_SOURCES)}}),
    asked("tail", {"type": "integer", "minimum": 0, "maximum": MOST}),
    asked("since", TIME), asked("Last-Event-ID", TIME, "header"),
]  # fmt: skip
POD_PAGE = listing("pods", POD, {"pagination": closed({"nextCursor": nullable(TEXT), "hasNextPage": FLAG}, "nextCursor", "hasNextPage")})
# Path, method, what it does, what it answers (None: 204 and nothing), its body, its parameters, and the refusals beside those that every operation has.
OPERATIONS: tuple[tuple[str, str, str, Json | None, Json | None, list[Json], tuple[int, ...]], ...] = (
    ("/pods", "get", "List pods, by page", POD_PAGE, None, PAGES, (400, 422)),
    ("/pods", "post", "Rent a pod", POD, CREATE, [], (400, 402, 404, 413, 422)),
    ("/pods/{id}", "get", "Read a pod", POD, None, [], (404,)),
    (
        "/pods/{id}", "patch", "Change a pod", POD,
        closed({**CONTAINER, "locked": FLAG, "globalNetworking": FLAG, "templateId": TEXT}), [], (400, 404, 409, 413, 422),
    ),
    ("/pods/{id}", "delete", "Terminate a pod", None, None, [], (404, 409)),
    (
        "/pods/{id}/action", "post", "Start, stop, restart or terminate a pod; 204 for terminate", POD,
        closed({"action": {"type": "string", "enum": ["start", "stop", "restart", "terminate"]}}, "action"), [], (400, 404, 409, 413, 422),
    ),
    ("/pods/{id}/logs", "get", "What a pod has written and goes on to write, as Server-Sent Events; the answer begins with the first line", TEXT, None, LOGS,
     (400, 404, 422)),
    ("/catalog/gpus", "get", "GPU types", listing("gpus", GPU_TYPE), None, LOOK, (400, 422)),
    ("/catalog/gpus/{id}", "get", "One GPU type", GPU_TYPE, None, LOOK, (400, 404, 422)),
    ("/catalog/datacenters", "get", "Data centers", listing("dataCenters", DATA_CENTER), None, CENTER_LOOK, (422,)),
    ("/catalog/datacenters/{id}", "get", "One data center", DATA_CENTER, None, CENTER_LOOK, (404, 422)),
    ("/billing/pods", "get", "What pods have cost", BILL, None, BILLS, (400, 422)),
    ("/templates", "get", "The account's templates", listing("templates", TEMPLATE), None, [], ()),
    ("/templates", "post", "Create a template", TEMPLATE, closed(SETTINGS | {"image": NAMED}, "name", "image"), [], (400, 413, 422)),
    ("/templates/{id}", "get", "Read a template, one's own or a public one", TEMPLATE, None, [], (404,)),
    ("/templates/{id}", "patch", "Change a template", TEMPLATE, closed(SETTINGS | {"image": NAMED}), [], (400, 404, 413, 422)),
    ("/templates/{id}", "delete", "Delete a template", None, None, [], (400, 404)),
    ("/catalog/templates", "get", "Public templates", listing("templates", TEMPLATE), None, [asked("source", {"enum": list(SOURCES)})], (422,)),
    ("/network-volumes", "get", "The account's network volumes", listing("networkVolumes", VOLUME), None, [], ()),
    (
        "/network-volumes", "post", "Create a network volume", VOLUME,
        closed({"name": NAMED, "size": SIZE, "dataCenter": NAMED, "type": KIND}, "name", "size", "dataCenter"), [], (400, 413, 422),
    ),
    ("/network-volumes/{id}", "get", "Read a network volume", VOLUME, None, [], (404,)),
    (
        "/network-volumes/{id}", "patch", "Rename or grow a network volume", VOLUME,
        {**closed({"name": NAMED, "size": SIZE}), "minProperties": 1}, [], (400, 404, 413, 422),
    ),
    ("/network-volumes/{id}", "delete", "Delete a network volume", None, None, [], (400, 404)),
    ("/registries", "get", "The account's registry credentials, without the credentials", listing("registries", REGISTRY), None, [], ()),
    (
        "/registries", "post", "Store a registry credential", REGISTRY,
        closed({"name": NAMED, "username": NAMED, "password": NAMED}, "name", "username", "password"), [], (400, 413, 422),
    ),
    ("/registries/{id}", "get", "Read the name of a registry credential", REGISTRY, None, [], (404,)),
    ("/registries/{id}", "delete", "Delete a registry credential", None, None, [], (400, 404)),
    ("/account/ssh-keys", "get", "The account's SSH keys", KEYS, None, [], ()),
    ("/account/ssh-keys", "put", "Replace all of the account's SSH keys", KEYS, KEYS, [], (400, 413, 422)),
)  # fmt: skip
ALWAYS = (401, 403, 429)


def describe() -> Json:
    paths: dict[str, Json] = {}
    for path, method, summary, shape, body, parameters, refusals in OPERATIONS:
        good = "204" if shape is None else "201" if method == "post" and not path.endswith("/action") else "200"
        media = "text/event-stream" if path.endswith("/logs") else "application/json"
        answers: Json = {good: {"description": "Success"} if shape is None else {"description": "Success", "content": {media: {"schema": shape}}}}
        if path.endswith("/action"):
            answers["204"] = {"description": "Terminated"}
        for status in sorted((*ALWAYS, *refusals)):
            answers[str(status)] = {"description": "Problem", "content": {"application/problem+json": {"schema": PROBLEM}}}
        operation: Json = {"summary": summary, "responses": answers}
        named = [asked("id", NAMED, "path")] if "{id}" in path else []
        if named or parameters:
            operation["parameters"] = [*named, *parameters]
        if body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rehearsal cloud: the part of RunPod REST v2 that it serves", "version": VERSION},
        "servers": [{"url": "/v2"}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}],
        "paths": paths,
    }
