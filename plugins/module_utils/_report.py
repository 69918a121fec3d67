# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run went: one summary, told as lines for the terminal, as observations.md and as report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._fate import OUTBID
from ansible_collections.podcycle.gpu.plugins.module_utils._http import is_loopback
from ansible_collections.podcycle.gpu.plugins.module_utils._model import STOPPED, to_money, usd
from ansible_collections.podcycle.gpu.plugins.module_utils._run import STAGES, RunFolder, Trouble, troubles

# What a pod wrote may be of any size; a run of days writes a few MiB.
METRICS_LIMIT = 32 * 1024**2


@dataclass
class Summary:
    """Everything that the three tellings need."""

    run_id: str
    folder: Path
    rehearsal: bool = False
    ending: str = "terminate"
    stages: list[tuple[str, str, float]] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=list)
    cost_usd: Decimal | None = None
    worst_case_usd: str | None = None
    troubles: list[Trouble] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    log_tails: list[tuple[str, list[str]]] = field(default_factory=list)
    billing: str = ""
    still_open: list[str] = field(default_factory=list)
    next_command: str = ""
    command: Callable[..., str] = lambda name, more="": f"ansible-playbook {name} {more}"

    @property
    def ok(self) -> bool:
        return not self.troubles and not self.still_open


def choose_ending(
    found: list[Trouble],
    records: list[dict[str, Any]],
    *,
    on_end: str,
    on_failure: str,
    hold_minutes: int,
    whole_cycle: bool,
    earlier: Sequence[dict[str, Any]] = (),
    unwritable: str = "",
) -> str:
    """How the leases end: terminate, stop, keep, or hold for artifacts that could not be brought home or opened.

    A run whose spot pod was outbid is stopped: its volume keeps the files with which the same command goes on.

    `records` are the events of this pass, `earlier` those before it. Where nothing could be written, the events are not all there: from
    the training on nobody knows then what came home.
    """
    if whole_cycle and unwritable:
        begun = any(record["stage"] == "train" and record["status"] == "started" for record in records) or left_behind(earlier)
        return "hold" if begun and hold_minutes > 0 else "terminate"
    if not whole_cycle or not found:
        return on_end
    if any(trouble.code == OUTBID for trouble in found):
        return "stop"
    trained = {record.get("host") for record in records if _ended_well(record, "train") and record.get("host")}
    lost = any(trouble.stage == "collect" and (trouble.host in trained or trained and not trouble.host) for trouble in found)
    lost = lost or bool(trained) and any(trouble.stage == "validate" for trouble in found)
    lost = lost or any(trouble.stage == "start" for trouble in found) and left_behind(earlier)
    if hold_minutes > 0 and (on_failure == "hold" or lost):
        return "hold"
    return "terminate"


def _ended_well(record: dict[str, Any], stage: str) -> bool:
    return bool(record["stage"] == stage and record["phase"] == stage and record["status"] == "ok")


def left_behind(earlier: Sequence[dict[str, Any]]) -> bool:
    """Whether an earlier pass began to train and neither brought the artifacts home nor gave the pods back."""
    settled = -1
    for number, record in enumerate(earlier):
        given_back = _ended_well(record, "stop") and record.get("message") != "hold"
        if not record.get("host") and (given_back or _ended_well(record, "collect")):
            settled = number
    return any(record["stage"] == "train" and record["status"] == "started" for record in earlier[settled + 1 :])


def summarise(folder: RunFolder, hosts: list[str], *, ending: str, audit: dict[str, Any], whole_cycle: bool, command: Callable[..., str]) -> Summary:
    """Read the run folder, the ledger's audit and what the last stage did."""
    records = folder.since_start()
    provision = folder.read("provision.json")
    stages = STAGES if whole_cycle else ("stop",)
    # A run that rented nothing has no provision.json; a rehearsal is on this machine, and nothing else is.
    rehearsal = bool(provision.get("rehearsal", is_loopback(str(folder.read("run.json").get("endpoint") or ""))))
    summary = Summary(folder.path.name, folder.path, rehearsal, ending, command=command)
    summary.stages = stage_times(records)
    summary.troubles = troubles(records, stages, hosts)
    summary.notes = [note_line(record) for record in records if record["status"] in ("note", "warning")]
    summary.notes += [clean_text(note) for pod in provision.get("pods") or () for note in pod.get("notes") or ()]
    summary.worst_case_usd = provision.get("worst_case_usd")
    summary.validation = folder.read("local_validation/validation.json")
    summary.training = read_metrics(folder.path)
    summary.log_tails = [
        (str(record.get("host") or record["stage"]), record["details"]["log_tail"]) for record in records if (record.get("details") or {}).get("log_tail")
    ]
    leases = {lease.get("pod_id"): lease for lease in (*(audit.get("ended") or ()), *(audit.get("leases") or ())) if lease.get("pod_id")}
    planned = {pod.get("id"): pod for pod in provision.get("pods") or ()}
    # Also pods that were given back before they ever worked: they have cost something too.
    for pod_id, lease in leases.items():
        summary.pods.append({**lease, **planned.get(pod_id, {}), "id": pod_id, "cost_usd": lease.get("cost_usd")})
    summary.pods += [pod for pod_id, pod in planned.items() if pod_id not in leases]
    costs = [to_money(pod["cost_usd"]) or Decimal(0) for pod in summary.pods if pod.get("cost_usd")]
    summary.cost_usd = sum(costs, Decimal(0)) if costs else None
    _judge_billing(summary, audit)
    return summary


def _judge_billing(summary: Summary, audit: dict[str, Any]) -> None:
    """What is left that costs money, and what to type against it."""
    if audit.get("failed") or "leases" not in audit:
        summary.still_open = ["unknown: the cloud could not be asked"]
        summary.billing = f"not known: {clean_text(audit.get('msg') or 'no answer', 300)}"
        summary.next_command = summary.command("leases")
        return
    left = [lease for lease in audit["leases"] if lease.get("open")]
    strays = [pod["id"] for pod in audit.get("strays") or () if pod.get("run_id") == summary.run_id]
    names = [f"{lease.get('pod_id') or lease['stamp']} ({lease.get('observed')})" for lease in left] + strays
    owner = audit.get("owner")
    rate = sum((to_money(lease.get("usd_per_hour")) or Decimal(0) for lease in left if lease.get("observed") != STOPPED), Decimal(0))
    run = f"-e run_id={summary.run_id}"
    stop, again = summary.command("stop", run), summary.command("cycle", run)
    if not names and any(trouble.stage == "start" for trouble in summary.troubles):
        again = f"change what it names, then type the same command again, with {run}"
    spared = [lease for lease in left if lease["marks"].get("kept") or lease["marks"].get("held_until")]
    if summary.ending == "terminate" and spared and len(spared) == len(names):
        until = spared[0]["marks"].get("held_until") or spared[0].get("deadline")
        summary.billing = f"left as an earlier pass left it: {', '.join(names)}, until {until}"
        summary.next_command = f"{again}, or give back with: {stop}"
    elif summary.ending == "terminate" or not names:
        summary.still_open = names
        summary.billing = f"NOT given back: {', '.join(names)}, {usd(rate)} $/h" if names else _nothing(summary)
        summary.next_command = stop if left else summary.command("reap", f"-e owner={owner} -e confirm_owner={owner} -e reap_now=true") if strays else again
    else:
        outbid = any(trouble.code == OUTBID for trouble in summary.troubles)
        why = {"keep": "kept", "stop": "stopped, its volume goes on costing", "hold": "held for its artifacts"}[summary.ending]
        if outbid and summary.ending == "stop":
            why = "outbid or stopped, with its files on its volume: the same command bids again and goes on from there; its volume goes on costing"
        until = next((lease["marks"].get("held_until") for lease in left if lease["marks"].get("held_until")), None) or next(
            (lease.get("deadline") for lease in left), None
        )
        storage = ""
        if summary.ending == "stop":
            gib = sum(int(pod.get("volume_gib") or 0) for pod in summary.pods)
            # RunPod's list price of a stopped pod's volume: 0.20 $ per GB and month of 730 hours.
            storage = f"; {gib} GiB of volume cost about {usd(Decimal(gib) * Decimal('0.20') / 730)} $/h, and are deleted when the lease ends"
        price = "" if summary.ending == "stop" else f", {usd(rate)} $/h"
        summary.billing = f"{why}: {', '.join(names)}{price}, until {until}{storage}"
        summary.next_command = f"{again}, or give back with: {summary.command('stop', f'{run} -e on_end=terminate')}"
        if summary.ending == "hold":
            collect = summary.command("collect", run)
            summary.notes.append(f"pods are held until {until} so that the artifacts can be collected; collect them: {collect}")


def _nothing(summary: Summary) -> str:
    return "nothing: every pod of this run was read back as gone" if summary.pods else "nothing was rented"


def stage_times(records: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Each stage that began: its name, how it ended, and its seconds."""
    found = []
    for stage in STAGES:
        own = [record for record in records if record["stage"] == stage]
        ends = [record for record in own if record["phase"] in (stage, f"{stage}.verdict") and record["status"] in ("ok", "failed") and not record.get("host")]
        begins = [record for record in own if record["status"] == "started" and record["phase"] == stage]
        if not begins:
            continue
        last = ends[-1] if ends else None
        began = begins[-1]
        seconds = (last.get("elapsed_ms") or _apart(began["ts"], last["ts"])) / 1000 if last else 0.0
        found.append((stage, last["status"] if last else "interrupted", seconds))
    return found


def told_stage(status: str, seconds: float) -> str:
    """Nobody saw when one ended that was interrupted."""
    if status.lower() == "interrupted":
        return status
    return f"{seconds:.1f} s{'' if status.lower() == 'ok' else f' {status}'}"


def _apart(first: str, second: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(second.replace("Z", "+00:00")) - datetime.fromisoformat(first.replace("Z", "+00:00"))).total_seconds() * 1000


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The trainer's metrics of the first pod; lines that are not JSON objects are left out."""
    paths = sorted((folder / "collected" / "run_artifacts").glob("**/metrics.jsonl"))
    rows: list[dict[str, Any]] = []
    text = ""
    if paths:
        with paths[0].open("rb") as stream:
            text = stream.read(METRICS_LIMIT).decode("utf-8", "replace")
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and 0 <= row["step"] < 10**12:
            rows.append(row)
    return rows


def note_line(record: dict[str, Any]) -> str:
    where = f" ({record['host']})" if record.get("host") else ""
    return f"{record['stage']}{where}: {record.get('message', '')}"


def validation_figures(validation: dict[str, Any]) -> list[tuple[str, str]]:
    """What the validation measured, in words and percent."""
    names = {
        "metrics": (("top1", "top-1"), ("top1_ply20", "top-1 from ply 20 on"), ("raw_legal", "raw legal")),
        "baselines": (("random_legal", "top-1 of a random legal move"), ("frequent_legal", "top-1 of the most frequent legal move")),
    }
    figures = []
    for part, labels in names.items():
        values = validation.get(part)
        for key, label in labels:
            if isinstance(values, dict) and isinstance(values.get(key), (int, float)) and 0 <= values[key] <= 1:
                figures.append((label, f"{100 * values[key]:.1f} %"))
    return figures


def terminal_lines(summary: Summary) -> list[str]:
    """The short summary at the end of a cycle."""
    lines = ["", f"run {summary.run_id}{'  (rehearsal: nothing was paid)' if summary.rehearsal else ''}"]
    lines.append("  stages      " + "  ".join(f"{name} {told_stage(status.upper(), seconds)}" for name, status, seconds in summary.stages))
    for pod in summary.pods:
        place = f" in {pod['region']}" if pod.get("region") else ""
        lines.append(f"  pod {pod.get('id')}  {pod.get('gpu_count')} x {pod.get('gpu')} at {pod.get('usd_per_hour')} $/h{place}")
    if summary.cost_usd is not None:
        would = "would have cost" if summary.rehearsal else "cost"
        worst = f" (at worst it could have been {summary.worst_case_usd} $)" if summary.worst_case_usd else ""
        lines.append(f"  {would}  {usd(summary.cost_usd)} ${worst}")
    figures = validation_figures(summary.validation)
    if figures:
        verdict = "ok" if summary.validation.get("ok") else "FAILED"
        lines.append(f"  validation  {verdict}: " + ", ".join(f"{label} {value}" for label, value in figures[:3]))
        lines += ["  baselines   " + ", ".join(f"{label} {value}" for label, value in figures[3:])] if figures[3:] else []
    lines.append(f"  billing     {summary.billing}")
    lines += [f"  problem     {trouble.stage}{f' on {trouble.host}' if trouble.host else ''}: {trouble.cause}" for trouble in summary.troubles]
    here = Path.cwd()
    lines.append(f"  run folder  {summary.folder.relative_to(here) if summary.folder.is_relative_to(here) else summary.folder}")
    if not summary.ok or summary.ending != "terminate":
        lines.append(f"  next        {summary.next_command}")
    return [*lines, ""]


def observations(summary: Summary, records: list[dict[str, Any]]) -> str:
    """observations.md: timeline, choices, warnings, problems with their remedies, the last log lines on failure."""
    out = [f"# Run {summary.run_id}", ""]
    if summary.rehearsal:
        out += ["Rehearsal: true. Nothing was paid.", ""]
    out += ["## Timeline", "", "| time (UTC) | stage | pod | what | seconds |", "|---|---|---|---|---|"]
    for record in records:
        seconds = "" if record.get("elapsed_ms") is None else f"{record['elapsed_ms'] / 1000:.1f}"
        what = record["status"] + (f": {record['message']}" if record.get("message") else "")
        stage = record["stage"] if record["phase"] == record["stage"] else f"{record['stage']}: {record['phase']}"
        out.append(f"| {record['ts'][11:19]} | {stage} | {record.get('host', '')} | {_cell(what)} | {seconds} |")
    out += ["", "## Choices", ""]
    for pod in summary.pods:
        price = f"{pod.get('usd_per_hour')} $/h, {pod.get('cloud_type')}"
        out.append(f"- pod {pod.get('id')}: {pod.get('gpu_count')} x {pod.get('gpu')}, {price}, lease until {pod.get('deadline')}")
    out += [f"- how it ends: {summary.ending}", f"- billing: {summary.billing}", "", "## Warnings", ""]
    out += [f"- {note}" for note in summary.notes] or ["- none"]
    out += ["", "## Problems", ""]
    for trouble in summary.troubles:
        out.append(f"- {trouble.stage}{f' on {trouble.host}' if trouble.host else ''}: {trouble.cause}. Remedy: {trouble.remedy or summary.next_command}")
    out += [] if summary.troubles else ["- none"]
    for host, tail in summary.log_tails:
        out += ["", f"## Last log lines of {host}", "", "```", *(clean_text(line, 300).replace("```", "'''") for line in tail), "```"]
    return "\n".join(out) + "\n"


def _cell(text: str) -> str:
    return clean_text(text, 300).replace("|", "\\|")


def cost_document(summary: Summary) -> dict[str, Any]:
    """cost.json."""
    return {
        "run_id": summary.run_id,
        "rehearsal": summary.rehearsal,
        "cost_usd": usd(summary.cost_usd),
        "worst_case_usd": summary.worst_case_usd,
        "basis": "each price times its seconds, from the create to the proof that the pod was gone; neither time nor storage of stopped pods is in it",
        "pods": [{key: pod.get(key) for key in ("id", "gpu", "gpu_count", "usd_per_hour", "cost_usd")} for pod in summary.pods],
    }
