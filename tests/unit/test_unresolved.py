# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What uv says of a wish that no set of versions fulfils, in one sentence; the texts are those of uv 0.9 and 0.13."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _cuda_install, _cuda_toolkit, _cutlass, _torch_env, _uv_tool
from ansible_collections.podcycle.gpu.plugins.module_utils._cutlass import Cutlass, CutlassError
from ansible_collections.podcycle.gpu.plugins.module_utils._gpu_driver import Driver
from ansible_collections.podcycle.gpu.plugins.module_utils._torch_env import TorchEnv, TorchEnvError
from ansible_collections.podcycle.gpu.plugins.module_utils._unresolved import places, unresolved
from ansible_collections.podcycle.gpu.plugins.module_utils._uv import Uv

END = "we can conclude that your requirements are unsatisfiable."
NEW = f"error: No solution found when resolving dependencies\n  cause: Because %s, {END}\n"
OLD = """\
  \u00d7 No solution found when resolving dependencies:
  \u2570\u2500\u25b6 Because only nvidia-cutlass<=4.2.0.0 is available and you require
      nvidia-cutlass==9.9.9.*, we can conclude that your requirements are
      unsatisfiable.
"""
ABI = NEW % "torch==1.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require torch==1.0" + "\nhint: You require CPython 3.11\n"
PLATFORM = """\
error: No solution found when resolving dependencies
  cause: Because plat==1.0 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`) and only plat==1.0 is available, we can conclude that all
         And because you require plat, we can conclude that your requirements are unsatisfiable.
"""
CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because all versions of bar depend on foo<2 and you require bar, we can conclude that you require foo<2.
         And because you require foo==2.0, we can conclude that your requirements are unsatisfiable.
"""


@pytest.mark.parametrize(
    ("text", "package", "sentence"),
    [
        (OLD, "nvidia-cutlass", "nvidia-cutlass==9.9.9.* does not exist in /w and the index, which have 4.2.0.0 and older"),
        (NEW % "only torch>=2.0 is available and you require torch==1.0", "torch", "torch==1.0 does not exist in /w and the index, which have 2.0 and newer"),
        (
            NEW % "only the following versions of torch are available:\n      torch==2.1\n      torch==2.2+cpu\n  and you require torch==9",
            "torch",
            "torch==9 does not exist in /w and the index, which have 2.1, 2.2+cpu",
        ),
        (NEW % "there is no version of torch==9.9.9 and you require torch==9.9.9", "torch", "torch==9.9.9 does not exist in /w and the index"),
        (NEW % "chess was not found in the provided package locations and you require chess==99", "chess", "chess==99 does not exist in /w and the index"),
        (NEW % "x was not found in the package registry and you require x", "x", "x does not exist in /w and the index"),
        (ABI, "torch", "torch==1.0 has no wheel for this machine's Python (cp311)"),
        (PLATFORM, "plat", "plat==1.0 has no wheel for this machine (manylinux_2_36_x86_64)"),
        (NEW % "a==1 requires Python >=3.13 and you require a==1", "a", "a==1 requires Python >=3.13"),
        (CONFLICT, "", "no versions fit together: all versions of bar depend on foo<2 and you require bar, and you require foo==2.0"),
    ],
)
def test_uvs_proof_becomes_one_sentence(text: str, package: str, sentence: str) -> None:
    found = unresolved(text)
    assert found is not None and (found.package, found.sentence(["/w", "the index"])) == (package, sentence)


def test_another_failure_is_none_of_these() -> None:
    assert unresolved("error: Request failed\n  cause: dns error\n") is None
    hint = "\nhint: An index URL (https://i.example) could not be queried due to a lack of valid authentication credentials (401 Unauthorized).\n"
    assert unresolved(NEW % "x was not found in the package registry and you require x" + hint) is None


def test_the_places_bear_no_key() -> None:
    assert places(["/w", "https://me:key@w.example/x"], "https://u:s3cret@i.example/cpu") == [
        "/w", "https://w.example/x", "https://i.example/cpu", "the package index",
    ]  # fmt: skip


def says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(Uv, "run", lambda _uv, arguments, _environment: subprocess.CompletedProcess(arguments, int(arguments[0] == "pip"), "", text))


UV = Uv(Path("/opt/bin/uv"), "0.13.9")


def test_a_cutlass_wheel_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, OLD)
    wish = _cutlass.Wish(tmp_path / "cutlass", tmp_path, "wheel", version="v9.9.9", compile=False)
    with pytest.raises(CutlassError) as caught:
        Cutlass(wish, lambda: UV).make()
    assert str(caught.value) == (
        "fetch CUTLASS v9.9.9 from the wheel nvidia-cutlass: nvidia-cutlass==9.9.9.* does not exist in the package index, which has 4.2.0.0 and older; "
        "set cutlass_version to one that exists, or name a folder or a mirror that has it by cutlass_find_links or cutlass_index_url"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            NEW % "there is no version of torch==9.9.9 and you require torch==9.9.9",
            "torch==9.9.9 does not exist in /w, PyTorch's index for cpu and the package index; "
            "set pytorch_version to one that exists, or name a folder or a mirror that has it by pytorch_find_links or pytorch_index_url",
        ),
        (
            NEW % "there is no version of chess==99 and you require chess==99",
            "chess==99 does not exist in /w, PyTorch's index for cpu and the package index; set pytorch_extra_packages to what exists",
        ),
        (
            NEW % "there is no version of lib==3 and chess==9 depends on lib==3, we can conclude that chess==9 cannot be used. And because you require it",
            "lib==3 does not exist in /w, PyTorch's index for cpu and the package index; set pytorch_version and pytorch_extra_packages to what fits together",
        ),
        (CONFLICT, "no versions fit together: all versions of bar depend on foo<2 and you require bar, and you require foo==2.0; "
         "set pytorch_version and pytorch_extra_packages to what fits together"),
    ],
)  # fmt: skip
def test_a_torch_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    says(monkeypatch, text)
    wish = _torch_env.Wish(tmp_path / "venv", "9.9.9", "cpu", "/usr/bin/python3", extra_packages=["Chess==99"], find_links=["/w"])
    with pytest.raises(TorchEnvError) as caught:
        TorchEnv(wish, Driver()).make(UV)
    assert str(caught.value) == f"install torch 9.9.9 (cpu) into {tmp_path}/venv: {told}"


def test_a_toolkit_whose_wheels_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, NEW % "there is no version of cuda-toolkit==99.0 and you require cuda-toolkit[nvcc]==99.0")
    wish = _cuda_toolkit.Wish(tmp_path / "cuda", tmp_path, "99.0", "99.0.1")
    with pytest.raises(_cuda_toolkit.CudaError, match=r"cuda-toolkit\[nvcc\]==99.0 does not exist in the package index; set cuda13_version and") as caught:
        _cuda_install.Installer(wish, _cuda_install.Sources(), lambda: UV, "python3").by_wheels()
    assert str(caught.value).startswith(f"install CUDA 99.0 by wheels into {tmp_path}/cuda: ")


def test_a_tool_whose_cache_cannot_be_written_names_no_other_roles_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "uv"
    said = f"error: Failed to initialize cache at `{tmp_path}/c`: Permission denied (os error 13)"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2; exit 2\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(_uv_tool, "find_uv", lambda *_args: Uv(program, "0.13.9"))
    monkeypatch.setenv("UV_CACHE_DIR", f"{tmp_path}/c")
    with pytest.raises(_uv_tool.UvToolError) as caught:
        _uv_tool.Tool("awscli", "", "aws", tmp_path).make()
    assert str(caught.value) == (
        f"install awscli into {tmp_path}/.podcycle/tools/awscli: uv venv: its cache {tmp_path}/c cannot be written: Permission denied; "
        "let this account write there, or set UV_CACHE_DIR to another folder in the machine's environment"
    )


def test_a_tool_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, NEW % "there is no version of awscli==99 and you require awscli==99")
    monkeypatch.setattr(_uv_tool, "find_uv", lambda *_args: UV)
    monkeypatch.setenv("UV_FIND_LINKS", "/w")
    with pytest.raises(_uv_tool.UvToolError, match="awscli==99 does not exist in /w and the package index; name a version that exists"):
        _uv_tool.Tool("awscli", "99", "aws", tmp_path).make()
