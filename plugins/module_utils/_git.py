# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""git, with an end to every wait and a sentence for every failure."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from ._errors import PodcycleError, clean_text
from ._uv import last_words

_SLOW = re.compile(r"(?i)operation too slow|timed out|low speed")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class GitError(PodcycleError):
    code = "git"


class NoSuchRef(GitError):
    code = "git_ref"


class GitTimeout(GitError):
    code = "git_timeout"


def bare_url(url: str) -> str:
    """An address without the name and the key that it may carry."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def without_key(text: str, url: str) -> str:
    """What git said, without the name and the key that were in the address."""
    found = re.search(r"://([^/@]+)@", url)
    for secret in (found.group(1), found.group(1).partition(":")[2]) if found else ():
        text = text.replace(secret, "***") if secret else text
    return text


class Git:
    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.ends = 0.0

    def fetch(self, tree: Path, repo: str, ref: str, what: str) -> None:
        """The one commit that the ref names, checked out into a new folder."""
        self.ends = time.monotonic() + self.timeout_seconds
        if not ref or ref.startswith("-") or re.search(r"[\s~^:?*\[\\]|\.\.", ref):
            raise NoSuchRef(f"{what}: {ref!r} cannot be the name of a branch, a tag or a commit")
        self._must(["init", "--quiet", str(tree)], what)
        self._must(["-C", str(tree), "remote", "add", "origin", bare_url(repo)], what)
        done = self._run(["-C", str(tree), "fetch", "--quiet", "--depth", "1", "--no-tags", repo, ref], what)
        target = "FETCH_HEAD"
        if done.returncode and _COMMIT.fullmatch(ref) and "find remote ref" not in done.stderr:
            # A server may refuse to hand out a commit that no ref names; the whole history has it.
            done = self._run(["-C", str(tree), "fetch", "--quiet", "--tags", repo, "+refs/heads/*:refs/remotes/origin/*"], what)
            target = ref
        if done.returncode:
            self._explain(done, repo, ref, what)
        checked = self._run(["-C", str(tree), "-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", target], what)
        if checked.returncode:
            raise NoSuchRef(f"{what}: there is no commit {ref} in it: {last_words(checked.stderr, 200)}")

    def newest(self, repo: str, ref: str, what: str) -> str | None:
        """The commit that a branch or a tag names now; None for a commit, which cannot move."""
        if _COMMIT.fullmatch(ref):
            return None
        self.ends = time.monotonic() + self.timeout_seconds
        done = self._run(["ls-remote", repo, f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}"], what)
        if done.returncode:
            self._explain(done, repo, ref, what)
        rows = {name: commit for commit, _tab, name in (line.partition("\t") for line in done.stdout.splitlines())}
        found = rows.get(f"refs/tags/{ref}^{{}}") or rows.get(f"refs/tags/{ref}") or rows.get(f"refs/heads/{ref}")
        if found is None:
            raise NoSuchRef(f"{what}: there is no branch or tag {ref} any more")
        return found

    def _must(self, arguments: list[str], what: str) -> None:
        done = self._run(arguments, what)
        if done.returncode:
            raise GitError(f"{what}: git {arguments[0]} ended with {done.returncode}: {last_words(done.stderr, 300)}")

    def _explain(self, done: subprocess.CompletedProcess[str], repo: str, ref: str, what: str) -> None:
        said = bare_url(without_key(last_words(done.stderr, 300), repo))
        if _SLOW.search(said):
            raise GitTimeout(f"{what}: the repository is too slow: {said}", hint="name a mirror with cutlass_repo, or set cutlass_source to wheel")
        if re.search(r"(?i)couldn't find remote ref|no such remote ref|not our ref", said):
            near = self._near(repo, ref, what)
            raise NoSuchRef(f"{what}: there is no branch, tag or full commit {ref} in it", hint=f"it has {near}" if near else "")
        raise GitError(f"{what}: git said: {said}", hint="check cutlass_repo and the network, name a mirror, or set cutlass_source to wheel")

    def _near(self, repo: str, ref: str, what: str) -> str:
        """The newest tags, and the branches, that one may have meant."""
        done = self._run(["ls-remote", "--refs", "--tags", "--heads", repo], what)
        names = [clean_text(line.split("\t", 1)[1], 60) for line in done.stdout.splitlines() if "\t" in line]
        tags = sorted((name.removeprefix("refs/tags/") for name in names if name.startswith("refs/tags/")), key=_version)
        heads = [name.removeprefix("refs/heads/") for name in names if name.startswith("refs/heads/")]
        main = [name for name in heads if name in ("main", "master")]
        return ", ".join([*reversed(tags[-4:]), *main])

    def _run(self, arguments: list[str], what: str) -> subprocess.CompletedProcess[str]:
        """In a process group of its own: git's helpers outlive it and hold its pipes."""
        if shutil.which("git") is None:
            raise GitError(f"{what}: this machine has no git; install it (apt-get install git, or the role node), or set cutlass_source to wheel")
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "LC_ALL": "C", "GIT_HTTP_LOW_SPEED_LIMIT": "1000"}
        environment["GIT_HTTP_LOW_SPEED_TIME"] = str(max(1, int(min(60, self.timeout_seconds))))
        environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30")
        process = subprocess.Popen(
            ["git", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=max(0.1, self.ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise GitTimeout(
                f"{what}: the repository did not answer within {self.timeout_seconds:.0f} s",
                hint="name a mirror with cutlass_repo, wait longer with cutlass_timeout_seconds, or set cutlass_source to wheel",
            ) from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _version(tag: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", tag))
