# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts a job with its module, then follows it with one cheap shell command a poll."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import failure
from ansible_collections.podcycle.gpu.plugins.module_utils._fate import EVERY_SECONDS, Inquiry, PodEnded, account_of
from ansible_collections.podcycle.gpu.plugins.module_utils._job_follow import (
    LIVE,
    Look,
    clean,
    parse_poll,
    poll_command,
    seconds_since,
    silence,
    tidy,
    verdict_sentence,
)
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import identity_trouble, known_hosts_of

display = Display()

# How many polls in a row may answer something unreadable (a full disk, a folder that was removed) before the job is given up.
UNREADABLE_POLLS = 5
# A job that the machine stopped: for so long the cloud is asked whether that was the pod's end, which it may show a moment later.
PREEMPTED_SECONDS = 15.0
PREEMPTED_EVERY = 3.0


@dataclass
class Limits:
    poll: float
    every: float
    timeout: float
    stall: float
    unreachable: float
    tail_lines: int


class ActionModule(ActionBase):
    _requires_connection = True
    _pod_id = ""
    _ssh_args = ""
    _cloud: dict[str, Any] | None = None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        state = self._task.args.get("state", "started")
        follow = self._task.args.get("follow")
        follow = state != "started" if follow is None else boolean(follow)
        limits = self._limits()
        result.update(self._execute_module(module_name="podcycle.gpu.job", task_vars=task_vars))
        job = result.get("job")
        if isinstance(job, dict):
            tidy(job)
        if result.get("failed") or not isinstance(job, dict) or self._task.check_mode or job.get("state") == "absent":
            return result
        host = str(task_vars.get("inventory_hostname", "localhost"))
        self._run_id = str(task_vars.get("podcycle_run_id") or "")
        self._pod_id, self._ssh_args = str(task_vars.get("podcycle_id") or ""), str(task_vars.get("ansible_ssh_common_args") or "")
        if follow:
            self._cloud = account_of(task_vars, self._templar.template) if self._pod_id else None
            try:
                look = self._follow(job, host, limits, state)
                if look is not None and look.state == "preempted" and state == "finished":
                    self._blame_the_cloud(clean(job["name"], 64), host)
            except PodEnded as err:
                result.update(failed=True, **failure(err))
                return result
            if look is not None:
                self._take_over(job, look, limits)
                self._judge(result, job, look, host, state, limits)
        return result

    def _inquiry(self, every: float = EVERY_SECONDS) -> Inquiry | None:
        return Inquiry(self._cloud, self._pod_id, every) if self._cloud else None

    def _blame_the_cloud(self, name: str, host: str) -> None:
        """Raises PodEnded when what stopped the job, or the answers, was the end of its pod."""
        inquiry = self._inquiry(PREEMPTED_EVERY)
        if inquiry is not None:
            inquiry.insist(f"job {name} on {host}", PREEMPTED_SECONDS, time)

    def _limits(self) -> Limits:
        args = self._task.args

        def number(key: str, default: float, least: float = 0.0) -> float:
            try:
                value = float(args.get(key, default))
            except (TypeError, ValueError):
                raise AnsibleActionFail(f"job: {key} must be a number, and is {args.get(key)!r}") from None
            if value < least:
                raise AnsibleActionFail(f"job: {key} must be at least {least:g}, and is {value:g}")
            return value

        return Limits(
            poll=number("poll_seconds", 2, 0.1),
            every=number("progress_every_seconds", 5, 0.1),
            timeout=number("timeout_seconds", 0),
            stall=number("stall_seconds", 120),
            unreachable=number("unreachable_seconds", 300),
            tail_lines=int(number("log_tail_lines", 40)),
        )

    def _follow(self, job: dict[str, Any], host: str, limits: Limits, state: str) -> Look | None:
        """The last look at the job: ended, stalled or out of time."""
        name = clean(job["name"], 64)
        log_bytes = 400 * max(1, limits.tail_lines)
        printed, printed_at, unreadable, pause = "", 0.0, 0, 0.0
        while True:
            began = time.monotonic()
            look = self._look(poll_command(str(job["dir"]), log_bytes, pause), name, host, limits)
            unreadable = 0 if look.readable else unreadable + 1
            if unreadable >= UNREADABLE_POLLS:
                return look
            if look.readable:
                now = time.monotonic()
                if look.summary and (look.summary != printed or now - printed_at >= limits.every):
                    display.display(f"[{host}] {name}: {look.summary}")
                    printed, printed_at = look.summary, now
                if look.ended or self._overdue(look, limits):
                    return look
            # The pod has done the waiting; one that answers at once is not asked more often for it.
            pause = limits.poll if pause else min(0.5, limits.poll)
            time.sleep(max(0.0, pause - (time.monotonic() - began)))

    def _look(self, command: str, name: str, host: str, limits: Limits) -> Look:
        """One poll; a pod that does not answer is asked again until the patience is over, or its cloud shows that it has ended."""
        lost_at: float | None = None
        inquiry = self._inquiry()
        while True:
            try:
                answer = self._low_level_execute_command(command, sudoable=True)
                if lost_at is not None:
                    display.display(f"[{host}] {name}: reached again after {time.monotonic() - lost_at:.0f} s")
                return parse_poll(str(answer.get("stdout", "")))
            except AnsibleConnectionFailure as error:
                self._refuse_stranger(error, name, host)
                now = time.monotonic()
                first, lost_at = lost_at is None, now if lost_at is None else lost_at
                if inquiry is not None and inquiry.ended(now):
                    raise inquiry.verdict(f"job {name} on {host}") from error
                shown = f"; {inquiry.shown}" if inquiry is not None else ""
                if first:
                    display.display(f"[{host}] {name}: cannot reach the pod, trying for {limits.unreachable:.0f} s{shown}")
                if now - lost_at >= limits.unreachable:
                    raise AnsibleConnectionFailure(
                        f"job {name} on {host}: the pod could not be reached for {limits.unreachable:.0f} s ({clean(error.message, 200)}){shown}. "
                        "The job may still be running there; run the stage again to re-attach"
                    ) from error
                with contextlib.suppress(AnsibleConnectionFailure):
                    self._connection.reset()
                time.sleep(limits.poll)

    def _refuse_stranger(self, error: AnsibleConnectionFailure, name: str, host: str) -> None:
        """A pod that shows another host key is not waited for."""
        said = identity_trouble(str(error.message), self._pod_id or host, known_hosts_of(self._ssh_args), self._run_id)
        if said:
            # The address of a pod that has ended may be another's by now.
            self._blame_the_cloud(name, host)
            raise AnsibleActionFail(f"job {name} on {host}: {said}")

    @staticmethod
    def _overdue(look: Look, limits: Limits) -> bool:
        ran = seconds_since(look.status.get("started_at"), look.clock) or 0.0
        return bool((limits.timeout and ran > limits.timeout) or (limits.stall and silence(look) > limits.stall))

    @staticmethod
    def _take_over(job: dict[str, Any], look: Look, limits: Limits) -> None:
        if look.readable:
            job.update({key: value for key, value in look.status.items() if key in job})
            job["state"] = look.state
            job["log_tail"] = look.log[-limits.tail_lines :] if limits.tail_lines else []

    def _judge(self, result: dict[str, Any], job: dict[str, Any], look: Look, host: str, state: str, limits: Limits) -> None:
        name = clean(job["name"], 64)
        if look.state == "succeeded" or (state == "cancelled" and look.state in ("cancelled", "preempted", "failed", "lost")):
            return
        code, message = f"job_{look.state}", ""
        if not look.readable:
            code, message = "job_unreadable", f"job {name} on {host}: its folder {job['dir']} cannot be read any more; was it removed, or is the disk gone?"
        elif look.state in LIVE:
            quiet = silence(look)
            if limits.stall and quiet > limits.stall:
                code = "job_stalled"
                message = f"job {name} on {host}: no sign of life for {quiet:.0f} s (limit {limits.stall:.0f} s), last seen: {look.summary or 'nothing'}"
            else:
                code, message = "job_timeout", f"job {name} on {host}: still running after its {limits.timeout:.0f} s"
            message += ". It goes on; run the stage again to follow it, or end it with state=cancelled"
        else:
            message = verdict_sentence(name, host, look)
        details = {"exit_code": job.get("exit_code"), "signal": job.get("signal"), "log": job.get("log"), "log_tail": job.get("log_tail")}
        result.update(failed=True, msg=message, failure={"code": code, "message": message, "details": {k: v for k, v in details.items() if v is not None}})
