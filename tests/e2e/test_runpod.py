# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole cycles in RunPod's other ways: through the gateway only, from a template, on a spot pod that is outbid, with a container that never stays up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.rclone import rclone


def status(world: Any, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.run_dir(run_id) / "collected/run_artifacts/jobs/train/status.json").read_text(encoding="utf-8"))
    return found


def test_a_cycle_through_the_gateway_only(world: Any) -> None:
    """The pod publishes no SSH of its own. The run's key stands in the account meanwhile, and not a moment longer."""
    done = world.play("cycle.yml", run_id="gateway", ports=["8888/http"], train_seconds=6, seconds=400).ok()
    (pod,) = world.read("gateway", "provision.json")["pods"]
    assert pod["ssh_via"] == "gateway" and pod["ports"] == ["8888/http"]
    assert status(world, "gateway")["state"] == "succeeded" and world.read("gateway", "local_validation/validation.json")["ok"] is True
    manifest = world.read("gateway", "collected/manifest.json")
    assert {"model.pt", "metrics.jsonl"} <= {row["path"] for row in manifest["pods"][0]["files"]}
    assert "every pod of this run was read back as gone" in done.text
    assert world.ask("GET", "/v2/account/ssh-keys", key="rpa_rehearsal_full")["keys"] == []
    world.nothing_bills()


def test_a_cycle_from_a_template_stores_its_artifacts(world: Any) -> None:
    """What the template says becomes of the pod, and what was collected stands in the store when the pod is gone."""
    saved = {"template_name": "for-cycles", "template_image": "runpod/base:7", "template_disk_gib": 33, "template_env": {"FROM": "template"}}
    assert world.play("playbooks/template.yml", **saved).ok().recap("localhost")["changed"] == 1
    store = world.path / "store"
    variables = {"run_id": "templated", "runpod": {"template": "for-cycles"}, "artifacts_remote": f":local:{store}"}
    env = {"PATH": f"{Path(rclone()).parent}:{world.environment()['PATH']}"}
    done = world.play("cycle.yml", seconds=300, env=env, **variables).ok()
    (pod,) = world.control("GET", "/pods")["pods"]
    made = next(entry["body"] for entry in world.posts() if entry["path"] == "/v2/pods")
    assert made["templateId"] and "image" not in made and (pod["image"], pod["status"]) == ("runpod/base:7", "TERMINATED"), (made, pod)
    assert "every pod of this run was read back as gone" in done.text
    collected = world.run_dir("templated") / "collected"
    files = {path.relative_to(collected) for path in collected.rglob("*") if path.is_file()}
    assert files and all((store / "templated" / name).read_bytes() == (collected / name).read_bytes() for name in files)
    told = [(event["phase"], event.get("message", "")) for event in world.events("templated") if event["status"] == "ok"]
    assert {phase for phase, message in told if "/s by " in message} == {"push", "collect", "store"}, told
    world.nothing_bills()


def test_a_spot_pod_that_is_outbid_in_training_goes_on_from_its_checkpoint(world: Any, wait_until: Any) -> None:
    """RunPod stops it with SIGTERM; its volume stays. The same command bids again and the training goes on."""
    variables = {"run_id": "spot", "spot": True, "train_seconds": 12, "train_unreachable_seconds": 5, "on_failure": "hold", "volume_gib": 20}
    first = world.begin("cycle.yml", **variables)
    first.says("[spot-0] train:")
    (pod_id,) = world.pod_ids("spot")
    wait_until(lambda: world.checkpointed("spot", pod_id), 60, "a checkpoint is written")
    world.control("POST", f"/pods/{pod_id}/preempt")
    ended = first.end(200)
    assert ended.code != 0 and pod_id in ended.text
    second = world.play("cycle.yml", seconds=300, **variables).ok()
    assert world.pod_ids("spot") == [pod_id], "the same pod, bid for again"
    assert status(world, "spot")["state"] == "succeeded"
    manifest = json.loads((world.run_dir("spot") / "collected/run_artifacts/manifest.json").read_text(encoding="utf-8"))
    assert manifest["resumed_from"], "it began anew"
    assert "every pod of this run was read back as gone" in second.text
    world.nothing_bills()


def test_a_container_that_never_stays_up_is_given_back_with_its_reason(world: Any) -> None:
    world.control("POST", "/faults", {"kind": "crash_loop", "times": None, "params": {"seconds": 2}})
    done = world.play("playbooks/start.yml", run_id="loop", waits={"endpoint": 60, "sshd": 60}).failed()
    assert "starts again and again" in done.flat and "container exited with 127" in done.flat
    world.play("playbooks/stop.yml", run_id="loop")
    world.nothing_bills()
