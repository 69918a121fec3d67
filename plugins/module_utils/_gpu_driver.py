# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA driver of this machine, and the PyTorch build that fits it.

CUDA 13.x needs driver 580.65.06 or later on Linux. CUDA 12.x programs run on 525.60.13 or later by minor version compatibility
(NVIDIA, CUDA Toolkit release notes, table "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility").
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import PodcycleError

MINIMUM_DRIVER = {"cu130": (580, 65, 6), "cu128": (525, 60, 13)}
BACKENDS = ("cpu", *MINIMUM_DRIVER)
_PROC = Path("/proc/driver/nvidia/version")


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

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version or "")[:3])


def read_driver() -> Driver:
    command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except FileNotFoundError:
        return _driver_from_proc()
    except (OSError, subprocess.TimeoutExpired) as error:
        return Driver(trouble=f"nvidia-smi could not be run: {error}")
    rows = [line.split(",", 1) for line in done.stdout.splitlines() if re.match(r"\d+\.\d+", line.strip())]
    if done.returncode or not rows:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0][:200]
        return Driver(trouble=f"nvidia-smi ended with {done.returncode} and said: {said}")
    return Driver(version=rows[0][0].strip(), gpus=[row[1].strip()[:80] for row in rows if len(row) > 1])


def _driver_from_proc() -> Driver:
    try:
        text = _PROC.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Driver()
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text)
    return Driver(version=found.group(1)) if found else Driver(trouble=f"{_PROC} names no version")


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
