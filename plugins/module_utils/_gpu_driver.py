# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA driver of this machine, and the PyTorch build that fits it.

CUDA 13.x needs driver 580.65.06 or later on Linux. CUDA 12.x programs run on 525.60.13 or later by minor version compatibility
(NVIDIA, CUDA Toolkit release notes, table "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from . import _nvml
from ._errors import PodcycleError

MINIMUM_DRIVER = {"cu130": (580, 65, 6), "cu128": (525, 60, 13)}
BACKENDS = ("cpu", *MINIMUM_DRIVER)


class DriverError(PodcycleError):
    code = "gpu_driver"


class BackendMismatch(PodcycleError):
    code = "torch_backend_mismatch"


@dataclass(frozen=True)
class Driver:
    """V(version) is None on a machine without an NVIDIA GPU; V(trouble) says why a GPU cannot be asked."""

    version: str | None = None
    gpus: list[str] = field(default_factory=list)
    trouble: str | None = None
    capabilities: list[str] = field(default_factory=list, compare=False)

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version or "")[:3])


def read_driver() -> Driver:
    return driver_of(_nvml.read())


def driver_of(found: dict[str, Any]) -> Driver:
    """The driver in what V(_nvml.read) returned."""
    return Driver(
        version=found["driver"] if found["available"] else None,
        gpus=[gpu["name"] for gpu in found["gpus"] if gpu["name"]],
        trouble=found["trouble"],
        capabilities=[gpu["compute_capability"] for gpu in found["gpus"] if gpu["compute_capability"]],
    )


def choose_backend(wanted: str, driver: Driver, *, accept_cpu_on_gpu: bool) -> str:
    """The build to install; an error where the wish does not fit the machine."""
    has_gpu = driver.version is not None or driver.trouble is not None
    if wanted == "cpu":
        if has_gpu and not accept_cpu_on_gpu:
            raise BackendMismatch(
                f"install PyTorch: the CPU build was asked for on a machine with a GPU ({_named(driver)}); "
                "leave pytorch_backend at auto, or set pytorch_accept_cpu_on_gpu to true if that is meant"
            )
        return wanted
    if driver.trouble:
        raise DriverError(f"install PyTorch: the GPU driver does not answer; {driver.trouble}; rent another pod, or set pytorch_backend")
    if not has_gpu:
        if wanted == "auto":
            return "cpu"
        raise BackendMismatch(f"install PyTorch: the {wanted} build was asked for, and this machine has no NVIDIA driver; leave pytorch_backend at auto")
    if wanted == "auto":
        fitting = next((name for name, least in MINIMUM_DRIVER.items() if driver.number >= least), None)
        if fitting is None:
            raise BackendMismatch(f"install PyTorch: driver {driver.version} is too old, 525.60.13 is the least for cu128; rent a pod with a newer driver")
        return fitting
    if driver.number < MINIMUM_DRIVER[wanted]:
        least = "{}.{}.{:02d}".format(*MINIMUM_DRIVER[wanted])
        raise BackendMismatch(
            f"install PyTorch: the {wanted} build needs driver {least} or later, and this machine has {driver.version}; set pytorch_backend to auto"
        )
    return wanted


def _named(driver: Driver) -> str:
    gpu = driver.gpus[0] if driver.gpus else "NVIDIA GPU"
    return f"{gpu}, driver {driver.version or 'unknown'}"
