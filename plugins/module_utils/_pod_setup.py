# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of every start script that is Python: brings uv and ansible-core, converges the machine, tells what it took.

Runs on the machine with Python 3.10 and the standard library alone, under the lock that the script holds on file descriptor 9.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._errors import PodcycleError, clean_text
from ._pod_state import LOCK_FD, Setup, SetupError, cost_lines, earlier_phases, hook, install_self, names_roles, write_whole
from ._pod_watch import running_job, verified, watch, watchdog_of
from ._role_values import Mistyped, refuse_typed
from ._uv import Uv, UvCacheError, find_uv, install_uv, keep_uv, run_program

# ansible-core 2.19 is the oldest that this collection takes, and it starts on Python 3.11 only.
CONTROLLER_PYTHON = (3, 11)
# The summary of playbooks/bootstrap.yml.
PHASE_LINE = re.compile(r"\s*- ['\"]?phase (\w+) ([0-9.]+) s\b")
# What was typed goes to Ansible behind its command line, which every account of the machine can read.
PLAYBOOK = (
    "import json, os, runpy, sys; sys.argv = [*sys.argv[1:], *json.loads(os.environ.pop('PODCYCLE_TYPED'))]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
BUILT_LINE = re.compile(r"\s*- ['\"]?did (?:nvcc|cutlass\.version|torch) .* -> (?!none\b)")


def environment(setup: Setup) -> dict[str, str]:
    """For uv and Ansible: nothing of what the caller's Ansible or Python was told, and the index that pip was told."""
    dropped = ("ANSIBLE_", "PYTHON", "VIRTUAL_ENV", "PODCYCLE_", "LC_", "CONDA_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    for ours, theirs in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("UV_FIND_LINKS", "PIP_FIND_LINKS")):
        if kept.get(theirs) and not kept.get(ours):
            kept[ours] = ",".join(kept[theirs].split())
    home = setup.state / "ansible"
    return {
        **kept,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "UV_CACHE_DIR": str(setup.cache),
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_INSTALL_DIR": str(setup.workspace / ".podcycle" / "python"),
        "ANSIBLE_COLLECTIONS_PATH": str(setup.state / "collection"),
        "ANSIBLE_CONFIG": str(home / "ansible.cfg"),
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
        "ANSIBLE_REMOTE_TMP": str(home / "tmp"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_NOCOWS": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
    }


# ---- the tools -------------------------------------------------------------------------------------------


def bring_uv(setup: Setup) -> Uv:
    bin_dir = setup.workspace / "bin"
    uv = find_uv(bin_dir, "", setup.cache) or install_uv(bin_dir)
    if uv.path != bin_dir / "uv" and not (bin_dir / "uv").exists():
        bin_dir.mkdir(parents=True, exist_ok=True)
        part = bin_dir / f".uv.{os.getpid()}"
        shutil.copy2(uv.path, part)
        part.replace(bin_dir / "uv")
    keep_uv(uv, setup.cache)
    return uv


def bring_ansible(setup: Setup, uv: Uv, *, afresh: bool = False) -> None:
    try:
        _bring_ansible(setup, uv, afresh=afresh)
    except UvCacheError as error:
        # The cache of a set-up lies in its workspace, whatever UV_CACHE_DIR says.
        hint = "let this account write there, become root, or name another folder with --workspace DIR"
        raise SetupError(f"bring ansible-core: {error.message}", hint=hint) from error


def _bring_ansible(setup: Setup, uv: Uv, *, afresh: bool) -> None:
    """ansible-core in an environment of its own; its stamp comes last, so that what a kill left behind is made again."""
    stamp = setup.venv / ".podcycle-stamp"
    pins = ansible_pins(setup)
    wanted = "\n".join(pins)
    with contextlib.suppress(OSError):
        if not afresh and stamp.read_text(encoding="utf-8") == wanted and run_program([str(setup.venv / "bin" / "python"), "-IS", "-c", ""]).returncode == 0:
            return
    stamp.unlink(missing_ok=True)
    env = environment(setup)
    said = ""
    for python in controller_pythons(check=setup.check):
        made = uv.run(["venv", "--quiet", "--clear", "--python", python, str(setup.venv)], env)
        said = made.stderr
        if made.returncode == 0:
            break
    else:
        raise SetupError(
            f"bring ansible-core: it needs Python 3.11 or later, and none was found or could be fetched: {_end_of(said)}",
            hint="install one (apt-get install python3.11 or python3.12), then run this script again",
        )
    install = ["pip", "install", "--quiet", "--python", str(setup.venv / "bin" / "python"), *pins]
    # The volume's cache first: it is quicker, and without a network the other one would only be refused after many tries.
    done = uv.run([*install, "--offline"], env)
    if done.returncode:
        done = uv.run(install, env)
    if done.returncode:
        raise SetupError(
            f"bring ansible-core: {_end_of(done.stderr)}",
            hint="check the machine's network, or set PIP_INDEX_URL to an index that it reaches",
        )
    write_whole(stamp, wanted)


def ansible_pins(setup: Setup) -> list[str]:
    """Those of the collection that came along."""
    lines = (setup.collection / "requirements-run.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("ansible-core==")]


def controller_pythons(*, check: bool) -> Iterator[str]:
    """Interpreters for ansible-core, the machine's own first; a bare version lets uv look and fetch. A check installs none."""
    if sys.version_info >= CONTROLLER_PYTHON:
        yield str(Path(getattr(sys, "_base_executable", "") or sys.executable))
    yield from ("3.12", "3.13", "3.11")
    if not check and os.geteuid() == 0 and shutil.which("apt-get"):
        # Ubuntu 22.04 carries it beside its own 3.10.
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run_program(["apt-get", "update", "-qq"], env, timeout=300)
        if run_program(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3.11"], env, timeout=600).returncode == 0:
            yield "/usr/bin/python3.11"


# ---- converging ------------------------------------------------------------------------------------------


def variables(setup: Setup) -> dict[str, Any]:
    given = {key: value for key, value in setup.settings["variables"].items() if value is not None}
    price = {"usd_per_hour": setup.settings["usd_per_hour"]} if setup.settings.get("usd_per_hour") else {}
    # The workspace's own script is to be restricted as this one is, and not as one run of it.
    roles = {"podcycle_stack_roles": given["stack_roles"]} if given.get("stack_roles") else {}
    return {
        **price,
        **roles,
        **given,
        "workspace": str(setup.workspace),
        "podcycle_pod_setup": str(setup.script) if setup.script.exists() else "",
        "podcycle_local": True,
        "ansible_python_interpreter": str(getattr(sys, "_base_executable", "") or sys.executable),
    }


def typed_values(text: str) -> list[str]:
    """What stood behind each -e; a value may be a key, so that the script hands them over by the environment."""
    return [value for value in text.split("\x1e") if value]


def converge(setup: Setup, timeout: float) -> int:
    """Exit status of ansible-playbook; what it says goes to the terminal and to the log."""
    playbook = setup.collection / "playbooks" / "bootstrap.yml"
    given = setup.state / "variables.json"
    write_whole(given, json.dumps(variables(setup), sort_keys=True) + "\n", 0o600)
    # Ours, even if empty, so that no ansible.cfg of the machine is read.
    write_whole(setup.state / "ansible" / "ansible.cfg", "[defaults]\n")
    python, program = str(setup.venv / "bin" / "python"), str(setup.venv / "bin" / "ansible-playbook")
    command = [program, "-c", "local", "-i", "localhost,", str(playbook), "-e", f"@{given}", *(["--check", "--diff"] if setup.check else [])]
    setup.log(shlex.join(command) + (f" and {len(setup.extra)} of -e" if setup.extra else ""))
    typed = json.dumps([word for value in setup.extra for word in ("-e", value)])
    # The lock goes along: while a playbook works whose script was killed, no other begins.
    keep = (LOCK_FD,) if os.path.exists(f"/proc/self/fd/{LOCK_FD}") else ()
    child = subprocess.Popen(
        [python, "-P", "-c", PLAYBOOK, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment(setup), "PODCYCLE_TYPED": typed},
        cwd=setup.workspace,
        start_new_session=True,
        pass_fds=keep,
        text=True,
        errors="replace",
    )
    with ended_with_us(child, timeout):
        for line in child.stdout or ():
            follow(setup, line.rstrip("\n"))
        return child.wait()


def follow(setup: Setup, line: str) -> None:
    phase = PHASE_LINE.match(line)
    if phase:
        setup.note(phase.group(1), float(phase.group(2)), stage="converge")
    setup.built = setup.built or BUILT_LINE.match(line) is not None
    recap = re.search(r"\bok=\d+\s+changed=(\d+)", line)
    if recap:
        setup.changed = int(recap.group(1))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    setup.log(line)


@contextlib.contextmanager
def ended_with_us(child: subprocess.Popen[str], timeout: float) -> Iterator[None]:
    """A signal or the time limit ends the playbook and all that it started."""
    caught: list[int] = []

    def end(number: int = signal.SIGALRM, _frame: Any = None) -> None:
        caught.append(number)
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGTERM)
        later = threading.Timer(10, _kill, [child])
        later.daemon = True
        later.start()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    limit = threading.Timer(timeout, end)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            _kill(child)
    if caught:
        what = f"it did not end in {timeout:.0f} s" if caught[0] == signal.SIGALRM else f"interrupted by {signal.Signals(caught[0]).name}"
        raise SetupError(f"converge this machine: {what}", hint="run this script again: it goes on where it was")


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)


# ---- the run ---------------------------------------------------------------------------------------------


def set_up(setup: Setup, *, hooked: bool) -> int:
    refuse_typed(setup)
    setup.tell_status("running")
    with setup.phase("uv"):
        uv = bring_uv(setup)
    with setup.phase("ansible"):
        bring_ansible(setup, uv)
    if not setup.check:
        install_self(setup)
    timeout = float(os.environ.get("PODCYCLE_TIMEOUT_SECONDS") or 7200)
    with setup.phase("converge"):
        code = converge(setup, timeout)
        if code and run_program([str(setup.venv / "bin" / "python"), str(setup.venv / "bin" / "ansible-playbook"), "--version"], environment(setup)).returncode:
            setup.say("ansible-core is damaged; bringing it anew")
            bring_ansible(setup, uv, afresh=True)
            code = converge(setup, timeout)
    if code:
        hint = f"see above, or {setup.state}/setup.log; then run this script again"
        raise SetupError(f"converge this machine: ansible-playbook ended with {code}", hint=hint)
    but = ""
    if not setup.check:
        if hooked:
            for name in hook(setup, Path.home()):
                setup.say(f"changed ~/{name}: one line at login")
        but = verified(setup, environment(setup), asked=not names_roles(setup))
        write_whole(Path(os.environ["PODCYCLE_MARK"]), f"{setup.settings['payload']}\n")
    for line in cost_lines(setup):
        setup.say(line)
    setup.tell_status("ok", 0)
    setup.say("nothing was changed: this was a check" if setup.check else f"Environment ready{but}")
    return 0


def interrupted(number: int, _frame: Any) -> None:
    raise SetupError(f"interrupted by {signal.Signals(number).name}", hint="run this script again: it goes on where it was")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="pod_setup.sh")
    parser.add_argument("--workspace", type=Path, required=True)
    for name in ("check", "force", "login", "watchdog", "detach", "no-hook"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args(words)
    settings = json.loads(os.environ.get("PODCYCLE_SETTINGS") or "{}")
    extra = typed_values(os.environ.pop("PODCYCLE_TYPED", ""))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    setup = Setup(args.workspace, settings, int(os.environ.get("PODCYCLE_BEGUN") or time.time() * 1000) / 1000, args.check, extra)
    earlier_phases(setup)
    try:
        if args.login and (job := running_job(setup)):
            cause = "this script has not set this machine up" if watchdog_of(setup).exists() else "the watchdog is gone"
            setup.say(f"Environment NOT ready: {cause}; a job runs in {job}, so nothing is touched; bash {setup.script} sets it up all the same")
            return 0
        if args.login:
            setup.say("the environment is not whole; setting it up (Ctrl-C stops it, the next login goes on)")
        return watch(setup, detach=args.detach) if args.watchdog else set_up(setup, hooked=not args.no_hook)
    except Mistyped as error:
        setup.say(f"failed: {clean_text(error, 2000)}")
        return 2
    except PodcycleError as error:
        cause = clean_text(error, 2000)
    except OSError as error:
        cause = f"cannot use {error.filename or 'a file'}: {error.strerror or error}"
    setup.tell_status("failed", 1, cause)
    setup.say(f"failed: {cause}")
    return 1


def _end_of(text: str, limit: int = 500) -> str:
    words = " ".join(text.split())
    return words if len(words) <= limit else "..." + words[-limit:]
