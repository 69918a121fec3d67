# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, clean_text, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._run import STAGES, RunFolder, troubles

display = Display()

SPEC = {
    "run_dir": {"type": "path", "required": True},
    "stage": {"type": "str", "choices": list(STAGES), "required": True},
    "status": {"type": "str", "choices": ["started", "ok", "failed", "skipped", "warning", "note", "judge"], "required": True},
    "phase": {"type": "str", "default": ""},
    "message": {"type": "str", "default": ""},
    "cause": {"type": "raw"},
    "task": {"type": "str", "default": ""},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "fail": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """Writes one event of a stage, or judges a stage from its events; never leaves the controller."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        host = str((task_vars or {}).get("inventory_hostname") or "")
        result.update(guarded(lambda: self._record(checked(SPEC, self._task.args), "" if host == "localhost" else host)))
        return result

    def _record(self, args: dict[str, Any], host: str) -> dict[str, Any]:
        folder = RunFolder(Path(args["run_dir"]))
        if self._task.check_mode or not folder.path.is_dir():
            return {"changed": False, "ok": True}
        if args["status"] == "judge":
            return self._judge(args, folder)
        message: str = args["message"]
        details: dict[str, Any] = {}
        if args["cause"] is not None:
            message, details = explain(args["cause"], args["task"])
        try:
            folder.event(args["stage"], args["status"], phase=args["phase"], host=host, message=message, details=details or None)
        except OSError as err:
            # A full disk must not keep anybody from giving pods back; the report will fail over it.
            display.warning(f"{folder.path / 'events.jsonl'} cannot be written: {err.strerror}")
        if args["status"] == "failed" and args["fail"]:
            return {"changed": False, "failed": True, "msg": f"{args['stage']}{f' on {host}' if host else ''}: {message}"}
        return {"changed": False, "ok": True}

    @staticmethod
    def _judge(args: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        found = troubles(folder.since_start(), (args["stage"],), args["hosts"])
        if not found:
            folder.event(args["stage"], "ok")
            return {"changed": False, "ok": True}
        first = found[0]
        folder.event(args["stage"], "failed", phase=f"{args['stage']}.verdict", message=f"{len(found)} of {len(args['hosts'])} pods failed")
        text = f"stage {args['stage']} failed{f' on {first.host}' if first.host else ''}: {first.cause}"
        return {"changed": False, "ok": False, "failed": args["fail"], "msg": f"{text}; run the stage again with: -e run_id={folder.path.name}"}


def explain(cause: Any, task: str) -> tuple[str, dict[str, Any]]:
    """One sentence, and what programs and people may want beside it, from a failed task's result."""
    if isinstance(cause, PodcycleError):
        cause = failure(cause)
    if isinstance(cause, dict) and isinstance(cause.get("results"), list):
        cause = next((item for item in cause["results"] if isinstance(item, dict) and item.get("failed")), cause)
    if not isinstance(cause, dict):
        return clean_text(cause, 600), {}
    said = str(cause.get("msg") or cause.get("message") or "failed")
    words = [line for line in str(cause.get("stderr") or "").splitlines() if line.strip()]
    # A command's own last words say more than its status.
    text = clean_text(words[-1] if words and said.startswith("non-zero return code") else said, 600)
    details: dict[str, Any] = {}
    if isinstance(cause.get("failure"), dict):
        details["code"] = clean_text(cause["failure"].get("code"), 40)
    for key in ("log_tail", "stderr_lines"):
        lines = cause.get(key) or (cause.get("job") or {}).get(key) if isinstance(cause.get("job", {}), dict) else cause.get(key)
        if isinstance(lines, list) and lines:
            details["log_tail"] = [clean_text(line, 300) for line in lines[-40:]]
            break
    return (f"{task}: {text}" if task else text), details
