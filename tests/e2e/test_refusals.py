# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input and dangerous invocations: refused with one clear sentence and a status that is not 0, before anything is rented.

One bad value of each variable, the one most easily taken for none. What else is bad of it is tried where it is judged: by the engine, modules and trainer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# One worker runs them all: they share one cloud, and their playbooks are started together.
pytestmark = pytest.mark.xdist_group("refusals")


@dataclass
class Case:
    name: str
    says: tuple[str, ...]
    variables: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    playbook: str = "playbooks/start.yml"
    env: dict[str, str] = field(default_factory=dict)
    inventory: str | None = None
    both_ends: bool = False


CASES = [
    Case("no-key", ("no key for runpod: looked at the option, environment RUNPOD_API_KEY",), {"cloud_api_key": ""}, playbook="cycle.yml"),
    Case("wrong-key", ("RunPod does not know the key (from option)",), {"cloud_api_key": "rpa_wrong_wrong_wrong"}, playbook="cycle.yml", both_ends=True),
    Case("key-without-rights", ("RunPod knows the key (from option) but it lacks the right",), {"cloud_api_key": "rpa_rehearsal_none"}),
    Case("read-only-key", ("RunPod knows the key (from option) but it lacks the right",), {"cloud_api_key": "rpa_rehearsal_readonly"}, playbook="cycle.yml"),
    Case("unknown-gpu", ("GPU 'RTX 4099' is not known on runpod; nearest: RTX 4090"), {"gpu": "RTX 4099"}, playbook="cycle.yml", both_ends=True),
    Case(
        "price-cap", ("max_usd_per_hour 0.1000 is below every offer of runpod that fits", "the cheapest is 1 x RTX 3090 at 0.4600 $/h"),
        {"max_usd_per_hour": "0.1"},
    ),
    Case("no-pods", ("count is 0; it must be between 1 and 200",), {"pod_count": 0}),
    Case("count-in-words", ("count (pod_count) is 'two' and has to be a whole number",), {"pod_count": "two"}),
    Case(
        "text-for-a-dictionary", ("begin a run: pod_env has to be a dictionary; type: -e '{\"pod_env\": {\"NAME\": \"VALUE\"}}'",), {"pod_env": "A=1"},
    ),
    Case("no-gpus", ("gpu_count is 0; it must be between 1 and 16",), {"gpu_count": 0}),
    Case("negative-disk", ("disk_gib is -5; it must be between 1 and 10000",), {"disk_gib": -5}),
    Case("negative-volume", ("volume_gib is -1; it must be between 0 and 10000",), {"volume_gib": -1}),
    Case("no-lease", ("lease.hours is 0; it must be between 0.01 and 720",), {"lease_hours": "0"}),
    Case("misspelt", ("no role has a variable pytorch_verson; pytorch_version was meant",), {"pytorch_verson": "2"}),
    Case("service-misspelt", ("there is no variable services_jupiter; services_jupyter was meant",), {"services_jupiter": True}, playbook="cycle.yml"),
    Case("service-port", ("services_jupyter_port is '99999' and has to be a number from 1 to 65535",), {"services_jupyter_port": 99999}),
    Case("service-keys", ("services_authorized_keys holds a line that is no public key: 'hello'",), {"services_authorized_keys": "hello"}),
    Case(
        "service-in-env", ("START_JUPYTER is 'maybe', which is neither 1 nor 0",),
        {"pod_env": {"START_JUPYTER": "maybe", "IDLE_TIMEOUT_SECONDS": "{% raw %}{{ RUNPOD_SECRET_x }}{% endraw %}"}},
    ),
    Case(
        "value-of-a-role", ('begin a run: pytorch_backend is "cu999" and has to be one of auto, cpu, cu128, cu130',), {"pytorch_backend": "cu999"},
        playbook="cycle.yml",
    ),
    Case("price-zero", ("max_usd_per_hour is 0; it must be above 0",), {"max_usd_per_hour": 0}),
    Case("data-without-val", ("val.jsonl: not found in", "{data}/no-val"), {"dataset_dir": "{data}/no-val"}),
    Case("data-illegal-move", ("val.jsonl, line 2: ", "e2e5"), {"dataset_dir": "{data}/illegal"}, playbook="cycle.yml"),
    Case("batch-too-large", ("cannot be done as asked", "fewer than one batch of 999999; give a smaller --batch-size"), {"train_batch_size": 999999}),
    Case("run-id-path", ("run_id '../outside' is not a safe file name",), {"run_id": "../outside"}, playbook="cycle.yml"),
    Case("foreign-run-folder", ("belongs to runpod at https://api.runpod.io/v2, not to runpod at http://127.0.0.1",), {"run_id": "elsewhere"}),
    Case("foreign-state", ("holds files that are not ours and has no podcycle-state file",), {"state_dir": "{world}/foreign"}),
    Case("port-in-use", ("is held by process", "which is not a rehearsal cloud"), env={"PODCYCLE_REHEARSAL_PORT": "{taken}", "PODCYCLE_HOME": "{world}/other"}),
    Case(
        "limit", ("--limit without localhost would skip renting and giving back",),
        words=("--limit", "stranger-pod"), playbook="cycle.yml", inventory="{world}/pods.ini",
    ),
    Case("tags", ("--tags, --skip-tags and --start-at-task would leave out parts of the cycle",), words=("--tags", "train"), playbook="cycle.yml"),
    Case("skip-tags", ("--tags, --skip-tags and --start-at-task would leave out parts of the cycle",), words=("--skip-tags", "stop"), playbook="cycle.yml"),
    Case("start-at", ("--tags, --skip-tags and --start-at-task would leave out parts of the cycle",), words=("--start-at-task", "Rent"), playbook="cycle.yml"),
    Case(
        "rehearsal-elsewhere",
        ("the inventory is the rehearsal one, but the endpoint is https://api.runpod.io/v2",),
        {"cloud_endpoint": "https://api.runpod.io/v2"},
    ),
    Case(
        "real-on-loopback", ("the inventory is a real one, but the endpoint is http://127.0.0.1:{port}/v2", "unset RUNPOD_REST_V2_URL"),
        env={"RUNPOD_REST_V2_URL": "http://127.0.0.1:{port}/v2", "RUNPOD_API_KEY": "rpa_rehearsal_full", "PODCYCLE_STATE_DIR": "{world}/real-state"},
        inventory=str(ROOT / "inventories" / "runpod"), playbook="cycle.yml",
    ),
]  # fmt: skip


@dataclass
class Refusals:
    """All cases, two at a time, against one cloud; each test looks at its own."""

    world: Any
    places: dict[str, Any]
    pool: ThreadPoolExecutor
    results: dict[str, Future[Any]] = field(default_factory=dict)

    def fill(self, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        for name, value in self.places.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    def begin(self, case: Case) -> None:
        variables = {"run_id": f"r-{case.name}", **{name: self.fill(value) for name, value in case.variables.items()}}
        env = {name: self.fill(value) for name, value in case.env.items()}
        self.results[case.name] = self.pool.submit(
            self.world.play, case.playbook, *case.words, env=env, inventory=self.fill(case.inventory) if case.inventory else None, **variables
        )


def make_data(world: Any) -> Path:
    data: Path = world.path / "bad-data"
    for name in ("no-val", "illegal"):
        world.dataset(data / name, train=4, val=3)
    (data / "no-val" / "val.jsonl").unlink()
    rows = (data / "illegal" / "val.jsonl").read_text(encoding="utf-8").splitlines()
    (data / "illegal" / "val.jsonl").write_text("\n".join([rows[0], '{"moves":"e2e5 e7e5"}', *rows[2:]]) + "\n", encoding="utf-8")
    return data


@pytest.fixture(scope="module")
def refusals(shared_world: Any, request: pytest.FixtureRequest) -> Iterator[Refusals]:
    world = shared_world
    (world.path / "foreign").mkdir(mode=0o700)
    (world.path / "foreign" / "notes.txt").write_text("mine", encoding="utf-8")
    about = world.run_dir("elsewhere") / "run.json"
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"cloud": "runpod", "endpoint": "https://api.runpod.io/v2"}), encoding="utf-8")
    (world.path / "pods.ini").write_text("stranger-pod\n", encoding="utf-8")
    (world.path / "group_vars").symlink_to(world.path / "inventory" / "group_vars")
    wanted = {item.callspec.params["case"].name for item in request.session.items if "case" in getattr(getattr(item, "callspec", None), "params", {})}
    with socket.socket() as taken, ThreadPoolExecutor(2) as pool:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"world": world.path, "data": make_data(world), "taken": taken.getsockname()[1], "port": world.port}
        made = Refusals(world, places, pool)
        for case in CASES:
            if case.name in wanted:
                made.begin(case)
        yield made


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=[pytest.mark.both_ends] if case.both_ends else []) for case in CASES])
def test_refused(refusals: Refusals, case: Case) -> None:
    result = refusals.results[case.name].result().failed()
    for words in case.says:
        assert refusals.fill(words) in result.flat.replace("''", "'"), result.text[-5000:]
    # The read-only key is found out by its first create, which the cloud refuses.
    sent = [entry for entry in refusals.world.posts() if f"r-{case.name}" in str(entry.get("body"))]
    assert [entry["status"] for entry in sent] == ([403] if case.name == "read-only-key" else [])
    assert [pod for pod in refusals.world.live() if f"r-{case.name}" in pod["name"]] == []


def test_proxy_told_apart_from_the_key(world: Any) -> None:
    world.control("POST", "/faults", {"kind": "proxy_403", "times": None})
    result = world.play("cycle.yml", run_id="proxy").failed()
    assert "HTTP 403 from something that is not the API" in result.flat and "the key was not judged" in result.flat
    assert world.posts() == []


def test_second_controller_of_a_run(world: Any) -> None:
    """While one ansible-playbook drives a run, another with the same run id is told by whom, and does nothing."""
    world.control("POST", "/hold", {"match": {"method": "GET", "path": "/catalog/gpus"}, "when": "before"})
    first = world.begin("cycle.yml", run_id="mine")
    assert world.control("GET", "/hold?timeout=60")["held"]
    second = world.play("cycle.yml", run_id="mine").failed()
    assert f"run mine is being driven by process {first.process.pid} on {os.uname().nodename}" in second.flat
    first.signal_group(signal.SIGKILL)
    first.process.wait()
    world.control("POST", "/hold/release", {})
    assert world.posts() == [] and world.live() == []
