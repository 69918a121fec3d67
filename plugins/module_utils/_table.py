# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of text as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text with each column as wide as its widest word; the last one is not filled up."""
    widths = [max(len(row[number]) for row in table) for number in range(len(table[0]) - 1)]
    return ["  ".join([*(word.ljust(width) for word, width in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in table]
