# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes that train one network together: what they agree on, and what they add up.

Every process has a part of each batch. What they add up is made so that the step is the one that a single process would
make with the whole batch: the gradient, and the statistics of batch normalisation.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .errors import TrainerError

TIMEOUT = datetime.timedelta(minutes=30)


class Team:
    """This process among all of them; a single one is a team too."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @classmethod
    def join(cls, device: str) -> Team:
        """Meet the others that torchrun has started."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        team = cls(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
        _end_with_the_parent()
        on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        if on_gpu:
            torch.cuda.set_device(team.local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
        return team

    @property
    def leads(self) -> bool:
        """Whether this process decides, evaluates and writes."""
        return self.rank == 0

    def largest(self, values: list[float]) -> list[float]:
        """The largest of each value over all processes; does not wait for a GPU."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return [float(value) for value in shared]

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(shared)
        return float(shared) / self.size

    def told(self, value: Any) -> Any:
        """What the leading process has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def wait(self) -> None:
        """Until all are here."""
        self.largest([0.0])

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make each gradient the mean over all processes, in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view(gradient.shape))
            at += gradient.numel()

    def leave(self) -> None:
        """Part in good order."""
        if self.size > 1:
            dist.destroy_process_group()


class LostError(TrainerError):
    """Another process of the team is gone."""


def explained(error: RuntimeError, team: Team) -> BaseException:
    """A failed exchange as what it is: another process has ended, and tells why itself."""
    text = str(error).lower()
    if team.size > 1 and (isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text or "connection" in text):
        return LostError(f"process {team.rank + 1} of {team.size} has lost another one")
    return error


def _end_with_the_parent() -> None:
    """torchrun gives each process a session of its own, so nothing else ends it when torchrun is killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class TeamBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the whole batch. PyTorch's own SyncBatchNorm knows GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of all parts of the batch."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None and self.momentum is not None
        wide = x.float()
        count = x.numel() // x.shape[1]
        sums = _Sum.apply(torch.stack((wide.sum((0, 2, 3)), (wide * wide).sum((0, 2, 3)))))  # type: ignore[no-untyped-call]
        total = float(count * dist.get_world_size())
        mean = sums[0] / total
        # Of a large mean the difference may come out below zero.
        variance = (sums[1] / total - mean**2).clamp_min(0.0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (total / (total - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normal: Tensor = (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
        return normal


def shared_statistics(network: nn.Module) -> nn.Module:
    """The network with its batch normalisation over all processes; its weights keep their names."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = TeamBatchNorm2d
    return network
