# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal cloud: an emulator of GPU clouds with real HTTP, real SSH and real processes, on loopback only."""

from __future__ import annotations

VERSION = "0.1.0"
DEFAULT_PORT = 8787
DEFAULT_STATE_DIR = ".state/rehearsal"
