# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sets with a manifest: seal one, publish it on Hugging Face, fetch one from there, each file with its sha256.

The key is taken by the official client from HF_TOKEN or its own file, and stands in no command line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import dataset
from .errors import DataError, MissingError, TrainerError, UsageError
from .files import read_json, sha256_file, write_bytes, write_json

MANIFEST, FETCHED, CHECKSUMS = "manifest.json", "fetch.json", "checksums.sha256"
ABOUT = (MANIFEST, CHECKSUMS)
KIND = "chess-bot-validated-dataset"
NAMES = (*dataset.FILES, "stats.json")
COMMIT = re.compile(r"[0-9a-f]{40}")


class UnreachableError(MissingError):
    """The hub does not answer, or may not be asked."""


def _files(folder: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    found = [folder / name for name in names if (folder / name).is_file()]
    return [{"path": path.name, "size_bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in found]


def seal(folder: Path) -> dict[str, Any]:
    """Check a data folder and write its manifest and checksums, which are the same for the same files."""
    code, verdict = dataset.check(folder)
    if code:
        fault = verdict["errors"][0]
        text = f"{fault['reason']}; `python -m chess_trainer dataset check {folder}` tells the rest"
        raise MissingError(f"{fault['file']}: {text}") if not fault["line"] else DataError(fault["file"], fault["line"], text)
    files = _files(folder, NAMES)
    manifest = {"schema_version": 1, "kind": KIND, "dataset_name": folder.absolute().name, "dataset_format": verdict["format"]}
    manifest |= {"games": verdict["games"], "positions": verdict["positions"], "file_count": len(files)}
    manifest |= {"total_bytes": sum(row["size_bytes"] for row in files), "files": files}
    write_json(folder / MANIFEST, manifest)
    # For sha256sum --check, and for a remote that the pods pull from.
    sums = "".join(f"{row['sha256']}  {row['path']}\n" for row in _files(folder, (*NAMES, MANIFEST)))
    write_bytes(folder / CHECKSUMS, sums.encode())
    return manifest


def verify(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of a folder, when all its files are there as it says."""
    if not (folder / name).is_file():
        raise MissingError(f"{folder} has no {name}; `python -m chess_trainer dataset seal {folder}` checks the data and writes it")
    manifest = read_json(folder / name)
    rows = manifest.get("files")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not {row.get("path") for row in rows} >= set(dataset.FILES):
        raise DataError(str(folder / name), 0, f"does not name {' and '.join(dataset.FILES)}")
    for row in rows:
        if row.get("path") not in NAMES:
            continue
        path = folder / str(row["path"])
        if not path.is_file():
            raise MissingError(f"{path} is not there, but {name} names it")
        found = sha256_file(path)
        if found != row.get("sha256"):
            raise DataError(str(path), 0, f"sha256 is {found}, but {name} has {row.get('sha256')}")
    return manifest


def offline() -> bool:
    """Whether the hub may not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


@contextmanager
def _explained(doing: str) -> Iterator[Any]:
    """The official client, and its errors as a sentence."""
    # Nothing of ours is reported to anybody.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        # On a pod it lies beside PyTorch where somebody wants it.
        import huggingface_hub  # type: ignore[import-not-found]
        from huggingface_hub import errors
    except ImportError:
        where = "add huggingface_hub to chess_training_packages and converge, or install it beside this Python"
        raise MissingError(f"{doing}: the package huggingface_hub is not here; {where}") from None
    try:
        yield huggingface_hub
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise MissingError(f"{doing}: the repository is not there, or HF_TOKEN may not see it") from error
    except errors.RevisionNotFoundError as error:
        raise MissingError(f"{doing}: there is no such branch, tag or commit") from error
    except errors.LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set and the cache does not hold it; fetch it once without"
        why = why if offline() else "the hub cannot be reached and the cache does not hold it"
        raise UnreachableError(f"{doing}: {why}") from error
    except errors.OfflineModeIsEnabled as error:
        raise UsageError(f"{doing}: HF_HUB_OFFLINE is set, so the hub is not asked") from error
    except (errors.HfHubHTTPError, ValueError) as error:
        raise TrainerError(f"{doing}: {str(error).splitlines()[0][:200]}") from error
    except OSError as error:
        raise TrainerError(f"{doing}: {error}") from error
    except Exception as error:
        # Newer clients let the errors of their HTTP library through, which differs between their versions.
        if not type(error).__module__.startswith("httpx"):
            raise
        raise TrainerError(f"{doing}: the hub cannot be reached: {error}") from error


def _prefix(prefix: str) -> str:
    return prefix.strip("/") + "/" if prefix.strip("/") else ""


def recorded(out: Path, repo: str, prefix: str) -> dict[str, Any]:
    """What fetch.json says about a folder of that origin; empty where it was not fetched from there."""
    found = read_json(out / FETCHED) if (out / FETCHED).is_file() else {}
    return found if (found.get("repo"), found.get("prefix")) == (repo, _prefix(prefix)) else {}


def _stands(out: Path, repo: str, revision: str, prefix: str, moved: bool) -> dict[str, Any] | None:
    """What was fetched before and is unharmed: of this very commit, or of a branch that may have moved since."""
    known = recorded(out, repo, prefix)
    if not known or (known.get("commit") != revision and not (moved and known.get("revision") == revision)):
        return None
    try:
        return verify(out, FETCHED)
    except TrainerError:
        return None


def _snapshot(repo: str, revision: str, prefix: str, doing: str) -> tuple[Path, str]:
    with _explained(doing) as client:
        wanted = [prefix + name for name in (*NAMES, *ABOUT)]
        place = Path(client.snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=wanted, local_files_only=offline()))
        return place / prefix, place.name


def _replace(place: Path, out: Path, names: list[str], record: dict[str, Any]) -> None:
    """Put files in the place of those that were fetched before; on a full disk these stay as they are."""
    out.mkdir(parents=True, exist_ok=True)
    partials = {name: out / f".{name}.{os.getpid()}.tmp" for name in names}
    try:
        for name, partial in partials.items():
            shutil.copyfile(place / name, partial)
        # First, so that files that are only half of them in place are known to be ours.
        write_json(out / FETCHED, record)
        for name, partial in partials.items():
            os.replace(partial, out / name)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
    for name in (*NAMES, *ABOUT):
        if name not in names:
            (out / name).unlink(missing_ok=True)


def fetch(repo: str, revision: str, prefix: str, out: Path, keep: bool = False) -> dict[str, Any]:
    """Bring a data set of Hugging Face into a folder; what differs from its manifest is refused.

    A folder that was fetched before is taken where the commit is the same, where the hub cannot be asked, or with `keep`.
    """
    prefix = _prefix(prefix)
    known = _stands(out, repo, revision, prefix, moved=keep or offline())
    if known is not None:
        return known | {"changed": False}
    doing = f"fetch {repo} at {revision}"
    strange = [] if (out / FETCHED).is_file() else [name for name in (*NAMES, *ABOUT) if (out / name).exists()]
    if strange:
        raise UsageError(f"{doing}: {out} has {', '.join(strange)} and no {FETCHED}, so they were not fetched and are not replaced; give another folder")
    try:
        place, commit = _snapshot(repo, revision, prefix, doing)
    except UnreachableError as error:
        known = _stands(out, repo, revision, prefix, moved=True)
        if known is None:
            raise
        print(f"{error}; {out} is whole and is taken as it was fetched, at commit {known.get('commit')}", file=sys.stderr, flush=True)
        return known | {"changed": False}
    missing = [name for name in dataset.FILES if not (place / name).is_file()]
    if missing:
        raise MissingError(f"{doing}: {prefix or 'the repository'} has no {' and no '.join(missing)}")
    sealed = (place / MANIFEST).is_file()
    if sealed:
        verify(place)
    files = _files(place, (*NAMES, *ABOUT))
    about = {"repo": repo, "revision": revision, "commit": commit if COMMIT.fullmatch(commit) else None, "prefix": prefix, "sealed": sealed}
    _replace(place, out, [row["path"] for row in files], {"schema_version": 1, **about, "files": files})
    return verify(out, FETCHED) | {"changed": True}


def _private(client: Any, api: Any, repo: str) -> bool | None:
    """Whether the repository is private; None where there is none that the key may see."""
    try:
        return bool(api.repo_info(repo, repo_type="dataset").private)
    except client.errors.RepositoryNotFoundError:
        return None


def publish(folder: Path, repo: str, revision: str, prefix: str, public: bool, sure: bool) -> dict[str, Any]:
    """Upload a sealed data set as one commit; `changed` says whether there was anything to upload."""
    manifest = verify(folder)
    prefix = _prefix(prefix)
    names = [row["path"] for row in manifest["files"] if row["path"] in NAMES] + [name for name in ABOUT if (folder / name).is_file()]
    size = sum((folder / name).stat().st_size for name in names)
    doing = f"publish {folder} as {repo}"
    if offline():
        raise UsageError(f"{doing}: HF_HUB_OFFLINE is set, so nothing is uploaded")
    with _explained(doing) as client:
        api = client.HfApi()
        private = _private(client, api, repo)
        if private is False and not public:
            raise UsageError(f"{doing}: the repository is there and is public, so all can read what is uploaded; add --public if they may")
        if not sure:
            kind = f"{'private' if private else 'public'} data set" if private is not None else f"{'public' if public else 'private'} data set, made for it,"
            where = f"{kind} {repo}, {prefix or 'top folder'}"
            raise UsageError(f"{doing}: would upload {', '.join(names)} ({size:,} bytes) to the {where}; add --yes to do it")
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        # Where all files are there already no commit is made, and the last one is answered.
        before = api.repo_info(repo, repo_type="dataset", revision=revision).sha
        operations = [client.CommitOperationAdd(prefix + name, str(folder / name)) for name in names]
        done = api.create_commit(repo, operations, commit_message=f"{manifest.get('dataset_name')}: {len(names)} files", repo_type="dataset", revision=revision)
    return {"repo": repo, "commit": done.oid, "files": manifest["files"], "bytes": size, "changed": done.oid != before}
