# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uploads finished files of a folder to a repository on Hugging Face: whole ones that nobody writes any more, each once.

A file is finished when it is the same in two looks, nobody holds it open for writing, and it can be read as what it is.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
TRUE = ("1", "true", "yes", "on")
BACKOFF_SECONDS, BACKOFF_LIMIT_SECONDS = 30.0, 1800.0
PARTIAL = (".tmp", ".part", ".partial", ".incomplete", ".lock", ".new")
Stamp = tuple[int, int, int]


class Hub(Protocol):
    """What is asked of Hugging Face."""

    def upload(self, files: dict[str, Path]) -> None:
        """One commit with these files, by their paths in the repository."""


class HuggingFace:
    """The official client; loaded when there is something to upload."""

    def __init__(self, repo_id: str, repo_type: str) -> None:
        self.repo_id, self.repo_type = repo_id, repo_type
        self.made = False

    def upload(self, files: dict[str, Path]) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        if not self.made:
            api.create_repo(self.repo_id, repo_type=self.repo_type, private=True, exist_ok=True)
            self.made = True
        operations = [CommitOperationAdd(name, str(path)) for name, path in sorted(files.items())]
        names = ", ".join(sorted(files)[:3])
        api.create_commit(self.repo_id, operations, commit_message=f"{len(files)} files: {names}"[:200], repo_type=self.repo_type)


def offline(environ: dict[str, str]) -> bool:
    return environ.get("HF_HUB_OFFLINE", "").strip().lower() in TRUE


def say(text: str) -> None:
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {clean[:600]}", flush=True)


def whole(path: Path) -> bool:
    """Whether a file can be read to its end as what its name says. What it holds is a stranger's, and reading it may fail in any way."""
    try:
        if path.suffix in (".pt", ".pth", ".zip"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".jsonl":
            data = path.read_bytes()
            return data.endswith(b"\n") or not data
        elif path.suffix == ".safetensors":
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, 100 << 20)))
            ends = [row["data_offsets"][1] for name, row in header.items() if name != "__metadata__"]
            return path.stat().st_size == 8 + length + max(ends, default=0)
    except Exception:
        return False
    return True


def written_now(paths: set[str]) -> set[str]:
    """Those that a process of this machine holds open for writing."""
    found: set[str] = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):
                with contextlib.suppress(OSError):
                    target = os.readlink(folder / entry)
                    if target in paths and int((folder.parent / "fdinfo" / entry).read_text().split("flags:")[1].split()[0], 8) & 3:
                        found.add(target)
    return found


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Watch:
    def __init__(self, folder: Path, config: dict[str, Any], hub: Hub) -> None:
        self.source, self.patterns, self.hub = Path(os.path.realpath(config["source_dir"])), list(config["patterns"]), hub
        # What went where is remembered for each repository.
        self.key, self.memory = f"{config['repo_type']}/{config['repo_id']}", folder / "uploaded.json"
        self.seen: dict[str, Stamp] = {}
        self.failures = 0
        self.not_before = 0.0
        try:
            known = json.loads(self.memory.read_text(encoding="utf-8")).get(self.key, {})
        except (OSError, ValueError, AttributeError):
            known = {}
        self.done: dict[str, Any] = known if isinstance(known, dict) else {}

    def survey(self) -> dict[str, Stamp]:
        """Files that match, by their paths below the folder; links and hidden things are left out."""
        found = {}
        for place, folders, names in os.walk(self.source):
            folders[:] = [name for name in folders if not name.startswith(".")]
            # A job's folder holds its environment, which may hold keys.
            for name in () if "spec.json" in names else names:
                if name.startswith(".") or name.endswith(PARTIAL) or not any(fnmatch.fnmatch(name, pattern) for pattern in self.patterns):
                    continue
                path = Path(place, name)
                with contextlib.suppress(OSError):
                    if not path.is_symlink():
                        stat = path.stat()
                        found[path.relative_to(self.source).as_posix()] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found

    def look(self) -> list[str]:
        """One look: uploads what is finished and new; the names that went."""
        now = self.survey()
        stable = [name for name, stamp in now.items() if self.seen.get(name) == stamp and self.done.get(name, {}).get("stamp") != list(stamp)]
        self.seen = now
        if not stable or time.monotonic() < self.not_before:
            return []
        busy = written_now({str(self.source / name) for name in stable})
        ready = {name: self.source / name for name in stable if str(self.source / name) not in busy and whole(self.source / name)}
        sums = {}
        for name, path in list(ready.items()):
            # A checkpoint that is pruned meanwhile, or a disk that fails, is no reason to end.
            try:
                sums[name] = sha256(path)
            except OSError:
                del ready[name]
        fresh = {name: path for name, path in ready.items() if self.done.get(name, {}).get("sha256") != sums[name] and self.same(name)}
        if fresh:
            # Whatever the client raises, the files are tried again later.
            try:
                self.hub.upload(fresh)
            except Exception as error:
                self.failures += 1
                pause = min(BACKOFF_SECONDS * 2 ** min(self.failures - 1, 20), BACKOFF_LIMIT_SECONDS)
                self.not_before = time.monotonic() + pause
                say(f"{len(fresh)} files could not be uploaded ({type(error).__name__}: {error}); again in {pause:.0f} s")
                return []
        self.failures = 0
        for name in ready:
            if self.same(name):
                self.done[name] = {"stamp": list(now[name]), "sha256": sums[name]}
        self.remember()
        if fresh:
            say(f"uploaded {', '.join(sorted(fresh))} to {self.key}")
        return sorted(fresh)

    def same(self, name: str) -> bool:
        """Whether a file is still what was looked at."""
        try:
            stat = (self.source / name).stat()
        except OSError:
            return False
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) == self.seen[name]

    def remember(self) -> None:
        try:
            known = json.loads(self.memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        part = self.memory.with_name(f".{self.memory.name}.part")
        try:
            part.write_text(json.dumps({**known, self.key: self.done}), encoding="utf-8")
            part.replace(self.memory)
        except OSError as error:
            say(f"{self.memory} cannot be written, so files may go up again: {error.strerror}")


def run(folder: Path, environ: dict[str, str], ending: threading.Event) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not config.get("repo_id"):
        say("HF_REPO_ID names no repository, so nothing is uploaded; set it, or services_hf_repo_id, and run the role services")
        ending.wait()
        return 0
    if offline(environ):
        say("HF_HUB_OFFLINE is set, so nothing is uploaded")
        ending.wait()
        return 0
    watch = Watch(folder, config, HuggingFace(config["repo_id"], config["repo_type"]))
    say(f"watching {watch.source} for {', '.join(watch.patterns)}, every {config['interval_seconds']} s")
    while not ending.is_set():
        watch.look()
        ending.wait(max(5.0, float(config["interval_seconds"])))
    return 0


def main() -> int:
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ending.set())
    return run(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, dict(os.environ), ending)


if __name__ == "__main__":
    sys.exit(main())
