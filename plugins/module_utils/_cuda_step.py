# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One pass of the module cuda_toolkit: look, say or do, look again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ._aside import read_json, sweep
from ._cuda_install import Installer, Sources
from ._cuda_toolkit import SCHEMA, CudaToolkit, Wish
from ._gpu_driver import DriverError, read_driver
from ._machine import refuse_unsupported
from ._toolkits import nvcc_version
from ._uv import Uv, base_python, find_links_of, find_uv, install_uv


def wish_of(params: dict[str, Any]) -> Wish:
    workspace = Path(params["workspace"])
    series = ".".join(params["version"].split(".")[:2])
    return Wish(
        prefix=Path(params["prefix"] or workspace / f"cuda-{series}"),
        workspace=workspace,
        version=params["version"],
        nvcc_version=params["nvcc_version"],
        method=params["method"],
        components=params["components"],
        reuse=params["reuse"],
        links=params["scope"] == "system" or (params["scope"] == "auto" and os.geteuid() == 0),
        compat=params["compat"],
        accept_old_driver=params["accept_old_driver"],
    )


def converge(params: dict[str, Any], *, check_mode: bool) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    what = f"install CUDA {params['version']}"
    refuse_unsupported(what)
    driver = read_driver()
    if driver.trouble:
        raise DriverError(f"{what}: the GPU driver does not answer; {driver.trouble}; rent another pod")
    wish = wish_of(params)
    toolkit = CudaToolkit(wish, driver)
    toolkit.preflight()
    before = toolkit.look()
    links, did = toolkit.wanted_links(before.path), []
    if before.need == "install":
        did.append("install")
    if before.need != "nothing":
        did.append("prove")
    if toolkit.lacks_compat():
        did.append("compat")
    if links:
        did.append("link")
    path = before.path
    if did and not check_mode:
        path = toolkit.make(installer_of(params, wish))
    elif not check_mode:
        sweep(wish.prefix)
    diff = {"before": diff_side(before.path if before.need != "install" else None, wish, {}), "after": diff_side(path, wish, links if did else {})}
    return bool(did), describe(toolkit, path, did, before.why), diff if did else {"before": "", "after": ""}


def installer_of(params: dict[str, Any], wish: Wish) -> Installer:
    bin_dir, wanted = wish.workspace / "bin", params["uv_version"] or ""
    cache_dir = Path(params["cache_dir"] or os.environ.get("UV_CACHE_DIR") or wish.workspace / "cache" / "uv")
    sources = Sources(
        find_links=find_links_of(params["find_links"]),
        index_url=params["index_url"] or "",
        cache_dir=str(cache_dir),
        runfile=params["runfile"] or "",
        runfile_checksum=params["runfile_checksum"] or "",
        apt_repository=params["apt_repository"] or "",
        apt_key_fingerprint=params["apt_fingerprint"],
    )

    def bring_uv() -> Uv:
        return find_uv(bin_dir, wanted, cache_dir) or install_uv(bin_dir, wanted)

    return Installer(wish, sources, bring_uv, base_python())


def diff_side(path: Path | None, wish: Wish, links: dict[Path, Path]) -> str:
    """The state in words: the same before a check run as before the real one."""
    if path is None:
        return "no CUDA toolkit of the wanted version\n"
    lines = [f"nvcc {wish.nvcc_version} in {path}", *(f"{link} -> {target}" for link, target in sorted(links.items()))]
    return "".join(f"{line}\n" for line in lines)


def describe(toolkit: CudaToolkit, path: Path, did: list[str], why: str) -> dict[str, Any]:
    record = read_json(toolkit.stamp_of(path), SCHEMA) or {}
    compat = toolkit.compat()
    library_path = [*([compat["path"]] if compat else []), str(path / "lib64")]
    return {
        "path": str(path),
        "nvcc": str(path / "bin" / "nvcc"),
        "nvcc_version": nvcc_version(path / "bin" / "nvcc"),
        "did": did,
        "why": why,
        "arch": toolkit.arch,
        "proof": record.get("proof"),
        "compat": compat,
        "environment": {"variables": {"CUDA_HOME": str(path)}, "path": [str(path / "bin")], "library_path": library_path},
        "seconds": toolkit.seconds,
    }
