# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
import yaml

from support.stage import constants
from support.world import ROOT


@pytest.fixture(scope="session")
def documents() -> dict[str, dict[str, Any]]:
    """DOCUMENTATION, EXAMPLES and RETURN of every module, read."""
    modules = sorted((ROOT / "plugins" / "modules").glob("*.py"))
    return {path.stem: {name: yaml.safe_load(text) for name, text in constants(path).items() if name.isupper()} for path in modules}


@pytest.fixture(scope="session")
def house_python() -> str:
    """The interpreter for which the machine's cache holds PyTorch."""
    return str((ROOT / ".venv" / "bin" / "python").resolve())
