# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files between a folder and an object store, by rclone: listed, copied, and compared by checksum. Credentials are in rclone's environment and nowhere else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import chosen, safe_relative, sha256_of, survey
from ansible_collections.podcycle.gpu.plugins.module_utils._copying import run_watched, summary
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import CloudError, StateError, UsageError, clean_text
from ansible_collections.podcycle.gpu.plugins.module_utils._packages import install

CHECKSUMS = "checksums.sha256"
_LOOK_SECONDS = 60.0
_LISTING_BYTES = 64 * 1024**2
_NO_FOLDER = 3
_REMOTE = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.+@-]*|:(?P<backend>[a-z0-9]+)):(?P<path>[^\n]*)\Z")
_HARMLESS = re.compile(r"_(TYPE|PROVIDER|REGION|ENDPOINT|ENV_AUTH|VENDOR|LOCATION_CONSTRAINT|ACL|STORAGE_CLASS|REMOTE|URL|HOST|PORT)\Z")

# Options of rclone's backends whose names end as the variable does that makes a remote.
_OPTION_TYPES = {
    "box": ("BOX_SUB_TYPE",),
    "chunker": ("HASH_TYPE",),
    "local": ("TIME_TYPE",),
    "onedrive": ("DRIVE_TYPE", "HASH_TYPE", "LINK_TYPE"),
    "sftp": ("SHELL_TYPE",),
    "swift": ("ENDPOINT_TYPE",),
}


def read_remote(remote: str) -> tuple[str, str]:
    """Name and backend (one of them empty) of `name:path` or `:backend:path`; UsageError for anything else."""
    found = _REMOTE.match(remote)
    if not found or not remote.isprintable():
        raise UsageError(
            f"the remote {clean_text(remote.partition(',')[0], 80)} is not written as name:path or :backend:path",
            hint="for example s3:bucket/prefix; its settings and keys go into the environment: export RCLONE_CONFIG_S3_TYPE=s3",
        )
    backend = found["backend"] or ""
    return ("" if backend else found["name"]), backend


def variables_of(name: str) -> str:
    """How the names of the variables begin that describe a remote."""
    return f"RCLONE_CONFIG_{re.sub('[^A-Za-z0-9]', '_', name).upper()}_"


def settings_of(remote: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Those of rclone's variables that describe this remote, and the remotes that it stands on; no others leave the controller."""
    name, backend = read_remote(remote)
    if backend:
        return {key: value for key, value in environment.items() if key.startswith(f"RCLONE_{backend.upper()}_")}
    typed = [key for key in environment if re.match(r"RCLONE_CONFIG_.+_TYPE\Z", key)]
    found: dict[str, str] = {}
    for _depth in range(5):
        prefix = variables_of(name)
        own = (f"{prefix}{option}" for option in ("TYPE", *_OPTION_TYPES.get(environment.get(f"{prefix}TYPE", ""), ())))
        # A remote s3_backup is another one than s3.
        others = tuple(key[: -len("TYPE")] for key in {*typed}.difference(own) if key.startswith(prefix))
        found |= {key: value for key, value in environment.items() if key.startswith(prefix) and not key.startswith(others)}
        name = environment.get(f"{prefix}REMOTE", "").partition(":")[0]
        if not name:
            break
    return found


def is_local(remote: str, settings: Mapping[str, str]) -> bool:
    """Whether it means a folder of the machine that rclone runs on, and so another one on every machine."""
    return read_remote(remote)[1] == "local" or any(key.endswith("_TYPE") and value == "local" for key, value in settings.items())


@dataclass
class Rclone:
    remote: str
    settings: Mapping[str, str] = field(repr=False)
    rate_kib_s: int = 0
    tries: int = 3
    timeout: float = 3600

    @staticmethod
    def there() -> bool:
        return shutil.which("rclone") is not None

    def need(self, bring: bool) -> None:
        if not self.there() and bring and os.geteuid() == 0 and shutil.which("apt-get"):
            install(["rclone"])
        if not self.there():
            raise StateError(f"the program rclone is not installed, and {self.remote} is reached by it", hint="install it: apt-get install rclone")

    def look(self, deep: bool) -> dict[str, int] | None:
        """Size by path of every file below the remote, or of those at its top alone; None where it has no such folder. Raises when it does not answer."""
        words = ["lsjson", *(["--recursive"] if deep else []), "--files-only", "--no-mimetype", "--no-modtime", self.remote]
        done = self._run([*words, "--contimeout", "10s", "--timeout", "20s", "--retries", "1", "--low-level-retries", "2"], _LOOK_SECONDS)
        if done.returncode == _NO_FOLDER:
            return None
        if done.returncode:
            raise CloudError(f"the remote {self.remote} cannot be listed: {self._said(done)}", hint="see what rclone says: rclone lsf " + self.remote)
        try:
            rows = json.loads(done.stdout)
            return {str(row["Path"]): int(row["Size"]) for row in rows}
        except (ValueError, KeyError, TypeError) as err:
            raise CloudError(f"what rclone lists of {self.remote} cannot be read: {clean_text(err, 120)}") from err

    def same(self, source: str, dest: str, paths: list[str]) -> set[str]:
        """Those that both sides have, by the checksum that both know, else by size."""
        done = self._run(["check", "--one-way", "--combined", "-", "--files-from-raw", "-", source, dest], self.timeout, paths)
        return {line[2:] for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("= ")}

    def copy(self, source: str, dest: str, paths: list[str]) -> None:
        limit = ["--bwlimit", f"{self.rate_kib_s}Ki"] if self.rate_kib_s else []
        words = ["copy", "--files-from-raw", "-", "--retries", str(self.tries), "--contimeout", "30s", "--timeout", "120s", *limit, source, dest]
        done = self._run(words, self.timeout, paths)
        if done.returncode:
            raise CloudError(f"rclone copy {source} {dest}: {self._said(done)}", hint="run the stage again; what arrived whole is not sent again")

    def hashes(self, paths: list[str]) -> dict[str, str]:
        """The sha256 of files in the remote, from their content as it is read back."""
        done = self._run(["hashsum", "sha256", "--download", "--files-from-raw", "-", self.remote], self.timeout, paths)
        if done.returncode:
            raise CloudError(f"what was stored in {self.remote} cannot be read back: {self._said(done)}", hint="run the stage again")
        return read_checksums(done.stdout.decode("utf-8", "replace"))

    def _run(self, words: list[str], timeout: float, paths: list[str] | None = None) -> subprocess.CompletedProcess[bytes]:
        listing = "".join(f"{path}\n" for path in paths or ()).encode()
        environment = {**os.environ, **self.settings, "RCLONE_ASK_PASSWORD": "false"}
        return run_watched(["rclone", *words], timeout, stdin=listing, environment=environment, kept=_LISTING_BYTES)

    def _said(self, done: subprocess.CompletedProcess[bytes]) -> str:
        text = done.stderr.decode("utf-8", "replace")
        for name, value in self.settings.items():
            if not _HARMLESS.search(name) and len(value) >= 4:
                text = text.replace(value, "***")
        lines = [line for line in text.splitlines() if line.strip() and "Config file" not in line]
        return clean_text(re.sub(r"^\S+ \S+ ", "", lines[-1]) if lines else f"rclone ended with status {done.returncode}", 300)


def read_checksums(text: str) -> dict[str, str]:
    """Lines as sha256sum writes them."""
    rows = (re.match(r"([0-9a-f]{64})  ?\*?(?:\./)?(.+)\Z", line) for line in text.splitlines())
    return {row[2]: row[1] for row in rows if row}


def exchange(rclone: Rclone, args: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Bring what differs over and compare; the module's result."""
    pull, folder = args["direction"] == "pull", Path(args["path"])
    patterns, exclude, most = args["patterns"], args["exclude"], args["max_bytes"]
    # What is pushed is compared by name; whatever else was ever stored there need not be listed.
    listed = rclone.look(deep=pull)
    refused: list[dict[str, str]] = []
    if pull:
        if listed is None:
            raise UsageError(f"the remote {rclone.remote} has no such folder", hint=f"see what there is: rclone lsf {rclone.remote.rpartition('/')[0]}")
        rows = {path: size for path, size in listed.items() if safe_relative(path) and (chosen(path, patterns, exclude) or path == CHECKSUMS)}
        refused = [{"path": ascii(path)[:300], "why": "an unsafe name"} for path in listed if not safe_relative(path)]
        refused += [{"path": path, "why": f"{size} bytes, more than {most}"} for path, size in rows.items() if size > most]
        rows = {path: size for path, size in rows.items() if size <= most}
    else:
        found = survey(folder, patterns, most, exclude=exclude)
        rows, refused = {row["path"]: row["size"] for row in found["files"]}, found["refused"]
    lacking = [name for name in args["required"] if name not in rows]
    if lacking:
        raise UsageError(f"{rclone.remote if pull else folder} lacks {', '.join(lacking)}", hint="put it there, or mend the patterns")
    result: dict[str, Any] = {"changed": False, "probed": True, "transferred": [], "refused": refused, "bytes": 0, "files": [], "verified": "", "summary": ""}
    if args["probe"]:
        return result
    ends = (rclone.remote, str(folder)) if pull else (str(folder), rclone.remote)
    fresh = not folder.is_dir() if pull else listed is None
    same = set() if fresh else rclone.same(*ends, list(rows))
    missing = sorted(set(rows) - same)
    result.update(changed=bool(missing), transferred=missing, bytes=sum(rows[path] for path in missing))
    if missing and not check:
        if pull:
            make_room(folder, result["bytes"])
        began = time.monotonic()
        rclone.copy(*ends, missing)
        seconds = time.monotonic() - began
        result.update(seconds=round(seconds, 2), mib_s=round(result["bytes"] / 2**20 / max(seconds, 0.01), 1))
        result["summary"] = summary(len(missing), result["bytes"], seconds, "rclone")
    if not check:
        result["files"] = _hashed(folder, rows, most)
        result["verified"] = _verify_pulled(folder, rows, result["files"]) if pull else _verify_pushed(rclone, missing, result["files"])
    return result


def _hashed(folder: Path, paths: Mapping[str, int], most: int) -> list[dict[str, Any]]:
    """These files of the folder, by name: a name may hold what would be a pattern."""
    there = survey(folder, ["*"], most, hashed=False)["files"]
    return [{**row, "sha256": sha256_of(folder / row["path"])} for row in there if row["path"] in paths]


def make_room(folder: Path, wanted: int) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise StateError(f"the files have {wanted} bytes and {folder} has room for {free}", hint="make room and run the stage again")


def _verify_pulled(folder: Path, rows: Mapping[str, int], files: list[dict[str, Any]]) -> str:
    have = {row["path"]: row for row in files}
    wrong = [path for path, size in rows.items() if path not in have or have[path]["size"] != size]
    by = "size, and rclone's own checksums"
    if CHECKSUMS in rows and not wrong:
        wanted = read_checksums((folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace"))
        wrong = [path for path in rows if path != CHECKSUMS and wanted.get(path) != have[path]["sha256"]]
        by = CHECKSUMS
    if wrong:
        raise CloudError(f"{len(wrong)} files differ from {by}, the first is {wrong[0]}", hint="mend the remote, or run the stage again")
    return by


def _verify_pushed(rclone: Rclone, sent: list[str], files: list[dict[str, Any]]) -> str:
    if sent:
        stored, local = rclone.hashes(sent), {row["path"]: row["sha256"] for row in files}
        wrong = [path for path in sent if stored.get(path) != local.get(path)]
        if wrong:
            raise CloudError(f"{len(wrong)} files in {rclone.remote} differ from what was sent, the first is {wrong[0]}", hint="run the stage again")
    return "sha256 of what was read back" if sent else "the checksum that both sides know, else size; nothing was sent, and nothing read back"
