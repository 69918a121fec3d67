# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fail-over while renting, giving back what is orphaned, and the guard that ends a pod from within."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

KEY = "rpa_rehearsal_full"
STRANGER = {
    "name": "somebody-elses", "image": "runpod/pytorch:2.13", "gpu": {"id": "NVIDIA GeForce RTX 3090", "count": 1}, "disk": 20, "ports": ["22/tcp"],
}  # fmt: skip


def test_fail_over_then_reap_the_orphan_alone(world: Any) -> None:
    """No room on the first GPU: the second is rented, and said. An orphan is reaped when told so; a stranger's pod never."""
    world.control("POST", "/faults", {"kind": "no_capacity", "times": None, "params": {"gpu": "NVIDIA GeForce RTX 4090"}})
    stranger = world.ask("POST", "/v2/pods", STRANGER, KEY)["id"]
    started = world.play("playbooks/start.yml", run_id="orphan").ok()
    pod = world.read("orphan", "provision.json")["pods"][0]
    assert pod["gpu"] == "NVIDIA L40S"
    assert any("no capacity for RTX 4090" in note for note in pod["notes"]), pod["notes"]
    assert "no capacity for RTX 4090" in started.flat

    world.kill_keeper("orphan")
    world.control("DELETE", "/requests")
    dry = world.play("playbooks/reap.yml").ok()
    assert "would_be_given_back" in dry.text and pod["id"] in dry.text and "add -e reap_now=true" in dry.text
    assert "somebody-elses" in dry.text
    assert {entry["method"] for entry in world.control("GET", "/requests")["requests"]} == {"GET"}
    assert {one["id"] for one in world.live()} == {stranger, pod["id"]}

    done = world.play("playbooks/reap.yml", reap_now=True).ok()
    assert pod["id"] in done.text.partition("left_alone")[0]
    assert [one["id"] for one in world.live()] == [stranger]
    assert world.control("GET", "/meter")["open"] == [stranger]
    assert "reap_now=true" not in world.play("playbooks/reap.yml").ok().text, "nothing to give back, nothing to type"


def test_a_lost_ledger_is_replaced_by_the_stamp_once_confirmed(world: Any) -> None:
    """The ledger is gone: reap.yml names the pod as ours by its stamp, and ends it only after the owner id was typed twice."""
    stranger = world.ask("POST", "/v2/pods", STRANGER, KEY)["id"]
    world.play("playbooks/start.yml", run_id="forgotten").ok()
    pod_id = world.pod_ids("forgotten")[0]
    world.kill_keeper("forgotten")
    for path in (world.state / "ledgers").glob("*.jsonl"):
        path.unlink()
    owner = (world.state / "owner").read_text(encoding="ascii").strip()
    plain = world.play("playbooks/reap.yml", reap_now=True, reap_all=True).ok()
    assert pod_id in plain.text and {one["id"] for one in world.live()} == {stranger, pod_id}
    refused = world.play("playbooks/reap.yml", reap_now=True, owner=owner).failed()
    assert "confirm_owner" in refused.text and {one["id"] for one in world.live()} == {stranger, pod_id}
    world.play("playbooks/reap.yml", reap_now=True, owner=owner, confirm_owner=owner).ok()
    assert [one["id"] for one in world.live()] == [stranger]
    assert "run forgotten has no pod that runs" in world.play("playbooks/train.yml", run_id="forgotten").failed().flat


@pytest.mark.usefixtures("training_only")
def test_guard_ends_the_pod_at_its_deadline(world: Any, wait_until: Any) -> None:
    """Controller and keeper are gone: the pod terminates itself, with its own key."""
    world.play("playbooks/start.yml", run_id="alone", lease_hours="0.012").ok()
    pod_id = world.pod_ids("alone")[0]
    converge = world.begin("playbooks/converge.yml", run_id="alone")
    status = world.workspace(pod_id) / ".podcycle" / "guard" / "status.json"
    wait_until(lambda: status.exists() and json.loads(status.read_text(encoding="utf-8"))["armed"], 40, "the guard is armed")
    world.kill_keeper("alone")
    converge.signal_group(signal.SIGKILL)
    converge.process.wait()
    assert [pod["id"] for pod in world.live()] == [pod_id]
    wait_until(lambda: world.live() == [], 60, "the pod has ended itself")
    world.nothing_bills()
    ended = [entry for entry in world.control("GET", "/requests")["requests"] if entry["method"] == "DELETE"]
    assert [(entry["path"], entry["key"]) for entry in ended] == [(f"/v2/pods/{pod_id}", f"pod:{pod_id}")]


def test_offers_and_check_mode_rent_nothing(world: Any) -> None:
    offers = world.play("playbooks/offers.yml", limit=60).ok()
    assert "$/h      spot     GPU" in offers.text and "1 x RTX 4090" in offers.text
    checked = world.play("cycle.yml", "--check", run_id="checked").ok()
    assert "1 pod with 1 x NVIDIA GeForce RTX 4090 from 0.5900 $/h each; at worst" in checked.flat
    # A question to GraphQL is a POST too.
    assert [entry for entry in world.posts() if entry["path"] != "/graphql"] == [] and world.live() == [] and not world.run_dir("checked").exists()
    refused = world.play("cycle.yml", "--check", run_id="checked", gpu="RTX9999").failed()
    assert "start: Work out what it would cost: GPU 'RTX9999' is not known on runpod; nearest:" in refused.flat.replace("''", "'")
    assert world.live() == [] and not world.run_dir("checked").exists()
