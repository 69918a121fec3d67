# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pod says of its files is hostile until checked."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError

from ansible_collections.podcycle.gpu.plugins.action.transfer import ActionModule
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import survey
from ansible_collections.podcycle.gpu.plugins.module_utils._copying import Meter, rsync_progress
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import NoSuchFile, RemoteFile

SHA = "0" * 64
FILE = {"path": "model.pt", "size": 3, "sha256": SHA}
ARGS = {"patterns": ["*.pt"], "exclude": ["tmp-*"], "max_bytes": 10, "src": "/workspace/runs/r1", "required": []}


@pytest.fixture
def remote() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What the action makes of a pod's answer."""

    def read(answer: dict[str, Any]) -> dict[str, Any]:
        action = object.__new__(ActionModule)
        action._execute_module = lambda **given: answer  # type: ignore[method-assign]
        return action._remote(ARGS, ARGS["src"], {})

    return read


def test_an_honest_list_is_taken(remote: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    said = remote({"exists": True, "files": [FILE, {**FILE, "path": "a/b.pt"}], "refused": [{"path": "x\x1b[2J", "why": "not a plain file"}]})
    assert [row["path"] for row in said["files"]] == ["a/b.pt", "model.pt"] and said["refused"][0]["path"].isprintable()


@pytest.mark.parametrize(
    "row",
    [
        {**FILE, "path": "../../.ssh/authorized_keys.pt"}, {**FILE, "path": "/etc/x.pt"}, {**FILE, "path": "a\nb.pt"}, {**FILE, "path": None},
        {**FILE, "path": "not-asked-for.sh"}, {**FILE, "path": "tmp-1.pt"},
        {**FILE, "size": -1}, {**FILE, "size": 11}, {**FILE, "size": "3"}, {**FILE, "sha256": None},
        {**FILE, "sha256": "0"}, {}, "model.pt", None, ["model.pt"],
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_right_is_refused(remote: Callable[[dict[str, Any]], dict[str, Any]], row: Any) -> None:
    with pytest.raises(errors.SchemaError, match="the pod"):
        remote({"exists": True, "files": [FILE, row], "refused": []})


@pytest.mark.parametrize("answer", [{"files": "model.pt"}, {"files": 5}, {"files": [], "refused": ["x"]}, {"files": [], "refused": 7}])
def test_a_list_that_is_none_is_refused(remote: Callable[[dict[str, Any]], dict[str, Any]], answer: dict[str, Any]) -> None:
    with pytest.raises(errors.SchemaError, match="shape"):
        remote({"exists": True, **answer})


def test_what_must_be_there_is_named_with_its_reason() -> None:
    listed = {"exists": True, "files": [FILE], "refused": [{"path": "big.pt", "why": "11 bytes, more than 10"}]}
    ActionModule._complain({**ARGS, "required": ["model.pt"]}, listed)
    with pytest.raises(errors.UsageError, match=r"lacks big\.pt: 11 bytes, more than 10"):
        ActionModule._complain({**ARGS, "required": ["model.pt", "big.pt"]}, listed)
    with pytest.raises(errors.UsageError, match="it is not there"):
        ActionModule._complain({**ARGS, "required": ["none.pt"]}, listed)
    with pytest.raises(errors.UsageError, match="does not exist"):
        ActionModule._complain(ARGS, {**listed, "exists": False})


@pytest.mark.parametrize(
    ("changes", "gateway", "words"),
    [
        ({"required": ["tmp-1.pt"]}, False, "tmp-1.pt is required, and exclude or patterns leaves it out"),
        ({"bandwidth_limit_kib_s": -1}, False, "is -1, and must be 0 for no limit"),
        ({"bandwidth_limit_kib_s": 100}, True, "cannot be held to 100 KiB a second"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(changes: dict[str, Any], gateway: bool, words: str) -> None:
    action = object.__new__(ActionModule)
    action._connection = type("Known", (), {"transport": "podcycle.gpu.runpod_gateway" if gateway else "ssh"})()
    sound = {**ARGS, "bandwidth_limit_kib_s": 8192}
    action._refuse(sound)
    with pytest.raises(errors.UsageError, match=words):
        action._refuse({**sound, **changes})


def test_progress_has_rate_and_eta_and_is_rare() -> None:
    now, said = [0.0], []
    meter = Meter("[pod] push", 100 * 2**20, said.append, lambda: now[0])
    # The second half of a file whose first half an earlier try has brought.
    for second in range(13):
        now[0] = float(second)
        meter.seen(50 * 2**20 + second * 2**20)
    now[0] = 20.0
    meter.seen(60 * 2**20)
    assert said == [
        "[pod] push: 55% of 100.0 MiB, 1.0 MiB/s, ETA 0:45", "[pod] push: 60% of 100.0 MiB, 1.0 MiB/s, ETA 0:40",
        "[pod] push: 60% of 100.0 MiB, 0 bytes/s, nothing moves",
    ]  # fmt: skip
    heard = b"\r              0   0%    0.00kB/s    0:00:00 \r      1,234,567  45%   12.34MB/s    0:00:12 (xfr#1, to-chk=2/4)\r  2,0"
    assert rsync_progress(heard) == 1234567 and rsync_progress(b"\r  2,0") is None


def test_a_pod_that_falls_silent_ends_the_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rsync has its own limit for silence; a trickle is ended by ours."""
    rsync = tmp_path / "rsync"
    rsync.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    rsync.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    action = object.__new__(ActionModule)
    action._templar = type("Plain", (), {"template": staticmethod(lambda value: value)})()
    args = {**ARGS, "direction": "pull", "timeout": 1, "tries": 3, "bandwidth_limit_kib_s": 0}
    began = time.monotonic()
    with pytest.raises(errors.WaitTimeout, match=r"rsync took longer than 1 s; run the stage again; it goes on where it was"):
        action._rsync(args, tmp_path / "here", ARGS["src"], [FILE], {"ansible_host": "203.0.113.7", "inventory_hostname": "pod"})
    assert time.monotonic() - began < 10


@pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync here")
@pytest.mark.parametrize("direction", ["push", "pull"])
def test_rsync_brings_what_differs_whatever_its_time_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    """A file of the same size and time with other content, and names that a list of rsync takes for comments."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\nwhile [ "$1" != rsync ]; do shift; done\nexec "$@"\n', encoding="utf-8")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
    source, dest = tmp_path / "from", tmp_path / "to"
    names = ["same.bin", "#1.pt", ";2.pt", "deep/# 3", " 4"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"new")
    dest.mkdir()
    (dest / "same.bin").write_bytes(b"old")
    for folder in (source, dest):
        os.utime(folder / "same.bin", (1_000_000_000, 1_000_000_000))
    action = object.__new__(ActionModule)
    action._templar = type("Plain", (), {"template": staticmethod(lambda value: value)})()
    args = {**ARGS, "direction": direction, "timeout": 20, "tries": 1, "bandwidth_limit_kib_s": 0}
    here, there = (dest, source) if direction == "pull" else (source, dest)
    found, sent = action._rsync(args, here, str(there), [{**FILE, "path": name} for name in names], {"ansible_host": "203.0.113.7"})
    assert found and sent == 3 * len(names)
    assert {path.relative_to(dest).as_posix(): path.read_bytes() for path in dest.rglob("*") if path.is_file()} == dict.fromkeys(names, b"new")


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_the_gateway_tells_how_far_it_is_within_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    """What is there of one file counts on after those before it."""
    told: list[int] = []
    monkeypatch.setattr(Meter, "seen", lambda self, done: told.append(done))

    class Link:
        transport = "podcycle.gpu.runpod_gateway"

        def put_watched(self, here: str, there: str, moved: Callable[[int], None]) -> None:
            moved(1)
            moved(3)

        def fetch_bounded(self, there: str, here: str, most: int, moved: Callable[[int], None]) -> None:
            if there.endswith("gone.pt"):
                raise AnsibleError("cannot read it") from NoSuchFile("cannot read it")
            if there.endswith("locked.pt"):
                raise AnsibleError("cannot read it") from RemoteFile("cannot read it")
            Path(here).write_bytes(b"abc")
            self.put_watched(here, there, moved)

    action = object.__new__(ActionModule)
    action._connection = Link()
    action._low_level_execute_command = lambda command, sudoable: {"rc": 0}  # type: ignore[method-assign]
    names = ["a.pt", "b/c.pt"]
    if direction == "push":
        (tmp_path / "b").mkdir()
        for name in names:
            (tmp_path / name).write_bytes(b"abc")
    assert action._gateway({**ARGS, "direction": direction}, tmp_path, ARGS["src"], [{**FILE, "path": name} for name in names], {}) == 6
    assert told == [1, 3, 4, 6]
    if direction == "pull":
        # What the pod has dropped since it was listed is left out, and told by whoever compares.
        rows = [{**FILE, "path": name} for name in ("gone.pt", "after.pt")]
        action._gateway({**ARGS, "direction": direction}, tmp_path, ARGS["src"], rows, {})
        assert (tmp_path / "after.pt").exists() and not (tmp_path / "gone.pt").exists()
        with pytest.raises(AnsibleError):
            action._gateway({**ARGS, "direction": direction}, tmp_path, ARGS["src"], [{**FILE, "path": "locked.pt"}], {})


def test_what_changes_on_the_pod_meanwhile_is_fetched_again(tmp_path: Path) -> None:
    """One file changes once, one is never still, one goes, one grows beyond all bounds, one arrives damaged: only the last is an error."""
    pod, here = tmp_path / "pod", tmp_path / "here"
    for name in ("once.pt", "never.pt", "gone.pt", "grown.pt", "whole.pt"):
        (pod / name).parent.mkdir(exist_ok=True)
        (pod / name).write_bytes(b"0")
    action = object.__new__(ActionModule)
    sends, rooms = [], []

    def make_room(local: Path, wanted: int) -> None:
        local.mkdir(exist_ok=True)
        rooms.append(wanted)

    def listed(args: dict[str, Any], root: str, _task_vars: Any) -> dict[str, Any]:
        (pod / "never.pt").write_bytes(b"%d" % len(sends))
        return survey(Path(root), args["patterns"], args["max_bytes"])

    def send(_args: Any, local: Path, there: str, rows: list[dict[str, Any]], _task_vars: Any) -> tuple[str, int]:
        sends.append(sorted(row["path"] for row in rows))
        (pod / "never.pt").write_bytes(b"and on, %d" % len(sends))
        if len(sends) == 1:
            (pod / "once.pt").write_bytes(b"11")
            (pod / "gone.pt").unlink()
            (pod / "grown.pt").write_bytes(b"1" * 100)
        for row in rows:
            if (Path(there) / row["path"]).exists():
                shutil.copy(Path(there) / row["path"], local / row["path"])
        if damage and "whole.pt" in sends[-1]:
            (local / "whole.pt").write_bytes(b"x")
        return "rsync", 1

    action._remote, action._send, action._make_room = listed, send, make_room  # type: ignore[method-assign]
    action._task = type("Task", (), {"check_mode": False})()
    action._connection = type("Plain", (), {"transport": "ssh"})()
    args = {**ARGS, "direction": "pull", "src": str(pod), "dest": str(here), "exclude": [], "max_bytes": 99, "tries": 2, "bandwidth_limit_kib_s": 0}
    damage = False
    result = action._transfer(args, {})
    assert [(row["path"], row["size"]) for row in result["files"]] == [("once.pt", 2), ("whole.pt", 1)]
    assert [(row["path"], row["why"][:10]) for row in result["refused"]] == [("grown.pt", "100 bytes,"), ("never.pt", "it changes")]
    assert (result["transferred"], result["bytes"]) == (["once.pt", "whole.pt"], 3) and result["summary"].startswith("2 files, 3 bytes")
    assert sends[1:] == [["never.pt"], ["never.pt"]] and len(rooms) == 3 and result["bytes_sent"] == 3
    assert "lacks never.pt: it changes" in action._transfer({**args, "required": ["never.pt"]}, {})["msg"]
    (here / "whole.pt").unlink()
    damage = True
    with pytest.raises(errors.CloudError, match=r"1 files differ after the transfer, the first is whole\.pt"):
        action._transfer(args, {})
