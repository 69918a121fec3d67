# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._copying import Meter
from ansible_collections.podcycle.gpu.plugins.module_utils._scp import Scp

VOLUME = {"mounts": {"persistent": {"size": 20, "path": "/workspace"}}}


def control_pod(cloud: Any, pod_id: str) -> dict[str, Any]:
    record: dict[str, Any] = cloud.control("GET", f"/pods/{pod_id}")
    return record


def alive(pattern: str) -> bool:
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False).returncode == 0


def test_sessions(cloud: Any) -> None:
    pod = cloud.create(env={**cloud.body()["env"], "SECRET": "of the pod"})
    port, folder = cloud.reachable(pod["id"]), cloud.pod_dir(pod["id"])
    assert cloud.ssh(port, "exit 7").returncode == 7
    assert cloud.ssh(port, "cat; echo err >&2", stdin="a\nb\n").stdout == "a\nb\n"
    assert cloud.ssh(port, "tty", options=("-tt",)).stdout.strip().startswith("/dev/pts/")
    environment = dict(line.split("=", 1) for line in cloud.ssh(port, "env").stdout.splitlines() if "=" in line)
    assert environment["HOME"] == str(folder / "home")
    assert environment["PATH"].split(":")[0] == str(folder / "bin")
    assert environment["TMPDIR"] == str(folder / "tmp") and environment["UV_CACHE_DIR"] == str(folder / "cache" / "uv")
    assert "pyenv" not in environment["PATH"] and "PYTHONDONTWRITEBYTECODE" not in environment and "VIRTUAL_ENV" not in environment
    seen = cloud.ssh(port, "tr '\\0' '\\n' < /proc/1/environ").stdout
    if control_pod(cloud, pod["id"])["isolation"] == "namespaces":
        assert "SECRET" not in environment and "RUNPOD_API_KEY" not in environment
        assert "SECRET=of the pod" in seen and f"RUNPOD_POD_ID={pod['id']}" in seen and f"RUNPOD_TCP_PORT_22={port}" in seen
        assert cloud.ssh(port, "echo ~root").stdout.strip() == str(folder / "home")
    assert cloud.ssh(port, "python3 -c 'print(6*7)'").stdout == "42\n"
    for refused in ("sudo id", "su", "apt-get update", "systemctl status"):
        done = cloud.ssh(port, refused)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1


def test_a_wrong_key_and_a_wrong_user_are_refused(cloud: Any, tmp_path: Path) -> None:
    pod = cloud.create()
    port = cloud.reachable(pod["id"])
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    words = [str(other) if word == str(cloud.key_file) else word for word in cloud.ssh_words(port)]
    assert subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 255
    assert cloud.ssh(port, "true", options=("-l", "ubuntu")).returncode == 255
    assert cloud.ssh(port, "true").returncode == 0


def test_files_go_in_and_out(cloud: Any, tmp_path: Path) -> None:
    pod = cloud.create()
    port, folder = cloud.reachable(pod["id"]), cloud.pod_dir(pod["id"])
    source = tmp_path / "data"
    source.write_bytes(os.urandom(3_000_000))
    remote = " ".join(cloud.ssh_words(port)[:-1])
    subprocess.run(["rsync", "-a", "-e", remote, str(source), f"root@127.0.0.1:{folder}/workspace/by_rsync"], check=True, timeout=20)
    options = ["-P", str(port), *[word for word in cloud.ssh_words(port)[1:-1] if word not in ("-p", str(port))]]
    subprocess.run(["scp", "-q", *options, str(source), f"root@127.0.0.1:{folder}/workspace/by_scp"], check=True, timeout=20)
    subprocess.run(["scp", "-q", *options, f"root@127.0.0.1:{folder}/workspace/by_scp", str(tmp_path / "back")], check=True, timeout=20)
    for path in (folder / "workspace" / "by_rsync", folder / "workspace" / "by_scp", tmp_path / "back"):
        assert path.read_bytes() == source.read_bytes()
    # A pod that works may have dropped a file since it was listed.
    rows = [{"path": name, "size": 3_000_000} for name in ("gone[1].pt", "by_scp")]
    never: list[str] = []
    meter = Meter("pull", 6_000_000, never.append)
    (tmp_path / "pulled").mkdir()
    Scp(options, "root@127.0.0.1", 0, 1, 20, meter, never.append, never.append, never.append).pull(
        f"{folder}/workspace", tmp_path / "pulled", rows, lambda: None
    )
    assert [path.name for path in (tmp_path / "pulled").iterdir()] == ["by_scp"] and never == []


def test_nvidia_smi_reports_the_rented_gpu(cloud: Any) -> None:
    pod = cloud.create(gpu={"id": "NVIDIA H100 80GB HBM3", "count": 2})
    port = cloud.reachable(pod["id"])
    rows = cloud.ssh(port, "nvidia-smi --query-gpu=index,name,memory.total,driver_version,count,compute_cap --format=csv,noheader,nounits").stdout
    assert rows.splitlines() == [f"{index}, NVIDIA H100 80GB HBM3, 81559, 580.95.05, 2, 9.0" for index in (0, 1)]
    assert cloud.ssh(port, "nvidia-smi --query-gpu=memory.total --format=csv -i 1").stdout == "memory.total [MiB]\n81559 MiB\n"
    listing = cloud.ssh(port, "nvidia-smi -L").stdout
    assert listing.startswith("GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-") and len(listing.splitlines()) == 2
    assert "580.95.05" in cloud.ssh(port, "nvidia-smi").stdout
    assert cloud.ssh(port, "nvidia-smi --query-gpu=nonsense --format=csv").returncode == 2


def test_the_machine_is_read_only_outside_the_pod(cloud: Any, tmp_path: Path) -> None:
    first, second = cloud.create("one"), cloud.create("two")
    port = cloud.reachable(first["id"])
    if control_pod(cloud, first["id"])["isolation"] != "namespaces":
        pytest.skip("namespaces are not allowed here: the file system is shared by convention")
    here = Path(__file__)
    for target in (here.with_name("left_behind"), Path("/etc/left_behind"), Path.home() / "left_behind"):
        done = cloud.ssh(port, f"touch {target}")
        # A checkout or a home below /tmp is not there at all: the pod has a /tmp of its own.
        wanted = "No such file" if Path("/tmp") in target.parents else "Read-only file system"
        assert done.returncode != 0 and wanted in done.stderr
        assert not target.exists()
    assert cloud.ssh(port, "mount -o remount,rw /").returncode != 0
    assert cloud.ssh(port, "touch /tmp/mine && echo ok").stdout == "ok\n" and not Path("/tmp/mine").exists()
    assert (cloud.pod_dir(first["id"]) / "tmp" / "mine").exists()
    assert cloud.ssh(port, f"ls {cloud.state_dir}/pods").stdout.split() == [first["id"]]
    assert cloud.ssh(port, f"cat {cloud.state_dir}/cloud.sqlite").returncode != 0
    assert cloud.ssh(port, f"kill {os.getpid()}").returncode != 0
    assert second["id"] != first["id"]


def test_terminate_ends_detached_children(cloud: Any) -> None:
    pod = cloud.create()
    port = cloud.reachable(pod["id"])
    mark = f"31{os.getpid()}"
    cloud.ssh(port, f"setsid nohup sh -c 'sleep {mark}; true' </dev/null >/dev/null 2>&1 &")
    cloud.wait(lambda: alive(f"sleep {mark}"))
    supervisor = control_pod(cloud, pod["id"])["pid"]
    assert cloud.call("DELETE", f"/v2/pods/{pod['id']}").status == 204
    assert not alive(f"sleep {mark}") and not Path(f"/proc/{supervisor}").exists()
    assert not cloud.pod_dir(pod["id"]).exists()
    assert cloud.call("GET", f"/v2/pods/{pod['id']}").status == 404
    assert cloud.call("DELETE", f"/v2/pods/{pod['id']}").status == 404
    assert cloud.control("GET", "/meter")["open"] == []


def test_stop_and_start(cloud: Any) -> None:
    pod = cloud.create(**VOLUME)
    port, folder = cloud.reachable(pod["id"]), cloud.pod_dir(pod["id"])
    fingerprint = control_pod(cloud, pod["id"])["host_key_fingerprint"]
    cloud.ssh(port, f"touch {folder}/workspace/kept {folder}/home/lost {folder}/tmp/lost")
    stopped = cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"}).json
    assert (stopped["status"], stopped["cost"], stopped["runtime"], stopped["ssh"]["direct"]) == ("EXITED", 0.0, None, None)
    assert cloud.ssh(port, "true").returncode == 255
    assert [path.name for path in folder.iterdir()] == ["workspace"]
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"}).status == 409
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "reset"}).status == 422
    cloud.control("POST", "/market", {"sold_out": True})
    full = cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "start"})
    assert full.status == 400 and "not enough free GPUs" in full.json["detail"]
    cloud.control("POST", "/market", {"sold_out": False})
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "start"}).json["status"] == "PROVISIONING"
    again = cloud.reachable(pod["id"])
    assert control_pod(cloud, pod["id"])["host_key_fingerprint"] != fingerprint and again != port
    assert (folder / "workspace" / "kept").exists() and not (folder / "home" / "lost").exists()


def test_without_a_volume_a_stop_loses_the_workspace(cloud: Any) -> None:
    pod = cloud.create()
    cloud.reachable(pod["id"])
    (cloud.pod_dir(pod["id"]) / "workspace" / "lost").touch()
    cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"})
    assert list(cloud.pod_dir(pod["id"]).iterdir()) == []
    assert cloud.control("GET", "/meter")["open"] == []


def test_preempt_sends_sigterm_first(cloud: Any) -> None:
    pod = cloud.create(**VOLUME)
    port, folder = cloud.reachable(pod["id"]), cloud.pod_dir(pod["id"])
    script = f"trap 'echo saved > {folder}/workspace/checkpoint; exit 0' TERM; touch {folder}/workspace/ready; while :; do sleep 0.05; done"
    (folder / "workspace" / "job.sh").write_text(script, encoding="utf-8")
    cloud.ssh(port, f"setsid sh {folder}/workspace/job.sh </dev/null >/dev/null 2>&1 &")
    cloud.wait((folder / "workspace" / "ready").exists)
    cloud.control("POST", f"/pods/{pod['id']}/preempt")
    assert (folder / "workspace" / "checkpoint").read_text(encoding="utf-8") == "saved\n"
    assert cloud.get(pod["id"])["status"] == "EXITED"
    assert control_pod(cloud, pod["id"])["note"].startswith("Outbid:")


def test_ssh_is_cut_for_a_while_and_the_pod_goes_on(cloud: Any) -> None:
    pod = cloud.create(**VOLUME)
    port, folder = cloud.reachable(pod["id"]), cloud.pod_dir(pod["id"])
    fingerprint = control_pod(cloud, pod["id"])["host_key_fingerprint"]
    clock = folder / "workspace" / "clock"
    cloud.ssh(port, f"setsid sh -c 'while :; do date > {clock}; sleep 0.1; done' </dev/null >/dev/null 2>&1 &")
    cloud.wait(clock.exists)
    for _turn in range(2):
        cloud.control("POST", f"/pods/{pod['id']}/ssh", {"seconds": 1.5})
        cloud.wait(lambda: "refused" in cloud.ssh(port, "true").stderr)
        before = clock.stat().st_mtime_ns
        cloud.wait(lambda: cloud.ssh(port, "true").returncode == 0)
        assert clock.stat().st_mtime_ns > before + 10**8
    assert control_pod(cloud, pod["id"])["host_key_fingerprint"] == fingerprint
    assert cloud.call("POST", f"/_control/pods/{pod['id']}/ssh", {"seconds": 0}).status == 400
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"}).json["status"] == "EXITED"


def test_a_dead_host_still_bills(cloud: Any) -> None:
    pod = cloud.create()
    port = cloud.reachable(pod["id"])
    cloud.control("POST", f"/pods/{pod['id']}/kill_host")
    assert cloud.ssh(port, "true").returncode == 255
    seen = cloud.get(pod["id"])
    assert (seen["status"], seen["runtime"]) == ("RUNNING", None)
    assert cloud.control("GET", "/meter")["open"] == [pod["id"]]


def test_the_pods_own_key(cloud: Any) -> None:
    pod, other = cloud.create("own"), cloud.create("other")
    port = cloud.reachable(pod["id"])
    if control_pod(cloud, pod["id"])["isolation"] != "namespaces":
        pytest.skip("/proc/1/environ is the machine's here")
    text = cloud.ssh(port, "tr '\\0' '\\n' < /proc/1/environ").stdout
    key = next(line.split("=", 1)[1] for line in text.splitlines() if line.startswith("RUNPOD_API_KEY="))
    assert cloud.call("GET", f"/v2/pods/{pod['id']}", key=key).status == 200
    assert cloud.call("GET", f"/v2/pods/{other['id']}", key=key).status == 403
    assert cloud.call("GET", "/v2/pods", key=key).status == 403
    assert cloud.call("POST", "/v2/pods", cloud.body(), key=key).status == 403
    assert cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "start"}, key=key).status == 403
    assert cloud.call("DELETE", f"/v2/pods/{pod['id']}", key=key).status == 204
    assert cloud.call("GET", f"/v2/pods/{pod['id']}", key=key).status == 401


def test_the_meter_adds_up(cloud: Any) -> None:
    pod = cloud.create(**VOLUME)
    cloud.running(pod["id"])
    cloud.control("POST", f"/pods/{pod['id']}/age", {"seconds": 7200})
    cloud.call("POST", f"/v2/pods/{pod['id']}/action", {"action": "stop"})
    stopped = cloud.control("GET", "/meter")["pods"][pod["id"]]
    assert 7200 <= stopped["seconds_running"] < 7210 and stopped["open"]
    hours = Decimal(str(stopped["seconds_running"])) / 3600
    assert abs(Decimal(stopped["compute_usd"]) - Decimal("0.59") * hours) < Decimal("0.00001")
    # 20 GiB of container disk and 20 GiB of volume at 0.10 USD per GiB and month, then the volume alone at 0.20.
    assert abs(Decimal(stopped["disk_usd"]) - Decimal(4) / 730 * hours) < Decimal("0.00001")
    assert Decimal(stopped["rate_usd_per_hour"]) == Decimal("0.00547945")
    assert Decimal(stopped["usd"]) - Decimal(stopped["compute_usd"]) - Decimal(stopped["disk_usd"]) < Decimal("0.0000001")
    time.sleep(0.05)
    later = cloud.control("GET", "/meter")["pods"][pod["id"]]
    assert Decimal(later["usd"]) > Decimal(stopped["usd"]) and later["compute_usd"] == stopped["compute_usd"]
    bill = cloud.call("GET", f"/v2/billing/pods?bucketSize=hour&podId={pod['id']}").json["records"]
    assert len(bill) >= 3 and abs(sum(record["totalAmount"] for record in bill) - float(later["usd"])) < 0.0001
    cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    assert cloud.control("GET", "/meter")["open"] == []


def test_a_pod_without_a_key_or_with_args_has_no_sshd(cloud: Any) -> None:
    for changes in ({"env": {}}, {"args": "sleep infinity"}):
        pod = cloud.create(**changes)
        port = cloud.running(pod["id"])["ssh"]["direct"]["port"]
        time.sleep(0.2)
        assert cloud.ssh(port, "true").returncode == 255
        assert control_pod(cloud, pod["id"])["sshd"] is False
    pod = cloud.create(ports=["8888/http"])
    assert cloud.running(pod["id"])["ssh"]["direct"] is None


def test_the_image_cache_is_in_every_new_pod(own_cloud: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    own_cloud.start("--time-scale", "20", "--image-cache", str(cache))
    # The first cycle fills it while the cloud is running.
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / "one").write_text("baked in", encoding="utf-8")
    pod = own_cloud.create()
    own_cloud.running(pod["id"])
    copy = own_cloud.pod_dir(pod["id"]) / "cache" / "uv" / "wheels" / "one"
    assert copy.samefile(cache / "wheels" / "one")


def test_convention_mode_gives_sessions_the_environment(own_cloud: Any) -> None:
    started = own_cloud.start("--time-scale", "20", "--isolation", "convention")
    assert started["isolation"] == "convention"
    pod = own_cloud.create()
    port = own_cloud.reachable(pod["id"])
    assert own_cloud.ssh(port, "echo $RUNPOD_POD_ID").stdout.strip() == pod["id"]
    mark = f"32{os.getpid()}"
    own_cloud.ssh(port, f"setsid sleep {mark} </dev/null >/dev/null 2>&1 &")
    own_cloud.wait(lambda: alive(f"sleep {mark}"))
    own_cloud.call("DELETE", f"/v2/pods/{pod['id']}")
    assert not alive(f"sleep {mark}")


def test_a_pod_of_a_killed_supervisor_leaves_nothing(cloud: Any) -> None:
    pod = cloud.create()
    port = cloud.reachable(pod["id"])
    record = control_pod(cloud, pod["id"])
    if record["isolation"] != "namespaces":
        pytest.skip("only the kernel can promise this, by a pid namespace")
    mark = f"33{os.getpid()}"
    cloud.ssh(port, f"setsid sleep {mark} </dev/null >/dev/null 2>&1 &")
    cloud.wait(lambda: alive(f"sleep {mark}"))
    os.kill(record["pid"], signal.SIGKILL)
    cloud.wait(lambda: not alive(f"sleep {mark}"))
