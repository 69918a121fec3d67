# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates of a RunPod account: found by name among all that can be read, created, changed by field, deleted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._account import Desk, create_once, find_own, open_desk, trying
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import CATALOG_LIMIT, SOURCES, RunPodAccount, Template
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_wire import MOST_VARIABLES
from ansible_collections.podcycle.gpu.plugins.module_utils._secrets import looks_secret

ALL_SOURCES = ("own", *SOURCES)
HIDDEN = "(hidden)"
# A pod made from a larger template is refused: the limit is that of one request, the template's text included.
BODY_LIMIT = 102_400
# Attribute of ours: field on the wire. The mount is one field and two options.
_WIRE = {
    "name": "name", "image": "image", "args": "args", "disk_gib": "disk", "ports": "ports", "env": "env", "registry": "registry", "category": "category",
    "public": "public", "serverless": "serverless", "start_ssh": "startSsh", "start_jupyter": "startJupyter", "cuda_versions": "allowedCudaVersions",
}  # fmt: skip
_UNORDERED = ("ports", "cuda_versions")


def template_info(options: Mapping[str, Any]) -> dict[str, Any]:
    desk = open_desk(options)
    with trying("read the templates"):
        if options.get("id"):
            rows = [_by_id(desk.account, options["id"])]
        elif options.get("name"):
            rows = [named_template(desk.account, options["name"], options["source"])]
        else:
            rows = [row for source in options["source"] for row in _listed(desk.account, source)]
    return {"changed": False, "templates": [shown(row) for row in rows], "rehearsal": desk.rehearsal}


def _by_id(account: RunPodAccount, template_id: str) -> Template:
    own = {row.id: row for row in account.templates()}
    return own.get(template_id) or replace(account.template(template_id), source="public")


def _listed(account: RunPodAccount, source: str) -> list[Template]:
    return account.templates() if source == "own" else account.public_templates(source)


def named_template(account: RunPodAccount, wanted: str, sources: Sequence[str] = ALL_SOURCES) -> Template:
    """By id or whole name in the order of the sources, then by a part of the name that only one has; raises UsageError with the candidates."""
    by_source = {source: _listed(account, source) for source in sources}
    folded, label = wanted.strip().casefold(), repr(errors.clean_text(wanted, 80))
    for source in sources:
        exact = [row for row in by_source[source] if row.id == wanted or row.name.casefold() == folded]
        if len(exact) == 1:
            return exact[0]
        if exact:
            raise errors.UsageError(f"{len(exact)} templates are named {label}: {_choices(exact)}", hint="say which one by its id")
    rows = [row for source in sources for row in by_source[source]]
    partial = [row for row in rows if folded and folded in row.name.casefold()]
    if len(partial) == 1:
        return partial[0]
    if partial:
        raise errors.UsageError(f"template {label} is ambiguous; it may be: {_choices(partial)}", hint="give its whole name or its id")
    full = [source for source in sources if source != "own" and len(by_source[source]) >= CATALOG_LIMIT]
    more = f"; RunPod shows only {CATALOG_LIMIT} of its {' and '.join(full)} templates: one that is not shown is found by its id" if full else ""
    raise errors.UsageError(
        f"there is no template {label} among {', '.join(sources)}", hint=f"list them with: ansible-playbook playbooks/templates.yml{more}"
    )


def _choices(rows: Sequence[Template]) -> str:
    names = [f"{row.name} ({row.source}, {row.id})" for row in rows[:12]]
    return ", ".join(names) + (f" and {len(rows) - 12} more" if len(rows) > 12 else "")


def shown(row: Template, secret_names: Sequence[str] = ()) -> dict[str, Any]:
    """For results and diffs: RunPod returns the environment in the clear, secrets and all."""
    hide = {name for name in row.env if name in secret_names or looks_secret(name)}
    env = {name: HIDDEN if name in hide and value else value for name, value in row.env.items()}
    plain = {**asdict(row), "env": env, "ports": list(row.ports), "cuda_versions": list(row.cuda_versions)}
    cleaned: dict[str, Any] = errors.clean_tree(plain, BODY_LIMIT)
    return cleaned


# ---- changing -----------------------------------------------------------------------------------


def change_template(options: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    desk = open_desk(options)
    wanted = {} if options["state"] == "absent" else check_wish(options)
    label = options.get("name") or options.get("id")
    with trying(f"read the templates for {label}"):
        own = desk.account.templates()
        if wanted.get("registry"):
            wanted["registry"] = _registry_id(desk, wanted["registry"])
    gone = options["state"] == "absent"
    before = find_own(own, "template", "podcycle.gpu.runpod_template_info", name=options.get("name"), wanted_id=options.get("id"), missing_ok=gone)
    if gone:
        return _delete(desk, before, check_mode)
    return _save(desk, before, wanted, options, check_mode)


def check_wish(options: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields, checked as far as that needs no cloud. What is not given stays out."""
    wanted = {name: options[name] for name in _WIRE if options.get(name) is not None}
    if options.get("env") is not None or options.get("secret_env") is not None:
        wanted["env"] = {str(name): str(value) for name, value in {**(options.get("env") or {}), **(options.get("secret_env") or {})}.items()}
    for name, secret in (options.get("secret_env") or {}).items():
        if len(str(secret)) < 8:
            raise errors.UsageError(
                f"secret_env value of {errors.clean_text(name, 40)!r} is shorter than 8 characters, so masking it would mask half of every result"
            )
    if len(wanted.get("env", ())) > MOST_VARIABLES:
        raise errors.UsageError(f"env has {len(wanted['env'])} variables; a pod has at most {MOST_VARIABLES}")
    if "registry" in wanted:
        wanted["registry"] = wanted["registry"] or None
    for port in wanted.get("ports", ()):
        if not model.PORT.match(port):
            raise errors.UsageError(f"port {errors.clean_text(port, 40)!r} is not a number from 1 to 65535 and a protocol", hint="such as 22/tcp or 8888/http")
    for version in wanted.get("cuda_versions", ()):
        if not re.match(r"\d+\.\d+\Z", version):
            raise errors.UsageError(f"CUDA version {errors.clean_text(version, 40)!r} is not one", hint="such as '12.8'")
    for name in _UNORDERED:
        if name in wanted:
            wanted[name] = tuple(dict.fromkeys(wanted[name]))
    if wanted.get("disk_gib", 1) < 1:
        raise errors.UsageError("disk_gib must be 1 or more")
    size, path = options.get("volume_gib"), options.get("volume_path") or "/workspace"
    if size is not None:
        if size != 0 and size < 10:
            raise errors.UsageError(f"volume_gib is {size}; RunPod's volumes hold 10 GiB or more", hint="0 is none")
        if not path.startswith("/"):
            raise errors.UsageError(f"volume_path {errors.clean_text(path, 80)!r} is not an absolute path")
        wanted |= {"volume_gib": size, "volume_path": path if size else None}
    return wanted


def _registry_id(desk: Desk, wanted: str) -> str:
    rows = desk.account.registries()
    found = [row.id for row in rows if wanted in (row.id, row.name)]
    if len(found) != 1:
        names = ", ".join(row.name for row in rows) or "none"
        raise errors.UsageError(f"there is no registry credential {errors.clean_text(wanted, 80)!r}", hint=f"there are: {names}")
    return found[0]


def _same(name: str, old: Any, new: Any) -> bool:
    return set(old) == set(new) if name in _UNORDERED else bool(old == new)


def _save(desk: Desk, before: Template | None, wanted: dict[str, Any], options: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    secret_env = options.get("secret_env") or {}
    if before is None and not wanted.get("image"):
        raise errors.UsageError(f"create template {options.get('name')}: image is missing")
    blank = before or Template("", str(options.get("name")), "")
    changes = {name: value for name, value in wanted.items() if before is None or not _same(name, getattr(blank, name), value)}
    if before is not None and before.volume_gib and changes.get("volume_gib") == 0:
        raise errors.UsageError(
            f"change template {before.name}: RunPod cannot take the volume out of a template", hint="delete it with state=absent and create it again"
        )
    after = replace(blank, **changes)
    body = wire_body({**wanted, "name": after.name} if before is None else changes, after)
    if len(json.dumps(body).encode()) > BODY_LIMIT:
        raise errors.UsageError(
            f"template {after.name} would have {len(json.dumps(body).encode())} bytes, and RunPod takes {BODY_LIMIT} for a template and a pod made from it",
            hint="let its start script fetch the rest (bootstrap_reference_url)",
        )
    if changes and not check_mode:
        secrets = tuple(secret_env.values())
        if before is None:
            after = create_once(desk, "template", after.name, lambda: desk.account.create_template(body, secrets), desk.account.templates)
        else:
            with trying(f"change template {before.name} ({before.id})"):
                after = desk.account.update_template(before.id, body, secrets)
    told = [name for name, value in wanted.items() if changes and not check_mode and not _same(name, getattr(after, name), value)]
    return {
        "changed": bool(changes),
        "template": shown(after, tuple(secret_env)),
        "diff": difference(before, after, changes, tuple(secret_env)),
        "warnings": [f"template {after.name}: RunPod took the change and shows another {', '.join(told)}"] if told else [],
        "rehearsal": desk.rehearsal,
    }


def wire_body(fields: Mapping[str, Any], after: Template) -> dict[str, Any]:
    """Only what is to change: what is left out stays as it is."""
    body = {_WIRE[name]: list(value) if isinstance(value, tuple) else value for name, value in fields.items() if name in _WIRE}
    if {"volume_gib", "volume_path"} & set(fields) and after.volume_gib:
        body["mounts"] = {"persistent": {"size": after.volume_gib, "path": after.volume_path}}
    return body


def _exact(text: str) -> str:
    """What would not be shown as it is, as JSON: a line break is no space."""
    return text if text == errors.clean_text(text, BODY_LIMIT) and not text.startswith('"') else json.dumps(text)


def _pictured(row: Template, secret_names: Sequence[str]) -> dict[str, Any]:
    """For a diff: a whole script in `args` is told by its beginning and its digest."""
    args = _exact(row.args)
    if len(args) > 300:
        args = f"{args[:100]}... ({len(row.args)} characters, sha256 {hashlib.sha256(row.args.encode()).hexdigest()[:16]})"
    return shown(replace(row, args=args, env={name: _exact(value) for name, value in row.env.items()}), secret_names)


def difference(before: Template | None, after: Template, changes: Mapping[str, Any], secret_names: Sequence[str] = ()) -> dict[str, Any]:
    """The fields that change; a hidden value that changes says so."""
    new = _pictured(after, secret_names)
    if before is None:
        return {"before": {}, "after": {name: new[name] for name in ("name", *changes)}}
    old = _pictured(before, secret_names)
    for name, value in before.env.items():
        if "env" in changes and old["env"].get(name) == HIDDEN and after.env.get(name) not in (None, value):
            new["env"][name] = f"{HIDDEN}, another one"
    return {"before": {name: old[name] for name in changes}, "after": {name: new[name] for name in changes}}


def _delete(desk: Desk, before: Template | None, check_mode: bool) -> dict[str, Any]:
    if before is not None and not check_mode:
        try:
            with trying(f"delete template {before.name} ({before.id})"):
                desk.account.delete_template(before.id)
        except errors.NotFound:
            pass
        except errors.InvalidRequest as err:
            users = [str(one) for one in desk.account.tenants() if one.template == before.id]
            err.hint = f"give these pods back first: {', '.join(users)}" if users else "a serverless endpoint may use it, or a pod did in the last two minutes"
            raise
    found = shown(before) if before else None
    return {
        "changed": before is not None,
        "template": found,
        "diff": {"before": {"name": before.name, "id": before.id} if before else {}, "after": {}},
        "warnings": [],
        "rehearsal": desk.rehearsal,
    }
