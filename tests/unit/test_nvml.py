# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver and its GPUs, from a real shared library that plays NVML."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _nvml
from ansible_collections.podcycle.gpu.plugins.module_utils._gpu_driver import Driver, read_driver

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned int uint;
static int told(const char *name, int otherwise) { const char *value = getenv(name); return value ? atoi(value) : otherwise; }
int nvmlInit_v2(void) { if (told("FAKE_HANG", 0)) sleep(60); return told("FAKE_INIT", 0); }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *to, uint size) { strncpy(to, "580.95.05", size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *to) { *to = 13000; return 0; }
int nvmlDeviceGetCount_v2(uint *to) { *to = told("FAKE_COUNT", 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(uint index, void **to) { *to = (void *)(long)(index + 1); return (int)index == told("FAKE_GONE", -1) ? 15 : 0; }
int nvmlDeviceGetName(void *gpu, char *to, uint size) { strncpy(to, "NVIDIA H100 80GB HBM3", size); return 0; }
int nvmlDeviceGetUUID(void *gpu, char *to, uint size) { strncpy(to, gpu == (void *)1 ? "GPU-one" : "GPU-two", size); return 0; }
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *gpu, struct memory *to) { to->total = 81559ULL << 20; to->free = 1; to->used = 645ULL << 20; return 0; }
#ifndef OLD
struct memory_v2 { uint version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void *gpu, struct memory_v2 *to) {
  if (to->version != (sizeof(*to) | 2 << 24)) return 25;
  to->total = 81559ULL << 20; to->reserved = 640ULL << 20; to->free = 1; to->used = 5ULL << 20; return 0;
}
#endif
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetEccMode(void *gpu, int *now, int *next) { *now = 1; *next = 0; return 0; }
int nvmlDeviceGetTotalEccErrors(void *gpu, uint type, uint counter, unsigned long long *to) { *to = type == 1 && counter == 0 ? 5000000000ULL : 7; return 0; }
int nvmlDeviceGetPersistenceMode(void *gpu, int *to) { *to = 0; return 0; }
int nvmlDeviceGetTemperature(void *gpu, uint sensor, uint *to) { *to = 31; return told("FAKE_TEMPERATURE", 0); }
struct utilization { uint gpu, memory; };
int nvmlDeviceGetUtilizationRates(void *gpu, struct utilization *to) { to->gpu = 42; to->memory = 1; return 3; }
"""
WHOLE = {
    "index": 0, "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-one", "memory_mib": 81559, "memory_used_mib": 5, "compute_capability": "9.0", "ecc": True,
    "ecc_uncorrected": 5000000000, "persistence": False, "lost": False, "temperature_c": 31, "utilization_percent": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(SOURCE)
    for name, words in (("libnvml.so", []), ("libold.so", ["-DOLD"])):
        subprocess.run(["gcc", "-shared", "-fPIC", *words, "-o", str(folder / name), str(folder / "nvml.c")], check=True)
    return folder / "libnvml.so"


@pytest.fixture(autouse=True)
def no_other_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvml, "LIBRARY", "libno-such-nvml.so")
    monkeypatch.setattr(_nvml, "PROC", tmp_path / "version")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_everything_is_read_over_nvml(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_LIBRARY", str(library))
    found = _nvml.read()
    assert {key: found[key] for key in ("available", "trouble", "driver", "cuda_driver")} == {
        "available": True, "trouble": None, "driver": "580.95.05", "cuda_driver": "13.0",
    }  # fmt: skip
    # A figure that the card does not have is null, and no error.
    assert found["gpus"] == [WHOLE, {**WHOLE, "index": 1, "uuid": "GPU-two"}]
    assert read_driver() == Driver("580.95.05", ["NVIDIA H100 80GB HBM3"] * 2)
    assert read_driver().capabilities == ["9.0", "9.0"]
    # Before driver 510 what the driver keeps for itself is in use too.
    monkeypatch.setenv("NVML_LIBRARY", str(library.with_name("libold.so")))
    assert [gpu["memory_used_mib"] for gpu in _nvml.read()["gpus"]] == [645, 645]


@pytest.mark.parametrize(("name", "value"), [("FAKE_GONE", "1"), ("FAKE_TEMPERATURE", "15")])
def test_a_card_that_fell_off_the_bus_is_lost_and_the_others_are_not(library: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("NVML_LIBRARY", str(library))
    monkeypatch.setenv(name, value)
    assert [gpu["lost"] for gpu in _nvml.read()["gpus"]] == [name == "FAKE_TEMPERATURE", True]


def test_a_driver_that_does_not_fit_its_library_is_trouble(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_LIBRARY", str(library))
    monkeypatch.setenv("FAKE_INIT", "18")
    assert _nvml.read() == {**_nvml.empty(), "trouble": "nvmlInit_v2 answered 18: driver and library version mismatch"}
    assert read_driver().version is None


def test_a_driver_that_hangs_is_trouble_in_the_end(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVML_LIBRARY", str(library))
    monkeypatch.setenv("FAKE_HANG", "1")
    monkeypatch.setattr(_nvml, "PATIENCE", 0.3)
    started = time.monotonic()
    assert _nvml.read()["trouble"] == "NVML did not answer within 0 s"
    assert time.monotonic() - started < 10


def test_a_file_that_is_no_library_leads_on_to_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib.so").write_text("not a library")
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\ncase $1 in *ecc*) echo 'Field \"ecc.mode.current\" is not a valid field to query.'; exit 2;; esac\necho '470.82.01, Tesla T4'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("NVML_LIBRARY", str(tmp_path / "lib.so"))
    found = _nvml.read()
    assert (found["driver"], [gpu["name"] for gpu in found["gpus"]], found["trouble"]) == ("470.82.01", ["Tesla T4"], None)


def test_the_tool_tells_what_the_library_would(tmp_path: Path) -> None:
    row = "580.95.05, NVIDIA H100 80GB HBM3, 0, GPU-one, 81559, 9.0, Enabled, 0, Disabled, 31, [N/A], 5"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{row}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert _nvml.read()["gpus"] == [{**WHOLE, "ecc_uncorrected": 0}]


def test_the_file_stands_alone(library: Path, tmp_path: Path) -> None:
    """As it is copied to a pod: no package around it, nothing but the standard library."""
    shutil.copy(str(_nvml.__file__), tmp_path / "_nvml.py")
    code = "import _nvml, sys; print(_nvml.read()['driver'], 'ansible' in sys.modules)"
    environment = {"NVML_LIBRARY": str(library), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["/usr/bin/python3", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["580.95.05", "False"], done.stderr
