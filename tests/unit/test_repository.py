# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository on a pod, against real ones: missing, empty, cut off, damaged, changed, foreign."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.services import load
from support.stack import git

repository = load("repository")
Repository, RepositoryError = repository.Repository, repository.RepositoryError


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    made = tmp_path / "theirs"
    made.mkdir()
    git(made, "init", "-q")
    commit(made, "a.py", "one\n")
    return made


def commit(repo: Path, name: str, text: str) -> str:
    (repo / name).write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", text.strip())
    return git(repo, "rev-parse", "HEAD")


def bring(theirs: Path, folder: Path, **more: object) -> tuple[bool, str, str]:
    found = Repository(f"file://{theirs}", more.pop("ref", "main"), folder, **more).converge()
    return found.changed, found.did, found.note


def whole(folder: Path, commit: str) -> bool:
    return git(folder, "rev-parse", "HEAD") == commit and git(folder, "status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.parametrize("empty", [False, True])
def test_it_is_cloned_once_and_follows_its_branch(theirs: Path, tmp_path: Path, empty: bool) -> None:
    ours = tmp_path / "deep/ours"
    if empty:
        ours.mkdir(parents=True)
    assert Repository(f"file://{theirs}", "main", ours).converge(check=True).changed and not (ours / ".git").exists()
    assert bring(theirs, ours) == (True, "cloned", "")
    assert bring(theirs, ours) == (False, "up to date", "")
    second = commit(theirs, "b.py", "two\n")
    assert bring(theirs, ours, pull=False)[:2] == (False, "left as it is") and not (ours / "b.py").exists()
    assert bring(theirs, ours)[:2] == (True, "updated") and whole(ours, second) and git(ours, "branch", "--show-current") == "main"
    # Rewritten there, and nothing was done here.
    git(theirs, "reset", "-q", "--hard", "HEAD~1")
    third = commit(theirs, "c.py", "three\n")
    assert bring(theirs, ours)[:2] == (True, "updated") and whole(ours, third)


def test_a_commit_and_a_clone_that_is_not_wanted(theirs: Path, tmp_path: Path) -> None:
    first = git(theirs, "rev-parse", "HEAD")
    commit(theirs, "b.py", "two\n")
    assert bring(theirs, tmp_path / "none", clone=False)[:2] == (False, "left out") and not (tmp_path / "none").exists()
    assert bring(theirs, tmp_path / "ours", ref=first)[1] == "cloned" and whole(tmp_path / "ours", first)
    assert bring(theirs, tmp_path / "ours", ref=first) == (False, "up to date", "")


def cut_off(ours: Path) -> None:
    """As a kill in the first fetch leaves it."""
    origin = git(ours, "config", "--get", "remote.origin.url")
    for path in ours.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    git(ours, "init", "-q")
    git(ours, "config", "remote.origin.url", origin)


def no_objects(ours: Path) -> None:
    shutil.rmtree(ours / ".git/objects")
    (ours / ".git/objects").mkdir()


def no_tree(ours: Path) -> None:
    tree = git(ours, "rev-parse", "HEAD^{tree}")
    path = ours / ".git/objects" / tree[:2] / tree[2:]
    path.unlink()


def no_git_at_all(ours: Path) -> None:
    shutil.rmtree(ours / ".git")
    (ours / ".git").mkdir()


@pytest.mark.parametrize("harm", [cut_off, no_objects, no_tree, no_git_at_all])
def test_a_broken_clone_is_healed_and_work_in_it_is_kept(theirs: Path, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    ours = tmp_path / "ours"
    bring(theirs, ours)
    harm(ours)
    (ours / "a.py").write_text("mine\n")
    (ours / "notes.txt").write_text("mine\n")
    changed, did, note = bring(theirs, ours)
    assert (changed, did) == (True, "healed") and "1 files differ" in note and "a.py" in note
    assert (ours / "a.py").read_text() == (ours / "notes.txt").read_text() == "mine\n"
    git(ours, "checkout", "-q", "a.py")
    assert bring(theirs, ours) == (False, "up to date", "") and whole(ours, git(theirs, "rev-parse", "HEAD"))


def test_a_healing_that_fails_can_be_tried_again(theirs: Path, tmp_path: Path) -> None:
    ours, away = tmp_path / "ours", tmp_path / "away"
    bring(theirs, ours)
    no_objects(ours)
    theirs.rename(away)
    for _turn in range(2):
        with pytest.raises(RepositoryError, match="check REPO_URL"):
            bring(theirs, ours)
    away.rename(theirs)
    assert bring(theirs, ours)[1] == "healed" and (ours / "a.py").read_text() == "one\n"
    assert len(list(ours.glob(".git.broken-*"))) == 1


def test_what_somebody_changed_is_named_and_left(theirs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    bring(theirs, ours)
    (ours / "a.py").write_text("mine\n")
    commit(theirs, "b.py", "two\n")
    changed, did, note = bring(theirs, ours)
    assert (changed, did) == (False, "left as it is") and "1 files have local changes, such as a.py" in note and (ours / "a.py").read_text() == "mine\n"
    mine = commit(ours, "a.py", "mine\n")
    assert "has commits that" in bring(theirs, ours)[2] and git(ours, "rev-parse", "HEAD") == mine


def test_without_the_network_what_is_there_stays(theirs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    bring(theirs, ours)
    theirs.rename(tmp_path / "away")
    changed, did, note = bring(theirs, ours)
    assert (changed, did) == (False, "left as it is") and "could not be updated" in note
    with pytest.raises(RepositoryError, match="check REPO_URL"):
        bring(theirs, tmp_path / "new")


def foreign_files(folder: Path, _theirs: Path) -> str:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    return "holds thesis.tex and is no clone"


def foreign_clone(folder: Path, theirs: Path) -> str:
    other = theirs.parent / "other"
    shutil.copytree(theirs, other)
    bring(other, folder)
    return "is a clone of file://.*other"


def a_file(folder: Path, _theirs: Path) -> str:
    folder.write_text("x")
    return "there is a file of that name"


def a_dead_link(folder: Path, _theirs: Path) -> str:
    folder.symlink_to("nowhere")
    return "leads nowhere"


@pytest.mark.parametrize("make", [foreign_files, foreign_clone, a_file, a_dead_link])
def test_a_foreign_folder_is_named_and_not_touched(theirs: Path, tmp_path: Path, make: Callable[[Path, Path], str]) -> None:
    words = make(tmp_path / "ours", theirs)
    before = sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(RepositoryError, match=words):
        bring(theirs, tmp_path / "ours")
    assert sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_key_in_the_address_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError) as told:
        Repository("http://me:s3cret@127.0.0.1:9/x.git", "main", tmp_path / "ours").converge()
    assert "s3cret" not in str(told.value) and "s3cret" not in (tmp_path / "ours/.git/config").read_text()
