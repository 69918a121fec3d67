# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from support.world import trainers

pytestmark = pytest.mark.usefixtures("training_only")


def training(world: Any, run_id: str) -> str:
    """The id of the run's only pod, once its training runs."""
    pod_id = world.pod_ids(run_id)[0]
    assert world.job(run_id, pod_id).get("state") in ("starting", "running")
    return pod_id


def test_killed_controller_and_rerun(world: Any) -> None:
    """SIGKILL in training: the rerun takes the run over, finds the same pod and the same job, and completes."""
    first = world.begin("cycle.yml", run_id="killed", train_seconds=8)
    first.says("[killed-0] train:")
    pod_id = training(world, "killed")
    first.process.kill()
    assert first.end().code == -9
    before = world.job("killed", pod_id)

    second = world.play("cycle.yml", run_id="killed", train_seconds=8).ok()
    assert world.pod_ids("killed") == [pod_id]
    assert len([entry for entry in world.posts() if entry["path"] == "/v2/pods"]) == 1
    status = json.loads((world.run_dir("killed") / "collected/run_artifacts/jobs/train/status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["attempt"], status["pid_started"]) == ("succeeded", 1, before["pid_started"])
    assert "which is gone" in (world.run_dir("killed") / "reports" / "observations.md").read_text(encoding="utf-8")
    assert "every pod of this run was read back as gone" in second.text
    assert world.read("killed", "local_validation/validation.json")["ok"] is True
    world.nothing_bills()


def test_a_stalled_training_is_seen_collected_and_ended_by_whoever_watches(world: Any, wait_until: Any) -> None:
    """The trainer hangs while its controller waits: that one is interrupted, what is finished comes home, the pod goes, and the watch says so."""
    run = world.begin("cycle.yml", run_id="stalled", train_seconds=300)
    run.says("[stalled-0] train:")
    pod_id = training(world, "stalled")
    wait_until(lambda: world.checkpointed("stalled", pod_id), 60, "a checkpoint")
    for pid in trainers(world.workspace(pod_id)):
        os.kill(pid, signal.SIGSTOP)

    # Without being told, it looks for the job in the workspace that the run was begun with.
    quick = {"on_stall": "terminate", "stall_seconds": 900, "watch": 1, "max_watch_seconds": 2, "workspace": ""}
    short = world.play("playbooks/watch.yml", run_id="stalled", **quick)
    assert short.code == 2 and "train: running" in short.flat, short.text
    assert "watched run stalled for max_watch_seconds=2 and its jobs have not ended" in short.flat, short.text
    run.process.send_signal(signal.SIGSTOP)
    deaf = world.play("playbooks/watch.yml", run_id="stalled", stall_seconds=5, watch=1)
    assert deaf.code == 2 and "stalled-0 showed no sign of life for 5 s; done about it: nothing" in deaf.flat, deaf.text
    run.process.send_signal(signal.SIGCONT)
    seen = world.play("playbooks/watch.yml", run_id="stalled", on_stall="collect-terminate", stall_seconds=5, watch=1)
    assert seen.code == 2, seen.text
    assert run.end(5).code == 99, run.text
    assert "stalled-0 showed no sign of life for 5 s; done about it: collect, terminate" in seen.flat, seen.text
    assert list((world.run_dir("stalled") / "collected").rglob("last-*.pt")), seen.text
    assert world.event("stalled", "collect", "ok"), seen.text
    world.nothing_bills()
    none = world.play("playbooks/watch.yml", run_id="stalled", on_stall="terminate", watch=1)
    assert none.code == 2 and "watch run stalled: it has no pod, so there is nothing to watch" in none.flat, none.text


def test_interrupt_then_keeper_gives_back(world: Any, wait_until: Any) -> None:
    """Ctrl-C in training: the lease is shown as orphaned with its time, then the keeper ends it."""
    run = world.begin("cycle.yml", run_id="ctrlc", train_seconds=300, interrupt_grace_minutes=0.2)
    run.says("[ctrlc-0] train:")
    pod_id = training(world, "ctrlc")
    run.signal_group(signal.SIGINT)
    assert run.end().code == 99

    shown = world.play("playbooks/leases.yml").ok()
    assert pod_id in shown.text
    assert "the keeper gives it back at" in shown.flat
    wait_until(lambda: world.control("GET", "/meter")["open"] == [], 40, "the keeper has given the pod back")
    wait_until(lambda: "gave back 1 pods" in (world.state / "runs" / "ctrlc" / "keeper.log").read_text(encoding="utf-8"), 20, "the keeper is done")
    world.nothing_bills()
    shown = world.play("playbooks/leases.yml").ok()
    assert pod_id not in shown.text and "open_leases: []" in shown.text


def test_a_keeper_that_cannot_give_back_lets_stop_do_it(world: Any, wait_until: Any) -> None:
    """The keeper's key is refused: it waits for its next attempt, and whoever has a good key gives back meanwhile."""
    world.play("playbooks/start.yml", run_id="refused", interrupt_grace_minutes=0.05).ok()
    world.control("POST", "/faults", {"kind": "error_401", "times": None})
    log = world.state / "runs" / "refused" / "keeper.log"
    wait_until(lambda: "revoked" in log.read_text(encoding="utf-8"), 30, "the keeper was refused")
    world.control("DELETE", "/faults")
    world.play("playbooks/stop.yml", run_id="refused").ok()
    world.nothing_bills()
