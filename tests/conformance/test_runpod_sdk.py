# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's own package and our driver see the same world: the package speaks GraphQL, the driver REST v2."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import RunPodAccount
from support.harness import GPU, Rehearsal

runpod = pytest.importorskip("runpod")
STAMP = model.Stamp("r1", "pod", 0, "0a1b2c3d", "9f8e7d6c")


def test_the_same_gpus_at_the_same_prices(driver: RunPod) -> None:
    theirs = {row["id"]: row for row in runpod.get_gpus()}
    ours = {gpu.id: gpu for gpu in driver.gpu_types()}
    assert theirs.keys() - {"unknown"} == ours.keys()
    assert all((theirs[gpu]["displayName"], theirs[gpu]["memoryInGb"]) == (ours[gpu].name, ours[gpu].vram_gib) for gpu in ours)
    one = runpod.get_gpu(GPU, 2)
    offers = {offer.cloud_type: offer for offer in driver.offers(1, spot=False, options={"cloud_type": "any"}) if offer.gpu == GPU}
    assert (Decimal(str(one["securePrice"])), Decimal(str(one["communityPrice"]))) == (offers["secure"].usd_per_hour, offers["community"].usd_per_hour)
    assert one["lowestPrice"] == {"minimumBidPrice": 0.2, "uninterruptablePrice": 0.34}
    with pytest.raises(ValueError, match="No GPU found"):
        runpod.get_gpu("RTX 4090")


def test_a_pod_of_the_package_lives_in_our_world(create: Callable[..., dict[str, Any]], driver: RunPod) -> None:
    made = create(env={"A": "1"}, volume_in_gb=20, volume_mount_path="/workspace", gpu_count=2)
    (pod,) = driver.list()
    assert (pod.id, pod.name, pod.gpu, pod.gpu_count, pod.volume_gib, pod.ports) == (made["id"], "from-the-package", GPU, 2, 20, ("22/tcp", "8888/http"))
    assert made["env"] == ["A=1"] and made["machine"]["podHostId"].startswith(made["id"])
    (listed,) = runpod.get_pods()
    assert listed["id"] == pod.id and Decimal(str(listed["costPerHr"])) == pod.usd_per_hour
    assert runpod.stop_pod(pod.id) == {"id": pod.id, "desiredStatus": "EXITED"} and driver.get(pod.id).state == model.STOPPED
    assert runpod.resume_pod(pod.id, 2)["desiredStatus"] == "RUNNING" and driver.get(pod.id).state in (model.STARTING, model.RUNNING)
    runpod.terminate_pod(pod.id)
    assert runpod.get_pods() == [] and runpod.get_pod(pod.id) is None
    with pytest.raises(errors.NotFound):
        driver.get(pod.id)
    with pytest.raises(runpod.error.QueryError, match="pod not found to terminate"):
        runpod.terminate_pod(pod.id)


def test_a_pod_of_ours_lives_in_the_packages_world(driver: RunPod, world: Rehearsal) -> None:
    wish = model.PodWish(
        run_id="r1", name="pod", count=1, gpus=(GPU,), gpu_count=1, max_usd_per_hour=None, image="runpod/base:1", disk_gib=20, volume_gib=0,
        volume_path="/workspace", ports=("22/tcp",), env={"A": "x=y"}, regions=(), options={},
    )  # fmt: skip
    pod = driver.create(wish, STAMP, model.Offer("runpod", GPU, "RTX 4090", 1, 24, Decimal("0.59"), "EU-RO-1"))
    seen = runpod.get_pod(pod.id)
    assert (seen["name"], seen["imageName"], seen["containerDiskInGb"], seen["ports"]) == (str(STAMP), "runpod/base:1", 20, "22/tcp")
    assert sorted(seen["env"]) == ["A=x=y", "PODCYCLE_PORTS=22/tcp"]
    for _turn in range(100):
        runtime, endpoint = runpod.get_pod(pod.id)["runtime"], driver.get(pod.id).endpoint
        if runtime and endpoint:
            break
    assert {"ip": endpoint.host, "publicPort": endpoint.port, "isIpPublic": True, "privatePort": 22, "type": "tcp"} in runtime["ports"]
    driver.stop(pod.id)
    assert runpod.get_pod(pod.id)["desiredStatus"] == "EXITED" and runpod.get_pod(pod.id)["runtime"] is None
    driver.terminate(pod.id)
    assert runpod.get_pod(pod.id) is None


def test_templates(create: Callable[..., dict[str, Any]], account: RunPodAccount, driver: RunPod) -> None:
    made = runpod.create_template(
        "t", "runpod/base:1", docker_start_cmd='bash -c "sleep 9"', container_disk_in_gb=15, volume_in_gb=20, volume_mount_path="/data", ports="22/tcp",
        env={"A": "1"},
    )
    (ours,) = account.templates()
    assert (ours.id, ours.args, ours.disk_gib, ours.volume_gib, ours.volume_path, ours.ports, ours.env) == (
        made["id"], 'bash -c "sleep 9"', 15, 20, "/data", ("22/tcp",), {"A": "1"},
    )  # fmt: skip
    pod = create(image_name="", template_id=made["id"], ports=None, env={"B": "2"})
    assert driver.get(pod["id"]).disk_gib == 15 and sorted(pod["env"]) == ["A=1", "B=2"]
    with pytest.raises(errors.InvalidRequest, match="in use"):
        account.delete_template(ours.id)


def test_network_volumes_credentials_and_keys(create: Callable[..., dict[str, Any]], account: RunPodAccount, driver: RunPod) -> None:
    volume = account.create_volume("data", 20, "EU-CZ-1", None)
    assert runpod.get_user()["networkVolumes"] == [{"id": volume.id, "name": "data", "size": 20, "dataCenterId": "EU-CZ-1"}]
    for gpu in driver.offers(1, spot=False, options={"cloud_type": "secure"}):
        try:
            # The package looks the volume's data center up.
            pod = create(network_volume_id=volume.id, gpu_type_id=gpu.gpu)
            break
        except runpod.error.QueryError as error:
            assert "no longer any instances" in str(error)
    assert [one.id for one in account.tenants() if one.volume == volume.id] == [pod["id"]]
    registry = runpod.create_container_registry_auth("hub", "me", "hush-hush")
    assert [(one.id, one.name) for one in account.registries()] == [(registry["id"], "hub")]
    assert runpod.update_container_registry_auth(registry["id"], "me", "other")["id"] == registry["id"]
    runpod.delete_container_registry_auth(registry["id"])
    assert account.registries() == []
    assert runpod.update_user_settings("ssh-ed25519 AAAA one\nssh-ed25519 BBBB two")["pubKey"] and len(account.ssh_keys()) == 2


def test_refusals_reach_the_package(create: Callable[..., dict[str, Any]], world: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    world.control("POST", "/market", {"gpu": GPU, "stock": 0})
    with pytest.raises(runpod.error.QueryError, match="There are no longer any instances available with the requested specifications"):
        create()
    monkeypatch.setattr(runpod, "api_key", "rpa_wrong")
    with pytest.raises(runpod.error.AuthenticationError):
        runpod.get_pods()
    assert world.pods() == []
