# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the bodies of RunPod REST v2 requests: unknown fields are refused, nested ones too."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.requests import Request

from rehearsal.account import Template
from rehearsal.api.runpod_errors import ProblemError

Errors = list[dict[str, str]]
CREATE_FIELDS = {"name", "image", "gpu", "cpu", "cloud", "dataCenterIds", "disk", "mounts", "ports", "env", "args", "entrypoint", "cmd", "registry",
                 "templateId", "startSsh", "startJupyter", "globalNetworking"}  # fmt: skip
GPU_FIELDS = {"id", "count", "allowedCudaVersions", "minCudaVersion", "minRamPerGpu", "minVcpuCountPerGpu"}
CPU_FIELDS = {"id", "vcpuCount"}
CONTAINER_FIELDS = {"image", "args", "disk", "ports", "env", "registry"}
TEMPLATE_FIELDS = {*CONTAINER_FIELDS, "name", "mounts", "serverless", "public", "category", "startSsh", "startJupyter", "allowedCudaVersions"}
BODY_LIMIT = 102_400
LARGEST_VOLUME_GIB = 4096
VCPU_COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)
# From 1 to 65535.
PORT = r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])/(tcp|http)$"
# Types in visible ASCII, as OpenSSH writes them; the comment may be anything on the same line.
PUBLIC_KEY = r"^(ssh|ecdsa|sk)-[!-~]+ [!-~]+([ \t][^\n\r]*)?$"
VERSION_TEXT = r"^[0-9]+\.[0-9]+$"


def fits(pattern: str, text: str) -> bool:
    """As JSON Schema means it: to Python, a dollar sign also stands before a closing newline."""
    return re.search(pattern.removesuffix("$") + r"\Z", text) is not None


class Reader:
    """Collects every fault of a body, as the real one does."""

    def __init__(self) -> None:
        self.errors: Errors = []

    def complain(self, where: str, message: str) -> None:
        self.errors.append({"location": f"body.{where}" if where else "body", "message": message})

    def known(self, where: str, value: dict[str, Any], fields: set[str]) -> None:
        for name in value:
            if name not in fields:
                self.complain(f"{where}.{name}" if where else name, "unexpected property")

    def text(self, body: dict[str, Any], name: str, default: str | None = None, where: str = "", nullable: bool = False) -> str | None:
        value = body.get(name, default)
        if name in body and not isinstance(value, str) and not (nullable and value is None):
            self.complain(where + name, "expected string")
            return default
        return value

    def number(self, body: dict[str, Any], name: str, default: int, least: int, where: str = "") -> int:
        value = body.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.complain(where + name, "expected integer")
            return default
        if value < least:
            self.complain(where + name, f"expected number >= {least}")
        return value

    def texts(self, body: dict[str, Any], name: str, where: str = "") -> list[str] | None:
        value = body.get(name)
        if name not in body:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.complain(where + name, "expected array of strings")
            return None
        return value

    def flag(self, body: dict[str, Any], name: str, default: bool = False) -> bool:
        value = body.get(name, default)
        if not isinstance(value, bool):
            self.complain(name, "expected boolean")
            return default
        return value

    def check(self) -> None:
        if self.errors:
            raise ProblemError(422, "validation failed", self.errors)


async def read_json(request: Request) -> Any:
    """ProblemError where other readers of JSON would stumble as well: numbers that are none, half a surrogate pair, nesting without end."""
    try:
        body = json.loads(await request.body(), parse_constant=refuse_constant, parse_float=read_float)
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "The request body is not valid JSON.") from error
    return body


def read_float(text: str) -> float:
    """To JSON Schema 20.0 is an integer."""
    value = float(text)
    return int(value) if value.is_integer() else value


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def read_object(request: Request) -> dict[str, Any]:
    body = await read_json(request)
    if not isinstance(body, dict):
        raise ProblemError(422, "validation failed", [{"location": "body", "message": "expected object"}])
    return body


def read_create(body: Any) -> dict[str, Any]:
    """The checked body of a create, with defaults; ProblemError 422 or 400 otherwise."""
    if not isinstance(body, dict):
        raise ProblemError(422, "validation failed", [{"location": "body", "message": "expected object"}])
    reader = Reader()
    reader.known("", body, CREATE_FIELDS)
    wanted: dict[str, Any] = {
        "name": reader.text(body, "name"),
        "image": reader.text(body, "image"),
        "cloud": reader.text(body, "cloud", "SECURE"),
        "data_centers": reader.texts(body, "dataCenterIds"),
        "disk": reader.number(body, "disk", 50, 1),
        "ports": read_ports(reader, body),
        "env": read_env(reader, body),
        "args": read_args(reader, body),
        "registry": reader.text(body, "registry", nullable=True),
        "template_id": reader.text(body, "templateId"),
        "global_networking": reader.flag(body, "globalNetworking"),
        "mounts": read_mounts(reader, body),
        "start_ssh": reader.flag(body, "startSsh"),
    }
    reader.flag(body, "startJupyter")
    read_compute(reader, body, wanted)
    if not wanted["name"]:
        reader.complain("name", "expected required property name to be present" if "name" not in body else "expected length >= 1")
    if not wanted["image"] and not wanted["template_id"]:
        reader.complain("image", "expected required property image to be present")
    if wanted["cloud"] not in ("SECURE", "COMMUNITY"):
        reader.complain("cloud", "expected value to be one of SECURE, COMMUNITY")
    reader.check()
    check_rules(body)
    return wanted


def with_template(body: dict[str, Any], template: Template) -> dict[str, Any]:
    """The body as if the template's settings stood in it: its own win, `env` is merged by key, and nothing stays linked."""
    if template.serverless:
        raise ProblemError(422, "validation failed", [{"location": "body.templateId", "message": "a serverless template cannot be used for a pod"}])
    merged: dict[str, Any] = {"image": template.image, "disk": template.disk, "ports": template.ports, "registry": template.registry}
    merged |= {"startSsh": template.start_ssh, "startJupyter": template.start_jupyter}
    if template.args:
        merged["args"] = template.args
    if template.mounts and body.get("gpu") is not None:
        merged["mounts"] = template.mounts
    merged |= {name: value for name, value in body.items() if name != "templateId"}
    merged["env"] = {**template.env, **(body.get("env") or {})}
    gpu = body.get("gpu")
    if template.cuda and isinstance(gpu, dict) and not {"allowedCudaVersions", "minCudaVersion"} & set(gpu):
        merged["gpu"] = {**gpu, "allowedCudaVersions": template.cuda}
    if len(json.dumps(merged)) > BODY_LIMIT:
        raise ProblemError(413, "The request is larger than 102400 bytes once its template is expanded.")
    return merged


def apply_template(reader: Reader, body: dict[str, Any], template: Template) -> None:
    """Write the given fields into the template; ProblemError 422 when one of them is wrong."""
    fresh: dict[str, Any] = {
        "name": reader.text(body, "name"), "image": reader.text(body, "image"), "args": read_args(reader, body), "disk": reader.number(body, "disk", 50, 1),
        "ports": read_ports(reader, body), "env": read_env(reader, body), "registry": reader.text(body, "registry", nullable=True),
        "mounts": read_mounts(reader, body),
        "serverless": reader.flag(body, "serverless"), "public": reader.flag(body, "public"), "category": reader.text(body, "category", "NVIDIA"),
        "startSsh": reader.flag(body, "startSsh", True), "startJupyter": reader.flag(body, "startJupyter", True),
        "allowedCudaVersions": reader.texts(body, "allowedCudaVersions") or [],
    }  # fmt: skip
    if fresh["category"] not in ("CPU", "NVIDIA", "AMD"):
        reader.complain("category", "expected value to be one of CPU, NVIDIA, AMD")
    if "network" in (body.get("mounts") or {}):
        reader.complain("mounts.network", "unexpected property")
    if not all(fits(VERSION_TEXT, one) for one in fresh["allowedCudaVersions"]):
        reader.complain("allowedCudaVersions", "expected versions such as 12.8")
    reader.check()
    names = {"startSsh": "start_ssh", "startJupyter": "start_jupyter", "allowedCudaVersions": "cuda"}
    for name, value in fresh.items():
        # `mounts: {}` leaves the mount as it is.
        if name in body and not (name == "mounts" and not value):
            setattr(template, names.get(name, name), value)


def read_compute(reader: Reader, body: dict[str, Any], wanted: dict[str, Any]) -> None:
    gpu, cpu = body.get("gpu"), body.get("cpu")
    for name, value, fields in (("gpu", gpu, GPU_FIELDS), ("cpu", cpu, CPU_FIELDS)):
        if name in body and not isinstance(value, dict):
            reader.complain(name, "expected object")
        elif isinstance(value, dict):
            reader.known(name, value, fields)
            if not reader.text(value, "id", where=f"{name}."):
                reader.complain(f"{name}.id", "expected required property id to be present")
    wanted["gpu"] = gpu if isinstance(gpu, dict) else None
    wanted["cpu"] = cpu if isinstance(cpu, dict) else None
    if isinstance(gpu, dict):
        if "count" in gpu:
            reader.number(gpu, "count", 1, 1, "gpu.")
        reader.texts(gpu, "allowedCudaVersions", "gpu.")
        reader.text(gpu, "minCudaVersion", where="gpu.")
        for name in ("minRamPerGpu", "minVcpuCountPerGpu"):
            reader.number(gpu, name, 0, 0, "gpu.")
    if isinstance(cpu, dict):
        count = reader.number(cpu, "vcpuCount", 2, 2, "cpu.")
        if count not in VCPU_COUNTS:
            reader.complain("cpu.vcpuCount", "expected a power of two")


def read_ports(reader: Reader, body: dict[str, Any]) -> list[str]:
    ports = reader.texts(body, "ports") or []
    for port in ports:
        if not fits(PORT, port):
            reader.complain("ports", f"expected <port>/tcp or <port>/http, got {port}")
    return ports


def read_env(reader: Reader, body: dict[str, Any]) -> dict[str, str]:
    env = body.get("env", {})
    if not isinstance(env, dict):
        reader.complain("env", "expected object")
        return {}
    for name, value in env.items():
        if not isinstance(value, str):
            reader.complain(f"env.{name}", "expected string")
    return dict(env)


def read_args(reader: Reader, body: dict[str, Any]) -> str:
    words = (reader.texts(body, "entrypoint") or []) + (reader.texts(body, "cmd") or [])
    return reader.text(body, "args", "") or " ".join(words)


def read_mounts(reader: Reader, body: dict[str, Any]) -> dict[str, Any]:
    mounts = body.get("mounts", {})
    if not isinstance(mounts, dict):
        reader.complain("mounts", "expected object")
        return {}
    reader.known("mounts", mounts, {"persistent", "network"})
    volume = mounts.get("persistent")
    if volume is not None:
        if not isinstance(volume, dict):
            reader.complain("mounts.persistent", "expected object")
            return {}
        reader.known("mounts.persistent", volume, {"size", "path"})
        if "size" not in volume:
            reader.complain("mounts.persistent.size", "expected required property size to be present")
        reader.number(volume, "size", 10, 10, "mounts.persistent.")
        path = reader.text(volume, "path", where="mounts.persistent.")
        if not path or not path.startswith("/"):
            reader.complain("mounts.persistent.path", "expected required property path to be an absolute path")
    read_network(reader, mounts.get("network"))
    return mounts


def read_network(reader: Reader, network: Any) -> None:
    if network is None:
        return
    if not isinstance(network, list) or not all(isinstance(one, dict) for one in network) or len(network) > 1:
        reader.complain("mounts.network", "expected an array of at most one mount")
        return
    for number, mount in enumerate(network):
        where = f"mounts.network[{number}]"
        reader.known(where, mount, {"volumeId", "path"})
        for name in ("volumeId", "path"):
            if not reader.text(mount, name, where=f"{where}."):
                reader.complain(f"{where}.{name}", f"expected required property {name} to be present")


def check_rules(body: dict[str, Any]) -> None:
    """Rules that the schema does not state: they answer 400."""
    gpu, cpu, mounts = body.get("gpu"), body.get("cpu"), body.get("mounts") or {}
    if (gpu is None) == (cpu is None):
        raise ProblemError(400, "Exactly one of gpu and cpu must be given.")
    if mounts.get("persistent") is not None and mounts.get("network") is not None:
        raise ProblemError(400, "mounts.persistent and mounts.network cannot be combined.")
    if mounts.get("network") == []:
        raise ProblemError(400, "mounts.network must hold one volume.")
    if mounts.get("persistent") is not None and cpu is not None:
        raise ProblemError(400, "mounts.persistent is not supported on CPU pods.")
    if gpu is not None and gpu.get("allowedCudaVersions") and gpu.get("minCudaVersion"):
        raise ProblemError(400, "gpu.allowedCudaVersions and gpu.minCudaVersion cannot be combined.")
    if len(body.get("env") or {}) > 50:
        raise ProblemError(400, "A pod can have at most 50 environment variables.")
    if sum(1 for port in body.get("ports") or [] if port.endswith("/http")) > 10:
        raise ProblemError(400, "A pod can expose at most 10 HTTP ports.")
