# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where and how the network is computed: device, precision, compilation, threads."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from . import __version__
from .errors import UsageError
from .model import channels_last
from .settings import allotted_threads
from .team import Team

BF16_CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


class EagerAdamW(torch.optim.AdamW):
    """AdamW without the hooks for a compiler: they import torch._dynamo, which takes seconds, even where nothing is compiled."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


@dataclass
class Runtime:
    """The choices made for one run."""

    device: torch.device
    precision: str
    compile: bool

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in bf16 where that was chosen."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def exact(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in fp32."""
        return contextlib.nullcontext()

    def prepared(self, model: nn.Module) -> nn.Module:
        """The network on its device, compiled where that was chosen."""
        model = channels_last(model.to(self.device))
        return cast(nn.Module, torch.compile(model, dynamic=False)) if self.compile else model

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """AdamW in one fused kernel."""
        made = torch.optim.AdamW if self.compile else EagerAdamW
        return made(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)


def _cpu_has_bf16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not set(BF16_CPU_FLAGS).isdisjoint(flags.split())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is not known: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this PyTorch ({torch.__version__}) sees no GPU")
    return device


def choose(arguments: argparse.Namespace, team: Team) -> Runtime:
    """Resolve the options and set the process up."""
    device = _device(arguments.device)
    if team.size > 1 and device.type == "cuda":
        device = torch.device("cuda", team.local_rank)
    torch.set_num_threads(max(1, allotted_threads(arguments.threads) // team.size))
    precision = arguments.precision
    if precision == "auto":
        # An LSTM in bf16 was seen at a tenth of its speed on a CPU.
        on_cpu = _cpu_has_bf16() and not arguments.preset.startswith("lstm")
        precision = "bf16" if (torch.cuda.is_bf16_supported() if device.type == "cuda" else on_cpu) else "fp32"
    if arguments.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    elif device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    # Games differ in length, so a network that reads moves would be compiled again and again.
    reads_moves = arguments.preset.startswith("lstm")
    fits = team.size == 1 and not reads_moves
    if arguments.compile == "on" and not fits:
        raise UsageError("--compile on: only a single process compiles, and not a network that reads moves; leave it out")
    compiled = arguments.compile == "on" or (arguments.compile == "auto" and device.type == "cuda" and fits)
    return Runtime(device, precision, compiled)


def versions(runtime: Runtime) -> dict[str, Any]:
    """What the run was computed with."""
    gpu = torch.cuda.get_device_properties(runtime.device) if runtime.device.type == "cuda" else None
    return {
        "trainer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "gpu": None if gpu is None else {"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)},
        "threads": torch.get_num_threads(),
        "device": str(runtime.device),
        "precision": runtime.precision,
        "compile": runtime.compile,
    }
