# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container of the training image begins with, under tini. Standard library only.

  start.py [COMMAND ...]         becomes COMMAND at once, and brings keys and services behind its back
  start.py --bake root|runner    while the image is built: what the services need later

Whatever becomes of the services, COMMAND goes on. As another account than root, all that is wanted runs as that account, and no SSH server.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
COLLECTION = HOME / "collections/ansible_collections/podcycle/gpu"
for place in ("roles/services/files", "roles/chess_training/files/chess_trainer", "plugins/module_utils"):
    sys.path.append(str(COLLECTION / place))

RUNNER = "runner"
# They need root, or process 1.
OF_ROOT = ("sshd", "idle_watchdog")
OF_RUNNER = ("jupyter", "inference", "hf_watch")
PLAY_SECONDS = 1800
PAUSES = (5, 15, 60, 0)


@dataclass
class Pass:
    """One run of the role services, as one account; `given` goes before the container's environment."""

    account: str
    given: dict[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    print(f"start: {text}", flush=True)


def keys_of(environ: Mapping[str, str], is_key: Any) -> tuple[list[str], int]:
    """RunPod hands keys over as PUBLIC_KEY, the chess bot's scripts as AUTHORIZED_KEYS; and how many lines are none."""
    texts = [environ.get(name, "") for name in ("AUTHORIZED_KEYS", "PUBLIC_KEY", "SSH_PUBLIC_KEY")]
    lines = list(dict.fromkeys(line.strip() for text in texts for line in text.splitlines() if line.strip() and not line.strip().startswith("#")))
    good = [line for line in lines if is_key(line)]
    return good, len(lines) - len(good)


def plan(settings: Mapping[str, Any], environ: Mapping[str, str], keys: list[str], account: str) -> list[Pass]:
    """Which services are brought as whom. A key and no START_SSHD is a wish to log in."""
    sshd = settings["sshd"] or (bool(keys) and not environ.get("START_SSHD"))
    wanted = {**{name: settings[name] for name in OF_ROOT + OF_RUNNER}, "sshd": sshd}
    repository = bool(settings["repo_url"])
    if account != "root":
        return [Pass(account, {"sshd": sshd})] if any(wanted.values()) or repository else []
    passes = []
    if any(wanted[name] for name in OF_ROOT):
        passes.append(Pass("root", {"sshd": sshd, "repo_url": "", **dict.fromkeys(OF_RUNNER, False)}))
    if repository or any(wanted[name] for name in OF_RUNNER):
        passes.append(Pass(RUNNER, dict.fromkeys(OF_ROOT, False)))
    return passes


def variables_of(one: Pass, environ: Mapping[str, str]) -> dict[str, Any]:
    """Variables of the roles; `settings` are those that pod_settings.py names."""
    own = HOME / ("root" if one.account == "root" else RUNNER)
    return {
        "image_account": one.account,
        "services_workspace": str(own),
        "services_scope": "system" if one.account == "root" else "user",
        "services_supervisor": "supervisor",
        "services_stack_venv": str(HOME / "venv"),
        "services_trainer_dir": str(HOME / "src"),
        "services_idle_workspaces": [str(HOME), "/workspace"],
        "services_ports": environ.get("PODCYCLE_PORTS", "").replace(",", " ").split(),
        "chess_training_workspace": str(own),
        "chess_training_venv": str(HOME / "venv"),
        "chess_training_src_dir": str(HOME / "src"),
        "chess_training_uv": "/usr/local/bin/uv",
        **{f"services_{name}": value for name, value in one.given.items()},
    }


def play(book: str, one: Pass, environ: Mapping[str, str]) -> int:
    """Ansible's exit code; as root it steps down to the pass's account."""
    person = pwd.getpwnam(one.account) if one.account in ("root", RUNNER) else pwd.getpwuid(os.geteuid())
    down: dict[str, Any] = {}
    passed = {key: value for key, value in environ.items() if not key.startswith("ANSIBLE_")}
    if os.geteuid() == 0 and person.pw_uid:
        down = {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": [person.pw_gid]}
        # It ends pods: the runner's programs have no use for it.
        passed.pop("RUNPOD_API_KEY", None)
    with tempfile.TemporaryDirectory(prefix="podcycle-start-") as scratch:
        os.chown(scratch, person.pw_uid if down else -1, person.pw_gid if down else -1)
        passed.update(
            HOME=person.pw_dir, LC_ALL="C.UTF-8", ANSIBLE_HOME=scratch, ANSIBLE_LOCAL_TEMP=scratch, ANSIBLE_REMOTE_TEMP=scratch,
            ANSIBLE_COLLECTIONS_PATH=str(HOME / "collections"), ANSIBLE_PYTHON_INTERPRETER="/usr/bin/python3", ANSIBLE_NOCOLOR="1",
            ANSIBLE_DISPLAY_OK_HOSTS="0", ANSIBLE_DISPLAY_SKIPPED_HOSTS="0", PYTHONDONTWRITEBYTECODE="1",
        )  # fmt: skip
        words = [str(HOME / "ansible/bin/ansible-playbook"), "-i", "localhost,", "-c", "local", "-e", json.dumps(variables_of(one, environ))]
        words.append(str(HOME / "image" / book))
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, env=passed, cwd="/", timeout=PLAY_SECONDS, check=False, **down)
        except subprocess.TimeoutExpired:
            return 124
        return done.returncode


def bring(environ: dict[str, str]) -> int:
    """Keys first, then every pass, each tried again with pauses; no pass keeps the next one from being tried."""
    import pod_settings
    import prepare

    account = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() in {person.pw_uid for person in pwd.getpwall()} else ""
    if not account:
        say(f"there is no account with the number {os.geteuid()}, so there are no services")
        return 1
    keys, bad = keys_of(environ, pod_settings.KEY.fullmatch)
    if bad:
        say(f"{bad} lines of PUBLIC_KEY or AUTHORIZED_KEYS are no public keys and are left out")
    environ = {**environ, "AUTHORIZED_KEYS": "\n".join(keys)}
    try:
        settings = pod_settings.resolve({}, environ, str(HOME / "runner"))["settings"]
    except pod_settings.SettingsError as error:
        say(f"{error}; keys are brought, and of the services the SSH server alone")
        # The role reads the environment too, and whoever is to put it right has to get in.
        asked = environ.get("START_SSHD", "").lower()
        environ |= {row.env: "" for row in pod_settings.SETTINGS if row.env != "AUTHORIZED_KEYS"}
        environ["START_SSHD"] = asked if asked in pod_settings.TRUE + pod_settings.FALSE else ""
        settings = pod_settings.resolve({}, environ, str(HOME / "runner"))["settings"]
    for name in ("root", RUNNER) if account == "root" else (account,):
        wish = {"settings": {**settings, "authorized_keys": environ["AUTHORIZED_KEYS"], "account": name}, "workspace": str(HOME / RUNNER)}
        try:
            say(f"keys of {name}: {prepare.Preparation(wish, environ, check=False).keys().did}")
        except (OSError, prepare.PrepareError) as error:
            say(f"keys of {name}: {error}")
    if account == "root":
        open_workspace(Path("/workspace"))
    failed = 0
    for one in plan(settings, environ, keys, account):
        for pause in PAUSES:
            code = play("start.yml", one, environ)
            if code == 0 or not pause:
                break
            say(f"the services of {one.account}: ansible-playbook ended with {code}; again in {pause} s")
            time.sleep(pause)
        failed = failed or code
        say(f"the services of {one.account}: {'are as wanted' if code == 0 else f'are not as wanted, ansible-playbook ended with {code}'}")
    return failed


def open_workspace(workspace: Path) -> None:
    """A fresh volume belongs to root; one with files in it is left as it is."""
    try:
        if workspace.stat().st_uid == 0 and not [entry for entry in workspace.iterdir() if entry.name != "lost+found"]:
            person = pwd.getpwnam(RUNNER)
            os.chown(workspace, person.pw_uid, person.pw_gid)
    except OSError as error:
        say(f"{workspace}: {error.strerror}")


def main(words: list[str]) -> int:
    if words[:1] == ["--bake"]:
        return play("bake.yml", Pass(words[1]), dict(os.environ))
    # Twice, so that tini buries it and not the command.
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.setsid()
            code = 1
            try:
                code = bring(dict(os.environ))
            finally:
                os._exit(code)
        os._exit(0)
    os.waitpid(child, 0)
    command = words or ["sleep", "infinity"]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
