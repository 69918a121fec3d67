# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rehearsal cloud serves of RunPod REST v2, as OpenAPI; it describes this server, not the real one."""

from __future__ import annotations

from typing import Any

from rehearsal import VERSION

OPERATIONS: tuple[tuple[str, str, str, int], ...] = (
    ("/pods", "get", "List pods, by page", 200),
    ("/pods", "post", "Rent a pod", 201),
    ("/pods/{id}", "get", "Read a pod", 200),
    ("/pods/{id}", "delete", "Terminate a pod", 204),
    ("/pods/{id}/action", "post", "Start, stop, restart or terminate a pod", 200),
    ("/catalog/gpus", "get", "GPU types", 200),
    ("/catalog/gpus/{id}", "get", "One GPU type", 200),
    ("/catalog/datacenters", "get", "Data centers", 200),
    ("/catalog/datacenters/{id}", "get", "One data center", 200),
    ("/billing/pods", "get", "What pods have cost", 200),
)
PROBLEM = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}, "errors": {"type": "array"}},
}
GPU = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "count": {"type": "integer", "minimum": 1},
        "allowedCudaVersions": {"type": "array", "items": {"type": "string"}},
        "minCudaVersion": {"type": "string"},
        "minRamPerGpu": {"type": "integer"},
        "minVcpuCountPerGpu": {"type": "integer"},
    },
}
CREATE = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "image": {"type": "string"},
        "gpu": GPU,
        "cpu": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "vcpuCount": {"type": "integer", "minimum": 2}}},
        "cloud": {"type": "string", "enum": ["SECURE", "COMMUNITY"], "default": "SECURE"},
        "dataCenterIds": {"type": "array", "items": {"type": "string"}},
        "disk": {"type": "integer", "minimum": 1, "default": 50},
        "mounts": {"type": "object"},
        "ports": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "args": {"type": "string"},
        "entrypoint": {"type": "array", "items": {"type": "string"}},
        "cmd": {"type": "array", "items": {"type": "string"}},
        "registry": {"type": ["string", "null"]},
        "templateId": {"type": "string"},
        "startSsh": {"type": "boolean", "default": False},
        "startJupyter": {"type": "boolean", "default": False},
        "globalNetworking": {"type": "boolean", "default": False},
    },
}
BODIES: dict[str, dict[str, Any]] = {
    "/pods": CREATE,
    "/pods/{id}/action": {
        "type": "object",
        "required": ["action"],
        "properties": {"action": {"type": "string", "enum": ["start", "stop", "restart", "terminate"]}},
    },
}


def describe() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for path, method, summary, status in OPERATIONS:
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {
                str(status): {"description": "Success"},
                "default": {"description": "Problem", "content": {"application/problem+json": {"schema": PROBLEM}}},
            },
        }
        if "{id}" in path:
            operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
        if method == "post":
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": BODIES[path]}}}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rehearsal cloud: the part of RunPod REST v2 that it serves", "version": VERSION},
        "servers": [{"url": "/v2"}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}],
        "paths": paths,
    }
