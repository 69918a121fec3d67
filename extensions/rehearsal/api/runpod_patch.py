# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PATCH of a pod: the name and the lock change at once, everything else of the container resets it, and its disk with it."""

from __future__ import annotations

from typing import Any

from rehearsal.account import Template
from rehearsal.api.runpod_body import CONTAINER_FIELDS, Reader, read_args, read_env, read_mounts, read_ports, with_template
from rehearsal.api.runpod_errors import LOCKED, ProblemError
from rehearsal.records import Pod

UPDATE_FIELDS = {*CONTAINER_FIELDS, "name", "locked", "globalNetworking", "mounts", "templateId"}
RESETTING = {*CONTAINER_FIELDS, "mounts"}


def expand(body: dict[str, Any], template: Template) -> dict[str, Any]:
    """A template brings its container settings, and its mounts never; `env` is both, by key, and replaces the pod's."""
    merged = with_template(body, template)
    given = {name: value for name, value in body.items() if name != "templateId"}
    return {**{name: merged[name] for name in CONTAINER_FIELDS & set(merged)}, **given, "env": merged["env"]}


def read_update(body: dict[str, Any], pod: Pod) -> dict[str, Any]:
    """The attributes of the record that change; ProblemError when the body breaks a rule."""
    reader = Reader()
    reader.known("", body, UPDATE_FIELDS)
    if "name" in body and not reader.text(body, "name"):
        reader.complain("name", "expected length >= 1")
    fresh: dict[str, Any] = {
        "name": reader.text(body, "name"), "image": reader.text(body, "image"), "args": read_args(reader, body), "disk": reader.number(body, "disk", 1, 1),
        "env": read_env(reader, body), "ports": read_ports(reader, body), "registry": reader.text(body, "registry", nullable=True),
        "locked": reader.flag(body, "locked"),
        "globalNetworking": reader.flag(body, "globalNetworking"), "mounts": read_mounts(reader, body),
    }  # fmt: skip
    reader.check()
    if pod.locked and not set(body) <= {"locked", "name"}:
        raise ProblemError(409, LOCKED)
    names = {"disk": "disk_gib", "globalNetworking": "global_networking"}
    changes = {names.get(name, name): value for name, value in fresh.items() if name in body}
    if "mounts" in changes:
        changes["mounts"] = changed_mounts(pod, changes["mounts"])
    return changes


def changed_mounts(pod: Pod, mounts: dict[str, Any]) -> dict[str, Any]:
    """The kind of mount is fixed when the pod is made, and so is the network volume; a volume only grows."""
    if mounts.get("persistent") is not None and mounts.get("network") is not None:
        raise ProblemError(400, "mounts.persistent and mounts.network cannot be combined.")
    if mounts.get("network") == []:
        raise ProblemError(400, "mounts.network must hold one volume.")
    for kind in mounts:
        if mounts[kind] is not None and not pod.mounts.get(kind):
            raise ProblemError(400, "The kind of mount is fixed when the pod is created.")
    if mounts.get("persistent") and mounts["persistent"]["size"] < pod.mounts["persistent"]["size"]:
        raise ProblemError(400, "mounts.persistent.size cannot be decreased.")
    if mounts.get("network") and mounts["network"][0]["volumeId"] != pod.mounts["network"][0]["volumeId"]:
        raise ProblemError(400, "The network volume of a pod cannot be changed.")
    return {kind: value for kind, value in mounts.items() if value is not None} or pod.mounts


def resets(body: dict[str, Any]) -> bool:
    """Also when the value stays the same: the container is made anew."""
    return any(name in body and not (name == "mounts" and not body[name]) for name in (*RESETTING, "templateId"))
