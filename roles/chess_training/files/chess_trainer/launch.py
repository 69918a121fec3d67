# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start several processes that train together, by torchrun's own agent, and end with the exit code that they mean.

The agent ends with 1 whatever its processes end with, so each of them leaves a word on how it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import settings, train
from .errors import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, TrainerError, UsageError
from .files import write_json

SHUTDOWN_SECONDS = 60
MOST = 64


def processes(arguments: argparse.Namespace) -> int:
    """How many processes to start here; 1 where torchrun has started this one already."""
    if train.launched():
        return 1
    if arguments.processes:
        if arguments.processes > MOST:
            raise UsageError(f"--processes {arguments.processes}: at most {MOST} share one machine")
        if arguments.processes > 1 and arguments.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--processes {arguments.processes} take a GPU each, so --device {arguments.device} cannot be all of theirs; leave it out")
        return int(arguments.processes)
    if arguments.device not in ("auto", "cuda") or not list(Path("/dev").glob("nvidia[0-9]*")):
        return 1
    import torch

    gpus = torch.cuda.device_count()
    batch_size = arguments.batch_size or settings.PRESETS[arguments.preset]
    count = next((number for number in range(min(gpus, MOST), 1, -1) if batch_size % number == 0), 1)
    if 1 <= count < gpus:
        print(f"{count} of {gpus} GPUs share a batch of {batch_size}; a --batch-size that {gpus} divides lets all of them work", flush=True)
    return count


def leave_word(code: int, message: str) -> None:
    """Tell the launcher how this process ended, where there is one."""
    folder = os.environ.get(train.LAUNCHER)
    if folder and train.launched():
        with contextlib.suppress(OSError):
            rank = os.environ["RANK"]
            write_json(Path(folder) / f"{rank}.json", {"rank": int(rank), "code": code, "message": message, "at": time.monotonic()}, durable=False)


def _words(folder: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(path.read_bytes()) for path in folder.glob("*.json")), key=lambda word: word["at"])


def judge(words: list[dict[str, Any]], killed: dict[int, int], count: int) -> tuple[int, str]:
    """The exit code of all, and what there is to say: the first cause counts, not what followed from it."""
    told = {word["rank"] for word in words}
    for rank, number in sorted(killed.items()):
        if rank not in told:
            how = f"process {rank + 1} of {count} was ended by {signal.Signals(number).name}"
            return EXIT_FAILED, f"{how}, so the others were ended too; the same command goes on"
    failed = [word for word in words if word["code"] not in (EXIT_OK, EXIT_STOPPED)]
    leading = next((word["code"] for word in words if word["rank"] == 0), None)
    if leading in (EXIT_OK, EXIT_STOPPED) and (leading == EXIT_STOPPED or not failed):
        return leading, ""
    if failed:
        return failed[0]["code"], f"process {failed[0]['rank'] + 1} of {count} failed first: {failed[0]['message']}"
    return EXIT_FAILED, f"the {count} processes ended without a word; the same command goes on from the last checkpoint"


def run(arguments: argparse.Namespace, count: int) -> int:
    """The command train with several processes."""
    request = settings.requested(arguments)
    if arguments.device == "cuda" or (arguments.device == "auto" and list(Path("/dev").glob("nvidia[0-9]*"))):
        import torch

        if 0 < torch.cuda.device_count() < count:
            raise UsageError(f"--processes {count}: there are {torch.cuda.device_count()} GPUs, one for each process")
    with train.locked(arguments.run_dir), tempfile.TemporaryDirectory(prefix="chess-trainer-") as name:
        if arguments.resume == "auto" and settings.finished_manifest(arguments.run_dir, request) is not None:
            return train.run_locked(arguments, request)
        os.environ[train.LAUNCHER] = name
        try:
            killed = _torchrun(arguments.words, count)
        finally:
            del os.environ[train.LAUNCHER]
        code, message = judge(_words(Path(name)), killed, count)
    if message:
        raise _Ended(message, code)
    return code


class _Ended(TrainerError):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def _torchrun(words: list[str], count: int) -> dict[int, int]:
    """Run the processes to their end; returns which were ended by which signal."""
    home = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH")) if part)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    # torchrun would set it to 1; each process sets its own number of threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(1, 1, count, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", run_id=f"train-{os.getpid()}", max_restarts=0, local_addr="127.0.0.1")
    try:
        elastic_launch(config, sys.executable)("-m", "chess_trainer", *words)
    except ChildFailedError as error:
        return {rank: -failure.exitcode for rank, failure in error.failures.items() if failure.exitcode < 0}
    except SignalException:
        pass
    return {}
