# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Training goes on while SSH is away."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("training_only")


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.chaos)])
def test_ssh_is_cut_and_restarted_during_training(world: Any, wait_until: Any, seconds: int) -> None:
    """The job runs once, its progress goes on meanwhile, its log is whole, and the cycle completes."""
    run = world.begin("cycle.yml", run_id="cut", train_seconds=14 + seconds, train_unreachable_seconds=10 * seconds)
    run.says("[cut-0] train:")
    pod_id = world.pod_ids("cut")[0]
    wait_until(lambda: (world.job("cut", pod_id).get("progress") or {}).get("step"), 30, "the first step")
    before = world.job("cut", pod_id)
    world.control("POST", f"/pods/{pod_id}/ssh", {"seconds": seconds})
    run.says(f"cannot reach the pod, trying for {10 * seconds} s; runpod shows the pod running", 40)
    wait_until(lambda: world.job("cut", pod_id)["progress"]["step"] > before["progress"]["step"], 30, "progress while SSH is cut")
    run.says("reached again after", 30 + seconds)
    world.control("POST", f"/pods/{pod_id}/ssh", {"seconds": 0.5})
    result = run.end(150 + seconds).ok()

    artifacts = world.run_dir("cut") / "collected" / "run_artifacts"
    status = json.loads((artifacts / "jobs" / "train" / "status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["attempt"], status["pid_started"]) == ("succeeded", 1, before["pid_started"])
    rows = [json.loads(line) for line in (artifacts / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows if row.get("kind") == "train"]
    assert steps == sorted(set(steps)) and steps[-1] > before["progress"]["step"]
    log = (artifacts / "jobs" / "train" / "job.log").read_text(encoding="utf-8")
    assert log.count("positions of train") <= 1 and not re.search(r"resum", log, re.IGNORECASE)
    assert "every pod of this run was read back as gone" in result.text
    world.nothing_bills()
