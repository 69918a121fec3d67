# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds of one `pod_status` over a group, with each pod asked over SSH and without, beside `ansible -m ping` of the same pods.

Usage: python tests/benchmarks/status.py [--pods 1 50] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / ".collections")]
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir  # noqa: E402
from support.cloud import KEY, ROOT, Cloud  # noqa: E402

BIN = Path(sys.executable).parent
GPU = "NVIDIA GeForce RTX 4090"


def ansible(folder: Path, *words: str) -> tuple[float, str]:
    environment = {**os.environ, "HOME": str(folder), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "false"}
    began = time.monotonic()
    done = subprocess.run([str(BIN / "ansible"), *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ansible failed: {done.stdout[-2000:]}{done.stderr[-1000:]}")
    return time.monotonic() - began, done.stdout


def task(folder: Path, module: str, options: dict[str, Any]) -> tuple[float, str]:
    where = ["-i", "localhost,", "localhost", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    return ansible(folder, *where, "-m", f"podcycle.gpu.{module}", "-a", json.dumps(options))


def measure(cloud: Cloud, folder: Path, count: int, runs: int) -> None:
    account: dict[str, Any] = {"endpoint": cloud.endpoint, "api_key": KEY, "state_dir": str(folder / "state")}
    run_id = f"bench{count}"
    key = StateDir(folder / "state").open().run_dir(run_id) / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    wish = {**account, "run_id": run_id, "count": count, "gpu": [GPU], "ssh_public_key": key.with_suffix(".pub").read_text().strip()}
    task(folder, "pod", {**wish, "ssh_private_key_file": str(key), "known_hosts_file": str(key.parent / "known_hosts")})
    plugin = {"plugin": "podcycle.gpu.pods", "clouds": [{**account, "cloud": "runpod"}]}
    inventory = folder / "pods.yml"
    inventory.write_text(json.dumps(plugin))
    rows: dict[str, list[float]] = {"asked over SSH": [], "from the cloud alone": [], "ansible -m ping": []}
    for _turn in range(runs):
        seconds, said = task(folder, "pod_status", {**account, "run_id": run_id})
        if said.count("trouble: null") != count:
            raise SystemExit(f"not every pod answered: {said[-2000:]}")
        rows["asked over SSH"].append(seconds)
        rows["from the cloud alone"].append(task(folder, "pod_status", {**account, "run_id": run_id, "ssh": False})[0])
        ping = ["-i", str(inventory), "all", "-m", "ansible.builtin.ping", "-e", "ansible_python_interpreter=/usr/bin/python3"]
        rows["ansible -m ping"].append(ansible(folder, *ping)[0])
    for name, found in rows.items():
        print(f"{count:4} pods  {name:22} {statistics.median(found):6.2f} s ({min(found):.2f} to {max(found):.2f})", flush=True)
    task(folder, "pod", {**account, "run_id": run_id, "state": "absent"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, nargs="*", default=[1, 50])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with Cloud(process="process") as cloud, tempfile.TemporaryDirectory(prefix="podcycle-bench-") as temporary:
        cloud.control("POST", "/market", {"gpu": GPU, "stock": 10000})
        for count in options.pods:
            measure(cloud, Path(temporary), count, options.runs)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
