# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a start script leaves on its machine: phases, status, its own copy, the block in the shell's files, and what it cost.

Python 3.10 and the standard library alone.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from ._blocks import merge_block
from ._errors import PodcycleError
from ._receipts import sign_set_up

MARKER = "podcycle.gpu bootstrap"
# What a shell reads at its start.
HOOKED = (".bashrc", ".profile")
# The script holds its lock on it.
LOCK_FD = 9


class SetupError(PodcycleError):
    code = "pod_setup"


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Aside, to the disk, then in its place; a link keeps pointing where it did."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), mode)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


@dataclass
class Setup:
    """One run of the script on this machine."""

    workspace: Path
    settings: dict[str, Any]
    begun: float
    check: bool = False
    extra: list[str] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    # What converging consisted of.
    parts: list[tuple[str, float]] = field(default_factory=list)
    changed: int | None = None
    # The toolkit, the headers or torch came, which by hand is the work.
    built: bool = False

    @property
    def state(self) -> Path:
        return self.workspace / ".podcycle" / "bootstrap"

    @property
    def collection(self) -> Path:
        return self.state / "collection" / "ansible_collections" / "podcycle" / "gpu"

    @property
    def cache(self) -> Path:
        return self.workspace / "cache" / "uv"

    @property
    def venv(self) -> Path:
        return self.workspace / ".podcycle" / "ansible"

    @property
    def script(self) -> Path:
        return self.workspace / "pod_setup.sh"

    def say(self, text: str) -> None:
        sys.stdout.write(f"[Bootstrap] {text}\n")
        sys.stdout.flush()
        self.log(f"[Bootstrap] {text}")

    def log(self, line: str) -> None:
        with contextlib.suppress(OSError), (self.state / "setup.log").open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(f"{now()} {line}\n")

    def note(self, phase: str, seconds: float, status: str = "ok", stage: str = "bootstrap") -> None:
        (self.phases if stage == "bootstrap" else self.parts).append((phase, seconds))
        row = {"ts": now(), "stage": stage, "phase": phase, "status": status, "elapsed_ms": round(seconds * 1000), "run": f"{self.begun * 1000:.0f}"}
        with contextlib.suppress(OSError), (self.state / "phases.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.note(name, time.monotonic() - started, "failed")
            raise
        self.note(name, time.monotonic() - started)

    def tell_status(self, state: str, exit_code: int | None = None, cause: str = "") -> None:
        """How the set-up stands; a check has nothing to say about the last one."""
        if self.check:
            return
        taken = {name: round(seconds, 2) for name, seconds in (*self.phases, *self.parts)}
        about = {"payload": self.settings.get("payload", ""), "version": self.settings.get("version", ""), "pid": os.getpid()}
        row = {"state": state, "exit": exit_code, "cause": cause, "changed": self.changed, "ts": now(), "seconds": self.seconds, "phases": taken, **about}
        with contextlib.suppress(OSError):
            write_whole(self.state / "status.json", json.dumps(row, indent=1) + "\n")
            if state == "ok":
                self._sign()

    def _sign(self) -> None:
        """For the script, the mark and the lines at login, which come after all that the playbook signs for; as playbooks/bootstrap.yml does."""
        mark = os.environ.get("PODCYCLE_MARK")
        if mark:
            hooks = {str(Path.home() / name): MARKER for name in HOOKED}
            sign_set_up(self.workspace, {"digest": str(self.settings["payload"]), "paths": [str(self.script), mark], "hooks": hooks})

    @property
    def seconds(self) -> float:
        return round(time.time() - self.begun, 2)


def earlier_phases(setup: Setup) -> None:
    """What the script did before Python was there."""
    run = f"{setup.begun * 1000:.0f}"
    with contextlib.suppress(OSError):
        for line in (setup.state / "phases.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()[-50:]:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                if row["run"] == run:
                    setup.phases.append((str(row["phase"]), row["elapsed_ms"] / 1000))


def install_self(setup: Setup) -> bool:
    """The script itself into the workspace, where the watchdog and the next login find it."""
    source = os.environ.get("PODCYCLE_SCRIPT", "")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = Path(source).read_text(encoding="utf-8") if source and Path(source).is_file() else ""
        if setup.settings["kind"] == "pod_setup" and text.startswith("#!") and str(setup.settings["payload"]) in text:
            if not setup.script.exists() or setup.script.read_text(encoding="utf-8") != text:
                write_whole(setup.script, text, 0o755)
                setup.say(f"changed {setup.script}")
            return True
    return False


def watched(variables: Mapping[str, Any]) -> bool:
    """Whether the machine is to have a watchdog, without which nothing vouches for it."""
    return "cuda_watchdog" in (variables.get("stack_roles") or ["cuda_watchdog"]) and variables.get("cuda_watchdog_state") != "absent"


def names_in(value: str) -> list[str]:
    """The variables of one -e; a file and YAML are Ansible's to read."""
    if value.startswith("{"):
        return re.findall(r"(?:^\{|,)\s*[\"']?([A-Za-z0-9_]+)[\"']?\s*:", value)
    return [] if value.startswith(("@", "[")) else re.findall(r"(?:^|\s)([A-Za-z0-9_]+)=", value)


def names_roles(setup: Setup) -> bool:
    """Whether this run was told which roles, behind -e or in a file that is named there; Ansible starts in the workspace."""
    for value in setup.extra:
        if "stack_roles" in names_in(value):
            return True
        with contextlib.suppress(OSError):
            text = (setup.workspace / Path(value[1:]).expanduser()).read_text(encoding="utf-8", errors="replace") if value.startswith("@") else ""
            if re.search(r"(?m)(?:^|[{,])[ \t]*[\"']?stack_roles[\"']?[ \t]*:", text):
                return True
    return False


# As near as one letter that is wrong, missing or too much.
NEAR = 0.85


def misspelt(names: Iterable[str], known: Sequence[str], roles: Iterable[str], *, near_only: bool = False, others: bool = False) -> str:
    """The first variable that is named after a role and that no role has, as the end of a sentence; it would be passed over without a word.

    With `near_only` one that resembles none is somebody else's, such as node_exporter_version. With `others` one that is named after no role
    is looked at too, such as torch_version.
    """
    prefixes = tuple(f"{role}_" for role in roles)
    for name in names:
        ours = name.startswith(prefixes)
        if (ours or others) and name not in known:
            near = difflib.get_close_matches(name, known, 1, NEAR if near_only or not ours else 0.6)
            if not near and (near_only or not ours):
                continue
            return f"no role has a variable {name}{f'; {near[0]} was meant, perhaps' if near else ''}"
    return ""


def hook_text(workspace: str) -> str:
    """One line for each interactive shell, none for scp, rsync and commands."""
    script = f"{workspace}/pod_setup.sh"
    run = f"bash {shlex.quote(script)} --login --workspace {shlex.quote(workspace)} || :"
    gone = shlex.quote(f"[Bootstrap] Environment not checked: {script} is not there; see that the volume is mounted, or converge this machine again")
    look = f"podcycle_seen=1; if [ -f {shlex.quote(script)} ]; then {run}; else echo {gone}; fi"
    return f'case $- in *i*) if [ -z "${{podcycle_seen-}}" ]; then {look}; fi ;; esac\n'


def hook(setup: Setup, home: Path) -> list[str]:
    """One marked block in the files that a shell reads; the names of those that changed."""
    changed = []
    for name in HOOKED:
        path = home / name
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
            after = merge_block(text, MARKER, hook_text(str(setup.workspace)), "bottom")
            if after != text:
                mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
                write_whole(path, after, mode)
                changed.append(name)
        except (OSError, UnicodeError) as error:
            setup.say(f"{path} cannot be written, so nothing happens at login: {error}")
    return changed


def cost_lines(setup: Setup) -> list[str]:
    """What this run took and cost; beside doing it by hand, if it has built something."""
    told, parts = (", ".join(f"{name} {seconds:.1f} s" for name, seconds in rows) for rows in (setup.phases, setup.parts))
    told += f" ({parts})" if parts else ""
    lines = [f"{setup.seconds:.1f} s: {told}"]
    manual = float(setup.settings.get("baseline_minutes") or 0)
    saved = manual - setup.seconds / 60
    price = Decimal(0)
    with contextlib.suppress(InvalidOperation):
        price = Decimal(str(setup.settings.get("usd_per_hour") or setup.settings["variables"].get("usd_per_hour") or "0"))
    words = []
    if price > 0:
        words.append(f"cost {price * Decimal(str(setup.seconds)) / 3600:.4f} $ at {price} $/h")
    if manual and setup.built and not setup.check:
        words.append(f"saved {saved:.1f} min against {manual:g} min by hand" + (f", {price * Decimal(str(saved)) / 60:.4f} $" if price > 0 else ""))
    if words:
        lines.append("; ".join(words))
    return lines


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
