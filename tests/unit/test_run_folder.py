# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run folder, what it says went wrong, how a run then ends, and the report that people read."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible import constants as C

from ansible_collections.podcycle.gpu.plugins.action import run_event
from ansible_collections.podcycle.gpu.plugins.action.run import refuse_partial, refuse_texts
from ansible_collections.podcycle.gpu.plugins.action.run_event import explain
from ansible_collections.podcycle.gpu.plugins.action.run_report import typed
from ansible_collections.podcycle.gpu.plugins.module_utils import _run
from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import safe_relative, survey
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError, UsageError
from ansible_collections.podcycle.gpu.plugins.module_utils._fate import account_of
from ansible_collections.podcycle.gpu.plugins.module_utils._phase_times import phase_rows
from ansible_collections.podcycle.gpu.plugins.module_utils._report import choose_ending, cost_document, observations, summarise, terminal_lines
from ansible_collections.podcycle.gpu.plugins.module_utils._report_html import page
from ansible_collections.podcycle.gpu.plugins.module_utils._run import STAGES, RunFolder, Trouble, troubles
from support.harness import FULL

URL = "http://127.0.0.1:8787/v2"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.of(tmp_path, "r1")
    assert made.create("runpod", URL) is False
    return made


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    second = {"at": 0}
    monkeypatch.setattr(_run, "utc_now", lambda: datetime.fromtimestamp(1_800_000_000 + second["at"], timezone.utc))
    return second


# ---- the folder ------------------------------------------------------------------------------------


def test_a_run_folder_is_made_once_and_belongs_to_one_cloud(folder: RunFolder, tmp_path: Path) -> None:
    assert sorted(path.name for path in folder.path.iterdir()) == ["collected", "local_validation", "reports", "run.json"]
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.create("runpod", URL) is True
    for cloud, endpoint in (("vast", URL), ("runpod", "https://api.runpod.io/v2")):
        with pytest.raises(UsageError, match="belongs to runpod"):
            folder.create(cloud, endpoint)
    foreign = RunFolder.of(tmp_path, "thesis")
    foreign.path.mkdir()
    (foreign.path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="is no run folder"):
        foreign.create("runpod", URL)
    with pytest.raises(UsageError, match="safe file name"):
        RunFolder.of(tmp_path, "../x")


def test_only_the_folders_known_files_are_written(folder: RunFolder) -> None:
    assert folder.write("provision.json", {"a": 1}) is True
    assert folder.write("provision.json", {"a": 1}) is False
    assert folder.read("provision.json") == {"a": 1} and folder.read("cost.json") == {}
    for name in ("../x", "run.json", "events.jsonl", "/etc/passwd"):
        with pytest.raises(UsageError, match="no file of a run folder"):
            folder.write(name, "x")
    (folder.path / "cost.json").write_text("{torn")
    with pytest.raises(StateError, match=r"cost\.json"):
        folder.read("cost.json")


def test_elapsed_time_counts_from_the_matching_start(folder: RunFolder, now: dict[str, int]) -> None:
    def event(second: int, stage: str, status: str, **more: Any) -> Any:
        now["at"] = second
        return folder.event(stage, status, **more)["elapsed_ms"]

    assert event(0, "train", "started") is None
    assert event(1, "train", "started", host="a") is None
    assert event(2, "train", "started", host="b") is None
    assert event(3, "train", "started", phase="infer", host="a") is None
    assert event(5, "train", "ok", host="a") == 4000
    assert event(6, "train", "failed", host="b") == 4000
    assert event(7, "train", "ok", phase="infer", host="a") == 4000
    assert event(9, "train", "ok", host="c") == 9000, "a pod without a start of its own counts from the stage's"
    assert event(10, "train", "ok") == 10_000
    assert event(10, "push", "ok") is None
    assert [record["ts"][-5:] for record in folder.events()][:2] == [".000Z"] * 2


def test_a_torn_event_costs_no_other(folder: RunFolder) -> None:
    folder.event("start", "started")
    with (folder.path / "events.jsonl").open("a") as stream:
        stream.write('{"ts": "2026-11-01T10:00:00Z", "sta')
    folder.event("start", "ok", message="evil\x1b[2J\nline")
    assert [record["status"] for record in folder.events()] == ["started", "ok"]
    assert folder.events()[1]["message"].isprintable()


def test_a_pass_begins_with_the_last_start(folder: RunFolder) -> None:
    for stage, status in (("start", "started"), ("start", "failed"), ("start", "started"), ("start", "ok"), ("train", "started")):
        folder.event(stage, status)
    folder.event("start", "started", phase="rent")
    assert [record["status"] for record in folder.since_start()] == ["started", "ok", "started", "started"]


# ---- what went wrong -------------------------------------------------------------------------------------


def record(stage: str, status: str, host: str = "", phase: str = "", message: str = "") -> dict[str, Any]:
    return {"ts": "2026-11-01T10:00:00.000Z", "stage": stage, "phase": phase or stage, "status": status, "host": host, "message": message, "elapsed_ms": 1500}


BEGUN = [record("converge", "started")]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([], []),
        ([*BEGUN, record("converge", "ok", "a"), record("converge", "ok", "b"), record("converge", "ok")], []),
        ([*BEGUN, record("converge", "failed", "a", message="no uv"), record("converge", "ok", "b")], [("a", "no uv")]),
        ([*BEGUN, record("converge", "ok", "b")], [("a", "the pod was out of reach (SSH)")]),
        (BEGUN, [("a", "the pod was out of reach (SSH)"), ("b", "the pod was out of reach (SSH)")]),
        ([*BEGUN, record("converge", "failed", "a", phase="guard", message="no guard"), record("converge", "ok", "b")], [("a", "no guard")]),
        ([*BEGUN, record("converge", "ok", "a"), record("converge", "ok", "b"), record("converge", "failed", phase="converge.verdict")], []),
        ([*BEGUN, record("converge", "failed", "a"), *BEGUN, record("converge", "ok", "a"), record("converge", "ok", "b")], []),
        ([*BEGUN, record("converge", "skipped", "a"), record("converge", "warning", "b"), record("converge", "ok", "b")], []),
        ([record("converge", "ok", "a")], []),
    ],
    ids=["nothing", "well", "failed", "silent", "all-silent", "phase", "verdict", "again", "skipped", "never-began"],
)
def test_what_failed_and_who_fell_silent(records: list[dict[str, Any]], found: list[tuple[str, str]]) -> None:
    assert [(trouble.host, trouble.cause) for trouble in troubles(records, ("converge",), ["a", "b"])] == found


def test_a_pod_that_failed_before_is_not_told_again_as_silent() -> None:
    records = [*BEGUN, record("converge", "failed", "a"), record("converge", "ok", "b"), record("train", "started"), record("train", "ok", "b")]
    assert [(trouble.stage, trouble.host) for trouble in troubles(records, STAGES, ["a", "b"])] == [("converge", "a")]


def test_stages_of_the_controller_have_no_silent_pods() -> None:
    assert troubles([record("start", "started"), record("validate", "started"), record("stop", "started")], STAGES, ["a"]) == []


TRAINED = [record("train", "ok", "a")]
CUT_SHORT = [record("start", "ok"), record("train", "started"), record("train", "ok", "a")]
LOST = [Trouble("collect", "a", "no space")]
FAILED = [Trouble("train", "a", "NaN")]
OUTBID = [Trouble("train", "a", "outbid", code="pod_outbid"), *FAILED]


@pytest.mark.parametrize(
    ("found", "records", "choice", "ending"),
    [
        ([], TRAINED, {}, "terminate"),
        ([], TRAINED, {"on_end": "stop"}, "stop"),
        ([], TRAINED, {"on_end": "keep", "on_failure": "hold"}, "keep"),
        (FAILED, [], {"on_end": "keep"}, "terminate"),
        (FAILED, [], {"on_failure": "hold"}, "hold"),
        (FAILED, [], {"on_failure": "hold", "hold_minutes": 0}, "terminate"),
        (OUTBID, [], {}, "stop"),
        (OUTBID, TRAINED, {"on_failure": "hold", "on_end": "keep", "hold_minutes": 0}, "stop"),
        (LOST, TRAINED, {}, "hold"),
        (LOST, TRAINED, {"hold_minutes": 0}, "terminate"),
        (LOST, [], {}, "terminate"),
        (LOST, [record("train", "ok")], {}, "terminate"),
        (LOST, [record("train", "failed", "a")], {}, "terminate"),
        (LOST, TRAINED, {"whole_cycle": False, "on_end": "stop"}, "stop"),
        ([Trouble("validate", "", "x")], TRAINED, {}, "hold"),
        ([Trouble("validate", "", "x")], [], {}, "terminate"),
        ([Trouble("start", "", "x")], [], {}, "terminate"),
        ([Trouble("start", "", "x")], [], {"earlier": CUT_SHORT}, "hold"),
        ([Trouble("converge", "a", "x")], [], {"earlier": CUT_SHORT}, "terminate"),
        ([Trouble("start", "", "x")], [], {"earlier": [*CUT_SHORT, record("collect", "failed"), record("stop", "ok", message="hold")]}, "hold"),
        ([Trouble("start", "", "x")], [], {"earlier": [*CUT_SHORT, record("collect", "ok")]}, "terminate"),
        ([Trouble("start", "", "x")], [], {"earlier": [*CUT_SHORT, record("collect", "failed"), record("stop", "ok", message="terminate")]}, "terminate"),
    ],
)
def test_how_a_run_ends(found: list[Trouble], records: list[dict[str, Any]], choice: dict[str, Any], ending: str) -> None:
    settings = {"on_end": "terminate", "on_failure": "terminate", "hold_minutes": 30, "whole_cycle": True, **choice}
    assert choose_ending(found, records, **settings) == ending


@pytest.mark.parametrize(
    ("cause", "text", "details"),
    [
        ("plain", "plain", {}),
        ({"msg": "m", "failure": {"code": "no_capacity"}}, "m", {"code": "no_capacity"}),
        ({"results": [{"msg": "fine"}, {"failed": True, "msg": "bad\x1b[2J"}]}, "bad [2J", {}),
        ({"msg": "non-zero return code", "stderr": "a\ne\n\n", "stderr_lines": ["l"] * 50}, "e", {"log_tail": ["l"] * 40}),
        ({"msg": "m", "job": {"log_tail": ["x\x07"]}}, "m", {"log_tail": ["x"]}),
        ({"msg": "m", "job": "odd", "failure": "odd"}, "m", {}),
        (None, "None", {}),
    ],
)
def test_a_failed_task_becomes_one_sentence(cause: Any, text: str, details: dict[str, Any]) -> None:
    assert explain(cause, "") == (text, details)
    assert explain(cause, "Do it")[0].endswith(text)


# ---- the report ---------------------------------------------------------------------------------------------


HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(2)>&'


class Tags(HTMLParser):
    """Every tag of the page, and whether it is well nested."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile_run(folder: RunFolder) -> Any:
    folder.event("start", "started")
    folder.event("start", "note", message=HOSTILE)
    folder.event("train", "started")
    folder.event("train", "failed", host=HOSTILE, message=HOSTILE + "|x|\n# heading", details={"log_tail": [HOSTILE, "```", "\x1b[31m"], "remedy": HOSTILE})
    pod = {"gpu_count": 1, "usd_per_hour": "0.5900", "cost_usd": "0.1000", "notes": [HOSTILE], **dict.fromkeys(("id", "gpu", "cloud_type", "region"), HOSTILE)}
    folder.write("provision.json", {"pods": [{**pod, "deadline": HOSTILE}], "rehearsal": True, "worst_case_usd": "0.5900"})
    figures = {"metrics": {"top1": 10**400, "raw_legal": float("inf")}, "baselines": {"random_legal": -1.0, "frequent_legal": True}}
    checks = [{"name": HOSTILE, "ok": False, "detail": HOSTILE}, "x"]
    folder.write("local_validation/validation.json", {"ok": False, **figures, "top1": HOSTILE, "checks": checks})
    metrics = folder.path / "collected" / "run_artifacts"
    metrics.mkdir(parents=True)
    rows: list[Any] = [{"step": number, "kind": "train", "loss": 3.0 - number / 10} for number in range(5)]
    rows += [{"step": HOSTILE, "kind": "train", "loss": 1}, {"step": 5, "kind": "train", "loss": HOSTILE}, [1], 5]
    rows += [{"step": 6, "kind": "eval", "loss": float("nan")}]
    rows += [{"step": -(10**400), "kind": "train", "loss": 1.0}, {"step": 7, "kind": "train", "loss": float("inf")}, {"step": True, "kind": "train", "loss": 1}]
    (metrics / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "[" * 100_000 + "\n{torn")
    audit = {"leases": [{"open": True, "pod_id": HOSTILE, "stamp": HOSTILE, "observed": HOSTILE, "usd_per_hour": "0.5900", "marks": {}, "deadline": HOSTILE}]}
    return summarise(folder, [], ending="terminate", audit=audit, whole_cycle=True, command=lambda name, more="": f"ansible-playbook {name}")


def test_the_page_lets_no_word_from_outside_become_markup(folder: RunFolder) -> None:
    text = page(hostile_run(folder))
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == [] and not {"script", "img", "iframe", "link"} & set(tags.tags)
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "polyline" in tags.tags and "nan" not in text.split("<svg")[1].split("</svg>")[0] and "inf" not in text.split("<svg")[1].split("</svg>")[0]
    assert "http://" not in text and "https://" not in text, "the page is self-contained"


def test_the_notes_stay_one_table_and_one_fence(folder: RunFolder) -> None:
    summary = hostile_run(folder)
    text = observations(summary, folder.since_start())
    assert not [line for line in text.splitlines() if line.startswith("# heading")]
    assert text.count("```") == 2 and "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows[1:])
    assert all(line.isprintable() for line in terminal_lines(summary))


def summary_of(folder: RunFolder, audit: dict[str, Any], ending: str = "terminate") -> Any:
    return summarise(folder, ["a"], ending=ending, audit=audit, whole_cycle=True, command=lambda name, more="": f"ansible-playbook {name}.yml {more}")


def test_a_run_is_well_only_when_nothing_is_left_billing(folder: RunFolder) -> None:
    for stage in STAGES:
        folder.event(stage, "started")
        folder.event(stage, "ok", host="a")
        folder.event(stage, "ok")
    folder.write("provision.json", {"pods": [{"id": "p1", "usd_per_hour": "0.5900"}], "worst_case_usd": "0.5900"})
    ended = [{"pod_id": "p1", "cost_usd": "0.0123"}, {"pod_id": "p0", "cost_usd": "0.0001"}, {"pod_id": None, "cost_usd": None}]
    well = summary_of(folder, {"leases": [], "ended": ended})
    assert well.ok and well.billing.startswith("nothing")
    assert cost_document(well)["cost_usd"] == "0.0124", "a pod that was given back before it worked has cost something too"
    assert [name for name, _status, _seconds in well.stages] == list(STAGES)
    lease = {"open": True, "pod_id": "p1", "stamp": "s", "observed": "running", "usd_per_hour": "0.5900", "marks": {}, "deadline": "soon"}
    left = summary_of(folder, {"leases": [lease]})
    assert not left.ok and "NOT given back: p1 (running), 0.5900 $/h" in left.billing and "stop.yml -e run_id=r1" in left.next_command
    stray = summary_of(folder, {"leases": [], "strays": [{"id": "p9", "run_id": "r1"}, {"id": "p8", "run_id": "other"}]})
    assert stray.still_open == ["p9"]
    unknown = summary_of(folder, {"failed": True, "msg": "no answer"})
    assert not unknown.ok and unknown.billing == "not known: no answer"
    assert not summary_of(folder, {}).ok, "an audit that says nothing proves nothing"
    held = summary_of(folder, {"leases": [{**lease, "marks": {"held_until": "10:30"}}]}, ending="hold")
    assert held.ok and "held for its artifacts: p1 (running), 0.5900 $/h, until 10:30" in held.billing
    held = summary_of(folder, {"leases": [{**lease, "observed": "stopped", "marks": {"held_until": "10:30"}}]}, ending="hold")
    assert "held for its artifacts: p1 (stopped), 0.0000 $/h, until 10:30" in held.billing


def note(folder: Path, *, check_mode: bool, **more: Any) -> dict[str, Any]:
    args = {"run_dir": str(folder), "stage": "start", "status": "failed", "cause": {"msg": "GPU 'X' is not known"}, "task": "Rent", **more}
    task = SimpleNamespace(args=args, check_mode=check_mode, async_val=0, diff=False)
    shell = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
    plugin = run_event.ActionModule(task, shell, SimpleNamespace(), None, SimpleNamespace(template=lambda value: value), None)
    return plugin.run(task_vars={"inventory_hostname": "localhost"})


def test_in_check_mode_a_failure_fails_and_is_written_nowhere(folder: RunFolder, tmp_path: Path) -> None:
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for there in (folder.path, tmp_path / "cycles" / "none"):
        found = note(there, check_mode=True, fail=True, phase_times=str(tmp_path / "none.jsonl"))
        assert found["failed"] is True and found["msg"] == "start: Rent: GPU 'X' is not known"
        assert note(there, check_mode=True)["ok"] is True, "not told to fail"
        assert note(there, check_mode=True, status="judge", hosts=["r1-0"], fail=True)["ok"] is True
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    assert note(folder.path, check_mode=False, fail=True)["failed"] is True
    assert [event["message"] for event in folder.events()] == ["Rent: GPU 'X' is not known"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "abc"}, "count (pod_count) is 'abc' and has to be a whole number"),
        ({"spot": "maybe"}, "spot is 'maybe' and has to be true or false"),
        ({"hours": [1]}, "hours is '[1]' and has to be a number"),
        ({"pin": "hunter2"}, "pin has to be a whole number"),
        ({"secret_env": "hunter2"}, "secret_env has to be a dictionary"),
        ({"waits": {"running": "long", "count": 1.5}}, "waits.running is 'long' and has to be a number; waits.count is '1.5' and has to be a whole number"),
        ({"waits": '{"running": "long"}'}, "waits.running has to be a number"),
        ({"state": "gone"}, "value of state must be one of: running, absent, got: gone"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_in_plain_words(given: dict[str, Any], said: str) -> None:
    spec = {
        "count": {"type": "int"}, "spot": {"type": "bool"}, "hours": {"type": "float"}, "pin": {"type": "int", "no_log": True},
        "secret_env": {"type": "dict", "no_log": True}, "state": {"type": "str", "choices": ["running", "absent"]},
        "waits": {"type": "dict", "options": {"running": {"type": "float"}, "count": {"type": "int"}}},
    }  # fmt: skip
    with pytest.raises(UsageError) as refused:
        checked(spec, given)
    assert refused.value.message == said


def test_text_for_a_dictionary_is_refused_and_not_shown() -> None:
    refuse_texts({"pod_env": {"A": "1"}, "waits": {}})
    for wrong in ("HF_TOKEN=hunter2", None, ["hunter2"]):
        with pytest.raises(UsageError) as refused:
            refuse_texts({"waits": {}, "pod_secret_env": wrong})
        assert str(refused.value) == """begin a run: pod_secret_env has to be a dictionary; type: -e '{"pod_secret_env": {"NAME": "VALUE"}}'"""


def test_the_end_of_a_stage_says_what_became_of_pods_that_failed_it(
    folder: RunFolder, make_engine: Any, make_wish: Any, rehearsal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent ones and those that could still say something; one that lives goes by what itself says."""
    monkeypatch.setattr(run_event, "ENDED_SECONDS", 0.0)
    engine = make_engine()
    pods = [slot.after.id for slot in engine.rent(make_wish(spot=True, volume_gib=20, count=5), check_mode=False)]
    rehearsal.control("POST", f"/pods/{pods[0]}/preempt")
    for gone in (pods[1], pods[2]):
        engine.cloud.terminate(gone)
    hosts = [f"r1-{number}" for number in range(5)]
    folder.event("push", "started")
    for host in (hosts[2], hosts[4]):
        folder.event("push", "failed", host=host, message="rsync failed 3 times")
    variables = {"cycle_run": {"cloud": "runpod", "state_dir": str(engine.state.path)}, "cloud_api_key": FULL, "cloud_endpoint": rehearsal.url}
    account = account_of(variables, lambda value: value)
    known = {host: {"podcycle_id": pod} for host, pod in zip(hosts, pods, strict=True)}
    for _again in range(2):
        run_event.look_closer(folder, "push", hosts, known, account)
    told = {(trouble.host, trouble.code, trouble.cause) for trouble in troubles(folder.events(), ("push",), hosts)}
    silent = "the pod was out of reach (SSH): runpod"
    assert told == {
        ("r1-0", "pod_outbid", f"{silent} shows spot pod {pods[0]} stopped: it was outbid, or stopped in the console; its volume keeps its files; "
                               "type the same command again: it bids again and goes on from there"),
        ("r1-1", "pod_gone", f"{silent} has removed pod {pods[1]}; type the same command again: it rents another pod"),
        ("r1-2", "", "rsync failed 3 times"),
        ("r1-2", "pod_gone", f"the pod has ended: runpod has removed pod {pods[2]}; type the same command again: it rents another pod"),
        ("r1-3", "", f"{silent} shows the pod running"),
        ("r1-4", "", "rsync failed 3 times"),
    }  # fmt: skip
    assert len(folder.events()) == 7 and FULL not in (folder.path / "events.jsonl").read_text(encoding="utf-8")


def test_an_outbid_pod_that_stays_stopped_is_told_with_what_to_type(folder: RunFolder) -> None:
    folder.event("train", "started")
    folder.event("train", "failed", host="a", message="it was outbid", details={"code": "pod_outbid"})
    folder.write("provision.json", {"pods": [{"id": "p1", "usd_per_hour": "0.2900", "volume_gib": 20}]})
    lease = {"open": True, "pod_id": "p1", "stamp": "s", "observed": "stopped", "usd_per_hour": "0.2900", "marks": {"kept": True}, "deadline": "10:30"}
    summary = summary_of(folder, {"leases": [lease]}, ending="stop")
    assert summary.billing.startswith("outbid or stopped, with its files on its volume: the same command bids again and goes on from there")
    assert "p1 (stopped), until 10:30; 20 GiB of volume cost about 0.0055 $/h" in summary.billing
    assert "cycle.yml -e run_id=r1, or give back with: ansible-playbook stop.yml" in summary.next_command and not summary.ok


def test_a_pod_that_never_worked_is_told_without_gaps(folder: RunFolder) -> None:
    """No provision.json was written: what is not known is left out, and the rehearsal is known by its address."""
    folder.event("start", "failed", message="given back by another command")
    ended = [{"pod_id": "p1", "cost_usd": "0.0007", "gpu": "L4", "gpu_count": 1, "usd_per_hour": "0.5900"}]
    lines = terminal_lines(summary_of(folder, {"leases": [], "ended": ended}))
    assert lines[1].endswith("(rehearsal: nothing was paid)")
    assert "  pod p1  1 x L4 at 0.5900 $/h" in lines and "  would have cost  0.0007 $" in lines


def test_a_stage_that_was_cut_off_is_called_interrupted(folder: RunFolder) -> None:
    folder.event("start", "started")
    folder.event("converge", "started", phase="guard", host="a")
    folder.event("train", "started")
    summary = summary_of(folder, {"leases": []})
    stages = {name: status for name, status, _seconds in summary.stages}
    assert stages["start"] == stages["train"] == "interrupted"
    assert "  stages      start INTERRUPTED  train INTERRUPTED" in terminal_lines(summary), "nobody knows for how long"


# ---- what the command line may and may not ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cli", "refused"),
    [
        ({}, False), ({"subset": None, "tags": ["all"], "skip_tags": [], "start_at_task": None}, False), ({"subset": "localhost,r1-0"}, False),
        ({"subset": "all"}, False), ({"subset": "r1-0:localhost"}, False), ({"subset": "r1-0"}, True), ({"subset": "r1-0,mylocalhost"}, True),
        ({"subset": "!localhost"}, True), ({"subset": "all:!localhost"}, True), ({"tags": ["train"]}, True), ({"skip_tags": ["stop"]}, True),
        ({"start_at_task": "Train"}, True),
    ],
)  # fmt: skip
def test_a_cycle_cut_in_pieces_is_refused(cli: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(UsageError):
            refuse_partial(cli)
    else:
        refuse_partial(cli)


def test_the_next_command_is_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed({"inventory": ["/x/my inventory"], "args": ("podcycle.gpu.cycle",)})("stop") == "ansible-playbook -i '/x/my inventory' podcycle.gpu.stop"
    assert typed({"args": ("cycle.yml",), "inventory": ["inventories/runpod"]})("cycle") == "ansible-playbook -i inventories/runpod cycle.yml"
    monkeypatch.setenv("PODCYCLE_TYPED", "make cycle")
    given = {"args": ("cycle.yml",), "inventory": list(C.DEFAULT_HOST_LIST), "extra_vars": ["train_seconds=9"]}
    assert typed(given)("cycle", "-e run_id=r1") == "make cycle ARGS='-e train_seconds=9 -e run_id=r1'"


# ---- files that a pod offers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("a/b.pt", True), ("model.pt", True), ("", False), ("/etc/passwd", False), ("../x", False), ("a/../x", False), ("a//b", False), ("./a", False),
        ("a\nb", False), ("a\x1bb", False), ("x" * 1000, False), ("a/.", False),
    ],
)  # fmt: skip
def test_a_path_from_a_pod_stays_inside(path: str, safe: bool) -> None:
    assert safe_relative(path) is safe


def test_only_plain_files_are_surveyed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.pt").write_bytes(b"abc")
    (tmp_path / "big.pt").write_bytes(b"x" * 11)
    (tmp_path / "link.pt").symlink_to("/etc/passwd")
    (tmp_path / "folder.pt").symlink_to("/etc")
    (tmp_path / "note.txt").write_text("x")
    found = survey(tmp_path, ["*.pt"], 10)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found["files"] == [{"path": "sub/model.pt", "size": 3, "sha256": digest}]
    assert {row["path"]: row["why"] for row in found["refused"]} == {
        "big.pt": "11 bytes, more than 10", "link.pt": "not a plain file", "folder.pt": "not a plain file",
    }  # fmt: skip
    assert survey(tmp_path / "absent", ["*"], 10) == {"exists": False, "files": [], "refused": []}


def test_what_a_pod_timed_itself_joins_the_events_once_and_decides_nothing(folder: RunFolder, tmp_path: Path) -> None:
    good = {"ts_epoch_ms": 1_800_000_000_123, "source": "runpod_trainer", "phase": "train", "status": "error", "elapsed_ms": 5200, "exit_code": 75}
    bad: list[Any] = [
        {**good, "phase": "{{ 7 * 7 }}"}, {**good, "phase": ["train"]}, {**good, "status": "failed"}, {**good, "elapsed_ms": -1},
        {**good, "elapsed_ms": True},
        {**good, "ts_epoch_ms": 10**30}, {**good, "exit_code": "0"}, {"phase": "train"}, [], 7,
    ]  # fmt: skip
    times = tmp_path / "runpod_phase_times.jsonl"
    times.write_text("".join(json.dumps(row) + "\n" for row in [*bad, good]) + '{"torn": ')
    folder.event("train", "started")
    folder.event("train", "ok", host="r1-1")
    assert folder.merge(phase_rows(times), "r1-1") == 1 and folder.merge(phase_rows(times), "r1-1") == 0
    assert folder.merge(phase_rows(times), "r1-2") == 1 and phase_rows(tmp_path / "nothing") == []
    wanted = {"ts": "2027-01-15T08:00:00.123Z", "stage": "pod", "phase": "train", "status": "error", "elapsed_ms": 5200, "source": "runpod_trainer"}
    assert folder.events()[2:] == [{**wanted, "exit_code": 75, "host": "r1-1"}, {**wanted, "exit_code": 75, "host": "r1-2"}]
    assert troubles(folder.events(), STAGES, ["r1-1"]) == []
