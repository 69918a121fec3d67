# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle's calls to the cloud, without Ansible around them, and the judgement on what it left behind.

The steps are what the modules pod, pod_info and lease_info do, in the order of the playbooks: plan, rent, stop, start again,
look, give back, audit. A step that fails does not end the cycle: the playbooks too go on to giving back.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _leases, _listing, _pods, _ssh
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import CLOUDS
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient, RawReply
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint, Stamp
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_session
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId, StateDir
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import SystemClock
from support.harness import FULL, FakeClock, Rehearsal

RUN = "chaos"
# Shorter than a fault's silence, longer than an answer of the rehearsal cloud under load.
REQUEST_TIMEOUT = 1.0
DEAD_PORT = 9  # discard: nothing listens there, so a connection is refused
# An id in a request's URL says nothing of a pod's life: only this sentence does, with what to type.
STILL_BILLED = re.compile(r"pods that may still be billed: ([^;]+); [^;]*ansible-playbook playbooks/(?:stop|reap)\.yml")
# A request, or a pod by its id or name.
TRIED = re.compile(r"(?:GET|POST|DELETE) /\S* on \w+|\bpod [a-z0-9]{14}\b|\bcreate pod \S+ of run |\bcreated podcycle-\S+")
OTHER_OWNER = "0badc0de"


@dataclass
class Verdict:
    """How a case ended: what went wrong, and what was counted."""

    faults: list[str] = field(default_factory=list)
    leaked: int = 0
    duplicates: int = 0
    said: list[str] = field(default_factory=list)
    calls: int = 0
    struck: bool = True

    def blame(self, text: str) -> None:
        self.faults.append(text)


@dataclass
class Scene:
    """A state folder and an account with two strangers in it."""

    cloud: str
    rehearsal: Rehearsal
    folder: Path
    calls: int = 0
    log: list[tuple[str, str]] = field(default_factory=list)
    before: dict[int, Callable[[], None]] = field(default_factory=dict)
    after: dict[int, Callable[[], None]] = field(default_factory=dict)
    refused: frozenset[int] = frozenset()
    strangers: list[str] = field(default_factory=list)
    run_id: str = RUN
    # What came of the strikes that are not the cloud's own.
    hits: int = 0
    # What an SSH login to a pod meets; None where the cycle has no SSH at all.
    sshd: Callable[[str, float], str] | None = None

    @classmethod
    def fresh(cls, cloud: str, rehearsal: Rehearsal, folder: Path) -> Scene:
        shutil.rmtree(folder, ignore_errors=True)
        rehearsal.reset()
        # Pods boot in no time, so that the number of polls, and with it a case's number, is the same on every machine.
        rehearsal.control("POST", "/time_scale", {"scale": 100_000})
        scene = cls(cloud, rehearsal, folder)
        scene.options("plan")  # makes the state folder, so that strangers can be told from us
        scene.strangers = [scene.stranger("somebody-elses-pod"), scene.stranger(str(Stamp(scene.run_id, "pod", 0, OTHER_OWNER, "12345678")))]
        return scene

    # ---- the world ------------------------------------------------------------------------------

    def stranger(self, name: str) -> str:
        """A pod that somebody else rents on the same account."""
        # Past the API, where armed faults wait for us.
        return str(self.rehearsal.control("POST", "/pods/bulk", {"names": [name]})["first"])

    def ours(self, *, ended: bool = False) -> list[dict[str, Any]]:
        owner = StateDir(self.folder / "state").open().owner
        stamped = [(pod, Stamp.parse(pod["name"])) for pod in self.rehearsal.pods(ended=ended)]
        return [pod for pod, stamp in stamped if stamp and stamp.owner == owner and pod["id"] not in self.strangers]

    def ledger(self) -> Ledger:
        return open_session(self.options("audit")).ledger

    def at(self, call: int, work: Callable[[], None]) -> None:
        """Do something right before a call, after what is to be done there already."""
        earlier = self.before.get(call, lambda: None)

        def both() -> None:
            earlier()
            work()

        self.before[call] = both

    def struck(self) -> bool:
        """Whether anything that was armed has happened."""
        return self.hits > 0 or any(fault["fired"] for fault in self.rehearsal.control("GET", "/faults")["faults"])

    # ---- the cycle ------------------------------------------------------------------------------

    def options(self, step: str) -> dict[str, Any]:
        """The module's parameters for a step."""
        common: dict[str, Any] = {
            "cloud": self.cloud, "api_key": FULL, "endpoint": self.rehearsal.url, "request_timeout": REQUEST_TIMEOUT,
            "account": "default", "state_dir": str(self.folder / "state"), "run_id": self.run_id, "scope": "ours",
        }  # fmt: skip
        StateDir(self.folder / "state").open()
        if step in ("look", "audit"):
            return common
        spec = _pods.pod_spec()
        defaults = {name: one.get("default") for name, one in spec.items()}
        state = {"stop": "stopped", "give back": "absent"}.get(step, "running")
        wish = {"gpu": ["RTX 4090", "RTX 3090"], "max_usd_per_hour": "1.50", "image": "runpod/base:1", "disk_gib": 20, "volume_gib": 10}
        waits = {"boot": 900.0, "endpoint": 300.0, "sshd": 300.0, "stop": 600.0, "release": 120.0, "settle": 3.0, "capacity": 0.0}
        files = {"ssh_private_key_file": str(self.folder / "key"), "known_hosts_file": str(self.folder / "known_hosts")} if self.sshd else {}
        return {**defaults, **common, **wish, **files, "state": state, "ssh_public_key": "ssh-ed25519 AAAA me", "waits": waits}

    def steps(self) -> list[tuple[str, Callable[[], Any]]]:
        return [
            ("plan", lambda: _pods.converge(self.options("plan"), check_mode=True)),
            ("rent", lambda: _pods.converge(self.options("rent"), check_mode=False)),
            ("stop", lambda: _pods.converge(self.options("stop"), check_mode=False)),
            ("start again", lambda: _pods.converge(self.options("start again"), check_mode=False)),
            ("look", lambda: _listing.pod_info(self.options("look"))),
            ("give back", lambda: _pods.converge(self.options("give back"), check_mode=False)),
            ("audit", lambda: _leases.lease_info(self.options("audit"))),
        ]

    def cycle(self) -> dict[str, errors.PodcycleError]:
        """Every step; those that failed with why. What a failed step needs is left out, as the playbooks do."""
        failed: dict[str, errors.PodcycleError] = {}
        StateDir(self.folder / "state").open().take_run(self.run_id, _this_process())
        for name, work in self.steps():
            if failed and name in ("rent", "stop", "start again", "look"):
                continue
            try:
                work()
            except errors.PodcycleError as err:
                failed[name] = err
        return failed

    def heal(self) -> None:
        """What the messages tell people to type, once the weather is fair: stop.yml, then reap.yml."""
        self.before, self.after, self.refused, self.sshd = {}, {}, frozenset(), None
        self.rehearsal.control("DELETE", "/faults")
        _pods.converge(self.options("give back"), check_mode=False)
        self.reap()

    def reap(self, **more: Any) -> dict[str, Any]:
        return _leases.reap({**self.options("audit"), "run_id": None, "select": "over", "owner": None, **more}, check_mode=False)


def _this_process() -> ProcessId:
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


# ---- time and the wire ------------------------------------------------------------------------------


@contextmanager
def staged(scene: Scene) -> Iterator[None]:
    """Time passes only by waiting, and every request is counted, watched and perhaps refused."""
    clock = FakeClock()
    send, monotonic, sleep = HttpClient._send, SystemClock.monotonic, SystemClock.sleep

    def counted(client: HttpClient, method: str, path: str, body: dict[str, Any] | None) -> RawReply:
        number = scene.calls
        scene.calls += 1
        scene.log.append((method, path))
        if number in scene.before:
            scene.before[number]()
        if number in scene.refused:
            scene.hits += 1
            client = HttpClient(f"http://127.0.0.1:{DEAD_PORT}/v2", client.key, client.label, clock=client.clock)
        reply = send(client, method, path, body)
        if number in scene.after:
            scene.after[number]()
        return reply

    def probe(access: _ssh.SshAccess, pod_id: str, endpoint: Endpoint, timeout_seconds: float = 10.0, run_id: str = "") -> str:
        return scene.sshd(pod_id, clock.monotonic()) if scene.sshd else ""

    probed, masters = _ssh.SshAccess.probe, _ssh.masters_base
    _ssh.SshAccess.probe = probe  # type: ignore[method-assign]
    _ssh.masters_base = lambda: _ssh._private(scene.folder / "masters")
    HttpClient._send = counted  # type: ignore[method-assign]
    SystemClock.monotonic = lambda self: clock.monotonic()  # type: ignore[method-assign]
    SystemClock.sleep = lambda self, seconds: clock.sleep(seconds)  # type: ignore[method-assign]
    try:
        yield
    finally:
        _ssh.SshAccess.probe, _ssh.masters_base = probed, masters  # type: ignore[method-assign]
        HttpClient._send = send  # type: ignore[method-assign]
        SystemClock.monotonic, SystemClock.sleep = monotonic, sleep  # type: ignore[method-assign]


# ---- judgement ----------------------------------------------------------------------------------------


def judge(scene: Scene, failed: dict[str, errors.PodcycleError], *, must_pass: bool) -> Verdict:
    """Nothing of ours left or said exactly which and what to type; never two pods for one intent; strangers untouched."""
    verdict = Verdict(calls=scene.calls, said=[f"{step}: {err}" for step, err in failed.items()])
    words = " ".join(verdict.said)
    alive = scene.ours()
    told = " ".join(clause for err in failed.values() for clause in STILL_BILLED.findall(str(err)))
    for pod in alive:
        if pod["id"] not in told and pod["name"] not in told:
            verdict.leaked += 1
            verdict.blame(f"pod {pod['id']} lives, and nobody says that it is billed and what to type; said: {words or 'nothing'}")
    for step, err in failed.items():
        if not err.hint:
            verdict.blame(f"{step} failed without saying what to do next: {err}")
    if must_pass and failed:
        verdict.blame(f"should have been survived: {words}")
    judge_lives(scene.ours(ended=True), verdict)
    _judge_strangers(scene, verdict)
    return verdict


def judge_cause(failed: dict[str, errors.PodcycleError], causes: list[str], verdict: Verdict) -> None:
    """Every failure names the request or the pod that it came from, and one of them what has really gone wrong."""
    for step, err in failed.items():
        if not TRIED.search(err.message):
            verdict.blame(f"{step} failed without saying at what: {err}")
    if failed and not any(re.search(cause, err.message) for cause in causes for err in failed.values()):
        verdict.blame(f"no word of the cause ({' or '.join(causes)}) in: {' '.join(verdict.said)}")


def judge_healed(scene: Scene, verdict: Verdict) -> Verdict:
    """After what the messages say to type: nothing lives, nothing is billed, the ledger is closed."""
    try:
        scene.heal()
    except errors.PodcycleError as err:
        verdict.blame(f"cannot be mended by stop and reap: {err}")
    left = scene.ours()
    if left:
        verdict.leaked += len(left)
        verdict.blame(f"still alive after stop and reap: {', '.join(pod['id'] for pod in left)}")
    billed = set(scene.rehearsal.control("GET", "/meter")["open"]) - set(scene.strangers)
    if billed - {pod["id"] for pod in left}:
        verdict.blame(f"still billed: {', '.join(sorted(billed))}")
    unsettled = [f"{lease.stamp} ({lease.state})" for lease in scene.ledger().leases() if lease.open]
    if unsettled:
        verdict.blame(f"still open in the ledger: {', '.join(unsettled)}")
    _judge_strangers(scene, verdict)
    return verdict


def judge_lives(pods: list[dict[str, Any]], verdict: Verdict) -> None:
    """Of all pods that a place of a run ever had: one for each intent, and never two at a time."""
    spans: dict[str, list[tuple[str, str, str]]] = {}
    for pod in pods:
        spans.setdefault(pod["name"], []).append((pod["created_at"], pod["ended_at"] or "9", pod["id"]))
    for name, made in spans.items():
        if len(made) > 1:
            verdict.duplicates += len(made) - 1
            verdict.blame(f"{len(made)} pods were made for one intent {name}: {', '.join(one[2] for one in made)}")
    lives = sorted(one for made in spans.values() for one in made)
    for first, second in zip(lives, lives[1:], strict=False):
        if second[0] < first[1]:
            verdict.duplicates += 1
            verdict.blame(f"pods {first[2]} and {second[2]} lived at the same time for one place")


def _judge_strangers(scene: Scene, verdict: Verdict) -> None:
    living = {pod["id"]: pod["status"] for pod in scene.rehearsal.pods()}
    for pod_id in scene.strangers:
        if living.get(pod_id) not in ("PROVISIONING", "STARTING", "RUNNING"):
            verdict.blame(f"the stranger's pod {pod_id} is {living.get(pod_id, 'gone')}")


def clouds() -> tuple[str, ...]:
    return tuple(CLOUDS)
