# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Following a job from the controller: hostile answers, lost connections, stalls and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

from ansible_collections.podcycle.gpu.plugins.action import job as action
from ansible_collections.podcycle.gpu.plugins.module_utils import _job_follow as follow
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import NotFound
from ansible_collections.podcycle.gpu.plugins.module_utils._job import Job, JobSpec
from support.harness import FULL
from support.world import until

CLOCK = 1_800_000_000
RUNNER = "4709 (python3 (x)) S " + " ".join(["1"] * 18) + " 8812345 0 0"


def stamp(seconds_ago: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(CLOCK - seconds_ago, timezone.utc).isoformat().replace("+00:00", "Z")


def status(**changes: Any) -> dict[str, Any]:
    base = {"state": "running", "runner_pid": 4709, "runner_started": 8812345, "pid": 4711, "heartbeat_at": stamp(1), "active_at": stamp(1)}
    return {**base, "started_at": stamp(60), "progress": {"summary": "epoch 1  42 %", "fraction": 0.42}, **changes}


def answer(state: dict[str, Any] | str, *, runner: str = RUNNER, log: str = "first\nlast\n") -> str:
    raw = state if isinstance(state, str) else json.dumps(state)
    return f"{CLOCK}\n{follow.MARK}\n{runner}\n{follow.MARK}\n{raw}\n{follow.MARK}\n{log}"


def test_poll_of_a_running_job() -> None:
    look = follow.parse_poll(answer(status()))
    assert (look.readable, look.state, look.ended, look.summary) == (True, "running", False, "epoch 1  42 %")
    assert look.log == ["first", "last"]


def test_without_progress_the_last_line_of_the_log_is_the_summary() -> None:
    assert follow.parse_poll(answer(status(progress=None), log="one\ntwo\n\n")).summary == "two"


@pytest.mark.parametrize("runner", ["gone", "4709 (python3) Z " + "1 " * 18 + "8812345", RUNNER.replace("8812345", "99")])
def test_a_supervisor_that_is_gone_means_lost(runner: str) -> None:
    assert follow.parse_poll(answer(status(), runner=runner)).state == "lost"


def test_an_ended_job_is_not_lost_though_its_supervisor_is_gone() -> None:
    assert follow.parse_poll(answer(status(state="succeeded", exit_code=0), runner="gone")).state == "succeeded"


@pytest.mark.parametrize("text", ["", "nonsense", answer("{torn"), answer("[1]"), answer("[" * 60_000), answer(status()).replace(str(CLOCK), "now")])
def test_an_answer_that_is_not_a_jobs_is_unreadable(text: str) -> None:
    assert not follow.parse_poll(text).readable


def test_text_of_a_pod_is_made_harmless() -> None:
    evil = "\x1b[31mred\x1b]0;title\x07\u202ereversed\r\n{{ lookup('pipe', 'id') }}"
    look = follow.parse_poll(answer(status(progress={"summary": evil, "deep": {"a": 1}, "n": 1, **{f"k{n}": n for n in range(99)}}), log=evil))
    for line in (look.summary, *look.log):
        assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in line)
        assert "\u202e" not in line
    assert "deep" not in look.status["progress"]
    assert len(look.status["progress"]) <= 50


def test_long_text_is_cut() -> None:
    look = follow.parse_poll(answer(status(progress={"summary": "x" * 5000}), log="y" * 100_000))
    assert len(look.summary) == 160
    assert len(look.log[0]) == 400


@pytest.mark.parametrize("field", ["exit_code", "pid", "state", "signal", "started_at", "progress"])
def test_a_field_of_the_wrong_type_is_dropped(field: str) -> None:
    look = follow.parse_poll(answer(status(**{field: [1, 2]})))
    assert look.status[field] is None


def test_silence_counts_the_oldest_sign() -> None:
    assert follow.silence(follow.parse_poll(answer(status(heartbeat_at=stamp(3), active_at=stamp(90))))) == 90
    quiet_by_nature = status(heartbeat_at=stamp(3), active_at=stamp(90), progress=None)
    assert follow.silence(follow.parse_poll(answer(quiet_by_nature))) == 3


def test_poll_command_reads_a_real_job(tmp_path: Path) -> None:
    job = Job(JobSpec("it's", [sys.executable, "-c", "print('hello')"]), tmp_path)
    job.dir.mkdir()
    job = Job(JobSpec("train", [sys.executable, "-c", "print('hello')"]), tmp_path / "it's a folder")
    job.start(check_mode=False)
    job.wait(20)
    done = subprocess.run(["/bin/sh", "-c", follow.poll_command(str(job.dir), 4000)], capture_output=True, text=True, check=True)
    look = follow.parse_poll(done.stdout)
    assert (look.readable, look.state, look.log, look.status["exit_code"]) == (True, "succeeded", ["hello"], 0)


def test_poll_command_waits_on_the_pod_for_the_end(tmp_path: Path) -> None:
    job = Job(JobSpec("train", [sys.executable, "-c", "import time; time.sleep(1)"]), tmp_path)
    job.start(check_mode=False)
    began = time.monotonic()
    command = ["/bin/sh", "-c", follow.poll_command(str(job.dir), 4000, 30)]
    assert follow.parse_poll(subprocess.run(command, capture_output=True, text=True, check=True).stdout).state == "succeeded"
    assert time.monotonic() - began < 10


class Terminal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, line: str) -> None:
        self.lines.append(line)


class Clock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 3600, "the following has no end"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(action, "display", terminal)
    monkeypatch.setattr(action, "time", Clock())
    return terminal


def run_action(
    answers: list[Any], *, args: dict[str, Any] | None = None, module: dict[str, Any] | None = None, pod: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The plugin with a module that has started the job, and a pod that gives these answers; the last one over and over."""
    resets: list[int] = []
    task = SimpleNamespace(args={"name": "train", "state": "finished", **(args or {})}, check_mode=False, async_val=0, diff=False)
    connection = SimpleNamespace(reset=lambda: resets.append(1), _shell=SimpleNamespace(tmpdir=None))
    plugin = action.ActionModule(task, connection, SimpleNamespace(), None, SimpleNamespace(template=lambda value: value), None)
    job = {
        "name": "train",
        "state": "running",
        "dir": "/jobs/train",
        "log": "/jobs/train/job.log",
        "exit_code": None,
        "signal": None,
        "log_tail": [],
        "progress": None,
    }
    queue = list(answers)

    def low_level(command: str, **kwargs: Any) -> dict[str, Any]:
        value = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(value, Exception):
            raise value
        return {"rc": 0, "stdout": value}

    plugin._low_level_execute_command = low_level  # type: ignore[method-assign]
    plugin._execute_module = lambda **kwargs: module or {"changed": True, "job": dict(job)}  # type: ignore[method-assign]
    result = plugin.run(task_vars={"inventory_hostname": "pod-1", **(pod or {})})
    result["resets"] = len(resets)
    return result


def test_follows_to_the_end_and_prints_progress(terminal: Terminal) -> None:
    running = answer(status())
    result = run_action([running, running, answer(status(state="succeeded", exit_code=0, ended_at=stamp(0)))])
    assert (result["changed"], result["job"]["state"], result.get("failed")) == (True, "succeeded", None)
    assert terminal.lines[0] == "[pod-1] train: epoch 1  42 %"


def test_unchanged_progress_is_printed_again_every_five_seconds(terminal: Terminal) -> None:
    run_action([answer(status())] * 10 + [answer(status(state="succeeded", exit_code=0))])
    assert len(terminal.lines) == 4


def test_failure_names_exit_code_and_last_line(terminal: Terminal) -> None:
    result = run_action([answer(status(state="failed", exit_code=70, ended_at=stamp(48)), log="loss is NaN\n")])
    assert result["failed"]
    assert result["msg"] == "job train on pod-1: the command ended with exit code 70 after 12 s; its last line: loss is NaN"
    assert result["failure"]["code"] == "job_failed"
    assert result["failure"]["details"]["exit_code"] == 70
    assert result["failure"]["details"]["log_tail"] == ["loss is NaN"]


@pytest.mark.parametrize("state", ["preempted", "cancelled", "lost"])
def test_every_other_end_fails_with_its_own_code(terminal: Terminal, state: str) -> None:
    result = run_action([answer(status(state=state, exit_code=75, ended_at=stamp(1)))])
    assert (result["failed"], result["failure"]["code"]) == (True, f"job_{state}")


def test_a_lost_connection_is_ridden_out(terminal: Terminal) -> None:
    gone = AnsibleConnectionFailure("ssh: connect to host 127.0.0.1 port 1: refused")
    result = run_action([answer(status()), gone, gone, gone, answer(status(state="succeeded", exit_code=0))])
    assert (result["job"]["state"], result["resets"]) == ("succeeded", 3)
    assert any("cannot reach the pod" in line for line in terminal.lines)
    assert any("reached again after 6 s" in line for line in terminal.lines)


def test_a_pod_that_stays_away_is_unreachable_and_not_dead(terminal: Terminal) -> None:
    gone = AnsibleConnectionFailure("no route")
    with pytest.raises(AnsibleConnectionFailure, match="could not be reached for 30 s .no route.. The job may still be running"):
        run_action([answer(status()), gone], args={"unreachable_seconds": 30})


LOST = AnsibleConnectionFailure("no route")


@pytest.fixture
def rented(make_engine: Any, make_wish: Any, rehearsal: Any) -> Any:
    """Rents a pod; what the following knows of it."""

    def rent(**wish: Any) -> dict[str, Any]:
        engine = make_engine()
        (slot,) = engine.rent(make_wish(**wish), check_mode=False)
        run = {"cloud": "runpod", "state_dir": str(engine.state.path)}
        return {"podcycle_id": slot.after.id, "cycle_run": run, "cloud_api_key": FULL, "cloud_endpoint": rehearsal.url}

    return rent


def test_a_spot_pod_that_was_outbid_ends_the_wait_at_once(terminal: Terminal, rehearsal: Any, rented: Any) -> None:
    pod = rented(spot=True, volume_gib=20)
    rehearsal.control("POST", f"/pods/{pod['podcycle_id']}/preempt")
    result = run_action([answer(status()), LOST], pod=pod)
    assert result["failure"]["code"] == "pod_outbid" and action.time.now < 5
    assert f"job train on pod-1: runpod shows spot pod {pod['podcycle_id']} stopped: it was outbid, or stopped in the console; its volume" in result["msg"]
    assert any(line.endswith("runpod shows the pod stopped") for line in terminal.lines) and FULL not in str([result, terminal.lines])


def test_an_outbid_pod_without_a_volume_has_lost_its_files(terminal: Terminal, rehearsal: Any, rented: Any) -> None:
    pod = rented(spot=True)
    rehearsal.control("POST", f"/pods/{pod['podcycle_id']}/preempt")
    rehearsal.fault("graphql_refused", params={"as": "403"}, times=None)
    result = run_action([answer(status()), LOST], pod=pod)
    assert result["failure"]["code"] == "pod_stopped"
    assert "it was outbid, or stopped in the console, or the balance, which could not be asked, is spent; its files are lost" in result["msg"]


@pytest.mark.parametrize(("grace", "words"), [(1e6, "has stopped pod"), (0, "has removed pod")])
def test_a_balance_that_is_spent_under_a_job_is_told_at_once(terminal: Terminal, rehearsal: Any, rented: Any, grace: float, words: str) -> None:
    pod = rented(spot=True, volume_gib=20)
    rehearsal.control("POST", "/time_scale", {"timings": {"debt_grace": grace}})
    rehearsal.control("POST", "/account", {"credit": "0"})
    wanted = "EXITED" if grace else None
    until(lambda: {one["id"]: one["status"] for one in rehearsal.pods()}.get(pod["podcycle_id"]) == wanted, 10, "the provider collects its debts")
    result = run_action([answer(status()), LOST], pod=pod)
    assert result["failure"]["code"] == ("pod_stopped" if grace else "pod_gone") and action.time.now < 5
    assert f"runpod {words} {pod['podcycle_id']}: the account's balance is -0.0" in result["msg"]
    assert "add money to the account, then type the same command again" in result["msg"]


def test_a_pod_that_runs_is_waited_for(terminal: Terminal, rented: Any) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="could not be reached for 60 s .no route.; runpod shows the pod running. The job may still"):
        run_action([answer(status()), LOST], args={"unreachable_seconds": 60}, pod=rented())
    assert terminal.lines[-1] == "[pod-1] train: cannot reach the pod, trying for 60 s; runpod shows the pod running"


def test_one_miss_of_the_cloud_is_not_the_end(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, rented: Any) -> None:
    pod, look, asked = rented(), RunPod.get, []

    def get(cloud: RunPod, pod_id: str) -> Any:
        asked.append(pod_id)
        if len(asked) == 1:
            raise NotFound("no such pod")
        return look(cloud, pod_id)

    monkeypatch.setattr(RunPod, "get", get)
    ended = answer(status(state="succeeded", exit_code=0))
    assert run_action([answer(status()), LOST, LOST, LOST, LOST, ended], pod=pod)["job"]["state"] == "succeeded"
    assert len(asked) == 2, "after a doubt it is asked again at once, and then every so often"


def test_a_cloud_that_does_not_answer_ends_nothing(terminal: Terminal, rehearsal: Any, rented: Any) -> None:
    pod = rented()
    with pytest.raises(AnsibleConnectionFailure, match="whether the pod still runs could not be asked: .*The job may still be running"):
        run_action([answer(status()), LOST], args={"unreachable_seconds": 60}, pod={**pod, "cloud_api_key": "rpa_another_key_that_nobody_knows"})


@pytest.mark.parametrize("outbid", [True, False])
def test_a_job_that_the_machine_stopped_is_asked_after_at_the_cloud(terminal: Terminal, rehearsal: Any, rented: Any, outbid: bool) -> None:
    pod = rented(spot=True, volume_gib=20)
    if outbid:
        rehearsal.control("POST", f"/pods/{pod['podcycle_id']}/preempt")
    result = run_action([answer(status(state="preempted", exit_code=75, ended_at=stamp(1)))], pod=pod)
    assert result["failure"]["code"] == ("pod_outbid" if outbid else "job_preempted")


def test_a_pod_that_was_given_back_meanwhile_was_not_removed_by_its_provider(terminal: Terminal, make_engine: Any, rented: Any) -> None:
    pod = rented()
    make_engine().release_run("r1")
    result = run_action([answer(status()), LOST], pod=pod)
    assert result["failure"]["code"] == "pod_gone" and "was given back meanwhile, by another command" in result["msg"]


def test_a_pod_that_its_own_guard_has_ended_was_not_removed_by_its_provider(terminal: Terminal, make_engine: Any, rented: Any) -> None:
    pod, engine = rented(), make_engine()
    (lease,) = engine.ledger.leases()
    engine.ledger.write(lease.stamp, "extended", deadline="2026-01-01T00:00:00Z")
    engine.cloud.terminate(lease.pod_id)
    result = run_action([answer(status()), LOST], pod=pod)
    assert result["failure"]["code"] == "pod_gone" and "or at the end of its lease; type" in result["msg"]


def test_a_spot_pod_that_was_stopped_and_kept_by_another_command_was_not_outbid(terminal: Terminal, make_engine: Any, rented: Any) -> None:
    pod, engine = rented(spot=True, volume_gib=20), make_engine()
    (lease,) = engine.ledger.leases()
    engine.stop(lease)
    engine.ledger.write(lease.stamp, "mark", kept=True)
    result = run_action([answer(status()), LOST], pod=pod)
    assert result["failure"]["code"] == "pod_stopped" and "was stopped by another command; type" in result["msg"]


def test_another_machine_at_the_address_of_a_pod_that_was_outbid(terminal: Terminal, rehearsal: Any, rented: Any, tmp_path: Path) -> None:
    pod = {**rented(spot=True, volume_gib=20), "ansible_ssh_common_args": f"-o UserKnownHostsFile={tmp_path / 'known_hosts'}"}
    stranger = AnsibleConnectionFailure("REMOTE HOST IDENTIFICATION HAS CHANGED!")
    with pytest.raises(AnsibleActionFail, match="the SSH host key of pod"):
        run_action([answer(status()), stranger], pod=pod)
    rehearsal.control("POST", f"/pods/{pod['podcycle_id']}/preempt")
    assert run_action([answer(status()), stranger], pod=pod)["failure"]["code"] == "pod_outbid"


def test_a_pod_that_shows_another_host_key_is_not_waited_for(terminal: Terminal) -> None:
    changed = AnsibleConnectionFailure("Failed to connect to the host via ssh: @@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@")
    with pytest.raises(AnsibleActionFail, match="job train on pod-1: the SSH host key of pod pod-1 is not the one seen at first contact"):
        run_action([answer(status()), changed])
    assert terminal.lines == ["[pod-1] train: epoch 1  42 %"]


def test_a_stall_is_reported_and_the_job_left_alone(terminal: Terminal) -> None:
    result = run_action([answer(status(active_at=stamp(130)))])
    assert result["failure"]["code"] == "job_stalled"
    assert "no sign of life for 130 s" in result["msg"]
    assert result["job"]["state"] == "running"


def test_timeout_counts_from_the_start_of_the_job(terminal: Terminal) -> None:
    result = run_action([answer(status(started_at=stamp(61)))], args={"timeout_seconds": 60})
    assert result["failure"]["code"] == "job_timeout"


def test_a_removed_folder_ends_the_following(terminal: Terminal) -> None:
    result = run_action([""])
    assert result["failure"]["code"] == "job_unreadable"


def test_one_torn_answer_is_forgiven(terminal: Terminal) -> None:
    assert run_action(["", answer(status(state="succeeded", exit_code=0))])["job"]["state"] == "succeeded"


def test_started_does_not_follow(terminal: Terminal) -> None:
    assert run_action([RuntimeError("polled")], args={"state": "started"})["job"]["state"] == "running"


def test_a_cancelled_job_is_success_for_the_one_who_cancels(terminal: Terminal) -> None:
    result = run_action([answer(status(state="cancelled", exit_code=75))], args={"state": "cancelled"})
    assert (result.get("failed"), result["job"]["exit_code"]) == (None, 75)


def test_a_number_that_is_none_is_refused(terminal: Terminal) -> None:
    with pytest.raises(AnsibleActionFail, match="poll_seconds must be a number"):
        run_action([""], args={"poll_seconds": "soon"})


def test_a_real_playbook_follows_a_real_job(tmp_path: Path) -> None:
    program = (
        "import json, os, sys, time\nname = os.environ['PODCYCLE_PROGRESS_FILE']\n"
        "for n in range(3):\n open(name + '.p', 'w').write(json.dumps({'summary': 'step %d' % n}))\n os.replace(name + '.p', name)\n time.sleep(1)\n"
        "print('bad data in train.jsonl')\nsys.exit(65)"
    )
    task = {
        "podcycle.gpu.job": {
            "name": "t",
            "jobs_dir": str(tmp_path / "jobs"),
            "command": [sys.executable, "-c", program],
            "state": "finished",
            "poll_seconds": 0.5,
        }
    }
    (tmp_path / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "false"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "other,", str(tmp_path / "play.yml")]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "[localhost] t: step " in done.stdout
    assert "the command ended with exit code 65" in done.stdout
    assert "code: job_failed" in done.stdout
