# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on this machine, with real detached processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _job_runner as runner
from ansible_collections.podcycle.gpu.plugins.module_utils._job import Job, JobDiffers, JobError, JobInputError, JobSpec
from ansible_collections.podcycle.gpu.plugins.module_utils._torch_proof import STAMP

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
CHECKPOINTING = """
import signal, sys, time
def stop(*received):
    print("checkpoint written", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
time.sleep(60)
"""

MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[MakeJob]:
    made: list[Job] = []

    def make(program: str = "print('done')", *, name: str = "train", **extra: Any) -> Job:
        job = Job(JobSpec(name, [sys.executable, "-c", program], **extra), tmp_path / "jobs")
        made.append(job)
        return job

    yield make
    for job in made:
        status = runner.read_json(job.dir / "status.json")
        for key, started in (("runner_pid", "runner_started"), ("pid", "pid_started")):
            if job._alive(status, key, started):
                os.kill(status[key], signal.SIGKILL)


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("the condition did not come true in time")


def started(job: Job) -> dict[str, Any]:
    changed, status = job.start(check_mode=False)
    assert changed
    return status


def says_up(job: Job) -> bool:
    return "up" in job.log_tail(5)


@pytest.mark.parametrize("change", [lambda job: job.start(check_mode=False), lambda job: job.cancel(1, check_mode=False)])
def test_a_full_disk_is_a_sentence_with_its_folder(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, change: Callable[[Job], Any]) -> None:
    job = make_job(SLEEPER)
    job.start(check_mode=False)

    def full(*_words: Any, **_more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", full)
        patch.setattr(Job, "_must_start", lambda *_words: True)
        with pytest.raises(JobError, match=r"^job train: \S+/jobs/train cannot be written: No space left on device; make room on that disk$"):
            change(job)


def test_runs_to_the_end_and_keeps_the_whole_log(make_job: MakeJob) -> None:
    job = make_job("import sys\nfor n in range(20000): print('line', n)\nprint('to stderr', file=sys.stderr)")
    started(job)
    status = job.wait(20)
    assert (status["state"], status["exit_code"], status["signal"]) == ("succeeded", 0, None)
    lines = (job.dir / "job.log").read_text().splitlines()
    assert sorted(lines) == sorted([*(f"line {n}" for n in range(20000)), "to stderr"])


def test_second_start_of_a_finished_job_changes_nothing(make_job: MakeJob) -> None:
    job = make_job()
    started(job)
    first = job.wait(20)
    assert job.start(check_mode=False) == (False, first)
    assert job.start(check_mode=True) == (False, first)


def test_start_reattaches_to_a_running_job(make_job: MakeJob) -> None:
    job = make_job(SLEEPER)
    first = started(job)
    changed, again = make_job(SLEEPER).start(check_mode=False)
    assert not changed
    assert (again["state"], again["pid"]) == ("running", first["pid"])


def test_another_command_under_the_same_name_is_refused_while_one_runs(make_job: MakeJob) -> None:
    started(make_job(SLEEPER))
    with pytest.raises(JobDiffers, match="another command is running under this name"):
        make_job("print('other')").start(check_mode=False)


@pytest.mark.parametrize("change", [{"environment": {"A": "1"}}, {"chdir": "/"}])
def test_environment_and_folder_belong_to_the_spec(make_job: MakeJob, change: dict[str, Any]) -> None:
    started(make_job())
    make_job().wait(20)
    assert make_job(**change).start(check_mode=True)[0]


def test_command_gets_its_folder_environment_and_own_process_group(make_job: MakeJob, tmp_path: Path) -> None:
    program = (
        "import os\nprint(os.getcwd())\nprint(os.environ['COLOUR'])\n"
        "print(os.getpgid(0) == os.getpid() == os.getsid(0))\nprint(os.environ['PODCYCLE_PROGRESS_FILE'])"
    )
    job = make_job(program, chdir=str(tmp_path), environment={"COLOUR": "blue"})
    started(job)
    job.wait(20)
    assert job.log_tail(9) == [str(tmp_path), "blue", "True", str(job.dir / "progress.json")]


def test_a_job_in_an_environment_gets_the_library_that_its_torch_was_proven_with(make_job: MakeJob, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / "venv" / STAMP).write_text('{"library_path": "/usr/local/cuda-13.0/compat"}')
    job = make_job("import os; print(os.environ['LD_LIBRARY_PATH'])", environment={"LD_LIBRARY_PATH": "/own"})
    job.spec.command[0] = str(python)
    started(job)
    job.wait(20)
    assert job.log_tail(9) == ["/usr/local/cuda-13.0/compat:/own"]


def test_runner_is_detached_from_its_starter(make_job: MakeJob) -> None:
    status = started(make_job(SLEEPER))
    fields = Path(f"/proc/{status['runner_pid']}/stat").read_text().rpartition(")")[2].split()
    parent, session = int(fields[1]), int(fields[3])
    assert parent != os.getpid()
    assert session != os.getsid(0)
    assert os.readlink(f"/proc/{status['runner_pid']}/fd/1") == os.devnull


def test_cancel_lets_the_command_save_and_exit_with_75(make_job: MakeJob) -> None:
    job = make_job(CHECKPOINTING)
    started(job)
    until(lambda: says_up(job))
    assert job.cancel(20, check_mode=False)[0]
    status = job.wait(20)
    assert (status["state"], status["exit_code"], status["cancel_requested"]) == ("cancelled", 75, True)
    assert job.log_tail(1) == ["checkpoint written"]
    assert job.cancel(20, check_mode=False)[0] is False


def test_exit_75_without_a_cancel_is_a_preemption(make_job: MakeJob) -> None:
    job = make_job(CHECKPOINTING)
    status = started(job)
    until(lambda: says_up(job))
    os.kill(status["pid"], signal.SIGTERM)
    assert job.wait(20)["state"] == "preempted"
    assert job.start(check_mode=True)[0], "a preempted job starts anew"


def test_sigterm_to_the_runner_is_passed_on(make_job: MakeJob) -> None:
    job = make_job(CHECKPOINTING)
    status = started(job)
    until(lambda: says_up(job))
    os.kill(status["runner_pid"], signal.SIGTERM)
    ended = job.wait(20)
    assert (ended["state"], ended["exit_code"]) == ("preempted", 75)


def test_a_command_that_ignores_the_cancel_is_killed_after_its_grace(make_job: MakeJob) -> None:
    job = make_job("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
    started(job)
    until(lambda: says_up(job))
    job.cancel(0.5, check_mode=False)
    status = job.wait(20)
    assert (status["state"], status["exit_code"], status["signal"]) == ("cancelled", 137, "SIGKILL")


def test_crash_is_recorded_with_its_exit_code(make_job: MakeJob) -> None:
    job = make_job("import sys; sys.exit('no data')")
    started(job)
    status = job.wait(20)
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert job.log_tail(1) == ["no data"]


def test_death_by_signal_is_recorded_by_name(make_job: MakeJob) -> None:
    job = make_job("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    started(job)
    status = job.wait(20)
    assert (status["state"], status["exit_code"], status["signal"]) == ("failed", 139, "SIGSEGV")


def in_process(tmp_path: Path, program: str) -> tuple[runner.Runner, Path]:
    """A runner of this process, whose world a test can change."""
    (tmp_path / "job").mkdir()
    runner.write_json(tmp_path / "job" / "spec.json", {"name": "train", "command": [sys.executable, "-c", program], "environment": {}})
    return runner.Runner(tmp_path / "job"), tmp_path / "job" / "status.json"


@pytest.fixture
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("kills", "words"), [("oom_kill 3", "it ran out of memory"), ("oom_kill 2", "or the kernel because"), (None, "or the kernel")])
def test_a_killed_command_says_whether_memory_ran_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None, kills: str | None, words: str
) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr(runner, "MEMORY_EVENTS", events)
    if kills:
        events.write_text("low 0\noom 9\noom_kill 2\n")
    after = f"open({str(events)!r}, 'w').write({kills!r})" if kills else "0"
    made, status = in_process(tmp_path, f"import os, signal; {after}; os.kill(os.getpid(), signal.SIGKILL)")
    made.run()
    said = runner.read_json(status)
    assert (said["state"], said["signal"]) == ("failed", "SIGKILL") and words in said["message"]


def test_a_command_that_runs_into_its_memory_limit_says_so(make_job: MakeJob) -> None:
    job = make_job("import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); bytes(2**31)")
    started(job)
    assert job.wait(20)["state"] == "failed" and job.log_tail(1) == ["MemoryError"]


def test_a_job_that_fills_the_disk_still_ends_with_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None) -> None:
    """Nothing can be written while the reserve is there, as on a full disk."""
    made, status = in_process(tmp_path, "import sys, time; time.sleep(0.2); sys.exit(28)")
    write, refused = runner.write_json, []

    def full(path: Path, value: dict[str, Any], *, sync: bool = False) -> None:
        if made.reserve.exists() and value["state"] != "starting":
            refused.append(value["state"])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value, sync=sync)

    monkeypatch.setattr(runner, "write_json", full)
    monkeypatch.setattr(runner, "FULL_BELOW_BYTES", 1 << 80)
    made.run()
    said = runner.read_json(status)
    assert refused[0] == "running" and refused[-1] == "failed"
    assert (said["state"], said["exit_code"]) == ("failed", 28) and said["ended_at"]
    assert said["message"].startswith("the command ended with exit code 28, and the disk that holds ") and not made.reserve.exists()


def test_a_program_that_is_not_there_fails_with_a_sentence(tmp_path: Path) -> None:
    job = Job(JobSpec("x", ["/no/such/program"]), tmp_path)
    job.start(check_mode=False)
    status = job.wait(20)
    assert (status["state"], status["exit_code"]) == ("failed", 127)
    assert "could not be started" in status["message"]
    assert "/no/such/program" in status["message"]


def test_killed_runner_is_lost_and_its_command_ends(make_job: MakeJob) -> None:
    job = make_job(CHECKPOINTING)
    status = started(job)
    until(lambda: says_up(job))
    os.kill(status["runner_pid"], signal.SIGKILL)
    until(lambda: job.record()["state"] == "lost")
    until(lambda: runner.process_started(status["pid"]) is None)
    assert job.log_tail(1) == ["checkpoint written"], "the command is told when its runner dies"


def test_a_lost_job_starts_anew_beside_no_orphan(make_job: MakeJob) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    job = make_job(stubborn)
    first = started(job)
    until(lambda: says_up(job))
    os.kill(first["runner_pid"], signal.SIGKILL)
    until(lambda: job.record()["state"] == "lost")
    job._end_orphan(job.record(), grace_seconds=0.2)
    assert runner.process_started(first["pid"]) is None
    second = started(job)
    assert (second["attempt"], second["state"]) == (2, "running")
    assert (job.dir / "job.1.log").read_text() == "up\n"


def test_a_process_with_the_same_number_is_not_the_runner(make_job: MakeJob) -> None:
    job = make_job(SLEEPER)
    started(job)
    status = runner.read_json(job.dir / "status.json")
    runner.write_json(job.dir / "spare.json", status)
    os.kill(status["runner_pid"], signal.SIGSTOP)
    runner.write_json(job.dir / "status.json", {**status, "runner_started": status["runner_started"] - 1})
    assert job.record()["state"] == "lost"
    runner.write_json(job.dir / "status.json", status)
    os.kill(status["runner_pid"], signal.SIGCONT)


def test_progress_and_heartbeat_reach_the_status(make_job: MakeJob) -> None:
    program = (
        "import json, os, time\nname = os.environ['PODCYCLE_PROGRESS_FILE']\n"
        "for n in range(40):\n open(name + '.part', 'w').write(json.dumps({'summary': f'step {n}', 'fraction': n / 40}))\n"
        " os.replace(name + '.part', name)\n time.sleep(0.1)"
    )
    job = make_job(program)
    first = started(job)
    seen = until(lambda: job.record().get("progress"))
    assert seen["summary"].startswith("step ")
    ended = job.wait(20)
    assert ended["progress"]["summary"] == "step 39"
    assert ended["heartbeat_at"] > first["heartbeat_at"]


@pytest.mark.parametrize("hostile", ["[1, 2]", "not json", '{"a": ' * 50_000, json.dumps({"summary": "x" * 20_000})])
def test_a_strange_progress_file_does_no_harm(make_job: MakeJob, hostile: str) -> None:
    job = make_job(
        "import os, sys; open(os.environ['PODCYCLE_PROGRESS_FILE'], 'w').write(sys.stdin.read() or os.environ['TEXT'])", environment={"TEXT": hostile[:100_000]}
    )
    started(job)
    status = job.wait(20)
    assert (status["state"], status["progress"]) == ("succeeded", None)


def test_what_the_command_left_behind_is_ended(make_job: MakeJob) -> None:
    job = make_job("import subprocess; print(subprocess.Popen(['sleep', '60']).pid)")
    started(job)
    job.wait(20)
    pid = int(job.log_tail(1)[0])
    until(lambda: runner.process_started(pid) is None)


def test_check_mode_starts_nothing(make_job: MakeJob) -> None:
    job = make_job()
    changed, status = job.start(check_mode=True)
    assert (changed, status["state"]) == (True, "starting")
    assert not job.dir.exists()


def test_cancel_in_check_mode_leaves_the_job_alone(make_job: MakeJob) -> None:
    job = make_job(SLEEPER)
    started(job)
    assert job.cancel(5, check_mode=True)[0]
    assert job.record()["state"] == "running"
    assert not (job.dir / "cancel.json").exists()


def test_cancel_of_a_job_that_never_was_changes_nothing(make_job: MakeJob) -> None:
    assert make_job().cancel(5, check_mode=False) == (False, {})


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "line\nbreak"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    job = Job(JobSpec(name, ["true"]), tmp_path)
    with pytest.raises(JobInputError):
        job.start(check_mode=False)
    with pytest.raises(JobInputError):
        job.cancel(1, check_mode=False)


def test_an_empty_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobInputError, match="empty"):
        Job(JobSpec("x", []), tmp_path).start(check_mode=False)


def test_the_job_folder_is_private(make_job: MakeJob) -> None:
    job = make_job(environment={"TOKEN": "abc"})
    started(job)
    job.wait(20)
    assert job.dir.stat().st_mode & 0o777 == 0o700
    assert (job.dir / "spec.json").stat().st_mode & 0o777 == 0o600
