# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import COLLECTION, checked, guarded

SPEC = {
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "port": {"type": "int", "default": 8787},
    "state_dir": {"type": "path", "default": ".state/rehearsal"},
    "image_cache": {"type": "path"},
    "time_scale": {"type": "float"},
    "reset": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """Starts and stops the rehearsal cloud; an action plugin, since a module cannot see extensions/."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: self._converge(checked(SPEC, self._task.args))))
        return result

    def _converge(self, args: dict[str, Any]) -> dict[str, Any]:
        if not 1 <= args["port"] <= 65535:
            raise errors.UsageError(f"port {args['port']} is not between 1 and 65535")
        where = ["--state-dir", str(Path(args["state_dir"]).absolute()), "--port", str(args["port"])]
        running = self._call("status", where, may_fail=True)
        up = bool(running.get("ok") or running.get("running"))
        if self._task.check_mode:
            return {**running, "changed": (args["reset"] and up) or up != (args["state"] == "started")}
        changed = False
        if args["reset"] and up:
            self._call("reset", where)
            changed = True
        if args["state"] == "stopped":
            return {**(self._call("stop", where) if up else {}), "changed": changed or up}
        extra = []
        if args["image_cache"]:
            extra += ["--image-cache", str(Path(args["image_cache"]).absolute())]
        if args["time_scale"]:
            extra += ["--time-scale", str(args["time_scale"])]
        started = self._call("start", where + extra)
        return {**started, "changed": changed or bool(started.get("changed"))}

    @staticmethod
    def _call(verb: str, words: list[str], *, may_fail: bool = False) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": str(COLLECTION / "extensions")}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "rehearsal", verb, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
                env=environment,
            )
        except subprocess.TimeoutExpired as err:
            raise errors.WaitTimeout(f"rehearsal {verb} did not end in 90 s", hint="see the log in its state folder") from err
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode and not may_fail:
            said = errors.clean_text(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.stdout, 400)
            hint = "install what it needs: pip install -r requirements-run.txt" if "No module named" in said else ""
            raise errors.StateError(said or f"rehearsal {verb} ended with status {done.returncode}", hint=hint)
        try:
            answer = json.loads(lines[-1]) if lines else {}
        except ValueError:
            answer = {}
        return answer if isinstance(answer, dict) else {}
