# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that a test arms: what goes wrong, where, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from dataclasses import dataclass, field
from typing import Any

CREATE = ("POST", r"^/v2/pods$")
LIST = ("GET", r"^/v2/pods$")
READ = ("GET", r"^/v2/pods")
GRAPHQL = ("POST", r"^/graphql$")
ANY = ("", r"")
KINDS: dict[str, tuple[tuple[str, str], str]] = {
    "error_500": (ANY, "500 before anything happened"),
    "error_401": (ANY, "the key is not known any more"),
    "error_500_after_effect": (CREATE, "the request took effect, the answer is 500"),
    "reply_cut": (CREATE, "the request took effect, the answer ends after params.bytes of its body"),
    "no_reply": (CREATE, "the request took effect, no byte is answered; the connection closes after params.seconds"),
    "timeout_before_effect": (ANY, "nothing happened, no byte is answered; the connection closes after params.seconds"),
    "429": (ANY, "too many requests; params.retry_after in seconds, null for no such header"),
    "no_capacity": (CREATE, "400 no instances available; params.gpu and params.data_center narrow it to matching requests"),
    "balance_402": (CREATE, "402, the balance is too low"),
    "list_lag": (LIST, "new pods are missing from lists for params.seconds or for params.requests listings"),
    "empty_list": (LIST, "the list is empty"),
    "running_without_ssh": (ANY, "the pod is RUNNING and its sshd never starts; match.pod is a regular expression on its name"),
    "crash_loop": (ANY, "the container ends params.seconds after each start; the pod stays RUNNING, only its uptime falls, and no sshd lasts"),
    "image_pull": (ANY, "the image cannot be pulled: the pod stays in STARTING and is billed, only its system log tells why"),
    "slow_ssh": (ANY, "sshd starts params.seconds late"),
    "wrong_host_key": (ANY, "the host key changes params.seconds after sshd started"),
    "delete_accepted_but_alive": (ANY, "a terminate is answered as done and nothing happens"),
    "delete_refused": (ANY, "a terminate is answered with params.status"),
    "proxy_403": (ANY, "the HTML page of a proxy that refuses the client"),
    "graphql_refused": (GRAPHQL, "the GraphQL API refuses: params.as is 401, 403 (a key without the right) or 1010 (a proxy's plain text)"),
    "graphql_errors": (GRAPHQL, "200 with no data and an error: params.message, params.code; with params.after_effect the request took effect"),
    "terminated_shown": (GRAPHQL, "a pod that is gone is shown by its id, EXITED and with a note, for as long as the fault is armed"),
    "spot_removed": (GRAPHQL, "the mutation that rents spot pods is not in the schema any more, for as long as the fault is armed"),
    "schema_changed": (READ, "pods lack params.drop (a list of fields) and have params.rename (old name: new name)"),
}


class FaultError(ValueError):
    """The fault that was asked for makes no sense."""


@dataclass
class Fault:
    id: int
    kind: str
    method: str
    path: str
    pod: str
    times: int | None
    after_n: int
    probability: float
    params: dict[str, Any]
    seen: int = 0
    fired: int = 0
    dice: random.Random = field(default_factory=random.Random, repr=False)

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "match": {"method": self.method, "path": self.path, "pod": self.pod},
            "times": self.times,
            "after_n": self.after_n,
            "probability": self.probability,
            "params": self.params,
            "seen": self.seen,
            "fired": self.fired,
        }

    def strikes(self, method: str, path: str, pod: str) -> bool:
        if self.times is not None and self.fired >= self.times:
            return False
        if (self.method and self.method != method) or not re.search(self.path, path) or not re.search(self.pod, pod):
            return False
        self.seen += 1
        if self.seen <= self.after_n or self.dice.random() >= self.probability:
            return False
        self.fired += 1
        return True


class FaultBook:
    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._next = 1

    def add(self, request: dict[str, Any]) -> Fault:
        kind = str(request.get("kind"))
        if kind not in KINDS:
            raise FaultError(f"there is no fault {kind!r}; known: {', '.join(sorted(KINDS))}")
        unknown = set(request) - {"kind", "match", "times", "after_n", "probability", "seed", "params"}
        if unknown:
            raise FaultError(f"a fault has no field {', '.join(sorted(unknown))}")
        match = request.get("match") or {}
        (method, path), _rest = KINDS[kind]
        times = request.get("times", 1)
        try:
            fault = Fault(
                self._next,
                kind,
                str(match.get("method", method)).upper(),
                re.compile(match.get("path", path)).pattern,
                re.compile(match.get("pod", "")).pattern,
                None if times in (None, 0) else int(times),
                int(request.get("after_n", 0)),
                float(request.get("probability", 1.0)),
                dict(request.get("params") or {}),
            )
        except (re.error, TypeError, ValueError) as error:
            raise FaultError(f"the fault {kind} is not well formed: {error}") from error
        fault.dice.seed(request.get("seed", 0))
        self._next += 1
        self._faults.append(fault)
        return fault

    def take(self, kind: str, method: str = "", path: str = "", pod: str = "") -> Fault | None:
        """The first armed fault of this kind that strikes here; it counts as used."""
        for fault in self._faults:
            if fault.kind == kind and fault.strikes(method, path, pod):
                return fault
        return None

    def peek(self, kind: str) -> list[Fault]:
        return [fault for fault in self._faults if fault.kind == kind]

    def describe(self) -> list[dict[str, Any]]:
        return [fault.describe() for fault in self._faults]

    def clear(self, fault_id: int | None = None) -> int:
        before = len(self._faults)
        self._faults = [fault for fault in self._faults if fault_id is not None and fault.id != fault_id]
        return before - len(self._faults)


class Hold:
    """Stops the server at the n-th matching request until the test lets it go on."""

    def __init__(self) -> None:
        self._rule: tuple[str, str, int, str] | None = None
        self._count = 0
        self._held: dict[str, Any] | None = None
        self._arrived = asyncio.Event()
        self._released = asyncio.Event()

    def arm(self, method: str, path: str, nth: int, when: str) -> None:
        self.release()
        self._rule = (method.upper(), re.compile(path).pattern, nth, when)
        self._count = 0
        self._held = None
        self._arrived = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> bool:
        was_held = self._held is not None
        self._rule = None
        self._held = None
        self._released.set()
        return was_held

    def state(self) -> dict[str, Any]:
        return {"armed": self._rule is not None, "held": self._held is not None, "request": self._held}

    async def wait_held(self, seconds: float) -> dict[str, Any]:
        if self._rule is not None and self._held is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), seconds)
        return self.state()

    async def pass_through(self, method: str, path: str, when: str, entry: dict[str, Any]) -> None:
        if self._rule is None or self._held is not None:
            return
        wanted_method, pattern, nth, wanted_when = self._rule
        if wanted_when != when or (wanted_method and wanted_method != method) or not re.search(pattern, path):
            return
        self._count += 1
        if self._count != nth:
            return
        self._held = {"n": entry["n"], "method": method, "path": path, "when": when}
        released = self._released
        self._arrived.set()
        await released.wait()
