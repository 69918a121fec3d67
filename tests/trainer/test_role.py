# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role: its documentation is its defaults, and the package comes onto a pod once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROLE

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; it comes with ansible-core")


def load(name: str) -> Any:
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


def test_argument_specs_equal_the_defaults() -> None:
    options = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items()} == load("defaults/main.yml")
    assert all(name.startswith("chess_training_") for name in options)


def test_every_variable_is_in_the_readme() -> None:
    readme = (ROLE / "README.md").read_text(encoding="utf-8")
    assert [name for name in load("defaults/main.yml") if f"`{name}`" not in readme] == []


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, Any]:
    """A stand-in for a pod, and what the role sends to it."""
    site_packages = tmp_path / "venv/lib/python3.11/site-packages"
    site_packages.mkdir(parents=True)
    (site_packages / "numpy-2.4.6.dist-info").mkdir()
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROLE / "files/chess_trainer").glob("*.py")}
    return {
        "files": files,
        "programs": {"train_baseline_preset.sh": f"#!/bin/sh\nexec {sys.executable} -m chess_trainer preset --workspace {tmp_path} \"$@\"\n"},
        "package": "chess_trainer",
        "packages": ["numpy", "Other_Thing"],
        "src_dir": str(tmp_path / "src"),
        "venv": str(tmp_path / "venv"),
        "workspace": str(tmp_path),
        "uv": "/bin/true",
        "check": False,
    }


def install(wanted: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROLE / "files/install_package.py")]
    return subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)


def outcome(wanted: dict[str, Any]) -> tuple[bool, int, int]:
    result = install(wanted)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    return found["changed"], found["written"], found["removed"]


def test_the_package_is_installed_once_and_runs(pod: dict[str, Any], tmp_path: Path) -> None:
    count = len(pod["files"]) + 2
    assert outcome(pod | {"check": True}) == (True, count, 0) and not (tmp_path / "src").exists()
    assert outcome(pod) == (True, count, 0)
    assert outcome(pod | {"check": True}) == outcome(pod) == (False, 0, 0)
    assert json.loads(install(pod).stdout)["missing"] == ["Other_Thing"]
    assert (tmp_path / "venv/lib/python3.11/site-packages/chess_trainer.pth").read_text(encoding="utf-8") == f"{tmp_path}/src\n"
    command = [sys.executable, "-m", "chess_trainer", "--version"]
    assert subprocess.run(command, cwd=tmp_path / "src", capture_output=True, text=True, check=True).stdout.strip() == "0.1.0"
    script = tmp_path / "venv/bin/train_baseline_preset.sh"
    helped = subprocess.run([str(script), "--help"], cwd=tmp_path / "src", capture_output=True, text=True, check=True).stdout
    assert "TRAIN_DATASET_DIR" in helped and "train_baseline_preset.sh" in helped
    script.chmod(0o644)
    assert outcome(pod) == (True, 1, 0) and os.access(script, os.X_OK)


def test_changed_and_stale_files_are_put_right(pod: dict[str, Any], tmp_path: Path) -> None:
    outcome(pod)
    folder = tmp_path / "src/chess_trainer"
    (folder / "model.py").write_text("broken", encoding="utf-8")
    (folder / "gone.py").write_text("old", encoding="utf-8")
    assert outcome(pod | {"check": True}) == outcome(pod) == (True, 1, 1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(pod["files"])
    assert (folder / "model.py").read_text(encoding="utf-8") == pod["files"]["model.py"]


def test_uv_is_found_where_the_stack_leaves_it(pod: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PATH", "/nowhere"), ("HOME", str(tmp_path)), ("UV_CACHE_DIR", "")):
        monkeypatch.setenv(name, value)
    anywhere = pod | {"uv": ""}
    result = install(anywhere)
    told = f"install Other_Thing into {tmp_path}/venv: there is no uv; run the role pytorch first, or name one with chess_training_uv\n"
    assert (result.returncode, result.stderr) == (1, told) and not (tmp_path / "src").exists()
    assert json.loads(install(anywhere | {"check": True}).stdout)["uv"] == ""
    for place in ("cache/uv/bin/uv", ".local/bin/uv", "bin/uv"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch(0o755)
        assert json.loads(install(anywhere).stdout)["uv"] == str(tmp_path / place)
    assert json.loads(install(pod).stdout)["uv"] == "/bin/true"


def test_a_missing_environment_is_explained(pod: dict[str, Any], tmp_path: Path) -> None:
    missing = pod | {"venv": str(tmp_path / "nowhere")}
    result = install(missing)
    assert result.returncode == 1 and "run the role pytorch first" in result.stderr and not (tmp_path / "src").exists()
    assert outcome(missing | {"check": True})[0] is True
