# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils._controller import COLLECTION, checked, guarded, playbook_process
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._keeper import ensure_keeper
from ansible_collections.podcycle.gpu.plugins.module_utils._pods import pod_spec
from ansible_collections.podcycle.gpu.plugins.module_utils._session import cloud_spec, open_state
from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import typed, with_inventory

display = Display()


class ActionModule(ActionBase):
    """Starts the run's keeper before the first paid action, and prints what the module waits for.

    The keeper is started when this ansible-playbook holds the run (podcycle.gpu.run); a pod rented
    outside a run is guarded by its deadline only.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        begun = guarded(lambda: self._begin(args))
        if begun.get("failed"):
            result.update(begun)
            return result
        with told(args.get("progress_file")):
            result.update(with_inventory(self._execute_module(module_args=args, task_vars=task_vars)))
        if not self._task.check_mode and args.get("state", "running") == "running":
            for pod in result.get("pods") or ():
                for note in pod.get("notes") or ():
                    display.warning(f"{clean_text(pod.get('id'), 80)}: {clean_text(note)}")
        return result

    def _begin(self, args: dict[str, Any]) -> dict[str, Any]:
        wish = checked({**cloud_spec(), **pod_spec()}, args)
        if self._task.check_mode or wish["state"] != "running":
            return {}
        return self._keep(args, wish["interrupt_grace_minutes"] * 60)

    @staticmethod
    def _keep(args: dict[str, Any], grace_seconds: float) -> dict[str, Any]:
        state = open_state(args)
        run_id = str(args.get("run_id") or "")
        holder = state.run_holder(run_id) if (state.path / "runs" / run_id).is_dir() else None
        if holder is None or holder != playbook_process():
            return {}
        options = {name: args.get(name) for name in cloud_spec()}
        options["state_dir"] = str(state.path)
        return {"keeper": ensure_keeper(COLLECTION, options, state, run_id, grace_seconds, typed())}


@contextmanager
def told(path: Any) -> Iterator[None]:
    """Print the lines that a module appends to its progress file while it works."""
    if not path:
        yield
        return
    file = Path(str(path)).expanduser()
    done = threading.Event()
    start = file.stat().st_size if file.exists() else 0
    teller = threading.Thread(target=_tell, args=(file, start, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join(timeout=5)


def _tell(file: Path, start: int, done: threading.Event) -> None:
    place = start
    last = False
    while True:
        last = done.wait(0.5)
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(place)
                content = stream.read(65536)
            whole = content.rfind(b"\n") + 1
            place += whole
            for line in content[:whole].decode("utf-8", "replace").splitlines():
                display.display(f"  {clean_text(line, 300)}")
        if last:
            return
