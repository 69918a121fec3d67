# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What RunPod's GraphQL queries and mutations do. Each method bears the name of its field."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from graphql import GraphQLError
from starlette.requests import Request

from rehearsal.account import Registry, Template, Volume
from rehearsal.api.graphql_views import show_data_center, show_gpu_type, show_pod, show_template, show_user, show_volume
from rehearsal.api.runpod import RunPodApi
from rehearsal.api.runpod_body import read_create, with_template
from rehearsal.api.runpod_errors import GENERIC, HOST_FULL, NO_DISK, NO_SPOT, SPOT_AS_ON_DEMAND, TEMPLATE_IN_USE, VOLUME_IN_USE, ProblemError
from rehearsal.api.runpod_views import data_center
from rehearsal.cloud import Cloud, NoCapacityError, WrongStateError, new_id
from rehearsal.keys import Key
from rehearsal.market_data import DATA_CENTERS
from rehearsal.records import Pod

Input = dict[str, Any]


def refuse(message: str = GENERIC, code: str = "") -> GraphQLError:
    return GraphQLError(message, extensions={"code": code or ("INTERNAL_SERVER_ERROR" if message == GENERIC else "RUNPOD")})


def translated(error: ProblemError) -> GraphQLError:
    """Bad input is told in general words; a want of machines, money or rights as it is."""
    return refuse(error.detail if error.status in (400, 402, 409) or error.status >= 500 else GENERIC)


class Root:
    def __init__(self, cloud: Cloud, rest: RunPodApi, request: Request, key: Key | None) -> None:
        self.cloud = cloud
        self.own = cloud.belongings
        self.rest = rest
        self.request = request
        self.key = key

    def _account(self) -> str:
        if self.key is None:
            raise refuse("Unauthorized", "UNAUTHENTICATED")
        if self.key.pod_id is not None:
            raise refuse("Forbidden", "FORBIDDEN")
        return self.key.account

    # -- queries -----------------------------------------------------------

    def gpuTypes(self, info: Any, input: Input | None = None) -> list[Input]:
        wanted = [one for one in [(input or {}).get("id"), *((input or {}).get("ids") or [])] if one]
        return [show_gpu_type(self.cloud.market, row) for row in self.cloud.market.rows.values() if not wanted or row.id in wanted]

    def dataCenters(self, info: Any) -> list[Input]:
        return [show_data_center(self.cloud.market, row) for row in DATA_CENTERS]

    def myself(self, info: Any) -> Input | None:
        """Without a key: nothing, and no error."""
        return None if self.key is None else show_user(self.cloud, self._account())

    def pod(self, info: Any, input: Input | None = None) -> Input | None:
        if self.key is None or (self.key.pod_id is not None and self.key.pod_id != (input or {}).get("podId")):
            return None
        pod_id = (input or {}).get("podId", "")
        found = self.cloud.find(pod_id, self.key.account)
        if found is None and self.cloud.faults.peek("terminated_shown"):
            found = self.cloud.pods.get(pod_id)
        return None if found is None else show_pod(self.cloud, found)

    # -- pods --------------------------------------------------------------

    def podFindAndDeployOnDemand(self, info: Any, input: Input | None = None) -> Input:
        return self._deploy(input or {})

    def podRentInterruptable(self, info: Any, input: Input) -> Input:
        return self._deploy(input, Decimal(str(input["bidPerGpu"])))

    def deployCpuPod(self, info: Any, input: Input | None = None) -> Input:
        return self._deploy(input or {}, cpu=True)

    def _deploy(self, wanted: Input, bid: Decimal | None = None, cpu: bool = False) -> Input:
        self._account()
        assert self.key is not None
        clouds = {"ALL": ["SECURE", "COMMUNITY"], None: ["SECURE", "COMMUNITY"]}.get(wanted.get("cloudType"), [wanted.get("cloudType")])
        template = self._template(wanted.get("templateId"))
        body = rest_body(wanted, template, cpu)
        for number, kind in enumerate(clouds):
            try:
                checked = read_create(with_template({**body, "cloud": kind}, template) if template else {**body, "cloud": kind})
                pod = self.rest.place(self.request, checked, self.key, lambda new: self._as_spot(new, bid, template))
                return show_pod(self.cloud, pod)
            except ProblemError as error:
                if number + 1 == len(clouds):
                    raise translated(error) from error
        raise refuse()

    def _as_spot(self, pod: Pod, bid: Decimal | None, template: Template | None) -> None:
        """A pod over GraphQL remembers its template; a spot pod costs its bid, which must reach the lowest price."""
        pod.template = template.id if template else None
        if bid is None or pod.gpu_id is None:
            return
        lowest = self.cloud.market.spot_price(pod.gpu_id, pod.cloud)
        if lowest is None or bid < lowest:
            raise ProblemError(400, NO_SPOT)
        pod.bid, pod.rate = format(bid, "f"), format(bid * pod.gpu_count, "f")

    def _template(self, template_id: str | None) -> Template | None:
        if not template_id:
            return None
        found = self.own.readable_template(template_id, self._account())
        if found is None or found.serverless:
            raise refuse()
        return found

    def _find(self, pod_id: str, message: str = "pod not found") -> Pod:
        if self.key is None:
            raise refuse("Unauthorized", "UNAUTHENTICATED")
        found = self.cloud.find(pod_id, self.key.account)
        if found is None or self.key.pod_id not in (None, pod_id):
            raise refuse(message, "POD_NOT_FOUND")
        if found.locked:
            raise refuse("This pod is locked.")
        return found

    async def podStop(self, info: Any, input: Input) -> Input:
        return await self._act(self._find(input["podId"]), self.cloud.stop)

    async def podResume(self, info: Any, input: Input) -> Input:
        pod = self._find(input["podId"])
        if pod.bid is not None:
            raise refuse(SPOT_AS_ON_DEMAND)
        return await self._act(pod, self.cloud.start)

    async def podBidResume(self, info: Any, input: Input) -> Input:
        pod = self._find(input["podId"])
        bid = Decimal(str(input["bidPerGpu"]))
        lowest = self.cloud.market.spot_price(pod.gpu_id, pod.cloud) if pod.gpu_id else None
        if pod.bid is None or lowest is None:
            raise refuse()
        if bid < lowest:
            raise refuse(NO_SPOT)
        pod.bid, pod.rate = format(bid, "f"), format(bid * pod.gpu_count, "f")
        return await self._act(pod, self.cloud.start)

    async def podTerminate(self, info: Any, input: Input) -> None:
        try:
            await self.rest.terminate(self.request, self._find(input["podId"], "pod not found to terminate"))
        except ProblemError as error:
            raise translated(error) from error

    async def _act(self, pod: Pod, act: Callable[[Pod], Any]) -> Input:
        try:
            await act(pod)
        except NoCapacityError as error:
            raise refuse(HOST_FULL) from error
        except WrongStateError as error:
            raise refuse() from error
        return show_pod(self.cloud, pod)

    # -- belongings --------------------------------------------------------

    def saveTemplate(self, info: Any, input: Input | None = None) -> Input:
        account, wanted = self._account(), input or {}
        found = self.own.templates.get(wanted.get("id") or "")
        if wanted.get("id") and (found is None or found.account != account):
            raise refuse()
        if not wanted.get("name") or not wanted.get("imageName"):
            raise refuse()
        one = found or Template(new_id(10), account, "", "", disk=0)
        names = {"name": "name", "imageName": "image", "dockerArgs": "args", "containerDiskInGb": "disk", "isServerless": "serverless", "isPublic": "public",
                 "readme": "readme", "startSsh": "start_ssh", "startJupyter": "start_jupyter", "category": "category"}  # fmt: skip
        for name, attribute in names.items():
            if wanted.get(name) is not None:
                setattr(one, attribute, wanted[name])
        if wanted.get("ports") is not None:
            one.ports = split_ports(wanted["ports"])
        if wanted.get("env") is not None:
            one.env = {pair["key"]: pair["value"] for pair in wanted["env"]}
        if wanted.get("volumeInGb"):
            one.mounts = {"persistent": {"size": wanted["volumeInGb"], "path": wanted.get("volumeMountPath") or "/workspace"}}
        one.registry = wanted.get("containerRegistryAuthId") or one.registry
        self.own.templates[one.id] = one
        self.own.save()
        return show_template(one)

    def deleteTemplate(self, info: Any, templateName: str | None = None) -> None:
        account = self._account()
        found = [one for one in self.own.own_templates(account) if one.name == templateName]
        if not found:
            raise refuse("Template not found.")
        if any(pod.template == found[0].id for pod in self.cloud.listed(account)):
            raise refuse(TEMPLATE_IN_USE)
        del self.own.templates[found[0].id]
        self.own.save()

    def saveRegistryAuth(self, info: Any, input: Input) -> Input:
        account = self._account()
        if input["name"] in {one.name for one in self.own.own_registries(account)}:
            raise refuse()
        one = Registry(new_id(10), account, input["name"], input["username"], input["password"])
        self.own.registries[one.id] = one
        self.own.save()
        return {"id": one.id, "name": one.name}

    def updateRegistryAuth(self, info: Any, input: Input) -> Input:
        one = self._registry(input["id"])
        one.username, one.password = input["username"], input["password"]
        self.own.save()
        return {"id": one.id, "name": one.name}

    def deleteRegistryAuth(self, info: Any, registryAuthId: str | None = None) -> bool:
        """One in use is refused in words that tell nothing."""
        one = self._registry(registryAuthId or "")
        if any(pod.registry == one.id for pod in self.cloud.listed(one.account)):
            raise refuse()
        del self.own.registries[one.id]
        self.own.save()
        return True

    def _registry(self, registry_id: str) -> Registry:
        account, found = self._account(), self.own.registries.get(registry_id)
        if found is None or found.account != account:
            raise refuse()
        return found

    def createNetworkVolume(self, info: Any, input: Input) -> Input:
        account, row = self._account(), data_center(input["dataCenterId"])
        if row is None or not row.volume_types or not 10 <= input["size"] <= 4096:
            raise refuse()
        one = Volume(new_id(10), account, input["name"], input["size"], row.id)
        self.own.keep_volume(one)
        return show_volume(one)

    def updateNetworkVolume(self, info: Any, input: Input) -> Input:
        one = self._volume(input["id"])
        if input.get("size") is not None and not one.size <= input["size"] <= 4096:
            raise refuse()
        one.size, one.name = input.get("size") or one.size, input.get("name") or one.name
        self.own.keep_volume(one)
        return show_volume(one)

    def deleteNetworkVolume(self, info: Any, input: Input) -> bool:
        one = self._volume(input["id"])
        if self.cloud.pods_with_volume(one.id):
            raise refuse(VOLUME_IN_USE)
        self.cloud.drop_volume(one)
        return True

    def _volume(self, volume_id: str) -> Volume:
        account, found = self._account(), self.own.volumes.get(volume_id)
        if found is None or found.account != account:
            raise refuse()
        return found

    def updateUserSettings(self, info: Any, input: Input | None = None) -> Input:
        """All keys in one text, a line each; what is not in it is gone."""
        account, text = self._account(), (input or {}).get("pubKey")
        if text is not None:
            self.own.set_ssh_keys(account, [line.strip() for line in text.splitlines() if line.strip()])
        return show_user(self.cloud, account)


def split_ports(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def rest_body(wanted: Input, template: Template | None, cpu: bool) -> Input:
    """The same wish in the words of REST v2. Times at which to stop or end are taken and never kept."""
    body: Input = {"name": wanted.get("name") or "my pod", "startSsh": bool(wanted.get("startSsh"))}
    names = {"imageName": "image", "dockerArgs": "args", "containerDiskInGb": "disk", "containerRegistryAuthId": "registry"}
    body |= {new: wanted[old] for old, new in names.items() if wanted.get(old)}
    # A template without a disk size does not help either.
    if not body.get("disk") and not (template and template.disk):
        raise refuse(NO_DISK)
    if wanted.get("ports"):
        body["ports"] = split_ports(wanted["ports"])
    body["env"] = {pair["key"]: pair["value"] for pair in wanted.get("env") or []}
    if wanted.get("dataCenterId"):
        body["dataCenterIds"] = [wanted["dataCenterId"]]
    path = wanted.get("volumeMountPath") or "/workspace"
    if wanted.get("networkVolumeId"):
        body["mounts"] = {"network": [{"volumeId": wanted["networkVolumeId"], "path": path}]}
    elif wanted.get("volumeInGb"):
        body["mounts"] = {"persistent": {"size": wanted["volumeInGb"], "path": path}}
    if cpu:
        flavor, _mark, size = str(wanted.get("instanceId") or "cpu3c-2-4").partition("-")
        return {**body, "cpu": {"id": flavor, "vcpuCount": int(size.partition("-")[0] or 2)}}
    cuda = {name: wanted[name] for name in ("allowedCudaVersions", "minCudaVersion") if wanted.get(name)}
    return {**body, "gpu": {"id": wanted.get("gpuTypeId") or "none", "count": wanted.get("gpuCount") or 1, **cuda}}
