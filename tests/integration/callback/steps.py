# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes down, for each task that ran: its result, the requests that the rehearsal cloud saw meanwhile, and the files that changed."""

from __future__ import annotations

import glob
import json
import os
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: steps
type: notification
short_description: Write down what each task did to the cloud and to files
description: For the tests of this collection; E(STEPS) holds its settings as JSON.
requirements: [a running rehearsal cloud]
"""

# What changes by itself: bookkeeping that says nothing about a lease, heartbeats, logs.
ALIVE = re.compile(r".*(/locks/|/owner$|/podcycle-state$|/keeper\.|/controller\.json$|/jobs/\w+/(status|progress)\.json$|\.log$|/\.lock$)")


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "steps"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = json.loads(os.environ["STEPS"])
        self.seen = 0
        self.began = 0.0
        self.files: dict[str, tuple[int, int]] = {}

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.began = time.monotonic()
        self.seen = max((entry["n"] for entry in self._requests()), default=self.seen)
        self.files = self._files()

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write(result, failed=False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write(result, failed=True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write(result, failed=True)

    def _write(self, result: Any, *, failed: bool) -> None:
        task = result.task if hasattr(result, "task") else result._task
        found = result.result if hasattr(result, "result") else result._result
        files = self._files()
        row = {
            "task": task.get_name().rpartition(" : ")[2].strip(),
            "module": task.action.rpartition(".")[2],
            "check": bool(task.check_mode),
            "failed": failed,
            "seconds": round(time.monotonic() - self.began, 2),
            "result": found,
            "writes": [f"{entry['method']} {entry['path']}" for entry in self._requests() if entry["method"] != "GET"],
            "files": sorted(path for path in files.keys() | self.files.keys() if files.get(path) != self.files.get(path)),
        }
        with Path(self.settings["record"]).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, default=str) + "\n")

    def _requests(self) -> list[dict[str, Any]]:
        url = f"{self.settings['control']}/requests?since={self.seen}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=20) as answer:
            rows: list[dict[str, Any]] = json.loads(answer.read())["requests"]
        return rows

    def _files(self) -> dict[str, tuple[int, int]]:
        found = {}
        for root in (one for pattern in self.settings["roots"] for one in glob.glob(pattern)):
            for folder, folders, names in os.walk(root):
                if folder.endswith("/site-packages"):
                    folders.clear()
                for path in (os.path.join(folder, name) for name in names):
                    if not ALIVE.match(path):
                        try:
                            info = os.lstat(path)
                        except FileNotFoundError:
                            continue
                        found[path] = (info.st_size, info.st_mtime_ns)
        return found
