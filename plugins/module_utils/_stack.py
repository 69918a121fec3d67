# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole stack of a machine in one reading, its fingerprint, and how it differs from what was expected."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _machine, _nvml, _receipts
from ._cutlass_tree import read_tree
from ._errors import clean_text, clean_tree
from ._toolkits import find_compat, find_toolkits, shell_path, winner
from ._torch_proof import VERIFY, read_record, read_stamp, torch_files, venv_python_version
from ._uv import find_uv, run_program

NONE = "none"


@dataclass(frozen=True)
class Places:
    workspace: Path
    venv: Path
    cutlass: tuple[Path, ...]
    verify: str = "auto"


def read_stack(places: Places) -> dict[str, Any]:
    """Everything, whatever is broken: a part that cannot be read is null and is named under V(trouble)."""
    started = time.monotonic()
    trouble: list[str] = []

    def read(what: str, reader: Callable[[], Any], otherwise: Any = None) -> Any:
        try:
            return reader()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            trouble.append(f"{what}: {clean_text(error, 200)}")
            return otherwise

    path = read("shells", lambda: shell_path(places.workspace), os.environ.get("PATH", ""))
    gpu = clean_tree(_nvml.read())
    stack: dict[str, Any] = {
        "os": read("os", _machine.read_os, {}),
        "arch": platform.machine(),
        "kernel": platform.release(),
        "init": read("init", _machine.read_init),
        "container": read("container", _machine.read_container),
        "user": read("user", _machine.read_user, {}),
        "driver": {"version": gpu["driver"], "cuda": gpu["cuda_driver"], "trouble": gpu["trouble"]},
        "gpus": gpu["gpus"],
        "cuda": read("cuda", lambda: read_cuda(places.workspace, path), {"nvcc": None, "toolkits": [], "compat": None}),
        "cutlass": read("cutlass", lambda: next(filter(None, map(read_tree, places.cutlass)), None)),
        "python": read("python", lambda: read_python(path, places.venv)),
        "torch": read("torch", lambda: read_torch(places.venv, places.verify, gpu)),
        "uv": read("uv", lambda: read_uv(places.workspace)),
        "disks": read("disks", lambda: _machine.read_disks(places.workspace), []),
        "memory_gib": read("memory", _machine.read_memory_gib),
        "cpus": read("cpus", _machine.read_cpus),
        "trouble": trouble,
    }
    stack["parts"] = parts_of(stack)
    stack["fingerprint"] = fingerprint(stack["parts"])
    stack["receipts"] = read("receipts", lambda: _receipts.read_all(places.workspace, _receipts.machine_of(stack["parts"])), {})
    stack["seconds"] = round(time.monotonic() - started, 3)
    said: dict[str, Any] = clean_tree(stack)
    return said


def read_cuda(workspace: Path, path: str) -> dict[str, Any]:
    toolkits = find_toolkits(workspace)
    nvcc = winner(path)
    home = toolkit_of(nvcc["path"]) if nvcc else None
    rows = [{"path": toolkit.path, "version": toolkit.version, "wins": toolkit.path == home} for toolkit in toolkits]
    return {"nvcc": nvcc, "toolkits": rows, "compat": find_compat(toolkits, workspace)}


def toolkit_of(nvcc: str) -> str:
    """The toolkit that an nvcc belongs to; NVIDIA's images and some machines have a small script that calls the real one."""
    real = os.path.realpath(nvcc)
    try:
        with open(real, "rb") as stream:
            head = stream.read(512)
    except OSError:
        head = b""
    called = re.search(r"^\s*exec\s+\"?(/\S*?/nvcc)\b", head.decode("utf-8", "replace"), re.MULTILINE) if head.startswith(b"#!") else None
    return os.path.dirname(os.path.dirname(os.path.realpath(called.group(1)) if called else real))


def read_python(path: str, venv: Path) -> dict[str, Any] | None:
    """The python3 that a shell with this PATH starts."""
    python = shutil.which("python3", path=path)
    if python is None:
        return None
    version = venv_python_version(venv) if os.path.dirname(python) == str(venv / "bin") else None
    if version is None:
        found = re.search(r"Python (\d+\.\d+\.\d+)", run_program([python, "--version"], timeout=20).stdout)
        version = found.group(1) if found else None
    return {"path": python, "version": version}


def read_torch(venv: Path, verify: str, gpu: dict[str, Any]) -> dict[str, Any] | None:
    files = torch_files(venv)
    if files is None and read_stamp(venv) is None:
        return None
    found: dict[str, Any] = {
        "venv": str(venv), "python": venv_python_version(venv), "version": (files or {}).get("version"), "cuda": (files or {}).get("cuda"), "proven": "no",
        "cuda_available": None, "arch_list": None, "error": None,
    }  # fmt: skip
    record = read_record(venv)
    if record is not None and record.get("torch") == found["version"] and record.get("driver") == gpu["driver"] and verify != "always":
        return {**found, "proven": "stamp", "cuda_available": record.get("cuda_available"), "arch_list": record.get("arch_list")}
    return found if verify == "never" else {**found, **import_torch(venv)}


def import_torch(venv: Path) -> dict[str, Any]:
    """What a fresh interpreter says."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")}
    done = run_program([str(venv / "bin" / "python"), "-I", "-c", VERIFY], environment, timeout=120)
    try:
        proof = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
    except (ValueError, IndexError):
        proof = None
    if not isinstance(proof, dict):
        said = done.stderr.strip().splitlines() or [f"the interpreter ended with {done.returncode}"]
        return {"error": clean_text(said[-1], 300)}
    if not proof["matmul"]:
        return {"error": "a matrix product came out wrong"}
    return {"proven": "import", "version": proof["torch"], "cuda": proof["cuda"], "cuda_available": proof["cuda_available"],
            "arch_list": proof["arch_list"], "error": proof.get("cuda_error")}  # fmt: skip


def read_uv(workspace: Path) -> dict[str, str] | None:
    uv = find_uv(workspace / "bin", cache_dir=workspace / "cache" / "uv")
    return {"path": str(uv.path), "version": uv.version} if uv else None


def parts_of(stack: dict[str, Any]) -> dict[str, str]:
    """What a pod made again must have equal; no host names, no paths, no free space."""
    gpus, cutlass, torch = stack["gpus"], stack["cutlass"] or {}, stack["torch"] or {}
    names = sorted({str(gpu["name"]) for gpu in gpus})
    capabilities = sorted({str(gpu["compute_capability"]) for gpu in gpus})
    parts = {
        "os": f"{stack['os'].get('id', '')} {stack['os'].get('version', '')}".strip(),
        "arch": stack["arch"],
        "driver": stack["driver"]["version"],
        "gpu.count": str(len(gpus)),
        "gpu.names": ", ".join(names),
        "gpu.compute_capability": ", ".join(capabilities),
        "nvcc": (stack["cuda"]["nvcc"] or {}).get("version"),
        "cutlass.version": cutlass.get("version"),
        "cutlass.commit": cutlass.get("commit"),
        "python": (stack["python"] or {}).get("version"),
        "torch": torch.get("version"),
        "torch.cuda": torch.get("cuda"),
    }
    return {key: value or NONE for key, value in parts.items()}


def fingerprint(parts: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def find_drift(expected: dict[str, Any], parts: dict[str, str]) -> list[dict[str, str]]:
    """The parts that were expected and are not so; a null is not compared, an unknown part is found as V(unknown part)."""
    rows = []
    for part in sorted(expected):
        wanted = expected[part]
        if wanted is None:
            continue
        found = parts.get(part, "unknown part")
        if str(wanted) != found:
            rows.append({"part": part, "expected": str(wanted), "found": found})
    return rows


def drift_table(rows: list[dict[str, str]]) -> str:
    """Aligned text with one line per part."""
    if not rows:
        return "no drift"
    heads = ("part", "expected", "found")
    lines = [heads, *[tuple(row[head] for head in heads) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(f"{part:<{widths[0]}}  {expected:<{widths[1]}}  {found}" for part, expected, found in lines)


def places_of(params: dict[str, Any]) -> Places:
    workspace = Path(params["workspace"])
    cutlass = tuple(Path(path) for path in params["cutlass"]) or (workspace / "cutlass", Path("/opt/cutlass"))
    return Places(workspace, Path(params["venv"] or workspace / "venv"), cutlass, params["verify"])
