# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CUTLASS at a pin: fetched shallow into a folder aside, checked, compiled from, stamped, and only then put in place."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._aside import locked, made_aside, point_link, put_in_place, write_json
from ._cutlass_tree import SCHEMA, STAMP, VERSION_HEADER, every_file, head_commit, holds_only_what_came, manifest, read_stamp, tree_trouble, tree_version
from ._errors import PodcycleError
from ._git import Git, bare_url
from ._machine import free_gib
from ._toolkits import find_toolkits, nvcc_version, shell_path
from ._unresolved import places, unresolved
from ._uv import Uv, base_python, install_wheels, last_words, run_program, uv_environment

SYSTEM_LINK = Path("/opt/cutlass")
NEEDED_GIB = 0.5
# One pass over the device code of a tensor core GEMM; the host side would only take three times as long.
_GEMM = r"""
#include "cutlass/version.h"
#include "cutlass/device_kernel.h"
#include "cutlass/gemm/kernel/default_gemm.h"
#include "cutlass/epilogue/thread/linear_combination.h"
#include "cutlass/gemm/threadblock/threadblock_swizzle.h"
using Half = cutlass::half_t;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;
using Block = cutlass::gemm::GemmShape<128, 128, 32>;
using Warp = cutlass::gemm::GemmShape<64, 64, 32>;
using Instruction = cutlass::gemm::GemmShape<16, 8, 16>;
using Output = cutlass::epilogue::thread::LinearCombination<float, 4, float, float>;
using Swizzle = cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>;
using Gemm = cutlass::gemm::kernel::DefaultGemm<Half, Row, 8, Half, Column, 8, float, Row, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
    Block, Warp, Instruction, Output, Swizzle, 3, true, cutlass::arch::OpMultiplyAdd>::GemmKernel;
template __global__ void cutlass::Kernel<Gemm>(Gemm::Params);
"""


class CutlassError(PodcycleError):
    code = "cutlass"


class NotCutlass(CutlassError):
    code = "not_cutlass"


class CutlassNotVerified(CutlassError):
    code = "cutlass_not_verified"


@dataclass(frozen=True)
class Wish:
    dest: Path
    workspace: Path
    source: str = "git"
    repo: str = ""
    version: str = ""
    update: bool = False
    timeout_seconds: float = 300
    compile: bool = True
    arch: str = "sm_90"
    link: bool = False
    find_links: list[str] = field(default_factory=list)
    index_url: str = ""
    cache_dir: str = ""

    @property
    def what(self) -> str:
        place = bare_url(self.repo) if self.source == "git" else "the wheel nvidia-cutlass"
        return f"fetch CUTLASS {self.version} from {place}"


class Cutlass:
    def __init__(self, wish: Wish, bring_uv: Callable[[], Uv]) -> None:
        self.wish = wish
        self.bring_uv = bring_uv
        self.git = Git(wish.timeout_seconds)
        self.replaced: Path | None = None
        self.seconds: dict[str, float] = {}
        self.nvcc = self._find_nvcc() if wish.compile else None

    def _find_nvcc(self) -> Path | None:
        """The one that the workspace's environment names, else the first toolkit's."""
        env = self.wish.workspace / ".podcycle" / "env.d"
        chosen = shutil.which("nvcc", path=shell_path(self.wish.workspace)) if env.is_dir() else None
        toolkits = [] if chosen else find_toolkits(self.wish.workspace)
        return Path(chosen) if chosen else toolkits[0].nvcc if toolkits else None

    def trouble(self) -> tuple[str, str] | None:
        """What is needed, V(fetch) or V(compile), and why; None when all is as wanted. Only a branch to be followed asks the network."""
        wish, record = self.wish, read_stamp(self.wish.dest)
        if record is None:
            return "fetch", f"there is no whole CUTLASS in {wish.dest}"
        if (record.get("source"), record.get("ref")) != (wish.source, wish.version):
            return "fetch", f"{wish.dest} is at {record.get('ref')}"
        why = tree_trouble(wish.dest, record)
        if why:
            return "fetch", f"{wish.dest}: {why}"
        if wish.update and wish.source == "git":
            newest = self.git.newest(wish.repo, wish.version, wish.what)
            if newest and newest != record["commit"]:
                return "fetch", f"{wish.version} has moved to {newest[:12]}"
        if wish.compile and record.get("compiled") != self._compiled():
            return "compile", f"no GEMM of it has been compiled for {wish.arch} with this nvcc"
        return None

    def _compiled(self) -> dict[str, Any]:
        return {"arch": self.wish.arch, "nvcc": nvcc_version(self.nvcc) if self.nvcc else None}

    def wants_link(self) -> bool:
        """A folder of that name that is no link belongs to somebody else."""
        if not self.wish.link or self.wish.dest == SYSTEM_LINK:
            return False
        there = os.path.lexists(SYSTEM_LINK)
        return not there or (SYSTEM_LINK.is_symlink() and os.readlink(SYSTEM_LINK) != str(self.wish.dest))

    def make(self) -> None:
        with locked(self.wish.dest):
            needed = self.trouble()
            if needed and needed[0] == "fetch":
                self._fetch()
            elif needed:
                record = read_stamp(self.wish.dest) or {}
                self._compile(self.wish.dest)
                write_json(self.wish.dest / STAMP, {**record, "compiled": self._compiled()})
            if self.wants_link():
                point_link(SYSTEM_LINK, self.wish.dest)

    def _fetch(self) -> None:
        dest, what = self.wish.dest, self.wish.what
        self._refuse_strange_folder()
        free = free_gib(dest)
        if free < NEEDED_GIB:
            raise CutlassError(f"{what}: {dest.parent} has {free:.1f} GiB free, and {NEEDED_GIB} GiB are needed; make room there, or name another cutlass_dest")
        with made_aside(dest) as part:
            started = time.monotonic()
            tree = self._from_git(part) if self.wish.source == "git" else self._from_wheel(part)
            self.seconds["fetch"] = round(time.monotonic() - started, 2)
            version = tree_version(tree)
            if version is None:
                raise NotCutlass(f"{what}: what came has no {VERSION_HEADER}, so it is no CUTLASS; check cutlass_repo and cutlass_version")
            if self.wish.compile:
                self._compile(tree)
            record = {
                "schema": SCHEMA, "source": self.wish.source, "ref": self.wish.version, "commit": head_commit(tree), "version": version,
                "compiled": self._compiled() if self.wish.compile else None, "files": manifest(tree), "came": every_file(tree),
            }  # fmt: skip
            write_json(tree / STAMP, record)
            self._keep_replaced()
            put_in_place(tree, dest, part)

    def _refuse_strange_folder(self) -> None:
        dest = self.wish.dest
        if dest.is_dir() and any(dest.iterdir()) and tree_version(dest) is None and read_stamp(dest) is None and not (dest / ".git").exists():
            raise CutlassError(f"{self.wish.what}: {dest} is there already, is not empty and is no CUTLASS; name another folder with cutlass_dest")

    def _keep_replaced(self) -> None:
        """A tree that is not surely as it came goes beside, under a name that nothing has yet."""
        dest = self.wish.dest
        if not dest.exists() or holds_only_what_came(dest):
            return
        name = f"{dest.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        kept = next(path for number in range(1000) if not os.path.lexists(path := dest.with_name(f"{name}-{number}" if number else name)))
        dest.rename(kept)
        self.replaced = kept

    def _from_git(self, part: Path) -> Path:
        tree = part / "tree"
        self.git.fetch(tree, self.wish.repo, self.wish.version, self.wish.what)
        return tree

    def _from_wheel(self, part: Path) -> Path:
        number = self.wish.version.removeprefix("v")
        if not re.fullmatch(r"\d+(\.\d+)*", number):
            raise CutlassError(f"{self.wish.what}: {self.wish.version!r} is no version; name one such as v4.2.0, or set cutlass_source to git")
        arguments = ["--python", base_python(), "--target", str(part / "site"), "--link-mode", "copy", "--no-deps", "--no-build"]
        for link in self.wish.find_links:
            arguments += ["--find-links", link]
        if self.wish.index_url:
            arguments += ["--index", self.wish.index_url]
        done = install_wheels(self.bring_uv(), [*arguments, f"nvidia-cutlass=={number}.*"], uv_environment(self.wish.cache_dir))
        none = unresolved(done.stderr) if done.returncode else None
        if none:
            raise CutlassError(
                f"{self.wish.what}: {none.sentence(places(self.wish.find_links, self.wish.index_url))}",
                hint="set cutlass_version to one that exists, or name a folder or a mirror that has it by cutlass_find_links or cutlass_index_url",
            )
        if done.returncode:
            raise CutlassError(f"{self.wish.what}: {last_words(done.stderr)}", hint="name a folder or a mirror by cutlass_find_links or cutlass_index_url")
        return part / "site" / "cutlass_library" / "source"

    def _compile(self, tree: Path) -> None:
        what, started = f"compile a GEMM from CUTLASS {self.wish.version} for {self.wish.arch}", time.monotonic()
        if self.nvcc is None:
            raise CutlassNotVerified(f"{what}: this machine has no nvcc; run the role cuda13 first, or set cutlass_compile to false")
        with tempfile.TemporaryDirectory(prefix="cutlass-proof-") as folder:
            source = Path(folder, "gemm.cu")
            source.write_text(_GEMM, encoding="utf-8")
            command = [str(self.nvcc), "-std=c++17", "-w", "-cubin", f"-arch={self.wish.arch}", "-I", str(tree / "include"), str(source)]
            done = run_program([*command, "-o", f"{folder}/gemm.cubin"], {**os.environ, "TMPDIR": folder}, timeout=600)
        if done.returncode:
            raise CutlassNotVerified(f"{what}: {self.nvcc} said: {last_words(done.stderr or done.stdout)}")
        self.seconds["compile"] = round(time.monotonic() - started, 2)
