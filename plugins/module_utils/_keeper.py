# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper: a small detached process that gives a run's pods back when its controller is gone.

It watches ansible-playbook's process id and start time, which notices SIGINT, SIGTERM, SIGHUP and
SIGKILL alike. Then it notes the orphaned leases in the ledger, waits a grace in which a rerun of the
same run id takes over, and gives back. It also ends leases whose deadline or hold has passed.
It holds the run only while it gives back: when that fails, the next controller or stop.yml may take the run while it waits.
Its settings, the key among them, come over standard input: never a file, never an argument.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import BARE, PodcycleError, StateError
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_key import take_back
from ansible_collections.podcycle.gpu.plugins.module_utils._giving_back import Desk, Slot
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, open_cloud, open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId, StateDir, private, start_ticks, write_atomic

_LEDGER_EVERY_SECONDS = 5.0
_RETRY_SECONDS = 30.0
_GIVE_UP = timedelta(hours=24)
# The module path is set by hand: a regular package ansible_collections elsewhere on the path would hide ours.
_BOOTSTRAP = """
import sys, types
for name, path in (("ansible_collections", []), ("ansible_collections.podcycle", []), ("ansible_collections.podcycle.gpu", [sys.argv[1]])):
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = path
from ansible_collections.podcycle.gpu.plugins.module_utils._keeper import main
main()
"""


def ensure_keeper(collection: Path, options: Mapping[str, Any], state: StateDir, run_id: str, grace_seconds: float, typed: str = BARE) -> int:
    """Start the run's keeper unless one lives that has the same key and grace; its process id. Raises StateError when none comes up.

    Called before the first paid action: without a keeper nothing is rented.
    """
    folder = state.run_dir(run_id)
    terms = {"grace_seconds": grace_seconds, "key_id": open_cloud(options).key_id}
    running = living(folder)
    if running is not None and _terms(folder) == terms:
        return running
    if running is not None:
        _replace(running)
    settings = {"options": dict(options), "run_id": run_id, "grace_seconds": grace_seconds, "typed": typed}
    with open(folder / "keeper.log", "ab", opener=private) as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, str(collection)], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=Path.cwd(), start_new_session=True
        )
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin as stream:
            stream.write(json.dumps(settings).encode())
    end = time.monotonic() + 20
    while time.monotonic() < end:
        running = living(folder)
        if running is not None:
            return running
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise StateError(
        f"the keeper of run {run_id} did not come up, so nothing was rented", hint=f"see {folder / 'keeper.log'}", log=_tail(folder / "keeper.log")
    )


def living(folder: Path) -> int | None:
    """The process id of the keeper of a run's folder, while it lives."""
    try:
        process = ProcessId.from_dict(json.loads((folder / "keeper.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None
    return process.pid if process.alive else None


def _terms(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads((folder / "keeper.json").read_text(encoding="utf-8"))
        return {name: known.get(name) for name in ("grace_seconds", "key_id")}
    return {}


def _replace(pid: int) -> None:
    """End a keeper whose key or grace is not what the person now wants; the run has a living controller meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 5
    while start_ticks(pid) is not None and time.monotonic() < end:
        time.sleep(0.02)


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")[-600:]
    return ""


@dataclass
class Keeper:
    session: Session
    run_id: str
    grace_seconds: float
    retry_at: dict[str, float] = field(default_factory=dict)
    # Who had the run when it was orphaned.
    before: ProcessId | None = None
    # How a person types another playbook: with the inventory that this one was started with.
    typed: ClassVar[str] = BARE

    def watch(self) -> str:
        """Until nothing of the run is left to keep; says how it ended."""
        looked = 0.0
        while True:
            try:
                looked, said = self._look(looked)
            except (PodcycleError, OSError) as err:
                # A full disk or a ledger that is being moved must not leave the pods without a keeper.
                self.log(f"{err}; trying again in {_RETRY_SECONDS:.0f} s")
                said = ""
                time.sleep(_RETRY_SECONDS)
            if said:
                return said
            time.sleep(1.0)

    def _look(self, looked: float) -> tuple[float, str]:
        """One look at controller and ledger: when the ledger was read last, and how the keeping ended, if it has."""
        holder = self.session.state.run_holder(self.run_id)
        gone = holder is None or not holder.alive
        if not gone and time.monotonic() - looked < _LEDGER_EVERY_SECONDS:
            return looked, ""
        looked = time.monotonic()
        self._end_overdue([lease for lease in self._leases() if self._overdue(lease, gone)])
        leases = self._leases()
        if gone and not leases:
            return looked, "nothing is rented any more"
        bound = [lease for lease in leases if not lease.marks.get("kept") and not lease.marks.get("held_until")]
        if gone and bound and self._grace(bound, holder):
            said = self._give_back()
            if not said:
                self._taken_over(self._leases())
            return looked, said
        return looked, ""

    def _leases(self) -> list[Lease]:
        return [lease for lease in self.session.ledger.of_run(self.run_id) if lease.open]

    @staticmethod
    def _overdue(lease: Lease, gone: bool) -> bool:
        """Its deadline has passed; a hold counts only while nobody works with the pod."""
        held = model.parse_time(lease.marks.get("held_until")) if gone else None
        now = model.utc_now()
        return bool((lease.deadline and now >= lease.deadline) or (held and now >= held))

    def _end_overdue(self, leases: list[Lease]) -> None:
        for lease in leases:
            if time.monotonic() < self.retry_at.get(str(lease.stamp), 0.0):
                continue
            self.log(f"{lease.stamp}: its time is over; giving it back")
            try:
                self.log(f"{lease.stamp}: {self._desk().release(lease)}")
            except PodcycleError as err:
                self.log(str(err))
                self.retry_at[str(lease.stamp)] = time.monotonic() + _RETRY_SECONDS

    def _grace(self, leases: list[Lease], holder: ProcessId | None) -> bool:
        """Wait for a rerun to take the run over; false when one did."""
        until = min([model.utc_now() + timedelta(seconds=self.grace_seconds), *(lease.deadline for lease in leases if lease.deadline)])
        self.log(f"the controller {holder} is gone with {len(leases)} open leases; giving them back at {model.rfc3339(until)} unless a rerun takes over")
        with contextlib.suppress(StateError):
            for lease in leases:
                self.session.ledger.write(lease.stamp, "mark", orphaned_at=model.rfc3339(model.utc_now()), gives_back_at=model.rfc3339(until))
        while model.utc_now() < until:
            if self._driven():
                self._taken_over(leases)
                return False
            time.sleep(0.5)
        return True

    def _driven(self) -> ProcessId | None:
        """The living process, other than this one, that has the run."""
        holder = self.session.state.run_holder(self.run_id)
        return holder if holder is not None and holder.alive and holder != this_process() else None

    def _taken_over(self, leases: list[Lease]) -> None:
        self.log(f"run taken over by {self._driven() or 'a process that is gone again'}")
        for lease in leases:
            self.session.ledger.write(lease.stamp, "mark", orphaned_at=None, gives_back_at=None)

    def _give_back(self) -> str:
        """Give back until nothing is left, for at most a day; empty when somebody took the run over."""
        began = model.utc_now()
        while True:
            try:
                slots = self._attempt()
                failed = [slot.error for slot in slots if slot.error is not None]
                if not failed:
                    return f"gave back {len(slots)} pods"
                self.log("; ".join(str(error) for error in failed))
            except (PodcycleError, OSError) as err:
                self.log(str(err))
            if model.utc_now() - began > _GIVE_UP:
                return f"gave up after a day; run: {BARE}reap.yml"
            if self._waited_in_vain():
                return ""

    def _attempt(self) -> list[Slot]:
        """Give back once, with the run taken for no longer than that."""
        state, me = self.session.state, replace(this_process(), keeper=True)
        try:
            self.before = state.take_run(self.run_id, me) or self.before
        except OSError as err:
            # On a full disk no other controller can take the run either, and the pods cost money all the same.
            self.log(f"{err}; giving back without the run's lock")
        try:
            return self._desk().release_run(self.run_id)
        finally:
            try:
                state.leave_run(self.run_id, me, self.before)
            except (PodcycleError, OSError) as err:
                self.log(f"{err}; the run stays with its keeper until the next attempt")

    def _waited_in_vain(self) -> bool:
        """Wait for the next attempt; true when somebody took the run over meanwhile."""
        end = time.monotonic() + _RETRY_SECONDS
        while True:
            with contextlib.suppress(StateError):
                if self._driven():
                    return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.5)

    def _desk(self) -> Desk:
        return Desk(self.session.cloud, self.session.ledger, self.session.state, notify=self.log)

    @staticmethod
    def log(text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.write(f"{model.rfc3339(model.utc_now())} {text.replace(BARE, Keeper.typed)}\n")
            sys.stdout.flush()


def this_process() -> ProcessId:
    found = ProcessId.of(os.getpid())
    if found is None:
        raise StateError("this process is not listed in /proc", hint="the controller must be Linux")
    return found


def main() -> None:
    """Entry point of the detached process."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    settings: dict[str, Any] = json.load(sys.stdin)
    Keeper.typed = str(settings.get("typed") or BARE)
    session = open_session(settings["options"])
    folder = session.state.run_dir(settings["run_id"])
    handle = os.open(folder / "keeper.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        Keeper.log("another keeper of this run lives")
        return
    me = this_process()
    keeper = Keeper(session, settings["run_id"], float(settings["grace_seconds"]))
    terms = {"grace_seconds": keeper.grace_seconds, "key_id": session.cloud.key_id}
    write_atomic(folder / "keeper.json", json.dumps({**me.to_dict(), **terms, "since": model.rfc3339(model.utc_now())}) + "\n")
    keeper.log(f"keeping run {keeper.run_id}")
    keeper.log(keeper.watch())
    if session.cloud.name == "runpod":
        # Whatever begins to rent for the run meanwhile keeps its key.
        for line in take_back(settings["options"], session, keeper.run_id, spare_waiting=True):
            keeper.log(line)
    os.close(handle)
