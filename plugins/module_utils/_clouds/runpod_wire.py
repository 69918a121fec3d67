# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's wire as the model's types: pods, pages of lists, log lines, and the line that starts a container.

Source: RunPod's API reference, version 2 (openapi.json, info.version 2.0.0). Where the service
is known to differ from its description, the comment says how.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient

# Of one pod, as of one template.
MOST_VARIABLES = 50
_STATES = {
    "PROVISIONING": model.STARTING,
    "STARTING": model.STARTING,
    "RUNNING": model.RUNNING,
    "EXITED": model.STOPPED,
    "ERROR": model.FAILED,
    "TERMINATED": model.GONE,
}


def start_line(command: Sequence[str], *, install_sshd: bool) -> str:
    """The container's start command, which takes the place of the image's own: what starts SSH is started all the same.

    RunPod's images start their services in /start.sh and stay in it. For others there is what RunPod's documents say: bring openssh-server,
    write the key, start it. Empty when the image may start as it likes.
    """
    if not command and not install_sshd:
        return ""
    lines = ['{ "$@" & }'] if command else []
    lines.append("if [ -x /start.sh ]; then exec /start.sh; fi")
    if install_sshd:
        lines += [
            "command -v sshd >/dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openssh-server; }",
            "mkdir -p ~/.ssh /run/sshd && chmod 700 ~/.ssh && printf '%s\\n' \"$PUBLIC_KEY\" >~/.ssh/authorized_keys && chmod 600 ~/.ssh/authorized_keys",
            "ssh-keygen -A && /usr/sbin/sshd",
        ]
    return shlex.join(["bash", "-c", "; ".join([*lines, "exec sleep infinity"]), "start", *command])


def pages(http: HttpClient, path: str, key: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of all pages of a list."""
    cursor: str | None = None
    for _page in range(1000):
        body = http.get(path, {**query, **({"cursor": cursor} if cursor else {})}).body
        yield from rows_of(body, key)
        pagination = body.get("pagination") or {}
        if not isinstance(pagination, dict):
            raise errors.SchemaError("a pagination that is no object")
        following = pagination.get("nextCursor")
        if not pagination.get("hasNextPage"):
            return
        if not following or following == cursor:
            raise errors.SchemaError("the announcement of another page and no word where it is")
        cursor = str(following)
    raise errors.SchemaError("a list that does not end after 1000 pages")


def read_pod(body: Any) -> model.Pod:
    """A pod from the wire; raises SchemaError when it lacks what a pod must have."""
    if not isinstance(body, dict):
        raise errors.SchemaError("what is no pod")
    pod_id, name, status = body.get("id"), body.get("name"), body.get("status")
    if not isinstance(pod_id, str) or not model.POD_ID.match(pod_id) or not isinstance(name, str) or not isinstance(status, str):
        raise errors.SchemaError(f"a pod without a usable id, name or status: {errors.clean_text({'id': pod_id, 'status': status}, 120)}")
    gpu = as_dict(body.get("gpu"))
    persistent = as_dict(as_dict(body.get("mounts")).get("persistent"))
    state = _STATES.get(status, model.UNKNOWN)
    return model.Pod(
        cloud="runpod",
        id=pod_id,
        name=errors.clean_text(name, 191),
        state=state,
        provider_status=errors.clean_text(status, 40),
        gpu=as_text(gpu.get("id")),
        gpu_count=as_int(gpu.get("count")) or 0,
        usd_per_hour=model.to_money(body.get("cost")),
        region=as_text(body.get("dataCenterId")),
        cloud_type=(as_text(body.get("cloud")) or "").lower() or None,
        image=as_text(body.get("image")),
        disk_gib=as_int(body.get("disk")),
        volume_gib=as_int(persistent.get("size")),
        ports=tuple(errors.clean_text(port, 20) for port in as_list(body.get("ports")) if isinstance(port, str)),
        # Ports of a stopped pod are stale: the status wins.
        endpoint=_endpoint(body) if state == model.RUNNING else None,
        gateway=_gateway(body) if state == model.RUNNING else None,
        created_at=model.parse_time(body.get("createdAt")),
        started_at=model.parse_time(body.get("startedAt")),
        uptime_seconds=as_int(as_dict(body.get("runtime")).get("uptime")) if state == model.RUNNING else None,
    )


def log_line(event: dict[str, Any]) -> str:
    moment = model.parse_time(event.get("ts"))
    text = as_text(event.get("line"))
    return f"{model.rfc3339(moment)} {text}" if moment and text else text or ""


def _endpoint(body: dict[str, Any]) -> model.Endpoint | None:
    direct = as_dict(body.get("ssh")).get("direct")
    if isinstance(direct, dict):
        found = model.Endpoint.parse(direct.get("host"), direct.get("port"))
        if found is not None and _public(found.host):
            return found
    for port in as_list(as_dict(body.get("runtime")).get("ports")):
        if isinstance(port, dict) and port.get("private") == 22 and port.get("type") == "tcp" and port.get("public"):
            found = model.Endpoint.parse(port.get("ip"), port.get("public"))
            if found is not None and _public(found.host):
                return found
    return None


def _gateway(body: dict[str, Any]) -> model.Endpoint | None:
    """RunPod's own SSH server, whose user name says which pod; it knows the account's keys only."""
    proxy = as_dict(as_dict(body.get("ssh")).get("proxy"))
    return model.Endpoint.parse(proxy.get("host"), proxy.get("port"), proxy.get("username"), "gateway")


def _public(host: str) -> bool:
    """HTTP ports report addresses of the carrier-grade range 100.64.0.0/10, which lead nowhere."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return address not in ipaddress.ip_network("100.64.0.0/10") if address.version == 4 else True


def rows_of(body: Any, key: str) -> list[dict[str, Any]]:
    rows = body.get(key) if isinstance(body, dict) else None
    if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
        raise errors.SchemaError(f"no list of {key}")
    return rows


def plain_id(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= 200


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_gib(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1_000_000 else 0


def as_text(value: Any) -> str | None:
    return errors.clean_text(value, 300) if isinstance(value, str) and value else None


def as_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
