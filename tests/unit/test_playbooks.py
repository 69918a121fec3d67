# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from support.world import ROOT

# These write into start files of shells, service managers and package lists.
SYSTEM_ROLES = {"node", "cuda13", "cutlass", "cuda_watchdog"}


def plays_on_the_controller() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        for play in yaml.safe_load(path.read_text(encoding="utf-8")):
            if play.get("hosts") == "localhost":
                yield path.name, play


def tasks_of(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part) or [])


def test_the_controllers_own_shells_and_services_are_left_alone() -> None:
    """The controller may be somebody's laptop: no play on it may converge more than a private environment for validation."""
    seen = 0
    for name, play in plays_on_the_controller():
        for task in tasks_of(play.get("tasks") or []):
            role = str((task.get("ansible.builtin.include_role") or {}).get("name", "")).rpartition(".")[2]
            assert role not in SYSTEM_ROLES, f"{name}: {task['name']}"
            if role == "pytorch":
                seen += 1
                assert task["vars"]["pytorch_environment"] is False, f"{name}: {task['name']}"
    assert seen >= 2
