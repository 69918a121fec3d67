# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three ways to a CUDA toolkit: wheels into a prefix, NVIDIA's apt repository, NVIDIA's runfile."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ._aside import made_aside, put_in_place, write_json
from ._cuda_toolkit import SCHEMA, STAMP, CudaError, CudaNotVerified, Wish, number
from ._fetch import fetch_checked, openpgp_fingerprints, read_key
from ._machine import read_os
from ._unresolved import places, unresolved
from ._uv import Uv, install_wheels, last_words, run_program, uv_environment

_EXTRAS = ("nvcc", "cudart", "cccl", "crt")
_REPOSITORY = "https://developer.download.nvidia.com/compute/cuda/repos/{distribution}/{machine}"
_KEY_FILE = Path("/etc/apt/keyrings/podcycle-cuda.asc")
_SOURCE_FILE = Path("/etc/apt/sources.list.d/podcycle-cuda.sources")
_DISTRIBUTIONS = {"ubuntu 22.04": "ubuntu2204", "ubuntu 24.04": "ubuntu2404", "debian 12": "debian12"}
_MATH = ("cublas", "cufft", "cufile", "curand", "cusolver", "cusparse", "npp", "nvfatbin", "nvjitlink", "nvjpeg")


@dataclass(frozen=True)
class Sources:
    find_links: list[str] = field(default_factory=list)
    index_url: str = ""
    cache_dir: str = ""
    runfile: str = ""
    runfile_checksum: str = ""
    apt_repository: str = ""
    apt_key_fingerprint: str = ""


class Installer:
    def __init__(self, wish: Wish, sources: Sources, bring_uv: Callable[[], Uv], python: str) -> None:
        self.wish = wish
        self.sources = sources
        self.bring_uv = bring_uv
        self.python = python
        self.what = f"install CUDA {wish.version} by {wish.method}"

    def install(self) -> None:
        {"wheels": self.by_wheels, "apt": self.by_apt, "runfile": self.by_runfile}[self.wish.method]()

    def by_wheels(self) -> None:
        uv, prefix = self.bring_uv(), self.wish.prefix
        environment = uv_environment(self.sources.cache_dir)
        with made_aside(prefix) as part:
            site = part / "site"
            for last in (False, True):
                self._install_wheels(uv, site, environment)
                damaged = damaged_wheels(site)
                if not damaged:
                    break
                if last:
                    raise CudaNotVerified(f"{self.what}: the files of {', '.join(damaged)} have the wrong size; empty the cache {self.sources.cache_dir}")
                # A damaged cache would bring the same files again.
                uv.run(["cache", "clean", "--quiet", *damaged], environment)
                shutil.rmtree(site)
            tree = site / "nvidia" / f"cu{self.wish.version.partition('.')[0]}"
            lay_out(site, tree)
            self._stamp(tree)
            put_in_place(tree, prefix, part)

    def _install_wheels(self, uv: Uv, site: Path, environment: dict[str, str]) -> None:
        extras = ",".join(dict.fromkeys((*_EXTRAS, *self.wish.components)))
        # Without a pin the newest NVVM comes along, and the compiler refuses it.
        wanted = [f"cuda-toolkit[{extras}]=={self.wish.version}", f"nvidia-nvvm=={self.wish.series}.*"]
        arguments = ["--python", self.python, "--target", str(site), "--link-mode", "copy", "--no-build"]
        for link in self.sources.find_links:
            arguments += ["--find-links", link]
        if self.sources.index_url:
            arguments += ["--index", self.sources.index_url]
        done = install_wheels(uv, [*arguments, *wanted], environment)
        none = unresolved(done.stderr) if done.returncode else None
        if none:
            raise CudaError(
                f"{self.what} into {self.wish.prefix}: {none.sentence(places(self.sources.find_links, self.sources.index_url))}",
                hint="set cuda13_version and cuda13_nvcc_version to a pair that exists, or name a folder or a mirror by cuda13_find_links or cuda13_index_url",
            )
        if done.returncode:
            raise CudaError(
                f"{self.what} into {self.wish.prefix}: {last_words(done.stderr)}",
                hint="name a folder or a mirror with its wheels by cuda13_find_links or cuda13_index_url, or another cuda13_method",
            )

    def _stamp(self, tree: Path) -> None:
        """The list of files makes damage visible; the proof comes later and is added to it."""
        files = {}
        for folder, _folders, names in os.walk(tree):
            for name in names:
                path = os.path.join(folder, name)
                files[os.path.relpath(path, tree)] = os.lstat(path).st_size
        write_json(tree / STAMP, {"schema": SCHEMA, "fingerprint": self.wish.fingerprint(), "version": self.wish.version, "files": files})

    # ---- apt ----------------------------------------------------------------------------------

    def by_apt(self) -> None:
        series = self.wish.series.replace(".", "-")
        packages = [f"cuda-nvcc-{series}={self.wish.nvcc_version}-1", f"cuda-cudart-dev-{series}", f"cuda-cccl-{series}"]
        packages += [f"lib{name}-dev-{series}" if name in _MATH else f"cuda-{name}-{series}" for name in self.wish.components]
        self._apt(packages)

    def install_compat(self) -> None:
        self._apt([f"cuda-compat-{self.wish.series.replace('.', '-')}"])

    def _apt(self, packages: list[str]) -> None:
        what = f"install {' '.join(packages)} from NVIDIA's repository"
        if os.geteuid() != 0:
            raise CudaError(f"{what}: this needs root; add --become, or leave cuda13_method at wheels and cuda13_compat at never")
        if shutil.which("apt-get") is None:
            raise CudaError(f"{what}: this machine has no apt-get; leave cuda13_method at wheels")
        self._add_repository(what)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        patience = ["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
        for command in (["apt-get", "update", *patience], ["apt-get", "install", "-y", "--no-install-recommends", *patience, *packages]):
            done = run_program(command, environment, timeout=1800)
            if done.returncode:
                raise CudaError(f"{what}: apt-get {command[1]} said: {last_words(done.stderr or done.stdout)}")

    def _add_repository(self, what: str) -> None:
        url = self.sources.apt_repository or repository_of_machine(what)
        if any(url.rstrip("/") in source.read_text(encoding="utf-8", errors="replace") for source in _SOURCE_FILE.parent.glob("*") if source.is_file()):
            # Two entries of one repository with different keys stop apt altogether.
            return
        key = read_key(f"{url.rstrip('/')}/3bf863cc.pub", what)
        wanted = self.sources.apt_key_fingerprint.replace(" ", "").upper()
        found = openpgp_fingerprints(key)
        if found != [wanted]:
            raise CudaError(f"{what}: its signing key has the fingerprint {', '.join(found) or 'none'}, and {wanted} was expected; nothing was installed")
        _KEY_FILE.parent.mkdir(parents=True, exist_ok=True)
        _replace(_KEY_FILE, key)
        _replace(_SOURCE_FILE, f"Types: deb\nURIs: {url.rstrip('/')}/\nSuites: /\nSigned-By: {_KEY_FILE}\n".encode())

    # ---- runfile ------------------------------------------------------------------------------

    def by_runfile(self) -> None:
        if not (self.sources.runfile and self.sources.runfile_checksum):
            raise CudaError(f"{self.what}: name it with cuda13_runfile, and its checksum with cuda13_runfile_checksum (sha256:...)")
        with made_aside(self.wish.prefix) as part:
            program, tree = part / "cuda.run", part / "tree"
            fetch_checked(self.sources.runfile, program, self.sources.runfile_checksum, self.what)
            command = ["/bin/sh", str(program), "--silent", "--override", "--toolkit", f"--toolkitpath={tree}", "--no-man-page", "--no-opengl-libs", "--no-drm"]
            done = run_program([*command, f"--tmpdir={part}"], {**os.environ, "TMPDIR": str(part)}, timeout=3600)
            if done.returncode or not (tree / "bin" / "nvcc").exists():
                raise CudaError(f"{self.what}: the runfile ended with {done.returncode} and said: {last_words(done.stderr or done.stdout)}")
            self._stamp(tree)
            put_in_place(tree, self.wish.prefix, part)


def repository_of_machine(what: str) -> str:
    system = read_os()
    distribution = _DISTRIBUTIONS.get(f"{system['id']} {system['version']}")
    if distribution is None:
        raise CudaError(f"{what}: NVIDIA has no CUDA 13.0 packages for {system['name']}; leave cuda13_method at wheels, or name a cuda13_apt_repository")
    return _REPOSITORY.format(distribution=distribution, machine="sbsa" if platform.machine() == "aarch64" else "x86_64")


def damaged_wheels(site: Path) -> list[str]:
    """The distributions whose files do not have the sizes that their RECORD names."""
    bad = []
    for record in site.glob("*.dist-info/RECORD"):
        try:
            with record.open(newline="", encoding="utf-8") as stream:
                whole = all((site / name).stat().st_size == int(size) for name, _digest, size in csv.reader(stream) if size)
        except (OSError, ValueError):
            whole = False
        if not whole:
            bad.append(record.parent.name.partition("-")[0].replace("_", "-"))
    return bad


def lay_out(site: Path, tree: Path) -> None:
    """Give the wheels' files the links that a toolkit of NVIDIA's installers has."""
    if not (tree / "bin" / "nvcc").exists():
        raise CudaNotVerified(f"lay out CUDA in {site}: the wheels have no {tree.relative_to(site)}/bin/nvcc")
    infos = tree / "dist-info"
    infos.mkdir()
    for info in site.glob("*.dist-info"):
        info.rename(infos / info.name)
    (tree / "lib64").symlink_to("lib")
    target = tree / "targets" / ("sbsa-linux" if platform.machine() == "aarch64" else "x86_64-linux")
    target.mkdir(parents=True)
    for name in ("include", "lib"):
        (target / name).symlink_to(f"../../{name}")
    newest: dict[str, str] = {}
    for library in (tree / "lib").iterdir():
        found = re.fullmatch(r"(lib.+?\.so)\.([\d.]+)", library.name)
        if found and number(found.group(2)) >= number(newest.get(found.group(1), "").removeprefix(found.group(1))):
            newest[found.group(1)] = library.name
    for plain, library_name in newest.items():
        if not (tree / "lib" / plain).exists():
            (tree / "lib" / plain).symlink_to(library_name)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.chmod(0o644)
    part.replace(path)
