# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Crashes the services of this machine in turn and watches the others."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path("/workspace/.podcycle/services")
NAMES = ("sshd", "jupyter", "inference", "hf-watch", "idle-watchdog")


def state(name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((ROOT / name / "running.json").read_text()))
    except (OSError, ValueError):
        return {}


def until(true: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen in {seconds:.0f} s: {json.dumps({name: state(name) for name in NAMES})}")
        time.sleep(0.1)


def settled() -> dict[str, tuple[int, int]]:
    """Of each service, what keeps it and its program, once all run."""
    until(lambda: all(state(name).get("state") == "running" for name in NAMES), "all services running")
    return {name: (state(name)["pid"], state(name)["child"]) for name in NAMES}


def crash(name: str, which: int) -> None:
    before = settled()
    os.kill(before[name][which], signal.SIGKILL)
    until(lambda: (state(name).get("pid"), state(name).get("child"))[which] not in (None, before[name][which]), f"another {name}")
    after = settled()
    changed = [other for other in NAMES if after[other] != before[other]]
    if changed != [name]:
        raise SystemExit(f"the crash of {name} changed {changed}")


def loop() -> None:
    """Broken for good: the pauses grow, and end when it is mended."""
    before = settled()
    config = ROOT / "inference/config.json"
    content = config.read_text()
    config.write_text("{")
    os.kill(before["inference"][1], signal.SIGKILL)
    pauses: set[float] = set()

    def grown() -> bool:
        pauses.add(float(state("inference").get("pause_seconds") or 0))
        return len(pauses - {0.0}) >= 3

    until(grown, "three different pauses")
    config.write_text(content)
    after = settled()
    if [name for name in NAMES if after[name] != before[name]] != ["inference"]:
        raise SystemExit("a service that crashes again and again has changed others")


for service in NAMES:
    crash(service, 1)
for service in NAMES:
    crash(service, 0)
loop()
print(json.dumps(settled()))
