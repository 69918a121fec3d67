# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._report import choose_ending, cost_document, observations, summarise, terminal_lines
from ansible_collections.podcycle.gpu.plugins.module_utils._report_html import page
from ansible_collections.podcycle.gpu.plugins.module_utils._run import STAGES, RunFolder, Trouble, troubles
from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import INSTALLED, installed, inventories

display = Display()

SPEC = {
    "run_dir": {"type": "path", "required": True},
    "on_end": {"type": "str", "choices": ["terminate", "stop", "keep"], "default": "terminate"},
    "on_failure": {"type": "str", "choices": ["terminate", "hold"], "default": "terminate"},
    "hold_minutes": {"type": "int", "default": 30},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "whole_cycle": {"type": "bool", "default": False},
    "write": {"type": "bool", "default": False},
    "ending": {"type": "str", "choices": ["terminate", "stop", "keep", "hold"]},
    "audit": {"type": "dict", "default": {}},
}


def _private(option: str) -> bool:
    """The run id stands behind every command of ours anyway; a key must not be repeated."""
    return option.startswith(("run_id=", "on_end=", "cloud=")) or any(word in option.lower() for word in ("key", "secret", "token", "password"))


def typed(cli: Any) -> Callable[..., str]:
    """How a person who typed this command would type another playbook of ours."""
    inventory = inventories(cli)
    given_options = [str(item) for item in cli.get("extra_vars") or () if not _private(str(item))]
    options = "".join(f" -e {shlex.quote(item)}" for item in given_options)

    def command(name: str, more: str = "") -> str:
        words = f"{options} {more}".rstrip()
        if name == "cycle" and os.environ.get("PODCYCLE_TYPED") == "make cycle":
            return f"make cycle ARGS={shlex.quote(words.strip())}" if words else "make cycle"
        if installed(cli):
            return f"ansible-playbook{inventory} {INSTALLED}{name}{words}"
        return f"ansible-playbook{inventory} {'cycle.yml' if name == 'cycle' else f'playbooks/{name}.yml'}{words}"

    return command


class ActionModule(ActionBase):
    """Judges a run from its events, and at the end writes its report and says how it went."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: self._work(checked(SPEC, self._task.args))))
        return result

    def _work(self, args: dict[str, Any]) -> dict[str, Any]:
        folder, check_mode = RunFolder(Path(args["run_dir"])), bool(self._task.check_mode)
        if not args["write"]:
            return self._choose(args, folder, check_mode=check_mode)
        if check_mode and not folder.path.is_dir():
            return {"changed": True}
        ending = args["ending"] or args["on_end"]
        summary = summarise(folder, args["hosts"], ending=ending, audit=args["audit"], whole_cycle=args["whole_cycle"], command=typed(context.CLIARGS))
        unwritable = "" if check_mode else folder.unwritable()
        if unwritable:
            # It comes first: the others may only seem so, since nothing was noted.
            summary.troubles.insert(0, Trouble("stop", "", f"{unwritable}; make room, then type the same command again"))
        files: dict[str, Any] = {
            "cost.json": cost_document(summary),
            "reports/observations.md": observations(summary, folder.events()),
            "reports/report.html": page(summary),
        }
        changed = [name for name, content in files.items() if not unwritable and folder.write(name, content, check_mode=check_mode)]
        result: dict[str, Any] = {"changed": bool(changed), "ok": summary.ok, "cost_usd": files["cost.json"]["cost_usd"], "still_open": summary.still_open}
        if check_mode:
            return result
        for line in terminal_lines(summary):
            display.display(line)
        if not summary.ok:
            first = summary.troubles[0] if summary.troubles else None
            cause = f"stage {first.stage}{f' on {first.host}' if first.host else ''}: {first.cause}" if first else f"billing: {summary.billing}"
            result.update(failed=True, msg=f"run {summary.run_id} failed in {cause.rstrip('.')}. Next: {summary.next_command}")
        return result

    @staticmethod
    def _choose(args: dict[str, Any], folder: RunFolder, *, check_mode: bool) -> dict[str, Any]:
        everything, records = folder.events(), folder.since_start()
        found = troubles(records, STAGES[:-1], args["hosts"]) if args["whole_cycle"] else []
        choice = {name: args[name] for name in ("on_end", "on_failure", "hold_minutes", "whole_cycle")}
        earlier = everything[: len(everything) - len(records)]
        ending = choose_ending(found, records, **choice, earlier=earlier, unwritable="" if check_mode else folder.unwritable())
        pods = folder.read("provision.json").get("pods") or []
        known = [{"id": pod.get("id"), "name": pod.get("name")} for pod in pods if isinstance(pod, dict)]
        refused = ending == "terminate" and any(trouble.stage == "start" for trouble in found)
        return {"changed": False, "ending": ending, "known_pods": known, "spare_kept": refused}
