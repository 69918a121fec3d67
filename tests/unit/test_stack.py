# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stack in one reading: whatever is broken, it reports."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _machine, _nvml, _stack, _toolkits
from ansible_collections.podcycle.gpu.plugins.module_utils._machine import Unsupported, refuse_unsupported
from ansible_collections.podcycle.gpu.plugins.module_utils._stack import Places, drift_table, find_drift, fingerprint, read_stack
from support.world import ROOT


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def nvcc(folder: Path, version: str = "13.0.88") -> Path:
    return program(folder / "bin" / "nvcc", f"echo 'Cuda compilation tools, release 13.0, V{version}'")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A machine with nothing but a shell and python3."""
    monkeypatch.setattr(_nvml, "LIBRARY", "libno-such-nvml.so")
    monkeypatch.setattr(_nvml, "PROC", tmp_path / "no-proc")
    monkeypatch.setattr(_toolkits, "_SYSTEM", (str(tmp_path / "usr-local"),))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    workspace = tmp_path / "ws"
    return Places(workspace, workspace / "venv", (workspace / "cutlass",))


def torch_venv(venv: Path, stamp: bool = True) -> None:
    site = venv / "lib" / "python3.12" / "site-packages"
    for name, text in {"torch": "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n", "numpy": "x = 1\n"}.items():
        (site / name).mkdir(parents=True)
        (site / name / "version.py").write_text(text)
        (site / f"{name}-1.dist-info").mkdir()
        (site / f"{name}-1.dist-info" / "RECORD").write_text(f"{name}/version.py,sha256=x,{len(text)}\n")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion_info = 3.12.11\n")
    proof = {"torch": "2.13.0+cu130", "cuda": "13.0", "cuda_available": True, "arch_list": ["sm_90"], "matmul": True}
    program(venv / "bin" / "python", f"echo asked >> {venv}/asked; echo '{json.dumps(proof)}'")
    (venv / "bin" / "python3").symlink_to("python")
    if stamp:
        (venv / ".podcycle-torch.json").write_text(json.dumps({"schema": 1, "driver": None, **proof}))


def test_a_bare_machine_is_read(places: Places) -> None:
    stack = read_stack(places)
    assert stack["trouble"] == []
    assert (stack["cutlass"], stack["torch"], stack["cuda"]["nvcc"], stack["gpus"]) == (None, None, None, [])
    assert stack["parts"]["nvcc"] == stack["parts"]["torch"] == "none"
    assert stack["fingerprint"] == fingerprint(stack["parts"]) and len(stack["fingerprint"]) == 64


def test_the_nvcc_of_our_shells_wins(places: Places, tmp_path: Path) -> None:
    nvcc(tmp_path / "usr-local" / "cuda-12.8", "12.8.93")
    nvcc(tmp_path / "path-toolkit", "12.8.93")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "nvcc").symlink_to(tmp_path / "path-toolkit" / "bin" / "nvcc")
    nvcc(places.workspace / "cuda-13.0")
    env = places.workspace / ".podcycle" / "env.d"
    env.mkdir(parents=True)
    assert read_stack(places)["cuda"]["nvcc"]["version"] == "12.8.93"
    (env / "10-cuda13.sh").write_text(f'PATH="{places.workspace}/cuda-13.0/bin:$PATH"; echo noise; export PATH\n')
    cuda = read_stack(places)["cuda"]
    assert cuda["nvcc"] == {"path": f"{places.workspace}/cuda-13.0/bin/nvcc", "version": "13.0.88"}
    rows = [(Path(row["path"]).name, row["version"], row["wins"]) for row in cuda["toolkits"]]
    assert sorted(rows) == [("cuda-12.8", "12.8.93", False), ("cuda-13.0", "13.0.88", True)]


def test_a_script_that_calls_an_nvcc_is_seen_through(places: Places, tmp_path: Path) -> None:
    real = nvcc(tmp_path / "usr-local" / "cuda-13.0")
    program(tmp_path / "path" / "nvcc", f'exec {real} "$@"')
    assert [row["wins"] for row in read_stack(places)["cuda"]["toolkits"]] == [True]


def test_a_broken_nvcc_is_no_toolkit_and_no_failure(places: Places, tmp_path: Path) -> None:
    program(tmp_path / "path" / "nvcc", "exit 126")
    program(places.workspace / "cuda-13.0" / "bin" / "nvcc", "exit 126")
    stack = read_stack(places)
    assert stack["cuda"] == {"nvcc": {"path": f"{tmp_path}/path/nvcc", "version": None}, "toolkits": [], "compat": None}
    assert stack["parts"]["nvcc"] == "none"


def test_a_stamp_that_holds_spares_the_import(places: Places) -> None:
    torch_venv(places.venv)
    torch = read_stack(places)["torch"]
    assert torch == {
        "venv": str(places.venv), "python": "3.12.11", "version": "2.13.0+cu130", "cuda": "13.0", "proven": "stamp", "cuda_available": True,
        "arch_list": ["sm_90"], "error": None,
    }  # fmt: skip
    assert not (places.venv / "asked").exists()


@pytest.mark.parametrize("damage", ["no stamp", "other driver", "truncated", "other version"])
def test_what_the_stamp_does_not_vouch_for_is_imported(places: Places, damage: str) -> None:
    torch_venv(places.venv, stamp=damage != "no stamp")
    stamp, site = places.venv / ".podcycle-torch.json", places.venv / "lib" / "python3.12" / "site-packages"
    if damage == "other driver":
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "driver": "570.1"}))
    elif damage == "truncated":
        (site / "numpy" / "version.py").write_text("")
    elif damage == "other version":
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "torch": "2.12.0"}))
    torch = read_stack(places)["torch"]
    assert (torch["proven"], torch["version"], (places.venv / "asked").exists()) == ("import", "2.13.0+cu130", True)
    assert read_stack(Places(places.workspace, places.venv, places.cutlass, "never"))["torch"]["proven"] == "no"


def test_a_torch_that_cannot_be_imported_is_reported(places: Places) -> None:
    torch_venv(places.venv, stamp=False)
    program(places.venv / "bin" / "python", "echo 'ImportError: libtorch_cpu.so' >&2; exit 1")
    torch = read_stack(places)["torch"]
    assert (torch["proven"], torch["version"], torch["error"]) == ("no", "2.13.0+cu130", "ImportError: libtorch_cpu.so")


def test_nothing_that_is_broken_raises(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise OSError("Input/output error")

    for name in ("read_user", "read_disks", "read_os"):
        monkeypatch.setattr(_machine, name, broken)
    for name in ("read_cuda", "read_uv", "read_tree"):
        monkeypatch.setattr(_stack, name, broken)
    stack = read_stack(places)
    assert sorted(line.partition(":")[0] for line in stack["trouble"]) == ["cuda", "cutlass", "disks", "os", "user", "uv"]


def test_the_same_stack_elsewhere_has_the_same_fingerprint(places: Places, tmp_path: Path) -> None:
    torch_venv(places.venv)
    nvcc(places.workspace / "cuda-13.0")
    first = read_stack(places)
    moved = tmp_path / "elsewhere"
    os.rename(places.workspace, moved)
    second = read_stack(Places(moved, moved / "venv", (moved / "cutlass",)))
    assert first["fingerprint"] == second["fingerprint"]
    (moved / "venv" / "lib" / "python3.12" / "site-packages" / "torch" / "version.py").write_text("__version__ = '2.12.0'\n")
    third = read_stack(Places(moved, moved / "venv", (moved / "cutlass",), "never"))
    assert third["fingerprint"] != first["fingerprint"]


def test_drift_names_what_differs_and_nothing_else() -> None:
    parts = {"nvcc": "13.0.88", "torch": "2.13.0", "cutlass.version": "none"}
    rows = find_drift({"nvcc": "13.0.88", "torch": None, "cutlass.version": "4.2.0", "cudnn": 9}, parts)
    assert rows == [{"part": "cudnn", "expected": "9", "found": "unknown part"}, {"part": "cutlass.version", "expected": "4.2.0", "found": "none"}]
    assert drift_table(rows).splitlines() == ["part             expected  found", "cudnn            9         unknown part", "cutlass.version  4.2.0     none"]
    assert drift_table([]) == "no drift"


def test_a_machine_that_the_stack_is_not_made_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "os-release").write_text('ID=alpine\nVERSION_ID=3.20\nPRETTY_NAME="Alpine Linux v3.20"\n')
    monkeypatch.setattr(_machine, "_OS_RELEASE", tmp_path / "os-release")
    with pytest.raises(Unsupported, match="install CUDA: this machine runs Alpine Linux v3.20 on .*choose another image"):
        refuse_unsupported("install CUDA")
    assert _machine.read_os()["supported"] is False


def test_every_version_of_the_stack_is_the_default_of_one_place() -> None:
    pins = {}
    for role in ("cuda13", "cutlass", "pytorch", "node", "cuda_watchdog", "services", "chess_training"):
        defaults = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text(encoding="utf-8"))
        pins |= {name: str(value) for name, value in defaults.items() if "version" in name and value}
    assert {"cuda13_version", "cuda13_nvcc_version", "cutlass_version", "pytorch_version"} <= set(pins)
    assert len(set(pins.values())) == len(pins)
    repeated = []
    for path in sorted((ROOT / "plugins/modules").glob("*.py")):
        told = re.findall(r'DOCUMENTATION = r"""\n(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)
        options = yaml.safe_load(told[0]).get("options") or {}
        repeated += [(path.stem, name) for name, option in options.items() if str(option.get("default")) in pins.values()]
    assert repeated == []
