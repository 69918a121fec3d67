# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole cycles in RunPod's other ways: through the gateway, from a template, beside services that crash, on a spot pod, with a container that ends at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from support.rclone import rclone
from support.world import free_port


def status(world: Any, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.run_dir(run_id) / "collected/run_artifacts/jobs/train/status.json").read_text(encoding="utf-8"))
    return found


def of_this_machine(world: Any, pid: int) -> int:
    """The process that has this number in the world's only pod."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            numbers = re.findall(r"^NSpid:(.*)$", (path / "status").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
            if int(numbers[-1]) == pid and str(world.path).encode() in (path / "cmdline").read_bytes():
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"no process of {world.path} has the number {pid}")


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


@pytest.mark.usefixtures("training_only")
def test_a_cycle_from_a_template_stores_its_artifacts(world: Any) -> None:
    """What the template says becomes of the pod, which pulls its data itself; what was collected stands in the store when the pod is gone."""
    saved = {"template_name": "for-cycles", "template_image": "runpod/base:7", "template_disk_gib": 33, "template_env": {"FROM": "template"}}
    assert world.play("playbooks/template.yml", **saved).ok().recap("localhost")["changed"] == 1
    store = world.path / "store"
    variables = {"run_id": "templated", "runpod": {"template": "for-cycles"}, "artifacts_remote": f":local:{store}"}
    env = {"PATH": f"{Path(rclone()).parent}:{world.environment()['PATH']}"}
    world.play("playbooks/start.yml", env=env, **variables).ok()
    (pod_id,) = world.pod_ids("templated")
    shutil.copy(rclone(), world.cloud_dir / "pods" / pod_id / "bin" / "rclone")
    # A pod has a /tmp of its own, where this checkout may lie; its workspace it sees.
    remote = world.dataset(world.workspace(pod_id) / "remote", val=9)
    held_out = hashlib.sha256((remote / "val.jsonl").read_bytes()).hexdigest()
    variables |= {"data_remote": f":local:{remote}", "dataset_dir": ""}
    done = world.play("cycle.yml", seconds=300, env=env, **variables).ok()
    (pod,) = world.control("GET", "/pods")["pods"]
    made = next(entry["body"] for entry in world.posts() if entry["path"] == "/v2/pods")
    assert made["templateId"] and "image" not in made and (pod["image"], pod["status"]) == ("runpod/base:7", "TERMINATED"), (made, pod)
    assert "every pod of this run was read back as gone" in done.text
    collected = world.run_dir("templated") / "collected"
    files = {path.relative_to(collected) for path in collected.rglob("*") if path.is_file()}
    assert files and all((store / "templated" / name).read_bytes() == (collected / name).read_bytes() for name in files)
    same = next(check for check in world.read("templated", "local_validation/validation.json")["checks"] if check["name"] == "same_data")
    assert same["ok"] and held_out in same["detail"], same
    told = [(event["phase"], event.get("message", "")) for event in world.events("templated") if event["status"] == "ok"]
    assert {phase for phase, message in told if "/s by " in message} == {"push", "collect", "store"}, told
    world.nothing_bills()


def test_services_that_crash_in_turn_leave_the_training_and_each_other_alone(world: Any, wait_until: Any) -> None:
    """Each comes back with another process while the training goes on; the run ends as if nothing had been."""
    names = ("jupyter", "inference", "hf-watch", "idle-watchdog")
    wanted = {"services_jupyter": True, "services_inference": True, "services_hf_watch": True, "services_idle_watchdog": True}
    more = {"services_hf_repo_id": "me/bot", "services_idle_action": "none", "services_jupyter_port": free_port(), "services_inference_port": free_port()}
    run = world.begin("cycle.yml", run_id="crashes", train_seconds=30, **wanted, **more)
    run.says("[crashes-0] train:", 200)
    (pod_id,) = world.pod_ids("crashes")
    folder = world.workspace(pod_id) / ".podcycle/services"

    def running(name: str) -> Any:
        state = json.loads((folder / name / "running.json").read_text(encoding="utf-8"))
        return state["state"] == "running" and (state["pid"], state["child"])

    for crashed in names:
        before = {name: wait_until(lambda name=name: running(name), 40, f"{name} runs") for name in names}
        os.kill(of_this_machine(world, before[crashed][1]), signal.SIGKILL)
        wait_until(lambda crashed=crashed, before=before: running(crashed) not in (False, before[crashed]), 40, f"{crashed} runs again")
        assert {name: running(name) for name in names if name != crashed} == {name: before[name] for name in names if name != crashed}
    assert world.job("crashes", pod_id)["state"] == "running", "all of this happened while it trained"
    done = run.end(240).ok()
    assert (status(world, "crashes")["state"], status(world, "crashes")["attempt"]) == ("succeeded", 1)
    assert "every pod of this run was read back as gone" in done.text
    world.nothing_bills()


@pytest.mark.usefixtures("training_only")
def test_a_spot_pod_that_is_outbid_in_training_goes_on_from_its_checkpoint(world: Any, wait_until: Any) -> None:
    """RunPod stops it with SIGTERM; its volume stays. The same command bids again and the training goes on."""
    variables = {"run_id": "spot", "spot": True, "train_seconds": 12, "volume_gib": 20}
    first = world.begin("cycle.yml", **variables)
    first.says("[spot-0] train:")
    (pod_id,) = world.pod_ids("spot")
    wait_until(lambda: world.checkpointed("spot", pod_id), 60, "a checkpoint is written")
    world.control("POST", f"/pods/{pod_id}/preempt")
    ended = first.end(200).failed()
    assert f"runpod shows spot pod {pod_id} stopped: it was outbid, or" in ended.flat and "may still be running there" not in ended.flat
    assert "outbid or stopped, with its files on its volume: the same command bids again and goes on from there" in ended.flat
    assert [pod["status"] for pod in world.live()] == ["EXITED"]
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
