# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every pod of ours in one look: state, how busy it is, how far its job has got, what it has cost. Writes nothing."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, UsageError, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._job_follow import ENDED, LIVE, clean, latest_command, parse_poll, seconds_since, silence
from ansible_collections.podcycle.gpu.plugins.module_utils._leases import audit
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Pod
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, naming_rentals, open_session, workspace_of_run
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import SshAccess
from ansible_collections.podcycle.gpu.plugins.module_utils._table import columns

THREADS = 16
_LOG_BYTES = 2000
_BREAK = "--podcycle-gpus--"
_SERVICES = "--podcycle-services--"
# The training image's own services, whatever the run's workspace is.
_IMAGE = "/opt/podcycle/runner"
_GPU_FIELDS = ("utilization.gpu", "memory.used", "memory.total", "temperature.gpu", "power.draw")
_GPUS = f"nvidia-smi --query-gpu={','.join(_GPU_FIELDS)} --format=csv,noheader,nounits 2>/dev/null"


def pod_status(options: Mapping[str, Any]) -> dict[str, Any]:
    """One row for each open lease, and the lines that show them."""
    session = open_session(options)
    with naming_rentals(session, options.get("run_id")):
        found = audit(session, options.get("run_id"))
    now = model.utc_now()
    rows = [_row(row, found.leases[row["stamp"]], found.pods.get(row["stamp"]), now) for row in found.rows]
    rows.sort(key=lambda row: (row["run_id"], row["index"], row["stamp"]))
    if options.get("ssh", True):
        asked = [(row, found.leases[row["stamp"]], found.pods[row["stamp"]]) for row in rows if row["stamp"] in found.pods and row["state"] == model.RUNNING]
        with ThreadPoolExecutor(THREADS) as pool:
            for (row, _lease, _pod), seen in zip(asked, pool.map(lambda one: _ask(session, one[1], one[2], options), asked), strict=True):
                row.update(seen)
    burn = sum((Decimal(row["usd_per_hour"]) for row in rows if row["usd_per_hour"] and row["state"] in (model.STARTING, model.RUNNING)), Decimal(0))
    cost = sum((Decimal(row["cost_usd"]) for row in rows if row["cost_usd"]), Decimal(0))
    result = {
        "changed": False,
        "pods": rows,
        "burn_usd_per_hour": model.usd(burn),
        "cost_usd": model.usd(cost),
        "strays": [pod.name for pod in found.strays],
        "rehearsal": session.rehearsal,
    }
    limit = float(options.get("stall_seconds") or 0)
    for row in rows:
        if row["job"]:
            row["job"]["stalled"] = bool(limit) and row["job"]["state"] in LIVE and row["job"]["silent_seconds"] > limit
    jobs = [row["job"] for row in rows]
    result["stalled"] = [f"{row['run_id']}-{row['index']}" for row in rows if row["job"] and row["job"]["stalled"]]
    result["ended"] = bool(rows) and all(job is not None and job["state"] in ENDED for job in jobs)
    return {**result, "lines": lines(result)}


def note_silence(status: dict[str, Any], seen: dict[str, float], now: float, limit: float) -> None:
    """Count pods whose job cannot be read as stalled too: out of reach, stopped, or without one. `seen` keeps the last sign of life of each."""
    for row in status["pods"]:
        if row["job"]:
            seen[row["stamp"]] = now - (row["job"]["silent_seconds"] if row["job"]["state"] in LIVE else 0.0)
            continue
        silent = now - seen.setdefault(row["stamp"], now)
        if limit and silent > limit:
            name = f"{row['run_id']}-{row['index']}"
            why = row["trouble"] or (f"the pod is {row['state']}" if row["state"] != model.RUNNING else "no job has been started on it")
            status["stalled"].append(name)
            status["lines"].append(f"{name}: no job could be seen for {silent:.0f} s: {why}")


def _row(row: Mapping[str, Any], lease: Lease, pod: Pod | None, now: datetime) -> dict[str, Any]:
    left = (lease.deadline - now).total_seconds() if lease.deadline else None
    return {
        **{name: row[name] for name in ("stamp", "run_id", "index", "cloud", "pod_id", "since", "deadline", "usd_per_hour", "cost_usd", "why")},
        "state": row["observed"],
        "gpu": pod.gpu if pod else lease.gpu,
        "gpu_count": pod.gpu_count if pod else None,
        "region": pod.region if pod else None,
        "hours_left": None if left is None else round(left / 3600, 2),
        "endpoint": pod.endpoint.to_dict() if pod and pod.endpoint else None,
        "links": links(pod) if pod and pod.state == model.RUNNING else [],
        "gpus": [],
        "services": [],
        "job": None,
        "trouble": None,
    }


def links(pod: Pod) -> list[str]:
    """Where the pod's HTTP ports can be opened in a browser; RunPod's proxy gives an answer 100 s."""
    ports = [port.partition("/")[0] for port in pod.ports if port.endswith("/http")]
    return [f"https://{pod.id}-{port}.proxy.runpod.net" for port in ports] if pod.cloud == "runpod" else []


def _ask(session: Session, lease: Lease, pod: Pod, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the pod itself says: its GPUs, its services and its last job."""
    places = [f"{folder}/.podcycle/services/services.json" for folder in (workspace_of(session, lease, options), _IMAGE)]
    told = "; ".join(f"head -c 20000 {shlex.quote(place)} 2>/dev/null; echo; echo {_SERVICES}" for place in places)
    latest = latest_command(jobs_dir(session, lease, options), _LOG_BYTES)
    command = f"{_GPUS}; echo {_BREAK}; {told}; {latest}"
    said, trouble = ask(session, lease, pod, command, float(options.get("ssh_timeout") or 10))
    gpus, mark, rest = said.partition(_BREAK + "\n")
    parts = rest.split(_SERVICES + "\n", 2)
    if not mark or len(parts) < 3:
        return {"trouble": trouble}
    own, image = (_services(text, session, lease, pod) for text in parts[:2])
    # What the role finds the image to bring it leaves to it; what it said before, on a volume of another pod, is over then.
    names = [service["name"] for service in image]
    services = [service for service in own if service["name"] not in names] + image
    return {"gpus": _gpus(gpus), "services": services, "job": _job(parts[2])}


def _services(text: str, session: Session, lease: Lease, pod: Pod) -> list[dict[str, Any]]:
    """Of the role services: what is reached how; the pod's own words, so each is checked."""
    try:
        said = json.loads(text)
        places = said["places"].items() if isinstance(said["places"], dict) else ()
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for name, place in places:
        port = place.get("port") if isinstance(place, dict) else None
        port = int(port) if isinstance(port, (int, str)) and str(port).isdecimal() and len(str(port)) < 6 else 0
        if not port or not place.get("wanted") or name not in ("jupyter", "inference"):
            continue
        url = f"https://{pod.id}-{port}.proxy.runpod.net" if place.get("url") and pod.cloud == "runpod" else None
        token = clean(said["token_file"], 200) if name == "jupyter" and isinstance(said.get("token_file"), str) else None
        where = "the pod only" if place.get("host", "127.0.0.1") == "127.0.0.1" else "every address of the pod"
        found.append({"name": name, "port": port, "where": where, "url": url, "tunnel": _tunnel(port, session, lease, pod), "token_file": token})
    return found


def _tunnel(port: int, session: Session, lease: Lease, pod: Pod) -> str | None:
    """What brings a port of the pod here; the gateway forwards none."""
    if pod.endpoint is None or pod.endpoint.via != "direct":
        return None
    access = _access(session, lease)
    way = f"-p {pod.endpoint.port} -i {shlex.quote(str(access.private_key_file))} {access.words(pod.id)} {pod.endpoint.user}@{pod.endpoint.host}"
    return f"ssh -N -L {port}:127.0.0.1:{port} {way}"


def workspace_of(session: Session, lease: Lease, options: Mapping[str, Any]) -> str:
    return str(options.get("workspace") or workspace_of_run(session.state, lease.stamp.run_id)).replace("{pod_id}", lease.pod_id or "")


def jobs_dir(session: Session, lease: Lease, options: Mapping[str, Any]) -> str:
    return f"{workspace_of(session, lease, options)}/runs/{lease.stamp.run_id}/jobs"


def _access(session: Session, lease: Lease) -> SshAccess:
    key = session.state.path / "runs" / lease.stamp.run_id / "id_ed25519"
    return SshAccess(key, Path(str(lease.wish.get("known_hosts_file") or key.parent / "known_hosts")))


def ask(session: Session, lease: Lease, pod: Pod, command: str, seconds: float) -> tuple[str, str]:
    """What a shell command on a pod of ours wrote, and why it may have written nothing. Only a host key that is known is trusted."""
    access, pod = _access(session, lease), pod.reached(lease.marks.get("ssh_via"))
    if pod.endpoint is None:
        return "", "no SSH address"
    if not access.private_key_file.exists():
        return "", "its SSH key is not on this machine"
    if pod.endpoint.via == "gateway":
        from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_link import ask_gateway

        try:
            return ask_gateway(pod.endpoint, access, command, 2 * seconds).stdout.decode("utf-8", "replace"), "it answered something else than it was asked"
        except PodcycleError as err:
            return "", clean(err.message, 120)
    if not access.pinned(pod.id):
        return "", "its host key was never seen: nobody has logged in yet"
    try:
        done = access.ask(pod.id, pod.endpoint, command, seconds)
    except subprocess.TimeoutExpired:
        return "", "SSH did not answer in time"
    except PodcycleError as err:
        return "", err.message
    words = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return done.stdout.decode("utf-8", "replace"), clean(words[-1] if words else "it answered something else than it was asked", 120)


def pod_logs(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the provider, the container and the last job of each pod of a run wrote last."""
    if not 1 <= options["tail"] <= 5000:
        raise UsageError(f"tail is {options['tail']}; it must be between 1 and 5000")
    session = open_session(options)
    with naming_rentals(session, options.get("run_id")):
        found = audit(session, options.get("run_id"))
    held = [(found.leases[row["stamp"]], found.pods[row["stamp"]]) for row in found.rows if row["stamp"] in found.pods]
    if options.get("run_id") and not held:
        raise UsageError(f"read the logs of run {options['run_id']}: it has no pod any more", hint="its collected logs are in its run folder")
    with ThreadPoolExecutor(THREADS) as pool:
        rows = [*pool.map(lambda one: _logs(session, one[0], one[1], options), held)]
    return {"changed": False, "pods": rows, "lines": _log_lines(rows), "rehearsal": session.rehearsal}


def _logs(session: Session, lease: Lease, pod: Pod, options: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"pod_id": pod.id, "run_id": lease.stamp.run_id, "index": lease.stamp.index, "state": pod.state, "logs": {}, "troubles": {}}
    for source in options["sources"]:
        try:
            if source != "job":
                row["logs"][source] = [*session.cloud.logs(pod.id, source=source, tail=options["tail"])]
                continue
        except PodcycleError as err:
            row["troubles"][source] = str(err)
            continue
        # 200 bytes a line, as logs go.
        command = latest_command(jobs_dir(session, lease, options), 200 * options["tail"])
        said, trouble = ask(session, lease, pod, command, 10.0) if pod.state == model.RUNNING else ("", f"the pod is {pod.state}")
        name, _newline, poll = said.partition("\n")
        look = parse_poll(poll)
        if look.readable:
            row["logs"][f"job {clean(name, 60)}"] = look.log[-options["tail"] :]
        else:
            row["troubles"]["job"] = "there is none" if trouble.startswith("it answered") and not said else trouble
    return row


def _log_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    told = []
    for row in rows:
        for source, log in row["logs"].items():
            told += [f"--- {row['run_id']}-{row['index']} ({row['pod_id']}, {row['state']}): {source}", *(log or ["nothing was written"])]
        told += [f"--- {row['run_id']}-{row['index']} ({row['pod_id']}): no log of the {name}: {trouble}" for name, trouble in row["troubles"].items()]
    return told or ["nothing is rented"]


def _gpus(text: str) -> list[dict[str, float | None]]:
    """Rows of nvidia-smi; a value that a GPU does not tell is none."""
    rows = []
    for line in text.splitlines()[:64]:
        words = [word.strip() for word in line.split(",")]
        if len(words) == len(_GPU_FIELDS):
            rows.append({name.replace(".", "_"): _number(word) for name, word in zip(_GPU_FIELDS, words, strict=True)})
    return rows


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None


def _job(text: str) -> dict[str, Any] | None:
    name, _newline, poll = text.partition("\n")
    look = parse_poll(poll)
    if not look.readable:
        return None
    ran = seconds_since(look.status.get("started_at"), look.clock)
    return {
        "name": clean(name, 60),
        "state": look.state,
        "summary": look.summary,
        "progress": look.status.get("progress"),
        "seconds": ran,
        "silent_seconds": silence(look),
    }


def lines(status: Mapping[str, Any]) -> list[str]:
    """The rows as a table for a person."""
    rows = status["pods"]
    table = [("POD", "ID", "STATE", "GPU", "BUSY", "$/H", "COST $", "LEFT", "JOB")]
    for row in rows:
        job, gpu = row["job"], f"{row['gpu_count'] or '?'} x {str(row['gpu'] or 'unknown').removeprefix('NVIDIA ').removeprefix('GeForce ')}"
        stalled = f", no sign of life for {job['silent_seconds']:.0f} s" if job and job["stalled"] else ""
        idle = "none" if row["state"] == model.RUNNING else row["why"]
        doing = row["trouble"] or (f"{job['name']}: {job['state']}{stalled}  {job['summary']}" if job else idle)
        table.append(
            (
                f"{row['run_id']}-{row['index']}",
                row["pod_id"] or "unknown",
                row["state"],
                gpu,
                _busy(row["gpus"]),
                row["usd_per_hour"] or "?",
                row["cost_usd"] or "?",
                f"{row['hours_left']:.1f} h" if row["hours_left"] is not None else "?",
                clean_text(doing, 110),
            )
        )
    told = columns(table) if rows else ["nothing is rented"]
    for row in rows:
        known = [service["url"] for service in row["services"]]
        told += [f"{row['run_id']}-{row['index']}: {link}" for link in row["links"] if link not in known]
        for service in row["services"]:
            place = f"at {service['url']}" if service["url"] else f"on {service['where']}, port {service['port']}"
            told.append(f"{row['run_id']}-{row['index']}: {service['name']} {place}")
            told += [f"  {service['tunnel']}"] if service["tunnel"] else []
            told += [f"  its token is on the pod, in {service['token_file']}"] if service["token_file"] else []
    if rows:
        ours, simulated = f"{len(rows)} pod{'s' if len(rows) > 1 else ''}", " (rehearsal)" if status["rehearsal"] else ""
        told.append(f"{ours}, {status['burn_usd_per_hour']} $/h now, {status['cost_usd']} $ so far{simulated}")
    if status["strays"]:
        told.append(f"ours by their name alone: {', '.join(status['strays'])}; see: ansible-playbook playbooks/reap.yml")
    return told


def _busy(gpus: Sequence[Mapping[str, float | None]]) -> str:
    known = [gpu["utilization_gpu"] for gpu in gpus if gpu["utilization_gpu"] is not None]
    return f"{sum(known) / len(known):.0f} %" if known else "-"
