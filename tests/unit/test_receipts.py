# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _packages, _receipts, _standing
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError
from ansible_collections.podcycle.gpu.plugins.module_utils._shell_env import MARKER

GPU = {"driver": "580.95.05", "gpu.count": "1", "gpu.names": "H100", "gpu.compute_capability": "9.0"}
STACK: dict[str, Any] = {"parts": {"os": "debian 12", "arch": "x86_64", **GPU}}


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    (tmp_path / "tool" / "lib").mkdir(parents=True)
    (tmp_path / "tool" / "lib" / "a.so").write_bytes(b"library")
    (tmp_path / "tool" / "lib64").symlink_to("lib")
    (tmp_path / "note").write_text("one", encoding="utf-8")
    return tmp_path


def wanted(pod: Path, **more: Any) -> dict[str, Any]:
    return {"tool": {"digest": "d1", "trees": [str(pod / "tool")], "paths": [str(pod / "note"), str(pod / "absent")], **more}}


def look(pod: Path, stack: dict[str, Any] | None = None) -> dict[str, Any]:
    found = _receipts.read_all(pod, _receipts.machine_of((stack or STACK)["parts"]))
    return found["tool"]


def test_what_was_signed_for_stands_until_it_is_touched(pod: Path) -> None:
    assert _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True) == ["tool"]
    assert look(pod) == {"digest": "d1", "stands": True, "why": "", "faults": []}
    assert _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True) == [], "the same again is no news"


def rewrite_in_place(pod: Path) -> None:
    """The same size, another content."""
    (pod / "tool" / "lib" / "a.so").write_bytes(b"LIBRARY")


TOUCHES: dict[str, Callable[[Path], object]] = {
    "a file rewritten": rewrite_in_place,
    "a file cut short": lambda pod: os.truncate(pod / "tool" / "lib" / "a.so", 1),
    "a file lost": lambda pod: (pod / "tool" / "lib" / "a.so").unlink(),
    "a file more": lambda pod: (pod / "tool" / "b").write_text("", encoding="utf-8"),
    "a mode": lambda pod: (pod / "tool" / "lib" / "a.so").chmod(0o600),
    "a folder closed": lambda pod: (pod / "tool" / "lib").chmod(0o700),
    "the tree closed": lambda pod: (pod / "tool").chmod(0o700),
    "a link bent": lambda pod: ((pod / "tool" / "lib64").unlink(), (pod / "tool" / "lib64").symlink_to(".")),
    "the tree lost": lambda pod: (pod / "tool").rename(pod / "moved"),
    "a single file changed": lambda pod: (pod / "note").write_text("two", encoding="utf-8"),
    "what was absent appears": lambda pod: (pod / "absent").write_text("", encoding="utf-8"),
    "the receipt torn": lambda pod: os.truncate(pod / _receipts.FOLDER / "tool.json", 30),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
def test_a_touch_ends_it(pod: Path, touch: Callable[[Path], object]) -> None:
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    touch(pod)
    found = look(pod)
    assert not found["stands"] and found["why"]


def test_byte_code_that_an_import_writes_is_no_touch(pod: Path) -> None:
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    (pod / "tool" / "lib" / "__pycache__").mkdir()
    (pod / "tool" / "lib" / "__pycache__" / "a.pyc").write_bytes(b"")
    assert look(pod)["stands"]


BLOCK = f"# BEGIN {MARKER}\nif [ -r /w/env.sh ]; then . /w/env.sh; fi\n# END {MARKER}\n"
# What somebody does to the shells' start files.
SHELL_TOUCHES: dict[str, dict[str, str]] = {
    "an alias beside the block": {".bashrc": f"{BLOCK}alias ll='ls -l'\n"},
    "a block of another kind": {".bashrc": f"{BLOCK}# BEGIN another\ntrue\n# END another\n", ".profile": f"{BLOCK}# BEGIN another\ntrue\n# END another\n"},
    "the block removed": {".bashrc": "alias l=ls\n"},
    "the block edited": {".bashrc": BLOCK.replace("/w/", "/v/")},
    "the block cut short": {".bashrc": BLOCK.rpartition("# END")[0]},
    "a login file that hides .profile": {".bash_profile": "alias l=ls\n"},
}
STANDING = ("an alias beside the block", "a block of another kind")


@pytest.mark.parametrize("touch", SHELL_TOUCHES)
def test_only_our_own_block_counts_in_files_that_others_write_into(pod: Path, monkeypatch: pytest.MonkeyPatch, touch: str) -> None:
    home = pod / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in (".bashrc", ".profile"):
        (home / name).write_text(BLOCK, encoding="utf-8")
    (pod / ".podcycle/env.d").mkdir(parents=True)
    _receipts.sign_all(pod, wanted(pod, shell=True), dict(STACK), write=True)
    assert look(pod)["stands"]
    for name, text in SHELL_TOUCHES[touch].items():
        (home / name).write_text(text, encoding="utf-8")
    found = look(pod)
    assert found["stands"] is (touch in STANDING), found
    assert found["stands"] or found["why"].startswith(f"the block {MARKER} in {home}/.bash")


def test_a_start_file_that_comes_without_our_block_is_no_touch(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under root our block is in /etc/bash.bashrc, and the files of the home are all the user's."""
    monkeypatch.setenv("HOME", str(pod))
    (pod / ".podcycle/env.d").mkdir(parents=True)
    _receipts.sign_all(pod, wanted(pod, shell=True), dict(STACK), write=True)
    for name in (".bashrc", ".profile", ".bash_profile"):
        (pod / name).write_text("alias l=ls\n", encoding="utf-8")
    assert look(pod)["stands"]
    (pod / ".podcycle/env.sh").write_text("true\n", encoding="utf-8")
    assert look(pod)["why"] == f"{pod}/.podcycle/env.sh is there and was not", "this one is ours alone"


RUNNER = pwd.struct_passwd(("runner", "x", 1001, 1001, "podcycle.gpu", "/home/runner", "/bin/bash"))
GIT = "Package: git\nStatus: install ok installed\nVersion: 2.39.5\n"
NODE_TOUCHES: dict[str, tuple[str, str]] = {
    "another package": (f"{GIT}\nPackage: htop\nStatus: install ok installed\nVersion: 3.2\n", ""),
    "a newer git": (GIT.replace("2.39.5", "2.39.6"), ""),
    "git removed": (GIT.replace("install ok installed", "deinstall ok config-files"), "package git is missing"),
    "git deleted": ("", "package git is missing"),
    "another account": (":somebody:*:1::::::", ""),
    "the account's day of change": (":runner:*:2::::::", ""),
    "the account locked": (":runner:!:1::::::", "account runner was changed"),
    "another account, and no right to read": (":somebody:*:1::::::unreadable", ""),
    "the account lost": (":", "account runner is missing"),
    "a setting of git's own": ("# BEGIN o\n[safe]\n# END o\n[user]\n", ""),
    "our setting of git": ("# BEGIN o\n[core]\n# END o\n", "the block o in {pod}/gitconfig was changed"),
    "git's settings closed": ("0600", "the block o in {pod}/gitconfig was changed"),
    "git's settings lost": ("# none", "the block o in {pod}/gitconfig is missing"),
}


@pytest.mark.parametrize("touch", NODE_TOUCHES)
def test_of_lists_that_others_write_into_only_the_wanted_entries_count(pod: Path, monkeypatch: pytest.MonkeyPatch, touch: str) -> None:
    status, shadow, program, settings = pod / "status", pod / "shadow", pod / "bin/git", pod / "gitconfig"
    status.write_text(GIT, encoding="utf-8")
    shadow.write_text("runner:*:1::::::\n", encoding="utf-8")
    settings.write_text("# BEGIN o\n[safe]\n# END o\n", encoding="utf-8")
    settings.chmod(0o644)
    program.parent.mkdir()
    program.touch(0o755)
    there = {"runner": RUNNER}
    monkeypatch.setattr(_packages, "STATUS", status)
    monkeypatch.setattr(_packages, "USR", pod)
    monkeypatch.setattr(_standing, "SHADOW", shadow)
    monkeypatch.setattr(_standing, "ACCOUNTS", (str(shadow),))
    monkeypatch.setattr(_standing.pwd, "getpwnam", there.__getitem__)
    node = {"packages": ["git"], "account": "runner", "tailscale": False}
    _receipts.sign_all(pod, {"tool": {"digest": "d1", "node": node, "blocks": {str(settings): "o", str(pod / "none"): "o"}}}, dict(STACK), write=True)
    assert look(pod)["stands"]
    text, why = NODE_TOUCHES[touch]
    if text == "":
        program.unlink()
    elif text == "0600":
        settings.chmod(0o600)
    elif text.startswith("#"):
        settings.write_text(text, encoding="utf-8")
    elif text.startswith(":"):
        shadow.write_text(f"runner:*:1::::::\n{text[1:]}\n" if "somebody" in text else f"{text[1:]}\n", encoding="utf-8")
        if "unreadable" in text:
            monkeypatch.setattr(_standing, "SHADOW", pod / "nonesuch")
        if text == ":":
            there.clear()
    else:
        status.write_text(text, encoding="utf-8")
    assert look(pod)["why"] == why.format(pod=pod)


def test_a_login_line_counts_and_not_the_file_that_it_is_in(pod: Path) -> None:
    """The file is somebody's own, and may be as closed as that person likes."""
    rc, hooks = pod / ".bashrc", {str(pod / ".bashrc"): "o", str(pod / ".profile"): "o"}
    rc.write_text("# BEGIN o\ntrue\n# END o\n", encoding="utf-8")
    _receipts.sign_all(pod, {"tool": {"digest": "d1", "hooks": hooks}}, dict(STACK), write=True)
    rc.write_text("# BEGIN o\ntrue\n# END o\nalias l=ls\n", encoding="utf-8")
    rc.chmod(0o600)
    assert look(pod)["stands"]
    rc.write_text("alias l=ls\n", encoding="utf-8")
    assert look(pod)["faults"] == [f"the block o in {rc} is missing"]


def test_a_link_whose_end_is_lost(pod: Path) -> None:
    """A command may be a link, such as g++, and what it leads to is what was deleted."""
    (pod / "link").symlink_to("note")
    _receipts.sign_all(pod, {"tool": {"digest": "d1", "paths": [str(pod / "link")]}}, dict(STACK), write=True)
    (pod / "note").write_text("another", encoding="utf-8")
    assert look(pod)["stands"]
    (pod / "note").unlink()
    assert look(pod)["why"] == f"{pod}/link was changed", "the link is still there"


def test_a_volume_on_another_machine_stands_for_nothing(pod: Path) -> None:
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    other = {"parts": {**STACK["parts"], "driver": "570.86.10"}}
    assert look(pod, other)["why"] == "another machine: driver"


HOLD = "import fcntl, sys, time; time.sleep(0.3); f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"


def test_a_process_is_known_by_the_lock_that_it_holds(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its lock a moment after its start, and whoever keeps it running may start it again as another one."""
    lock = pod / "run.lock"

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)

    with started() as first:
        stack = dict(STACK)
        _receipts.sign_all(pod, wanted(pod, locks=[str(lock)]), stack, write=True)
        assert stack["receipts"]["tool"]["stands"] and look(pod)["stands"]
        first.kill()
    assert look(pod)["why"] == f"no process holds {lock}"
    with started() as second:
        assert second.stdout and second.stdout.readline()
        assert look(pod)["stands"]
        second.kill()
    lock.unlink()
    monkeypatch.setattr(_receipts, "_START_SECONDS", 0.1)
    stack = dict(STACK)
    _receipts.sign_all(pod, wanted(pod, locks=[str(lock)]), stack, write=True)
    assert not stack["receipts"]["tool"]["stands"] and stack["receipts"]["tool"]["why"] == f"no process holds {lock}"


def test_check_mode_signs_nothing(pod: Path) -> None:
    assert _receipts.sign_all(pod, wanted(pod), dict(STACK), write=False) == ["tool"]
    assert not (pod / ".podcycle").exists()


@pytest.mark.parametrize("receipts", [{"../x": {"digest": "d"}}, {"tool": {"digest": "d", "paths": ["etc/passwd"]}}, {"tool": {}}, {"tool": "d"}])
def test_bad_input_signs_nothing(pod: Path, receipts: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        _receipts.sign_all(pod, {"good": {"digest": "d"}, **receipts}, dict(STACK), write=True)
    assert not (pod / ".podcycle").exists()


def test_damage_is_drift_although_every_version_is_right(pod: Path) -> None:
    _receipts.sign_all(pod, wanted(pod), {**STACK}, write=True)
    assert _receipts.signed_parts(pod) == STACK["parts"]
    rewrite_in_place(pod)
    found = _receipts.read_all(pod, _receipts.machine_of(STACK["parts"]))
    (row,) = _receipts.broken(found)
    assert (row["part"], row["expected"]) == ("tool", "as it was signed for") and row["found"].startswith(f"files below {pod}/tool were changed")


def test_drift_tells_all_that_is_gone_and_not_the_first_of_it(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, shadow = pod / "status", pod / "shadow"
    status.write_text(GIT.replace("git", "tmux"), encoding="utf-8")
    shadow.write_text("runner:*:1::::::\n", encoding="utf-8")
    monkeypatch.setattr(_packages, "STATUS", status)
    monkeypatch.setattr(_packages, "USR", Path("/usr"))
    monkeypatch.setattr(_packages, "PROGRAMS", {})
    monkeypatch.setattr(_standing, "SHADOW", shadow)
    monkeypatch.setattr(_standing, "ACCOUNTS", (str(shadow),))
    monkeypatch.setattr(_standing.pwd, "getpwnam", {"runner": RUNNER}.__getitem__)
    lock = pod / "run.lock"
    lock.touch()
    monkeypatch.setattr(_receipts, "_START_SECONDS", 0.0)
    more = wanted(pod, node={"packages": ["tmux"], "account": "runner"}, locks=[str(lock)])
    _receipts.sign_all(pod, more, dict(STACK), write=True)
    rewrite_in_place(pod)
    (pod / "note").unlink()
    status.write_text("", encoding="utf-8")
    shadow.write_text("runner:!:1::::::\n", encoding="utf-8")
    found = [row["found"] for row in _receipts.broken(_receipts.read_all(pod, _receipts.machine_of({**STACK["parts"], "driver": "570.86.10"})))]
    assert found[:-1] == [
        "another machine: driver", f"no process holds {lock}", f"{pod}/note is missing", "package tmux is missing", "account runner was changed",
    ]  # fmt: skip
    assert found[-1].startswith(f"files below {pod}/tool were changed")


def test_what_was_set_right_and_signed_for_again_is_no_place_to_look_at(pod: Path) -> None:
    old = 1_700_000_000
    os.utime(pod / "tool", (old, old))
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    time.sleep(0.02)
    (pod / "tool").chmod(0o700)
    (pod / "tool").chmod(0o755)
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    time.sleep(0.02)
    (pod / "tool" / "lib").chmod(0o700)
    assert look(pod)["why"] == f"the mode or the owner of {pod}/tool/lib was changed"


def test_an_empty_folder_of_another_program_is_no_touch(pod: Path) -> None:
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    (pod / "tool" / "cache" / "__pycache__").mkdir(parents=True)
    assert look(pod)["stands"]


@pytest.mark.parametrize(
    ("touch", "told"),
    [
        ("a file rewritten", "files below {pod}/tool were changed: look at {pod}/tool/lib/a.so"),
        ("a file lost", "files below {pod}/tool were changed: look at {pod}/tool/lib"),
        ("a mode", "files below {pod}/tool were changed: look at {pod}/tool/lib/a.so"),
        ("a folder closed", "the mode or the owner of {pod}/tool/lib was changed"),
        ("the tree closed", "the mode or the owner of {pod}/tool was changed"),
        ("a link bent", "files below {pod}/tool were changed: look at {pod}/tool/lib64"),
        ("the tree lost", "{pod}/tool is missing"),
        ("a single file changed", "{pod}/note was changed"),
        ("what was absent appears", "{pod}/absent is there and was not"),
    ],
)
def test_drift_says_what_is_gone_and_where_to_look(pod: Path, touch: str, told: str) -> None:
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    before_all = 1_700_000_000
    for path in (pod / "tool/lib/a.so", pod / "tool/lib", pod / "tool"):
        os.utime(path, (before_all, before_all))
    os.utime(pod / "tool/lib64", (before_all, before_all), follow_symlinks=False)
    _receipts.sign_all(pod, wanted(pod), dict(STACK), write=True)
    time.sleep(0.02)
    TOUCHES[touch](pod)
    assert look(pod)["why"] == told.format(pod=pod)
    (pod / "note").unlink()
    said = told.format(pod=pod)
    assert look(pod)["faults"] == [f"{pod}/note is missing", *([] if said.startswith(f"{pod}/note") else [said])]


def test_a_folder_that_was_not_there_may_stay_away_and_not_appear(pod: Path) -> None:
    _receipts.sign_all(pod, {"tool": {"digest": "d1", "trees": [str(pod / "later")]}}, dict(STACK), write=True)
    assert look(pod)["stands"]
    (pod / "later").mkdir()
    assert not look(pod)["stands"]
