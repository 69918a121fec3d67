# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import glob
import re
import resource
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._artifacts import RSYNC_PARTIAL, chosen, safe_relative, survey
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._copying import Meter, rsync_progress, run_watched, summary
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import NoSuchFile
from ansible_collections.podcycle.gpu.plugins.module_utils._scp import Scp
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import identity_trouble, known_hosts_of

display = Display()

SPEC = {
    "direction": {"type": "str", "choices": ["push", "pull"], "required": True},
    "src": {"type": "str", "required": True},
    "dest": {"type": "str", "required": True},
    "patterns": {"type": "list", "elements": "str", "default": ["*"]},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "required": {"type": "list", "elements": "str", "default": []},
    "max_bytes": {"type": "int", "default": 20 * 1024**3},
    "tries": {"type": "int", "default": 3},
    "timeout": {"type": "int", "default": 3600},
    "bandwidth_limit_kib_s": {"type": "int", "default": 0},
}


# A log may grow between the survey and the transfer.
SLACK_BYTES = 64 * 1024**2
# No gateway was seen to reach half of it.
GATEWAY_KIB_S = 4096
_NO_RSYNC = re.compile(r"rsync: (?:command )?not found|command not found: rsync|remote command not found")


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
        self._refuse(args)
        source = self._remote(args, there, task_vars) if pull else self._here(args, local)
        target = self._here(args, local) if pull else self._remote(args, there, task_vars)
        if not pull or not source["exists"]:
            self._complain(args, source)
        missing = [row for row in source["files"] if row not in target["files"]]
        result = {
            "changed": bool(missing),
            "files": source["files"],
            "transferred": [row["path"] for row in missing],
            "bytes": sum(row["size"] for row in missing),
            "refused": source["refused"],
            "summary": "",
        }
        if missing and not self._task.check_mode:
            if pull:
                self._make_room(local, result["bytes"])
            trips = [self._timed(args, local, there, missing, task_vars)]
            wrong = self._astray(source, self._here(args, local) if pull else self._remote(args, there, task_vars))
            if wrong and pull:
                wrong = self._settle(args, local, there, source, wrong, task_vars, trips)
                asked = {row["path"] for row in missing}
                missing = [row for row in source["files"] if row["path"] in asked]
                result.update(files=source["files"], refused=source["refused"], transferred=[row["path"] for row in missing])
                result["bytes"] = sum(row["size"] for row in missing)
            if wrong:
                raise errors.CloudError(
                    f"{len(wrong)} files differ after the transfer, the first is {wrong[0]}", hint="run the stage again; what arrived whole is not sent again"
                )
            method, seconds = trips[0][0], sum(trip[2] for trip in trips)
            sent = None if any(trip[1] is None for trip in trips) else sum(trip[1] or 0 for trip in trips)
            result.update(method=method, bytes_sent=sent, seconds=round(seconds, 2), mib_s=round(result["bytes"] / 2**20 / max(seconds, 0.01), 1))
            result["summary"] = summary(len(missing), result["bytes"], seconds, method)
        if pull:
            # What is there is brought home first: after a failed training its checkpoint and its log are all that there is.
            complaint = guarded(lambda: self._complain(args, source) or {})
            result.update(complaint, changed=result["changed"])
        return result

    @staticmethod
    def _astray(source: dict[str, Any], target: dict[str, Any]) -> list[str]:
        return [row["path"] for row in source["files"] if row not in target["files"]]

    def _timed(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> tuple[str, int | None, float]:
        began = time.monotonic()
        return (*self._send(args, local, there, rows, task_vars), time.monotonic() - began)

    def _settle(
        self, args: dict[str, Any], local: Path, there: str, source: dict[str, Any], wrong: list[str], task_vars: dict[str, Any],
        trips: list[tuple[str, int | None, float]],
    ) -> list[str]:  # fmt: skip
        """Fetch again what changed on the pod meanwhile, as the state of a job that runs does; which files differ though they did not change.

        `source` tells in the end what has arrived: a file that is never still is refused there, and what came of it stays.
        """
        kept = [row for row in source["files"] if row["path"] not in wrong]
        rows = [row for row in source["files"] if row["path"] in wrong]
        refused: list[dict[str, str]] = []
        for attempt in range(args["tries"] + 1):
            only = {**args, "patterns": [glob.escape(row["path"]) for row in rows]}
            looked = self._remote(only, there, task_vars)
            before, rows = rows, looked["files"]
            # As one that has grown beyond max_bytes.
            refused += looked["refused"]
            arrived = self._here(only, local)["files"]
            damaged = [row["path"] for row in rows if row in before and row not in arrived]
            if damaged:
                return damaged
            kept += [row for row in rows if row in arrived]
            # What is no longer listed is gone from the pod, as an old checkpoint is.
            rows = [row for row in rows if row not in arrived]
            if not rows:
                break
            if attempt < args["tries"]:
                self._make_room(local, sum(row["size"] for row in rows))
                trips.append(self._timed(args, local, there, rows, task_vars))
        if rows:
            display.display(f"  {len(rows)} files change while they are copied, the first is {clean_name(rows[0]['path'])}")
            refused += [{"path": row["path"], "why": "it changes while it is copied; what came of it is unchecked"} for row in rows]
        source.update(files=sorted(kept, key=lambda row: str(row["path"])), refused=source["refused"] + refused)
        return []

    def _refuse(self, args: dict[str, Any]) -> None:
        unwanted = [name for name in args["required"] if not chosen(name, args["patterns"], args["exclude"])]
        if unwanted:
            raise errors.UsageError(f"{unwanted[0]} is required, and exclude or patterns leaves it out", hint="mend transfer_exclude or the patterns")
        limit = args["bandwidth_limit_kib_s"]
        if limit < 0:
            raise errors.UsageError(f"bandwidth_limit_kib_s is {limit}, and must be 0 for no limit or more", hint="-e transfer_bwlimit=1024 is 1 MiB a second")
        if self._through_gateway and 0 < limit < GATEWAY_KIB_S:
            raise errors.UsageError(
                f"the pod is reached through RunPod's gateway, which cannot be held to {limit} KiB a second; by itself it moves 0.1 to 2 MiB a second",
                hint="leave the limit out: -e transfer_bwlimit=0",
            )

    @staticmethod
    def _here(args: dict[str, Any], local: Path) -> dict[str, Any]:
        return survey(local, args["patterns"], args["max_bytes"], exclude=args["exclude"])

    def _send(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> tuple[str, int | None]:
        """How the files went over, and how many bytes of content really travelled."""
        if self._through_gateway:
            return "gateway", self._gateway(args, local, there, rows, task_vars)
        if shutil.which("rsync") is None:
            display.display("  rsync is not installed here: the files go one by one through scp")
        else:
            found, sent = self._rsync(args, local, there, rows, task_vars)
            if found:
                return "rsync", sent
            display.display("  the pod has no rsync: the files go one by one through scp")
        return "scp", self._scp(args, local, there, rows, task_vars)

    @staticmethod
    def _meter(args: dict[str, Any], rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> Meter:
        host = str(task_vars.get("inventory_hostname", "localhost"))
        return Meter(f"[{host}] {args['direction']}", sum(row["size"] for row in rows), display.display)

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
            module_args={"root": root, **{name: args[name] for name in ("patterns", "exclude", "max_bytes")}},
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
            if not isinstance(path, str) or not safe_relative(path) or not chosen(path, args["patterns"], args["exclude"]):
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

    def _rsync(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> tuple[bool, int | None]:
        """Bring the files over; whether the pod has an rsync, and the bytes of content that really travelled in the last try."""
        command = self._command(args, local, there, task_vars)
        # Without a folder before it, a name that begins with # or ; is a comment to rsync.
        listing = "".join(f"./{row['path']}\n" for row in rows)
        meter = self._meter(args, rows, task_vars)
        said = ""

        def tick(heard: bytes) -> None:
            done = rsync_progress(heard)
            if done is not None:
                meter.seen(done)

        for attempt in range(1, args["tries"] + 1):
            done = run_watched(command, args["timeout"], stdin=listing.encode(), bound=self._bound(args, rows), tick=tick)
            if done.returncode == 0:
                return True, _literal_bytes(done.stdout)
            raw = done.stderr.decode("utf-8", "replace")
            said = errors.clean_text(raw.strip(), 400)
            self._give_up(raw, task_vars)
            if _NO_RSYNC.search(raw):
                return False, None
            display.display(f"  transfer try {attempt} of {args['tries']} failed: {said}")
            if attempt < args["tries"]:
                time.sleep(min(2.0**attempt, 10.0))
        raise errors.CloudError(f"rsync failed {args['tries']} times: {said}", hint="run the stage again with the same run_id; it goes on where it was")

    @staticmethod
    def _bound(args: dict[str, Any], rows: list[dict[str, Any]]) -> Callable[[], None] | None:
        return partial(_bound_files, max(row["size"] for row in rows) + SLACK_BYTES) if args["direction"] == "pull" else None

    def _scp(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> int:
        def shell(command: str) -> None:
            done = self._low_level_execute_command(command, sudoable=False)
            if done.get("rc"):
                raise errors.CloudError(f"the pod cannot make room for the files: {errors.clean_text(done.get('stderr') or done.get('stdout'), 300)}")

        words, host = self._ssh(task_vars), self._host(task_vars)
        # One login for all files; Ansible's own master for this pod, which ends when the pod is given back.
        folder = str(self._templar.template(task_vars.get("ansible_control_path_dir") or ""))
        master = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={folder}/scp-%C"] if folder else ["-o", "ControlPath=none"]
        scp = Scp(
            [*master, *("-P" if word == "-p" else word for word in words)], host, args["bandwidth_limit_kib_s"], args["tries"],
            args["timeout"], self._meter(args, rows, task_vars), shell, partial(self._give_up, task_vars=task_vars),
            lambda text: display.display(f"  {text}"),
        )  # fmt: skip
        if args["direction"] == "push":
            scp.push(local, there.rstrip("/"), rows)
        else:
            scp.pull(there.rstrip("/"), local, rows, partial(_bound_files, max(row["size"] for row in rows) + SLACK_BYTES))
        return sum(row["size"] for row in rows)

    @property
    def _through_gateway(self) -> bool:
        return str(self._connection.transport).endswith("runpod_gateway")

    def _gateway(self, args: dict[str, Any], local: Path, there: str, rows: list[dict[str, Any]], task_vars: dict[str, Any]) -> int:
        """One file after the other through the connection itself, which knows no rsync; each goes on where an earlier try ended."""
        root = there.rstrip("/")
        meter, done = self._meter(args, rows, task_vars), 0
        pairs = [(local / row["path"], f"{root}/{row['path']}", row["size"]) for row in rows]
        if args["direction"] == "push":
            folders = sorted({remote.rpartition("/")[0] for _here, remote, _size in pairs})
            self._low_level_execute_command(f"mkdir -p -- {shlex.join(folders)}", sudoable=True)
            modes: dict[str, list[str]] = {}
            for here, remote, size in pairs:
                display.display(f"  through the gateway: {clean_name(remote)} ({size} bytes)")
                self._connection.put_watched(str(here), remote, partial(meter.after, done))
                done += size
                modes.setdefault(f"{here.stat().st_mode & 0o777:o}", []).append(remote)
            for mode, remotes in modes.items():
                self._low_level_execute_command(f"chmod {mode} -- {shlex.join(remotes)}", sudoable=True)
        else:
            for here, remote, size in pairs:
                display.display(f"  through the gateway: {clean_name(remote)} ({size} bytes)")
                here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    self._connection.fetch_bounded(remote, str(here), size + SLACK_BYTES, partial(meter.after, done))
                except AnsibleError as err:
                    if isinstance(err.__cause__, NoSuchFile):
                        continue
                    raise
                done += size
                here.chmod(0o600)
        return sum(size for _here, _remote, size in pairs)

    def _command(self, args: dict[str, Any], local: Path, there: str, task_vars: dict[str, Any]) -> list[str]:
        remote = f"{self._host(task_vars)}:{there.rstrip('/')}/"
        push = args["direction"] == "push"
        return [
            "rsync",
            "--archive",
            "--no-owner",
            "--no-group",
            "--no-links",
            "--no-devices",
            "--no-specials",
            # Only what differs by checksum is listed; rsync would leave out what has the same size and time.
            "--ignore-times",
            f"--partial-dir={RSYNC_PARTIAL}",
            "--protect-args",
            "--stats",
            "--info=progress2",
            "--timeout=60",
            "--files-from=-",
            # A pod that works drops its old checkpoints while its files are fetched.
            *(("--mkpath",) if push else ("--chmod=D700,F600", "--ignore-missing-args")),
            f"--bwlimit={args['bandwidth_limit_kib_s']}",
            "-e",
            shlex.join(["ssh", "-o", "ControlPath=none", *self._ssh(task_vars)]),
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

    def _host(self, task_vars: dict[str, Any]) -> str:
        host, user = str(self._templar.template(task_vars["ansible_host"])), str(self._templar.template(task_vars.get("ansible_user") or "root"))
        return f"{user}@{f'[{host}]' if ':' in host else host}"

    def _ssh(self, task_vars: dict[str, Any]) -> list[str]:
        """The options of ssh that Ansible itself would use for this pod, but for those of the master."""
        words = ["-F", "none", "-o", "BatchMode=yes"]
        if task_vars.get("ansible_port"):
            words += ["-p", str(int(self._templar.template(task_vars["ansible_port"])))]
        if task_vars.get("ansible_ssh_private_key_file"):
            words += ["-i", str(self._templar.template(task_vars["ansible_ssh_private_key_file"]))]
        return words + shlex.split(str(self._templar.template(task_vars.get("ansible_ssh_common_args") or "")))
