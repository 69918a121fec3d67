# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of all pods: what each says of itself, what it says instead, and that nothing it says can harm the terminal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.action import pod_status
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _gateway_link, _status
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._job_follow import MARK, latest_command, parse_poll
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Endpoint
from ansible_collections.podcycle.gpu.plugins.module_utils._session import remember_workspace
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir
from support.harness import FULL

STATUS = {"state": "running", "started_at": "2026-11-01T10:00:00Z", "runner_started": 77, "progress": {"summary": "epoch 1/1  ETA 0:40\x1b[2J"}}
RUNNER = "5 (python3) S " + " ".join(str(number) for number in range(4, 22)) + " 77 1"
GPUS = "37, 1200, 24564, 51, 210.5\n[N/A], 3, 24564, [N/A], [N/A]\n"


def said(status: dict[str, Any] | str | None = None, services: str = "", image: str = "") -> bytes:
    text = status if isinstance(status, str) else json.dumps(status or STATUS)
    places = f"{services}\n{_status._SERVICES}\n{image}\n{_status._SERVICES}"
    return f"{GPUS}{_status._BREAK}\n{places}\ntrain\n1793527221\n{MARK}\n{RUNNER}\n{MARK}\n{text}\n{MARK}\nlast line".encode()


@pytest.fixture
def look(rehearsal: Any, make_engine: Callable[..., Engine], make_wish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Rents two pods and has their answers given."""
    engine = make_engine()
    slots = engine.rent(make_wish(count=2, ports=("22/tcp", "8888/http")), check_mode=False)
    folder = engine.state.path / "runs" / "r1"
    folder.mkdir(parents=True)
    (folder / "id_ed25519").write_text("key")
    pods = [slot.after.id for slot in slots]

    def looked(*answers: Any, ask: Any = None, **options: Any) -> dict[str, Any]:
        given = dict(zip(pods, answers, strict=True))

        def answer_for(self: SshAccess, pod_id: str, endpoint: Any, command: str, timeout_seconds: float) -> Any:
            answer = given[pod_id]
            if isinstance(answer, Exception):
                raise answer
            return subprocess.CompletedProcess([], 0, answer, b"") if isinstance(answer, bytes) else subprocess.CompletedProcess([], 255, b"", answer.encode())

        monkeypatch.setattr(SshAccess, "ask", ask or answer_for)
        monkeypatch.setattr(SshAccess, "pinned", lambda self, pod_id: True)
        found = _status.pod_status({"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(engine.state.path), **options})
        found["by"] = {row["pod_id"]: row for row in found["pods"]}
        return found

    looked.pods = pods  # type: ignore[attr-defined]
    looked.state = engine.state.path  # type: ignore[attr-defined]
    return looked


def test_each_pod_tells_its_job_and_its_gpus(look: Any) -> None:
    found = look(said(), "Connection refused")
    busy, silent = (found["by"][pod] for pod in look.pods)
    job = {"name": "train", "state": "running", "summary": "epoch 1/1  ETA 0:40", "progress": None, "seconds": 21.0, "silent_seconds": 0.0, "stalled": False}
    assert busy["job"] | {"progress": None} == job and not found["ended"] and found["stalled"] == []
    assert [gpu["utilization_gpu"] for gpu in busy["gpus"]] == [37.0, None] and busy["gpus"][0]["power_draw"] == 210.5
    assert (silent["trouble"], silent["job"], silent["state"]) == ("Connection refused", None, "running")
    table = found["lines"]
    assert table[0].split() == ["POD", "ID", "STATE", "GPU", "BUSY", "$/H", "COST", "$", "LEFT", "JOB"]
    assert "37 %" in table[1] and "train: running  epoch 1/1  ETA 0:40" in table[1] and table[2].endswith("Connection refused")
    assert table[1].index("running") == table[2].index("running") == table[0].index("STATE")
    assert f"r1-0: https://{look.pods[0]}-8888.proxy.runpod.net" in table and table[-1].startswith("2 pods, 1.1800 $/h now")
    assert "\x1b" not in "".join(table)


@pytest.mark.parametrize(
    ("answer", "job", "trouble"),
    [
        (subprocess.TimeoutExpired("ssh", 20), None, "SSH did not answer in time"),
        (b"\xff\xfe no mark at all", None, "it answered something else than it was asked"),
        (f"{GPUS}{_status._BREAK}\n\n{_status._SERVICES}\n\n{_status._SERVICES}\n".encode(), None, None),
        (said("[" * 60000), None, None),
        (said('{"state": {"a": 1}, "progress": 7}'), "train", None),
        (b"1" * 5_000_000, None, "it answered something else than it was asked"),
    ],
)
def test_what_a_pod_may_say(look: Any, answer: Any, job: str | None, trouble: str | None) -> None:
    row = look(answer, said())["by"][look.pods[0]]
    assert (row["job"] and row["job"]["name"], row["trouble"]) == (job, trouble)


def test_a_workspace_may_depend_on_the_pod(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_status, "latest_command", lambda jobs, size: asked.append(jobs) or "true")
    look(said(), said(), workspace="/pods/{pod_id}/workspace")
    assert sorted(asked) == sorted(f"/pods/{pod}/workspace/runs/r1/jobs" for pod in look.pods)
    asked.clear()
    look(said(), said())
    assert asked == ["/workspace/runs/r1/jobs"] * 2
    asked.clear()
    remember_workspace(StateDir(look.state), "r1", "/opt/{pod_id}")
    look(said(), said())
    assert sorted(asked) == sorted(f"/opt/{pod}/runs/r1/jobs" for pod in look.pods), "the workspace that the run was begun with"


def test_the_last_job_is_the_one_that_started_last(tmp_path: Path) -> None:
    """The command as a shell runs it, also where no job ever was."""
    jobs = tmp_path / "it's jobs"
    assert subprocess.run(["sh", "-c", latest_command(str(jobs), 100)], capture_output=True, text=True, check=False).stdout == ""
    for number, name in enumerate(("older", "-rf newest", "oldest")):
        folder = jobs / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"state": "succeeded", "attempt": number}))
        (folder / "job.log").write_text(name)
        stamp = {"older": 200, "-rf newest": 300, "oldest": 100}[name]
        os.utime(folder, (stamp, stamp))
    done = subprocess.run(["sh", "-c", latest_command(str(jobs), 100)], capture_output=True, text=True, check=True)
    name, _newline, poll = done.stdout.partition("\n")
    assert name == "-rf newest" and parse_poll(poll).status["attempt"] == 1 and parse_poll(poll).log == ["-rf newest"]


def test_a_job_without_a_sign_of_life_is_stalled_and_jobs_that_ended_are_not(look: Any) -> None:
    silent = {**STATUS, "heartbeat_at": "2026-11-01T09:59:00Z"}
    found = look(said(silent), said({**STATUS, "state": "succeeded"}), stall_seconds=60)
    assert found["stalled"] == ["r1-0"] and not found["ended"]
    assert "train: running, no sign of life for 81 s" in found["lines"][1]
    assert look(said(silent), said(), stall_seconds=90)["stalled"] == [] == look(said(silent), said(), stall_seconds=0)["stalled"]
    done = {**silent, "state": "failed"}
    over = look(said(done), said(done), stall_seconds=60)
    assert over["ended"] and over["stalled"] == [] and not look(said(done), "Connection refused")["ended"]


def test_a_watched_pod_whose_job_cannot_be_read_stalls(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of reach, or without a job: silence since it was last seen, or since the watch began."""
    quiet = {**STATUS, "heartbeat_at": "2026-11-01T10:00:11Z"}
    empty = f"{GPUS}{_status._BREAK}\n\n{_status._SERVICES}\n\n{_status._SERVICES}\n".encode()
    answers = [(said(quiet), empty), ("Connection refused", empty), ("Connection refused", empty), ("Connection refused", empty)]
    now, asked = [100.0], []

    def given(options: dict[str, Any]) -> Any:
        asked.append(now[0])
        return look(*answers[len(asked) - 1], stall_seconds=options["stall_seconds"])

    monkeypatch.setattr(pod_status, "pod_status", given)
    monkeypatch.setattr(pod_status.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pod_status.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    options = {"watch": 20.0, "watch_limit": 0.0, "until_ended": True, "stall_seconds": 45.0, "ssh_timeout": 10.0}
    found = pod_status.ActionModule._look(options)
    # The first was silent for 10 s already when it was last seen.
    assert asked == [100.0, 120.0, 140.0] and found["stalled"] == ["r1-0"] and not found["ended"] and found["seen"]
    assert found["lines"][-1] == "r1-0: no job could be seen for 50 s: Connection refused"
    asked.clear()
    now[0] = 100.0
    answers[1:] = [(said(), empty)] * 3
    found = pod_status.ActionModule._look(options)
    assert asked == [100.0, 120.0, 140.0, 160.0] and found["stalled"] == ["r1-1"]
    assert found["lines"][-1] == "r1-1: no job could be seen for 60 s: no job has been started on it"


def test_a_watch_outlives_an_outage_of_the_cloud(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told in a line, asked again, and no silence of a pod; only the first look may fail."""
    empty = f"{GPUS}{_status._BREAK}\n\n{_status._SERVICES}\n\n{_status._SERVICES}\n".encode()
    outage = [errors.ServerError("GET /pods on runpod: HTTP 500: broken"), errors.NoReply("cut"), errors.Unreachable("no way"), errors.RateLimited("slowly")]
    # By which turn each comes, of an outage between good looks.
    broken: dict[int, errors.CloudError] = dict(enumerate(outage, 2))
    now, asked, told = [100.0], [], []

    def given(options: dict[str, Any]) -> Any:
        asked.append(now[0])
        if len(asked) in broken:
            raise broken[len(asked)]
        return look(said(), empty, stall_seconds=options["stall_seconds"])

    monkeypatch.setattr(pod_status, "pod_status", given)
    monkeypatch.setattr(pod_status.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pod_status.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(pod_status.display, "display", told.append)
    options = {"watch": 20.0, "watch_limit": 0.0, "until_ended": True, "stall_seconds": 30.0, "ssh_timeout": 10.0}
    found = pod_status.ActionModule._look(options)
    assert asked == [100.0 + 20 * turn for turn in range(7)], "of 120 s the cloud told nothing for 80"
    assert found["stalled"] == ["r1-1"] and found["lines"][-1] == "r1-1: no job could be seen for 40 s: no job has been started on it"
    lines = [line for line in told if "cannot be looked at" in line]
    assert len(lines) == 4 and lines[0] == "the pods cannot be looked at now: GET /pods on runpod: HTTP 500: broken; the watch goes on"
    asked.clear()
    now[0] = 100.0
    broken.update(enumerate(outage * 9, 2))
    found = pod_status.ActionModule._look({**options, "watch_limit": 90.0})
    assert asked == [100.0, 120.0, 140.0, 160.0, 180.0] and len(found["pods"]) == 2 and not found["ended"] and not found["stalled"]
    for first, watch in ((outage[0], 20.0), (errors.Unauthorized("no key"), 20.0), (outage[0], 0.0)):
        asked.clear()
        broken[1] = first
        with pytest.raises(type(first)):
            pod_status.ActionModule._look({**options, "watch": watch})
    asked.clear()
    del broken[1]
    broken[2] = errors.Unauthorized("no key")
    with pytest.raises(errors.Unauthorized):
        pod_status.ActionModule._look(options)


def test_a_pod_behind_the_gateway_is_asked_where_the_environment_says(
    look: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lease in engine.ledger.leases():
        engine.ledger.write(lease.stamp, "mark", ssh_via="gateway")
    opened: list[_gateway_link.Address] = []

    class Link:
        def __init__(self, address: _gateway_link.Address, limits: Any) -> None:
            opened.append(address)

        def run(self, command: bytes) -> Any:
            raise _gateway_link.Refused("no session")

        def drop(self) -> None:
            pass

    monkeypatch.setattr(_gateway_link, "Link", Link)
    monkeypatch.setenv("RUNPOD_SSH_PORT", "2200")
    found = look("", "")
    assert [row["trouble"] for row in found["pods"]] == ["no session"] * 2
    assert {(address.port, address.user.partition("-")[0]) for address in opened} == {(2200, pod) for pod in look.pods}
    access = SshAccess(Path("key"), Path("known_hosts"))
    monkeypatch.setenv("RUNPOD_SSH_HOST", "gateway.example.org")
    monkeypatch.setenv("RUNPOD_SSH_USER", "p1-me")
    opened.clear()
    assert _gateway_link.probe_gateway(Endpoint("ssh.runpod.io", 22, "p1-0a1b2c3d", "gateway"), access) == "no session", "the login of start.yml too"
    assert [(address.host, address.port, address.user) for address in opened] == [("gateway.example.org", 2200, "p1-me")]
    monkeypatch.setenv("RUNPOD_SSH_PORT", "22x")
    assert look("", "")["pods"][0]["trouble"].startswith("the environment variable RUNPOD_SSH_PORT is '22x', which is no port of a gateway")


SERVICES = {
    "places": {"jupyter": {"wanted": True, "port": 8888, "url": True}, "inference": {"wanted": True, "port": "8000", "url": False}, "sshd": {"wanted": True}},
    "token_file": "/workspace/.podcycle/services/jupyter.token",
}


def test_services_are_told_with_their_ways(look: Any) -> None:
    found = look(said(services=json.dumps(SERVICES)), said())
    pod = look.pods[0]
    told = "\n".join(found["lines"])
    assert f"r1-0: jupyter at https://{pod}-8888.proxy.runpod.net\n  ssh -N -L 8888:127.0.0.1:8888 -p " in told and told.count(f"{pod}-8888") == 1
    assert "  its token is on the pod, in /workspace/.podcycle/services/jupyter.token" in told
    assert "r1-0: inference on the pod only, port 8000\n  ssh -N -L 8000:127.0.0.1:8000 -p " in told and "r1-1: jupyter" not in told
    open_to_all = {"places": {"inference": {"wanted": True, "host": "0.0.0.0", "port": 8000, "url": None}}}
    assert "r1-0: inference on every address of the pod, port 8000\n" in "\n".join(look(said(services=json.dumps(open_to_all)), said())["lines"])


def test_what_the_training_image_brings_is_told_where_its_own_start_has_it(look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = {"places": {"jupyter": {"wanted": True, "port": 8888, "url": True}}, "token_file": "/opt/podcycle/runner/.podcycle/services/jupyter.token"}
    for own in ("", json.dumps(SERVICES)):
        told = "\n".join(look(said(services=own, image=json.dumps(image)), said())["lines"])
        assert "its token is on the pod, in /opt/podcycle/runner/.podcycle/services/jupyter.token" in told
        assert told.count("jupyter at ") == 1 and "/workspace/.podcycle" not in told and ("inference on the pod only, port 8000" in told) == bool(own)
    # As a shell reads them.
    for name in ("own", "image"):
        put = tmp_path / name / ".podcycle/services/services.json"
        put.parent.mkdir(parents=True)
        put.write_text(json.dumps({**image, "token_file": name}))
    monkeypatch.setattr(_status, "_IMAGE", str(tmp_path / "image"))

    def run(self: SshAccess, pod_id: str, endpoint: Any, command: str, timeout_seconds: float) -> Any:
        return subprocess.run(["sh", "-c", command], capture_output=True, check=False)

    rows = look(said(), said(), ask=run, workspace=str(tmp_path / "own"))["by"]
    assert [service["token_file"] for service in rows[look.pods[0]]["services"]] == ["image"]


@pytest.mark.parametrize("services", ["[", "[1]", '{"places": 7}', '{"places": {"jupyter": 7, "inference": {"wanted": 1, "port": "8000;rm"}}}', "[" * 19000])
def test_services_that_make_no_sense_are_none(look: Any, services: str) -> None:
    row = look(said(services=services), said())["by"][look.pods[0]]
    assert row["services"] == [] and row["job"]["name"] == "train"
