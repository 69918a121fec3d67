# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack's converge, cold and warm, beside a plain shell script that takes the same steps the documented way: apt, pip, git, a look at each.

Usage: stack.py [--runs N] [--part cold|warm|healing ...]      needs a Docker engine; both sides have the same containers, wheels and warm caches
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
sys.path.insert(0, str(ROOT / "extensions" / "molecule"))

import containers  # noqa: E402

SCENARIO = "benchmark"
VARIABLES = {"pytorch_backend": "cpu", "pytorch_python": "", "cutlass_source": "wheel", "usd_per_hour": "2.69"}
# What the roles bring, as a person would type it: system packages, the toolkit, CUTLASS, PyTorch, and each looked at.
PLAIN = r"""
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive PIP_CACHE_DIR=/workspace/cache/pip
phase() { local now; now=$(date +%s%3N); echo "phase $1 $((now - since))"; since=$now; }
since=$(date +%s%3N)
apt-get update -qq >/dev/null
apt-get install -y -qq --no-install-recommends build-essential ca-certificates curl git python3-dev python3-pip python3-venv rclone rsync tmux >/dev/null
python3 -m venv /workspace/tools && /workspace/tools/bin/pip install -q awscli==1.46.3
phase node
python3 -m venv /workspace/cuda && /workspace/cuda/bin/pip install -q 'cuda-toolkit[nvcc,cudart,cccl,crt]==13.0.2' 'nvidia-nvvm==13.0.*'
cuda=$(echo /workspace/cuda/lib/python3*/site-packages/nvidia/cu13)
ln -sfn "$cuda" /usr/local/cuda-13.0; ln -sfn lib "$cuda/lib64"; ln -sfn libcudart.so.13 "$cuda/lib/libcudart.so"
printf '%s\n' '__global__ void f(int* x) { *x = 1; }' 'int main() { f<<<1, 1>>>(nullptr); return 0; }' >/tmp/a.cu
/usr/local/cuda-13.0/bin/nvcc --version | grep -q V13.0.88
/usr/local/cuda-13.0/bin/nvcc -arch=sm_90 -o /tmp/a /tmp/a.cu
phase cuda13
python3 -m venv /workspace/cut && /workspace/cut/bin/pip install -q --no-deps nvidia-cutlass==4.2.0.0
ln -sfn "$(dirname "$(dirname "$(dirname "$(find /workspace/cut -path '*/include/cutlass/version.h' | head -1)")")")" /opt/cutlass
printf '%s\n' '#include <cutlass/gemm/device/gemm.h>' \
  'using Gemm = cutlass::gemm::device::Gemm<float, cutlass::layout::RowMajor, float, cutlass::layout::RowMajor, float, cutlass::layout::RowMajor>;' \
  'int main() { Gemm gemm; return sizeof(gemm) > 0 ? 0 : 1; }' >/tmp/b.cu
/usr/local/cuda-13.0/bin/nvcc -std=c++17 -arch=sm_90 -I/opt/cutlass/include -o /tmp/b /tmp/b.cu
phase cutlass
python3 -m venv /workspace/venv && /workspace/venv/bin/pip install -q torch==@TORCH@ numpy nvidia-ml-py
/workspace/venv/bin/python -c 'import torch; a = torch.eye(64); assert torch.equal(a @ a, a)'
phase pytorch
"""
# What that script does when everything is there: it asks each for its version.
CHECKS = r"""
set -e
/usr/local/cuda-13.0/bin/nvcc --version >/dev/null && test -e /opt/cutlass/include/cutlass/version.h && git --version >/dev/null
/workspace/venv/bin/python -c 'import torch; torch.zeros(1)'
"""


# What is broken; the watchdog is told to look, which it else does every 300 s.
BROKEN = {
    "nvcc is gone": 'rm "$(readlink -f /usr/local/cuda-13.0/bin/nvcc)"',
    "a library of torch is cut short": "truncate -s 1000 /workspace/venv/lib/python3.*/site-packages/torch/lib/libtorch_cpu.so",
    "a header of CUTLASS is gone": 'rm "$(readlink -f /opt/cutlass)/include/cutlass/gemm/gemm.h"',
}
WATCH = """
set -e
cd /workspace/.podcycle/watchdog
count() { python3 -c 'import json; print(sum(row["healed"] is not None for row in json.load(open("state.json")).get("history", [])))'; }
before=$(count)
@BREAK@
began=$(date +%s%3N)
kill -USR1 "$(python3 -c 'import json; print(json.load(open("state.json"))["pid"])')"
for _turn in $(seq 1200); do [ "$(count)" -gt "$before" ] && break; sleep 0.1; done
python3 -c 'import json; row = json.load(open("state.json"))["history"][-1]; assert row["healed"], row; print("noticed to healed", row["seconds"])'
echo "broken to healed $(( $(date +%s%3N) - began ))"
"""
# CPU seconds of an ordinary look.
LOOKS = """
set -e
TIMEFORMAT='cpu %U %S'
for _turn in 1 2 3 4 5; do { time python3 /workspace/.podcycle/watchdog/cuda_watchdog.py check --quick >/dev/null; } 2>&1; done
"""


def play(playbook: str, *more: str) -> tuple[float, str]:
    environment = {**os.environ, "PODCYCLE_SCENARIO": SCENARIO, "ANSIBLE_INVENTORY_ENABLED": "script", "PATH": f"{BIN}:{os.environ['PATH']}"}
    started = time.monotonic()
    words = [str(BIN / "ansible-playbook"), "-i", "extensions/molecule/shared/inventory.sh", playbook, "-e", json.dumps(VARIABLES), *more]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-2000:])
    return time.monotonic() - started, done.stdout


def ping() -> float:
    environment = {**os.environ, "PODCYCLE_SCENARIO": SCENARIO, "ANSIBLE_INVENTORY_ENABLED": "script"}
    started = time.monotonic()
    words = [str(BIN / "ansible"), "-i", "extensions/molecule/shared/inventory.sh", "all", "-m", "ansible.builtin.ping"]
    subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    return time.monotonic() - started


def shell(script: str) -> tuple[float, str]:
    """The script over SSH, as the playbook goes over SSH."""
    name = containers.names(SCENARIO)[0]
    words = ["ssh", *containers.ssh_words(name), "-i", str(containers.key_file()), "-p", str(containers.port_of(name)), "root@127.0.0.1", "bash", "-s"]
    started = time.monotonic()
    done = subprocess.run(words, input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return time.monotonic() - started, done.stdout


def copied(source: str, dest: str) -> str:
    return f"mkdir -p {dest} && for one in uv pip; do if [ -d {source}/$one ]; then rm -rf {dest}/$one; cp -a {source}/$one {dest}/; fi; done"


def fresh() -> None:
    """A bare machine whose volume has kept the wheel caches of an earlier one, as on a cloud."""
    containers.destroy(SCENARIO)
    containers.create(SCENARIO)
    kept = copied(containers.CACHE, "/workspace/cache")
    containers.docker("exec", containers.names(SCENARIO)[0], "sh", "-c", f"{kept}; sed -i /UV_CACHE_DIR/d /etc/environment; sync")


def keep_caches() -> None:
    """What the first runs have fetched, for the ones that are timed."""
    containers.docker("exec", containers.names(SCENARIO)[0], "sh", "-c", copied("/workspace/cache", containers.CACHE))


def phases(text: str, pattern: str, scale: float) -> dict[str, float]:
    return {name: float(number) * scale for name, number in re.findall(pattern, text)}


def show(title: str, seconds: list[float], note: str = "") -> None:
    low, high = min(seconds), max(seconds)
    print(f"{title:44} {statistics.median(seconds):7.2f} s   ({low:.2f} to {high:.2f}) {note}", flush=True)


def cold(runs: int) -> None:
    """Both sides on bare machines; the script's checks beside."""
    torch = re.findall(r"^pytorch_version: (\S+)", (ROOT / "roles/pytorch/defaults/main.yml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    plain = PLAIN.replace("@TORCH@", torch)
    converged: list[float] = []
    script: list[float] = []
    checks: list[float] = []
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    fresh()
    shell(plain)
    keep_caches()
    for _turn in range(runs):
        fresh()
        seconds, said = shell(plain)
        script.append(seconds)
        theirs.append(phases(said, r"phase (\w+) (\d+)", 0.001))
        checks += [shell(CHECKS)[0] for _again in range(3)]
        fresh()
        seconds, said = play("playbooks/bootstrap.yml")
        converged.append(seconds)
        ours.append(phases(said, r"phase (\w+) ([\d.]+) s", 1.0))
    show("cold: plain script", script)
    show("cold: bootstrap.yml", converged, f"the script takes {statistics.median(script) / statistics.median(converged):.1f} times as long")
    for name in theirs[0]:
        left, right = (statistics.median(run.get(name, 0.0) for run in side) for side in (theirs, ours))
        print(f"  {name:12} script {left:6.1f} s   roles {right:6.1f} s   {left / right if right else 0:.1f} times")
    for name in [name for name in ours[0] if name not in theirs[0]]:
        print(f"  {name:12} script   none     roles {statistics.median(run[name] for run in ours):6.1f} s")
    show("warm: the script's checks only", checks)


def warm(runs: int) -> None:
    seconds, tasks = [], "?"
    for _turn in range(max(runs, 3)):
        took, said = play("playbooks/bootstrap.yml")
        seconds.append(took)
        if not re.search(r"changed=0 ", said):
            sys.exit(said[-1500:])
        tasks = (re.findall(r"ok=(\d+)", said) or ["?"])[-1]
    show("warm: bootstrap.yml", seconds, f"changed=0, {tasks} tasks")
    show("warm: ansible -m ping", [ping() for _turn in range(3)])
    name = containers.names(SCENARIO)[0]
    login = [float(re.findall(r"real\s+0m([\d.]+)s", containers.docker("exec", name, "bash", "-c", "{ time bash -ic true; } 2>&1"))[-1]) for _turn in range(5)]
    show("login: an interactive shell, healthy", login)


def healing() -> None:
    looks = [float(user) + float(system) for user, system in re.findall(r"cpu ([\d.]+) ([\d.]+)", shell(LOOKS)[1])]
    show("watchdog: CPU of an ordinary look", looks)
    for what, command in BROKEN.items():
        said = shell(WATCH.replace("@BREAK@", command))[1]
        noticed, whole = re.findall(r"noticed to healed ([\d.]+)\nbroken to healed (\d+)", said)[-1]
        print(f"healed: {what:36} {float(noticed):7.1f} s after it was noticed, {int(whole) / 1000:.1f} s after the watchdog was told to look", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=["cold", "warm", "healing"], action="append", help="only this part; all three by default")
    arguments = parser.parse_args()
    parts = arguments.part or ["cold", "warm", "healing"]
    os.environ.setdefault("PODCYCLE_PLATFORMS", "debian12")
    os.environ["ANSIBLE_NOCOLOR"] = "1"
    fresh()
    play("playbooks/bootstrap.yml")
    keep_caches()
    if "cold" in parts:
        cold(arguments.runs)
    if "warm" in parts:
        warm(arguments.runs)
    if "healing" in parts:
        healing()
    containers.destroy(SCENARIO)


if __name__ == "__main__":
    main()
