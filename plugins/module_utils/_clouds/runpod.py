# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod over REST v2: maps its wire to the model, nothing else.

Source: RunPod's API reference, version 2 (openapi.json, info.version 2.0.0). Where the service
is known to differ from its description, the comment says how.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud, GpuType
from ansible_collections.podcycle.gpu.plugins.module_utils._credentials import KeySource, find_key
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient, is_loopback

DEFAULT_ENDPOINT = "https://api.runpod.io/v2"
ENDPOINT_VARIABLE = "RUNPOD_REST_V2_URL"
KEY = KeySource(
    label="runpod",
    variables=("RUNPOD_API_KEY",),
    keyring_service="runpod",
    keyring_user="RUNPOD_API_KEY",
    dotenv_variable="RUNPOD_DOTENV_PATH",
    dotenv_files=(".env.runpod", ".env"),
    hint="make one at RunPod's console (Settings, API Keys), then: export RUNPOD_API_KEY=... or keyring set runpod RUNPOD_API_KEY",
)
_STATES = {
    "PROVISIONING": model.STARTING,
    "STARTING": model.STARTING,
    "RUNNING": model.RUNNING,
    "EXITED": model.STOPPED,
    "ERROR": model.FAILED,
    "TERMINATED": model.GONE,
}
# A refusal for want of machines is a 400 like any other; only its text tells.
_CAPACITY = re.compile(
    r"no longer any instances available|no instances (currently )?available|not enough free gpus|does not have the resources to deploy", re.IGNORECASE
)
_CLOUD_TYPES = {"secure": "SECURE", "community": "COMMUNITY"}


def connect(options: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> RunPod:
    """A driver with its key found; sends nothing."""
    return RunPod(*connection(options, environ, folder))


def connection(options: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> tuple[HttpClient, str]:
    """A client for the API, and where its key came from."""
    endpoint = str(options.get("endpoint") or environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")
    if not re.match(r"https?://[^\s/]+(/[^\s?#]*)?\Z", endpoint):
        raise errors.UsageError(f"endpoint {errors.clean_text(endpoint, 100)!r} is not a URL", hint=f"the default is {DEFAULT_ENDPOINT}")
    if endpoint.startswith("http://") and not is_loopback(endpoint):
        raise errors.UsageError(f"endpoint {endpoint} would send the key unencrypted", hint="use https://")
    credential = find_key(KEY, options.get("api_key"), environ, folder)
    client = HttpClient(
        endpoint,
        credential.value,
        "runpod",
        timeout_seconds=float(options.get("request_timeout") or 30),
        connect_tries=1 if options.get("absent_ok") else 4,
    )
    return client, credential.source


class RunPod(Cloud):
    name = "runpod"

    def __init__(self, client: HttpClient, key_source: str) -> None:
        self._http = client
        self.endpoint = client.base_url
        self.key = client.key
        self.key_source = key_source

    def check(self) -> None:
        try:
            self._http.get("/pods", {"limit": "1"})
        except errors.Unauthorized as err:
            raise errors.Unauthorized(f"RunPod does not know the key (from {self.key_source}): {err.message}", hint=KEY.hint, **err.details) from err
        except errors.Forbidden as err:
            raise self._forbidden(err) from err

    def _forbidden(self, err: errors.Forbidden) -> errors.Forbidden:
        return errors.Forbidden(
            f"RunPod knows the key (from {self.key_source}) but it lacks the right: {err.message}",
            hint="give the key Read/Write access to api.runpod.io in RunPod's console (Settings, API Keys)",
            **err.details,
        )

    def gpu_types(self) -> list[GpuType]:
        return [GpuType(row["id"], _text(row.get("name")) or row["id"], _gib(row.get("memory"))) for row in self._catalog({})]

    def offers(self, gpu_count: int, *, spot: bool, options: dict[str, object]) -> list[model.Offer]:
        if spot:
            raise errors.UsageError("RunPod's REST v2 API rents no spot pods", hint="set spot to false")
        wanted = str(options.get("cloud_type") or "secure")
        query = {"include": "AVAILABILITY", "product": "POD", "count": str(gpu_count)}
        if wanted in _CLOUD_TYPES:
            query["cloud"] = _CLOUD_TYPES[wanted]
        kinds = [wanted] if wanted in _CLOUD_TYPES else list(_CLOUD_TYPES)
        rows = self._catalog(query)
        with self._http.reading("GET", "/catalog/gpus"):
            found = [self._offer(row, kind, gpu_count) for row in rows for kind in kinds]
        return [offer for offer in found if offer is not None]

    def _catalog(self, query: dict[str, str]) -> list[dict[str, Any]]:
        with self._http.reading("GET", "/catalog/gpus"):
            rows = _rows(self._http.get("/catalog/gpus", query or None).body, "gpus")
        # The catalog lists a GPU named "unknown". An id goes back to the cloud as it came, so one that cannot be shown is left out.
        return [row for row in rows if isinstance(row.get("id"), str) and _plain_id(row["id"]) and row["id"] != "unknown"]

    @staticmethod
    def _offer(row: dict[str, Any], kind: str, gpu_count: int) -> model.Offer | None:
        price = model.to_money(_dict(row.get("price")).get(kind))
        most = row.get("maxCount")
        # The largest machine of each cloud; one number for both in older answers.
        most = most.get(kind) if isinstance(most, dict) else most
        if not price or not row.get(kind, True) or (isinstance(most, int) and most < gpu_count):
            return None
        return model.Offer(
            "runpod",
            row["id"],
            _text(row.get("name")) or row["id"],
            gpu_count,
            _gib(row.get("memory")),
            price * gpu_count,
            cloud_type=kind,
            availability=(_text(row.get("availability")) or "unknown").lower(),
        )

    def create(self, wish: model.PodWish, stamp: model.Stamp, offer: model.Offer) -> model.Pod:
        self._http.secrets = tuple(wish.secret_env.values())
        try:
            reply = self._http.post("/pods", self._body(wish, stamp, offer))
        except errors.InvalidRequest as err:
            if err.details.get("status") == 400 and _CAPACITY.search(str(err.details.get("said", ""))):
                raise errors.NoCapacity(f"no capacity for {offer.gpu_name} in {offer.region or 'any data center'}: {err.message}", **err.details) from err
            raise
        except errors.Forbidden as err:
            raise self._forbidden(err) from err
        with self._http.reading("POST", "/pods"):
            return read_pod(reply.body)

    @staticmethod
    def _body(wish: model.PodWish, stamp: model.Stamp, offer: model.Offer) -> dict[str, Any]:
        env = {**wish.env, **wish.secret_env}
        if wish.ssh_public_key:
            # RunPod's images read PUBLIC_KEY; its documents name SSH_PUBLIC_KEY.
            env.update(PUBLIC_KEY=wish.ssh_public_key.strip(), SSH_PUBLIC_KEY=wish.ssh_public_key.strip())
        body: dict[str, Any] = {
            "name": str(stamp),
            "image": wish.image,
            # Left out, the count matches no machine, although the schema has a default.
            "gpu": {"id": offer.gpu, "count": offer.gpu_count},
            "cloud": _CLOUD_TYPES[offer.cloud_type],
            "disk": wish.disk_gib,
            "ports": list(wish.ports),
            "env": env,
        }
        if wish.volume_gib:
            body["mounts"] = {"persistent": {"size": wish.volume_gib, "path": wish.volume_path}}
        if offer.region:
            body["dataCenterIds"] = [offer.region]
        if wish.options.get("min_cuda_version"):
            body["gpu"]["minCudaVersion"] = str(wish.options["min_cuda_version"])
        return body

    def get(self, pod_id: str) -> model.Pod:
        path = f"/pods/{_safe_id(pod_id)}"
        with self._http.reading("GET", path):
            return read_pod(self._http.get(path).body)

    def list(self) -> list[model.Pod]:
        with self._http.reading("GET", "/pods"):
            pods = [read_pod(row) for row in pages(self._http, "/pods", "pods", {"limit": "1000"})]
        return [*{pod.id: pod for pod in pods}.values()]

    def start(self, pod_id: str) -> None:
        self._act(pod_id, "start")

    def stop(self, pod_id: str) -> None:
        self._act(pod_id, "stop")

    def _act(self, pod_id: str, action: str) -> None:
        try:
            self._http.post(f"/pods/{_safe_id(pod_id)}/action", {"action": action})
        except errors.InvalidRequest as err:
            if _CAPACITY.search(str(err.details.get("said", ""))):
                raise errors.NoCapacity(f"pod {pod_id}: its host has no free GPU now: {err.message}", **err.details) from err
            raise

    def terminate(self, pod_id: str) -> None:
        self._http.delete(f"/pods/{_safe_id(pod_id)}")


def pages(http: HttpClient, path: str, key: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of all pages of a list."""
    cursor: str | None = None
    for _page in range(1000):
        body = http.get(path, {**query, **({"cursor": cursor} if cursor else {})}).body
        yield from _rows(body, key)
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
    gpu = _dict(body.get("gpu"))
    persistent = _dict(_dict(body.get("mounts")).get("persistent"))
    state = _STATES.get(status, model.UNKNOWN)
    return model.Pod(
        cloud="runpod",
        id=pod_id,
        name=errors.clean_text(name, 191),
        state=state,
        provider_status=errors.clean_text(status, 40),
        gpu=_text(gpu.get("id")),
        gpu_count=_int(gpu.get("count")) or 0,
        usd_per_hour=model.to_money(body.get("cost")),
        region=_text(body.get("dataCenterId")),
        cloud_type=(_text(body.get("cloud")) or "").lower() or None,
        image=_text(body.get("image")),
        disk_gib=_int(body.get("disk")),
        volume_gib=_int(persistent.get("size")),
        ports=tuple(errors.clean_text(port, 20) for port in _list(body.get("ports")) if isinstance(port, str)),
        # Ports of a stopped pod are stale: the status wins.
        endpoint=_endpoint(body) if state == model.RUNNING else None,
        created_at=model.parse_time(body.get("createdAt")),
        started_at=model.parse_time(body.get("startedAt")),
    )


def _endpoint(body: dict[str, Any]) -> model.Endpoint | None:
    direct = _dict(body.get("ssh")).get("direct")
    if isinstance(direct, dict):
        found = model.Endpoint.parse(direct.get("host"), direct.get("port"))
        if found is not None and _public(found.host):
            return found
    for port in _list(_dict(body.get("runtime")).get("ports")):
        if isinstance(port, dict) and port.get("private") == 22 and port.get("type") == "tcp" and port.get("public"):
            found = model.Endpoint.parse(port.get("ip"), port.get("public"))
            if found is not None and _public(found.host):
                return found
    return None


def _public(host: str) -> bool:
    """HTTP ports report addresses of the carrier-grade range 100.64.0.0/10, which lead nowhere."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    return address not in ipaddress.ip_network("100.64.0.0/10") if address.version == 4 else True


def _rows(body: Any, key: str) -> list[dict[str, Any]]:
    rows = body.get(key) if isinstance(body, dict) else None
    if not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows):
        raise errors.SchemaError(f"no list of {key}")
    return rows


def _plain_id(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= 200


def _safe_id(pod_id: str) -> str:
    if not model.POD_ID.match(pod_id):
        raise errors.UsageError(f"{errors.clean_text(pod_id, 80)!r} is not a pod id")
    return pod_id


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _gib(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1_000_000 else 0


def _text(value: Any) -> str | None:
    return errors.clean_text(value, 300) if isinstance(value, str) and value else None


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
