# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an account owns besides pods: templates, network volumes, registry credentials, SSH keys; and the public templates of everybody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rehearsal.meter import Meter
from rehearsal.store import Store

# In dollars; the meter counts against it.
CREDIT = "10000"
SOURCES = ("official", "verified", "community")


@dataclass
class Template:
    id: str
    account: str
    name: str
    image: str
    args: str = ""
    disk: int = 50
    ports: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    registry: str | None = None
    mounts: dict[str, Any] = field(default_factory=dict)
    serverless: bool = False
    public: bool = False
    category: str = "NVIDIA"
    start_ssh: bool = True
    start_jupyter: bool = True
    cuda: list[str] = field(default_factory=list)
    # GraphQL alone knows it.
    readme: str = ""
    # Of a public template: which slice of the catalog shows it.
    source: str = ""


@dataclass
class Volume:
    id: str
    account: str
    name: str
    size: int
    data_center: str
    kind: str = "STANDARD"


@dataclass
class Registry:
    id: str
    account: str
    name: str
    username: str
    password: str


CATALOG = (
    Template("30zmvf89kd", "", "Runpod Pytorch 2.8.0", "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404", ports=["8888/http", "22/tcp"],
             mounts={"persistent": {"size": 20, "path": "/workspace"}}, public=True, source="official"),
    Template("runpod-torch-v21", "", "Runpod Pytorch 2.1", "runpod/pytorch:2.1.0-py3.10-cuda11.8.0-devel-ubuntu22.04", ports=["8888/http", "22/tcp"],
             env={"JUPYTER_ENABLE_LAB": "yes"}, mounts={"persistent": {"size": 20, "path": "/workspace"}}, public=True, source="official"),
    Template("runpod-ubuntu", "", "Runpod Ubuntu", "runpod/base:1.0.2-ubuntu2404", disk=20, ports=["22/tcp"], category="CPU", public=True, source="official"),
    Template("h4zx0wqt1n", "", "vLLM worker", "runpod/worker-v1-vllm:v2.7.0", serverless=True, public=True, source="official"),
    Template("cw3nka7d08", "", "ComfyUI", "runpod/comfyui:latest", disk=80, ports=["8188/http", "22/tcp"], public=True, source="verified"),
    Template("n0vcqp5ycc", "", "Axolotl", "axolotlai/axolotl-cloud:main-latest", disk=60, ports=["8888/http", "22/tcp"], public=True, source="community"),
    Template("x2p8k1m4ra", "", "Axolotl nightly", "axolotlai/axolotl-cloud:nightly", disk=60, ports=["22/tcp"], public=True, source="community"),
)  # fmt: skip


class Belongings:
    """All accounts' belongings, kept over a restart."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store = store
        self._meter = meter
        body = store.load_fact("account") or {}
        self.templates = {row["id"]: Template(**row) for row in body.get("templates", [])}
        self.volumes = {row["id"]: Volume(**row) for row in body.get("volumes", [])}
        self.registries = {row["id"]: Registry(**row) for row in body.get("registries", [])}
        self._ssh_keys: dict[str, list[str]] = body.get("ssh_keys", {})
        self.credit: str = body.get("credit", CREDIT)

    def save(self) -> None:
        rows = {name: [vars(one) for one in getattr(self, name).values()] for name in ("templates", "volumes", "registries")}
        self._store.save_fact("account", {**rows, "ssh_keys": self._ssh_keys, "credit": self.credit})

    def clear(self) -> None:
        for table in (self.templates, self.volumes, self.registries, self._ssh_keys):
            table.clear()
        self.credit = CREDIT

    def ssh_keys(self, account: str) -> list[str]:
        return self._ssh_keys.get(account, [])

    def set_ssh_keys(self, account: str, keys: list[str]) -> None:
        self._ssh_keys[account] = keys
        self.save()

    def own_templates(self, account: str) -> list[Template]:
        return [one for one in self.templates.values() if one.account == account]

    def readable_template(self, template_id: str, account: str) -> Template | None:
        """One's own, or a public one."""
        own = self.templates.get(template_id)
        if own is not None and (own.account == account or own.public):
            return own
        return next((one for one in CATALOG if one.id == template_id), None)

    def public_templates(self, source: str) -> list[Template]:
        shared = [one for one in self.templates.values() if one.public and source == "community"]
        return [one for one in CATALOG if one.source == source] + shared

    def own_volumes(self, account: str) -> list[Volume]:
        return [one for one in self.volumes.values() if one.account == account]

    def keep_volume(self, volume: Volume) -> None:
        """A new one, or one that has grown."""
        self.volumes[volume.id] = volume
        self._meter.volume(volume.id, volume.account, volume.name, volume.size)
        self.save()

    def drop_volume(self, volume: Volume) -> None:
        del self.volumes[volume.id]
        self._meter.volume(volume.id, volume.account, volume.name, 0)
        self.save()

    def own_registries(self, account: str) -> list[Registry]:
        return [one for one in self.registries.values() if one.account == account]
