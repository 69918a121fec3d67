# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A git repository that is shaped like CUTLASS, for machines that reach no git host."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(repo: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
    return subprocess.run(["git", "-C", str(repo), *identity, *words], capture_output=True, text=True, check=True).stdout.strip()


def release(repo: Path, version: str) -> str:
    """One commit, tagged with its version; returns its name."""
    numbers = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    files = {
        "include/cutlass/version.h": "".join(f"#define CUTLASS_{word} {number}\n" for word, number in numbers),
        "include/cutlass/gemm.h": f"// {version}\n",
        "tools/util/include/util.h": "// util\n",
    }
    for name, text in files.items():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(text, encoding="utf-8")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", version)
    git(repo, "tag", "-am", version, f"v{version}")
    return git(repo, "rev-parse", "HEAD")


def cutlass_repo(folder: Path) -> Path:
    """Releases 4.1.0 and 4.2.0 on the branch main."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    release(folder, "4.1.0")
    release(folder, "4.2.0")
    return folder
