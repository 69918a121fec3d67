# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the NVIDIA driver says about itself and its GPUs: over NVML, else nvidia-smi, else /proc. It never raises.

The file stands alone, so that it can be copied to a machine and imported there. Numbers are those of NVIDIA's nvml.h.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

PROC = Path("/proc/driver/nvidia/version")
LIBRARY = "libnvidia-ml.so.1"
# A driver that hangs keeps its callers for ever.
PATIENCE = 20.0
GPU_IS_LOST, RESET_REQUIRED = 15, 16
FUNCTION_NOT_FOUND, VERSION_MISMATCH = 13, 25
SMI_FIELDS = ("driver_version", "name", "index", "uuid", "memory.total", "compute_cap", "ecc.mode.current", "ecc.errors.uncorrected.volatile.total",
              "persistence_mode", "temperature.gpu", "utilization.gpu", "memory.used")  # fmt: skip
_ERRORS = {
    1: "uninitialized",
    4: "no permission",
    9: "the driver is not loaded",
    12: "a library is missing",
    FUNCTION_NOT_FOUND: "a function is missing",
    GPU_IS_LOST: "a GPU is lost: it has fallen off the bus or is otherwise inaccessible",
    RESET_REQUIRED: "a GPU must be reset",
    17: "the operating system blocks the GPU",
    18: "driver and library version mismatch",
    999: "an unknown error",
}


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _MemoryV2(ctypes.Structure):
    """Here `used` is without what the driver keeps for itself, hundreds of MiB on a large card."""

    _fields_ = [
        ("version", ctypes.c_uint), ("total", ctypes.c_ulonglong), ("reserved", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]  # fmt: skip


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class NvmlError(Exception):
    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} answered {code}: {_ERRORS.get(code, 'see nvml.h')}")
        self.code = code


class _Nvml:
    """The calls that are needed, each an exception when it fails."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)

    def call(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self.library, function)(*arguments)
        except AttributeError:
            code = FUNCTION_NOT_FOUND
        if code:
            raise NvmlError(function, int(code))

    def text(self, function: str, *before: Any) -> str:
        room = ctypes.create_string_buffer(96)
        self.call(function, *before, room, ctypes.c_uint(len(room)))
        return "".join(letter if letter.isprintable() else " " for letter in room.value.decode("utf-8", "replace"))

    def number(self, function: str, *before: Any, kind: Any = ctypes.c_uint) -> int:
        value = kind()
        self.call(function, *before, ctypes.byref(value))
        return int(value.value)


def empty() -> dict[str, Any]:
    return {"available": False, "trouble": None, "driver": None, "cuda_driver": None, "gpus": []}


def read() -> dict[str, Any]:
    """The driver and its GPUs; V(trouble) says why a driver that is there does not answer."""
    box: list[dict[str, Any] | None] = []
    reader = threading.Thread(target=lambda: box.append(_over_nvml()), daemon=True)
    reader.start()
    reader.join(PATIENCE)
    if not box:
        return {**empty(), "trouble": f"NVML did not answer within {PATIENCE:.0f} s"}
    found = box[0]
    if found is not None and found["trouble"] is None:
        return found
    other = _over_smi()
    if found is not None and not (other and other["available"]):
        return found
    return other or _over_proc()


def _over_nvml() -> dict[str, Any] | None:
    """None where there is no such library."""
    nvml = None
    for path in dict.fromkeys(filter(None, (os.environ.get("NVML_LIBRARY"), LIBRARY))):
        try:
            nvml = _Nvml(path)
            break
        except OSError:
            continue
    if nvml is None:
        return None
    found = empty()
    try:
        nvml.call("nvmlInit_v2")
        try:
            found["driver"] = nvml.text("nvmlSystemGetDriverVersion")
            cuda = nvml.number("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int)
            found["cuda_driver"] = f"{cuda // 1000}.{cuda % 1000 // 10}"
            count = nvml.number("nvmlDeviceGetCount_v2")
            found["gpus"] = [_gpu(nvml, index) for index in range(count)]
            found["available"] = True
        finally:
            nvml.library.nvmlShutdown()
    except NvmlError as error:
        found["trouble"] = str(error)
    except (OSError, ValueError, AttributeError) as error:
        found["trouble"] = f"NVML could not be read: {error}"[:200]
    return found


def _gpu(nvml: _Nvml, index: int) -> dict[str, Any]:
    gpu = _blank(index)
    device = ctypes.c_void_p()
    try:
        nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
    except NvmlError as error:
        gpu["lost"] = error.code in (GPU_IS_LOST, RESET_REQUIRED)
        return gpu

    def ask(key: str, read_one: Any) -> None:
        try:
            gpu[key] = read_one()
        except NvmlError as error:
            gpu["lost"] = gpu["lost"] or error.code in (GPU_IS_LOST, RESET_REQUIRED)

    ask("name", lambda: nvml.text("nvmlDeviceGetName", device)[:80])
    ask("uuid", lambda: nvml.text("nvmlDeviceGetUUID", device))
    ask("memory_mib", lambda: _memory(nvml, device).total >> 20)
    ask("memory_used_mib", lambda: _memory(nvml, device).used >> 20)
    ask("compute_capability", lambda: "{}.{}".format(*_pair(nvml, "nvmlDeviceGetCudaComputeCapability", device)))
    ask("ecc", lambda: bool(_pair(nvml, "nvmlDeviceGetEccMode", device)[0]))
    # 1 is NVML_MEMORY_ERROR_TYPE_UNCORRECTED, 0 NVML_VOLATILE_ECC: those since the driver was loaded.
    total = "nvmlDeviceGetTotalEccErrors"
    ask("ecc_uncorrected", lambda: nvml.number(total, device, ctypes.c_uint(1), ctypes.c_uint(0), kind=ctypes.c_ulonglong))
    ask("persistence", lambda: bool(nvml.number("nvmlDeviceGetPersistenceMode", device)))
    ask("temperature_c", lambda: nvml.number("nvmlDeviceGetTemperature", device, ctypes.c_uint(0)))
    ask("utilization_percent", lambda: int(_structure(nvml, "nvmlDeviceGetUtilizationRates", device, _Utilization()).gpu))
    return gpu


def _blank(index: int) -> dict[str, Any]:
    keys = ("name", "uuid", "memory_mib", "memory_used_mib", "compute_capability", "ecc", "ecc_uncorrected", "persistence", "temperature_c",
            "utilization_percent")  # fmt: skip
    return {"index": index, **dict.fromkeys(keys), "lost": False}


def _pair(nvml: _Nvml, function: str, device: Any) -> tuple[int, int]:
    first, second = ctypes.c_int(), ctypes.c_int()
    nvml.call(function, device, ctypes.byref(first), ctypes.byref(second))
    return first.value, second.value


def _memory(nvml: _Nvml, device: Any) -> Any:
    """A driver before 510 knows the first version only."""
    try:
        return _structure(nvml, "nvmlDeviceGetMemoryInfo_v2", device, _MemoryV2(version=ctypes.sizeof(_MemoryV2) | 2 << 24))
    except NvmlError as error:
        if error.code not in (FUNCTION_NOT_FOUND, VERSION_MISMATCH):
            raise
    return _structure(nvml, "nvmlDeviceGetMemoryInfo", device, _Memory())


def _structure(nvml: _Nvml, function: str, device: Any, room: Any) -> Any:
    nvml.call(function, device, ctypes.byref(room))
    return room


def _over_smi() -> dict[str, Any] | None:
    """None where there is no such program."""
    found = empty()
    for fields in (SMI_FIELDS, SMI_FIELDS[:2]):
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False)
        except FileNotFoundError:
            return None
        except (OSError, subprocess.TimeoutExpired) as error:
            return {**found, "trouble": f"nvidia-smi could not be run: {error}"}
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if re.match(r"\d+\.\d+", line.strip())]
        if done.returncode == 0 and rows:
            return {**found, "available": True, "driver": rows[0][0], "gpus": [_smi_gpu(n, row) for n, row in enumerate(rows) if len(row) > 1]}
        # An older driver knows fewer fields and answers 2 for one that it does not know.
        if done.returncode != 2:
            break
    said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0][:200]
    return {**found, "trouble": f"nvidia-smi ended with {done.returncode} and said: {said}"}


def _smi_gpu(index: int, row: list[str]) -> dict[str, Any]:
    gpu = _blank(index)
    cells = dict(zip(SMI_FIELDS, row, strict=False))
    gpu["name"] = cells["name"][:80]
    gpu["uuid"] = cells.get("uuid")
    found = re.fullmatch(r"\d+\.\d+", cells.get("compute_cap", ""))
    gpu["compute_capability"] = found.group() if found else None
    numbers = {"memory_mib": "memory.total", "ecc_uncorrected": "ecc.errors.uncorrected.volatile.total", "temperature_c": "temperature.gpu",
               "utilization_percent": "utilization.gpu", "memory_used_mib": "memory.used"}  # fmt: skip
    for key, field in numbers.items():
        gpu[key] = int(cells[field]) if cells.get(field, "").isdigit() else None
    for key, field in {"ecc": "ecc.mode.current", "persistence": "persistence_mode"}.items():
        gpu[key] = {"enabled": True, "disabled": False}.get(cells.get(field, "").lower())
    return gpu


def _over_proc() -> dict[str, Any]:
    """The kernel module's own word, where a container has neither library nor tool."""
    try:
        text = PROC.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return empty()
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text)
    if not found:
        return {**empty(), "trouble": f"{PROC} names no version"}
    return {**empty(), "available": True, "driver": found.group(1)}
