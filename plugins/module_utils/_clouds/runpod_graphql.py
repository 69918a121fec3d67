# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's GraphQL API, for what REST v2 lacks: spot pods, live prices, the balance, a new password for a registry.

It is deprecated, and its spot mutation may be gone any day. A key may have access to REST and none to this API: whoever uses it goes on
without it where that makes sense. Interface: `query`, `live_prices`, `balance`, `rent_spot`, `resume_spot`, `update_registry`; a pod is
read, stopped and terminated over REST, which sees the same pods.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Account
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient, is_loopback

DEFAULT_ENDPOINT = "https://api.runpod.io/graphql"
ENDPOINT_VARIABLE = "RUNPOD_GRAPHQL_URL"
_NEW_KEY = "make one with access to api.runpod.io/graphql in RunPod's console (Settings, API Keys)"
_WITHOUT = (
    "do without spot pods, live prices and the balance, name the GPU by its id (-e gpu='NVIDIA GeForce RTX 4090'), "
    "and take templates by hand in the web console"
)
# REST may take a key that GraphQL refuses.
NO_RIGHTS = f"where REST takes the key, it only lacks GraphQL rights: {_NEW_KEY}; or {_WITHOUT}"
# What RunPod says, by how it begins: the class of error, and what to type next.
_SAID: tuple[tuple[str, type[errors.CloudError], str], ...] = (
    (r"there are no longer any instances available with enough disk space", errors.NoCapacity, "ask for a smaller disk; a template needs one"),
    (r"(create pod: )?there are no (longer any )?instances (currently )?available", errors.NoCapacity, "try another GPU, another data center or a higher bid"),
    (r"there are not enough free gpus on the host machine", errors.NoCapacity, "its host has given the GPUs to somebody else: rent another pod"),
    (r"(create pod: )?this machine does not have the resources to deploy", errors.NoCapacity, "RunPod picked a full machine: try again in ten seconds"),
    (r"cannot resume a spot pod as an on demand pod", errors.Conflict, "bid for it again"),
    (r".*pod not found", errors.NotFound, ""),
    (r"you must remove this network volume from all pods", errors.Conflict, "give back the pods that use it first"),
    (r".*balance is too low", errors.PaymentRequired, ""),
)  # fmt: skip
_BY_CODE: dict[str, type[errors.CloudError]] = {
    "POD_NOT_FOUND": errors.NotFound, "UNAUTHENTICATED": errors.Unauthorized, "FORBIDDEN": errors.Forbidden,
}  # fmt: skip
PRICES = """query Prices($price: GpuLowestPriceInput!) {
  gpuTypes { id displayName memoryInGb lowestPrice(input: $price) { minimumBidPrice uninterruptablePrice stockStatus availableGpuCounts } }
}"""
BALANCE = "query Balance { myself { id clientBalance currentSpendPerHr spendLimit } }"
RENT = "mutation Rent($input: PodRentInterruptableInput!) { podRentInterruptable(input: $input) { id desiredStatus costPerHr } }"
RESUME = "mutation Resume($input: PodBidResumeInput!) { podBidResume(input: $input) { id desiredStatus costPerHr } }"
UPDATE_REGISTRY = "mutation Update($input: UpdateRegistryAuthInput!) { updateRegistryAuth(input: $input) { id name } }"


@dataclass(frozen=True)
class LivePrice:
    """Of one GPU type now, in dollars for one GPU and hour; None where nothing is to be had. A hint like the catalog's, not a promise."""

    gpu: str
    gpu_name: str
    vram_gib: int
    on_demand_usd: Decimal | None
    spot_usd: Decimal | None
    stock: str
    gpu_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpotWish:
    """A spot pod, in what REST calls its fields. `bid_usd` is for one GPU and hour; with a template, what stays None is the template's."""

    name: str
    gpu: str
    gpu_count: int
    bid_usd: Decimal
    image: str = ""
    cloud_type: str = "secure"
    disk_gib: int | None = None
    volume_gib: int = 0
    volume_path: str = "/workspace"
    network_volume: str | None = None
    ports: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    secret_env: Mapping[str, str] | None = None
    data_center: str | None = None
    min_cuda_version: str | None = None
    template: str | None = None
    registry: str | None = None
    args: str = ""


def graphql_endpoint(rest: str, environ: Mapping[str, str]) -> str:
    """Beside the REST API that is talked to, unless the environment names another one."""
    beside = re.sub(r"/v2\Z", "", rest.rstrip("/")) + "/graphql"
    if urlsplit(rest).hostname == "v2-rest.runpod.io":
        beside = DEFAULT_ENDPOINT
    endpoint = (environ.get(ENDPOINT_VARIABLE) or beside).rstrip("/")
    if is_loopback(endpoint) is not is_loopback(rest):
        raise errors.UsageError(
            f"{ENDPOINT_VARIABLE} is {errors.clean_text(endpoint, 100)} beside {rest}: one of them is a rehearsal", hint=f"unset {ENDPOINT_VARIABLE}"
        )
    if not re.match(r"https?://[^\s/]+(/[^\s?#]*)?\Z", endpoint) or (endpoint.startswith("http://") and not is_loopback(endpoint)):
        raise errors.UsageError(f"{ENDPOINT_VARIABLE} {errors.clean_text(endpoint, 100)!r} is not an encrypted URL", hint=f"the default is {DEFAULT_ENDPOINT}")
    return endpoint


def connect_graphql(rest: HttpClient, key_source: str, environ: Mapping[str, str] | None = None) -> GraphQl:
    """The API beside the REST client's, with its key; sends nothing."""
    parts = urlsplit(graphql_endpoint(rest.base_url, os.environ if environ is None else environ))
    return GraphQl(replace(rest, base_url=f"{parts.scheme}://{parts.netloc}"), key_source, parts.path)


class GraphQl:
    """Every call raises a CloudError, whose C(effect) says whether it may have acted."""

    def __init__(self, http: HttpClient, key_source: str = "", path: str = "/graphql") -> None:
        self._http = http
        self._path = path
        self._source = f" (from {key_source})" if key_source else ""

    def query(self, text: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data of a query or a mutation. A query is sent again after a fault; a mutation never."""
        writes = text.lstrip().startswith("mutation")
        body = {"query": text, "variables": dict(variables or {})}
        try:
            reply = self._http.post(self._path, body) if writes else self._http.ask(self._path, body)
        except errors.Unauthorized as err:
            raise errors.Unauthorized(f"RunPod's GraphQL API does not know the key{self._source}: {err.message}", hint=NO_RIGHTS, **err.details) from err
        except errors.Forbidden as err:
            raise self._forbidden(err.message, err.details) from err
        except errors.ProxyRefused as err:
            # It may stand there for certain keys only, and says nothing of it.
            err.hint = f"{err.hint}; if it is the same everywhere, try another key: {_NEW_KEY}; or {_WITHOUT}"
            raise
        except errors.NotFound as err:
            # Of the API, not of a pod: no pod is gone because of this.
            said = f"RunPod has switched its GraphQL API off: {err.message}"
            raise errors.SchemaError(said, hint="do without spot pods and live prices", **err.details) from err
        except errors.InvalidRequest as err:
            self._schema_error(err)
        return self._data(reply.body, writes)

    def _forbidden(self, said: str, details: dict[str, Any]) -> errors.Forbidden:
        return errors.Forbidden(
            f"RunPod's GraphQL API refuses the key{self._source}: {said}",
            hint=NO_RIGHTS,
            **details,
        )

    @staticmethod
    def _schema_error(err: errors.InvalidRequest) -> NoReturn:
        """HTTP 400 is a query that does not fit the schema: the API has changed."""
        said = str(err.details.get("said", ""))
        if re.search(r"podRentInterruptable|podBidResume|PodRentInterruptableInput|PodBidResumeInput", said):
            raise errors.InvalidRequest(
                f"RunPod has taken spot pods out of its API: {err.message}", hint="rent on demand: set spot to false", spot_removed=True, **err.details
            ) from err
        raise errors.SchemaError(f"RunPod's GraphQL API has changed: {err.message}", **err.details) from err

    def _data(self, body: Any, writes: bool) -> dict[str, Any]:
        doubt = errors.EFFECT_UNKNOWN if writes else errors.EFFECT_NONE
        if not isinstance(body, dict) or not isinstance(body.get("data"), (dict, type(None))):
            raise errors.SchemaError("RunPod's GraphQL API answered with no data", effect=doubt)
        data, told = body.get("data") or {}, body.get("errors")
        # Errors deep inside an answer that came take nothing away from it: a pod that was rented is there.
        if isinstance(told, list) and told and not (data and all(value is not None for value in data.values())):
            raise self._told(told[0] if isinstance(told[0], dict) else {}, doubt)
        return data

    def _told(self, told: dict[str, Any], doubt: str) -> errors.CloudError:
        said = errors.clean_text(self._http.redact(str(told.get("message") or "no reason")), 300)
        extensions = told.get("extensions")
        code = str(extensions.get("code") or "") if isinstance(extensions, dict) else ""
        path = told.get("path")
        field = errors.clean_text(path[0], 60) if isinstance(path, list) and path else "the query"
        message, details = f"{field} on {self._http.label} (GraphQL): {said}", {"said": said, "code": errors.clean_text(code, 60), "cloud": "runpod"}
        for pattern, kind, hint in _SAID:
            if re.match(pattern, said, re.IGNORECASE):
                return kind(message, hint=hint, **details)
        if code == "FORBIDDEN":
            return self._forbidden(message, details)
        if code in _BY_CODE:
            return _BY_CODE[code](message, hint=NO_RIGHTS if code == "UNAUTHENTICATED" else "", **details)
        # "Something went wrong" is said of bad input and of a fault after the fact alike.
        if said.lower().startswith("something went wrong") or code == "INTERNAL_SERVER_ERROR":
            return errors.ServerError(message, effect=doubt, hint="RunPod says this of bad input too: check ids, data center and sizes", **details)
        return errors.InvalidRequest(message, effect=doubt, **details)

    # ---- what it is used for --------------------------------------------------------------------

    def live_prices(self, gpu_count: int = 1, *, cloud_type: str = "any", data_center: str | None = None) -> dict[str, LivePrice]:
        """By GPU id, for pods of so many GPUs; also without a key's right to anything else."""
        price: dict[str, Any] = {"gpuCount": gpu_count}
        if cloud_type in ("secure", "community"):
            price["secureCloud"] = cloud_type == "secure"
        if data_center:
            price["dataCenterId"] = data_center
        rows = self.query(PRICES, {"price": price}).get("gpuTypes")
        if not isinstance(rows, list):
            raise errors.SchemaError("RunPod's GraphQL API answered with no list of gpuTypes")
        found = [_live_price(row) for row in rows if isinstance(row, dict)]
        return {row.gpu: row for row in found if row is not None}

    def balance(self) -> Account:
        me = self.query(BALANCE).get("myself")
        if not isinstance(me, dict):
            # What a key that was never valid here reads as.
            raise errors.Unauthorized(f"RunPod's GraphQL API does not know whose key{self._source} this is", hint=NO_RIGHTS)
        return Account(_balance(me.get("clientBalance")), model.to_money(me.get("currentSpendPerHr")) or Decimal(0), model.to_money(me.get("spendLimit")))

    def rent_spot(self, wish: SpotWish) -> str:
        """The id of a new spot pod. On C(effect=unknown) look for its name before another is sent."""
        self._http.secrets = tuple((wish.secret_env or {}).values())
        return self._pod_id(self.query(RENT, {"input": spot_input(wish)}), "podRentInterruptable")

    def resume_spot(self, pod_id: str, bid_usd: Decimal, gpu_count: int) -> str:
        """Start a stopped or outbid spot pod; REST's start refuses them."""
        if gpu_count < 1:
            raise errors.UsageError("gpu_count must be 1 or more")
        return self._pod_id(self.query(RESUME, {"input": {"podId": pod_id, "bidPerGpu": float(bid_usd), "gpuCount": gpu_count}}), "podBidResume")

    def _pod_id(self, data: dict[str, Any], field: str) -> str:
        pod = data.get(field)
        pod_id = pod.get("id") if isinstance(pod, dict) else None
        if not isinstance(pod_id, str) or not model.POD_ID.match(pod_id):
            raise errors.SchemaError(f"{field} on {self._http.label} (GraphQL) answered with no pod", effect=errors.EFFECT_UNKNOWN)
        return pod_id

    def update_registry(self, registry_id: str, username: str, password: str) -> None:
        self._http.secrets = (password,)
        self.query(UPDATE_REGISTRY, {"input": {"id": registry_id, "username": username, "password": password}})


def spot_input(wish: SpotWish) -> dict[str, Any]:
    """What is not wanted is left out: an empty dockerArgs was seen to keep the image from starting its own script."""
    env = {**(wish.env or {}), **(wish.secret_env or {})}
    wanted: dict[str, Any] = {
        "name": wish.name, "gpuTypeId": wish.gpu, "gpuCount": wish.gpu_count, "bidPerGpu": float(wish.bid_usd), "cloudType": wish.cloud_type.upper(),
        "imageName": wish.image, "containerDiskInGb": wish.disk_gib, "ports": ",".join(wish.ports), "dockerArgs": wish.args,
        "env": [{"key": name, "value": value} for name, value in env.items()], "dataCenterId": wish.data_center, "minCudaVersion": wish.min_cuda_version,
        "templateId": wish.template, "containerRegistryAuthId": wish.registry,
    }  # fmt: skip
    if wish.network_volume:
        wanted |= {"networkVolumeId": wish.network_volume, "volumeMountPath": wish.volume_path}
    elif wish.volume_gib:
        wanted |= {"volumeInGb": wish.volume_gib, "volumeMountPath": wish.volume_path}
    return {name: value for name, value in wanted.items() if value not in (None, "", [])}


def _balance(value: Any) -> Decimal:
    """Debts are possible."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise errors.SchemaError(f"RunPod's GraphQL API answered with no balance: {errors.clean_text(value, 40)}")
    return amount


def _live_price(row: dict[str, Any]) -> LivePrice | None:
    gpu = row.get("id")
    if not isinstance(gpu, str) or not gpu.isprintable() or not 0 < len(gpu) <= 200 or gpu == "unknown":
        return None
    price = row.get("lowestPrice")
    lowest: dict[str, Any] = price if isinstance(price, dict) else {}
    counts, memory = lowest.get("availableGpuCounts"), row.get("memoryInGb")
    return LivePrice(
        gpu,
        errors.clean_text(row.get("displayName") or gpu, 100),
        memory if isinstance(memory, int) else 0,
        model.to_money(lowest.get("uninterruptablePrice")) or None,
        model.to_money(lowest.get("minimumBidPrice")) or None,
        errors.clean_text(lowest.get("stockStatus") or "none", 20).lower(),
        tuple(one for one in counts if isinstance(one, int)) if isinstance(counts, list) else (),
    )
