# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One pass of the module cutlass: look, say or do, look again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import _nvml
from ._aside import sweep
from ._cutlass import SYSTEM_LINK, Cutlass, Wish
from ._cutlass_tree import read_stamp, read_tree
from ._machine import refuse_unsupported
from ._uv import Uv, find_links_of, find_uv, install_uv


def converge(params: dict[str, Any], *, check_mode: bool) -> tuple[bool, dict[str, Any], dict[str, Any]]:
    wish = wish_of(params)
    refuse_unsupported(f"install CUTLASS {wish.version}")
    bin_dir, uv_version = wish.workspace / "bin", params["uv_version"] or ""

    def bring_uv() -> Uv:
        return find_uv(bin_dir, uv_version, Path(wish.cache_dir)) or install_uv(bin_dir, uv_version)

    cutlass = Cutlass(wish, bring_uv)
    before = side(wish.dest)
    needed = cutlass.trouble()
    did = [] if needed is None else ["fetch", *(["compile"] if wish.compile else [])] if needed[0] == "fetch" else ["compile"]
    if cutlass.wants_link():
        did.append("link")
    if did and not check_mode:
        cutlass.make()
    elif not check_mode:
        sweep(wish.dest)
    tree = read_tree(wish.dest) or {}
    found = {
        "path": str(wish.dest), "version": tree.get("version"), "commit": tree.get("commit"), "ref": wish.version, "did": did,
        "why": needed[1] if needed else "", "arch": wish.arch, "replaced": str(cutlass.replaced) if cutlass.replaced else None,
        "environment": {"variables": {"CUTLASS_PATH": str(wish.dest)}}, "seconds": cutlass.seconds,
    }  # fmt: skip
    after = [f"CUTLASS {wish.version} by {wish.source} in {wish.dest}", *([f"{SYSTEM_LINK} -> {wish.dest}"] if "link" in did else [])]
    diff = {"before": before, "after": "".join(f"{line}\n" for line in after)} if did else {"before": "", "after": ""}
    return bool(did), found, diff


def wish_of(params: dict[str, Any]) -> Wish:
    workspace = Path(params["workspace"])
    capabilities = [gpu["compute_capability"] for gpu in _nvml.read()["gpus"] if gpu["compute_capability"]] if params["compile"] else []
    return Wish(
        dest=Path(params["dest"] or workspace / "cutlass"),
        workspace=workspace,
        source=params["source"],
        repo=params["repo"],
        version=params["version"],
        update=params["update"],
        timeout_seconds=params["timeout_seconds"],
        compile=params["compile"],
        arch="sm_" + (min(capabilities, key=lambda text: tuple(map(int, text.split(".")))) if capabilities else "9.0").replace(".", ""),
        link=params["scope"] == "system" or (params["scope"] == "auto" and os.geteuid() == 0),
        find_links=find_links_of(params["find_links"]),
        index_url=params["index_url"] or "",
        cache_dir=params["cache_dir"] or os.environ.get("UV_CACHE_DIR") or str(workspace / "cache" / "uv"),
    )


def side(dest: Path) -> str:
    """What is there, in words."""
    record, tree = read_stamp(dest), read_tree(dest)
    if tree is None:
        return f"no CUTLASS in {dest}\n"
    if record is None:
        return f"CUTLASS {tree['version']} of unknown origin in {dest}\n"
    return f"CUTLASS {record.get('ref')} by {record.get('source')} in {dest}{'' if tree['clean'] else ', no longer as it was fetched'}\n"
