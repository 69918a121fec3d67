# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API server's side of process pods: ask the zygote for a pod, end it, look whether it lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rehearsal import procs
from rehearsal.pods import layout

WAIT_SECONDS = 15.0


class PodStartError(Exception):
    """The process behind a pod could not be started."""


class ProcessPods:
    """All process pods of one state folder."""

    def __init__(self, state_dir: Path, image_cache: Path | None, isolation: str) -> None:
        self._state_dir = state_dir
        self._run_dir = state_dir / "run"
        self._image_cache = image_cache
        self._wanted = isolation

    def folder(self, pod_id: str) -> Path:
        return self._state_dir / "pods" / pod_id

    def zygote(self) -> dict[str, Any] | None:
        """The living zygote's record."""
        try:
            record: dict[str, Any] = json.loads((self._run_dir / "zygote.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if procs.alive(record["pid"], record["pid_started"]) else None

    def start_zygote(self) -> None:
        if self.zygote() is not None:
            return
        (self._run_dir / "zygote.json").unlink(missing_ok=True)
        package_root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": package_root}
        with open(self._state_dir / "zygote.log", "ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "rehearsal.pods.zygote", "--state-dir", str(self._state_dir), "--isolation", self._wanted],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def wait_zygote(self) -> dict[str, Any]:
        for _turn in range(int(WAIT_SECONDS / 0.02)):
            record = self.zygote()
            if record is not None:
                return record
            await asyncio.sleep(0.02)
        raise PodStartError("the process that forks pods did not come up; its log is zygote.log in the state folder")

    async def launch(self, pod_id: str, spec: Mapping[str, Any], gpu: Mapping[str, Any] | None) -> dict[str, Any]:
        """Build the folder, start the supervisor; answers its pid, port and host key."""
        folder = self.folder(pod_id)
        await asyncio.to_thread(layout.build, folder, gpu, self._image_cache)
        self.start_zygote()
        await self.wait_zygote()
        request = {**spec, "pod_dir": str(folder), "state_dir": str(self._state_dir)}
        if spec.get("volume"):
            source = self._volume(spec["volume"]["volumeId"])
            source.mkdir(parents=True, exist_ok=True)
            request["volume"] = {"source": str(source), "target": str(layout.persistent_folder(folder, spec["volume"]["path"]))}
        number = os.open(self._run_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{number}/zygote.sock")
        finally:
            os.close(number)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            line = await asyncio.wait_for(reader.readline(), WAIT_SECONDS)
        except TimeoutError as error:
            raise PodStartError(f"pod {pod_id} did not start within {WAIT_SECONDS:.0f} s") from error
        finally:
            writer.close()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its supervisor ended before it answered"}
        if "error" in answer:
            raise PodStartError(f"pod {pod_id} did not start: {answer['error']}")
        return answer

    async def end(self, pid: int | None, started: int | None, polite: bool, grace: float) -> None:
        """End a pod's processes; a polite end sends SIGTERM first and SIGKILL after the grace period."""
        if pid is None or not procs.alive(pid, started):
            return
        procs.send(pid, signal.SIGTERM if polite else signal.SIGINT)
        if not await asyncio.to_thread(procs.wait_gone, pid, started, (grace if polite else 0.0) + 3.0):
            await asyncio.to_thread(procs.kill_tree, pid, started)

    def change_host_key(self, pid: int | None, started: int | None) -> bool:
        return self._tell(pid, started, signal.SIGUSR1)

    def cut_ssh(self, pid: int | None, started: int | None) -> bool:
        return self._tell(pid, started, signal.SIGUSR2)

    def restore_ssh(self, pid: int | None, started: int | None) -> bool:
        return self._tell(pid, started, signal.SIGHUP)

    @staticmethod
    def _tell(pid: int | None, started: int | None, number: signal.Signals) -> bool:
        return bool(pid) and procs.alive(pid, started) and procs.send(pid or 0, number)

    async def wipe(self, pod_id: str, persistent_path: str | None) -> None:
        await asyncio.to_thread(layout.wipe_container_disk, self.folder(pod_id), persistent_path)

    def _volume(self, volume_id: str) -> Path:
        return self._state_dir / "volumes" / volume_id

    def remove_volume(self, volume_id: str) -> None:
        shutil.rmtree(self._volume(volume_id), ignore_errors=True)

    async def remove(self, pod_id: str) -> None:
        """The folder vanishes at once; its thousands of files are deleted behind the scenes."""
        folder = self.folder(pod_id)
        (self._run_dir / f"console-{pod_id}.sock").unlink(missing_ok=True)
        trash = self._state_dir / "trash"
        with contextlib.suppress(FileNotFoundError):
            trash.mkdir(exist_ok=True)
            folder.rename(trash / f"{pod_id}-{os.getpid()}-{id(self)}")
        asyncio.get_running_loop().run_in_executor(None, empty, trash)


def empty(trash: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in list(trash.iterdir()):
            shutil.rmtree(entry, ignore_errors=True)
