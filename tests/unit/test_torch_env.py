# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which PyTorch build a machine gets, and when an environment counts as whole."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _gpu_driver, _nvml, _torch_env, _torch_wish, _uv
from ansible_collections.podcycle.gpu.plugins.module_utils._gpu_driver import BackendMismatch, Driver, DriverError, choose_backend
from ansible_collections.podcycle.gpu.plugins.module_utils._torch_env import IndexUnreachable, NotVerified, TorchEnv, TorchEnvError, Wish
from ansible_collections.podcycle.gpu.plugins.module_utils._uv import Uv, UvError
from ansible_collections.podcycle.gpu.plugins.modules import torch_env

H100 = Driver("580.95.05", ["NVIDIA H100 80GB HBM3"])
UV = Uv(Path("/opt/bin/uv"), "0.13.9")
PROOF = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "python": "3.11.7", "cuda": None, "cuda_available": False, "arch_list": [], "devices": [], "matmul": True}


@pytest.mark.parametrize(
    ("version", "backend"),
    [
        ("580.95.05", "cu130"),
        ("580.65.06", "cu130"),
        ("580.65.05", "cu128"),
        ("570.172.08", "cu128"),
        ("525.60.13", "cu128"),
        ("590.1", "cu130"),
        (None, "cpu"),
    ],
)
def test_the_build_follows_the_driver(version: str | None, backend: str) -> None:
    assert choose_backend("auto", Driver(version), accept_cpu_on_gpu=False) == backend


@pytest.mark.parametrize(
    ("wanted", "driver", "sentence"),
    [
        ("auto", Driver("470.82.01"), "driver 470.82.01 is too old"),
        ("cu130", Driver("570.172.08"), "needs driver 580.65.06 or later"),
        ("cu128", Driver("510.1"), "needs driver 525.60.13 or later"),
        ("cu130", Driver(), "no NVIDIA driver"),
        ("cpu", H100, "CPU build was asked for on a machine with a GPU .NVIDIA H100"),
    ],
)
def test_a_build_that_does_not_fit_is_an_error(wanted: str, driver: Driver, sentence: str) -> None:
    with pytest.raises(BackendMismatch, match=sentence):
        choose_backend(wanted, driver, accept_cpu_on_gpu=False)


@pytest.mark.parametrize(
    ("version", "gpu", "library", "backend", "note"),
    [
        ("570.172.08", "NVIDIA H100 80GB HBM3", "580.95.05", "cu130", ""),
        ("535.104.05", "NVIDIA RTX 6000 Ada Generation", "580.95.05", "cu130", ""),
        ("580.95.05", "NVIDIA GeForce RTX 4090", "580.95.05", "cu130", ""),
        ("570.172.08", "NVIDIA GeForce RTX 4090", "580.95.05", "cu128", "is for data center GPUs, and this machine has NVIDIA GeForce RTX 4090"),
        ("545.23.08", "NVIDIA H100 80GB HBM3", "580.95.05", "cu128", "is for the driver branches 535, 550, 565, 570, 575, and this machine has 545.23.08"),
        ("570.172.08", "NVIDIA H100 80GB HBM3", "570.86.10", "cu128", "there is no forward compatibility library on this machine"),
    ],
)
def test_forward_compatibility_counts_where_it_works(
    version: str, gpu: str, library: str, backend: str, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_env, "read_driver", lambda: Driver(version, [gpu]))
    compat = tmp_path / "cuda-13.0" / "compat"
    compat.mkdir(parents=True)
    (compat / f"libcuda.so.{library}").touch()
    driver, folder, told = torch_env.seen_driver({"compat": "auto", "bin_dir": str(tmp_path / "bin")}, check_mode=False)
    assert choose_backend("auto", driver, accept_cpu_on_gpu=False) == backend and driver.version == version and note in told and bool(told) == bool(note)
    assert folder == (str(compat) if backend == "cu130" and version < "580" else "")
    driver, _folder, _told = torch_env.seen_driver({"compat": "never", "bin_dir": str(tmp_path / "bin")}, check_mode=False)
    assert choose_backend("auto", driver, accept_cpu_on_gpu=False) == ("cu130" if version > "580" else "cu128")


def test_the_proof_is_made_through_the_forward_compatibility_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch, library_path="/usr/local/cuda-13.0/compat")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib/own")
    assert made.env.make(UV)["library_path"] == "/usr/local/cuda-13.0/compat"
    assert made.seen["LD_LIBRARY_PATH"] == "/usr/local/cuda-13.0/compat:/lib/own"


def test_cpu_on_a_gpu_can_be_meant() -> None:
    assert choose_backend("cpu", H100, accept_cpu_on_gpu=True) == "cpu"


@pytest.mark.parametrize("wanted", ["auto", "cu128", "cu130"])
def test_a_driver_that_does_not_answer_is_never_taken_for_no_gpu(wanted: str) -> None:
    with pytest.raises(DriverError, match="does not answer"):
        choose_backend(wanted, Driver(trouble="nvidia-smi ended with 9"), accept_cpu_on_gpu=True)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(_nvml, "PROC", tmp_path / "proc-version")
    monkeypatch.setattr(_nvml, "LIBRARY", "libno-such-nvml.so")
    return program


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_driver_and_gpus_are_read(smi: Path) -> None:
    write_program(smi, "echo '580.95.05, NVIDIA H100 80GB HBM3'; echo '580.95.05, NVIDIA H100 80GB HBM3'")
    assert _gpu_driver.read_driver() == Driver("580.95.05", ["NVIDIA H100 80GB HBM3"] * 2)


def test_a_broken_driver_is_trouble(smi: Path) -> None:
    write_program(smi, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert "version mismatch" in str(_gpu_driver.read_driver().trouble)


def test_no_nvidia_at_all(smi: Path) -> None:
    assert _gpu_driver.read_driver() == Driver()


def test_a_driver_without_its_tool_is_found(smi: Path, tmp_path: Path) -> None:
    (tmp_path / "proc-version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.172.08  Tue Jul\n")
    assert _gpu_driver.read_driver().version == "570.172.08"


def wish(tmp_path: Path, **changes: Any) -> Wish:
    base: dict[str, Any] = {"venv": tmp_path / "venv", "version": "2.13.0", "backend": "cpu", "python": "/usr/bin/python3"}
    return Wish(**{**base, **changes})


def test_a_local_wheel_of_the_build_is_taken_exactly(tmp_path: Path) -> None:
    machine = os.uname().machine
    (tmp_path / f"torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_{machine}.whl").touch()
    named = wish(tmp_path, find_links=[str(tmp_path)])
    assert _torch_env.local_wheel(named, "cp311") == "2.13.0+cpu"
    assert _torch_env.local_wheel(named, "cp313") is None
    assert _torch_env.local_wheel(wish(tmp_path, find_links=[str(tmp_path)], backend="cu130"), "cp311") is None


def test_without_a_local_wheel_uv_is_told_the_build(tmp_path: Path) -> None:
    arguments = TorchEnv(wish(tmp_path, backend="cu130", extra_packages=["chess==1.11.2"]), H100).install_arguments()
    assert arguments == ["--torch-backend", "cu130", "torch==2.13.0", "numpy", "chess==1.11.2"]


def test_a_named_index_replaces_the_public_one(tmp_path: Path) -> None:
    arguments = TorchEnv(wish(tmp_path, index_url="https://mirror.example/cu130", backend="cu130"), H100).install_arguments()
    assert arguments == ["--index", "https://mirror.example/cu130", "torch==2.13.0", "numpy"]


# Of "x = 1" and a line's end.
HELD = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).decode().rstrip("=")


def fake_venv(venv: Path) -> None:
    site = venv / "lib" / "python3.11" / "site-packages"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").symlink_to("/bin/true")
    for name in ("torch", "numpy"):
        (site / f"{name}-1.dist-info").mkdir(parents=True)
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("x = 1\n")
        lines = [f"{name}/__init__.py,sha256={HELD},6", "../../../bin/tool,sha256=y,99", f"{name}-1.dist-info/RECORD,,"]
        (site / f"{name}-1.dist-info" / "RECORD").write_text("\n".join(lines) + "\n")


class Made:
    """A TorchEnv whose uv and interpreter are played."""

    def __init__(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, proof: dict[str, Any] | None = None, install: str = "", resolve: str = "", **changes: Any
    ) -> None:
        self.calls: list[str] = []
        self.words: list[list[str]] = []
        self.seen: dict[str, str] = {}
        self.env = TorchEnv(wish(tmp_path, **changes), Driver())

        def run(uv: Uv, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
            dry = "--dry-run" in arguments
            self.calls.append("resolve" if dry else " ".join(arguments[:2]).removesuffix(" --quiet"))
            self.words.append(arguments)
            if arguments[0] == "venv":
                fake_venv(self.env.wish.venv)
            said = (resolve if dry else install) if arguments[0] == "pip" else ""
            return subprocess.CompletedProcess(arguments, int(bool(said)), "", said)

        def verify(command: list[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
            self.calls.append("verify")
            self.seen = environment
            return subprocess.CompletedProcess(command, 0, "a warning\n" + json.dumps({**PROOF, **(proof or {})}), "")

        monkeypatch.setattr(Uv, "run", run)
        monkeypatch.setattr(_torch_env, "run_program", verify)


def test_makes_proves_and_stamps_then_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    assert not made.env.satisfied()
    record = made.env.make(UV)
    assert made.calls == ["venv", "pip install", "verify"]
    assert record["torch"] == "2.13.0+cpu"
    assert made.env.satisfied()
    assert made.env.make(UV) == record
    assert len(made.calls) == 3


@pytest.mark.parametrize("damage", ["torch/__init__.py", "numpy/__init__.py", "torch-1.dist-info/RECORD"])
def test_a_damaged_environment_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    (made.env.wish.venv / "lib/python3.11/site-packages" / damage).unlink()
    assert not made.env.satisfied()
    assert not made.env.sound()


def test_a_truncated_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    (made.env.wish.venv / "lib/python3.11/site-packages/torch/__init__.py").write_text("x")
    assert not made.env.satisfied()


def test_a_vanished_interpreter_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    made.env.python.unlink()
    made.env.python.symlink_to("/no/such/python")
    assert not made.env.satisfied()


@pytest.mark.parametrize("change", [{"version": "2.12.0"}, {"extra_packages": ["chess"]}, {"backend": "cu130"}])
def test_another_wish_installs_into_the_sound_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    Made(tmp_path, monkeypatch).env.make(UV)
    assert not TorchEnv(wish(tmp_path, **change), Driver()).satisfied()


def test_another_driver_is_proven_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    assert not TorchEnv(made.env.wish, H100).satisfied()


OFFLINE = "  x Failed to fetch: `https://download.example/whl`\n  dns error"
IMPOSSIBLE = "No solution found: Because there is no version of torch==9.9.9 and you require torch==9.9.9, we can conclude"


def test_a_failed_installation_leaves_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Made(tmp_path, monkeypatch).env.make(UV)
    broken = Made(tmp_path, monkeypatch, version="2.12.0", install=OFFLINE)
    with pytest.raises(IndexUnreachable, match="could not be reached .*pytorch_find_links"):
        broken.env.make(UV)
    assert not broken.env.stamp.exists()


@pytest.mark.parametrize("said", [IMPOSSIBLE, OFFLINE, "disk on fire"])
@pytest.mark.parametrize("change", [{"version": "9.9.9"}, {"extra_packages": ["chess==99"]}, {"lock": "torch==2.13.0 --hash=x"}])
def test_an_impossible_wish_leaves_a_healthy_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, change: dict[str, Any]) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    assert "resolve" not in made.calls, "nothing was at risk"
    before = {path: path.read_bytes() for path in made.env.wish.venv.rglob("*") if path.is_file()}
    other = Made(tmp_path, monkeypatch, resolve=said, **change)
    with pytest.raises(TorchEnvError):
        other.env.make(UV)
    assert {words[0] for words in other.words} == {"pip"} and all("--dry-run" in words for words in other.words)
    assert {path: path.read_bytes() for path in made.env.wish.venv.rglob("*") if path.is_file()} == before and made.env.satisfied()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("said", "told"), [(IMPOSSIBLE, "torch==9.9.9 does not exist in PyTorch's index for cpu"), (OFFLINE, ""), ("disk on fire", ""), ("", "")]
)
def test_check_mode_promises_nothing_that_cannot_come_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, said: str, told: str) -> None:
    if there:
        Made(tmp_path, monkeypatch).env.make(UV)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    made = Made(tmp_path, monkeypatch, version="9.9.9", resolve=said)
    if told:
        with pytest.raises(TorchEnvError, match=f"install torch 9.9.9 .cpu. into .*: {told}"):
            made.env.look_up(UV)
    else:
        made.env.look_up(UV)
        assert len(made.env.notes) == bool(said) and all(said.strip()[-9:] in note and "was not looked up" in note for note in made.env.notes)
    assert "--dry-run" in made.words[0] and "--no-cache" in made.words[0] and "--target" in made.words[0]
    assert (str(made.env.python) in made.words[0]) is there
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_check_mode_without_uv_says_that_it_did_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.look_up(None)
    assert made.calls == [] and "there is no uv yet" in made.env.notes[0]


def test_a_possible_wish_is_resolved_first_and_unstamped_while_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Made(tmp_path, monkeypatch).env.make(UV)
    other = Made(tmp_path, monkeypatch, version="2.12.0")
    played = Uv.run

    def run(uv: Uv, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        assert other.env.stamp.exists() is ("--dry-run" in arguments), "a kill during the installation leaves no stamp"
        return played(uv, arguments, environment)

    monkeypatch.setattr(Uv, "run", run)
    other.env.make(UV)
    assert other.calls[1:] == ["resolve", "pip install", "verify"] and other.env.satisfied()


def test_nothing_is_resolved_for_another_driver_or_a_damaged_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    driven = Made(tmp_path, monkeypatch)
    driven.env.driver = Driver("580.95.05")
    driven.env.make(UV)
    (made.env.wish.venv / "lib/python3.11/site-packages/torch/__init__.py").unlink()
    damaged = Made(tmp_path, monkeypatch, version="2.12.0", install=OFFLINE)
    with pytest.raises(IndexUnreachable):
        damaged.env.make(UV)
    assert "resolve" not in driven.calls + damaged.calls


@pytest.mark.parametrize(("said", "stays"), [(IMPOSSIBLE, True), (OFFLINE, True), ("no ABI tag", False), ("", False)])
def test_another_python_asks_only_whether_the_versions_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, stays: bool) -> None:
    """The interpreter that is to come is not there yet, so that nothing else can be told from this answer."""
    made = Made(tmp_path, monkeypatch)
    made.env.make(UV)
    (made.env.wish.venv / "pyvenv.cfg").write_text("version = 3.11.7\n")
    monkeypatch.setattr(_torch_env, "choose_python", lambda *_args: ("/usr/bin/python3", ""))
    monkeypatch.setattr(TorchEnv, "_create", lambda *_args: made.calls.append("anew"))
    other = Made(tmp_path, monkeypatch, version="2.12.0", python="", least_python="99.1", resolve=said)
    if stays:
        with pytest.raises(TorchEnvError, match="torch==9.9.9 does not exist|could not be reached"):
            other.env.make(UV)
    else:
        other.env.make(UV)
    assert ("anew" in made.calls, made.env.satisfied()) == (not stays, stays)
    assert other.words[0][other.words[0].index("--python-version") + 1] == "99.1"


def test_an_unknown_version_is_not_called_a_network_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch, install="Because there is no version of torch==9.9 your requirements are unsatisfiable")
    with pytest.raises(TorchEnvError, match="torch==9.9 does not exist in PyTorch's index for cpu and the package index; set pytorch_version") as caught:
        made.env.make(UV)
    assert not isinstance(caught.value, IndexUnreachable)


@pytest.mark.parametrize(
    ("proof", "sentence"),
    [({"matmul": False}, "came out wrong"), ({"cuda": "13.0"}, "the cpu build was asked for")],
)
def test_a_build_that_does_not_prove_itself_is_not_stamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: dict[str, Any], sentence: str) -> None:
    made = Made(tmp_path, monkeypatch, proof=proof)
    with pytest.raises(NotVerified, match=sentence):
        made.env.make(UV)
    assert not made.env.stamp.exists()


def test_a_gpu_build_must_find_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch, backend="cu130", proof={"cuda": "13.0", "cuda_error": "CUDA driver version is insufficient"})
    with pytest.raises(NotVerified, match="finds no usable GPU .*insufficient"):
        made.env.make(UV)


def test_a_folder_of_somebody_elses_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch)
    made.env.wish.venv.mkdir()
    (made.env.wish.venv / "thesis.tex").touch()
    with pytest.raises(TorchEnvError, match="is no virtual environment"):
        made.env.make(UV)
    assert (made.env.wish.venv / "thesis.tex").exists()


def test_uv_is_found_in_the_workspace_first(tmp_path: Path) -> None:
    write_program(tmp_path / "uv", "echo 'uv 0.13.9 (x86_64)'")
    assert _uv.find_uv(tmp_path) == Uv(tmp_path / "uv", "0.13.9")
    assert _uv.find_uv(tmp_path, "0.13.9") == Uv(tmp_path / "uv", "0.13.9")


def test_an_old_uv_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "uv", "echo 'uv 0.4.0'")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_uv.sys, "executable", str(tmp_path / "python"))
    assert _uv.find_uv(tmp_path) is None


def test_a_machine_without_any_pip_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uv, "find_uv", lambda *args: None)
    monkeypatch.setattr(_uv, "_pips", lambda *args: [])
    with pytest.raises(UvError, match="no pip was found; .*put a uv program on its PATH"):
        _uv.install_uv(tmp_path)


def test_the_cache_brings_its_uv_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path / "uv", "echo 'uv 0.13.9'")
    _uv.keep_uv(Uv(tmp_path / "uv", "0.13.9"), tmp_path / "cache")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_uv.sys, "executable", str(tmp_path / "bin" / "python"))
    assert _uv.find_uv(tmp_path / "empty") is None
    assert _uv.find_uv(tmp_path / "empty", cache_dir=tmp_path / "cache") == Uv(tmp_path / "cache" / "bin" / "uv", "0.13.9")


NO_CACHE = {
    "0.13": "error: Failed to initialize cache at `{cache}`\n  cause: failed to create directory `{cache}`: Permission denied (os error 13)",
    "0.9": "error: failed to create directory `{cache}`: No such file or directory (os error 2)",
    "a lock": "error: Could not acquire lock\n  cause: Permission denied (os error 13) at path \"{cache}/.tmpQx\"",
    "below": "error: Failed to fetch: `https://i.example`\n  cause: failed to open file `{cache}/simple-v18/torch.rkyv`: Read-only file system (os error 30)",
}


@pytest.mark.parametrize("text", NO_CACHE)
def test_a_cache_that_cannot_be_written_is_named_and_no_network_is_blamed(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    write_program(tmp_path / "uv", f"cat >&2 <<'E'\n{NO_CACHE[text].format(cache=cache)}\nE\nexit 2")
    told = f"{cache}/simple-v18, in its cache, cannot be written: Read-only" if text == "below" else f"its cache {cache} cannot be written: "
    with pytest.raises(UvError) as caught:
        _uv.install_wheels(Uv(tmp_path / "uv", "0.13.9"), ["torch"], _uv.uv_environment(str(cache)))
    assert str(caught.value).startswith(f"uv pip install: {told}")
    assert "network" not in str(caught.value) and "set UV_CACHE_DIR to another folder" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [("KILL", "SIGKILL; see with free -m and dmesg whether memory ran out, then run this again"), ("TERM", "SIGTERM; run this again")],
)
def test_a_uv_that_was_killed_is_no_question_of_versions(tmp_path: Path, name: str, told: str) -> None:
    write_program(tmp_path / "uv", f"kill -{name} $$")
    with pytest.raises(UvError) as caught:
        TorchEnv(wish(tmp_path), Driver(None))._install(Uv(tmp_path / "uv", "0.13.9"))
    assert str(caught.value) == f"uv pip install: it was ended by {told}"


@pytest.mark.parametrize("text", ["failed to open `/venv`: Permission denied (os error 13)", "dns error", "failed to read `{cache}/a`: No file (os error 2)"])
def test_another_failure_of_uv_is_not_the_caches(tmp_path: Path, text: str) -> None:
    write_program(tmp_path / "uv", f"echo '{text.format(cache=tmp_path / 'cache')}' >&2; exit 2")
    assert Uv(tmp_path / "uv", "0.13.9").run(["pip", "install"], _uv.uv_environment(str(tmp_path / "cache"))).returncode == 2


def test_byte_code_is_left_beside_the_cached_sources(tmp_path: Path) -> None:
    site, archive = tmp_path / "venv/lib/python3.11/site-packages/torch", tmp_path / "cache/archive-v0/abc/torch"
    for folder in (site / "__pycache__", archive):
        folder.mkdir(parents=True)
    (archive / "linked.py").write_text("x = 1\n")
    os.link(archive / "linked.py", site / "linked.py")
    (site / "own.py").write_text("x = 2\n")
    for name in ("linked", "own"):
        (site / "__pycache__" / f"{name}.cpython-311.pyc").write_bytes(name.encode())
    assert _uv.keep_byte_code(tmp_path / "venv", tmp_path / "cache") == 1
    assert [path.name for path in (archive / "__pycache__").iterdir()] == ["linked.cpython-311.pyc"]
    assert _uv.keep_byte_code(tmp_path / "venv", tmp_path / "cache") == 0


@pytest.mark.parametrize(
    ("wanted", "driver", "torch", "sentence"),
    [
        ("auto", Driver("580.95.05", ["V100"], capabilities=["6.1"]), "2.13.0", "no build fits V100.* 7.5 or later.*cu128 has kernels for .* 7.0"),
        ("cu130", Driver("580.95.05", ["V100"], capabilities=["7.0"]), "2.13.0", "GPU has 7.0; set pytorch_backend to auto, which takes cu128 here"),
        ("cu130", H100, "2.8.0", "cu130 build begins with PyTorch 2.9.0, and 2.8.0 was asked for; .* takes cu128"),
        ("auto", H100, "2.5.1", "cu128 begins with PyTorch 2.7.0, and 2.5.1 was asked for"),
    ],
)
def test_a_pair_that_does_not_exist_says_which_fits(wanted: str, driver: Driver, torch: str, sentence: str) -> None:
    with pytest.raises(BackendMismatch, match=sentence):
        choose_backend(wanted, driver, accept_cpu_on_gpu=False, torch=torch)


def test_auto_takes_what_the_gpu_and_the_release_have() -> None:
    assert choose_backend("auto", Driver("580.95.05", capabilities=["7.0", "9.0"]), accept_cpu_on_gpu=False, torch="2.13.0") == "cu128"
    assert choose_backend("auto", H100, accept_cpu_on_gpu=False, torch="2.8.0") == "cu128"


@pytest.mark.parametrize(
    ("capability", "arch_list", "missing"),
    [
        ("9.0", ["sm_80", "sm_90"], None),
        ("8.9", ["sm_80", "sm_90"], None),
        ("7.5", ["sm_80", "sm_90"], "7.5"),
        ("12.0", ["sm_90"], "12.0"),
        ("12.0", ["sm_90", "compute_90"], None),
        ("10.3", ["sm_90a", "sm_100"], None),
        ("9.0", [], None),
    ],
)
def test_a_gpu_without_kernels_is_found(capability: str, arch_list: list[str], missing: str | None) -> None:
    assert _gpu_driver.uncovered([capability], arch_list) == missing


def test_a_build_without_kernels_for_the_gpu_is_not_stamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch, backend="cu130", proof={"cuda": "13.0", "cuda_available": True, "arch_list": ["sm_80", "sm_90"]})
    made.env.driver = Driver("580.95.05", ["T4"], capabilities=["7.5"])
    with pytest.raises(NotVerified, match="has kernels for sm_80, sm_90, and this machine's GPU has compute capability 7.5; name a pytorch_backend"):
        made.env.make(UV)
    assert not made.env.stamp.exists()


LOCKED = "torch==2.13.0 \\\n    --hash=sha256:00\nnumpy==2.4.6 --hash=sha256:00\nscikit_learn==1.7.0 ; python_version > '3' --hash=sha256:00\n"


def test_a_lock_file_is_all_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch, lock=LOCKED, extra_packages=["scikit-learn>=1.6"])
    made.env.preflight()
    made.env.make(UV)
    assert made.env.install_arguments() == ["--torch-backend", "cpu", "--require-hashes", "--requirement", str(made.env.wish.venv / ".podcycle-lock.txt")]
    assert (made.env.wish.venv / ".podcycle-lock.txt").read_text() == LOCKED
    assert made.env.satisfied()
    assert not TorchEnv(wish(tmp_path, lock=LOCKED + "# another\n", extra_packages=["scikit-learn>=1.6"]), Driver()).satisfied()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": "2.12.0"}, "it pins torch to 2.13.0; set pytorch_version to what it pins"),
        ({"lock": "torch==2.13.0\nnumpy==2.4.6\n"}, "it has no hashes"),
        ({"extra_packages": ["chess[x]>=1"]}, "does not pin chess"),
    ],
)
def test_a_lock_file_that_does_not_fit_is_refused_before_anything_is_done(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TorchEnvError, match=sentence):
        TorchEnv(wish(tmp_path, **{"lock": LOCKED, **change}), Driver()).preflight()


def test_a_full_disk_is_told_beforehand_unless_the_cache_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch_env, "free_gib", lambda path: 0.7)
    made = Made(tmp_path, monkeypatch, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(TorchEnvError, match="0.7 GiB are free there, and about 1.5 GiB are needed"):
        made.env.make(UV)
    (tmp_path / "cache" / "archive-v0" / "x" / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    made.env.make(UV)
    assert made.env.satisfied()


@pytest.mark.parametrize(("held", "left"), [("x", "x"), ("y = 1\n", "y = 1\n"), ("y = 1\n", "x = 1\n")])
def test_an_environment_from_a_damaged_cache_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str, left: str) -> None:
    """A file that is cut short, or of the right size and another content; the cache has the damage too, or is whole and stays."""
    made = Made(tmp_path, monkeypatch)
    played, proven, seen = Uv.run, _torch_env.run_program, []
    file = made.env.wish.venv / "lib/python3.11/site-packages/torch/__init__.py"
    made.env.make(UV)
    file.write_text(held)
    cache = [left]

    def run(uv: Uv, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        seen.append(arguments[0])
        if arguments == ["cache", "clean", "--quiet", "torch"]:
            cache[0] = "x = 1\n"
        if arguments[:2] == ["pip", "install"] and "--reinstall-package" in arguments:
            file.write_text(cache[0])
        return played(uv, arguments, environment)

    def verify(command: list[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        fails = "-I" in command and file.read_text() != "x = 1\n"
        return subprocess.CompletedProcess(command, 1, "", "SyntaxError") if fails else proven(command, environment, timeout)

    monkeypatch.setattr(Uv, "run", run)
    monkeypatch.setattr(_torch_env, "run_program", verify)
    assert not made.env.works(write=True)
    made.env.make(UV, broken=True)
    assert file.read_text() == "x = 1\n" and made.env.satisfied() and "venv" not in seen
    assert seen.count("cache") == (left != "x = 1\n")


def least(tmp_path: Path, text: str) -> tuple[str, str]:
    write_program(tmp_path / "uv", text)
    return _torch_wish.choose_python(Uv(tmp_path / "uv", "0.13.9"), "99.1", str(tmp_path / "python"), {"PATH": "/usr/bin:/bin"})


def test_the_machines_python_is_taken_when_it_is_new_enough(tmp_path: Path) -> None:
    own, note = _torch_wish.choose_python(Uv(tmp_path / "no-uv", "0"), "3.10", "", {})
    assert note == "" and os.access(own, os.X_OK)
    # An environment that is based on this test's own environment would die with it.
    assert not (Path(own).parent.parent / "pyvenv.cfg").exists()


def test_uv_brings_a_newer_python_onto_the_volume(tmp_path: Path) -> None:
    place = tmp_path / "python" / "p"
    text = f'case "$*" in *install*) mkdir -p "$UV_PYTHON_INSTALL_DIR"; ln -s /bin/true "$UV_PYTHON_INSTALL_DIR/p";; *) [ -e {place} ] && echo {place};; esac'
    assert least(tmp_path, text) == (str(place), "")


def test_a_python_that_cannot_be_brought_is_said(tmp_path: Path) -> None:
    own, note = least(tmp_path, "echo 'error: dns error' >&2; exit 1")
    assert os.access(own, os.X_OK) and note.startswith("Python 99.1 could not be brought (error: dns error); the environment has the machine's own 3.")


def test_a_file_named_torch_in_the_working_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    made = Made(tmp_path, monkeypatch)
    played = _torch_env.run_program
    monkeypatch.setattr(_torch_env, "run_program", lambda command, *rest, **more: seen.append(command) or played(command, *rest, **more))
    made.env.make(UV)
    assert seen[0][1] == "-I"


def test_the_diff_says_what_comes_instead_of_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(tmp_path, monkeypatch, extra_packages=["chess==1.11.2"])
    venv = made.env.wish.venv
    assert made.env.diff() == {"before": f"no proven torch in {venv}\n", "after": f"torch 2.13.0 (cpu) with chess==1.11.2 in {venv}\n"}
    made.env.make(UV)
    assert made.env.diff() == {"before": "", "after": ""}
    other = TorchEnv(wish(tmp_path, version="2.14.0", backend="cu130", lock="x"), H100)
    assert other.diff() == {
        "before": f"torch 2.13.0 (cpu) with chess==1.11.2 in {venv}\n",
        "after": f"torch 2.14.0 (cu130) by the lock file 2d711642b726 in {venv}, proven under driver 580.95.05\n",
    }
    (venv / "lib/python3.11/site-packages/torch/__init__.py").unlink()
    assert made.env.diff()["before"] == f"torch 2.13.0 (cpu) with chess==1.11.2 in {venv}, damaged\n"


def test_the_module_returns_that_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_env, "read_driver", Driver)
    monkeypatch.setattr(torch_env, "find_uv", lambda *_where: None)
    given: dict[str, Any] = {
        "venv": str(tmp_path / "venv"), "bin_dir": str(tmp_path / "bin"), "version": "2.13.0", "backend": "auto", "accept_cpu_on_gpu": False, "python": None,
        "extra_packages": [], "find_links": [], "lock": None, "index_url": None, "cache_dir": None, "uv_version": None,
        "compat": "never",
    }  # fmt: skip
    changed, found, diff = torch_env.converge(given, check_mode=True)
    assert "was not looked up: there is no uv" in found["notes"][0]
    assert changed and diff["after"] == f"torch 2.13.0 (cpu) in {tmp_path}/venv\n"
