# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import matches, safe_relative, survey
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import identity_trouble, known_hosts_of

display = Display()

SPEC = {
    "direction": {"type": "str", "choices": ["push", "pull"], "required": True},
    "src": {"type": "str", "required": True},
    "dest": {"type": "str", "required": True},
    "patterns": {"type": "list", "elements": "str", "default": ["*"]},
    "required": {"type": "list", "elements": "str", "default": []},
    "max_bytes": {"type": "int", "default": 20 * 1024**3},
    "tries": {"type": "int", "default": 3},
    "timeout": {"type": "int", "default": 3600},
    "bandwidth_limit_kib_s": {"type": "int", "default": 0},
}


# A log may grow between the survey and the transfer.
SLACK_BYTES = 64 * 1024**2


def _bound_files(most: int) -> None:
    """Runs in the child before rsync: what a pod says of a file's size is only its word."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    # Ignored, a write beyond the limit is an error that rsync reports.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def clean_name(path: str) -> str:
    return errors.clean_text(path.rpartition("/")[2], 80)


def _literal_bytes(stats: bytes) -> int | None:
    found = re.search(rb"^Literal data: ([0-9,.]+) bytes", stats, re.MULTILINE)
    return int(re.sub(rb"[,.]", b"", found.group(1))) if found else None


class ActionModule(ActionBase):
    """Copies files by rsync over the pod's own SSH settings, and hashes them on both ends."""

    TRANSFERS_FILES = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: self._transfer(checked(SPEC, self._task.args), task_vars or {})))
        return result

    def _transfer(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        pull = args["direction"] == "pull"
        here, there = (args["dest"], args["src"]) if pull else (args["src"], args["dest"])
        local = Path(here)
        if not pull and not local.is_dir():
            raise errors.UsageError(f"{local} is not a folder", hint="give the folder that holds the files to push")
        source = self._remote(args, there, task_vars) if pull else survey(local, args["patterns"], args["max_bytes"])
        target = survey(local, args["patterns"], args["max_bytes"]) if pull else self._remote(args, there, task_vars)
        if not pull or not source["exists"]:
            self._complain(args, source)
        missing = [row for row in source["files"] if row not in target["files"]]
        result = {
            "changed": bool(missing),
            "files": source["files"],
            "transferred": [row["path"] for row in missing],
            "bytes": sum(row["size"] for row in missing),
            "refused": source["refused"],
        }
        if missing and not self._task.check_mode:
            if pull:
                self._make_room(local, result["bytes"])
            began = time.monotonic()
            sent = self._gateway(args, local, there, missing) if self._through_gateway else self._rsync(args, local, there, missing, task_vars)
            seconds = time.monotonic() - began
            result.update(bytes_sent=sent, seconds=round(seconds, 2), mib_s=round(result["bytes"] / 2**20 / max(seconds, 0.01), 1))
            arrived = survey(local, args["patterns"], args["max_bytes"]) if pull else self._remote(args, there, task_vars)
            wrong = [row["path"] for row in source["files"] if row not in arrived["files"]]
            if wrong:
                raise errors.CloudError(
                    f"{len(wrong)} files differ after the transfer, the first is {wrong[0]}", hint="run the stage again; what arrived whole is not sent again"
                )
        if pull:
            # What is there is brought home first: after a failed training its checkpoint and its log are all that there is.
            complaint = guarded(lambda: self._complain(args, source) or {})
            result.update(complaint, changed=result["changed"])
        return result

    @staticmethod
    def _make_room(local: Path, wanted: int) -> None:
        local.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(local).free
        if wanted > free:
            raise errors.StateError(
                f"the files have {wanted} bytes and {local} has room for {free}",
                hint="make room, or name fewer files in collect_patterns, and run the stage again",
            )

    def _remote(self, args: dict[str, Any], root: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the pod says it has: hostile until checked."""
        said = self._execute_module(
            module_name="podcycle.gpu.artifact_info",
            module_args={"root": root, "patterns": args["patterns"], "max_bytes": args["max_bytes"]},
            task_vars=task_vars,
        )
        if said.get("failed"):
            raise errors.CloudError(f"cannot list {root} on the pod: {errors.clean_text(said.get('msg'), 300)}")
        files = []
        lists = {name: said.get(name) or [] for name in ("files", "refused")}
        if any(not isinstance(rows, list) or any(not isinstance(row, dict) for row in rows) for rows in lists.values()):
            raise errors.SchemaError(f"the pod's list of {root} does not have the shape that it should")
        for row in lists["files"]:
            path, size, sha256 = row.get("path"), row.get("size"), row.get("sha256")
            if not isinstance(path, str) or not safe_relative(path) or not any(matches(path, pattern) for pattern in args["patterns"]):
                raise errors.SchemaError(f"the pod lists a file with an unsafe path: {errors.clean_text(ascii(path), 120)}")
            if not isinstance(size, int) or not 0 <= size <= args["max_bytes"] or not isinstance(sha256, str) or len(sha256) != 64:
                raise errors.SchemaError(f"the pod lists {errors.clean_text(path, 120)} with a size or checksum that cannot be right")
            files.append({"path": path, "size": size, "sha256": sha256})
        refused = [{"path": errors.clean_text(row.get("path"), 120), "why": errors.clean_text(row.get("why"), 120)} for row in lists["refused"]]
        return {"exists": bool(said.get("exists")), "files": sorted(files, key=lambda row: str(row["path"])), "refused": refused}

    @staticmethod
    def _complain(args: dict[str, Any], source: dict[str, Any]) -> None:
        if not source["exists"]:
            raise errors.UsageError(f"{args['src']} does not exist", hint="the stage before has not made it yet")
        have = {row["path"] for row in source["files"]}
        lacking = [name for name in args["required"] if name not in have]
        if lacking:
            why = next((row["why"] for row in source["refused"] if row["path"] == lacking[0]), "it is not there")
            raise errors.UsageError(f"{args['src']} lacks {', '.join(lacking)}: {why}")

    def _rsync(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> int | None:
        """Bring the files over; the bytes of content that really travelled in the last try."""
        command = self._command(args, local, there, task_vars)
        listing = "\n".join(row["path"] for row in rows) + "\n"
        bound = partial(_bound_files, max(row["size"] for row in rows) + SLACK_BYTES) if args["direction"] == "pull" else None
        said = ""
        for attempt in range(1, args["tries"] + 1):
            try:
                done = subprocess.run(command, input=listing.encode(), capture_output=True, timeout=args["timeout"], check=False, preexec_fn=bound)
            except subprocess.TimeoutExpired as err:
                raise errors.WaitTimeout(f"rsync took longer than {args['timeout']} s", hint="run the stage again; it goes on where it was") from err
            if done.returncode == 0:
                return _literal_bytes(done.stdout)
            raw = done.stderr.decode("utf-8", "replace")
            said = errors.clean_text(raw.strip(), 400)
            self._give_up(raw, task_vars)
            display.display(f"  transfer try {attempt} of {args['tries']} failed: {said}")
            if attempt < args["tries"]:
                time.sleep(min(2.0**attempt, 10.0))
        raise errors.CloudError(f"rsync failed {args['tries']} times: {said}", hint="run the stage again with the same run_id; it goes on where it was")

    @property
    def _through_gateway(self) -> bool:
        return str(self._connection.transport).endswith("runpod_gateway")

    def _gateway(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]]) -> int:
        """One file after the other through the connection itself, which knows no rsync; each goes on where an earlier try ended."""
        root = there.rstrip("/")
        pairs = [(local / row["path"], f"{root}/{row['path']}", row["size"]) for row in rows]
        if args["direction"] == "push":
            folders = sorted({remote.rpartition("/")[0] for _here, remote, _size in pairs})
            self._low_level_execute_command(f"mkdir -p -- {shlex.join(folders)}", sudoable=True)
            modes: dict[str, list[str]] = {}
            for here, remote, size in pairs:
                display.display(f"  through the gateway: {clean_name(remote)} ({size} bytes)")
                self._connection.put_file(str(here), remote)
                modes.setdefault(f"{here.stat().st_mode & 0o777:o}", []).append(remote)
            for mode, remotes in modes.items():
                self._low_level_execute_command(f"chmod {mode} -- {shlex.join(remotes)}", sudoable=True)
        else:
            for here, remote, size in pairs:
                display.display(f"  through the gateway: {clean_name(remote)} ({size} bytes)")
                here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._connection.fetch_bounded(remote, str(here), size + SLACK_BYTES)
                here.chmod(0o600)
        return sum(size for _here, _remote, size in pairs)

    def _command(self, args: dict[str, Any], local: Path, there: str, task_vars: dict[str, Any]) -> list[str]:
        program = shutil.which("rsync")
        if program is None:
            raise errors.StateError("the program rsync is not installed here", hint="install it: apt-get install rsync")
        host, user = str(self._templar.template(task_vars["ansible_host"])), str(self._templar.template(task_vars.get("ansible_user") or "root"))
        remote = f"{user}@{f'[{host}]' if ':' in host else host}:{there.rstrip('/')}/"
        push = args["direction"] == "push"
        return [
            program,
            "--archive",
            "--no-owner",
            "--no-group",
            "--no-links",
            "--no-devices",
            "--no-specials",
            "--partial-dir=.rsync-partial",
            "--protect-args",
            "--stats",
            "--timeout=60",
            "--files-from=-",
            "--mkpath" if push else "--chmod=D700,F600",
            f"--bwlimit={args['bandwidth_limit_kib_s']}",
            "-e",
            self._ssh(task_vars),
            *((f"{local}/", remote) if push else (remote, f"{local}/")),
        ]

    @staticmethod
    def _give_up(said: str, task_vars: dict[str, Any]) -> None:
        """Raise where trying again cannot help."""
        pod = str(task_vars.get("podcycle_id") or task_vars.get("inventory_hostname"))
        known_hosts = known_hosts_of(str(task_vars.get("ansible_ssh_common_args") or ""))
        stranger = identity_trouble(said, pod, known_hosts, str(task_vars.get("podcycle_run_id") or ""))
        if stranger:
            raise errors.StrangeHostKey(stranger)
        if "File too large" in said:
            raise errors.CloudError(f"pod {pod} sends more of a file than it said there is; the transfer was cut off", hint="do not trust what this pod made")
        if "No space left on device" in said:
            raise errors.StateError(f"a disk is full: {errors.clean_text(said.strip(), 200)}", hint="make room and run the stage again")

    def _ssh(self, task_vars: dict[str, Any]) -> str:
        """The ssh command line that Ansible itself would use for this pod."""
        words = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ControlPath=none"]
        if task_vars.get("ansible_port"):
            words += ["-p", str(int(self._templar.template(task_vars["ansible_port"])))]
        if task_vars.get("ansible_ssh_private_key_file"):
            words += ["-i", str(self._templar.template(task_vars["ansible_ssh_private_key_file"]))]
        words += shlex.split(str(self._templar.template(task_vars.get("ansible_ssh_common_args") or "")))
        return shlex.join(words)
