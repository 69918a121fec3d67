#!/usr/bin/env python3
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running containers of a scenario, as an inventory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import containers

if __name__ == "__main__":
    sys.exit(containers.main(["list", os.environ.get("PODCYCLE_SCENARIO", "default")]))
