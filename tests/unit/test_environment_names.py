# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each environment name of the older scripts is read, told in the documents, and set where the playbooks look for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._environment_names import NAMES, read_environment
from support.world import ROOT

GIVEN: dict[str, tuple[str, Any]] = {
    "RUNPOD_CYCLE_RUN_ID": ("run-7", "run-7"),
    "RUNPOD_GPU_TYPE_ID": ("NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090"),
    "RUNPOD_GPU_COUNT": ("2", 2),
    "RUNPOD_MIN_MEMORY_GB": ("24", 24),
    "RUNPOD_MAX_HOURLY_PRICE": ("0.90", "0.90"),
    "RUNPOD_CONTAINER_DISK_GB": ("15", 15),
    "RUNPOD_VOLUME_GB": ("40", 40),
    "RUNPOD_INTERRUPTIBLE": ("1", True),
    "RUNPOD_START_ENVS": ("START_JUPYTER=1 A=b=c B=\"x y\"", {"START_JUPYTER": "1", "A": "b=c", "B": "x y"}),
    "RUNPOD_CLOUD_TYPE": ("ALL", "any"),
    "RUNPOD_TEMPLATE_NAME": ("chess-bot-training", "chess-bot-training"),
    "RUNPOD_TEMPLATE_ID": ("tpl1", "tpl1"),
    "RUNPOD_USE_PRESET_ENV": ("0", False),
    "RUNPOD_SSH_READY_TIMEOUT_SECONDS": ("360", 360),
}


@pytest.mark.parametrize("name", [name for name, *_rest in NAMES])
def test_each_name_sets_its_variable(name: str) -> None:
    text, wanted = GIVEN[name]
    variable = next(row[1] for row in NAMES if row[0] == name)
    group, _dot, key = variable.rpartition(".")
    found = read_environment({name: text})
    assert found == ({f"{group}_environment": {key: wanted}} if group else {variable: wanted})
    assert read_environment({name: " "}) == {}
    used = variable.split(".", maxsplit=1)[0]
    assert any(f"{used} |" in path.read_text() for path in (ROOT / "playbooks").rglob("*.yml")), "no playbook looks at it"
    assert f"| `{name}` | `{variable}` |" in (ROOT / "docs/migration.md").read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("RUNPOD_GPU_COUNT", "two", "a whole number"),
        ("RUNPOD_INTERRUPTIBLE", "maybe", "0 or 1"),
        ("RUNPOD_MAX_HOURLY_PRICE", "cheap", "a price"),
        ("RUNPOD_CLOUD_TYPE", "SECURED", "SECURE, COMMUNITY or ALL"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str, words: str) -> None:
    with pytest.raises(errors.UsageError, match=f"{name} is '{text}'; it must be {words}.*unset {name}"):
        read_environment({name: text})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1 hunter2-word TOKEN=hunter2", "must be words of NAME=VALUE, and word 2 of 3 is none"),
        ("A=1 hunter2-a=b", "must be words of NAME=VALUE, and word 2 of 2 is none"),
        ("=hunter2", "must be words of NAME=VALUE, and word 1 of 1 is none"),
        ("TOKEN='hunter2 A=1", "cannot be split into words of NAME=VALUE: no closing quotation"),
    ],
)
def test_a_bad_environment_for_the_pod_is_refused_without_its_secrets(text: str, words: str) -> None:
    with pytest.raises(errors.UsageError, match=f"RUNPOD_START_ENVS {words}; mend it.*or: unset RUNPOD_START_ENVS") as refused:
        read_environment({"RUNPOD_START_ENVS": text})
    told = "".join(traceback.format_exception(refused.value))
    assert "hunter2" not in str(refused.value) and "hunter2" not in told.replace(text, ""), told


def test_no_limit_was_written_as_zero() -> None:
    assert read_environment({"RUNPOD_MAX_HOURLY_PRICE": "0"}) == {"max_usd_per_hour": None}


def test_ansible_takes_them_over_the_inventory_and_below_the_command_line(tmp_path: Path) -> None:
    play = tmp_path / "show.yml"
    shown = {"run_id": "{{ run_id | default('') }}", "gpu": "{{ gpu }}", "gpu_count": "{{ gpu_count }}", "kind": "{{ runpod_environment.cloud_type }}"}
    play.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": shown}}]}]))
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text("all: {}\n")
    (folder / "group_vars/all.yml").write_text("gpu: L40S\ngpu_count: 1\n")
    names = {name: GIVEN[name][0] for name in ("RUNPOD_CYCLE_RUN_ID", "RUNPOD_GPU_TYPE_ID", "RUNPOD_GPU_COUNT", "RUNPOD_CLOUD_TYPE")}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(folder), str(play), "-e", "gpu_count=4"]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", **more}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)

    said = run(**names).stdout
    message = json.loads(said[said.index("{") : said.index("PLAY RECAP")].strip())["msg"]
    assert message == {"run_id": "run-7", "gpu": "NVIDIA GeForce RTX 3090", "gpu_count": "4", "kind": "any"} | {"gpu_count": message["gpu_count"]}
    assert str(message["gpu_count"]) == "4"
    bad = run(**{**names, "RUNPOD_GPU_COUNT": "two"})
    assert bad.returncode != 0 and (bad.stdout + bad.stderr).count("RUNPOD_GPU_COUNT is 'two'; it must be a whole number") == 1
