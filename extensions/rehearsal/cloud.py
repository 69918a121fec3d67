# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsed world: rents pods, walks them through their states, stops and ends them."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import string
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from rehearsal import procs
from rehearsal.account import CREDIT, Belongings, Volume
from rehearsal.faults import FaultBook
from rehearsal.keys import KNOWN, Key, pod_key
from rehearsal.logbook import LogBook
from rehearsal.market import Market
from rehearsal.meter import Meter
from rehearsal.pods.process import PodStartError, ProcessPods
from rehearsal.records import LIVE, Pod
from rehearsal.store import Store
from rehearsal.times import javascript_date, now

LOOPBACK = "127.0.0.1"
_CREDIT_LOOK_SECONDS = 0.5
DICE = random.SystemRandom()


@dataclass
class Timings:
    """Seconds at time scale 1."""

    provisioning: float = 0.5
    starting: float = 0.5
    runtime: float = 0.4
    ssh: float = 0.7
    stop_grace: float = 0.5
    preempt_grace: float = 5.0
    # Between the stop of pods that nobody pays for and their end.
    debt_grace: float = 20.0


class NoCapacityError(Exception):
    """There is no free GPU for this."""


class WrongStateError(Exception):
    """The action is not valid in the pod's status."""


def new_id(length: int = 14) -> str:
    return "".join(DICE.choices(string.ascii_lowercase + string.digits, k=length))


class Cloud:
    def __init__(self, store: Store, processes: ProcessPods, faults: FaultBook, process_mode: str = "process") -> None:
        self.store = store
        self.processes = processes
        self.faults = faults
        self.process_mode = process_mode
        self.market = Market(store.load_fact("market"))
        self.meter = Meter(store, store.load_intervals())
        self.belongings = Belongings(store, self.meter)
        self.start_scale = 1.0
        self.time_scale: float = store.load_fact("time_scale") or 1.0
        self.timings = Timings(**(store.load_fact("timings") or {}))
        self.pods: dict[str, Pod] = {pod.id: pod for pod in store.load_pods()}
        self._pod_keys = {pod.pod_key: Key(f"pod:{pod.id}", pod.account, True, True, pod.id) for pod in self.pods.values() if pod.status != "TERMINATED"}
        self.logs = LogBook()
        self._tasks: set[asyncio.Task[None]] = set()
        self._creditor: asyncio.Task[None] | None = None
        self.gateway_port: int | None = None
        self.at_reset: list[Callable[[], None]] = []

    # -- looking up ------------------------------------------------------------

    def key(self, token: str) -> Key | None:
        return KNOWN.get(token) or self._pod_keys.get(token)

    def find(self, pod_id: str, account: str) -> Pod | None:
        pod = self.pods.get(pod_id)
        return pod if pod is not None and pod.account == account and pod.status != "TERMINATED" else None

    def listed(self, account: str) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.account == account and pod.status != "TERMINATED"]

    def balance(self) -> Decimal:
        """What is left of the account's credit."""
        return Decimal(self.belongings.credit) - self.meter.total()

    def broke(self) -> bool:
        """Summing up the meter of ten thousand pods takes a while; nobody spends the credit of the start."""
        return self.belongings.credit != CREDIT and self.balance() <= 0

    def save_credit(self, credit: str) -> None:
        """What the account has paid in; from now on it is looked whether it is spent."""
        self.belongings.credit = credit
        self.belongings.save()
        self.watch_credit()

    def watch_credit(self) -> None:
        if self._creditor is not None:
            self._creditor.cancel()
        self._creditor = asyncio.get_running_loop().create_task(self._collect_debts()) if self.belongings.credit != CREDIT else None

    async def _collect_debts(self) -> None:
        """At zero RunPod stops every pod, and a while later removes it, whatever lies on it."""
        while not self.broke():
            await asyncio.sleep(_CREDIT_LOOK_SECONDS)
        await asyncio.gather(*(self.stop(pod, "Exited by Runpod", 0.0) for pod in list(self.pods.values()) if pod.status in LIVE))
        await asyncio.sleep(self.timings.debt_grace / self.time_scale)
        for pod in list(self.pods.values()):
            await self.remove(pod)

    def pods_with_volume(self, volume_id: str) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.status != "TERMINATED" and (pod.network or {}).get("volumeId") == volume_id]

    # -- changing --------------------------------------------------------------

    def drop_volume(self, volume: Volume) -> None:
        self.belongings.drop_volume(volume)
        self.processes.remove_volume(volume.id)

    def save(self, pod: Pod) -> None:
        self.store.save_pod(pod)

    def set_time_scale(self, scale: float) -> None:
        self.time_scale = scale
        self.store.save_fact("time_scale", scale)

    def set_timings(self, changes: dict[str, float]) -> None:
        self.timings = Timings(**{**asdict(self.timings), **changes})
        self.store.save_fact("timings", asdict(self.timings))

    def save_market(self) -> None:
        self.store.save_fact("market", self.market.state())

    def rent(self, pod: Pod, data_centers: list[str] | None) -> None:
        """Place a new pod and start its walk; NoCapacityError leaves no trace."""
        if pod.gpu_id is not None:
            center = self.market.place(pod.gpu_id, pod.gpu_count, pod.cloud, data_centers)
            if center is None or not self.market.take(pod.gpu_id, pod.gpu_count, center, pod.cloud):
                raise NoCapacityError
            self.save_market()
            pod.data_center = center
            pod.holds_gpu = True
        else:
            pod.data_center = (data_centers or ["EU-RO-1"])[0]
        pod.machine_id = new_id(12)
        pod.proxy_suffix = secrets.token_hex(4)
        pod.process = self.process_mode
        pod.note = f"Rented by User: {javascript_date(pod.created_at)}"
        self.pods[pod.id] = pod
        self._pod_keys[pod.pod_key] = Key(f"pod:{pod.id}", pod.account, True, True, pod.id)
        self._set(pod, "PROVISIONING")
        self.meter.running(pod)
        self._walk(pod)

    def bulk(self, account: str, owner: str, names: list[str], status: str) -> list[str]:
        """Records without a process, for lists of thousands; they hold no stock."""
        moment = now()
        made = [
            Pod(
                new_id(), account, owner, name, "runpod/base:rehearsal", "SECURE", "NVIDIA GeForce RTX 4090", 1, "0.59", 20, moment,
                pod_key(), process="none", ports=["22/tcp"], status=status, data_center="EU-RO-1", machine_id=new_id(12), proxy_suffix=secrets.token_hex(4),
                started_at=moment, runtime_ready=True, port=1, history=[[status, moment]], generation=1,
            )
            for name in names
        ]  # fmt: skip
        self.pods.update({pod.id: pod for pod in made})
        self.store.save_pods(made)
        self.meter.switch_many([(pod, "running" if status in LIVE else "stopped") for pod in made])
        return [pod.id for pod in made]

    async def stop(self, pod: Pod, note: str = "Exited by user", polite_seconds: float | None = None) -> None:
        if pod.status not in LIVE:
            raise WrongStateError
        grace = self.timings.stop_grace if polite_seconds is None else polite_seconds
        self._release_gpu(pod)
        pod.old_port = pod.port
        pod.note = f"{note}: {javascript_date(now())}"
        pod.runtime_ready = False
        pod.generation += 1
        self._set(pod, "EXITED")
        self.meter.stopped(pod)
        await self._end_process(pod, True, grace / self.time_scale)
        if pod.process == "process":
            await self.processes.wipe(pod.id, pod.kept_path)

    async def start(self, pod: Pod) -> None:
        if pod.status not in ("EXITED", "ERROR"):
            raise WrongStateError
        if pod.gpu_id is not None:
            if not self.market.take(pod.gpu_id, pod.gpu_count, pod.data_center or "", pod.cloud):
                raise NoCapacityError
            self.save_market()
            pod.holds_gpu = True
        pod.host_down = False
        self._set(pod, "PROVISIONING")
        self.meter.running(pod)
        self._walk(pod)

    async def restart(self, pod: Pod) -> None:
        if pod.status != "RUNNING":
            raise WrongStateError
        pod.old_port = pod.port
        pod.runtime_ready = False
        pod.generation += 1
        self._set(pod, "STARTING")
        await self._end_process(pod, True, self.timings.stop_grace / self.time_scale)
        if pod.process == "process":
            await self.processes.wipe(pod.id, pod.kept_path)
        self._walk(pod)

    async def terminate(self, pod: Pod) -> None:
        self._release_gpu(pod)
        pod.generation += 1
        pod.ended_at = now()
        pod.note = f"Terminated by user: {javascript_date(pod.ended_at)}"
        pod.runtime_ready = False
        self._pod_keys.pop(pod.pod_key, None)
        self._set(pod, "TERMINATED")
        self.logs.forget(pod.id)
        self.meter.ended(pod)
        await self._end_process(pod, False, 0.0)
        if pod.process == "process":
            await self.processes.remove(pod.id)

    async def preempt(self, pod: Pod) -> None:
        """RunPod takes a spot pod with SIGTERM, and SIGKILL five seconds later."""
        await self.stop(pod, "Outbid", self.timings.preempt_grace)

    async def outbid(self) -> None:
        """Spot pods whose bid no longer reaches the market's."""
        for pod in list(self.pods.values()):
            lowest = self.market.spot_price(pod.gpu_id, pod.cloud) if pod.gpu_id and pod.bid is not None and pod.status in LIVE else None
            if lowest is not None and Decimal(pod.bid or 0) < lowest:
                await self.preempt(pod)

    async def kill_host(self, pod: Pod) -> None:
        """The machine dies without a word: the record still says RUNNING and bills."""
        pod.host_down = True
        pod.runtime_ready = False
        pid, started = pod.pid, pod.pid_started
        pod.pid = pod.pid_started = None
        self.store.save_pod(pod)
        if pid is not None:
            await asyncio.to_thread(procs.kill_tree, pid, started)

    async def remove(self, pod: Pod) -> None:
        """The pod vanishes from the cloud as if it had never been; only the meter remembers it."""
        if pod.status != "TERMINATED":
            await self.terminate(pod)
        self.pods.pop(pod.id, None)
        self.store.delete_pod(pod.id)

    def age(self, pod: Pod, seconds: float) -> None:
        pod.created_at -= seconds
        pod.started_at = None if pod.started_at is None else pod.started_at - seconds
        self.meter.age(pod.id, seconds)
        self.store.save_pod(pod)

    def change_host_key(self, pod: Pod) -> bool:
        return self.processes.change_host_key(pod.pid, pod.pid_started)

    def cut_ssh(self, pod: Pod, seconds: float) -> bool:
        """The pod's SSH is away for so many seconds; its processes go on."""
        pid, started = pod.pid, pod.pid_started
        if not self.processes.cut_ssh(pid, started):
            return False
        asyncio.get_running_loop().call_later(seconds, self.processes.restore_ssh, pid, started)
        return True

    async def reset(self) -> None:
        live = [pod for pod in self.pods.values() if pod.status != "TERMINATED" and pod.process == "process"]
        await asyncio.gather(*(self.terminate(pod) for pod in live))
        self.pods.clear()
        self._pod_keys.clear()
        for volume in list(self.belongings.volumes.values()):
            self.drop_volume(volume)
        self.belongings.clear()
        self.watch_credit()
        self.store.clear()
        self.meter.clear()
        self.faults.clear()
        self.logs.forget()
        self.market = Market()
        self.time_scale = self.start_scale
        self.timings = Timings()
        for clear in self.at_reset:
            clear()

    async def end_all_processes(self) -> None:
        """The whole cloud is switched off: its pods end as if their hosts went down in an orderly way."""
        live = [pod for pod in self.pods.values() if pod.status in LIVE and pod.process == "process"]
        await asyncio.gather(*(self.stop(pod, "Exited by Runpod", 0.0) for pod in live))

    async def wake(self) -> None:
        """After a restart of the server: go on where the records say, and see which pods still live."""
        self.watch_credit()
        for pod in list(self.pods.values()):
            if pod.status not in LIVE or pod.host_down:
                continue
            if pod.process == "process" and pod.status == "RUNNING" and not procs.alive(pod.pid, pod.pid_started):
                await self.stop(pod, "Exited by Runpod", 0.0)
            elif not pod.runtime_ready:
                self._walk(pod)

    # -- inside ----------------------------------------------------------------

    def _set(self, pod: Pod, status: str) -> None:
        pod.status = status
        pod.history.append([status, now()])
        self.logs.status(pod)
        self.store.save_pod(pod)

    def _release_gpu(self, pod: Pod) -> None:
        if pod.holds_gpu and pod.gpu_id is not None:
            self.market.give_back(pod.gpu_id, pod.gpu_count, pod.data_center or "", pod.cloud)
            pod.holds_gpu = False
            self.save_market()

    async def _end_process(self, pod: Pod, polite: bool, grace: float) -> None:
        pid, started = pod.pid, pod.pid_started
        pod.pid = pod.pid_started = pod.port = None
        pod.host_key = pod.host_key_fingerprint = None
        pod.sshd = False
        self.store.save_pod(pod)
        await self.processes.end(pid, started, polite, grace)

    def _walk(self, pod: Pod) -> None:
        pod.generation += 1
        task = asyncio.get_running_loop().create_task(self._boot(pod, pod.generation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pause(self, pod: Pod, generation: int, seconds: float) -> bool:
        await asyncio.sleep(seconds / self.time_scale)
        return pod.generation == generation and pod.status in LIVE

    async def _boot(self, pod: Pod, generation: int) -> None:
        if pod.status == "PROVISIONING":
            if not await self._pause(pod, generation, self.timings.provisioning):
                return
            self._set(pod, "STARTING")
        if pod.status == "STARTING":
            if self.faults.take("image_pull", pod=pod.name):
                # The status never tells it, and it is billed: only this log does.
                self.logs.write(pod, "system", f"error pulling image: manifest for {pod.image} not found: manifest unknown")
                return
            if not await self._pause(pod, generation, self.timings.starting):
                return
            if pod.process == "process" and not await self._launch(pod, generation):
                return
            pod.started_at = now()
            pod.port = pod.port or 1
            self._set(pod, "RUNNING")
        if not await self._pause(pod, generation, self.timings.runtime):
            return
        pod.runtime_ready = True
        pod.old_port = None
        self.store.save_pod(pod)
        if pod.ssh_fault == "wrong_host_key":
            fault = next(iter(self.faults.peek("wrong_host_key")), None)
            delay = float((fault.params if fault else {}).get("seconds", 1.0))
            if await self._pause(pod, generation, delay * self.time_scale + self.timings.ssh):
                self.change_host_key(pod)

    async def _launch(self, pod: Pod, generation: int) -> bool:
        try:
            answer = await self.processes.launch(pod.id, self._spec(pod), self._gpu_facts(pod))
        except (PodStartError, OSError, ValueError) as error:
            pod.note = f"The container did not start: {error}"
            self._set(pod, "ERROR")
            return False
        if pod.generation != generation:
            await self.processes.end(answer["pid"], answer["pid_started"], False, 0.0)
            if pod.status == "TERMINATED":
                await self.processes.remove(pod.id)
            return False
        pod.pid, pod.pid_started, pod.port = answer["pid"], answer["pid_started"], answer["port"]
        pod.host_key, pod.host_key_fingerprint = answer["host_key"], answer["host_key_fingerprint"]
        pod.isolation, pod.sshd = answer["isolation"], answer["sshd"]
        return True

    def _ssh_delay(self, pod: Pod) -> float | None:
        """None: no sshd ever. A given `args` takes the place of the image's start script, and so of its sshd, unless it starts one of them.

        It is read and not run: a process pod would run it on this very machine.
        """
        pod.ssh_fault = None
        if not pod.wants_ssh or (pod.args and not re.search(r"/start\.sh|/sshd\b", pod.args)):
            return None
        loop = self.faults.take("crash_loop", pod=pod.name)
        if loop is not None:
            pod.ssh_fault = f"crash_loop {float(loop.params.get('seconds', 2.0))}"
            self.logs.write(pod, "container", "exec: start: not found")
            self.logs.write(pod, "system", "container exited with 127; starting it again")
            return None
        base = self.timings.ssh / self.time_scale
        if self.faults.take("running_without_ssh", pod=pod.name):
            pod.ssh_fault = "running_without_ssh"
            return None
        slow = self.faults.take("slow_ssh", pod=pod.name)
        if slow is not None:
            pod.ssh_fault = "slow_ssh"
            return base + float(slow.params.get("seconds", 5.0))
        if self.faults.take("wrong_host_key", pod=pod.name):
            pod.ssh_fault = "wrong_host_key"
        return base

    def _spec(self, pod: Pod) -> dict[str, Any]:
        environment = {
            **pod.env,
            "RUNPOD_POD_ID": pod.id,
            "RUNPOD_DC_ID": pod.data_center or "",
            "RUNPOD_GPU_COUNT": str(pod.gpu_count),
            "RUNPOD_CPU_COUNT": str(pod.vcpu_count or 8 * max(1, pod.gpu_count)),
            "RUNPOD_PUBLIC_IP": LOOPBACK,
            "RUNPOD_API_KEY": pod.pod_key,
        }
        keys = self.belongings.ssh_keys(pod.account)
        if pod.start_ssh and keys:
            environment.setdefault("PUBLIC_KEY", "\n".join(keys))
        if pod.network:
            environment["RUNPOD_VOLUME_ID"] = pod.network["volumeId"]
        grace = self.timings.stop_grace / self.time_scale
        return {"pod_id": pod.id, "env": environment, "ssh_delay": self._ssh_delay(pod), "grace_seconds": grace, "volume": pod.network}

    def _gpu_facts(self, pod: Pod) -> dict[str, Any] | None:
        if pod.gpu_id is None or not pod.gpu_id.startswith(("NVIDIA", "Tesla")):
            return None
        row = self.market.rows[pod.gpu_id]
        return {"name": row.id, "memory_mib": row.memory_mib, "compute_cap": row.compute_cap, "power_w": row.power_w, "count": pod.gpu_count}


def hourly_rate(price: Decimal, count: int) -> str:
    return format(price * count, "f")
