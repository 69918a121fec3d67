# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a RunPod account owns besides pods, over REST v2: maps its wire, nothing else.

Source: RunPod's API reference, version 2 (openapi.json, info.version 2.0.0). Of these lists none has filters, and a filter that
the API does not know is ignored: whoever looks for a name looks through the whole list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_wire import pages
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient

# `official` is RunPod's own; the catalog has these slices and shows at most 100 templates of each.
SOURCES = ("official", "verified", "community")
CATALOG_LIMIT = 100
TIERS = {"standard": "STANDARD", "high_performance": "HIGH_PERFORMANCE"}


@dataclass(frozen=True)
class Template:
    id: str
    name: str
    image: str
    args: str = ""
    disk_gib: int | None = None
    volume_gib: int = 0
    volume_path: str | None = None
    ports: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    registry: str | None = None
    category: str = ""
    public: bool = False
    serverless: bool = False
    start_ssh: bool = True
    start_jupyter: bool = True
    cuda_versions: tuple[str, ...] = ()
    source: str = "own"


@dataclass(frozen=True)
class Volume:
    id: str
    name: str
    size_gib: int
    data_center: str
    tier: str


@dataclass(frozen=True)
class Registry:
    id: str
    name: str


@dataclass(frozen=True)
class Tenant:
    """A pod as far as it uses something of the account's."""

    id: str
    name: str
    status: str
    volume: str | None
    registry: str | None
    template: str | None

    def __str__(self) -> str:
        return f"{self.id} ({self.name}, {self.status.lower()})"


class RunPodAccount:
    """One account. Every call raises a CloudError, whose C(effect) says whether it may have acted."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    # ---- templates ----------------------------------------------------------------------------

    def templates(self) -> list[Template]:
        with self._http.reading("GET", "/templates"):
            return [read_template(row, "own") for row in pages(self._http, "/templates", "templates", {})]

    def public_templates(self, source: str) -> list[Template]:
        with self._http.reading("GET", "/catalog/templates"):
            return [read_template(row, source) for row in pages(self._http, "/catalog/templates", "templates", {"source": source})]

    def template(self, template_id: str) -> Template:
        """One's own or a public one; raises NotFound."""
        path = f"/templates/{safe_id(template_id)}"
        with self._http.reading("GET", path):
            return read_template(self._http.get(path).body, "")

    def create_template(self, body: dict[str, Any], secrets: tuple[str, ...] = ()) -> Template:
        self._http.secrets = secrets
        with self._http.reading("POST", "/templates"):
            return read_template(self._http.post("/templates", body).body, "own")

    def update_template(self, template_id: str, body: dict[str, Any], secrets: tuple[str, ...] = ()) -> Template:
        self._http.secrets = secrets
        path = f"/templates/{safe_id(template_id)}"
        with self._http.reading("PATCH", path):
            return read_template(self._http.patch(path, body).body, "own")

    def delete_template(self, template_id: str) -> None:
        self._http.delete(f"/templates/{safe_id(template_id)}")

    # ---- network volumes ------------------------------------------------------------------------

    def volumes(self) -> list[Volume]:
        with self._http.reading("GET", "/network-volumes"):
            return [read_volume(row) for row in pages(self._http, "/network-volumes", "networkVolumes", {})]

    def create_volume(self, name: str, size_gib: int, data_center: str, tier: str | None) -> Volume:
        body: dict[str, Any] = {"name": name, "size": size_gib, "dataCenter": data_center}
        if tier is not None:
            body["type"] = TIERS[tier]
        with self._http.reading("POST", "/network-volumes"):
            return read_volume(self._http.post("/network-volumes", body).body)

    def update_volume(self, volume_id: str, body: dict[str, Any]) -> Volume:
        path = f"/network-volumes/{safe_id(volume_id)}"
        with self._http.reading("PATCH", path):
            return read_volume(self._http.patch(path, body).body)

    def delete_volume(self, volume_id: str) -> None:
        self._http.delete(f"/network-volumes/{safe_id(volume_id)}")

    def data_centers(self) -> dict[str, tuple[str, ...]]:
        """Each data center with the tiers of network volumes that it offers."""
        with self._http.reading("GET", "/catalog/datacenters"):
            rows = pages(self._http, "/catalog/datacenters", "dataCenters", {})
            return {_need(row, "id"): tuple(_tier(tier) for tier in _texts(row.get("networkVolumeTypes"))) for row in rows}

    # ---- registry credentials ---------------------------------------------------------------------

    def registries(self) -> list[Registry]:
        """Their names; user and password are written and never read."""
        with self._http.reading("GET", "/registries"):
            return [Registry(_need(row, "id"), _need(row, "name")) for row in pages(self._http, "/registries", "registries", {})]

    def create_registry(self, name: str, username: str, password: str) -> Registry:
        self._http.secrets = (password,)
        with self._http.reading("POST", "/registries"):
            row = self._http.post("/registries", {"name": name, "username": username, "password": password}).body
            return Registry(_need(row, "id"), _need(row, "name"))

    def delete_registry(self, registry_id: str) -> None:
        self._http.delete(f"/registries/{safe_id(registry_id)}")

    # ---- SSH keys -----------------------------------------------------------------------------------

    def ssh_keys(self) -> list[str]:
        """As they were written, comments and all."""
        with self._http.reading("GET", "/account/ssh-keys"):
            return _keys(self._http.get("/account/ssh-keys").body)

    def replace_ssh_keys(self, keys: list[str]) -> list[str]:
        """Every key that is not given is gone afterwards."""
        with self._http.reading("PUT", "/account/ssh-keys"):
            return _keys(self._http.put("/account/ssh-keys", {"keys": keys}).body)

    # ---- who uses it ----------------------------------------------------------------------------------

    def tenants(self) -> list[Tenant]:
        """Pods of clusters are left out of the list unless they are asked for."""
        with self._http.reading("GET", "/pods"):
            return [read_tenant(row) for row in pages(self._http, "/pods", "pods", {"limit": "1000", "includeClusterPods": "true"})]


def read_template(row: Any, source: str) -> Template:
    disk, mounts = row.get("disk") if isinstance(row, dict) else None, _dict(_dict(row).get("mounts"))
    persistent = _dict(mounts.get("persistent"))
    env = _dict(_dict(row).get("env"))
    return Template(
        id=_need(row, "id"),
        name=_need(row, "name"),
        image=errors.clean_text(row.get("image") or "", 500),
        args=str(row.get("args") or ""),
        disk_gib=disk if isinstance(disk, int) else None,
        volume_gib=persistent["size"] if isinstance(persistent.get("size"), int) else 0,
        volume_path=errors.clean_text(persistent["path"], 300) if isinstance(persistent.get("path"), str) else None,
        ports=_texts(row.get("ports")),
        env={str(name): str(value) for name, value in env.items()},
        registry=row["registry"] if isinstance(row.get("registry"), str) and row["registry"] else None,
        category=errors.clean_text(row.get("category") or "", 40),
        public=row.get("public") is True,
        serverless=row.get("serverless") is True,
        start_ssh=row.get("startSsh") is not False,
        start_jupyter=row.get("startJupyter") is not False,
        cuda_versions=_texts(row.get("allowedCudaVersions")),
        source=source,
    )


def read_volume(row: Any) -> Volume:
    size = row.get("size") if isinstance(row, dict) else None
    if isinstance(size, bool) or not isinstance(size, int):
        raise errors.SchemaError("a network volume without a size")
    return Volume(_need(row, "id"), _need(row, "name"), size, _need(row, "dataCenter"), _tier(str(row.get("type") or "STANDARD")))


def read_tenant(row: Any) -> Tenant:
    network = _dict(row).get("mounts")
    mounts = network.get("network") if isinstance(network, dict) else None
    volume = mounts[0].get("volumeId") if isinstance(mounts, list) and mounts and isinstance(mounts[0], dict) else None
    texts = [value if isinstance(value, str) and value else None for value in (volume, _dict(row).get("registry"), _dict(row).get("template"))]
    return Tenant(_need(row, "id"), _need(row, "name"), _need(row, "status"), *texts)


def safe_id(text: str) -> str:
    """Ids go into paths: nothing but letters, digits and dashes."""
    if not model.POD_ID.match(text):
        raise errors.UsageError(f"{errors.clean_text(text, 80)!r} is not an id of RunPod's")
    return text


def _tier(text: str) -> str:
    return errors.clean_text(text, 40).lower()


def _need(row: Any, name: str) -> str:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value:
        raise errors.SchemaError(f"a row without {name}")
    return errors.clean_text(value, 300)


def _keys(body: Any) -> list[str]:
    keys = body.get("keys") if isinstance(body, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise errors.SchemaError("no list of keys")
    return keys


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(errors.clean_text(one, 100) for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
