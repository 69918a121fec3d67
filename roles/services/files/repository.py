# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone of one repository: made where it is missing, healed where it is broken, brought up to date where nobody changed it.

What somebody else put there, or has changed there, is named and left alone. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 900.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class RepositoryError(Exception):
    """A sentence for people."""


def bare_url(url: str) -> str:
    """An address without the name and the key that it may carry."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def plain_url(url: str) -> str:
    """An address as it is compared: without a key, a trailing slash or .git."""
    return re.sub(r"(/|\.git)+$", "", bare_url(url.strip()))


@dataclass(frozen=True)
class Outcome:
    """What was done, in a word, and what people should know."""

    changed: bool
    did: str
    note: str = ""


class Repository:
    def __init__(self, url: str, ref: str, folder: Path, *, clone: bool = True, pull: bool = True, timeout: float = TIMEOUT_SECONDS) -> None:
        self.url, self.ref, self.dir, self.clone, self.pull = url, ref, folder, clone, pull
        self.ends = time.monotonic() + timeout
        self.what = f"bring {bare_url(url)} to {folder}"

    def converge(self, *, check: bool = False) -> Outcome:
        """Bring the folder to the wanted state; what needs a person's decision is raised."""
        if not self.ref or self.ref.startswith("-") or re.search(r"[\s~^:?*\[\\]|\.\.", self.ref):
            raise RepositoryError(f"{self.what}: {self.ref!r} cannot be the name of a branch, a tag or a commit; set REPO_REF or services_repo_ref")
        state = self.look()
        if state == "missing":
            return self.bring(check, "cloned") if self.clone else Outcome(False, "left out", f"{self.dir} is not there, and CLONE_REPO_ON_START is 0")
        if state == "broken":
            return self.heal(check)
        if not self.pull:
            return Outcome(False, "left as it is", "GIT_AUTO_PULL is 0")
        return self.update(check)

    def look(self) -> str:
        """missing, broken or ours; a folder of somebody else's is refused."""
        if self.dir.is_symlink() and not self.dir.exists():
            raise RepositoryError(f"{self.what}: it is a link that leads nowhere; remove it, or set REPO_DIR")
        if self.dir.exists() and not self.dir.is_dir():
            raise RepositoryError(f"{self.what}: there is a file of that name; remove it, or set REPO_DIR to another folder")
        if not self.dir.is_dir() or not any(self.dir.iterdir()):
            return "missing"
        git = self.dir / ".git"
        if not os.path.lexists(git):
            names = ", ".join(sorted(path.name for path in self.dir.iterdir())[:3])
            raise RepositoryError(f"{self.what}: the folder holds {names} and is no clone; empty it, or set REPO_DIR to another folder")
        origin = self.git("config", "--get", "remote.origin.url", check=False).stdout.strip()
        if origin and plain_url(origin) != plain_url(self.url):
            raise RepositoryError(f"{self.what}: the folder is a clone of {bare_url(origin)}; set REPO_DIR to another folder, or REPO_URL to that one")
        if not origin or self.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False).returncode:
            return "broken"
        # A commit whose objects are damaged can be named and not be read.
        return "broken" if self.git("ls-tree", "-r", "HEAD", check=False).returncode or self.git("diff", "--quiet", check=False).returncode > 1 else "ours"

    def bring(self, check: bool, did: str) -> Outcome:
        if check:
            return Outcome(True, did)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet")
        # Set first, so that a clone that is cut off here is known as ours and healed.
        self.git("config", "remote.origin.url", bare_url(self.url))
        self.git("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
        commit = self.fetch()
        if _COMMIT.fullmatch(self.ref):
            self.git("update-ref", "--no-deref", "HEAD", commit)
        else:
            self.git("update-ref", f"refs/heads/{self.ref}", commit)
            self.git("symbolic-ref", "HEAD", f"refs/heads/{self.ref}")
        self.git("read-tree", "HEAD")
        # Only what is missing is written: what is there may be somebody's work.
        self.git("checkout-index", "--all", "--quiet", check=False)
        left = self.changed_files()
        return Outcome(True, did, f"{len(left)} files differ from {commit[:12]} and were left as they are, such as {left[0]}" if left else "")

    def heal(self, check: bool) -> Outcome:
        """A new git folder beside the files; the old one is kept aside, unless it never held anything."""
        if check:
            return Outcome(True, "healed")
        git = self.dir / ".git"
        held = not git.is_dir() or (git / "packed-refs").exists() or any(path.is_file() for path in (git / "refs").rglob("*"))
        if not held and (git / "config").exists():
            return self.bring(False, "healed")
        aside = self.dir / f".git.broken-{time.time_ns()}"
        git.rename(aside)
        note = f"the broken git folder is {aside}"
        return Outcome(True, "healed", "; ".join(filter(None, (note, self.bring(False, "healed").note))))

    def update(self, check: bool) -> Outcome:
        before = self.git("rev-parse", "HEAD").stdout.strip()
        if _COMMIT.fullmatch(self.ref) and before == self.ref:
            return Outcome(False, "up to date")
        try:
            commit = self.fetch()
        except RepositoryError as error:
            return Outcome(False, "left as it is", f"it could not be updated: {error}")
        if commit == before:
            return Outcome(False, "up to date")
        changed = self.changed_files()
        if changed:
            return Outcome(False, "left as it is", f"{commit[:12]} was not taken: {len(changed)} files have local changes, such as {changed[0]}")
        if self.git("merge-base", "--is-ancestor", "HEAD", commit, check=False).returncode and self.ahead(commit):
            return Outcome(False, "left as it is", f"{commit[:12]} was not taken: {self.dir} has commits that {bare_url(self.url)} does not have")
        if check:
            return Outcome(True, "updated")
        how = ["--detach", commit] if _COMMIT.fullmatch(self.ref) else ["-B", self.ref, commit]
        done = self.git("checkout", "--quiet", *how, check=False)
        if done.returncode:
            return Outcome(False, "left as it is", f"{commit[:12]} was not taken: {_last(done.stderr)}")
        return Outcome(True, "updated", f"{before[:12]} to {commit[:12]}")

    def ahead(self, commit: str) -> bool:
        """Whether HEAD has commits of its own; without the whole history nobody can say, and only what was fetched before is safe."""
        if self.git("merge-base", "HEAD", commit, check=False).returncode == 0:
            return True
        known = self.git("for-each-ref", "--format=%(objectname)", "refs/podcycle/", check=False).stdout.split()
        return self.git("rev-parse", "HEAD").stdout.strip() not in known

    def fetch(self) -> str:
        """The commit that the ref names now; remembered, so that it is known later as one of theirs."""
        done = self.git("fetch", "--quiet", "--depth", "1", "--no-tags", self.url, self.ref, check=False)
        if done.returncode and _COMMIT.fullmatch(self.ref):
            # A server may refuse to hand out a commit that no ref names; the whole history has it.
            done = self.git("fetch", "--quiet", "--tags", self.url, "+refs/heads/*:refs/remotes/origin/*", check=False)
        if done.returncode:
            raise RepositoryError(f"{self.what}: git said: {self.clean(done.stderr)}; check REPO_URL, REPO_REF and the network")
        commit = self.ref if _COMMIT.fullmatch(self.ref) else self.git("rev-parse", "FETCH_HEAD").stdout.strip()
        self.git("update-ref", f"refs/podcycle/{commit[:12]}", commit)
        return commit

    def changed_files(self) -> list[str]:
        return [line[3:] for line in self.git("status", "--porcelain", "--untracked-files=no").stdout.splitlines()]

    def clean(self, text: str) -> str:
        """What git said, without the name and the key that were in the address."""
        found = re.search(r"://([^/@]+)@", self.url)
        for secret in (found.group(1), found.group(1).partition(":")[2]) if found else ():
            text = text.replace(secret, "***") if secret else text
        return _last(text)

    def git(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """In a process group of its own: git's helpers outlive it and hold its pipes."""
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": str(self.dir.parent)}
        environment.update(GIT_HTTP_LOW_SPEED_LIMIT="1000", GIT_HTTP_LOW_SPEED_TIME="60")
        environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30")
        command = ["git", "-c", f"safe.directory={self.dir}", "-C", str(self.dir), *words]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise RepositoryError(f"{self.what}: this machine has no git; install it (apt-get install git, or the role node)") from None
        try:
            out, err = process.communicate(timeout=max(0.1, self.ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise RepositoryError(f"{self.what}: git {words[0]} did not end in time") from None
        if check and process.returncode:
            raise RepositoryError(f"{self.what}: git {words[0]} ended with {process.returncode}: {self.clean(err)}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def _last(text: str) -> str:
    lines = ["".join(letter if letter.isprintable() else " " for letter in line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "nothing")[:300]
