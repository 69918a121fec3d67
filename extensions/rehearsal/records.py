# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of one rented pod, whatever cloud it was rented from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LIVE = ("PROVISIONING", "STARTING", "RUNNING")


@dataclass
class Pod:
    id: str
    account: str
    owner: str
    name: str
    image: str
    cloud: str
    gpu_id: str | None
    gpu_count: int
    rate: str
    disk_gib: int
    created_at: float
    pod_key: str
    process: str = "process"
    cpu_id: str | None = None
    vcpu_count: int = 0
    args: str = ""
    registry: str | None = None
    ports: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, Any] = field(default_factory=dict)
    global_networking: bool = False
    data_center: str | None = None
    machine_id: str = ""
    proxy_suffix: str = ""
    status: str = "PROVISIONING"
    note: str = ""
    holds_gpu: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    generation: int = 0
    runtime_ready: bool = False
    host_down: bool = False
    pid: int | None = None
    pid_started: int | None = None
    port: int | None = None
    old_port: int | None = None
    host_key: str | None = None
    host_key_fingerprint: str | None = None
    isolation: str | None = None
    sshd: bool = False
    ssh_fault: str | None = None
    history: list[list[Any]] = field(default_factory=list)
    locked: bool = False
    start_ssh: bool = False
    # A pod that was made over GraphQL stays linked to its template; one of REST v2 does not.
    template: str | None = None
    # Of a spot pod, in dollars an hour for each GPU.
    bid: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Pod:
        return cls(**data)

    @property
    def persistent(self) -> dict[str, Any] | None:
        volume: dict[str, Any] | None = self.mounts.get("persistent")
        return volume

    @property
    def network(self) -> dict[str, Any] | None:
        volumes: list[dict[str, Any]] = self.mounts.get("network") or []
        return volumes[0] if volumes else None

    @property
    def kept_path(self) -> str | None:
        """Where lies what a stop does not lose."""
        volume = self.persistent or self.network
        return None if volume is None else str(volume["path"])

    @property
    def wants_ssh(self) -> bool:
        return "22/tcp" in self.ports
