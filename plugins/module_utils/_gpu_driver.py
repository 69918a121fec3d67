# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA driver of this machine, and the PyTorch build that fits it.

CUDA 13.x needs driver 580.65.06 or later on Linux. CUDA 12.x programs run on 525.60.13 or later by minor version compatibility
(NVIDIA, CUDA Toolkit release notes, table "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility").
Under the forward compatibility library of CUDA 13.0, package cuda-compat-13-0, its programs run on some older branches of the driver too, on data
center GPUs and select RTX cards for servers (NVIDIA, CUDA Compatibility, "Forward Compatibility").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from . import _nvml
from ._errors import PodcycleError, clean_tree

MINIMUM_DRIVER = {"cu130": (580, 65, 6), "cu128": (525, 60, 13)}
CUDA13_DRIVER = "{}.{}.{:02d}".format(*MINIMUM_DRIVER["cu130"])
BACKENDS = ("cpu", *MINIMUM_DRIVER)
# The first PyTorch release that has the build, and the least compute capability that the build has kernels for: CUDA 13 dropped what came before Turing.
LEAST_TORCH = {"cu130": (2, 9, 0), "cu128": (2, 7, 0)}
LEAST_CAPABILITY = {"cu130": (7, 5), "cu128": (7, 0)}
# The branches and brands that NVIDIA's own image of CUDA 13.0, which has the library inside, starts on (its NVIDIA_REQUIRE_CUDA).
FORWARD_BRANCHES = (535, 550, 565, 570, 575)
NO_FORWARD = re.compile(r"(?i)\b(geforce|titan)\b")


class DriverError(PodcycleError):
    code = "gpu_driver"


class BackendMismatch(PodcycleError):
    code = "torch_backend_mismatch"


@dataclass(frozen=True)
class Driver:
    """V(version) is None on a machine without an NVIDIA GPU; V(trouble) says why a GPU cannot be asked; V(forward) is what a program sees instead."""

    version: str | None = None
    gpus: list[str] = field(default_factory=list)
    trouble: str | None = None
    capabilities: list[str] = field(default_factory=list, compare=False)
    forward: str | None = None

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.forward or self.version or "")[:3])

    @property
    def too_old(self) -> bool:
        """Whether programs of CUDA 13 run on it by forward compatibility alone."""
        return self.version is not None and self.number < MINIMUM_DRIVER["cu130"]


def read_driver() -> Driver:
    return driver_of(clean_tree(_nvml.read()))


def driver_of(found: dict[str, Any]) -> Driver:
    """The driver in what V(_nvml.read) returned."""
    return Driver(
        version=found["driver"] if found["available"] else None,
        gpus=[gpu["name"] for gpu in found["gpus"] if gpu["name"]],
        trouble=found["trouble"],
        capabilities=[gpu["compute_capability"] for gpu in found["gpus"] if gpu["compute_capability"]],
    )


def no_forward(driver: Driver) -> str | None:
    """Why the forward compatibility library of CUDA 13.0 does not work on this machine, else None."""
    consumer = next((name for name in driver.gpus if NO_FORWARD.search(name)), None)
    if consumer:
        return f"forward compatibility is for data center GPUs, and this machine has {consumer}"
    if driver.number[:1] and driver.number[0] not in FORWARD_BRANCHES:
        return f"forward compatibility is for the driver branches {', '.join(map(str, FORWARD_BRANCHES))}, and this machine has {driver.version}"
    return None


def forward(driver: Driver, library: str) -> Driver:
    """The driver as programs see it through the library of that version, which an older one needs."""
    return replace(driver, forward=library) if driver.too_old and not no_forward(driver) else driver


def standing_in(library: dict[str, str] | None) -> dict[str, str] | None:
    """The library that was found, where CUDA 13 runs through it: images of CUDA 12 carry one of their own."""
    return library if library and not Driver(library["version"]).too_old else None


def choose_backend(wanted: str, driver: Driver, *, accept_cpu_on_gpu: bool, torch: str = "") -> str:
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
    misfits = {name: misfit(name, driver, torch) for name in MINIMUM_DRIVER}
    fitting = [name for name, why in misfits.items() if why is None]
    if wanted == "auto":
        if not fitting:
            raise _nothing_fits(driver, misfits)
        return fitting[0]
    if misfits[wanted]:
        advice = f"set pytorch_backend to auto, which takes {fitting[0]} here" if fitting else "no build fits: rent another pod"
        raise BackendMismatch(f"install PyTorch: the {wanted} build {misfits[wanted]}; {advice}")
    return wanted


def misfit(backend: str, driver: Driver, torch: str) -> str | None:
    """Why a build will not do on this driver, this GPU and for this release, else None."""
    if driver.number < MINIMUM_DRIVER[backend]:
        return "needs driver {}.{}.{:02d} or later, and this machine has {}".format(*MINIMUM_DRIVER[backend], driver.version)
    low = min(driver.capabilities, key=_numbers, default="")
    if low and _numbers(low) < LEAST_CAPABILITY[backend]:
        return "has kernels for compute capability {}.{} or later, and this machine's GPU has {}".format(*LEAST_CAPABILITY[backend], low)
    if torch and _numbers(torch.partition("+")[0])[:3] < LEAST_TORCH[backend]:
        return "begins with PyTorch {}.{}.{}, and {} was asked for".format(*LEAST_TORCH[backend], torch)
    return None


def _nothing_fits(driver: Driver, misfits: dict[str, str | None]) -> BackendMismatch:
    if driver.number < MINIMUM_DRIVER["cu128"]:
        return BackendMismatch(f"install PyTorch: driver {driver.version} is too old, 525.60.13 is the least for cu128; rent a pod with a newer driver")
    reasons = "; ".join(f"{name} {why}" for name, why in misfits.items())
    return BackendMismatch(f"install PyTorch: no build fits {_named(driver)}: {reasons}", hint="rent another GPU, or name another pytorch_version")


def uncovered(capabilities: list[str], arch_list: list[str]) -> str | None:
    """A GPU that a build has neither machine code nor portable code for; code for sm_80 also runs on 8.6, portable code on everything later."""
    codes = [(word[:2], _arch(word)) for word in arch_list if re.fullmatch(r"(sm|compute)_\d{2,3}[a-z]?", word)]
    for capability in capabilities:
        major, minor = _numbers(capability)[:2]
        binary = any(kind == "sm" and arch[0] == major and arch[1] <= minor for kind, arch in codes)
        if codes and not binary and not any(kind == "co" and arch <= (major, minor) for kind, arch in codes):
            return capability
    return None


def _arch(word: str) -> tuple[int, int]:
    digits = re.sub(r"\D", "", word)
    return int(digits[:-1]), int(digits[-1])


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _named(driver: Driver) -> str:
    gpu = driver.gpus[0] if driver.gpus else "NVIDIA GPU"
    return f"{gpu}, driver {driver.version or 'unknown'}"
