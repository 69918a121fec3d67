# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How RunPod's GraphQL API shows pods, the market and the account: other names, other units, the wanted state instead of the seen one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rehearsal.account import Template, Volume
from rehearsal.api.runpod_views import CGNAT_ADDRESS
from rehearsal.cloud import LOOPBACK, Cloud
from rehearsal.market import CLOUDS, Market
from rehearsal.market_data import DATA_CENTERS, GpuRow
from rehearsal.records import LIVE, Pod
from rehearsal.times import now

STOCK = {"LOW": "Low", "MEDIUM": "Medium", "HIGH": "High"}
LEVELS = ["LOW", "MEDIUM", "HIGH"]
SPEND_LIMIT = 80


def number(amount: Decimal | str | None) -> float | None:
    return None if amount is None else float(amount)


def show_gpu_type(market: Market, row: GpuRow) -> dict[str, Any]:
    def lowest(info: Any, input: dict[str, Any] | None = None) -> dict[str, Any] | None:
        return lowest_price(market, row, input or {"gpuCount": 1})

    secure, community = (number(market.price(row.id, cloud)) for cloud in CLOUDS)
    return {
        "id": row.id,
        "displayName": row.name,
        "manufacturer": "AMD" if row.id.startswith("AMD") else "unknown" if row.id == "unknown" else "Nvidia",
        "memoryInGb": row.memory_gib,
        "cudaCores": 0,
        "maxGpuCount": row.max_count,
        "secureCloud": secure is not None,
        "communityCloud": community is not None,
        "securePrice": secure,
        "communityPrice": community,
        "secureSpotPrice": number(market.spot_price(row.id, "SECURE")),
        "communitySpotPrice": number(market.spot_price(row.id, "COMMUNITY")),
        "lowestPrice": lowest,
    }


def lowest_price(market: Market, row: GpuRow, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Nothing for a GPU that nobody sells; without stock an object whose prices are null."""
    secure, center, count = wanted.get("secureCloud"), wanted.get("dataCenterId"), wanted["gpuCount"]
    clouds = [cloud for cloud in CLOUDS if secure is None or (cloud == "SECURE") is secure]
    if not any(market.price(row.id, cloud) for cloud in CLOUDS):
        return None
    stocked = [cloud for cloud in clouds if market.price(row.id, cloud) and market.availability(row.id, cloud, center, count) != "NONE"]
    free = max((market.free(row.id, one, cloud) for cloud in stocked for one in ([center] if center else [dc.id for dc in DATA_CENTERS])), default=0)
    spot = [price for cloud in stocked if (price := market.spot_price(row.id, cloud)) is not None]
    full = [price for cloud in stocked if (price := market.price(row.id, cloud)) is not None]
    return {
        "gpuName": row.name,
        "gpuTypeId": row.id,
        "minimumBidPrice": number(min(spot, default=None)),
        "uninterruptablePrice": number(min(full, default=None)),
        "stockStatus": STOCK.get(max((market.availability(row.id, cloud, center, count) for cloud in stocked), key=LEVELS.index, default="")),
        "maxGpuCount": row.max_count,
        "availableGpuCounts": [one for one in range(1, row.max_count + 1) if one <= free],
        "minVcpu": 8 * count,
        "minMemory": 31 * count,
        "supportPublicIp": True,
        "compliance": [],
    }


def show_data_center(market: Market, row: Any) -> dict[str, Any]:
    levels = {gpu_id: market.availability(gpu_id, None, row.id) for gpu_id in market.rows}
    gpus = [{"gpuTypeId": gpu_id, "displayName": market.rows[gpu_id].name, "stockStatus": STOCK.get(level), "available": level != "NONE"}
            for gpu_id, level in levels.items() if level != "NONE"]  # fmt: skip
    return {"id": row.id, "name": row.name, "location": row.region, "storageSupport": bool(row.volume_types), "gpuAvailability": gpus}


def show_pod(cloud: Cloud, pod: Pod) -> dict[str, Any]:
    live = pod.status in (*LIVE, "ERROR")
    name = cloud.market.rows[pod.gpu_id].name if pod.gpu_id else "unknown"
    started = pod.started_at if live else None
    return {
        "id": pod.id,
        "name": pod.name,
        # What is wanted, at once; only `runtime` tells whether it is so.
        "desiredStatus": "RUNNING" if live else "EXITED",
        "lastStatusChange": pod.note,
        "imageName": pod.image,
        "env": [f"{key}={value}" for key, value in pod.env.items()],
        "ports": ",".join(pod.ports),
        "dockerArgs": pod.args,
        "costPerHr": float(pod.rate) if live else 0.0,
        "adjustedCostPerHr": float(pod.rate) if live else 0.0,
        "gpuCount": pod.gpu_count,
        "vcpuCount": pod.vcpu_count or 8 * pod.gpu_count,
        "memoryInGb": 31 * max(1, pod.gpu_count),
        "containerDiskInGb": pod.disk_gib,
        "volumeInGb": (pod.persistent or {}).get("size", 0),
        "volumeMountPath": pod.kept_path,
        "networkVolumeId": (pod.network or {}).get("volumeId"),
        "machineId": pod.machine_id,
        "podType": "INTERRUPTABLE" if pod.bid is not None else "RESERVED",
        "templateId": pod.template,
        "uptimeSeconds": int(now() - started) if started else 0,
        "lowestBidPriceToResume": number(cloud.market.spot_price(pod.gpu_id, pod.cloud)) if pod.bid is not None and pod.gpu_id else None,
        "locked": pod.locked,
        "machine": {
            "gpuDisplayName": name, "gpuTypeId": pod.gpu_id, "location": pod.data_center, "dataCenterId": pod.data_center,
            "podHostId": f"{pod.id}-{pod.proxy_suffix}", "secureCloud": pod.cloud == "SECURE",
        },
        "runtime": show_runtime(pod),
    }  # fmt: skip


def show_runtime(pod: Pod) -> dict[str, Any] | None:
    if pod.status != "RUNNING" or not pod.runtime_ready or pod.started_at is None:
        return None
    ports = []
    for one in pod.ports:
        private, _mark, kind = one.partition("/")
        ssh = one == "22/tcp"
        ports.append(
            {"ip": LOOPBACK if ssh else CGNAT_ADDRESS, "isIpPublic": ssh, "privatePort": int(private), "publicPort": pod.port if ssh else 60_000, "type": kind}
        )
    gpus = [{"id": f"GPU-{pod.id}-{index}", "gpuUtilPercent": 0, "memoryUtilPercent": 0} for index in range(pod.gpu_count)]
    return {"uptimeInSeconds": int(now() - pod.started_at), "ports": ports, "gpus": gpus, "container": {"cpuPercent": 1, "memoryPercent": 2}}


def show_template(one: Template) -> dict[str, Any]:
    persistent = one.mounts.get("persistent") or {}
    return {
        "id": one.id,
        "name": one.name,
        "imageName": one.image,
        "dockerArgs": one.args,
        "containerDiskInGb": one.disk,
        "volumeInGb": persistent.get("size", 0),
        "volumeMountPath": persistent.get("path"),
        "ports": ",".join(one.ports),
        "env": [{"key": key, "value": value} for key, value in one.env.items()],
        "isServerless": one.serverless,
        "isPublic": one.public,
        "readme": one.readme,
        "startSsh": one.start_ssh,
        "startJupyter": one.start_jupyter,
        "containerRegistryAuthId": one.registry,
        "category": one.category,
    }


def show_volume(one: Volume) -> dict[str, Any]:
    return {"id": one.id, "name": one.name, "size": one.size, "dataCenterId": one.data_center}


def show_user(cloud: Cloud, account: str) -> dict[str, Any]:
    own = cloud.belongings
    report = cloud.meter.report()
    burning = sum((Decimal(one["rate_usd_per_hour"]) for kind in ("pods", "volumes") for one in report[kind].values()), Decimal(0))
    return {
        "id": f"user_{account}",
        "email": f"{account}@example.com",
        "clientBalance": float(cloud.balance()),
        "currentSpendPerHr": round(float(burning), 4),
        "spendLimit": SPEND_LIMIT,
        "pubKey": "\n".join(own.ssh_keys(account)),
        "networkVolumes": [show_volume(one) for one in own.own_volumes(account)],
        "containerRegistryCreds": [{"id": one.id, "name": one.name} for one in own.own_registries(account)],
        "podTemplates": [show_template(one) for one in own.own_templates(account)],
        "pods": [show_pod(cloud, pod) for pod in cloud.listed(account)],
    }
