# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON schemas of what RunPod REST v2 answers: closed, so that a field too many is seen as well as one too few."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number", "minimum": 0}
COUNT: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
TEXTS: Json = {"type": "array", "items": TEXT}
TIME: Json = {"type": "string", "format": "date-time"}
CLOUD: Json = {"type": "string", "enum": ["SECURE", "COMMUNITY"]}
LEVEL: Json = {"type": "string", "enum": ["NONE", "LOW", "MEDIUM", "HIGH"]}
VOLUME_KIND: Json = {"type": "string", "enum": ["STANDARD", "HIGH_PERFORMANCE"]}


def closed(properties: Json, *required: str) -> Json:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


def whole(properties: Json) -> Json:
    """Every field is always there."""
    return closed(properties, *properties)


def nullable(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def listing(name: str, row: Json, more: Json | None = None) -> Json:
    return whole({name: {"type": "array", "items": row}, **(more or {})})


def mounts(*kinds: str) -> Json:
    path = {"type": "string", "minLength": 1}
    known: Json = {
        "persistent": nullable(whole({"size": {"type": "integer", "minimum": 10}, "path": {"type": "string", "pattern": "^/"}})),
        "network": nullable({"type": "array", "maxItems": 1, "items": whole({"volumeId": {"type": "string", "minLength": 1}, "path": path})}),
    }
    return closed({kind: known[kind] for kind in kinds})


PROBLEM = closed({"title": TEXT, "status": {"type": "integer", "minimum": 400, "maximum": 599}, "detail": TEXT, "errors": TEXTS}, "title", "status", "detail")
_DOOR = nullable(whole({"host": TEXT, "port": {"type": "integer", "minimum": 1, "maximum": 65535}, "username": TEXT, "command": TEXT}))
_LOAD = {"type": "object", "additionalProperties": {"type": "number"}}
_PORT = whole({"private": COUNT, "public": nullable(COUNT), "type": {"type": "string", "enum": ["tcp", "http"]}, "ip": nullable(TEXT)})
_RUNTIME = whole({"uptime": COUNT, "gpus": {"type": "array", "items": _LOAD}, "cpu": _LOAD, "memory": _LOAD, "ports": {"type": "array", "items": _PORT}})
_POD: Json = {
    "id": TEXT,
    "name": TEXT,
    "status": {"type": "string", "enum": ["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]},
    "actions": {"type": "array", "items": {"type": "string", "enum": ["start", "stop", "restart", "terminate"]}},
    "image": TEXT,
    "args": TEXT,
    "disk": {"type": "integer", "minimum": 1},
    "mounts": mounts("persistent", "network"),
    "ports": TEXTS,
    "env": {"type": "object", "additionalProperties": TEXT},
    "registry": nullable(TEXT),
    "cloud": CLOUD,
    "dataCenterId": nullable(TEXT),
    "cudaVersion": nullable(TEXT),
    "ssh": whole({"proxy": _DOOR, "direct": _DOOR}),
    "template": nullable(TEXT),
    "cost": NUMBER,
    "locked": FLAG,
    "globalNetworking": closed({"enabled": FLAG, "ip": TEXT, "internalDns": TEXT}, "enabled"),
    # Right after a create it is an empty object.
    "runtime": {"anyOf": [_RUNTIME, closed({}), {"type": "null"}]},
    "createdAt": TIME,
    "startedAt": nullable(TIME),
}
_GPU = whole({"id": TEXT, "count": COUNT, "vcpuCount": COUNT, "memory": COUNT})
POD = {**closed({**_POD, "gpu": _GPU, "cpu": whole({"id": TEXT, "vcpuCount": COUNT})}, *_POD), "oneOf": [{"required": ["gpu"]}, {"required": ["cpu"]}]}
_PLACE: Json = {"id": TEXT, "name": TEXT, "availability": LEVEL}
_GPU_TYPE: Json = {
    "id": TEXT, "name": TEXT, "pool": nullable(TEXT), "manufacturer": TEXT, "memory": COUNT, "secure": FLAG, "community": FLAG,
    "price": whole({"secure": NUMBER, "community": NUMBER}), "maxCount": whole({"secure": COUNT, "community": COUNT}),
}  # fmt: skip
_AVAILABLE: Json = {
    "availability": LEVEL,
    "dataCenters": {"type": "array", "items": whole(_PLACE)},
    "cudaVersions": {"type": "array", "items": whole({"version": TEXT, "available": FLAG})},
}
GPU_TYPE = closed({**_GPU_TYPE, **_AVAILABLE}, *_GPU_TYPE)
_DATA_CENTER: Json = {
    "id": TEXT, "name": TEXT, "region": TEXT, "networkVolumeTypes": {"type": "array", "items": VOLUME_KIND}, "compliance": TEXTS, "globalNetwork": FLAG,
}  # fmt: skip
DATA_CENTER = closed({**_DATA_CENTER, "gpuAvailability": {"type": "array", "items": whole(_PLACE)}}, *_DATA_CENTER)
TEMPLATE = whole(
    {
        "id": TEXT, "name": {"type": "string", "minLength": 1}, "image": {"type": "string", "minLength": 1}, "args": TEXT,
        "disk": {"type": "integer", "minimum": 1}, "mounts": mounts("persistent"), "ports": TEXTS,
        "env": {"type": "object", "additionalProperties": TEXT}, "registry": nullable(TEXT), "serverless": FLAG, "public": FLAG,
        "category": {"type": "string", "enum": ["CPU", "NVIDIA", "AMD"]}, "startSsh": FLAG, "startJupyter": FLAG, "allowedCudaVersions": TEXTS,
    }
)  # fmt: skip
VOLUME = whole({"id": TEXT, "name": TEXT, "size": {"type": "integer", "minimum": 10}, "dataCenter": TEXT, "type": VOLUME_KIND})
REGISTRY = whole({"id": TEXT, "name": TEXT})
_AMOUNTS: Json = {"totalAmount": NUMBER, "gpuAmount": NUMBER, "cpuAmount": NUMBER, "diskAmount": NUMBER}
BILL = listing(
    "records",
    whole({"podId": TEXT, "startTime": TIME, "endTime": TIME, **_AMOUNTS}),
    {
        "metadata": whole(
            {
                "query": whole({"bucketSize": TEXT, "startTime": TIME, "endTime": TIME, "podId": nullable(TEXT)}),
                "recordCount": COUNT, "uniquePodCount": COUNT, "totals": whole(_AMOUNTS),
            }
        )
    },
)  # fmt: skip
