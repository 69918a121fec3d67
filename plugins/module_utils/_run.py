# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The run folder: events, provision.json, observations; the memory of one pass of a cycle that people read."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._model import check_run_id, parse_time, rfc3339, utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._state import write_atomic

STAGES = ("start", "converge", "push", "train", "collect", "validate", "stop")
# What a pod has timed itself; no stage of the cycle, so that no verdict rests on a pod's word.
POD = "pod"
OUT_OF_REACH = "the pod was out of reach (SSH)"
_FOLDERS = ("reports", "collected", "local_validation")
_FILES = (
    "provision.json",
    "cost.json",
    "reports/observations.md",
    "reports/report.html",
    "collected/manifest.json",
    "local_validation/validation.json",
    "local_validation/infer_move_output.txt",
)


def _identity(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(record.get(key)) for key in ("ts", "phase", "status", "elapsed_ms", "source", "host"))


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @classmethod
    def of(cls, artifacts_dir: Path, run_id: str) -> RunFolder:
        return cls(artifacts_dir.absolute() / "cycles" / check_run_id(run_id))

    def create(self, cloud: str, endpoint: str) -> bool:
        """Make the folder, or check that it is this cloud's; true when it was there before."""
        about = self.path / "run.json"
        if about.exists():
            known = self.read("run.json")
            if known.get("cloud") != cloud or known.get("endpoint") != endpoint:
                raise errors.UsageError(
                    f"the run folder {self.path} belongs to {known.get('cloud')} at {known.get('endpoint')}, not to {cloud} at {endpoint}",
                    hint="use another run_id, or the inventory that the run began with",
                )
            return True
        if self.path.exists() and any(self.path.iterdir()):
            raise errors.UsageError(f"the folder {self.path} holds files and is no run folder", hint="use another run_id or artifacts_dir")
        try:
            for name in ("", *_FOLDERS):
                (self.path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(about, json.dumps({"cloud": cloud, "endpoint": endpoint, "created_at": rfc3339(utc_now())}, indent=2) + "\n")
        except OSError as err:
            raise errors.StateError(f"cannot make the run folder {self.path}: {err.strerror}", hint="set artifacts_dir to a folder that you may write") from err
        return False

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; empty when it is not there."""
        try:
            data = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as err:
            raise errors.StateError(f"cannot read {self.path / name}: {err}") from err
        return data if isinstance(data, dict) else {}

    def write(self, name: str, content: Any, *, check_mode: bool = False) -> bool:
        """Write one of the folder's known files, or in check mode only look; false when it said so already."""
        if name not in _FILES:
            raise errors.UsageError(f"{name} is no file of a run folder", hint=f"one of: {', '.join(_FILES)}")
        text = content if isinstance(content, str) else json.dumps(content, indent=2, sort_keys=True) + "\n"
        path = self.path / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        if not check_mode:
            write_atomic(path, text)
        return True

    def unwritable(self) -> str:
        """Why nothing can be written here now; empty when something can."""
        try:
            handle, name = tempfile.mkstemp(prefix=".probe.", dir=self.path)
            try:
                os.write(handle, b" " * 4096)
                os.fsync(handle)
            finally:
                os.close(handle)
                os.unlink(name)
        except OSError as err:
            return f"{self.path} cannot be written: {err.strerror}"
        return ""

    # ---- events -------------------------------------------------------------------------------

    def event(self, stage: str, status: str, *, phase: str = "", host: str = "", message: str = "", details: Any = None) -> dict[str, Any]:
        """Append one event; its elapsed_ms counts from the matching `started`."""
        now = utc_now()
        record: dict[str, Any] = {
            "ts": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "stage": stage,
            "phase": phase or stage,
            "status": status,
        }
        began = None if status == "started" else self._began(stage, record["phase"], host)
        record["elapsed_ms"] = None if began is None else int((now - began).total_seconds() * 1000)
        record.update({key: value for key, value in (("host", host), ("message", errors.clean_text(message, 2000)), ("details", details)) if value})
        self._append(json.dumps(record) + "\n")
        return record

    def merge(self, rows: list[dict[str, Any]], host: str) -> int:
        """Append what a pod has timed itself, without what is there already; how many came."""
        named = [{**row, "host": host} if host else row for row in rows]
        known = {_identity(record) for record in self.events() if record["stage"] == POD}
        fresh = [row for row in named if _identity(row) not in known]
        if fresh:
            self._append("".join(json.dumps(row) + "\n" for row in fresh))
        return len(fresh)

    def _append(self, text: str) -> None:
        handle = os.open(self.path / "events.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            line = b"\n" * self._torn() + text.encode()
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / "events.jsonl"))
        finally:
            os.close(handle)

    def _torn(self) -> bool:
        """Whether a crash cut the last line short."""
        with (self.path / "events.jsonl").open("rb") as stream:
            if not stream.seek(0, os.SEEK_END):
                return False
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"

    def _began(self, stage: str, phase: str, host: str) -> Any:
        for record in reversed(self.events()):
            if record["stage"] == stage and record["phase"] == phase and record["status"] == "started" and record.get("host", host) in ("", host):
                return parse_time(record["ts"])
        return None

    def events(self) -> list[dict[str, Any]]:
        """Every whole event in order; a line that a crash cut short is left out."""
        try:
            lines = (self.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and {"ts", "stage", "phase", "status"} <= record.keys():
                records.append(record)
        return records

    def complete(self) -> bool:
        """Whether the newest pass did everything: its artifacts are here, opened and validated, and its pods were given back."""
        ended = {record["stage"] for record in self.since_start() if record["phase"] == record["stage"] and record["status"] == "ok" and not record.get("host")}
        failed = any(record["status"] == "failed" for record in self.since_start())
        return {"start", "collect", "validate", "stop"} <= ended and not failed and (self.path / "collected" / "manifest.json").exists()

    def since_start(self) -> list[dict[str, Any]]:
        """The events of the newest pass: from the last `start` that began."""
        records = self.events()
        begins = [
            number for number, record in enumerate(records) if record["stage"] == "start" and record["phase"] == "start" and record["status"] == "started"
        ]
        return records[begins[-1] :] if begins else records


@dataclass(frozen=True)
class Trouble:
    """Why a run is not well: the stage, the pod, the cause, and its code for programs."""

    stage: str
    host: str
    cause: str
    remedy: str = ""
    code: str = ""


def troubles(records: list[dict[str, Any]], stages: tuple[str, ...], hosts: list[str]) -> list[Trouble]:
    """What failed among `stages`: failures that were recorded, and pods that fell silent.

    A pod that is out of reach reports nothing, so a stage that began and has no verdict of a pod counts as failed.
    """
    found: list[Trouble] = []
    for stage in stages:
        own = [record for record in records if record["stage"] == stage]
        begun = [number for number, record in enumerate(own) if record["phase"] == stage and record["status"] == "started"]
        if not begun:
            continue
        own = own[begun[-1] :]
        failed = [record for record in own if record["status"] == "failed" and not record["phase"].endswith(".verdict")]
        for record in failed:
            details = record.get("details") or {}
            found.append(Trouble(stage, record.get("host", ""), record.get("message", "failed"), details.get("remedy", ""), details.get("code", "")))
        if stage in ("converge", "push", "train", "collect"):
            spoken = {record.get("host") for record in own if record["phase"] == stage and record["status"] in ("ok", "failed", "skipped")}
            earlier = {trouble.host for trouble in found}
            found += [Trouble(stage, host, OUT_OF_REACH) for host in hosts if host not in spoken and host not in earlier]
    return found
