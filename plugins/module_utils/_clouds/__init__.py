# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of clouds. Each import is literal, so that a module's archive bundles it, yet is made only when asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError

CLOUDS = ("runpod",)


def make_cloud(name: str, options: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> Cloud:
    """The driver of one cloud, with its key found and its endpoint chosen; sends nothing."""
    if name == "runpod":
        from ansible_collections.podcycle.gpu.plugins.module_utils._clouds import runpod

        return runpod.connect(options, environ, folder)
    raise UsageError(f"cloud {name!r} is not known", hint=f"one of: {', '.join(CLOUDS)}")
