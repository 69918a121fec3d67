# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from support.world import trainers

pytestmark = pytest.mark.usefixtures("training_only")


def test_one_good_one_failed_one_preempted(world: Any, wait_until: Any) -> None:
    """The good pod's artifacts come home, everything is given back, and the run counts as failed."""
    run = world.begin("cycle.yml", run_id="mixed", pod_count=3, train_seconds=10, hold_minutes=0)
    run.says("[mixed-1] train:")
    run.says("[mixed-2] train:")
    pods = world.pod_ids("mixed")
    wait_until(lambda: trainers(world.workspace(pods[1])), 30, "training on the second pod")
    for pid in trainers(world.workspace(pods[1])):
        os.kill(pid, signal.SIGKILL)
    world.control("POST", f"/pods/{pods[2]}/preempt", {})
    result = run.end(180).failed()

    world.nothing_bills()
    collected = world.run_dir("mixed") / "collected" / "run_artifacts"
    assert (collected / "pod-0" / "model.pt").is_file()
    assert world.read("mixed", "local_validation/pod-0-validation.json")["ok"] is True
    assert "run mixed failed in stage train on mixed-" in result.flat
    assert "mixed-1: Follow training: job train on mixed-1: the command was ended by SIGKILL" in result.flat
    assert f"mixed-2: Follow training: job train on mixed-2: runpod has stopped pod {pods[2]}" in result.flat
    assert f"Next: ansible-playbook -i {os.path.relpath(world.path / 'inventory')} cycle.yml" in result.flat and "-e run_id=mixed" in result.flat
    assert "every pod of this run was read back as gone" in result.text
    observations = (world.run_dir("mixed") / "reports" / "observations.md").read_text(encoding="utf-8")
    assert "## Last log lines of mixed-1" in observations


@pytest.mark.both_ends
def test_one_of_two_unreachable_before_converge(world: Any, wait_until: Any) -> None:
    run = world.begin("cycle.yml", run_id="two", pod_count=2, hold_minutes=0)
    wait_until(lambda: world.event("two", "start", "ok"), 60, "both pods rented")
    pods = world.pod_ids("two")
    world.control("POST", f"/pods/{pods[1]}/kill_host", {})
    result = run.end(180).failed()

    world.nothing_bills()
    assert (world.run_dir("two") / "collected" / "run_artifacts" / "pod-0" / "model.pt").is_file()
    assert "run two failed in stage converge on two-1: the pod was out of reach (SSH)" in result.flat
    assert "Next: ansible-playbook" in result.flat and "-e run_id=two" in result.flat
    assert pods[1] in result.text
    assert result.recap("two-0")["failed"] == 0


def test_only_pod_unreachable(world: Any, wait_until: Any) -> None:
    run = world.begin("cycle.yml", run_id="alone")
    wait_until(lambda: world.event("alone", "start", "ok"), 60, "the pod rented")
    world.control("POST", f"/pods/{world.pod_ids('alone')[0]}/kill_host", {})
    result = run.end(120).failed()

    world.nothing_bills()
    assert "run alone failed in stage converge on alone-0: the pod was out of reach (SSH)" in result.flat
    assert "every pod of this run was read back as gone" in result.text
    assert world.read("alone", "cost.json")["cost_usd"] is not None


def test_collect_fails_then_the_next_run_collects(world: Any, wait_until: Any) -> None:
    """A pod whose model cannot be brought home, or nowhere laid down, is held for a while, at a price that is said; the same run id fetches it."""
    run = world.begin("cycle.yml", run_id="held")
    wait_until(lambda: world.event("held", "train", "ok"), 120, "training done")
    pod_id = world.pod_ids("held")[0]
    model = world.workspace(pod_id) / "runs" / "held" / "model.pt"
    model.rename(model.with_name("away.pt"))
    result = run.end().failed()

    assert "run held failed in stage collect on held-0: Pull the artifacts:" in result.flat
    assert "lacks model.pt" in result.flat
    assert f"held for its artifacts: {pod_id} (running), 0.5900 $/h, until 20" in result.flat
    assert "-e run_id=held" in result.flat
    assert [pod["id"] for pod in world.live()] == [pod_id]

    model.with_name("away.pt").rename(model)
    fill_the_disk(world, wait_until, "held", "collect", held=True)
    assert world.pod_ids("held") == [pod_id]
    assert (world.run_dir("held") / "collected" / "run_artifacts" / "model.pt").is_file()


# In each Python of the playbook: from the moment that FLAG is there, nothing goes into a file below FOLDER.
FULL_DISK = """
import errno, os
def guard(real):
    def full(handle, *rest):
        if os.path.exists({flag!r}) and os.readlink("/proc/self/fd/%d" % handle).startswith({folder!r}):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, *rest)
    return full
os.write, os.fsync = guard(os.write), guard(os.fsync)
"""


def fill_the_disk(world: Any, wait_until: Any, run_id: str, stage: str, *, held: bool) -> None:
    """From a stage on no event, verdict or report can be written: the pods are given back, or held for what they have made, and the run says why."""
    flag, site = world.path / "full", world.path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FULL_DISK.format(flag=str(flag), folder=str(world.run_dir(run_id))), encoding="utf-8")
    before = len(world.event(run_id, stage, "started"))
    run = world.begin("cycle.yml", run_id=run_id, env={"PYTHONPATH": str(site)})
    wait_until(lambda: len(world.event(run_id, stage, "started")) > before or run.process.poll() is not None, 120, f"the stage {stage}")
    flag.touch()
    result = run.end(180).failed()

    assert "No space left on device" in result.flat and "make room" in result.flat, result.text[-5000:]
    alive = world.live()
    assert bool(alive) is held, result.text[-5000:]
    assert all(pod["id"] in result.flat and "playbooks/stop.yml" in result.flat for pod in alive), result.text[-5000:]
    flag.unlink()
    again = world.play("cycle.yml", run_id=run_id).ok()
    assert "every pod of this run was read back as gone" in again.text
    world.nothing_bills()


@pytest.mark.chaos
@pytest.mark.parametrize(("stage", "held"), [("start", False), ("train", True), ("stop", False)])
def test_a_full_disk_under_the_run_folder_keeps_no_pod_alive_unseen(world: Any, wait_until: Any, stage: str, held: bool) -> None:
    fill_the_disk(world, wait_until, "full", stage, held=held)
