# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be there before the services of a pod start: keys, the token, the repository and what it requires. Standard library only.

  prepare.py [--check]   prints one JSON object; each phase is timed, and none that fails keeps the next from being tried
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phase_times
import pod_settings
from _blocks import merge_block, remove_block
from repository import Outcome, Repository, RepositoryError, bare_url

HERE = Path(__file__).resolve().parent
FIRST_COMMAND = Path("/proc/1/cmdline")
MARKER = "podcycle.gpu services"
# Beside the block that the training image brings anew at each of its starts.
MORE_KEYS = "podcycle.gpu keys beside those of the training image"
STAMP = ".podcycle-requirements.sha256"
PIP_SECONDS = 3600


class PrepareError(Exception):
    """A sentence for people."""


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file in one step; never readable by more than it may be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    part.replace(path)


class Preparation:
    def __init__(self, wish: dict[str, Any], environ: dict[str, str], *, check: bool) -> None:
        self.given, self.workspace, self.environ, self.check = wish["settings"], Path(wish["workspace"]), environ, check
        self.services = self.workspace / ".podcycle" / "services"
        self.marker = str(wish.get("marker", MARKER))
        self.rows: list[dict[str, Any]] = []

    def run(self, times: phase_times.PhaseTimes) -> dict[str, Any]:
        phases: list[tuple[str, bool, Callable[[], Outcome]]] = [
            ("ensure_ssh_keys", True, self.keys),
            ("ensure_jupyter_token", self.given["jupyter"], self.token),
            ("clone_or_update_repo", bool(self.given["repo_url"]), self.repository),
            ("sync_repo_requirements", bool(self.given["repo_url"]) and self.given["sync_requirements"], self.requirements),
        ]
        for name, wanted, do in phases:
            if not wanted:
                continue
            row = {"phase": name, "changed": False, "did": "failed", "note": "", "error": ""}
            try:
                if self.check:
                    outcome = do()
                else:
                    with times.phase(name):
                        outcome = do()
                row.update(changed=outcome.changed, did=outcome.did, note=outcome.note)
            except (PrepareError, RepositoryError, pod_settings.SettingsError) as error:
                row["error"] = str(error)
            except (OSError, subprocess.TimeoutExpired) as error:
                row["error"] = f"{name}: {error}"
            self.rows.append(row)
        return {"changed": any(row["changed"] for row in self.rows), "phases": self.rows, "errors": [row["error"] for row in self.rows if row["error"]]}

    def keys(self) -> Outcome:
        """Our block in the account's authorized_keys; keys of others stay."""
        keys = pod_settings.keys_in(self.given["authorized_keys"])
        account, note = self.account()
        path = Path(account.pw_dir, ".ssh", "authorized_keys")
        if account.pw_uid != os.geteuid() and (path.parent.is_symlink() or path.is_symlink()):
            # Root would write, and give away, whatever an account has pointed it to.
            raise PrepareError(f"write the keys of {account.pw_name}: {path} leads through a link; replace the link")
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            text = ""
        wanted = merge_block(text, self.marker, "\n".join(keys), "bottom") if keys else remove_block(text, self.marker)
        if wanted == text:
            return Outcome(False, "as they are", note)
        if not self.check:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = path.with_name(f".authorized_keys.{os.getpid()}")
            handle = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(wanted)
            if os.geteuid() == 0:
                for each in (part, path.parent):
                    os.chown(each, account.pw_uid, account.pw_gid, follow_symlinks=False)
            part.replace(path)
        return Outcome(True, f"{len(keys)} keys for {account.pw_name}", note)

    def account(self) -> tuple[pwd.struct_passwd, str]:
        name = self.given["account"]
        own = pwd.getpwuid(os.geteuid())
        if not name or name == own.pw_name:
            return own, ""
        try:
            return pwd.getpwnam(name), ""
        except KeyError:
            return own, f"there is no account {name[:40]} here, so the keys are for {own.pw_name}"

    def token(self) -> Outcome:
        """A file that only its owner may read; a given one replaces it."""
        path, given = self.services / "jupyter.token", self.environ.get("JUPYTER_TOKEN", "")
        if given and not re.fullmatch(r"[!-~]{8,200}", given):
            raise PrepareError("JUPYTER_TOKEN has to be 8 to 200 letters, digits and signs without a space")
        try:
            now = path.read_text(encoding="utf-8")
            fit = path.stat().st_mode & 0o077 == 0
        except FileNotFoundError:
            now, fit = "", False
        if fit and now and now == (given or now):
            return Outcome(False, "as it is")
        if not self.check:
            # Jupyter takes the whole file, a line break too.
            write(path, given or now or secrets.token_hex(24), 0o600)
        return Outcome(True, "written")

    def repository(self) -> Outcome:
        given = self.given
        found = Repository(given["repo_url"], given["repo_ref"], Path(given["repo_dir"]), clone=given["clone_repo"], pull=given["pull_repo"])
        return found.converge(check=self.check)

    def requirements(self) -> Outcome:
        """Install what the repository requires, when that has changed; the PyTorch that is there stays as it is."""
        wanted = Path(self.given["repo_dir"], "requirements.txt")
        if not wanted.is_file():
            return Outcome(False, "left out", f"there is no {wanted}")
        venv = Path(self.given["venv"])
        python, stamp = venv / "bin" / "python", venv / STAMP
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
        there = stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else ""
        if there == digest and python.exists() and not self.given["force_sync"]:
            return Outcome(False, "as they are")
        if self.check:
            return Outcome(True, "would be installed")
        uv = self.uv()
        if not python.exists():
            fresh = not venv.exists()
            try:
                self.program([uv, "venv", "--quiet", "--no-python-downloads", str(venv)] if uv else [sys.executable, "-m", "venv", str(venv)])
            except PrepareError:
                # Half an environment would be taken for a whole one next time.
                if fresh:
                    shutil.rmtree(venv, ignore_errors=True)
                raise
        install = [uv, "pip", "install", "--quiet", "--python", str(python)] if uv else [str(python), "-m", "pip", "install", "--quiet"]
        pins = self.services / "constraints.txt"
        write(pins, "".join(f"{name}=={version}\n" for name, version in installed(venv, "torch", "numpy").items()), 0o644)
        self.program([*install, "-r", str(wanted), "-c", str(pins)])
        write(stamp, f"{digest}\n", 0o644)
        return Outcome(True, "installed")

    def uv(self) -> str | None:
        """Where the roles of the stack leave it: in the workspace, on PATH, or in uv's own cache."""
        cache = Path(self.environ.get("UV_CACHE_DIR") or self.workspace / "cache" / "uv")
        places = (self.workspace / "bin" / "uv", shutil.which("uv"), Path.home() / ".local/bin/uv", cache / "bin" / "uv")
        return next((str(place) for place in places if place and os.access(place, os.X_OK)), None)

    def program(self, command: list[str]) -> None:
        environment = {key: value for key, value in self.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
        environment.setdefault("UV_CACHE_DIR", str(self.workspace / "cache" / "uv"))
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=environment, timeout=PIP_SECONDS, check=False
        )
        if done.returncode:
            said = " ".join((done.stderr.strip() or done.stdout).split())[-400:] or f"it ended with {done.returncode}"
            raise PrepareError(f"install the requirements of {self.given['repo_dir']} into {self.given['venv']}: {said}")


def installed(venv: Path, *names: str) -> dict[str, str]:
    """Versions of packages in an environment."""
    found = {}
    for path in venv.glob("lib/python3.*/site-packages/*.dist-info"):
        name, _dash, version = path.name.removesuffix(".dist-info").partition("-")
        if name in names:
            found[name] = version
    return found


def timing_of(settings: dict[str, Any], workspace: str, run_id: str) -> dict[str, str]:
    """Where phases are written, and the run that they belong to."""
    run = f"{workspace}/runs/{run_id}/{phase_times.NAME}" if run_id else f"{workspace}/.podcycle/timings/{phase_times.NAME}"
    return {"log": (settings["timing_log"] or run) if settings["timing"] else "", "run_id": settings["timing_run_id"] or run_id}


def leave_to_image(found: dict[str, Any], environ: dict[str, str], workspace: str) -> str:
    """What the training image brings is not brought a second time; the marker of the keys that are ours."""
    first = FIRST_COMMAND.read_bytes().decode("utf-8", "replace") if FIRST_COMMAND.exists() else ""
    names = pod_settings.brought_by_image(environ, workspace, first)
    settings, origin = found["settings"], found["origin"]
    if names is None:
        return MARKER
    names = [name for name in names if name != "repo_url" or origin[name] == "REPO_URL"]
    for name in names:
        settings[name] = "" if name == "repo_url" else False
    if names:
        found["notes"].append(f"{', '.join(names)}: brought by the training image, as the container's environment says, and not by this role")
    if origin["authorized_keys"] == "AUTHORIZED_KEYS":
        settings["authorized_keys"] = ""
    return MORE_KEYS


def answer(wish: dict[str, Any]) -> dict[str, Any]:
    """Resolve the settings of a wish (given, workspace, ports, run_id, check), and bring about what has to be there."""
    environ = phase_times.container_environment()
    found = pod_settings.resolve(wish["given"], environ, wish["workspace"])
    marker = leave_to_image(found, environ, wish["workspace"])
    pod_id = environ.get("RUNPOD_POD_ID", "")
    pod_id = pod_id if pod_id.isalnum() else ""
    timing = timing_of(found["settings"], wish["workspace"], wish.get("run_id") or "")
    about = {"places": pod_settings.places(found["settings"], wish["ports"], pod_id), "pod_id": pod_id, "timing": timing, "uid": os.geteuid()}
    about["base_url"] = environ.get("RUNPOD_REST_V2_URL") or "https://api.runpod.io/v2"
    times = phase_times.PhaseTimes("runpod_entrypoint", Path(timing["log"]) if timing["log"] else None, timing["run_id"])
    done = Preparation({"settings": found["settings"], "workspace": wish["workspace"], "marker": marker}, environ, check=wish["check"]).run(times)
    token = Path(wish["workspace"], ".podcycle", "services", "jupyter.token")
    about["token_stamp"] = token.stat().st_mtime_ns if token.exists() else 0
    # What is returned may stand in a log: an address without the key that it may carry.
    found["settings"]["repo_url"] = bare_url(found["settings"]["repo_url"])
    return {**found, **about, **done}


def main() -> int:
    wish = json.loads((HERE / "wish.json").read_text(encoding="utf-8"))
    try:
        found = answer({**wish, "check": "--check" in sys.argv[1:]})
    except pod_settings.SettingsError as error:
        print(f"prepare the services: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
