# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds, memory and requests of one `pod` task that rents a group, and of one that gives it back.

Usage: python tests/benchmarks/rent.py [--processes 1 20] [--records 1 200] [--runs 3]

`--processes` are groups of process pods with a real login over SSH, `--records` groups of pods without anything behind them. The boot delay is
the rehearsal cloud's own, at time scale 1.
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
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support.cloud import KEY, ROOT, Cloud

BIN = Path(sys.executable).parent
GPU = "NVIDIA GeForce RTX 4090"


def task(folder: Path, options: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and MiB of one task, ansible's own start included."""
    environment = {**os.environ, "HOME": str(folder), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    command = [str(BIN / "ansible"), "-i", "localhost,", "localhost", "-c", "local", "-m", "podcycle.gpu.pod", "-a", json.dumps(options)]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    began = time.monotonic()
    with (folder / "out").open("w+b") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        out.seek(0)
        if status:
            raise SystemExit(f"the task failed: {out.read().decode()[-3000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def asked(cloud: Cloud) -> str:
    found = Counter(entry["method"] for entry in cloud.control("GET", "/requests")["requests"])
    return " ".join(f"{count} {method}" for method, count in sorted(found.items()))


def group(cloud: Cloud, folder: Path, count: int, *, login: bool, number: int) -> dict[str, tuple[float, float, float, str]]:
    """Rent and give back one group."""
    account = {"endpoint": cloud.endpoint, "api_key": KEY, "state_dir": str(folder / "state"), "run_id": f"bench{number}"}
    wish: dict[str, Any] = {**account, "count": count, "gpu": [GPU]}
    if login:
        key = folder / "key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        wish.update(ssh_public_key=key.with_suffix(".pub").read_text().strip(), ssh_private_key_file=str(key), known_hosts_file=str(folder / f"known{number}"))
    found = {}
    for verb, options in (("rent", wish), ("give back", {**account, "state": "absent"})):
        cloud.control("DELETE", "/requests")
        found[verb] = (*task(folder, options), asked(cloud))
        alive = [pod for pod in cloud.control("GET", "/pods")["pods"] if pod["status"] == "RUNNING"]
        if len(alive) != (count if verb == "rent" else 0):
            raise SystemExit(f"{len(alive)} pods live after {verb}")
    return found


def measure(kind: str, sizes: list[int], runs: int) -> None:
    with Cloud(process="process" if kind == "processes" else "none") as cloud, tempfile.TemporaryDirectory(prefix="podcycle-bench-") as temporary:
        cloud.control("POST", "/market", {"gpu": GPU, "stock": 10000})
        first: dict[str, float] = {}
        for count in sizes:
            rows = [group(cloud, Path(temporary), count, login=kind == "processes", number=1000 * count + number) for number in range(runs)]
            for verb in ("rent", "give back"):
                seconds = statistics.median(row[verb][0] for row in rows)
                ratio = seconds / first.setdefault(verb, seconds)
                spent, memory = statistics.median(row[verb][1] for row in rows), max(row[verb][2] for row in rows)
                print(f"{count:4} {kind:10} {verb:10} {seconds:6.2f} s ({ratio:4.2f})  CPU {spent:5.2f} s  {memory:4.0f} MiB  {rows[-1][verb][3]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 20])
    parser.add_argument("--records", type=int, nargs="*", default=[1, 200])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    measure("processes", options.processes, options.runs)
    measure("records", options.records, options.runs)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
