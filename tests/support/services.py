# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the role services, as they lie beside each other on a pod."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "roles/services/files"
BORROWED = (
    "roles/chess_training/files/chess_trainer/phase_times.py",
    "roles/cuda_watchdog/files/watchdog_checks.py",
    "plugins/module_utils/_guard.py",
    "plugins/module_utils/_nvml.py",
    "plugins/module_utils/_blocks.py",
)
# What other programs import, in the order in which they need one another.
WANTED = ("phase_times", "_blocks", "pod_settings", "repository")


def put(folder: Path, *names: str) -> Path:
    """Copies of programs, ours and borrowed ones, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*FILES.glob("*.py"), *(ROOT / name for name in BORROWED)):
        if path.name in names or path.stem in names or not names:
            shutil.copy(path, folder)
    return folder


def load(name: str) -> ModuleType:
    """One of the programs as a module, with the borrowed ones that it imports."""
    places = {path.stem: path for path in (*(ROOT / borrowed for borrowed in BORROWED), *FILES.glob("*.py"))}
    for wanted in (*WANTED, name):
        path = places[wanted]
        if path.stem not in sys.modules:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
    return sys.modules[name]
