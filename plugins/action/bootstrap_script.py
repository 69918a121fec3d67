# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from ansible_collections.podcycle.gpu.plugins.module_utils import _bootstrap as bootstrap
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import COLLECTION, checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._pod_state import MARKER, hook_text
from ansible_collections.podcycle.gpu.plugins.module_utils._role_values import refuse_values

SPEC = {
    "kind": {"type": "str", "choices": list(bootstrap.KINDS), "default": "pod_setup"},
    "variables": {"type": "dict", "default": {}},
    "host_variables": {"type": "bool", "default": False},
    "strict": {"type": "bool", "default": False},
    "workspace": {"type": "str", "default": "/workspace"},
    "archive": {"type": "str", "choices": ["embedded", "path", "url"], "default": "embedded"},
    "archive_source": {"type": "str"},
    "archive_sha256": {"type": "str"},
    "archive_dest": {"type": "path"},
    "dest": {"type": "path"},
    "limit": {"type": "int"},
    "reference_url": {"type": "str"},
    "reference_dest": {"type": "path"},
    "then": {"type": "list", "elements": "str"},
    "baseline_minutes": {"type": "float", "default": 20.0},
    "usd_per_hour": {"type": "str"},
}
# RunPod's own images keep their services in /start.sh; a start command of ours takes its place.
RUNPOD_THEN = ["bash", "-c", "if [ -x /start.sh ]; then exec /start.sh; fi; exec sleep infinity"]


class ActionModule(ActionBase):
    """Writes start scripts; an action plugin, since it must see the collection's own files."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: self._write(checked(SPEC, self._task.args), task_vars or {})))
        return result

    def _write(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        refuse(args)
        writes = args["dest"] or args["host_variables"]
        doing = "write a bootstrap script" if writes else f"set up {task_vars.get('inventory_hostname', 'this machine')}"
        if args["strict"]:
            typed = load_extra_vars(self._loader)
            bootstrap.refuse_unknown(COLLECTION, typed, doing, near_only=True)
            if args["host_variables"]:
                bootstrap.refuse_secrets({name: typed[name] for name in bootstrap.names_of(COLLECTION) if name in typed})
        found, left_out = bootstrap.stack_variables(COLLECTION, self._of_host(task_vars)) if args["host_variables"] else ({}, [])
        given = {**found, **args["variables"]}
        price = {"usd_per_hour": args["usd_per_hour"]} if args["usd_per_hour"] else {}
        refuse_values(COLLECTION, {**(task_vars if args["strict"] else {}), **given, **price}, doing)
        archive = bootstrap.pack(COLLECTION)
        wish = bootstrap.Wish(
            kind=args["kind"],
            variables=given,
            workspace=args["workspace"].rstrip("/"),
            archive="embedded" if args["archive"] == "embedded" else args["archive_source"],
            archive_sha256=args["archive_sha256"] or "",
            baseline_minutes=args["baseline_minutes"],
            usd_per_hour=args["usd_per_hour"] or "",
            then=args["then"] or (RUNPOD_THEN if args["kind"] == "runpod" else []),
            limit=args["limit"] or 0,
            reference_url=args["reference_url"] or "",
        )
        script = bootstrap.render(wish, COLLECTION, archive)
        if script.form == "reference" and not args["reference_dest"]:
            raise errors.UsageError(
                f"write a bootstrap script: it is too long for {args['kind']} and goes by reference; say with reference_dest where to put it"
            )
        files = {"dest": (script.text.encode(), 0o755), "reference_dest": (script.full.encode(), 0o755), "archive_dest": (archive.data, 0o644)}
        changed = [put(Path(args[name]), content, mode, check=self._task.check_mode) for name, (content, mode) in files.items() if args[name]]
        return {
            "changed": any(changed),
            "script": script.text,
            "form": script.form,
            "size": len(script.text.encode()),
            "sha256": hashlib.sha256(script.text.encode()).hexdigest(),
            "payload": script.payload,
            "archive": {"sha256": archive.sha256, "size": len(archive.data), "files": len(archive.files)},
            "hook": {"marker": MARKER, "text": hook_text(wish.workspace)},
            "left_out": left_out,
            **({"dest": args["dest"]} if args["dest"] else {}),
        }

    def _of_host(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The variables of the host that decide its stack, without templates left in them."""
        return {name: self._templar.template(task_vars[name]) for name in sorted(task_vars.keys() & bootstrap.names_of(COLLECTION))}


def refuse(args: dict[str, Any]) -> None:
    """What a script could be written for and would not work."""
    if not re.fullmatch(r"/[^\0-\x1f]*[^\0-\x1f/]", args["workspace"]):
        raise errors.UsageError(f"write a bootstrap script: the workspace {args['workspace']!r} is no folder from the root on, such as /workspace")
    if args["archive"] != "embedded" and not args["archive_source"]:
        raise errors.UsageError(f"write a bootstrap script: archive {args['archive']} wants archive_source, where the machine finds it")
    if args["archive"] == "url" and not re.match(r"https?://", args["archive_source"]):
        raise errors.UsageError(f"write a bootstrap script: {args['archive_source']} is no http or https address")
    if args["archive"] == "path" and not args["archive_source"].startswith("/"):
        raise errors.UsageError(f"write a bootstrap script: {args['archive_source']} is no file from the root on")
    if args["archive_sha256"] and not re.fullmatch(r"[0-9a-f]{64}", args["archive_sha256"]):
        raise errors.UsageError("write a bootstrap script: archive_sha256 wants 64 hexadecimal digits")
    if args["archive"] == "embedded" and args["archive_sha256"]:
        raise errors.UsageError("write a bootstrap script: archive_sha256 is for an archive elsewhere; leave it out, or set archive to path or url")


def put(path: Path, content: bytes, mode: int, *, check: bool) -> bool:
    """Write aside and rename, if it is not there already."""
    path = path.absolute()
    same = path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode
    if same or check:
        return not same
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return True
