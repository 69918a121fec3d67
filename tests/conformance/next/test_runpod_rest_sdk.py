# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's coming package reads REST v2 for itself: where it and our driver agree about the rehearsal cloud, so do two readings of the API."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import runpod

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import RunPodAccount
from support.harness import GPU, Rehearsal


def test_the_catalog(driver: RunPod) -> None:
    theirs = {row["id"]: row for row in runpod.get_gpus()}
    ours = {gpu.id: gpu for gpu in driver.gpu_types()}
    assert theirs.keys() - {"unknown"} == ours.keys()
    assert all((theirs[gpu]["name"], theirs[gpu]["memory"]) == (ours[gpu].name, ours[gpu].vram_gib) for gpu in ours)
    assert runpod.get_gpu(GPU)["price"]["secure"] == 0.59


def test_a_pods_life(create: Callable[..., dict[str, Any]], driver: RunPod) -> None:
    made = create(env={"A": "x=y"}, volume_in_gb=20, volume_mount_path="/workspace", gpu_count=2)
    (pod,) = driver.list()
    assert (pod.id, pod.name, pod.gpu, pod.gpu_count, pod.volume_gib, pod.ports) == (made["id"], "from-the-package", GPU, 2, 20, ("22/tcp", "8888/http"))
    (listed,) = runpod.get_pods()
    assert (listed["id"], listed["env"], Decimal(str(listed["cost"]))) == (pod.id, {"A": "x=y"}, pod.usd_per_hour)
    assert runpod.stop_pod(pod.id)["status"] == "EXITED" and driver.get(pod.id).state == model.STOPPED
    runpod.resume_pod(pod.id)
    assert driver.get(pod.id).state in (model.STARTING, model.RUNNING)
    runpod.terminate_pod(pod.id)
    assert runpod.get_pods() == [] and runpod.get_pod(pod.id) is None
    with pytest.raises(errors.NotFound):
        driver.get(pod.id)


def test_templates(create: Callable[..., dict[str, Any]], account: RunPodAccount, driver: RunPod) -> None:
    made = runpod.create_template("t", "runpod/base:1", container_disk_in_gb=15, volume_in_gb=20, volume_mount_path="/data", ports="22/tcp", env={"A": "1"})
    (ours,) = account.templates()
    assert (ours.id, ours.disk_gib, ours.volume_gib, ours.volume_path, ours.ports, ours.env) == (made["id"], 15, 20, "/data", ("22/tcp",), {"A": "1"})
    pod = create(image_name="", template_id=made["id"], ports=None, env={"B": "2"})
    assert driver.get(pod["id"]).disk_gib == 15 and pod["env"] == {"A": "1", "B": "2"} and pod["template"] is None
    with pytest.raises(runpod.error.QueryError, match="template not found"):
        create(image_name="", template_id="nosuch")


def test_credentials_and_keys(account: RunPodAccount) -> None:
    registry = runpod.create_container_registry_auth("hub", "me", "hush-hush")
    assert [(one.id, one.name) for one in account.registries()] == [(registry["id"], "hub")]
    runpod.delete_container_registry_auth(registry["id"])
    assert account.registries() == []
    runpod.update_user_settings("ssh-ed25519 AAAA one")
    assert account.ssh_keys() == ["ssh-ed25519 AAAA one"]


def test_network_volumes(create: Callable[..., dict[str, Any]], account: RunPodAccount, world: Rehearsal) -> None:
    world.control("POST", "/market", {"gpu": GPU, "stock": 2})
    volume = account.create_volume("data", 20, "EU-CZ-1", None)
    pod = create(network_volume_id=volume.id)
    assert pod["mounts"]["network"][0]["volumeId"] == volume.id and [one.volume for one in account.tenants()] == [volume.id]


def test_refusals(create: Callable[..., dict[str, Any]], world: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    world.control("POST", "/market", {"gpu": GPU, "stock": 0})
    with pytest.raises(runpod.error.QueryError, match="There are no longer any instances available") as caught:
        create()
    assert caught.value.status_code == 400
    monkeypatch.setattr(runpod, "api_key", "rpa_wrong")
    with pytest.raises(runpod.error.AuthenticationError):
        runpod.get_pods()
