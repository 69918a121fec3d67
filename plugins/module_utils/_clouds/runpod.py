# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod over REST v2: maps its wire to the model, nothing else.

Source: RunPod's API reference, version 2 (openapi.json, info.version 2.0.0). Where the service
is known to differ from its description, the comment says how.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Account, Cloud, GpuType
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_wire import (
    MOST_VARIABLES,
    as_dict,
    as_gib,
    as_text,
    log_line,
    pages,
    plain_id,
    read_pod,
    rows_of,
    start_line,
)
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
# A refusal for want of machines is a 400 like any other; only its text tells.
_CAPACITY = re.compile(
    r"no longer any instances available|no instances (currently )?available|not enough free gpus|does not have the resources to deploy", re.IGNORECASE
)
_IS_SPOT = re.compile(r"cannot resume a spot pod", re.IGNORECASE)
# What a training image of the chess bot was started with; only for who asks for it (runpod.preset_env).
PRESET_ENV = {"START_SSHD": "1", "START_JUPYTER": "0", "START_INFERENCE_API": "0", "START_HF_WATCH": "0", "START_IDLE_WATCHDOG": "0"}
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
        self._no_live_prices: errors.CloudError | None = None

    def check(self) -> None:
        try:
            self._http.get("/pods", {"limit": "1"})
        except errors.Unauthorized as err:
            raise errors.Unauthorized(f"RunPod does not know the key (from {self.key_source}): {err.message}", hint=KEY.hint, **err.details) from err
        except errors.Forbidden as err:
            raise self._forbidden(err) from err

    def clock_ahead(self) -> float | None:
        before = model.utc_now()
        said = self._http.get("/pods", {"limit": "1"}).date
        after = model.utc_now()
        try:
            theirs = parsedate_to_datetime(said or "")
        except ValueError:
            return None
        return (before + (after - before) / 2 - theirs).total_seconds() - 0.5

    def may_write(self) -> bool:
        """Stops a pod that nobody has: a key that may write hears that there is none, another that it may not."""
        try:
            self._act("podcycle0doctor", "stop")
        except errors.Forbidden:
            return False
        except errors.NotFound:
            pass
        return True

    def _forbidden(self, err: errors.Forbidden) -> errors.Forbidden:
        return errors.Forbidden(
            f"RunPod knows the key (from {self.key_source}) but it lacks the right: {err.message}",
            hint="give the key Read/Write access to api.runpod.io in RunPod's console (Settings, API Keys)",
            **err.details,
        )

    def gpu_types(self) -> list[GpuType]:
        return [GpuType(row["id"], as_text(row.get("name")) or row["id"], as_gib(row.get("memory"))) for row in self._catalog({})]

    def offers(self, gpu_count: int, *, spot: bool, options: dict[str, object]) -> list[model.Offer]:
        wanted = str(options.get("cloud_type") or "secure")
        if spot:
            return self._spot.offers(self._graphql(), gpu_count, wanted)
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
            rows = rows_of(self._http.get("/catalog/gpus", query or None).body, "gpus")
        # The catalog lists a GPU named "unknown". An id goes back to the cloud as it came, so one that cannot be shown is left out.
        return [row for row in rows if isinstance(row.get("id"), str) and plain_id(row["id"]) and row["id"] != "unknown"]

    @staticmethod
    def _offer(row: dict[str, Any], kind: str, gpu_count: int) -> model.Offer | None:
        price = model.to_money(as_dict(row.get("price")).get(kind))
        most = row.get("maxCount")
        # The largest machine of each cloud; one number for both in older answers.
        most = most.get(kind) if isinstance(most, dict) else most
        if not price or not row.get(kind, True) or (isinstance(most, int) and most < gpu_count):
            return None
        return model.Offer(
            "runpod",
            row["id"],
            as_text(row.get("name")) or row["id"],
            gpu_count,
            as_gib(row.get("memory")),
            price * gpu_count,
            cloud_type=kind,
            availability=(as_text(row.get("availability")) or "unknown").lower(),
        )

    @property
    def _spot(self) -> Any:
        # Few pods are spot pods or come from templates, and every task pays for what it imports.
        from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import runpod_spot

        return runpod_spot

    def _graphql(self, *, patient: bool = True) -> Any:
        from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_graphql import connect_graphql

        http = self._http if patient else replace(self._http, read_tries=1, connect_tries=1, rate_limit_wait_seconds=0.0, timeout_seconds=5.0)
        return connect_graphql(http, self.key_source)

    def prepare(self, wish: model.PodWish) -> model.PodWish:
        if not (wish.options.get("template") or wish.options.get("network_volume")):
            return wish
        prepared: model.PodWish = self._spot.prepare(self._spot.RunPodAccount(self._http), wish)
        return prepared

    def account(self) -> Account | None:
        found: Account = self._graphql().balance()
        return found

    def live_prices(self, gpu_count: int, *, patient: bool = True) -> dict[tuple[str, str], tuple[Decimal | None, str]]:
        if self._no_live_prices is not None:
            raise self._no_live_prices
        graphql = self._graphql(patient=patient)
        try:
            rows = {kind: graphql.live_prices(gpu_count, cloud_type=kind) for kind in _CLOUD_TYPES}
        except (errors.Forbidden, errors.Unauthorized, errors.ProxyRefused, errors.SchemaError) as err:
            # It will not be told otherwise a moment later.
            self._no_live_prices = err
            raise
        return {(gpu, kind): (row.spot_usd and row.spot_usd * gpu_count, row.stock) for kind, found in rows.items() for gpu, row in found.items()}

    def create(self, wish: model.PodWish, stamp: model.Stamp, offer: model.Offer) -> model.Pod:
        self._http.secrets = tuple(wish.secret_env.values())
        if offer.spot:
            body = self._body(wish, stamp, offer)
            return self._created(self._spot.create(self._graphql(), wish, stamp, offer, body["env"], body.get("args", "")))
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

    def _created(self, pod_id: str) -> model.Pod:
        """The pod behind an id; one that cannot be read exists all the same."""
        try:
            return replace(self.get(pod_id), spot=True)
        except errors.CloudError as err:
            err.effect = errors.EFFECT_UNKNOWN
            raise

    @staticmethod
    def _body(wish: model.PodWish, stamp: model.Stamp, offer: model.Offer) -> dict[str, Any]:
        options = wish.options
        # RunPod itself fills in a secret of the account, so that its value passes neither here nor through what the API shows.
        referred = {name: f"{{{{ RUNPOD_SECRET_{secret} }}}}" for name, secret in (options.get("secrets") or {}).items()}
        env = {**(PRESET_ENV if options.get("preset_env") else {}), **wish.env, **wish.secret_env, **referred}
        if wish.ssh_public_key:
            # RunPod's images read PUBLIC_KEY; its documents name SSH_PUBLIC_KEY.
            env.update(PUBLIC_KEY=wish.ssh_public_key.strip(), SSH_PUBLIC_KEY=wish.ssh_public_key.strip())
        # RunPod does not tell a container which of its ports are rented; the training image asks for it by this name.
        if wish.ports and len(env) < MOST_VARIABLES:
            env.setdefault("PODCYCLE_PORTS", " ".join(wish.ports))
        body: dict[str, Any] = {
            "name": str(stamp),
            **({"image": wish.image} if wish.image else {}),
            **({"templateId": str(options["template"])} if options.get("template") else {}),
            # Left out, the count matches no machine, although the schema has a default.
            "gpu": {"id": offer.gpu, "count": offer.gpu_count},
            "cloud": _CLOUD_TYPES[offer.cloud_type],
            "disk": wish.disk_gib,
            "ports": list(wish.ports),
            "env": env,
        }
        command = start_line(options.get("start_command") or [], install_sshd=bool(options.get("install_sshd")))
        if command:
            body["args"] = command
        if options.get("registry"):
            body["registry"] = str(options["registry"])
        if wish.volume_gib:
            body["mounts"] = {"persistent": {"size": wish.volume_gib, "path": wish.volume_path}}
        if options.get("network_volume"):
            body["mounts"] = {"network": [{"volumeId": str(options["network_volume"]), "path": wish.volume_path}]}
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

    def last_words(self, pod_id: str) -> tuple[str, ...]:
        return self.logs(pod_id, source="system", tail=8)

    def logs(self, pod_id: str, *, source: str, tail: int, seconds: float = 3.0) -> tuple[str, ...]:
        """The last lines that RunPod (source system) or the container wrote; the stream never ends by itself, so silence ends it."""
        path = f"/pods/{_safe_id(pod_id)}/logs"
        events = self._http.events(path, {"source": source, "tail": str(tail)}, seconds=seconds, most=tail)
        return tuple(line for event in events if (line := log_line(event)))

    def start_price(self, pod: model.Pod, max_usd_per_hour: Decimal | None) -> Decimal | None:
        price: Decimal = self._spot.price_again(self._graphql(), pod, max_usd_per_hour)
        return price

    def start(self, pod_id: str, max_usd_per_hour: Decimal | None = None) -> None:
        try:
            self._act(pod_id, "start")
        except (errors.InvalidRequest, errors.Conflict) as err:
            if not _IS_SPOT.search(str(err.details.get("said", ""))):
                raise
            self._spot.bid_again(self._graphql(), self.get(pod_id), max_usd_per_hour)

    def restart(self, pod_id: str) -> None:
        self._act(pod_id, "restart")

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


def _safe_id(pod_id: str) -> str:
    if not model.POD_ID.match(pod_id):
        raise errors.UsageError(f"{errors.clean_text(pod_id, 80)!r} is not a pod id")
    return pod_id
