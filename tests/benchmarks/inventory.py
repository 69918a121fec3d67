# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds and memory of the inventory plugin beside a static YAML inventory of the same hosts, groups and variables.

Usage: python tests/benchmarks/inventory.py [--sizes 100 1000 10000] [--runs 3]

The pods are records of a rehearsal cloud, each with its lease in the ledger. The three inventories take turns within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cloud import KEY, ROOT, Cloud

BIN = Path(sys.executable).parent
# The static YAML of more hosts than this is read once only: 10,000 take minutes.
SLOW = 1000
COMMANDS = {"--list": ["ansible-inventory", "--list"], "--list-hosts": ["ansible", "all", "--list-hosts"]}


def journal(pods: list[dict[str, Any]]) -> str:
    """The ledger's lines for pods that are rented."""
    lines = []
    for pod in pods:
        wish = {"gpus": ["NVIDIA GeForce RTX 4090"], "gpu_count": 1, "image": pod["image"], "known_hosts_file": None}
        intent = {"cloud": "runpod", "endpoint": "", "key_id": "0", "wish": wish, "deadline": "2099-01-01T00:00:00Z"}
        price = {"gpu": "NVIDIA GeForce RTX 4090", "region": "EU-RO-1", "usd_per_hour": "0.59"}
        for event, data in (("intent", intent), ("attempt", price), ("leased", {**price, "pod_id": pod["id"]})):
            record = {"ts": "2026-11-01T10:00:00Z", "lease": pod["name"], "event": event, "data": data}
            text = json.dumps(record, sort_keys=True, separators=(",", ":"))
            lines.append(f"{zlib.crc32(text.encode()):08x} {text}\n")
    return "".join(lines)


def rent(cloud: Cloud, folder: Path, count: int) -> None:
    """`count` pods in one run of ours."""
    sys.path.insert(0, str(ROOT / ".collections"))
    from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger
    from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir

    state = StateDir(folder / "state").open()
    cloud.control("POST", "/reset")
    names = [f"podcycle-bench-pod-{number}-{state.owner}-{secrets.token_hex(4)}" for number in range(count)]
    cloud.control("POST", "/pods/bulk", {"count": count, "names": names})
    pods = cloud.control("GET", "/pods")["pods"]
    Ledger(state, "runpod", cloud.endpoint).path.write_text(journal(pods), encoding="utf-8")
    (state.run_dir("bench") / "id_ed25519").write_text("no key", encoding="ascii")
    # Their host keys have been seen, as those of pods that are at work.
    (state.run_dir("bench") / "known_hosts").write_text("".join(f"{pod['id']} ssh-ed25519 AAAA\n" for pod in pods), encoding="ascii")


def lay(cloud: Cloud, folder: Path) -> dict[str, Path]:
    """The inventories: static YAML, the same text as JSON (which Ansible reads much faster), cached, fetched."""
    for name in ("fetched", "cached", "static", "json"):
        (folder / name).mkdir()
    options = {"plugin": "podcycle.gpu.pods", "clouds": [{"cloud": "runpod", "endpoint": cloud.endpoint, "api_key": KEY, "state_dir": str(folder / "state")}]}
    cache = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(folder / "cache"), "cache_timeout": 86400}
    (folder / "fetched" / "pods.yml").write_text(yaml.safe_dump(options), encoding="utf-8")
    (folder / "cached" / "pods.yml").write_text(yaml.safe_dump({**options, **cache}), encoding="utf-8")
    known = json.loads(run(folder, folder / "cached" / "pods.yml", COMMANDS["--list"])[2])
    groups: dict[str, Any] = {name: {"hosts": dict.fromkeys(group.get("hosts", []), {})} for name, group in known.items() if name not in ("_meta", "all")}
    static = {"all": {"hosts": known["_meta"]["hostvars"], "children": {name: group for name, group in groups.items() if name != "ungrouped"}}}
    (folder / "static" / "hosts.yml").write_text(yaml.safe_dump(static, sort_keys=False), encoding="utf-8")
    (folder / "json" / "hosts.yml").write_text(json.dumps(static), encoding="utf-8")
    return {name: next((folder / name).iterdir()) for name in ("static", "json", "cached", "fetched")}


def run(folder: Path, inventory: Path, command: list[str]) -> tuple[float, float, str]:
    """Seconds, MiB at the most, output."""
    environment = {**os.environ, "HOME": str(folder), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    began = time.monotonic()
    with (folder / "out").open("w+b") as out:
        process = subprocess.Popen([str(BIN / command[0]), "-i", str(inventory), *command[1:]], stdout=out, stderr=subprocess.PIPE, env=environment)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        out.seek(0)
        text = out.read().decode()
    if status:
        raise SystemExit(f"{command} on {inventory} failed: {process.stderr.read().decode() if process.stderr else ''}")
    return seconds, usage.ru_maxrss / 1024, text


def measure(cloud: Cloud, count: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="podcycle-bench-") as temporary:
        folder = Path(temporary)
        rent(cloud, folder, count)
        inventories = lay(cloud, folder)
        for name, command in COMMANDS.items():
            rows: dict[str, list[tuple[float, float]]] = {kind: [] for kind in inventories}
            hosts = set()
            for number in range(runs):
                for kind, path in inventories.items():
                    if kind == "static" and number and count > SLOW:
                        continue
                    seconds, memory, text = run(folder, path, command)
                    rows[kind].append((seconds, memory))
                    hosts.add(len(json.loads(text)["_meta"]["hostvars"]) if name == "--list" else len(text.splitlines()) - 1)
            if hosts != {count}:
                raise SystemExit(f"not all inventories list {count} hosts: {hosts}")
            medians = {kind: statistics.median(seconds for seconds, _memory in found) for kind, found in rows.items()}
            peaks = {kind: max(memory for _seconds, memory in found) for kind, found in rows.items()}
            cells = "  ".join(f"{kind} {medians[kind]:6.2f} s ({medians[kind] / medians['static']:4.2f}) {peaks[kind]:5.0f} MiB" for kind in inventories)
            print(f"{count:6} pods  {name:12}  {cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with Cloud() as cloud:
        for count in options.sizes:
            measure(cloud, count, options.runs)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
