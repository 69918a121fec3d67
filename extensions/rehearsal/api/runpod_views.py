# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How RunPod REST v2 shows pods, catalogs and bills."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from rehearsal.account import Template, Volume
from rehearsal.cloud import LOOPBACK, Cloud
from rehearsal.market import Market
from rehearsal.market_data import CUDA_VERSIONS, DATA_CENTERS, DataCenterRow, GpuRow
from rehearsal.meter import Interval
from rehearsal.records import Pod
from rehearsal.times import now, parse_rfc3339, rfc3339

ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
}
# RunPod shows http ports at addresses of the carrier-grade NAT range.
CGNAT_ADDRESS = "100.65.11.7"


def show_pod(pod: Pod, fresh: bool = False) -> dict[str, Any]:
    """A pod as the API answers it; right after create `runtime` is an empty object."""
    running = pod.status == "RUNNING"
    gpu = {"id": pod.gpu_id, "count": pod.gpu_count, "vcpuCount": 8 * pod.gpu_count, "memory": 31 * pod.gpu_count} if pod.gpu_id else None
    body: dict[str, Any] = {
        "id": pod.id,
        "name": pod.name,
        "status": pod.status,
        "actions": ACTIONS.get(pod.status, []),
        "image": pod.image,
        "args": pod.args,
        "disk": pod.disk_gib,
        "mounts": pod.mounts,
        "ports": pod.ports,
        "env": pod.env,
        "registry": pod.registry,
        "cloud": pod.cloud,
        "dataCenterId": None if pod.status == "PROVISIONING" and pod.started_at is None else pod.data_center,
        "cudaVersion": CUDA_VERSIONS[-1] if pod.started_at is not None else None,
        "ssh": show_ssh(pod, running),
        "template": pod.template,
        "cost": float(Decimal(pod.rate)) if pod.status not in ("EXITED", "ERROR", "TERMINATED") else 0.0,
        "locked": pod.locked,
        "globalNetworking": {"enabled": pod.global_networking},
        "runtime": {} if fresh else show_runtime(pod, running),
        "createdAt": rfc3339(pod.created_at),
        "startedAt": rfc3339(pod.started_at),
    }
    body |= {"gpu": gpu} if gpu else {"cpu": {"id": pod.cpu_id, "vcpuCount": pod.vcpu_count}}
    return body


def show_ssh(pod: Pod, running: bool) -> dict[str, Any]:
    user = f"{pod.id}-{pod.proxy_suffix}"
    proxy = {"host": "ssh.runpod.io", "port": 22, "username": user, "command": f"ssh {user}@ssh.runpod.io -i ~/.ssh/id_ed25519"}
    # After a start the old port is shown for a while.
    port = pod.port if pod.runtime_ready else pod.old_port
    direct = None
    if running and pod.wants_ssh and port is not None:
        direct = {"host": LOOPBACK, "port": port, "username": "root", "command": f"ssh root@{LOOPBACK} -p {port} -i ~/.ssh/id_ed25519"}
    return {"proxy": proxy, "direct": direct}


def lead_to_gateway(body: dict[str, Any], port: int) -> None:
    """Where the rehearsal cloud's own gateway listens."""
    proxy = body["ssh"]["proxy"]
    proxy.update(host=LOOPBACK, port=port, command=f"ssh {proxy['username']}@{LOOPBACK} -p {port} -i ~/.ssh/id_ed25519")


def show_runtime(pod: Pod, running: bool) -> dict[str, Any] | None:
    if not running or not pod.runtime_ready or pod.started_at is None:
        return None
    ports = []
    for one in pod.ports:
        number, _mark, kind = one.partition("/")
        if one == "22/tcp":
            ports.append({"private": 22, "public": pod.port, "type": "tcp", "ip": LOOPBACK})
        else:
            ports.append({"private": int(number), "public": None, "type": kind, "ip": CGNAT_ADDRESS if kind == "http" else None})
    gpus = [{"util": 0, "memoryUtil": 0} for _turn in range(pod.gpu_count if pod.gpu_id else 0)]
    uptime = now() - pod.started_at
    if pod.ssh_fault and pod.ssh_fault.startswith("crash_loop "):
        uptime %= float(pod.ssh_fault.split()[1])
    return {"uptime": int(uptime), "gpus": gpus, "cpu": {"util": 1}, "memory": {"util": 2}, "ports": ports}


def price(market: Market, gpu_id: str, cloud: str) -> float | None:
    amount = market.price(gpu_id, cloud)
    return None if amount is None else float(amount)


def show_gpu(market: Market, row: GpuRow, availability: bool, cloud: str | None, count: int) -> dict[str, Any]:
    secure, community = price(market, row.id, "SECURE"), price(market, row.id, "COMMUNITY")
    body: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "pool": None,
        "manufacturer": "AMD" if row.id.startswith("AMD") else "UNKNOWN" if row.id == "unknown" else "NVIDIA",
        "memory": row.memory_gib,
        "secure": secure is not None,
        "community": community is not None,
        # Where it is not sold the schema still wants a number; `serverless` is left out.
        "price": {"secure": secure or 0, "community": community or 0},
        "maxCount": {"secure": row.max_count if secure else 0, "community": row.max_count if community else 0},
    }
    if availability:
        body["availability"] = market.availability(row.id, cloud, None, count)
        levels = {one: market.availability(row.id, cloud, one, count) for one in market.centers_with(row.id, cloud, count)}
        body["dataCenters"] = [{"id": one, "name": one, "availability": level} for one, level in levels.items()]
        body["cudaVersions"] = [{"version": version, "available": body["availability"] != "NONE"} for version in CUDA_VERSIONS]
    return body


def show_data_center(market: Market, row: DataCenterRow, gpus: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "region": row.region,
        "networkVolumeTypes": list(row.volume_types),
        "compliance": [],
        "globalNetwork": row.region != "OCEANIA",
    }
    if gpus:
        body["gpuAvailability"] = [
            {"id": gpu_id, "name": market.rows[gpu_id].name, "availability": market.availability(gpu_id, None, row.id)}
            for gpu_id in market.rows
            if market.availability(gpu_id, None, row.id) != "NONE"
        ]
    return body


def show_template(one: Template) -> dict[str, Any]:
    fields = ("id", "name", "image", "args", "disk", "mounts", "ports", "env", "registry", "serverless", "public", "category")
    body = {name: getattr(one, name) for name in fields}
    return {**body, "startSsh": one.start_ssh, "startJupyter": one.start_jupyter, "allowedCudaVersions": one.cuda}


def show_volume(one: Volume) -> dict[str, Any]:
    return {"id": one.id, "name": one.name, "size": one.size, "dataCenter": one.data_center, "type": one.kind}


def data_center(center_id: str) -> DataCenterRow | None:
    return next((row for row in DATA_CENTERS if row.id == center_id), None)


def bucket_start(stamp: float, size: str) -> float:
    moment = dt.datetime.fromtimestamp(stamp, tz=dt.timezone.utc).replace(minute=0, second=0, microsecond=0)
    if size != "hour":
        moment = moment.replace(hour=0)
    if size == "week":
        moment -= dt.timedelta(days=moment.weekday())
    elif size == "month":
        moment = moment.replace(day=1)
    elif size == "year":
        moment = moment.replace(month=1, day=1)
    return moment.timestamp()


def bucket_end(start: float, size: str) -> float:
    days = {"hour": 0, "day": 1, "week": 7, "month": 32, "year": 367}[size]
    return start + 3600 if size == "hour" else bucket_start(start + days * 86_400, size)


def show_bill(cloud: Cloud, account: str, pod_id: str | None, size: str, start: str | None, end: str | None, last: int | None) -> list[dict[str, Any]]:
    """Per pod and bucket, newest bucket first."""
    since = parse_rfc3339(start) if start is not None else None
    # There is nothing to bill of days to come, however many are asked for.
    until = min(now(), parse_rfc3339(end)) if end is not None else now()
    records: list[dict[str, Any]] = []
    for one in [pod_id] if pod_id else cloud.meter.pods():
        intervals = cloud.meter.of(one)
        if intervals:
            records.extend(pod_bill(one, intervals, size, since, until))
    records.sort(key=lambda record: str(record["startTime"]), reverse=True)
    if last is not None:
        newest = sorted({record["startTime"] for record in records}, reverse=True)[:last]
        records = [record for record in records if record["startTime"] in newest]
    return records


def pod_bill(pod_id: str, intervals: list[Interval], size: str, since: float | None, until: float) -> Iterable[dict[str, Any]]:
    first = min(one.started for one in intervals)
    start = bucket_start(max(first, since) if since is not None else first, size)
    while start < until:
        stop = bucket_end(start, size)
        low, high = max(start, since or start), min(stop, until)
        sums = {kind: float(sum((one.usd(low, high) for one in intervals if one.kind in kinds), Decimal(0)))
                for kind, kinds in (("gpuAmount", ("gpu",)), ("cpuAmount", ("cpu",)), ("diskAmount", ("disk", "volume")))}  # fmt: skip
        if any(one.seconds(low, high) > 0 for one in intervals):
            yield {"podId": pod_id, "startTime": rfc3339(start), "endTime": rfc3339(stop), "totalAmount": sum(sums.values()), **sums}
        start = stop
