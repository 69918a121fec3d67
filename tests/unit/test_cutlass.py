# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CUTLASS at its pin: from real local repositories, and a real GEMM from the real headers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _cuda_step, _cutlass, _cutlass_step, _toolkits
from ansible_collections.podcycle.gpu.plugins.module_utils._cutlass import CutlassError, CutlassNotVerified, NotCutlass
from ansible_collections.podcycle.gpu.plugins.module_utils._git import GitError, GitTimeout, NoSuchRef, bare_url
from support.stack import cutlass_repo, git, release

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".build" / "cuda-cache"
pytestmark = pytest.mark.one_end
OPTIONS: dict[str, Any] = {
    "dest": None, "source": "git", "version": "v4.2.0", "update": False, "timeout_seconds": 30, "compile": False, "scope": "user", "find_links": [],
    "index_url": None, "cache_dir": str(CACHE), "uv_version": None,
}  # fmt: skip
SCRIPT = """
import json, sys
from ansible_collections.podcycle.gpu.plugins.module_utils._cutlass_step import converge
converge(json.load(sys.stdin), check_mode=False)
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return cutlass_repo(tmp_path / "source")


def options(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {**OPTIONS, "workspace": str(tmp_path / "ws"), "repo": f"file://{tmp_path}/source", **changes}


def converge(tmp_path: Path, *, check_mode: bool = False, **changes: Any) -> tuple[bool, dict[str, Any]]:
    changed, found, _diff = _cutlass_step.converge(options(tmp_path, **changes), check_mode=check_mode)
    return changed, found


def left_over(tmp_path: Path) -> list[str]:
    return [entry.name for entry in (tmp_path / "ws").iterdir() if ".part-" in entry.name]


@pytest.mark.parametrize("kind", ["tag", "branch", "commit", "old commit"])
def test_a_pin_is_fetched_shallow_and_needs_no_network_afterwards(tmp_path: Path, repo: Path, kind: str) -> None:
    commit = git(repo, "rev-parse", "v4.1.0^{commit}" if kind == "old commit" else "HEAD")
    pin = {"tag": "v4.2.0", "branch": "main"}.get(kind, commit)
    _changed, planned, diff = _cutlass_step.converge(options(tmp_path, version=pin), check_mode=True)
    assert (planned["did"], (tmp_path / "ws").exists()) == (["fetch"], False)
    changed, found, really = _cutlass_step.converge(options(tmp_path, version=pin), check_mode=False)
    assert (changed, found["version"], found["commit"], diff) == (True, "4.1.0" if kind == "old commit" else "4.2.0", commit, really)
    assert git(tmp_path / "ws" / "cutlass", "rev-list", "--count", "HEAD") == "1"
    assert left_over(tmp_path) == []
    repo.rename(tmp_path / "gone")
    assert converge(tmp_path, version=pin)[0] is False


def test_a_branch_is_followed_only_on_request(tmp_path: Path, repo: Path) -> None:
    converge(tmp_path, version="main")
    newest = release(repo, "4.3.0")
    assert converge(tmp_path, version="main")[0] is False
    changed, found = converge(tmp_path, version="main", update=True, check_mode=True)
    assert (changed, found["version"], found["why"]) == (True, "4.2.0", f"main has moved to {newest[:12]}")
    assert converge(tmp_path, version="main", update=True)[1]["commit"] == newest
    assert converge(tmp_path, version="main", update=True)[0] is False


def test_a_moved_pin_replaces_a_clean_tree_without_a_trace(tmp_path: Path, repo: Path) -> None:
    converge(tmp_path, version="v4.1.0")
    changed, found = converge(tmp_path)
    assert (changed, found["version"], found["replaced"]) == (True, "4.2.0", None)
    assert sorted(entry.name for entry in (tmp_path / "ws").iterdir()) == [".cutlass.lock", "cutlass"]


@pytest.mark.parametrize("harm", ["other commit", "deleted", "edited", "added", "no stamp"])
def test_a_tree_that_is_not_as_it_was_fetched_heals_and_is_kept_beside(tmp_path: Path, repo: Path, harm: str) -> None:
    converge(tmp_path)
    tree = tmp_path / "ws" / "cutlass"
    if harm == "other commit":
        git(tree, "fetch", "-q", "--depth", "1", "origin", "v4.1.0")
        git(tree, "checkout", "-q", "FETCH_HEAD")
    elif harm == "deleted":
        (tree / "include" / "cutlass" / "gemm.h").unlink()
    elif harm == "edited":
        (tree / "tools" / "util" / "include" / "util.h").write_text("// my own\n")
    elif harm == "added":
        (tree / "include" / "mine.h").write_text("// mine\n")
    else:
        (tree / ".podcycle-cutlass.json").unlink()
    changed, found = converge(tmp_path)
    assert (changed, found["version"]) == (True, "4.2.0")
    if harm == "deleted":
        assert found["replaced"] is None, "what is lost is nobody's work"
    else:
        assert found["replaced"].startswith(f"{tree}.replaced-") and (Path(found["replaced"]) / "include").is_dir()
    assert converge(tmp_path)[0] is False


@pytest.mark.parametrize("work", ["a file that is no header", "a changed document", "a branch", "a stash"])
def test_a_moved_pin_keeps_whatever_may_be_somebodys_work(tmp_path: Path, repo: Path, work: str) -> None:
    (repo / "README.md").write_text("one\n", encoding="utf-8")
    release(repo, "4.3.0")
    converge(tmp_path, version="v4.3.0")
    tree = tmp_path / "ws" / "cutlass"
    if work == "a file that is no header":
        (tree / "mine.cu").write_text("// mine\n", encoding="utf-8")
    elif work == "a branch":
        git(tree, "branch", "mine")
    else:
        (tree / "README.md").write_text("two\n", encoding="utf-8")
        if work == "a stash":
            git(tree, "stash")
    kept = converge(tmp_path)[1]["replaced"]
    assert kept and (Path(kept) / ".git").is_dir()


def test_each_kept_tree_has_a_name_of_its_own(tmp_path: Path, repo: Path) -> None:
    kept = set()
    for number in range(3):
        converge(tmp_path)
        (tmp_path / "ws" / "cutlass" / "include" / "cutlass" / "gemm.h").write_text(f"// work {number}\n", encoding="utf-8")
        kept.add(converge(tmp_path)[1]["replaced"])
    texts = [(Path(path) / "include" / "cutlass" / "gemm.h").read_text(encoding="utf-8") for path in kept]
    assert sorted(texts) == [f"// work {number}\n" for number in range(3)]


def test_a_ref_that_does_not_exist_is_named_beside_those_that_do(tmp_path: Path, repo: Path) -> None:
    converge(tmp_path)
    with pytest.raises(NoSuchRef) as caught:
        converge(tmp_path, version="v9.9.9")
    assert str(caught.value) == (
        f"fetch CUTLASS v9.9.9 from file://{tmp_path}/source: there is no branch, tag or full commit v9.9.9 in it; it has v4.2.0, v4.1.0, main"
    )
    for version in ("f" * 40, "--upload-pack=touch x", "a..b", ""):
        with pytest.raises((NoSuchRef, GitError)):
            converge(tmp_path, version=version)
    assert (left_over(tmp_path), converge(tmp_path)[0]) == ([], False)


def test_what_is_no_cutlass_is_refused_and_the_old_tree_stays(tmp_path: Path, repo: Path) -> None:
    converge(tmp_path)
    git(repo, "checkout", "-q", "--orphan", "other")
    git(repo, "rm", "-rqf", ".")
    (repo / "thesis.tex").write_text("x")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "x")
    with pytest.raises(NotCutlass, match="has no include/cutlass/version.h"):
        converge(tmp_path, version="other")
    assert converge(tmp_path)[0] is False


def test_a_folder_of_somebody_elses_is_not_touched(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "ws" / "cutlass").mkdir(parents=True)
    (tmp_path / "ws" / "cutlass" / "thesis.tex").touch()
    with pytest.raises(CutlassError, match="is not empty and is no CUTLASS; name another folder with cutlass_dest"):
        converge(tmp_path)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "git"])
def test_a_mirror_that_does_not_answer_has_an_end(tmp_path: Path, silent_port: int, scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(GitTimeout, match="did not answer within 2 s; name a mirror with cutlass_repo"):
        converge(tmp_path, repo=f"{scheme}://127.0.0.1:{silent_port}/cutlass.git", timeout_seconds=2)
    assert time.monotonic() - started < 10
    assert left_over(tmp_path) == []


def test_a_helper_that_outlives_git_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    started = time.monotonic()
    with pytest.raises(GitTimeout, match="did not answer within 1 s"):
        converge(tmp_path, timeout_seconds=1)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("scheme", ["http", "git"])
def test_a_key_in_an_address_is_never_repeated(tmp_path: Path, scheme: str) -> None:
    assert bare_url("https://me:key@example.com/x.git") == "https://example.com/x.git"
    with pytest.raises(GitError) as caught:
        converge(tmp_path, repo=f"{scheme}://me:s3cret@127.0.0.1:9/x.git")
    assert "s3cret" not in str(caught.value) and f"from {scheme}://127.0.0.1:9/x.git" in str(caught.value)


def test_a_machine_without_git_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GitError, match="this machine has no git; install it .* or set cutlass_source to wheel"):
        converge(tmp_path)


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path: Path, repo: Path) -> None:
    for number in range(3000):
        (repo / "include" / f"h{number}.h").write_text(f"// {number}\n" * 50)
    release(repo, "4.4.0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    for wait in (0.0, 0.1, 0.25, 0.5):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(options(tmp_path, version="v4.4.0")))
        process.stdin.close()
        ends = time.monotonic() + 60
        while process.poll() is None and not any((tmp_path / "ws").glob(".cutlass.part-*")) and time.monotonic() < ends:
            time.sleep(0.01)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert converge(tmp_path, version="v4.4.0", check_mode=True)[0] is not (tmp_path / "ws" / "cutlass").exists()
    assert converge(tmp_path, version="v4.4.0")[1]["version"] == "4.4.0"
    (tmp_path / "ws" / ".cutlass.part-killed").mkdir()
    assert (converge(tmp_path, version="v4.4.0")[0], left_over(tmp_path)) == (False, [])


def test_root_gets_a_link_and_keeps_a_folder_of_others(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cutlass, "SYSTEM_LINK", tmp_path / "opt-cutlass")
    assert converge(tmp_path, scope="system")[1]["did"] == ["fetch", "link"]
    assert (tmp_path / "opt-cutlass" / "include").is_dir() and converge(tmp_path, scope="system")[0] is False
    (tmp_path / "opt-cutlass").unlink()
    assert converge(tmp_path, scope="system", check_mode=True)[1]["did"] == ["link"]
    (tmp_path / "opt-cutlass").mkdir()
    assert converge(tmp_path, scope="system")[0] is False


def test_the_wheels_headers_compile_to_a_gemm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real headers and the real compiler, and not at all when a header is broken."""
    monkeypatch.setattr(_toolkits, "_SYSTEM", ())
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    wheel = {"source": "wheel", "compile": True}
    with pytest.raises(CutlassNotVerified, match="this machine has no nvcc; run the role cuda13 first"):
        converge(tmp_path, **wheel)
    toolkit: dict[str, Any] = {
        "workspace": str(tmp_path / "ws"), "prefix": None, "version": "13.0.2", "nvcc_version": "13.0.88", "method": "wheels", "components": [], "reuse": False,
        "scope": "user", "compat": "never", "accept_old_driver": False, "find_links": [], "index_url": None, "runfile": None, "runfile_checksum": None,
        "apt_repository": None, "apt_fingerprint": "", "cache_dir": str(CACHE), "uv_version": None,
    }  # fmt: skip
    _cuda_step.converge(toolkit, check_mode=False)
    changed, found = converge(tmp_path, **wheel)
    assert (changed, found["version"], found["commit"], found["arch"], found["did"]) == (True, "4.2.0", None, "sm_90", ["fetch", "compile"])
    assert converge(tmp_path, **wheel)[0] is False
    stamp = tmp_path / "ws" / "cutlass" / ".podcycle-cutlass.json"
    record = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**record, "compiled": {"arch": "sm_80", "nvcc": "13.0.88"}}))
    assert converge(tmp_path, **wheel)[1]["did"] == ["compile"]
    header = tmp_path / "ws" / "cutlass" / "include" / "cutlass" / "gemm" / "kernel" / "default_gemm.h"
    header.write_text("#error broken\n")
    stamp.write_text(json.dumps({**record, "compiled": None, "files": {**record["files"], "include/cutlass/gemm/kernel/default_gemm.h": 14}}))
    with pytest.raises(CutlassNotVerified, match="compile a GEMM from CUTLASS v4.2.0 for sm_90: .*broken"):
        converge(tmp_path, **wheel)


def test_a_wheel_wants_a_version(tmp_path: Path) -> None:
    with pytest.raises(CutlassError, match="'main' is no version"):
        converge(tmp_path, source="wheel", version="main")
