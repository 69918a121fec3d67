# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CUDA toolkit from its real wheels, and every way in which it is refused, damaged or cut short."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _cuda_install, _cuda_step, _cuda_toolkit, _fetch, _machine, _toolkits
from ansible_collections.podcycle.gpu.plugins.module_utils._cuda_install import Installer, Sources
from ansible_collections.podcycle.gpu.plugins.module_utils._cuda_toolkit import CudaError, CudaNotVerified, CudaToolkit, Wish, prove
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError
from ansible_collections.podcycle.gpu.plugins.module_utils._gpu_driver import Driver

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".build" / "cuda-cache"
pytestmark = pytest.mark.one_end
OPTIONS: dict[str, Any] = {
    "prefix": None, "version": "13.0.2", "nvcc_version": "13.0.88", "method": "wheels", "components": [], "reuse": False, "scope": "user", "compat": "never",
    "accept_old_driver": False, "find_links": [], "index_url": None, "runfile": None, "runfile_checksum": None, "apt_repository": None,
    "apt_fingerprint": "", "cache_dir": str(CACHE), "uv_version": None,
}  # fmt: skip
SCRIPT = """
import json, sys
from ansible_collections.podcycle.gpu.plugins.module_utils._cuda_step import converge
converge(json.load(sys.stdin), check_mode=False)
"""


def options(workspace: Path, **changes: Any) -> dict[str, Any]:
    return {**OPTIONS, "workspace": str(workspace), **changes}


def converge(workspace: Path, *, check_mode: bool = False, **changes: Any) -> tuple[bool, dict[str, Any]]:
    changed, found, _diff = _cuda_step.converge(options(workspace, **changes), check_mode=check_mode)
    return changed, found


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def machine(driver: Driver) -> None:
        monkeypatch.setattr(_cuda_step, "read_driver", lambda: driver)

    machine(Driver())
    monkeypatch.setattr(_toolkits, "_SYSTEM", ())
    monkeypatch.delenv("CUDA_HOME", raising=False)
    return machine


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real toolkit; the tests that damage it have it healed."""
    folder = tmp_path_factory.mktemp("cuda")
    changed, found, diff = _cuda_step.converge(options(folder), check_mode=True)
    assert (changed, found["did"], found["nvcc_version"], list(folder.iterdir())) == (True, ["install", "prove"], None, [])
    assert _cuda_step.converge(options(folder), check_mode=False)[2] == diff
    return folder


def test_it_is_a_toolkit_like_any_other(workspace: Path, tmp_path: Path) -> None:
    prefix = workspace / "cuda-13.0"
    assert "V13.0.88" in subprocess.run([str(prefix / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=True).stdout
    for name in ("lib64/libcudart.so", "lib/libcudart.so.13", "targets/x86_64-linux/include/cuda_runtime.h", "nvvm/bin/cicc", "include/cccl/cub/cub.cuh"):
        assert (prefix / name).exists() or os.uname().machine != "x86_64", name
    (tmp_path / "host.cpp").write_text("#include <cuda_runtime.h>\nint main() { int v = 0; cudaRuntimeGetVersion(&v); return v == 13000 ? 0 : 1; }\n")
    command = ["g++", f"{tmp_path}/host.cpp", "-o", f"{tmp_path}/host", f"-I{prefix}/include", f"-L{prefix}/lib64", f"-Wl,-rpath,{prefix}/lib64", "-lcudart"]
    subprocess.run(command, check=True)
    subprocess.run([f"{tmp_path}/host"], check=True)
    assert [entry.name for entry in workspace.iterdir() if ".part-" in entry.name] == []


def test_a_second_run_does_nothing(workspace: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in workspace.rglob("*")}
    changed, found = converge(workspace)
    assert (changed, found["did"], found["nvcc_version"]) == (False, [], "13.0.88")
    assert {path: path.lstat().st_mtime_ns for path in workspace.rglob("*")} == before


def truncate(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("name", ["bin/nvcc", "bin/ptxas", "include/cuda_fp16.h", "lib/libcudart.so", ".podcycle-cuda.json"])
@pytest.mark.parametrize("harm", [Path.unlink, truncate])
def test_damage_is_seen_before_anything_is_done(workspace: Path, name: str, harm: Callable[[Path], None]) -> None:
    """On the list of files: what is put back is not made again."""
    path = workspace / "cuda-13.0" / name
    target = os.readlink(path) if path.is_symlink() else None
    content, mode, times = path.read_bytes(), path.stat().st_mode, (path.stat().st_atime, path.stat().st_mtime)
    if target is not None and harm is truncate:
        return
    try:
        harm(path)
        changed, found = converge(workspace, check_mode=True)
        assert (changed, found["did"][0]) == (True, "install")
    finally:
        path.unlink(missing_ok=True)
        if target is not None:
            path.symlink_to(target)
        else:
            path.write_bytes(content)
            path.chmod(mode)
            os.utime(path, times)
    assert converge(workspace, check_mode=True)[0] is False


def test_damage_heals_even_when_the_cache_has_it_too(workspace: Path) -> None:
    nvcc = workspace / "cuda-13.0" / "bin" / "nvcc"
    size = nvcc.stat().st_size
    truncate(nvcc)
    cached = [path for path in CACHE.glob("archive-v*/*/nvidia/cu13/bin/nvcc") if path.stat().st_size == size]
    assert cached, "the cache is laid out otherwise than this test believes"
    for path in cached:
        truncate(path)
    changed, found = converge(workspace)
    assert (changed, found["nvcc_version"]) == (True, "13.0.88")
    assert converge(workspace)[0] is False


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    for wait in (0.05, 0.6, 1.2, 2.0):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(options(tmp_path)))
        process.stdin.close()
        ends = time.monotonic() + 60
        while process.poll() is None and not any(tmp_path.glob(".cuda-13.0.part-*")) and time.monotonic() < ends:
            time.sleep(0.02)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        whole = (tmp_path / "cuda-13.0").exists()
        assert converge(tmp_path, check_mode=True)[1]["did"] in ([["prove"], []] if whole else [["install", "prove"]])
        if whole:
            break
    assert converge(tmp_path)[1]["nvcc_version"] == "13.0.88"
    assert [entry.name for entry in tmp_path.iterdir() if ".part-" in entry.name] == []
    assert converge(tmp_path)[0] is False


def test_a_toolkit_of_others_will_do_and_is_proven_once(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(workspace / "cuda-13.0"))
    changed, found = converge(tmp_path, reuse=True)
    assert (changed, found["did"], found["path"]) == (True, ["prove"], str(workspace / "cuda-13.0"))
    assert converge(tmp_path, reuse=True)[0] is False
    assert converge(tmp_path, reuse=True, nvcc_version="13.0.99", check_mode=True)[1]["did"] == ["install", "prove"]
    assert converge(tmp_path, reuse=True, components=["cublas"], check_mode=True)[1]["did"] == ["install", "prove"]
    assert not (tmp_path / "cuda-13.0").exists()


def test_root_gets_links_and_keeps_those_of_others(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda_toolkit, "SYSTEM_FOLDER", tmp_path)
    changed, found = converge(workspace, scope="system", check_mode=True)
    assert (changed, found["did"], list(tmp_path.iterdir())) == (True, ["link"], [])
    assert converge(workspace, scope="system")[0] is True
    assert os.readlink(tmp_path / "cuda-13.0") == str(workspace / "cuda-13.0") and (tmp_path / "cuda" / "bin" / "nvcc").exists()
    assert converge(workspace, scope="system")[0] is False
    (tmp_path / "cuda").unlink()
    (tmp_path / "cuda").symlink_to("/opt/other")
    (tmp_path / "cuda-13.0").unlink()
    (tmp_path / "cuda-13.0").mkdir()
    assert converge(workspace, scope="system")[0] is False


def test_a_gpu_on_which_the_kernel_does_not_run_is_an_error(workspace: Path, no_gpu: Callable[..., None]) -> None:
    no_gpu(Driver("580.95.05", ["NVIDIA H100 80GB HBM3"], capabilities=["9.0"]))
    with pytest.raises(CudaNotVerified, match="compiled for sm_90 ended with cudaError.* under driver 580.95.05"):
        converge(workspace)


def test_a_temporary_folder_where_nothing_may_be_started_is_passed_over(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, real = [], os.statvfs
    run = _cuda_toolkit.run_program
    monkeypatch.setattr(_cuda_toolkit, "run_program", lambda words, *more, **named: begun.append(words[0]) or run(words, *more, **named))
    places = {tempfile.gettempdir(): os.ST_NOEXEC, "/var/tmp": os.ST_NOEXEC}
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_flag=places[place]) if place in places else real(place))
    prove(workspace / "cuda-13.0", "sm_90")
    assert all(Path(program).is_relative_to(workspace) for program in begun) and len(begun) == 5


def test_a_machine_without_a_compiler_is_told_so(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CudaNotVerified, match="there is no g.., install it .apt-get install g..".replace(",", ";")):
        prove(workspace / "cuda-13.0", "sm_90")


@pytest.mark.parametrize(
    ("driver", "changes", "sentence"),
    [
        (Driver("570.172.08", ["H100"]), {}, "need driver 580.65.06 or later, and this machine has 570.172.08; rent .*cuda13_compat"),
        (Driver("570.172.08", ["NVIDIA GeForce RTX 4090"]), {"compat": "auto"}, "is for data center GPUs, and this machine has NVIDIA GeForce RTX 4090; rent"),
        (Driver("545.23.08", ["H100"]), {"compat": "auto"}, "is for the driver branches 535, .*575, and this machine has 545.23.08; rent a pod with a newer"),
        (Driver("580.95.05", ["V100"], capabilities=["7.0"]), {}, "compute capability 7.0, and CUDA 13 begins at 7.5"),
        (Driver(), {"version": "12.8.1"}, "only CUDA 13 comes in one piece"),
        (Driver(trouble="nvidia-smi ended with 9"), {}, "does not answer"),
        (Driver(), {"method": "runfile"}, "name it with cuda13_runfile, and its checksum"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, no_gpu: Callable[..., None], driver: Driver, changes: dict[str, Any], sentence: str) -> None:
    no_gpu(driver)
    monkey = {"prefix": str(tmp_path / "cuda")}
    with pytest.raises(PodcycleError, match=sentence):
        converge(tmp_path, **monkey, **changes)
    assert not (tmp_path / "cuda").exists()


def test_an_old_driver_can_be_meant(workspace: Path, no_gpu: Callable[..., None]) -> None:
    no_gpu(Driver("570.172.08", ["H100"], capabilities=["9.0"]))
    assert converge(workspace, accept_old_driver=True)[1]["did"] == ["prove"]


def test_a_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda_toolkit, "free_gib", lambda path: 0.4)
    with pytest.raises(CudaError, match=f"{tmp_path} has 0.4 GiB free, and 1.0 GiB are needed"):
        converge(tmp_path)


def test_an_index_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(CudaError, match="install CUDA 13.0.2 by wheels into .*cuda13_find_links"):
        converge(tmp_path, cache_dir=str(tmp_path / "cache"), index_url="http://127.0.0.1:9/simple", nvcc_version="13.0.88")
    assert not (tmp_path / "cuda-13.0").exists()


# ---- apt and runfile, as far as they go without NVIDIA's servers ------------------------------


def runfile(folder: Path, text: str = "") -> tuple[str, str]:
    """An installer that makes what NVIDIA's does, as far as we look."""
    body = text or (
        'for word; do case $word in --toolkitpath=*) to=${word#*=};; esac; done\nmkdir -p "$to/bin"\n'
        "printf '#!/bin/sh\\necho V13.0.88\\n' > \"$to/bin/nvcc\"; chmod +x \"$to/bin/nvcc\"\n"
    )
    path = folder / "cuda.run"
    path.write_text(f"#!/bin/sh\n{body}")
    return str(path), "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def installer(workspace: Path, **sources: str) -> Installer:
    wish = Wish(workspace / "cuda-13.0", workspace, "13.0.2", "13.0.88", "runfile")
    return Installer(wish, Sources(**sources), lambda: pytest.fail("uv is not needed"), sys.executable)


def test_a_runfile_is_run_only_with_its_checksum(tmp_path: Path) -> None:
    path, checksum = runfile(tmp_path)
    with pytest.raises(_fetch.FetchError, match="has the sha256 checksum .* and 0000.* was expected; nothing was run"):
        installer(tmp_path, runfile=path, runfile_checksum="sha256:" + "0" * 64).install()
    with pytest.raises(_fetch.FetchError, match="'abc' is no checksum"):
        installer(tmp_path, runfile=path, runfile_checksum="abc").install()
    with pytest.raises(_fetch.FetchError, match="could not be fetched"):
        installer(tmp_path, runfile=str(tmp_path / "none"), runfile_checksum=checksum).install()
    assert not (tmp_path / "cuda-13.0").exists()
    made = installer(tmp_path, runfile=path, runfile_checksum=checksum)
    made.install()
    assert _cuda_toolkit.own_trouble(tmp_path / "cuda-13.0", made.wish) is None


def test_a_runfile_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path, checksum = runfile(tmp_path, "echo 'Failed to verify gcc version' >&2; exit 1\n")
    with pytest.raises(CudaError, match="the runfile ended with 1 and said: Failed to verify gcc version"):
        installer(tmp_path, runfile=path, runfile_checksum=checksum).install()
    assert [entry.name for entry in tmp_path.iterdir()] == ["cuda.run"]


def key_file(folder: Path, body: bytes, armored: bool) -> str:
    packet = b"\x99" + len(body).to_bytes(2, "big") + body
    text = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: 1\n\n" + base64.encodebytes(packet) + b"=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    (folder / "3bf863cc.pub").write_bytes(text if armored else packet)
    return hashlib.sha1(packet).hexdigest().upper()


@pytest.mark.parametrize("armored", [True, False])
def test_the_repository_is_added_only_with_the_expected_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, armored: bool) -> None:
    monkeypatch.setattr(_cuda_install, "_KEY_FILE", tmp_path / "etc" / "key.asc")
    monkeypatch.setattr(_cuda_install, "_SOURCE_FILE", tmp_path / "lists" / "cuda.sources")
    monkeypatch.setattr(_cuda_install.os, "geteuid", lambda: 0)
    ran: list[list[str]] = []
    monkeypatch.setattr(_cuda_install, "run_program", lambda command, *rest, **more: ran.append(command) or subprocess.CompletedProcess(command, 0, "", ""))
    (tmp_path / "lists").mkdir()
    right = key_file(tmp_path, b"\x04someone's key", armored)
    wish = Wish(tmp_path / "cuda-13.0", tmp_path, "13.0.2", "13.0.88", "apt", ["cublas", "cupti"])
    for fingerprint in ("EB693B3035CD5710E231E123A4B469963BF863CC", right):
        made = Installer(wish, Sources(apt_repository=f"file://{tmp_path}", apt_key_fingerprint=fingerprint), lambda: pytest.fail("no uv"), "")
        if fingerprint != right:
            with pytest.raises(CudaError, match=f"has the fingerprint {right}, and {fingerprint} was expected; nothing was installed"):
                made.install()
            assert ran == [] and not (tmp_path / "etc").exists()
        else:
            made.install()
    assert [command[1] for command in ran] == ["update", "install"]
    assert ran[1][-5:] == ["cuda-nvcc-13-0=13.0.88-1", "cuda-cudart-dev-13-0", "cuda-cccl-13-0", "libcublas-dev-13-0", "cuda-cupti-13-0"]
    lines = (tmp_path / "lists" / "cuda.sources").read_text().splitlines()
    assert lines[1:] == [f"URIs: file://{tmp_path}/", "Suites: /", f"Signed-By: {tmp_path}/etc/key.asc"]
    made.install_compat()
    assert ran[-1][-1] == "cuda-compat-13-0"


def test_apt_without_root_and_without_packages_for_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish(tmp_path / "cuda-13.0", tmp_path, "13.0.2", "13.0.88", "apt")
    monkeypatch.setattr(_cuda_install.os, "geteuid", lambda: 1000)
    with pytest.raises(CudaError, match="this needs root; add --become, or leave cuda13_method at wheels"):
        Installer(wish, Sources(), lambda: pytest.fail("no uv"), "").install()
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n')
    monkeypatch.setattr(_machine, "_OS_RELEASE", tmp_path / "os-release")
    with pytest.raises(CudaError, match="no CUDA 13.0 packages for Debian GNU/Linux 13"):
        _cuda_install.repository_of_machine("install CUDA")


def test_compat_is_wanted_only_under_an_old_driver(tmp_path: Path) -> None:
    wish = Wish(tmp_path / "cuda-13.0", tmp_path, "13.0.2", "13.0.88", compat="auto")
    # As an image of CUDA 12 has it.
    (tmp_path / "cuda-12.8" / "compat").mkdir(parents=True)
    (tmp_path / "cuda-12.8" / "compat" / "libcuda.so.570.86.10").touch()
    assert [CudaToolkit(wish, Driver(version)).lacks_compat() for version in ("570.172.08", "580.95.05", None)] == [True, False, False]
    (tmp_path / "cuda-13.0" / "compat").mkdir(parents=True)
    (tmp_path / "cuda-13.0" / "compat" / "libcuda.so.580.95.05").touch()
    toolkit = CudaToolkit(wish, Driver("570.172.08"))
    assert not toolkit.lacks_compat()
    assert _cuda_step.describe(toolkit, wish.prefix, [], "")["environment"]["library_path"][0] == f"{tmp_path}/cuda-13.0/compat"
