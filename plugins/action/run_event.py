# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, clean_text, failure
from ansible_collections.podcycle.gpu.plugins.module_utils._fate import FATES, Inquiry, PodEnded, account_of
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint
from ansible_collections.podcycle.gpu.plugins.module_utils._phase_times import phase_rows
from ansible_collections.podcycle.gpu.plugins.module_utils._run import OUT_OF_REACH, STAGES, RunFolder, Trouble, troubles
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import SystemClock

SILENCE_PROBE_SECONDS = 5.0
# For so long the cloud of a pod that fell silent is asked for its end, which it may show a moment later.
ENDED_SECONDS = 5.0

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
    "phase_times": {"type": "path"},
    "fail": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """Writes one event of a stage, or judges a stage from its events; never leaves the controller."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        host = str((task_vars or {}).get("inventory_hostname") or "")
        result.update(guarded(lambda: self._record(checked(SPEC, self._task.args), "" if host == "localhost" else host, task_vars or {})))
        return result

    def _record(self, args: dict[str, Any], host: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        folder = RunFolder(Path(args["run_dir"]))
        # Nothing is written then, but a failure still fails.
        silent = self._task.check_mode or not folder.path.is_dir()
        if args["status"] == "judge":
            if silent:
                return {"changed": False, "ok": True}
            try:
                account = account_of(task_vars, self._templar.template)
                look_closer(folder, args["stage"], args["hosts"], task_vars.get("hostvars") or {}, account)
                return self._judge(args, folder)
            except OSError as err:
                told = _unwritten(folder, err)
                return {"changed": False, "ok": False, "failed": args["fail"], "msg": f"stage {args['stage']} cannot be judged: {told}; make room"}
        message: str = args["message"]
        details: dict[str, Any] = {}
        if args["cause"] is not None:
            message, details = explain(args["cause"], args["task"])
        try:
            if args["phase_times"] and not silent:
                folder.merge(phase_rows(Path(args["phase_times"])), host)
            if not silent:
                folder.event(args["stage"], args["status"], phase=args["phase"], host=host, message=message, details=details or None)
        except OSError as err:
            # A full disk must not keep anybody from giving pods back; the report will fail over it.
            _unwritten(folder, err)
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


def _unwritten(folder: RunFolder, err: OSError) -> str:
    told = f"{folder.path / 'events.jsonl'} cannot be written: {err.strerror}"
    display.warning(told)
    return told


def look_closer(folder: RunFolder, stage: str, hosts: list[str], hostvars: Mapping[str, Any], account: Mapping[str, Any] | None = None) -> None:
    """Record what pods that are in trouble do not say: why they fell silent, as Ansible lets an unreachable host do, and that their cloud has ended them."""
    until_now = STAGES[: STAGES.index(stage) + 1]
    seen = [trouble for trouble in troubles(folder.since_start(), until_now, hosts) if trouble.stage == stage and trouble.host]
    told = {trouble.host for trouble in seen if trouble.code in FATES}
    found = [trouble for trouble in seen if trouble.host not in told]
    if not found:
        return
    known = [hostvars.get(trouble.host, {}) for trouble in found]
    known = [{name: row.get(name) for name in ("ansible_host", "ansible_port", "ansible_ssh_private_key_file", "podcycle_id")} for row in known]
    with ThreadPoolExecutor(16) as pool:
        for trouble, (said, details) in zip(found, pool.map(partial(inquire, folder, account), found, known), strict=True):
            if said:
                folder.event(stage, "failed", host=trouble.host, message=said, details=details)


def inquire(folder: RunFolder, account: Mapping[str, Any] | None, trouble: Trouble, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What the cloud, and of a pod that fell silent a login, says of its trouble; empty when nothing new."""
    silent, pod_id, shown = trouble.cause == OUT_OF_REACH, str(known.get("podcycle_id") or ""), ""
    if account and pod_id:
        inquiry = Inquiry(account, pod_id, every=2.0)
        try:
            inquiry.insist(OUT_OF_REACH if silent else "the pod has ended", ENDED_SECONDS if silent else 0.0, SystemClock())
        except PodEnded as err:
            return explain(err, "")
        shown = inquiry.shown
    said = "; ".join(words for words in (ask(folder, known), shown) if words) if silent else ""
    return f"{OUT_OF_REACH}: {said}" if said else "", {}


def ask(folder: RunFolder, known: Mapping[str, Any]) -> str:
    """What a login at the pod is answered now; empty when it works, or when the pod's host key was never seen."""
    endpoint, pod_id = Endpoint.parse(known.get("ansible_host"), known.get("ansible_port")), str(known.get("podcycle_id") or "")
    access = SshAccess(Path(str(known.get("ansible_ssh_private_key_file") or "")), folder.path / "known_hosts")
    if endpoint is None or not access.pinned(pod_id):
        return ""
    try:
        return access.probe(pod_id, endpoint, SILENCE_PROBE_SECONDS, folder.path.name)
    except PodcycleError as err:
        return str(err)


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
