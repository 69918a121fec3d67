# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The crash matrix: the controller dies at every ledger write and at every call, or its disk is full; two controllers at once."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chaos.scene import Scene, Verdict, judge, judge_healed, staged

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from support.harness import Rehearsal

DEATHS = ("before the fsync", "after the fsync", "in the middle of the line")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FOLLOW_UPS = ("rerun", "reap")
TOGETHER = 10
AFTER_RENTING = 9  # a call between the one that shows the pod running and the one that ends it


@dataclass
class Case:
    number: int
    cloud: str
    what: str
    at: int
    then: str

    @property
    def kind(self) -> str:
        return f"{self.what}, then {self.then}"

    @property
    def must_strike(self) -> bool:
        return True

    @property
    def title(self) -> str:
        return f"{self.cloud}: {self.what} {self.at}, then {self.then}"


def matrix(cloud: str, calls: int, writes: int) -> list[Case]:
    cases = [Case(0, cloud, f"killed {death} of ledger write", at, then) for death in DEATHS for at in range(writes) for then in FOLLOW_UPS]
    cases += [Case(0, cloud, f"killed {side} call", at, then) for side in ("before", "after") for at in range(calls) for then in FOLLOW_UPS]
    cases += [Case(0, cloud, f"disk full {how} ledger write", at, "stop and reap") for how in ("at", "in the middle of") for at in range(writes)]
    cases += [Case(0, cloud, "two controllers with two runs, turn", at, "both end well") for at in range(TOGETHER)]
    cases += [Case(0, cloud, "two reaps at once, turn", at, "both end well") for at in range(TOGETHER)]
    cases += [
        Case(0, cloud, f"{ending.name} {side} the fsync of ledger write", at, then)
        for ending in SIGNALS
        for side in ("before", "after")
        for at in range(writes)
        for then in FOLLOW_UPS
    ]
    for number, case in enumerate(cases):
        case.number = number
    return cases


def count_writes(cloud: str, rehearsal: Rehearsal, folder: Path) -> int:
    """Ledger writes of an undisturbed cycle."""
    scene = Scene.fresh(cloud, rehearsal, folder)
    with staged(scene), watched_writes(lambda number, handle: None) as seen:
        failed = scene.cycle()
    assert not failed, failed
    return seen[0]


@contextmanager
def watched_writes(strike: Callable[[int, int], None], *, synced: bool = False) -> Iterator[list[int]]:
    """Calls `strike` with the number of a ledger write and its file, right before the fsync, or right after it."""
    seen = [0]
    fsync = os.fsync

    def watched(handle: int) -> None:
        ledger = "/ledgers/" in os.readlink(f"/proc/self/fd/{handle}") and not os.path.isdir(f"/proc/self/fd/{handle}")
        if ledger and not synced:
            strike(seen[0], handle)
        fsync(handle)
        if ledger and synced:
            strike(seen[0], handle)
        seen[0] += ledger

    os.fsync = watched  # type: ignore[assignment]
    try:
        yield seen
    finally:
        os.fsync = fsync


def run(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    if case.what.startswith(("killed", "SIG")):
        return _killed(case, rehearsal, folder)
    if case.what.startswith("disk full"):
        return _disk_full(case, rehearsal, folder)
    return _reaped_twice(case, rehearsal, folder) if "reaps" in case.what else _together(case, rehearsal, folder)


# ---- deaths -------------------------------------------------------------------------------------------


def _die(ending: signal.Signals, struck: Path) -> None:
    struck.touch()
    os.kill(os.getpid(), ending)


def _killed(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    scene = Scene.fresh(case.cloud, rehearsal, folder)
    _in_child(lambda: _doomed(case, scene))
    if not _struck(scene).exists():
        return Verdict(struck=False)
    with staged(scene):
        if case.then == "rerun":
            return judge_healed(scene, judge(scene, scene.cycle(), must_pass=True))
        verdict = Verdict()
        try:
            scene.reap()
        except errors.PodcycleError as err:
            verdict.blame(f"reap failed: {err}")
        left = scene.ours()
        if left:
            verdict.leaked += len(left)
            verdict.blame(f"reap left {', '.join(pod['id'] for pod in left)} alive")
        return judge_healed(scene, verdict)


def _struck(scene: Scene) -> Path:
    return scene.folder / "struck"


def _doomed(case: Case, scene: Scene) -> None:
    """The cycle of a controller that is ended on its way, with the handlers that a module has: Python's own."""
    ending = next((number for number in SIGNALS if case.what.startswith(number.name)), signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

    def strike(number: int, handle: int) -> None:
        if number != case.at:
            return
        if "middle" in case.what:
            os.ftruncate(handle, os.fstat(handle).st_size - 12)
        _die(ending, _struck(scene))

    with staged(scene):
        if "call" in case.what:
            (scene.before if "before" in case.what else scene.after)[case.at] = lambda: _die(ending, _struck(scene))
            scene.cycle()
        else:
            with watched_writes(strike, synced="after" in case.what):
                scene.cycle()


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


# ---- a full disk --------------------------------------------------------------------------------------


def _disk_full(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    """From one ledger write on the disk takes nothing more, until somebody makes room."""
    scene = Scene.fresh(case.cloud, rehearsal, folder)
    write, seen, half = os.write, [0], "middle" in case.what

    def full(handle: int, content: bytes) -> int:
        if "/ledgers/" not in os.readlink(f"/proc/self/fd/{handle}"):
            return write(handle, content)
        seen[0] += 1
        if seen[0] <= case.at:
            return write(handle, content)
        if half and seen[0] == case.at + 1:
            return write(handle, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with staged(scene):
        os.write = full  # type: ignore[assignment]
        try:
            failed = scene.cycle()
        finally:
            os.write = write
        verdict = judge(scene, failed, must_pass=False)
        if not failed and scene.ours():
            verdict.blame("a full disk was not noticed")
        if case.at == 0 and any(method == "POST" for method, _path in scene.log):
            verdict.blame("a pod was asked for without a written intent")
        return judge_healed(scene, verdict)


# ---- two at once --------------------------------------------------------------------------------------


def _reaped_twice(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    """Two reapers meet at one orphan."""
    scene = Scene.fresh(case.cloud, rehearsal, folder)
    _in_child(lambda: _doomed(Case(0, case.cloud, "killed before call", AFTER_RENTING, ""), scene))
    if not scene.ours():
        return Verdict(["there was no orphan for the reapers"])
    ended = _at_once([lambda: scene.reap() and None] * 2, [scene] * 2)
    verdict = Verdict()
    if ended != [0, 0]:
        verdict.blame(f"the two reapers ended with {ended}")
    if scene.ours():
        verdict.leaked += 1
        verdict.blame("the orphan outlived two reapers")
    with staged(scene):
        return judge_healed(scene, verdict)


def _at_once(works: Sequence[Callable[[], object]], scenes: Sequence[Scene]) -> list[int]:
    """Exit codes of children that work at the same time: 0, 2 when the work returned something, 1 when it raised."""
    children = []
    for work, scene in zip(works, scenes, strict=True):
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(BaseException), staged(scene):
                status = 2 if work() else 0
            os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _together(case: Case, rehearsal: Rehearsal, folder: Path) -> Verdict:
    """Two runs on one account and one ledger: both end well, and neither touches the other's pod."""
    scenes = [Scene.fresh(case.cloud, rehearsal, folder)]
    scenes.append(Scene(case.cloud, rehearsal, folder, strangers=scenes[0].strangers, run_id="other"))
    ended = _at_once([scene.cycle for scene in scenes], scenes)
    verdict = Verdict()
    if ended != [0, 0]:
        verdict.blame(f"the two controllers ended with {ended}")
    made = {}
    for pod in scenes[0].ours(ended=True):
        made.setdefault(pod["name"], []).append(pod["id"])
    if len(made) != 2 or any(len(ids) != 1 for ids in made.values()):
        verdict.blame(f"two runs made these pods: {made}")
    with staged(scenes[0]):
        return judge_healed(scenes[0], verdict)
