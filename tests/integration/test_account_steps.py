# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a RunPod account owns goes through the twelve steps as pods do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.stage import Stage
from support.steps import Args, Walk, judge_module, judge_results, tasks_of
from support.world import make_world

CHANGING = ("runpod_template", "runpod_network_volume", "runpod_registry_auth", "runpod_ssh_key")
READING = ("runpod_template_info", "runpod_network_volume_info")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQZ me@example.com"
pytestmark = pytest.mark.both_ends


def account_walks() -> list[Walk]:
    template: Args = {"name": "walk", "image": "runpod/base:1", "volume_gib": 20, "ports": ["22/tcp"], "env": {"A": "1"}}
    secret = {"HF_TOKEN": "hush-hush-{}"}
    volume: Args = {"name": "walk", "size_gib": 20, "data_center": "EU-RO-1"}
    registry: Args = {"name": "walk", "username": "me", "password": "hush-hush-1"}
    return [
        Walk(
            "runpod_template",
            {
                "create": {**template, "secret_env": {"HF_TOKEN": secret["HF_TOKEN"].format(1)}},
                "change": {**template, "disk_gib": 30, "secret_env": {"HF_TOKEN": secret["HF_TOKEN"].format(2)}},
            },
            fails={"name": "other"},
            reads={"runpod_template_info": {}},
        ),
        Walk("runpod_template", {"delete": {"name": "walk", "state": "absent"}}),
        Walk(
            "runpod_network_volume",
            {"create": volume, "change": {**volume, "size_gib": 30}},
            fails={"name": "walk", "size_gib": 10},
            reads={"runpod_network_volume_info": {}},
        ),
        Walk("runpod_network_volume", {"delete": {"name": "walk", "state": "absent"}}),
        Walk(
            "runpod_registry_auth",
            {"create": registry, "delete": {"name": "walk", "state": "absent"}},
            lacks="RunPod shows no password that could be compared",
            fails={"name": "other"},
        ),
        Walk(
            "runpod_ssh_key",
            {"create": {"public_key": KEY}, "delete": {"public_key": KEY, "state": "absent"}},
            lacks="a key has nothing that could change",
            fails={"public_key": "no key"},
        ),
    ]


@pytest.fixture(scope="module")
def walked() -> Iterator[tuple[list[Walk], dict[str, Args]]]:
    world = make_world("walkaccount")
    try:
        world.start_cloud(50)
        stage = Stage(world, "runpod")
        walks = account_walks()
        rows = stage.play([{"hosts": "localhost", **stage.defaults, "tasks": tasks_of(walks)}], world.path / "inventory", [world.state])
        yield walks, {row["task"]: row for row in rows}
    finally:
        world.close()


@pytest.mark.parametrize("module", CHANGING)
def test_twelve_steps(walked: tuple[list[Walk], dict[str, Args]], module: str) -> None:
    assert judge_module(*walked, module) == []


@pytest.mark.parametrize("module", (*CHANGING, *READING))
def test_results_are_as_documented(walked: tuple[list[Walk], dict[str, Args]], documents: dict[str, Any], module: str) -> None:
    assert judge_results(documents[module]["RETURN"], [row["result"] for row in walked[1].values() if row["module"] == module]) == []


def test_no_secret_is_in_any_result(walked: tuple[list[Walk], dict[str, Args]]) -> None:
    assert "hush-hush" not in str([row["result"] for row in walked[1].values()])
