# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._bootstrap import refuse_unknown
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import COLLECTION, checked, guarded, playbook_process
from ansible_collections.podcycle.gpu.plugins.module_utils._http import is_loopback
from ansible_collections.podcycle.gpu.plugins.module_utils._model import check_run_id, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._role_values import refuse_values
from ansible_collections.podcycle.gpu.plugins.module_utils._run import RunFolder
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_session, open_state, remember_workspace
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import make_key
from ansible_collections.podcycle.gpu.plugins.plugin_utils._typed import with_inventory

SPEC = {
    "run_id": {"type": "str"},
    "create": {"type": "bool", "default": True},
    "lock": {"type": "bool", "default": True},
    "take_over": {"type": "bool", "default": False},
    "whole_cycle": {"type": "bool", "default": False},
    "rehearsal": {"type": "bool", "default": False},
    "workspace": {"type": "str", "default": "/workspace"},
    "artifacts_dir": {"type": "path", "default": "artifacts"},
    "cloud": {"type": "str", "default": "runpod"},
    "api_key": {"type": "str", "no_log": True},
    "endpoint": {"type": "str"},
    "account": {"type": "str", "default": "default"},
    "state_dir": {"type": "path"},
    "on_end": {"type": "str", "choices": ["terminate", "stop", "keep"], "default": "terminate"},
    "on_failure": {"type": "str", "choices": ["terminate", "hold"], "default": "terminate"},
    "hold_minutes": {"type": "int", "default": 30},
    "interrupt_grace_minutes": {"type": "float", "default": 15.0},
    "train_preset": {"type": "str", "choices": ["smoke", "cpu", "gpu", "lstm", "lstm-small"], "default": "gpu"},
    "train_seconds": {"type": "float", "default": 600.0},
    "train_stall_seconds": {"type": "float", "default": 300.0},
}

DICTIONARIES = ("pod_env", "pod_secret_env", "runpod", "waits")


class ActionModule(ActionBase):
    """Opens a run on the controller; the lock names ansible-playbook, whom no module can know."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(with_inventory(guarded(lambda: self._open(checked(SPEC, self._task.args), task_vars or {}))))
        return result

    def _open(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        check_numbers(args)
        if args["whole_cycle"]:
            refuse_partial(context.CLIARGS)
        if args["create"]:
            refuse_unknown(COLLECTION, load_extra_vars(self._loader), "begin a run", near_only=True)
            refuse_values(COLLECTION, task_vars, "begin a run")
            refuse_texts({name: self._templar.template(task_vars[name]) for name in DICTIONARIES if name in task_vars})
        run_id = check_run_id(args["run_id"]) if args["run_id"] else ""
        if not run_id:
            if not args["create"]:
                raise errors.UsageError("no run_id was given", hint=_known_runs(Path(args["artifacts_dir"])))
            run_id = utc_now().strftime("cycle-%Y%m%d-%H%M%S")
        session = open_session(args)
        if args["rehearsal"] != is_loopback(session.cloud.endpoint):
            raise errors.UsageError(
                f"the inventory is {'the rehearsal one' if args['rehearsal'] else 'a real one'}, but the endpoint is {session.cloud.endpoint}",
                hint="unset RUNPOD_REST_V2_URL, or use the other inventory",
            )
        folder = RunFolder.of(Path(args["artifacts_dir"]), run_id)
        if args["create"]:
            session.cloud.check()
        if not args["create"] and not folder.path.is_dir():
            raise errors.UsageError(f"there is no run {run_id}: {folder.path} does not exist", hint=_known_runs(Path(args["artifacts_dir"])))
        if self._task.check_mode:
            there = folder.path.is_dir()
            return {"changed": not there, "run": _facts(args, run_id, folder, resumed=there, public_key="ssh-ed25519 made-when-renting")}
        take = session.state.wrest_run if args["take_over"] else session.state.take_run
        before = take(run_id, playbook_process()) if args["lock"] else None
        resumed = folder.create(session.cloud.name, session.cloud.endpoint)
        if args["create"] and args["lock"]:
            remember_workspace(session.state, run_id, args["workspace"])
        public_key = make_key(session.state.run_dir(run_id) / "id_ed25519", f"podcycle-{run_id}")
        complete = folder.complete() and not any(lease.open for lease in session.ledger.of_run(run_id))
        last = folder.events()[-1:]
        note = ""
        if before is not None and last and last[0]["status"] == "started":
            note = f"taken over from process {before.pid} on {before.host}, which is gone"
            folder.event("start", "note", message=note)
        facts = _facts(args, run_id, folder, resumed=resumed, public_key=public_key)
        return {"changed": not resumed, "run": {**facts, "taken_over": note, "complete": complete}}


def _facts(args: dict[str, Any], run_id: str, folder: RunFolder, *, resumed: bool, public_key: str) -> dict[str, Any]:
    state = open_state(args)
    return {
        "id": run_id,
        "typed": errors.BARE,
        "dir": str(folder.path),
        "resumed": resumed,
        "rehearsal": args["rehearsal"],
        "cloud": args["cloud"],
        "state_dir": str(state.path),
        "private_key_file": str(state.path / "runs" / run_id / "id_ed25519"),
        "public_key": public_key,
        "known_hosts_file": str(folder.path / "known_hosts"),
        "progress_file": str(state.path / "runs" / run_id / "progress.log"),
        "collection_dir": str(COLLECTION),
        "validation_venv": str(state.path / "validation-venv"),
    }


def check_numbers(args: dict[str, Any]) -> None:
    """What a later stage would refuse is refused now, before anything is rented."""
    for name, least, most in (
        ("hold_minutes", 0, 1440),
        ("interrupt_grace_minutes", 0, 1440),
        ("train_seconds", 1, 30 * 86400),
        ("train_stall_seconds", 0, 86400),
    ):
        if not least <= args[name] <= most:
            raise errors.UsageError(f"{name} is {args[name]:g}; it must be between {least} and {most}")


def refuse_texts(given: Mapping[str, Any]) -> None:
    """What is no dictionary is named, never shown: it may hold a secret."""
    for name, value in given.items():
        if not isinstance(value, Mapping):
            raise errors.UsageError(f"begin a run: {name} has to be a dictionary", hint=f"""type: -e '{{"{name}": {{"NAME": "VALUE"}}}}'""")


def refuse_partial(cli: Any) -> None:
    """A cycle that is cut in pieces by Ansible's own options could rent and never give back."""
    limit = re.split(r"[,:]", str(cli.get("subset") or "all"))
    here = ("localhost", "all")
    if not set(limit) & set(here) or any(part[:1] == "!" and part[1:] in here or part[:1] == "&" and part[1:] not in here for part in limit):
        raise errors.UsageError("--limit without localhost would skip renting and giving back", hint="add it: --limit localhost,POD")
    tags = [tag for tag in cli.get("tags") or () if tag != "all"]
    if tags or cli.get("skip_tags") or cli.get("start_at_task"):
        raise errors.UsageError(
            "--tags, --skip-tags and --start-at-task would leave out parts of the cycle that give pods back",
            hint="run one stage instead, such as: ansible-playbook playbooks/train.yml -e run_id=ID",
        )


def _known_runs(artifacts: Path) -> str:
    names: list[str] = []
    with contextlib.suppress(OSError):
        found = sorted((artifacts / "cycles").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        names = [path.name for path in found if (path / "run.json").is_file()][:5]
    return f"give -e run_id=ID; newest runs: {', '.join(names)}" if names else "give -e run_id=ID; there is no run yet under " + str(artifacts)
