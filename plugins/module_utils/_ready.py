# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Until SSH really answers: placed, then an address, then a login, each with a clock of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease, Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Pod
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Clock, wait_for

# What says nothing about the pod: the wait goes on for as long as it may.
_PASSING = (errors.ServerError, errors.NoReply, errors.Unreachable, errors.RateLimited, errors.SchemaError)
# A container that was started anew this often, as its falling uptime tells, ends each time it starts.
_RESTARTS = 2
_MOMENT = re.compile(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T\S+ ")
_NOT_PULLED = re.compile(r"error pulling|manifest", re.IGNORECASE)
_CLOCK_SLACK_SECONDS = 5.0
_QUIET_SECONDS = 3.0
_TELL_EVERY_SECONDS = 5.0


def _describe(pod: Pod) -> str:
    where = f", SSH at {pod.endpoint.host}:{pod.endpoint.port}" if pod.endpoint else ""
    return pod.provider_status + where + (f"; {pod.detail}" if pod.detail else "")


@dataclass
class Readiness:
    """Waits for one pod; a look that finds nothing is unknown, two in a row are gone."""

    cloud: Cloud
    ledger: Ledger
    ssh: SshAccess | None
    clock: Clock
    boot: float
    endpoint: float
    sshd: float
    notify: Callable[[str], None]
    # auto: the gateway where the pod publishes no port 22, or shows no address of its own in time.
    ssh_via: str = "auto"
    _next_tick: float = field(default=_QUIET_SECONDS)

    def wait_ready(self, lease: Lease, pod: Pod) -> Pod:
        """Until SSH really answers: placed, then an address, then a login. A failure carries what the provider wrote about the pod last."""
        try:
            return self._wait_ready(lease, pod)
        except (errors.WaitTimeout, errors.PodFailed) as err:
            words: list[str] = []
            with suppress(errors.CloudError):
                words = [_MOMENT.sub("", line) for line in reversed(self.cloud.last_words(pod.id))]
            if words:
                err.message += f"; {self.cloud.name}'s system log, newest line first: {errors.clean_text(' | '.join(words), 400)}"
            # Who has started a container since has the image.
            if _NOT_PULLED.search(next((line for line in words if _NOT_PULLED.search(line) or "start container" in line), "")):
                err.hint = "the image cannot be pulled: check `image` and, where it is private, `runpod.registry`"
            raise

    def _wait_ready(self, lease: Lease, pod: Pod) -> Pod:
        misses = restarts = 0
        last, last_at = pod, self.clock.monotonic()

        def look() -> Pod:
            nonlocal misses, restarts, last, last_at
            try:
                seen = self.cloud.get(pod.id)
            except _PASSING as err:
                return replace(last, detail=err.message)
            except errors.NotFound:
                misses += 1
                if misses < 2:
                    return pod
                self.ledger.write(lease.stamp, "released", proof="not found by id")
                raise errors.PodFailed(f"pod {pod.id} is gone while it was starting", hint="the provider ended it; run again with the same run_id") from None
            now = self.clock.monotonic()
            if seen.uptime_seconds is None:
                # A look that shows none says nothing of the next.
                seen = replace(seen, uptime_seconds=last.uptime_seconds)
            else:
                # A container that began anew has run no longer than since the last look; what is older than that tells a replica that lags behind.
                restarts += seen.uptime_seconds < (last.uptime_seconds or 0) and seen.uptime_seconds <= now - last_at + _CLOCK_SLACK_SECONDS
                last_at = now
            misses, last = 0, seen
            if seen.state in (model.STOPPED, model.FAILED, model.GONE):
                raise errors.PodFailed(f"pod {pod.id} ended while it was starting: {seen.provider_status}", hint="run again with the same run_id")
            if restarts >= _RESTARTS:
                hint = "the image or its start command ends at once: see what it says with playbooks/logs.yml on a pod that is kept, or run it by itself"
                raise errors.CrashLoop(f"pod {pod.id} starts again and again: its container ended {restarts} times", hint=hint)
            return seen

        def wait(done: Callable[[Pod], bool], seconds: float, phase: str) -> Pod:
            return wait_for(
                look,
                done,
                timeout_seconds=seconds,
                phase=f"pod {pod.id} {phase}",
                clock=self.clock,
                describe=_describe,
                on_tick=lambda seen, elapsed: self._tick(seen, elapsed, phase, seconds),
            )

        wait(lambda seen: seen.state == model.RUNNING, self.boot, "to run")
        why = "runpod.ssh_via is gateway" if self.ssh_via == "gateway" else ""
        if self.ssh_via == "auto" and last.gateway is not None and "22/tcp" not in last.ports:
            why = "it publishes no port 22/tcp"
        if why:
            self.notify(f"pod {pod.id}: {why}, so its SSH goes through the gateway{f' {last.gateway.host}' if last.gateway else ''}")
        via = "gateway" if why else "direct"
        try:
            ready = wait(lambda seen: seen.reached(via).endpoint is not None, self.endpoint, "to show an SSH address")
        except errors.WaitTimeout:
            # Without a login nothing would show that the gateway lets us in.
            if self.ssh_via != "auto" or self.ssh is None or last.gateway is None:
                raise
            via = "gateway"
            self.notify(f"pod {pod.id} has no public address: its SSH goes through the gateway {last.gateway.host}")
        if self.ssh is not None:
            ready = self._login(lambda: look().reached(via), pod)
        if lease.marks.get("ssh_via") != (via if via == "gateway" else None):
            self.ledger.write(lease.stamp, "mark", ssh_via=via if via == "gateway" else None)
        return ready.reached(via)

    def _login(self, look: Callable[[], Pod], pod: Pod) -> Pod:
        access = self.ssh
        if access is None:
            return look()

        def login() -> tuple[Pod, str]:
            seen = look()
            if seen.endpoint is None:
                return seen, "no SSH address yet"
            if seen.endpoint.via == "gateway":
                # Few pods are reached that way, and every task pays for what it imports.
                from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_link import probe_gateway

                return seen, probe_gateway(seen.endpoint, access)
            return seen, access.probe(seen.id, seen.endpoint, run_id=seen.stamp.run_id if seen.stamp else "")

        ready, _trouble = wait_for(
            login,
            lambda seen: not seen[1],
            timeout_seconds=self.sshd,
            phase=f"pod {pod.id} to accept an SSH login",
            clock=self.clock,
            describe=lambda seen: seen[1],
            on_tick=lambda seen, elapsed: self._tick(seen[0], elapsed, f"to accept SSH ({seen[1]})", self.sshd),
        )
        return ready

    def _tick(self, seen: Pod, elapsed: float, phase: str, most: float) -> None:
        if elapsed < self._next_tick:
            return
        self._next_tick = elapsed + _TELL_EVERY_SECONDS
        cost = f", {model.usd(seen.usd_per_hour * int(elapsed) / 3600)} $ so far" if seen.usd_per_hour else ""
        self.notify(f"waiting for pod {seen.id} {phase}: {elapsed:.0f} s of at most {most:.0f} s{cost}")
