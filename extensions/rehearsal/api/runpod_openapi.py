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
    ("/pods/{id}", "patch", "Change a pod", 200),
    ("/pods/{id}", "delete", "Terminate a pod", 204),
    ("/pods/{id}/action", "post", "Start, stop, restart or terminate a pod", 200),
    ("/catalog/gpus", "get", "GPU types", 200),
    ("/catalog/gpus/{id}", "get", "One GPU type", 200),
    ("/catalog/datacenters", "get", "Data centers", 200),
    ("/catalog/datacenters/{id}", "get", "One data center", 200),
    ("/billing/pods", "get", "What pods have cost", 200),
    ("/templates", "get", "The account's templates", 200),
    ("/templates", "post", "Create a template", 201),
    ("/templates/{id}", "get", "Read a template, one's own or a public one", 200),
    ("/templates/{id}", "patch", "Change a template", 200),
    ("/templates/{id}", "delete", "Delete a template", 204),
    ("/catalog/templates", "get", "Public templates", 200),
    ("/network-volumes", "get", "The account's network volumes", 200),
    ("/network-volumes", "post", "Create a network volume", 201),
    ("/network-volumes/{id}", "get", "Read a network volume", 200),
    ("/network-volumes/{id}", "patch", "Rename or grow a network volume", 200),
    ("/network-volumes/{id}", "delete", "Delete a network volume", 204),
    ("/registries", "get", "The account's registry credentials, without the credentials", 200),
    ("/registries", "post", "Store a registry credential", 201),
    ("/registries/{id}", "get", "Read the name of a registry credential", 200),
    ("/registries/{id}", "delete", "Delete a registry credential", 204),
    ("/account/ssh-keys", "get", "The account's SSH keys", 200),
    ("/account/ssh-keys", "put", "Replace all of the account's SSH keys", 200),
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
TEXTS = {"type": "array", "items": {"type": "string"}}
CONTAINER = {
    "name": {"type": "string", "minLength": 1},
    "image": {"type": "string"},
    "args": {"type": "string"},
    "disk": {"type": "integer", "minimum": 1},
    "mounts": {"type": "object"},
    "ports": TEXTS,
    "env": {"type": "object", "additionalProperties": {"type": "string"}},
    "registry": {"type": ["string", "null"]},
}
TEMPLATE = {
    **CONTAINER,
    "category": {"type": "string", "enum": ["CPU", "NVIDIA", "AMD"]},
    "serverless": {"type": "boolean"},
    "public": {"type": "boolean"},
    "startSsh": {"type": "boolean", "default": True},
    "startJupyter": {"type": "boolean", "default": True},
    "allowedCudaVersions": TEXTS,
}
SIZE = {"type": "integer", "minimum": 10, "maximum": 4096}
NAMED = {"type": "string", "minLength": 1}


def body(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("/pods", "post"): CREATE,
    ("/pods/{id}", "patch"): body({**CONTAINER, "locked": {"type": "boolean"}, "globalNetworking": {"type": "boolean"}, "templateId": NAMED}),
    ("/pods/{id}/action", "post"): body({"action": {"type": "string", "enum": ["start", "stop", "restart", "terminate"]}}, "action"),
    ("/templates", "post"): body(TEMPLATE, "name", "image"),
    ("/templates/{id}", "patch"): body(TEMPLATE),
    ("/network-volumes", "post"): body(
        {"name": NAMED, "size": SIZE, "dataCenter": NAMED, "type": {"type": "string", "enum": ["STANDARD", "HIGH_PERFORMANCE"]}}, "name", "size", "dataCenter"
    ),
    ("/network-volumes/{id}", "patch"): {**body({"name": NAMED, "size": SIZE}), "minProperties": 1},
    ("/registries", "post"): body({"name": NAMED, "username": NAMED, "password": NAMED}, "name", "username", "password"),
    ("/account/ssh-keys", "put"): body({"keys": TEXTS}, "keys"),
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
        if (path, method) in BODIES:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": BODIES[path, method]}}}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rehearsal cloud: the part of RunPod REST v2 that it serves", "version": VERSION},
        "servers": [{"url": "/v2"}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearer": []}],
        "paths": paths,
    }
