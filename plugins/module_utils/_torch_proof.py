# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What shows that a virtual environment has a working torch: a stamp, the sizes of its files, an import in a fresh interpreter."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

STAMP = ".podcycle-torch.json"
SCHEMA = 1
VERIFY = """
import json, sys
import numpy, torch
x = torch.arange(16, dtype=torch.float32).reshape(4, 4)
ok = bool(torch.equal(x @ torch.eye(4), x)) and float(torch.from_numpy(numpy.ones(3)).sum()) == 3.0
flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
out = {"torch": torch.__version__, "numpy": numpy.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0],
       "cuda_available": torch.cuda.is_available(), "arch_list": (flags or "").split(), "devices": [], "matmul": ok}
if out["cuda_available"]:
    for n in range(torch.cuda.device_count()):
        a = torch.eye(256, device="cuda:%d" % n)
        out["devices"].append(torch.cuda.get_device_name(n))
        out["matmul"] = out["matmul"] and float((a @ a).sum()) == 256.0
elif torch.version.cuda:
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        out["cuda_error"] = str(error).splitlines()[0][:300]
print(json.dumps(out))
"""
# What torch loads besides its own files: CUDA libraries and the compiler of torch.compile.
_PARTS = re.compile(r"(?:torch|numpy|triton|nvidia_[a-z0-9_]+)-[^/]+\.dist-info")
_ALL = re.compile(r"[^/-]+-[^/]+\.dist-info")


def read_stamp(venv: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def read_record(venv: Path) -> dict[str, Any] | None:
    """What was proven about this venv, when all of it still holds; else None."""
    record = read_stamp(venv)
    return record if record is not None and is_sound(venv) else None


def is_sound(venv: Path) -> bool:
    """Whether the interpreter starts and every file of torch, numpy and their CUDA libraries has the size that its wheel recorded."""
    return os.access(venv / "bin" / "python", os.X_OK) and damaged(venv) == []


def damaged(venv: Path, *, thorough: bool = False) -> list[str]:
    """The distributions that lack a file or have one of another size; torch and numpy too when they are not there at all.

    V(thorough) looks at every distribution, and at what the files hold; it reads some GiB.
    """
    site = site_packages(venv)
    if site is None:
        return ["torch", "numpy"]
    parts = _ALL if thorough else _PARTS
    records = {entry.partition("-")[0]: site / entry / "RECORD" for entry in os.listdir(site) if parts.fullmatch(entry)}
    missing = [name for name in ("torch", "numpy") if name not in records]
    return missing + [name for name, record in records.items() if not intact(site, record, thorough=thorough)]


def site_packages(venv: Path) -> Path | None:
    return next(iter(sorted((venv / "lib").glob("python3.*/site-packages"))), None)


def intact(site: Path, record: Path, *, thorough: bool = False) -> bool:
    """Whether every file that a wheel's RECORD names with a size has it; where V(thorough), also its digest."""
    base = str(site)
    try:
        with record.open(newline="", encoding="utf-8") as stream:
            rows = [(f"{base}/{path}", digest, int(size)) for path, digest, size in csv.reader(stream) if size and not path.startswith("../")]
        whole = all(os.stat(path).st_size == size for path, _digest, size in rows)
        return whole and (not thorough or all(_holds(path, digest) for path, digest, _size in rows))
    except (OSError, ValueError):
        return False


def _holds(path: str, digest: str) -> bool:
    kind, _equals, wanted = digest.partition("=")
    if kind != "sha256":
        return True
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return base64.urlsafe_b64encode(found.digest()).decode().rstrip("=") == wanted.rstrip("=")


def torch_files(venv: Path) -> dict[str, str | None] | None:
    """Version and CUDA build from torch's own version file, without starting an interpreter."""
    site = site_packages(venv)
    try:
        text = (site / "torch" / "version.py").read_text(encoding="utf-8", errors="replace") if site else ""
    except OSError:
        return None
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return {"version": version.group(1), "cuda": cuda.group(1) if cuda else None} if version else None


def venv_python_version(venv: Path) -> str | None:
    """The version that pyvenv.cfg names: uv writes version_info, Python's own venv writes version."""
    try:
        text = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", text, re.MULTILINE)
    return found.group(1) if found else None
