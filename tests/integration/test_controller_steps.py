# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that change the cloud or the controller go through the twelve steps, on every registered cloud.

Each phase (create, change, delete) is four tasks: in check mode, for real, in check mode again, for real again. Check mode sends no
write and changes no file, says what the real run then does, and the second run does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import CLOUDS
from support.stage import Stage
from support.steps import Args, Walk, judge_module, judge_results, tasks_of
from support.world import World, free_port, make_world

CHANGING = ("run", "pod", "lease", "run_event", "run_file", "run_report", "rehearsal_cloud", "bootstrap_script")
READING = ("pod_info", "lease_info", "offer_info")
pytestmark = pytest.mark.both_ends


def controller_walks(world: World) -> list[Walk]:
    """What runs on the controller."""
    ssh = {
        "ssh_public_key": "{{ opened.run.public_key }}",
        "ssh_private_key_file": "{{ opened.run.private_key_file }}",
        "known_hosts_file": str(world.path / "known"),
    }
    pod = {"run_id": "walk", "gpu": ["RTX 4090"], "volume_gib": 10, **ssh}
    run_dir = str(world.run_dir("open"))
    opened = {"run_id": "open", "rehearsal": True, "artifacts_dir": str(world.path / "artifacts")}
    report = {"run_dir": run_dir, "write": True, "audit": {"leases": [], "ended": [], "strays": []}}
    second = {"port": free_port(), "state_dir": str(world.path / "second")}
    script: Args = {"dest": f"{run_dir}/pod_setup.sh"}
    return [
        Walk("run", {"create": opened}, lacks="a run is not changed, and its folder is the person's to delete", fails={"run_id": "../x"}),
        Walk(
            "pod",
            {"create": pod, "change: stop": {"run_id": "walk", "state": "stopped"}, "change: start": pod},
            fails={"run_id": "walk", "name": "other", "gpu": ["RTX 4099"]},
            reads={"pod_info": {"run_id": "walk", **{name: ssh[name] for name in ("ssh_private_key_file", "known_hosts_file")}}},
        ),
        Walk(
            "lease",
            {
                "create": {"state": "held", "run_id": "walk", "minutes": 15},
                "change": {"state": "kept", "run_id": "walk"},
            },
            reads={"lease_info": {"run_id": "walk"}, "offer_info": {}},
        ),
        Walk("pod", {"delete": {"run_id": "walk", "state": "absent"}}),
        Walk("pod", {}, reads={"pod": {**pod, "run_id": "over"}}),
        Walk("lease", {"delete": {"state": "released", "run_id": "over", "select": "all"}}),
        Walk("run_event", {"create": {"run_dir": run_dir, "stage": "start", "status": "started"}}, lacks="an entry of a journal stays as it is", journal=True),
        Walk(
            "run_file",
            {
                "create": {"run_dir": run_dir, "name": "provision.json", "content": {"pods": []}},
                "change": {"run_dir": run_dir, "name": "provision.json", "content": {"pods": [], "rehearsal": True}},
            },
            lacks="what a run wrote is the person's to delete",
        ),
        Walk("run_report", {"create": report, "change": {**report, "ending": "keep"}}, lacks="as run_file", reads={"run_report": {"run_dir": run_dir}}),
        Walk(
            "rehearsal_cloud",
            {"create": second, "delete": {**second, "state": "stopped"}},
            lacks="a running one keeps its settings; `reset` is an act, not a state",
        ),
        Walk(
            "bootstrap_script",
            {"create": script, "change": {**script, "usd_per_hour": "2.69"}},
            lacks="what was written is the person's to delete",
            fails={"variables": {"node_tailscale_auth_key": "tskey-walk-1"}},
        ),
    ]


@pytest.fixture(scope="module", params=CLOUDS)
def walked(request: pytest.FixtureRequest) -> Iterator[tuple[list[Walk], dict[str, Args]]]:
    """The walks, and what each of their tasks did, on one cloud."""
    world = make_world("walkcontrol")
    try:
        world.start_cloud(50)
        stage = Stage(world, request.param)
        walks = controller_walks(world)
        roots = [world.state, world.path / "artifacts", world.path / "second"]
        opening = {"run_id": "key", "rehearsal": True, "artifacts_dir": str(world.path / "artifacts")}
        tasks = [{"name": "Open", "podcycle.gpu.run": opening, "register": "opened"}, *tasks_of(walks)]
        rows = stage.play([{"hosts": "localhost", **stage.defaults, "tasks": tasks}], world.path / "inventory", roots)
        yield walks, {row["task"]: row for row in rows}
    finally:
        world.close()


@pytest.mark.parametrize("module", CHANGING)
def test_twelve_steps(walked: tuple[list[Walk], dict[str, Args]], module: str) -> None:
    assert judge_module(*walked, module) == []


@pytest.mark.parametrize("module", (*CHANGING, *READING))
def test_results_are_as_documented(walked: tuple[list[Walk], dict[str, Args]], documents: dict[str, Any], module: str) -> None:
    """Over all steps, those that fail too, every documented field is returned, and no other."""
    assert judge_results(documents[module]["RETURN"], [row["result"] for row in walked[1].values() if row["module"] == module]) == []
