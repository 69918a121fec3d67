# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each stage by itself on a pod that was kept, the inventory while it lives, and its end without a ledger."""

from __future__ import annotations

import json
from typing import Any

RUN = "kept"
HOST = "kept-0"


def test_stages_one_by_one(world: Any, wait_until: Any) -> None:
    kept = world.play("cycle.yml", run_id=RUN, on_end="keep").ok()
    pod_id = world.pod_ids(RUN)[0]
    assert f"kept: {pod_id} (running), 0.5900 $/h, until 20" in kept.flat
    assert [pod["id"] for pod in world.live()] == [pod_id]

    assert world.play("playbooks/converge.yml", run_id=RUN).ok().recap(HOST)["changed"] == 0
    assert world.play("playbooks/push.yml", run_id=RUN).ok().recap(HOST)["changed"] == 0
    inventory(world, pod_id)
    cancel_and_resume(world, wait_until, pod_id)
    collect(world, pod_id)
    world.play("playbooks/validate.yml", run_id=RUN).ok()
    assert world.read(RUN, "local_validation/validation.json")["ok"] is True
    stop_without_ledger(world)
    inventory_of_a_stopped_cloud(world)


def plain(value: Any) -> Any:
    """What ansible-inventory shows of a text that must not be a template."""
    return value["__ansible_unsafe"] if isinstance(value, dict) else value


def inventory(world: Any, pod_id: str) -> None:
    listed = world.command("ansible-inventory", "-i", str(world.path / "inventory"), "--list")
    assert listed.returncode == 0, listed.stderr
    shown = json.loads(listed.stdout)["_meta"]["hostvars"][HOST]
    assert (plain(shown["podcycle_id"]), plain(shown["podcycle_state"]), shown["podcycle_rehearsal"]) == (pod_id, "running", True)
    assert "rpa_pod_" not in listed.stdout and "PRIVATE KEY" not in listed.stdout
    options = json.dumps(world.options())
    pinged = world.command("ansible", "all", "-i", str(world.path / "inventory"), "-m", "ansible.builtin.ping", "-e", options)
    assert pinged.returncode == 0 and f"{HOST} | SUCCESS" in pinged.stdout, pinged.stdout + pinged.stderr


def cancel_and_resume(world: Any, wait_until: Any, pod_id: str) -> None:
    """A cancelled training saves a checkpoint, and the next one goes on from it."""
    train = world.begin("playbooks/train.yml", run_id=RUN, train_seconds=300)
    train.says("positions/s")
    world.play("playbooks/cancel.yml", run_id=RUN).ok()
    cancelled = train.end(60).failed()
    assert "stage train failed on kept-0: Follow training: job train on kept-0: cancelled" in cancelled.flat
    assert world.job(RUN, pod_id)["state"] == "cancelled" and world.job(RUN, pod_id)["exit_code"] == 75
    saved = max(int(path.name.split("-")[1]) for path in (world.workspace(pod_id) / "runs" / RUN / "ckpt").glob("last-*.pt"))

    world.play("playbooks/train.yml", run_id=RUN, train_seconds=3).ok()
    assert world.job(RUN, pod_id)["state"] == "succeeded"
    log = (world.workspace(pod_id) / "runs" / RUN / "jobs" / "train" / "job.log").read_text(encoding="utf-8")
    assert f"step {saved}" in log, log


def collect(world: Any, pod_id: str) -> None:
    """A stage that fails by itself names the pod and the cause; done again, it brings what is new."""
    model = world.workspace(pod_id) / "runs" / RUN / "model.pt"
    content = model.read_bytes()
    model.unlink()
    failed = world.play("playbooks/collect.yml", run_id=RUN).failed()
    assert "stage collect failed on kept-0: Pull the artifacts:" in failed.flat and "lacks model.pt" in failed.flat
    assert f"run the stage again with: -e run_id={RUN}" in failed.flat
    model.write_bytes(content)
    world.play("playbooks/collect.yml", run_id=RUN).ok()
    assert (world.run_dir(RUN) / "collected" / "run_artifacts" / "model.pt").read_bytes() == content


def stop_without_ledger(world: Any) -> None:
    (world.state / "ledgers").rename(world.state / "lost")
    world.play("playbooks/stop.yml", run_id=RUN).ok()
    world.nothing_bills()


def inventory_of_a_stopped_cloud(world: Any) -> None:
    world.cloud("stop")
    empty = world.command("ansible-inventory", "-i", str(world.path / "inventory"), "--list")
    assert empty.returncode == 0, empty.stderr
    assert json.loads(empty.stdout)["_meta"]["hostvars"] == {}
