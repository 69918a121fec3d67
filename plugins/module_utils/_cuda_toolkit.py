# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A CUDA toolkit with the wanted nvcc: found on the machine or installed, proven by a real kernel, and only then stamped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._aside import locked, point_link, read_json, write_json
from ._errors import PodcycleError, clean_text
from ._gpu_driver import CUDA13_DRIVER, Driver, no_forward, standing_in
from ._machine import free_gib
from ._toolkits import Toolkit, find_compat, find_toolkits, nvcc_version
from ._uv import last_words, run_program

STAMP = ".podcycle-cuda.json"
SCHEMA = 1
SYSTEM_FOLDER = Path("/usr/local")
# NVIDIA, CUDA Toolkit release notes: the least architecture that the nvcc of CUDA 13.x still compiles for.
LEAST_CAPABILITY = (7, 5)
NEEDED_GIB = {"wheels": 1.0, "apt": 6.0, "runfile": 12.0}
_KERNEL = r"""
#include <cstdio>
__global__ void twice(int *x) { x[threadIdx.x] = 2 * threadIdx.x; }
int main() {
  int version = 0, devices = 0, wrong = 0, *memory = nullptr, host[64];
  cudaRuntimeGetVersion(&version);
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) {
    error = cudaMalloc(&memory, sizeof host);
    if (error == cudaSuccess) {
      twice<<<1, 64>>>(memory);
      error = cudaMemcpy(host, memory, sizeof host, cudaMemcpyDeviceToHost);
      for (int n = 0; error == cudaSuccess && n < 64; n++) wrong += host[n] != 2 * n;
    }
  }
  std::printf("{\"runtime\": %d, \"devices\": %d, \"error\": %d, \"wrong\": %d, \"said\": \"%s\"}\n", version, devices, (int)error, wrong,
              cudaGetErrorName(error));
  return 0;
}
"""


class CudaError(PodcycleError):
    code = "cuda_toolkit"


class CudaMismatch(CudaError):
    code = "cuda_mismatch"


class CudaNotVerified(CudaError):
    code = "cuda_not_verified"


@dataclass(frozen=True)
class Wish:
    prefix: Path
    workspace: Path
    version: str
    nvcc_version: str
    method: str = "wheels"
    components: list[str] = field(default_factory=list)
    reuse: bool = True
    links: bool = False
    compat: str = "never"
    accept_old_driver: bool = False

    @property
    def series(self) -> str:
        return ".".join(self.version.split(".")[:2])

    def fingerprint(self) -> dict[str, Any]:
        return {"nvcc": self.nvcc_version, "components": sorted(self.components)}


@dataclass(frozen=True)
class Found:
    """A toolkit of the wanted version; V(need) is V(nothing), V(proof), or V(install) when there is none."""

    need: str
    path: Path
    why: str = ""


class CudaToolkit:
    def __init__(self, wish: Wish, driver: Driver) -> None:
        self.wish = wish
        self.driver = driver
        self.capability = min(driver.capabilities, key=number, default="9.0")
        self.seconds: dict[str, float] = {}

    @property
    def arch(self) -> str:
        return "sm_" + self.capability.replace(".", "")

    def stamp_of(self, path: Path) -> Path:
        """Our own toolkit carries its stamp, another's is noted in the workspace."""
        return path / STAMP if path == self.wish.prefix else self.wish.workspace / ".podcycle" / "stack" / "cuda.json"

    def preflight(self) -> None:
        wish, driver = self.wish, self.driver
        if not wish.version.startswith("13."):
            raise CudaMismatch(f"install CUDA {wish.version}: only CUDA 13 comes in one piece; name a cuda13_version such as 13.0.2")
        if wish.version.split(".")[:2] != wish.nvcc_version.split(".")[:2]:
            raise CudaMismatch(
                f"install CUDA {wish.version}: nvcc {wish.nvcc_version} is of another series; cuda13_version 13.0.2 comes with cuda13_nvcc_version 13.0.88, "
                "and a newer version wants both named"
            )
        if driver.capabilities and number(self.capability) < LEAST_CAPABILITY:
            raise CudaMismatch(
                f"install CUDA {wish.version}: this machine's GPU has compute capability {self.capability}, and CUDA 13 begins at 7.5",
                hint="rent a GPU of the Turing generation or later, or leave CUDA out with -e stack=cpu",
            )
        if self.needs_compat and wish.compat == "never" and not wish.accept_old_driver:
            raise CudaMismatch(
                f"install CUDA {wish.version}: its programs need driver {CUDA13_DRIVER} or later, and this machine has {driver.version}",
                hint="rent a pod with a newer driver; or set cuda13_compat to auto, which works on data center GPUs; or set cuda13_accept_old_driver to true "
                "to have a compiler whose programs do not run here",
            )
        why = no_forward(driver) if self.needs_compat and wish.compat == "auto" and wish.series == "13.0" and not wish.accept_old_driver else None
        if why:
            raise CudaMismatch(f"install CUDA {wish.version}: its programs need driver {CUDA13_DRIVER} or later; {why}", hint="rent a pod with a newer driver")

    @property
    def needs_compat(self) -> bool:
        return self.driver.too_old

    def look(self) -> Found:
        """Our own toolkit first, then any other on the machine that will do."""
        own, wish = self.wish.prefix, self.wish
        trouble = own_trouble(own, wish)
        if trouble is None:
            return Found("nothing" if self._proven(own) else "proof", own)
        # Packages go where they are made for, so a toolkit of apt's is never our own.
        if wish.reuse or wish.method == "apt":
            for toolkit in find_toolkits(wish.workspace):
                path = Path(toolkit.path)
                if path != own.resolve() and toolkit.version == wish.nvcc_version and lacking(toolkit, wish.components) is None:
                    return Found("nothing" if self._proven(path) else "proof", path)
        return Found("install", own, trouble)

    def _proven(self, path: Path) -> bool:
        record = read_json(self.stamp_of(path), SCHEMA)
        return (
            record is not None
            and (record.get("path"), record.get("arch"), record.get("driver")) == (str(path), self.arch, self.driver.version)
            and record.get("nvcc") == mark(path / "bin" / "nvcc")
        )

    def compat(self) -> dict[str, str] | None:
        found = standing_in(find_compat([Toolkit(str(self.wish.prefix), "")], self.wish.workspace))
        return found if self.needs_compat and self.wish.compat == "auto" else None

    def satisfied(self) -> bool:
        found = self.look()
        return found.need == "nothing" and not self.wanted_links(found.path) and not self.lacks_compat()

    def lacks_compat(self) -> bool:
        return self.needs_compat and self.wish.compat == "auto" and self.compat() is None

    def wanted_links(self, path: Path) -> dict[Path, Path]:
        """Links that are missing or point elsewhere; a real folder of that name, and somebody else's V(cuda), stay as they are."""
        if not self.wish.links:
            return {}
        named, plain = SYSTEM_FOLDER / f"cuda-{self.wish.series}", SYSTEM_FOLDER / "cuda"
        links = {}
        if path != named and path.resolve() != named.resolve() and (named.is_symlink() or not named.exists()):
            links[named] = path
        if not plain.is_symlink() and not plain.exists():
            links[plain] = named
        return links

    def make(self, installer: Any) -> Path:
        """Install what is missing, prove it, stamp it last."""
        with locked(self.wish.prefix):
            found = self.look()
            if found.need == "install":
                self.room()
                started = time.monotonic()
                installer.install()
                self.seconds["install"] = round(time.monotonic() - started, 2)
                found = self.look()
                if found.need == "install":
                    raise CudaNotVerified(f"install CUDA {self.wish.version} by {self.wish.method}: it went through, and yet {found.why}")
            if self.lacks_compat():
                installer.install_compat()
            if found.need == "proof":
                self.prove_and_stamp(found.path)
            for link, target in self.wanted_links(found.path).items():
                point_link(link, target)
            return found.path

    def room(self) -> None:
        where = self.wish.prefix.parent if self.wish.method != "apt" else SYSTEM_FOLDER
        free, needed = free_gib(where), NEEDED_GIB[self.wish.method]
        if free < needed:
            raise CudaError(
                f"install CUDA {self.wish.version} by {self.wish.method}: {where} has {free:.1f} GiB free, and {needed:.1f} GiB are needed",
                hint="make room there, or name another folder with cuda13_workspace",
            )

    def prove_and_stamp(self, path: Path) -> None:
        started = time.monotonic()
        proof = prove(path, self.arch, self.compat())
        self.seconds["prove"] = round(time.monotonic() - started, 2)
        if self.driver.version and not self.wish.accept_old_driver and (proof["error"] or proof["wrong"]):
            said = "computed wrong results" if proof["wrong"] else f"ended with {clean_text(proof['said'], 60)}"
            raise CudaNotVerified(f"verify CUDA in {path}: a kernel compiled for {self.arch} {said} under driver {self.driver.version}; rent another pod")
        record = read_json(self.stamp_of(path), SCHEMA) or {} if path == self.wish.prefix else {}
        stamp = {"schema": SCHEMA, "path": str(path), "arch": self.arch, "driver": self.driver.version, "nvcc": mark(path / "bin" / "nvcc"), "proof": proof}
        write_json(self.stamp_of(path), {**record, **stamp})


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def mark(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, int(status.st_mtime)]


def own_trouble(prefix: Path, wish: Wish) -> str | None:
    """Why the toolkit that we have made will not do, else None."""
    record = read_json(prefix / STAMP, SCHEMA)
    if record is None or not isinstance(record.get("files"), dict):
        return f"there is no whole toolkit in {prefix}"
    if record.get("fingerprint") != wish.fingerprint():
        return f"{prefix} holds another version or other components"
    try:
        for name, size in record["files"].items():
            if os.lstat(f"{prefix}/{name}").st_size != size:
                return f"{prefix}/{name} has been changed"
    except OSError:
        return f"{prefix}/{name} is missing"
    version = nvcc_version(prefix / "bin" / "nvcc")
    return None if version == wish.nvcc_version else f"{prefix}/bin/nvcc says {version or 'nothing'}"


def lacking(toolkit: Toolkit, components: list[str]) -> str | None:
    """What a toolkit that others have installed does not have, of what programs are compiled with."""
    path = Path(toolkit.path)
    if not (path / "include" / "cuda_runtime.h").exists():
        return "include/cuda_runtime.h"
    folders = [path / "lib64", path / "lib"]
    for name in ("cudart", *components):
        if not any(next(folder.glob(f"lib{name}*"), None) for folder in folders):
            return f"lib{name}"
    return None


def _place_to_run(path: Path) -> str | None:
    """Where a program may be started: on hardened machines /tmp is mounted without that right."""
    for place in (tempfile.gettempdir(), "/var/tmp", str(path.parent)):
        with contextlib.suppress(OSError):
            if os.access(place, os.W_OK) and not os.statvfs(place).f_flag & os.ST_NOEXEC:
                return place
    return None


def prove(path: Path, arch: str, compat: dict[str, str] | None = None) -> dict[str, Any]:
    """Compile a kernel, link it statically and dynamically, and run it where there is a GPU."""
    what = f"verify CUDA in {path}"
    if shutil.which("g++") is None:
        raise CudaNotVerified(f"{what}: nvcc needs a host compiler, and there is no g++; install it (apt-get install g++), or let the role node do it")
    with tempfile.TemporaryDirectory(prefix="cuda-proof-", dir=_place_to_run(path)) as folder:
        source, program = Path(folder, "kernel.cu"), Path(folder, "kernel")
        source.write_text(_KERNEL, encoding="utf-8")
        nvcc = [str(path / "bin" / "nvcc"), "-gencode", f"arch=compute_{arch[3:]},code={arch}"]
        library_path = ":".join([*([compat["path"]] if compat else []), *(str(path / name) for name in ("lib64", "lib"))])
        environment = {**os.environ, "LD_LIBRARY_PATH": library_path, "TMPDIR": folder}
        links = ([f"{program}.o", "-o", str(program)], ["-cudart", "shared", f"{program}.o", "-o", f"{program}-so"])
        for arguments in (["-c", str(source), "-o", f"{program}.o"], *links):
            done = run_program([*nvcc, *arguments], environment, timeout=300)
            if done.returncode:
                raise CudaNotVerified(f"{what}: nvcc could not compile and link a kernel for {arch}: {last_words(done.stderr or done.stdout)}")
        for name in (str(program), f"{program}-so"):
            done = run_program([name], environment, timeout=120)
            try:
                proof: dict[str, Any] = json.loads(done.stdout)
            except ValueError as error:
                raise CudaNotVerified(f"{what}: the compiled program ended with {done.returncode}: {last_words(done.stderr)}") from error
        return proof
