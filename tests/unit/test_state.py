# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state folder: whose it is, who may read it, and who drives a run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _state
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import StateError, UsageError
from ansible_collections.podcycle.gpu.plugins.module_utils._session import open_state
from ansible_collections.podcycle.gpu.plugins.module_utils._state import ProcessId, StateDir, default_state_dir, start_ticks, write_atomic


def test_the_folder_is_made_private_and_opens_again(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "a" / "b" / "state").open()
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert state.run_dir("r1").stat().st_mode & 0o777 == 0o700
    StateDir(state.path).open()


def test_where_it_is(tmp_path: Path) -> None:
    assert default_state_dir({"PODCYCLE_STATE_DIR": "/x", "XDG_STATE_HOME": "/y"}) == Path("/x")
    assert default_state_dir({"XDG_STATE_HOME": "/y"}) == Path("/y/podcycle")
    assert default_state_dir({}) == Path.home() / ".local/state/podcycle"
    assert open_state({"state_dir": str(tmp_path / "s")}, {"PODCYCLE_STATE_DIR": "/x"}).path == tmp_path / "s"


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    (foreign / "thesis.txt").write_text("x")
    with pytest.raises(StateError, match="files that are not ours"):
        StateDir(foreign).open()
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    opened = StateDir(tmp_path / "mine").open()
    opened.path.chmod(0o750)
    with pytest.raises(StateError, match="chmod 700"):
        StateDir(opened.path).open()
    opened.path.chmod(0o700)
    monkeypatch.setattr(_state.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StateError, match="belongs to user"):
        StateDir(opened.path).open()


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StateError, match="PODCYCLE_STATE_DIR"):
            StateDir(path).open()


def test_two_that_make_the_folder_at_once_both_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for the marker and the look for strange files, another process may have made both."""
    real = Path.exists

    def exists(path: Path, **more: bool) -> bool:
        there = real(path)
        if path.name == "podcycle-state" and not there:
            path.touch()
            (path.parent / "owner").write_text("0a1b2c3d\n")
        return there

    monkeypatch.setattr(Path, "exists", exists)
    StateDir(tmp_path / "state").open()


def test_the_owner_id_stays(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state").open()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(StateDir(state.path).open().owner)) for _turn in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8 and found[0] == StateDir(state.path).open().owner
    (state.path / "owner").write_text("nobody!\n")
    with pytest.raises(StateError, match="owner id"):
        state.owner.strip()


def test_a_live_process_keeps_its_run_and_a_dead_one_is_told(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state").open()
    me = ProcessId.of(os.getpid())
    assert me is not None and state.run_holder("r1") is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = ProcessId.of(child.pid)
    assert other is not None and state.take_run("r1", other) is None
    with pytest.raises(StateError, match=f"driven by process {child.pid}") as caught:
        state.take_run("r1", me)
    assert caught.value.details == {"pid": child.pid, "host": socket.gethostname()}
    assert state.take_run("r1", other) is None, "its own holder may take it again"
    assert state.take_run("r2", me) is None, "other runs are free"
    child.send_signal(signal.SIGKILL)
    while start_ticks(child.pid) is not None:
        time.sleep(0.01)
    assert not other.alive, "a zombie is gone"
    assert state.take_run("r1", me) == other
    child.wait()
    assert state.run_holder("r1") == me


@pytest.mark.parametrize("deaf", [False, True])
def test_a_driver_on_this_machine_is_interrupted_before_its_run_is_taken(tmp_path: Path, deaf: bool) -> None:
    """It has ended when the run is another's; one that does not end keeps it."""
    words = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)" if deaf else "import time"
    driver = subprocess.Popen([sys.executable, "-c", f"{words}; print('up', flush=True); time.sleep(60)"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        state, me, other = StateDir(tmp_path / "state").open(), ProcessId.of(os.getpid()), ProcessId.of(driver.pid)
        assert me is not None and other is not None and driver.stdout is not None and driver.stdout.readline() == b"up\n"
        state.take_run("r1", other)
        if deaf:
            with pytest.raises(StateError, match=f"driven by process {driver.pid} on .*, which was interrupted and still runs after 0 s; end it, then type"):
                state.wrest_run("r1", me, 0.3)
            assert state.run_holder("r1") == other and other.alive
        else:
            assert state.wrest_run("r1", me) == other and state.run_holder("r1") == me and not other.alive
            assert state.wrest_run("r1", me) is None, "its own holder may take it again"
    finally:
        driver.kill()
        driver.communicate()


def test_a_driver_elsewhere_and_a_keeper_are_left_alone(tmp_path: Path) -> None:
    state, me = StateDir(tmp_path / "state").open(), ProcessId.of(os.getpid())
    assert me is not None
    for other, words in ((ProcessId("elsewhere", os.getppid(), 1), "driven by"), (replace(parent(), keeper=True), "given back by its keeper")):
        state.take_run(f"r{other.keeper:d}", other)
        with pytest.raises(StateError, match=words):
            state.wrest_run(f"r{other.keeper:d}", me)
        assert state.run_holder(f"r{other.keeper:d}") == other and parent().alive


def parent() -> ProcessId:
    found = ProcessId.of(os.getppid())
    assert found is not None
    return found


def test_a_recycled_process_id_is_another_process(tmp_path: Path) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None and me.alive
    assert not ProcessId(me.host, me.pid, me.started - 1).alive
    assert ProcessId("another-host", 1, 1).alive, "nobody can look at another host"


@pytest.mark.parametrize("text", ["", "{torn", "[]", "{}", '{"host": "a", "pid": "x", "started": 1}', '{"host": "a", "pid": null, "started": 1}'])
def test_a_broken_run_lock_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    state = StateDir(tmp_path / "state").open()
    (state.run_dir("r1") / "controller.json").write_text(text)
    with pytest.raises(StateError, match=r"controller\.json"):
        state.run_holder("r1")


@pytest.mark.parametrize("run_id", ["../x", "/etc", "a/b", ".", "", ".hidden", "a\n", "-x", "\u00e9"])
def test_a_run_id_is_a_safe_file_name(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UsageError, match="safe file name"):
        StateDir(tmp_path / "state").open().run_dir(run_id)


def test_a_lock_is_waited_for_and_the_wait_is_told(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state").open()
    with state.lock("x"), pytest.raises(StateError, match="fuser -v"), state.lock("x", timeout_seconds=0.1):
        pass
    with state.lock("x", timeout_seconds=0.1):
        pass


def test_an_atomic_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "controller.json"
    write_atomic(path, json.dumps({"a": 1}))
    assert path.stat().st_mode & 0o777 == 0o600

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_state.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "{}")
    assert json.loads(path.read_text()) == {"a": 1} and [entry.name for entry in tmp_path.iterdir()] == ["controller.json"]
