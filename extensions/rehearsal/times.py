# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clock and time texts."""

from __future__ import annotations

import datetime as dt
import time


def now() -> float:
    return time.time()


def rfc3339(stamp: float | None) -> str | None:
    if stamp is None:
        return None
    moment = dt.datetime.fromtimestamp(stamp, tz=dt.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch; ValueError when the text is not RFC 3339."""
    moment = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.timezone.utc)
    return moment.timestamp()


def javascript_date(stamp: float) -> str:
    """RunPod writes JavaScript date texts into its status notes."""
    moment = dt.datetime.fromtimestamp(stamp, tz=dt.timezone.utc)
    return moment.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)")
