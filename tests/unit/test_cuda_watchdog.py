# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog as it runs on a pod: its own process, a workspace of real files, faults put into those files."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils._torch_proof import STAMP

ROLE = Path(__file__).resolve().parents[2] / "roles/cuda_watchdog"
PROGRAM = ROLE / "files"
NVML = """
import json, os
def read():
    found = {"available": True, "trouble": None, "driver": "580.95.05", "cuda_driver": "13.0", "gpus": []}
    found.update(json.load(open(os.path.join(os.path.dirname(__file__), "gpus.json"))))
    return found
"""
TORCH = """
import os
__version__ = "2.13.0+cpu"
class version: cuda = None
class cuda: is_available = staticmethod(lambda: "/compat" in os.environ.get("LD_LIBRARY_PATH", ""))
class eye:
    def __init__(self, n): self.n = n
    def __matmul__(self, other): return self
    def sum(self): return float(self.n)
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GPU = {"index": 0, "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "lost": False, "ecc_uncorrected": 0}


class Pod:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.dir = root / ".podcycle/watchdog"
        self.dir.mkdir(parents=True)
        for program in PROGRAM.glob("*.py"):
            shutil.copy(program, self.dir)
        self.write(".podcycle/watchdog/_nvml.py", NVML)
        self.gpus([])
        self.write("kmsg", "6,1,0,-;booted\n")
        self.build()
        for part in ("cuda-13.0", "cutlass", "venv"):
            shutil.copytree(root / part, root / "good" / part, symlinks=True)
        self.write("heal.sh", f"echo healed >> {root}/heals; [ -e {root}/stubborn ] && exit 9; [ -e {root}/slow ] && sleep 3; cp -a {root}/good/. {root}/")
        self.config()

    def build(self) -> None:
        self.write("cuda-13.0/bin/nvcc", "#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n").chmod(0o755)
        self.write("cuda-13.0/include/cuda.h", "// header\n")
        record = {"version": "13.0.2", "fingerprint": {"nvcc": "13.0.88"}, "files": {"include/cuda.h": 10, "lib64": 3}, "proof": {}}
        self.write("cuda-13.0/.podcycle-cuda.json", json.dumps(record))
        (self.root / "cuda-13.0/lib64").symlink_to("lib")
        header = self.write("cutlass/include/cutlass/version.h", "#define CUTLASS_MAJOR 4\n#define CUTLASS_MINOR 2\n#define CUTLASS_PATCH 0\n")
        self.write("cutlass/.git/HEAD", f"{COMMIT}\n")
        self.write("cutlass/.podcycle-cutlass.json", json.dumps({"schema": 1, "commit": COMMIT, "files": {"include/cutlass/version.h": header.stat().st_size}}))
        site = "venv/lib/python3.11/site-packages"
        self.write("venv/bin/python", f"#!/bin/sh\nPYTHONPATH={self.root}/{site} exec {sys.executable} \"$@\"\n").chmod(0o755)
        for name, text in (("torch", TORCH), ("numpy", "")):
            self.write(f"{site}/{name}/__init__.py", text)
            record = f"{name}/__init__.py,sha256=x,{len(text)}\n../../../bin/x,sha256=y,9\n{name}-1.dist-info/RECORD,,\n"
            self.write(f"{site}/{name}-1.dist-info/RECORD", record)
        self.write(f"venv/{STAMP}", json.dumps({"schema": 1, "torch": "2.13.0+cpu", "cuda_available": False}))

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def config(self, **changes: Any) -> None:
        base = {
            "nvcc": {"prefix": f"{self.root}/cuda-13.0", "note": f"{self.root}/.podcycle/stack/cuda.json"},
            "cutlass": {"path": f"{self.root}/cutlass"},
            "torch": {"venv": f"{self.root}/venv"},
            "kernel_log": f"{self.root}/kmsg",
            "heal_command": ["/bin/sh", f"{self.root}/heal.sh"],
            "jobs": [f"{self.root}/jobs/*/status.json"],
            "backoff_seconds": 0.1,
            "interval_seconds": 300,
            "heal_attempts": 3,
        }
        self.write(".podcycle/watchdog/config.json", json.dumps({**base, **changes}))

    def gpus(self, gpus: list[dict[str, Any]], **more: Any) -> None:
        self.write(".podcycle/watchdog/gpus.json", json.dumps({"gpus": gpus, **more}))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.dir / "cuda_watchdog.py"), *arguments]

    def ask(self, *arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=timeout, check=False)

    def check(self, *arguments: str) -> tuple[int, list[str]]:
        done = self.ask("check", "--json", *arguments)
        assert done.stderr == ""
        return done.returncode, [f"{row['part']}: {row['message']}" for row in json.loads(done.stdout)["broken"]]

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.dir / "state.json").read_text()))

    @property
    def heals(self) -> int:
        path = self.root / "heals"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_a_whole_pod_is_healthy_and_a_look_writes_nothing(pod: Pod) -> None:
    before = sorted(pod.root.rglob("*"))
    assert pod.check() == (0, [])
    assert pod.check("--quick") == (0, [])
    assert pod.ask("check").stdout.startswith("healthy (nvcc, cutlass, torch, gpu;")
    assert [path for path in sorted(pod.root.rglob("*")) if path not in before and "__pycache__" not in path.parts] == []


def spoil(pod: Pod, fault: str) -> None:
    name, _colon, text = fault.partition(":")
    path = pod.root / name
    if text == "gone":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        path.write_text(text)


SITE = "venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("fault", "part", "sentence"),
    [
        ("cuda-13.0/bin/nvcc:gone", "nvcc", "nvcc is missing"),
        ("cuda-13.0/bin/nvcc:", "nvcc", "does not run"),
        ("cuda-13.0/bin/nvcc:#!/bin/sh\necho V12.8.93", "nvcc", "is V12.8.93, not V13.0.88"),
        ("cuda-13.0/include/cuda.h:gone", "nvcc", "include/cuda.h is missing"),
        ("cuda-13.0:gone", "nvcc", "is missing"),
        ("cuda-13.0/.podcycle-cuda.json:gone", "nvcc", "never proven"),
        ("cutlass/.git/HEAD:ref: refs/heads/main\n", "cutlass", f"at commit none, not at {COMMIT}"),
        (f"cutlass/.git/HEAD:{'a' * 40}", "cutlass", f"at commit {'a' * 40}, not at {COMMIT}"),
        ("cutlass/include/cutlass/version.h:gone", "cutlass", "is no CUTLASS"),
        ("cutlass/.podcycle-cutlass.json:gone", "cutlass", "never proven"),
        ("venv:gone", "torch", "python is missing"),
        (f"{SITE}/torch/__init__.py:x", "torch", "torch/__init__.py has 1 bytes"),
        (f"{SITE}/numpy/__init__.py:gone", "torch", "numpy in"),
        (f"{SITE}/torch-1.dist-info:gone", "torch", "torch is missing"),
        (f"venv/{STAMP}:gone", "torch", "never proven"),
    ],
)
def test_a_quick_look_sees_what_is_broken_and_a_cycle_heals_it(pod: Pod, fault: str, part: str, sentence: str) -> None:
    spoil(pod, fault)
    code, broken = pod.check("--quick")
    assert code == 1 and len(broken) == 1 and broken[0].startswith(f"{part}: ") and sentence in broken[0], broken
    done = pod.ask("run", "--once")
    assert done.returncode == 0, done.stdout
    assert pod.heals == 1 and pod.state["status"] == "healthy" and pod.state["history"][0]["healed"] is True
    assert sentence in (pod.dir / "watchdog.log").read_text()
    assert pod.ask("run", "--once").returncode == 0 and pod.heals == 1


@pytest.mark.parametrize("command", [["/bin/bash", "heal.sh"], ["heal.sh"]])
def test_a_script_that_heals_and_is_missing_is_noted_and_never_tried(pod: Pod, command: list[str]) -> None:
    (pod.root / "heal.sh").chmod(0o755)
    pod.config(heal_command=[*command[:-1], f"{pod.root}/heal.sh"])
    assert pod.ask("check", "--quick").stdout.startswith("healthy (")
    (pod.root / "heal.sh").unlink()
    told = f"{pod.root}/heal.sh is missing, so nothing can be healed: run playbooks/bootstrap.yml for this machine, or copy that file there again"
    done = pod.ask("check", "--quick")
    assert (done.returncode, done.stdout) == (0, f"note: {told}\n")
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    assert pod.ask("run", "--once").returncode == 1
    assert (pod.state["status"], pod.state["why"], pod.state.get("history")) == ("no_heal_command", told, None)
    done = pod.ask("heal")
    assert (done.returncode, done.stderr) == (2, f"cuda_watchdog heal: {told}\n")


def test_a_toolkit_that_others_installed_is_found_by_its_note(pod: Pod) -> None:
    (pod.root / "cuda-13.0").rename(pod.root / "image-cuda")
    (pod.root / "image-cuda/.podcycle-cuda.json").unlink()
    pod.write(".podcycle/stack/cuda.json", json.dumps({"path": f"{pod.root}/image-cuda", "proof": {}}))
    assert pod.check() == (0, [])
    (pod.root / "image-cuda/bin/nvcc").unlink()
    assert pod.check("--quick") == (1, [f"nvcc: {pod.root}/image-cuda/bin/nvcc is missing"])


def test_only_an_import_sees_damage_of_the_same_size(pod: Pod) -> None:
    torch = pod.root / SITE / "torch/__init__.py"
    torch.write_text("raise RuntimeError('torn')".ljust(len(TORCH)))
    assert pod.check("--quick") == (0, [])
    assert pod.check()[1][0].endswith("fails: RuntimeError: torn")


@pytest.mark.parametrize(
    ("kernel", "gpus", "trouble", "sentence"),
    [
        ("3,7,0,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=12, GPU has fallen off the bus.\n", [GPU], None, "Xid 79 on PCI:0000:3b:00: pid=12, GPU has fallen"),
        ("", [{**GPU, "lost": True}], None, "is lost: it has fallen off the bus"),
        ("", [{**GPU, "ecc_uncorrected": 2}], None, "2 uncorrected ECC errors"),
        ("", [], None, "(GPU-1) is gone"),
        ("", [], "driver and library version mismatch", "the driver does not answer: driver and library"),
    ],
)
def test_a_broken_gpu_is_reported_and_never_healed(pod: Pod, kernel: str, gpus: list[dict[str, Any]], trouble: str | None, sentence: str) -> None:
    pod.gpus([GPU])
    assert pod.ask("run", "--once").returncode == 0
    pod.gpus(gpus, trouble=trouble)
    with (pod.root / "kmsg").open("a") as log:
        log.write(kernel)
    for _cycle in range(2):
        assert pod.ask("run", "--once").returncode == 3
    assert pod.heals == 0 and pod.state["status"] == "gpu_broken"
    assert sentence in pod.state["result"]["broken"][0]["message"]
    assert (pod.dir / "watchdog.log").read_text().count("broken: gpu") == 1
    assert sentence in pod.ask("status").stdout


def test_the_fault_of_a_program_is_only_a_note(pod: Pod) -> None:
    pod.write("kmsg", "3,7,0,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=12, MMU Fault\n")
    assert pod.ask("run", "--once").returncode == 0
    assert "a program's own fault" in (pod.dir / "watchdog.log").read_text()


def running_job(pod: Pod) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(["sleep", "60"])
    started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    pod.write("jobs/train/status.json", json.dumps({"state": "running", "pid": child.pid, "pid_started": started, "runner_pid": 1, "runner_started": 0}))
    return child


def test_torch_is_imported_through_the_forward_compatibility_library_that_proved_it(pod: Pod) -> None:
    stamp = {"schema": 1, "torch": "2.13.0+cpu", "cuda_available": True}
    for more, code in (({}, 3), ({"library_path": "/usr/local/cuda-13.0/compat"}, 0)):
        pod.write(f"venv/{STAMP}", json.dumps({**stamp, **more}))
        done = pod.ask("check")
        assert done.returncode == code and ("no longer finds a GPU" in done.stdout) == bool(code), done


def test_a_job_that_ended_before_its_start_was_noted_holds_nothing_up(pod: Pod) -> None:
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    with subprocess.Popen(["true"]) as child:
        child.wait()
    pod.write("jobs/train/status.json", json.dumps({"state": "running", "pid": child.pid, "pid_started": None}))
    assert pod.ask("run", "--once").returncode == 0 and pod.heals == 1


def test_never_heals_beside_a_job_unless_asked(pod: Pod) -> None:
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    job = running_job(pod)
    try:
        for _cycle in range(2):
            assert pod.ask("run", "--once").returncode == 1
        assert pod.heals == 0 and pod.state["status"] == "waiting"
        assert (pod.dir / "watchdog.log").read_text().count("not healing while the job") == 1
        assert "add --anyway" in pod.ask("heal").stderr
        pod.config(heal_while_busy=True)
        assert pod.ask("run", "--once").returncode == 0 and pod.heals == 1
        pod.config()
        spoil(pod, "cuda-13.0/bin/nvcc:gone")
        assert pod.ask("heal", "--anyway").returncode == 0 and pod.heals == 2
        spoil(pod, "cuda-13.0/bin/nvcc:gone")
    finally:
        job.kill()
        job.wait()
    assert pod.ask("run", "--once").returncode == 0 and pod.heals == 3, "a job that is dead holds nobody up"


def test_backs_off_gives_up_and_starts_anew_with_other_settings(pod: Pod) -> None:
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    pod.write("stubborn", "")
    pod.config(backoff_seconds=1000, backoff_limit_seconds=1500)
    waits = []
    for attempt in range(3):
        assert pod.ask("run", "--once").returncode == 1
        assert pod.heals == attempt + 1 and pod.state["history"][-1]["exit_code"] == 9
        waits.append(round((pod.state["next_attempt_at"] - time.time()) / 100) * 100)
        pod.ask("run", "--once")
        assert pod.heals == attempt + 1, "too early"
        state = pod.state
        pod.write(".podcycle/watchdog/state.json", json.dumps({**state, "next_attempt_at": 0}))
    assert waits == [1000, 1500, 1500]
    assert pod.ask("run", "--once").returncode == 1 and pod.state["status"] == "given_up" and pod.heals == 3
    (pod.root / "stubborn").unlink()
    pod.config(backoff_seconds=5)
    assert pod.ask("run", "--once").returncode == 0 and pod.heals == 4 and pod.state["attempts"] == 0


def test_a_healing_that_outlives_the_watchdog_keeps_the_lock(pod: Pod) -> None:
    pod.write("slow", "")
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    dog = subprocess.Popen(pod.command("run"), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: pod.heals == 1)
    finally:
        dog.kill()
        dog.wait()
    assert pod.ask("run", "--once").returncode == 1
    assert pod.heals == 1 and "another healing is under way" in (pod.dir / "watchdog.log").read_text()


def test_a_command_that_hangs_is_ended(pod: Pod) -> None:
    pod.write("heal.sh", f"echo healed >> {pod.root}/heals; sleep 60")
    pod.config(heal_timeout_seconds=1)
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    assert pod.ask("run", "--once").returncode == 1
    assert pod.state["history"][0]["exit_code"] == 124


def wait_for(ready: Any, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_what_holds_a_healing_up_is_looked_at_without_haste_and_told_no_longer_than_it_lasts(pod: Pod) -> None:
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    job = running_job(pod)
    try:
        begun = time.time()
        assert pod.ask("run", "--once").returncode == 1
        assert 25 <= parsed(pod.state["next_check_at"]) - begun <= 40 and "not healing while" in pod.ask("status").stdout
        done = pod.ask("busy")
        assert (done.returncode, done.stdout) == (0, f"{pod.root}/cuda-13.0/bin/nvcc is missing; a job runs in {pod.root}/jobs/train\n")
        shutil.copy2(pod.root / "good/cuda-13.0/bin/nvcc", pod.root / "cuda-13.0/bin")
        assert pod.ask("run", "--once").returncode == 0
        assert pod.state["why"] is None and "not healing" not in pod.ask("status").stdout
        assert pod.ask("busy").stdout.startswith("the watchdog does not run; a job runs in ")
        pod.config(jobs=f"{pod.root}/jobs/*/status.json")
        assert pod.ask("busy").returncode == 0
        with (pod.dir / "run.lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert pod.ask("busy").stdout.startswith("this script has not set this machine up; a job runs in ")
    finally:
        job.kill()
        job.wait()
    assert (pod.ask("busy").returncode, pod.ask("busy").stdout) == (1, "")


def test_who_only_looks_stands_in_no_watchdogs_way(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(pod.dir))
    program = importlib.import_module("cuda_watchdog")
    monkeypatch.setattr(program.time, "sleep", lambda _seconds: fcntl.flock(lock, fcntl.LOCK_UN))
    with (pod.dir / "run.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with program.single(pod.dir) as mine:
            assert mine is not None
            with program.single(pod.dir) as other:
                assert other is None


def parsed(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def test_a_healing_by_hand_leaves_the_watchdogs_own_alone(pod: Pod) -> None:
    dog = subprocess.Popen(pod.command("run"), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (pod.dir / "state.json").exists() and "next_check_at" in pod.state)
        assert pod.state["pid"] == dog.pid
        spoil(pod, "cuda-13.0/bin/nvcc:gone")
        assert pod.ask("heal").returncode == 0
        assert pod.state["pid"] == dog.pid and len(pod.state["history"]) == 1
        cycles = pod.state["cycles"]
        for _look in range(2):
            dog.send_signal(signal.SIGUSR1)
            time.sleep(0.3)
        wait_for(lambda: pod.state["cycles"] >= cycles)
        assert len(pod.state["history"]) == 1 and pod.state["history"][0]["healed"] is True
        spoil(pod, "cuda-13.0/bin/nvcc:gone")
        dog.send_signal(signal.SIGUSR1)
        wait_for(lambda: len(pod.state["history"]) == 2 and pod.state["history"][1]["healed"])
    finally:
        dog.terminate()
        dog.wait(10)
    assert pod.state["pid"] is None


def test_a_healing_that_was_cut_off_stays_in_the_history(pod: Pod) -> None:
    pod.write("heal.sh", f"echo healed >> {pod.root}/heals; exec sleep 60")
    spoil(pod, "cuda-13.0/bin/nvcc:gone")
    healer = subprocess.Popen(pod.command("heal"), stdout=subprocess.DEVNULL)
    child = 0
    try:
        wait_for(lambda: pod.heals == 1)
        child = int(Path(f"/proc/{healer.pid}/task/{healer.pid}/children").read_text().split()[0])
        assert pod.state["history"][-1]["healed"] is None and pod.state.get("pid") is None
        assert ": under way (" in pod.ask("status").stdout
    finally:
        healer.kill()
        healer.wait()
        if child:
            os.kill(child, signal.SIGKILL)
    wait_for(lambda: ": it was cut off (" in pod.ask("status").stdout)


def test_runs_once_and_answers_signals(pod: Pod) -> None:
    dog = subprocess.Popen(pod.command("run"), stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (pod.dir / "state.json").exists() and "next_check_at" in pod.state)
        assert json.loads(pod.ask("status", "--json").stdout)["running"] is True
        assert pod.ask("run").returncode == 2
        cycles = pod.state["cycles"]
        spoil(pod, "cuda-13.0/bin/nvcc:gone")
        dog.send_signal(signal.SIGUSR1)
        wait_for(lambda: pod.state["cycles"] > cycles and pod.state["status"] == "healthy")
        assert pod.heals == 1
        dog.terminate()
        assert dog.wait(5) == 0
    finally:
        dog.kill()
        dog.wait()
    assert json.loads(pod.ask("status", "--json").stdout)["running"] is False
    assert "healed in" in (dog.stdout.read() if dog.stdout else "")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_without_settings_it_says_what_to_do(pod: Pod, text: str) -> None:
    pod.write(".podcycle/watchdog/config.json", text)
    done = pod.ask("check", "--quick")
    assert done.returncode == 2 and "run the role cuda_watchdog" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "number"),
    [("interval_seconds", 0), ("interval_seconds", "5"), ("full_seconds", -1), ("heal_timeout_seconds", 0), ("heal_attempts", 0), ("heal_attempts", True),
     ("backoff_seconds", -1), ("backoff_limit_seconds", float("nan")), ("interval_seconds", 1e12)],
)  # fmt: skip
def test_a_number_without_sense_is_refused(pod: Pod, name: str, number: Any) -> None:
    pod.config(**{name: number})
    for words in (("check", "--quick"), ("run", "--once")):
        done = pod.ask(*words)
        assert done.returncode == 2 and f"says {name} {number}, which has to be from " in done.stderr and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1 and f"set cuda_watchdog_{name}" in done.stderr
    assert pod.heals == 0


def test_the_role_refuses_the_same_numbers_before_it_writes_anything(tmp_path: Path) -> None:
    bounds = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__cuda_watchdog_bounds"]
    script = "import json, sys; sys.path.insert(0, sys.argv[1]); import cuda_watchdog; print(json.dumps(cuda_watchdog.BOUNDS))"
    done = subprocess.run([sys.executable, "-B", "-c", script, str(PROGRAM)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == bounds
    first, second = yaml.safe_load((ROLE / "tasks/bring.yml").read_text())[:2]
    assert second["name"] == "Bring | Keep the watchdog running"
    files = [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")]
    play = {"hosts": "all", "gather_facts": False, "vars": {"workspace": "/w"}, "vars_files": files, "tasks": [first]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    numbers = json.dumps({"cuda_watchdog_interval_seconds": 0, "cuda_watchdog_heal_attempts": 1000})
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml")]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False).returncode == 0
    done = subprocess.run([*command, "-e", numbers], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        "watch localhost: cuda_watchdog_interval_seconds is 0 and has to be from 1 to 86400, cuda_watchdog_heal_attempts is 1000 and has to be from 1 to 100; "
        "set them so and run this again" in " ".join((done.stdout + done.stderr).split())
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"result": {}}', '{"memory": {}}'])
def test_a_torn_state_is_begun_anew(pod: Pod, text: str) -> None:
    pod.write(".podcycle/watchdog/state.json", text)
    assert pod.ask("run", "--once").returncode == 0
    assert pod.state["status"] == "healthy"


def test_the_pod_stays_quiet_without_a_stack(pod: Pod) -> None:
    pod.config(nvcc=None, cutlass=None, torch=None, gpu=False)
    assert pod.check() == (0, [])
    assert os.path.exists(pod.dir / "config.json")
