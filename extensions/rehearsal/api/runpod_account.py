# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod REST v2: templates, network volumes, registry credentials, SSH keys of the account, the catalog of templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rehearsal.account import SOURCES, Registry, Template, Volume
from rehearsal.api.runpod_body import LARGEST_VOLUME_GIB, PUBLIC_KEY, TEMPLATE_FIELDS, Reader, apply_template, fits, read_json, read_object
from rehearsal.api.runpod_errors import REGISTRY_IN_USE, TEMPLATE_IN_USE, VOLUME_IN_USE, ProblemError
from rehearsal.api.runpod_views import data_center, show_template, show_volume
from rehearsal.cloud import Cloud, new_id
from rehearsal.keys import Key

Handler = Callable[[Request, Key], Awaitable[Response]]
LEAST_GIB = 10
CATALOG_LIMIT = 100


class AccountApi:
    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.own = cloud.belongings

    def table(self) -> list[tuple[str, dict[str, Handler]]]:
        return [
            ("/v2/templates", {"GET": self.list_templates, "POST": self.create_template}),
            ("/v2/templates/{id}", {"GET": self.get_template, "PATCH": self.update_template, "DELETE": self.delete_template}),
            ("/v2/catalog/templates", {"GET": self.catalog_templates}),
            ("/v2/network-volumes", {"GET": self.list_volumes, "POST": self.create_volume}),
            ("/v2/network-volumes/{id}", {"GET": self.get_volume, "PATCH": self.update_volume, "DELETE": self.delete_volume}),
            ("/v2/registries", {"GET": self.list_registries, "POST": self.create_registry}),
            ("/v2/registries/{id}", {"GET": self.get_registry, "DELETE": self.delete_registry}),
            ("/v2/account/ssh-keys", {"GET": self.get_ssh_keys, "PUT": self.put_ssh_keys}),
        ]

    # -- templates ---------------------------------------------------------

    async def list_templates(self, request: Request, key: Key) -> Response:
        return JSONResponse({"templates": [show_template(one) for one in self.own.own_templates(key.account)]})

    async def catalog_templates(self, request: Request, key: Key) -> Response:
        source = request.query_params.get("source", "official")
        if source not in SOURCES:
            raise ProblemError(422, "validation failed", [{"location": "query.source", "message": f"expected one of {', '.join(SOURCES)}"}])
        rows = self.own.public_templates(source)[:CATALOG_LIMIT]
        return JSONResponse({"templates": [{**show_template(one), "registry": None} for one in rows]})

    async def create_template(self, request: Request, key: Key) -> Response:
        body = await read_object(request)
        reader = Reader()
        reader.known("", body, TEMPLATE_FIELDS)
        for name in ("name", "image"):
            if not body.get(name):
                reader.complain(name, f"expected required property {name} to be present" if name not in body else "expected length >= 1")
        made = Template(new_id(10), key.account, str(body.get("name")), str(body.get("image")))
        apply_template(reader, body, made)
        self._check_registry(made.registry, key)
        self.own.templates[made.id] = made
        self.own.save()
        return JSONResponse(show_template(made), 201)

    async def get_template(self, request: Request, key: Key) -> Response:
        found = self.own.readable_template(request.path_params["id"], key.account)
        if found is None:
            raise ProblemError(404, "template not found")
        return JSONResponse(show_template(found))

    async def update_template(self, request: Request, key: Key) -> Response:
        template = self._own_template(request, key)
        body = await read_object(request)
        reader = Reader()
        reader.known("", body, TEMPLATE_FIELDS)
        for name in ("name", "image"):
            if body.get(name) == "":
                reader.complain(name, "expected length >= 1")
        changed = Template(**vars(template))
        apply_template(reader, body, changed)
        self._check_registry(changed.registry, key)
        self.own.templates[template.id] = changed
        self.own.save()
        return JSONResponse(show_template(changed))

    async def delete_template(self, request: Request, key: Key) -> Response:
        template = self._own_template(request, key)
        if any(pod.template == template.id for pod in self.cloud.listed(key.account)):
            raise ProblemError(400, TEMPLATE_IN_USE)
        del self.own.templates[template.id]
        self.own.save()
        return Response(status_code=204)

    def _own_template(self, request: Request, key: Key) -> Template:
        """A public one that belongs to others can be read and answers 404 to everything else."""
        found = self.own.templates.get(request.path_params["id"])
        if found is None or found.account != key.account:
            raise ProblemError(404, "template not found")
        return found

    def _check_registry(self, registry: str | None, key: Key) -> None:
        if registry and registry not in {one.id for one in self.own.own_registries(key.account)}:
            raise ProblemError(400, "container registry credential not found")

    # -- network volumes ---------------------------------------------------

    async def list_volumes(self, request: Request, key: Key) -> Response:
        return JSONResponse({"networkVolumes": [show_volume(one) for one in self.own.own_volumes(key.account)]})

    async def create_volume(self, request: Request, key: Key) -> Response:
        body = await read_object(request)
        reader = Reader()
        reader.known("", body, {"name", "size", "dataCenter", "type"})
        for name in ("name", "size", "dataCenter"):
            if not body.get(name):
                reader.complain(name, f"expected required property {name} to be present" if name not in body else "expected length >= 1")
        wanted, center = reader.text(body, "name"), reader.text(body, "dataCenter")
        size = self._size(reader, body)
        kind = body.get("type", "STANDARD")
        if kind not in ("STANDARD", "HIGH_PERFORMANCE"):
            reader.complain("type", "expected value to be one of STANDARD, HIGH_PERFORMANCE")
        reader.check()
        row = data_center(str(center))
        if row is None or kind not in row.volume_types:
            raise ProblemError(400, f"Network volumes of type {kind} are not available in data center {center}.")
        made = Volume(new_id(10), key.account, str(wanted), size, row.id, kind)
        self.own.keep_volume(made)
        return JSONResponse(show_volume(made), 201)

    @staticmethod
    def _size(reader: Reader, body: dict[str, Any]) -> int:
        size = reader.number(body, "size", LEAST_GIB, LEAST_GIB)
        if size > LARGEST_VOLUME_GIB:
            reader.complain("size", f"expected number <= {LARGEST_VOLUME_GIB}")
        return size

    async def get_volume(self, request: Request, key: Key) -> Response:
        return JSONResponse(show_volume(self._own_volume(request, key)))

    async def update_volume(self, request: Request, key: Key) -> Response:
        volume = self._own_volume(request, key)
        body = await read_object(request)
        reader = Reader()
        reader.known("", body, {"name", "size"})
        if not body:
            reader.complain("", "expected at least one property")
        if "name" in body and not reader.text(body, "name"):
            reader.complain("name", "expected length >= 1")
        size = self._size(reader, body) if "size" in body else volume.size
        reader.check()
        if size < volume.size:
            raise ProblemError(400, "Network volume size cannot be decreased.")
        volume.name, volume.size = str(body.get("name", volume.name)), size
        self.own.keep_volume(volume)
        return JSONResponse(show_volume(volume))

    async def delete_volume(self, request: Request, key: Key) -> Response:
        volume = self._own_volume(request, key)
        if self.cloud.pods_with_volume(volume.id):
            raise ProblemError(400, VOLUME_IN_USE)
        self.cloud.drop_volume(volume)
        return Response(status_code=204)

    def _own_volume(self, request: Request, key: Key) -> Volume:
        found = self.own.volumes.get(request.path_params["id"])
        if found is None or found.account != key.account:
            raise ProblemError(404, "network volume not found")
        return found

    # -- registries --------------------------------------------------------

    async def list_registries(self, request: Request, key: Key) -> Response:
        return JSONResponse({"registries": [{"id": one.id, "name": one.name} for one in self.own.own_registries(key.account)]})

    async def create_registry(self, request: Request, key: Key) -> Response:
        body = await read_object(request)
        reader = Reader()
        reader.known("", body, {"name", "username", "password"})
        for name in ("name", "username", "password"):
            if not reader.text(body, name):
                reader.complain(name, f"expected required property {name} to be present" if name not in body else "expected length >= 1")
        reader.check()
        if body["name"] in {one.name for one in self.own.own_registries(key.account)}:
            raise ProblemError(400, "A container registry credential with this name already exists.")
        made = Registry(new_id(10), key.account, body["name"], body["username"], body["password"])
        self.own.registries[made.id] = made
        self.own.save()
        return JSONResponse({"id": made.id, "name": made.name}, 201)

    async def get_registry(self, request: Request, key: Key) -> Response:
        found = self._own_registry(request, key)
        return JSONResponse({"id": found.id, "name": found.name})

    async def delete_registry(self, request: Request, key: Key) -> Response:
        found = self._own_registry(request, key)
        if any(pod.registry == found.id for pod in self.cloud.listed(key.account)):
            raise ProblemError(400, REGISTRY_IN_USE)
        # Templates do not hold it: they lose the reference without a word.
        for template in self.own.templates.values():
            template.registry = None if template.registry == found.id else template.registry
        del self.own.registries[found.id]
        self.own.save()
        return Response(status_code=204)

    def _own_registry(self, request: Request, key: Key) -> Registry:
        found = self.own.registries.get(request.path_params["id"])
        if found is None or found.account != key.account:
            raise ProblemError(404, "registry not found")
        return found

    # -- SSH keys ----------------------------------------------------------

    async def get_ssh_keys(self, request: Request, key: Key) -> Response:
        return JSONResponse({"keys": self.own.ssh_keys(key.account)})

    async def put_ssh_keys(self, request: Request, key: Key) -> Response:
        """The whole list is replaced: whoever writes what was read a while ago undoes what others wrote since."""
        body = await read_json(request)
        keys = body.get("keys") if isinstance(body, dict) and set(body) == {"keys"} else None
        if not isinstance(keys, list) or not all(isinstance(one, str) and fits(PUBLIC_KEY, one) for one in keys):
            raise ProblemError(422, "validation failed", [{"location": "body.keys", "message": "expected array of public keys"}])
        self.own.set_ssh_keys(key.account, keys)
        return JSONResponse({"keys": keys})
