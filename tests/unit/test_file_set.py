# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files written in one go, and shells that find what was written: real files, real bash and dash."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _file_set
from ansible_collections.podcycle.gpu.plugins.module_utils._blocks import merge_block, remove_block
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError
from ansible_collections.podcycle.gpu.plugins.module_utils._file_set import Entry, FileSet
from ansible_collections.podcycle.gpu.plugins.module_utils._shell_env import ShellEnv


def snapshot(root: Path) -> dict[str, Any]:
    return {str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}


def converge(root: Path, *entries: Entry) -> list[str]:
    """Check mode announces what the real run does and writes nothing; the second run does nothing."""
    before = snapshot(root)
    announced = FileSet(list(entries), root, check_mode=True).converge()
    assert snapshot(root) == before
    done = FileSet(list(entries), root).converge()
    assert [change.diff() for change in done] == [change.diff() for change in announced]
    assert FileSet(list(entries), root).converge() == []
    return [str(change.path.relative_to(root)) for change in done]


def test_all_kinds_in_one_go(tmp_path: Path) -> None:
    entries = (
        Entry("/data", "folder", mode="0750"),
        Entry("/data/a.txt", content="one\n", mode="0640"),
        Entry("/now", "link", target="data"),
        Entry("/rc", "block", marker="m", text="x=1"),
        Entry("/rc", "block", marker="n", text="y=2", at="top"),
    )
    assert converge(tmp_path, *entries) == ["data", "data/a.txt", "now", "rc"]
    assert (tmp_path / "now" / "a.txt").read_text() == "one\n"
    assert oct((tmp_path / "data/a.txt").stat().st_mode & 0o7777) == "0o640"
    assert (tmp_path / "rc").read_text() == "# BEGIN n\ny=2\n# END n\n# BEGIN m\nx=1\n# END m\n"
    assert converge(tmp_path, Entry("/data/a.txt", content="two\n"), Entry("/now", "link", target="data/a.txt")) == ["data/a.txt", "now"]
    assert oct((tmp_path / "data/a.txt").stat().st_mode & 0o7777) == "0o640"
    (tmp_path / "data/a.txt").chmod(0o600)
    assert FileSet([entries[1]], tmp_path).plan()[0].diff()["before"] == "mode: 0600\ntwo\n"
    assert converge(tmp_path, Entry("/rc", "absent", marker="m"), Entry("/rc", "absent", marker="n")) == ["rc"]
    assert not (tmp_path / "rc").exists()


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([Entry("/new"), Entry("/folder", content="x")], "a folder is there already"),
        ([Entry("/new"), Entry("/folder", "link", target="x")], "a folder is there already"),
        ([Entry("/new"), Entry("/file", "folder")], "a file is there already"),
        ([Entry("/new"), Entry("/folder", "absent")], "not empty"),
        ([Entry("/new"), Entry("/file", owner="no-such-user")], "no user of that name"),
        ([Entry("/new"), Entry("/file", mode="420")], "octal number in quotes"),
        ([Entry("relative")], "begins with /"),
        ([Entry("/a/../b")], "holds no"),
        ([Entry("/out", "block", marker="m", text="x")], "outside of"),
    ],
)
def test_refused_before_anything_is_written(tmp_path: Path, entries: list[Entry], sentence: str) -> None:
    root = tmp_path / "root"
    (root / "folder" / "inner").mkdir(parents=True)
    (root / "file").write_text("mine\n")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    with pytest.raises(PodcycleError, match=sentence):
        FileSet(entries, root).converge()
    assert snapshot(tmp_path) == before


def test_check_mode_knows_an_owner_that_comes_later(tmp_path: Path) -> None:
    (change,) = FileSet([Entry("/d", "folder", group="made-by-an-earlier-task")], tmp_path, check_mode=True).converge()
    assert "group: made-by-an-earlier-task" in change.diff()["after"]


def test_a_long_program_is_one_line_of_the_diff_and_a_small_change_is_shown(tmp_path: Path) -> None:
    program = "".join(f"line {number}\n" for number in range(412))
    digest = hashlib.sha256(program.encode()).hexdigest()[:12]

    def diff(content: str) -> tuple[str, str]:
        (change,) = FileSet([Entry("/p", content=content, mode="0644")], tmp_path).converge()
        told = change.diff()
        return told["before"], told["after"]

    assert diff(program) == ("", f"state: file\nmode: 0644\n(412 lines, sha256 {digest}\u2026)\n")
    # A person's own long start file, with our block: what changes is short.
    (change,) = FileSet([Entry("/p", "block", marker="m", text="x")], tmp_path).converge()
    assert change.diff()["after"] == change.diff()["before"] + "# BEGIN m\nx\n# END m\n"
    before, after = diff(program.replace("line", "row"))
    assert before.startswith("(415 lines, sha256 ") and after.startswith("(412 lines, sha256 ") and before != after
    (change,) = FileSet([Entry("/p", "absent")], tmp_path).converge()
    assert change.diff()["before"].endswith("\u2026)\n") and change.diff()["after"] == ""
    small = "".join(f"setting_{number} = {number}\n" for number in range(60))
    assert diff(small) == ("", f"state: file\nmode: 0644\n{small}")
    before, after = diff("x" * 5000)
    assert (before, after.split(",")[0]) == (f"(60 lines, sha256 {hashlib.sha256(small.encode()).hexdigest()[:12]}\u2026)\n", "(1 line")
    assert diff("\0\0")[1].startswith("(2 bytes, sha256 ")


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "f").write_text("old\n")
    monkeypatch.setattr(_file_set.os, "fsync", full)
    with pytest.raises(PodcycleError, match="No space left on device; make room"):
        FileSet([Entry("/f", content="new\n")], tmp_path).converge()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "old\n")]


def test_folders_go_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    assert converge(tmp_path, Entry("/d", "absent", recursive=True)) == ["d"]
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_a_person_made_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("mine\n")
    (tmp_path / "rc").symlink_to("real")
    assert converge(tmp_path, Entry("/rc", "block", marker="m", text="x")) == ["real"]
    assert (tmp_path / "rc").is_symlink() and (tmp_path / "real").read_text() == "mine\n# BEGIN m\nx\n# END m\n"


BLOCK = "# BEGIN m\nx\n# END m\n"


@pytest.mark.parametrize(
    ("text", "at", "after"),
    [
        ("", "top", BLOCK),
        ("a\n", "top", f"{BLOCK}a\n"),
        ("#!/bin/sh\na\n", "top", f"#!/bin/sh\n{BLOCK}a\n"),
        ("a", "bottom", f"a\n{BLOCK}"),
        ("a\n# BEGIN m\nold\n# END m\nb\n", "bottom", f"a\n{BLOCK}b\n"),
        ("a\n# BEGIN m\nold\n# END m\nb\n", "top", f"{BLOCK}a\nb\n"),
        ("# a\n\n# BEGIN o\no\n# END o\n# BEGIN m\nold\n# END m\nb\n", "top", f"# a\n\n# BEGIN o\no\n# END o\n{BLOCK}b\n"),
        (f"{BLOCK}a\n{BLOCK}", "top", f"{BLOCK}a\n"),
        ("# BEGIN m\na\n", "top", f"{BLOCK}a\n"),
        ("a\n# END m\n", "bottom", f"a\n{BLOCK}"),
        (f"# BEGIN m\na\n{BLOCK}", "bottom", f"a\n{BLOCK}"),
    ],
)
def test_one_block_in_its_place(text: str, at: str, after: str) -> None:
    merged = merge_block(text, "m", "x\n", at)
    assert merged == after
    assert merge_block(merged, "m", "x", at) == merged
    assert "# BEGIN m" not in remove_block(merged, "m")


@pytest.fixture
def env(tmp_path: Path) -> ShellEnv:
    for name in ("cuda/bin", "cuda/lib64", "home", "it's"):
        (tmp_path / "ws" / name).mkdir(parents=True)
    (tmp_path / "ws/cuda/bin/nvcc").write_text("#!/bin/sh\necho V13.0.88\n")
    (tmp_path / "ws/cuda/bin/nvcc").chmod(0o755)
    (tmp_path / "ws/home/.bashrc").write_text("case $- in\n    *i*) ;;\n      *) return;;\nesac\n")
    workspace = str(tmp_path / "ws")
    return ShellEnv(
        "cuda13", workspace, "user", variables={"A": "it's $HOME `x`"}, path=[f"{workspace}/cuda/bin", f"{workspace}/it's", f"{workspace}/gone"],
        library_path=[f"{workspace}/cuda/lib64"], home=f"{workspace}/home",
    )  # fmt: skip


def shell(env: ShellEnv, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": "/usr/bin:/bin", "HOME": env.home, "TERM": "dumb"}
    return subprocess.run(command, env={**base, **more}, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False)


def test_every_kind_of_shell_sees_it_once(env: ShellEnv) -> None:
    assert len(env.converge(present=True, check_mode=True)) == len(env.converge(present=True, check_mode=False)) == 4
    assert env.converge(present=True, check_mode=False) == []
    front = f"{env.workspace}/cuda/bin:{env.workspace}/it's:"
    ask = 'echo "$PATH|$LD_LIBRARY_PATH|$A|$(nvcc)"; set'
    # SSH_CLIENT with SHLVL unset is what makes Debian's bash read its start files for ssh HOST COMMAND.
    shells: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("bash", "-lc", ask), {}),
        (("bash", "-ic", ask), {}),
        (("sh", "-lc", ask), {}),
        (("bash", "-c", ask), {"SSH_CLIENT": "127.0.0.1 1 22"}),
        (("bash", "-lc", f"bash -lc {ask!r}"), {"PATH": f"/usr/bin:{env.workspace}/cuda/bin:/bin:{env.workspace}/cuda/bin"}),
    ]
    for command, more in shells:
        if command[0] == "bash" and "SSH_CLIENT" in more and "debian" not in Path("/etc/os-release").read_text():
            continue
        said = shell(env, *command, **more)
        path, library, value, nvcc = said.stdout.splitlines()[0].split("|")
        assert path == f"{front}/usr/bin:/bin" or path.startswith(front) and path.count("cuda/bin") == 1, command
        assert (library, value, nvcc) == (f"{env.workspace}/cuda/lib64", "it's $HOME `x`", "V13.0.88"), command
        assert "podcycle_" not in said.stdout.partition("\n")[2].replace("/podcycle_", ""), command


@pytest.mark.parametrize("interpreter", ["bash", "sh"])
def test_read_twice_under_strict_settings(env: ShellEnv, interpreter: str) -> None:
    env.converge(present=True, check_mode=False)
    text = f"set -eu; . '{env.reader}'; . '{env.reader}'; echo \"$PATH|$LD_LIBRARY_PATH\""
    said = shell(env, interpreter, "-c", text)
    assert said.stdout == f"{env.workspace}/cuda/bin:{env.workspace}/it's:/usr/bin:/bin|{env.workspace}/cuda/lib64\n" and said.stderr == ""


def test_silent_without_the_workspace(env: ShellEnv, tmp_path: Path) -> None:
    env.converge(present=True, check_mode=False)
    shutil.copytree(env.home, tmp_path / "home")
    shutil.rmtree(env.workspace)
    for command in (("bash", "-lc", "true"), ("bash", "-c", "true"), ("sh", "-lc", "true")):
        said = shell(env, *command, HOME=str(tmp_path / "home"), SSH_CLIENT="127.0.0.1 1 22")
        assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_the_hook_goes_with_the_last_part(env: ShellEnv) -> None:
    before = snapshot(Path(env.home))
    node = ShellEnv("node", env.workspace, "user", order=10, variables={"B": "2"}, home=env.home)
    for part in (env, node):
        part.converge(present=True, check_mode=False)
    moved = ShellEnv("node", env.workspace, "user", order=11, home=env.home)
    assert [change.path.name for change in moved.converge(present=True, check_mode=False)] == ["10-node.sh", "11-node.sh"]
    moved.converge(present=False, check_mode=False)
    assert "podcycle" in Path(env.home, ".bashrc").read_text()
    env.converge(present=False, check_mode=False)
    assert snapshot(Path(env.home)) == before
    assert env.converge(present=False, check_mode=False) == []


def test_system_scope_and_the_file_that_masks_profile(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/bash.bashrc").write_text('[ -z "${PS1-}" ] && return\n')
    system = ShellEnv("node", "/ws", "system", variables={"B": "2"}, root=tmp_path)
    system.converge(present=True, check_mode=False)
    assert (tmp_path / "etc/bash.bashrc").read_text().startswith("# BEGIN podcycle.gpu environment\nif [ -r /ws/.podcycle/env.sh ]")
    assert (tmp_path / "etc/profile.d/podcycle.sh").stat().st_mode & 0o777 == 0o644
    (tmp_path / "root").mkdir()
    (tmp_path / "root/.bash_profile").touch()
    assert ShellEnv("node", "/ws", "user", home="/root", root=tmp_path).places() == ["/root/.bashrc", "/root/.profile", "/root/.bash_profile"]


@pytest.mark.parametrize(
    "bad", [{"name": "a/b"}, {"path": ["bin"]}, {"path": ["/a:b"]}, {"variables": {"1A": "x"}}, {"workspace": "ws"}, {"order": 100}, {"variables": {"A": "\0"}}]
)
def test_bad_wishes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(PodcycleError, match="shell_env"):
        ShellEnv(**{"name": "x", "workspace": "/ws", **bad}).check()


def test_owner_by_name(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    assert converge(tmp_path, Entry("/f", content="", owner="nobody", group="nogroup", mode="02750")) == ["f"]
    assert (tmp_path / "f").owner() == "nobody" and (tmp_path / "f").stat().st_mode & 0o7777 == 0o2750


def test_secrets_in_the_environment_are_for_the_group_and_out_of_every_diff(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getegid()).gr_name

    def part(**variables: str) -> ShellEnv:
        return ShellEnv("node", "/ws", "system", variables=variables, group=group, root=tmp_path)

    def converged(env: ShellEnv) -> tuple[int, str]:
        diff = next(change.diff() for change in env.converge(present=True, check_mode=True) if str(change.path).endswith("50-node.sh"))
        env.converge(present=True, check_mode=False)
        status = (tmp_path / "ws/.podcycle/env.d/50-node.sh").stat()
        assert status.st_gid == os.getegid()
        return status.st_mode & 0o777, json.dumps(diff)

    mode, diff = converged(part(A="1", HF_TOKEN="first it's\nhushed", MIRROR="https://me:first@m.example"))
    assert mode == 0o640 and "first" not in diff and "hushed" not in diff and "HF_TOKEN=(hidden)" in diff and "export A=1" in diff
    mode, diff = converged(part(A="1", HF_TOKEN="second", MIRROR="https://me:first@m.example"))
    assert mode == 0o640 and "first" not in diff and "second" not in diff and "another value" in diff
    mode, diff = converged(part(A="1"))
    assert mode == 0o644 and "second" not in diff and "HF_TOKEN=(hidden)" in diff
    bare = ShellEnv("bare", "/ws", "system", variables={"HF_TOKEN": "x"}, root=tmp_path)
    bare.converge(present=True, check_mode=False)
    assert (tmp_path / "ws/.podcycle/env.d/50-bare.sh").stat().st_mode & 0o777 == 0o600


def test_a_part_that_may_not_be_read_is_passed_over_in_silence(env: ShellEnv, tmp_path: Path) -> None:
    env.converge(present=True, check_mode=False)
    reader = tmp_path / "reader.sh"
    # Root may read everything: what cannot be read is a link to nothing for it.
    reader.write_text(Path(env.reader).read_text(encoding="utf-8"), encoding="utf-8")
    secret = Path(env.folder) / "60-secret.sh"
    secret.symlink_to(tmp_path / "not-there")
    done = subprocess.run(["sh", "-eu", "-c", f". {reader}; echo on"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("on\n", "")
