# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a training image is called and what goes into it; the folder that it is built from."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ._bootstrap import ansible_pins, defaults_of, runtime_files, version_of
from ._errors import PodcycleError, UsageError
from ._file_set import Entry, FileSet
from ._gpu_driver import Driver
from ._secrets import secrets_in
from ._torch_env import TorchEnv, Wish, local_wheel

ROLES = ("services", "chess_training", "cuda_watchdog")
# What the roles name by folder and file, which the search for names does not see.
PLUGINS = ("_blocks", "_guard", "_nvml", "file_set", "pod_service")
ALWAYS = ("LICENSE", "meta/runtime.yml", "galaxy.yml")
SMOKE = "roles/chess_training/files/smoke"
# What the image is made of; other changes in a checkout do not make it another one.
SOURCES = ("roles", "plugins", "playbooks", "requirements-run.txt", "galaxy.yml", "meta")
MARKER = ".podcycle-image"
LABEL = "io.podcycle.context"
WHAT = "build the training image"
_PYTHONS = tuple(f"cp3{minor}" for minor in range(10, 16))
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?"
_REPOSITORY = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*")
_PLATFORM = re.compile(r"linux/(amd64|arm64)")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class ImageError(PodcycleError):
    code = "training_image"


def repository_of(given: str) -> tuple[str, str]:
    """The repository in lower case, and a note when that is another spelling."""
    text = given.strip()
    if not text:
        raise UsageError(f"{WHAT}: IMAGE_REPO names no repository; type -e image_repo=ghcr.io/YOU/chess-training, or set it in the environment")
    name = text.lower()
    if "://" in name:
        raise UsageError(f"{WHAT}: the repository {text!r} begins with a scheme; leave it out: {name.partition('://')[2]}")
    if "@" in name or ":" in name.rpartition("/")[2]:
        raise UsageError(f"{WHAT}: the repository {text!r} has a tag or a digest; leave it out, the tags are the commit and latest")
    if not _REPOSITORY.fullmatch(name) or len(name) > 200:
        raise UsageError(f"{WHAT}: {text[:80]!r} is no repository; it is HOST/PATH of letters, digits, dots and dashes, such as ghcr.io/YOU/chess-training")
    return name, "" if name == text else f"the repository is {name}: registries take lower case only"


def host_of(repository: str) -> str:
    """The registry that a repository lies in."""
    first, slash, _rest = repository.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


@dataclass(frozen=True)
class Revision:
    """The commit that an image is of."""

    short: str
    full: str
    at: int
    dirty: bool

    @property
    def tag(self) -> str:
        return f"{self.short}-dirty" if self.dirty else self.short

    @property
    def tags(self) -> list[str]:
        return [self.tag] if self.dirty else [self.tag, "latest"]

    @property
    def created(self) -> str:
        return datetime.fromtimestamp(self.at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def revision_of(collection: Path, given: str) -> Revision:
    """From git; an installed collection has none and is told its revision."""
    if given:
        if not _REVISION.fullmatch(given):
            raise UsageError(f"{WHAT}: the revision {given[:40]!r} is no tag of letters, digits, dots and dashes")
        return Revision(given, given, int((collection / "requirements-run.txt").stat().st_mtime), dirty=False)
    said = [_git(collection, *words) for words in (("log", "-1", "--format=%h %H %ct", "--abbrev=12"), ("status", "--porcelain", "--", *SOURCES))]
    if said[0] is None or said[1] is None:
        raise UsageError(f"{WHAT}: {collection} is no git checkout with a commit, so that the image has no tag; name one with -e image_revision=NAME")
    short, full, at = said[0].split()
    dirty = bool(said[1].strip())
    return Revision(short, f"{full}-dirty" if dirty else full, int(at), dirty)


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and done.stdout is not None else None


@dataclass(frozen=True)
class Context:
    """The folder that docker builds from: texts, and wheels that are linked or copied."""

    texts: dict[str, str]
    wheels: dict[str, Path]
    base: str

    def digest(self, more: Mapping[str, Any]) -> str:
        """Of everything that makes it another image."""
        total = hashlib.sha256()
        for name, text in sorted(self.texts.items()):
            total.update(f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}\n".encode())
        for name, path in sorted(self.wheels.items()):
            status = path.stat()
            total.update(f"{name}\0{status.st_size}\n".encode())
        for name, value in sorted(more.items()):
            total.update(f"{name}={value}\n".encode())
        return total.hexdigest()

    def write(self, folder: Path) -> None:
        """What differs is written, what does not belong there goes; a folder of somebody else is refused."""
        refuse_foreign(folder)
        wanted = {*self.texts, *self.wheels, MARKER}
        there = [path for path in sorted(folder.rglob("*")) if not path.is_dir()] if folder.is_dir() else []
        stale = [path for path in there if path.relative_to(folder).as_posix() not in wanted]
        parents = {parent for name in wanted for parent in Path(name).parents if parent != Path(".")}
        folders = [Entry(str(folder / name), "folder", mode="0755") for name in sorted(parents)]
        files = [Entry(str(folder / name), content=text, mode="0644") for name, text in sorted(self.texts.items())]
        FileSet([Entry(str(folder), "folder"), Entry(str(folder / MARKER), content=""), *folders, *files]).converge()
        for name, source in self.wheels.items():
            link(source, folder / name)
        for path in stale:
            path.unlink()


def refuse_foreign(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise UsageError(f"{WHAT}: {folder} holds files of somebody else, and a build context is made anew; name another folder with -e image_dir=DIR")


def link(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def torch_arguments(collection: Path, given: Mapping[str, Any], backend: str) -> tuple[list[str], dict[str, Path], str]:
    """What uv installs, as the role pytorch would on a machine with that driver: its arguments, wheels of a local folder, the lock file."""
    defaults = defaults_of(collection)
    links = [entry.removeprefix("file://") for entry in _listed(given.get("find_links"))]
    wish = Wish(
        venv=Path("/nowhere"),
        version=str(given.get("version") or defaults["pytorch_version"]),
        backend=backend,
        python="",
        extra_packages=_listed(given.get("extra_packages") or defaults["pytorch_extra_packages"]),
        find_links=links,
        index_url=given.get("index_url") or "",
        lock=given.get("lock") or "",
    )
    loose = sorted(place for name in ("index_url", "find_links") for place in secrets_in(f"pytorch_{name}", given.get(name) or ""))
    if loose:
        raise UsageError(f"{WHAT}: {', '.join(loose)} holds a password, which would stay in the image; name a mirror that asks for none")
    tag = next((tag for tag in _PYTHONS if local_wheel(wish, tag)), _PYTHONS[2])
    plain = TorchEnv(wish, Driver()).install_arguments(Path("/srv/torch/lock.txt"), python=f"3.{tag[3:]}")
    folders = [path for path in map(Path, links) if path.is_dir()]
    wheels = {f"torch/{path.name}": path for folder in folders for path in sorted(folder.glob("torch-*.whl")) if path.name.startswith(f"torch-{_exact(wish)}-")}
    # A folder of this machine is not there in the build.
    local = {str(entry) for entry in folders}
    return ["/srv/torch" if word in local else word for word in plain], wheels, wish.lock


def _listed(value: Any) -> list[str]:
    """A list as -e NAME=VALUE can only say it, with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value or [])


def _exact(wish: Wish) -> str:
    return wish.version if "+" in wish.version else f"{wish.version}+{wish.backend}"


def context_of(collection: Path, args: Mapping[str, Any]) -> Context:
    """Everything that the Dockerfile copies, found in this collection."""
    if not _PLATFORM.fullmatch(args["platform"]):
        raise UsageError(f"{WHAT}: the platform {args['platform'][:40]!r} is neither linux/amd64 nor linux/arm64")
    base = re.search(r"^FROM (\S+)$", args["dockerfile"], re.MULTILINE)
    if base is None or not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*", base.group(1)):
        raise UsageError(f"{WHAT}: the base image {base.group(1)[:60] if base else 'that was named'!r} is no name of an image; set image_base")
    arguments, wheels, lock = torch_arguments(collection, args["torch"], args["backend"])
    names = runtime_files(collection, ROLES, ALWAYS, (), PLUGINS)
    pins = [*ansible_pins(collection), *uv_pin(collection)]
    texts = {
        "Dockerfile": args["dockerfile"],
        # Whatever else comes to lie here stays out of the build.
        ".dockerignore": "*\n!collection\n!image\n!smoke\n!torch\n!requirements.txt\n**/__pycache__\n**/.*\n",
        "requirements.txt": "\n".join(pins) + "\n",
        "torch/arguments": "\n".join(arguments) + "\n",
        **({"torch/lock.txt": lock} if lock else {}),
        **{f"collection/{name}": (collection / name).read_text(encoding="utf-8") for name in names},
        **{f"image/{name}": text for name, text in args["programs"].items()},
        **{f"smoke/{name}": (collection / SMOKE / name).read_text(encoding="utf-8") for name in ("train.jsonl", "val.jsonl", "PROVENANCE.md")},
    }
    return Context(texts, wheels, base.group(1))


def uv_pin(collection: Path) -> list[str]:
    lines = (collection / "requirements-run.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("uv==")]


def labels_of(collection: Path, revision: Revision, base: str) -> dict[str, str]:
    """The labels of the Open Container Initiative; the time is the commit's, so that the same commit is the same image."""
    return {
        "org.opencontainers.image.title": "podcycle.gpu training image",
        "org.opencontainers.image.source": "https://github.com/podcycle/podcycle.gpu",
        "org.opencontainers.image.licenses": "GPL-3.0-or-later",
        "org.opencontainers.image.version": version_of(collection),
        "org.opencontainers.image.revision": revision.full,
        "org.opencontainers.image.created": revision.created,
        "org.opencontainers.image.base.name": base,
    }
