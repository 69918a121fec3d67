# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the role scenarios, each with its log, and ends with one line over them all.

Usage: molecule_all.py [--platforms "debian12 debian13-systemd"] [--jobs N] [SCENARIO ...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / ".build" / "logs"
BIN = Path(sys.executable).parent
SCENARIOS = ROOT / "extensions" / "molecule"
LIMIT_SECONDS = 2400


def scenarios() -> list[str]:
    return sorted(path.parent.name for path in SCENARIOS.glob("*/molecule.yml"))


def run(name: str, platforms: str) -> tuple[str, float, bool]:
    started = time.monotonic()
    log = LOGS / f"molecule-{name}.log"
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PODCYCLE_PLATFORMS": platforms, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
    with log.open("wb") as stream:
        try:
            code = subprocess.run(
                [str(BIN / "molecule"), "test", "-s", name],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    seconds = time.monotonic() - started
    print(f"{'ok' if code == 0 else 'FAILED':6} {name:16} {platforms:40} {seconds:6.1f} s", flush=True)
    if code:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
        print("\n".join(text.splitlines()[-120:]), flush=True)
    return name, seconds, code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--platforms", default=os.environ.get("PODCYCLE_PLATFORMS") or "debian12")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    # Each image is made once, before the scenarios would wait for one another.
    images = [f"{platform}-tools" for platform in arguments.platforms.split()]
    if subprocess.run([sys.executable, str(SCENARIOS / "containers.py"), "image", *images], check=False).returncode:
        return 1
    # The longest first.
    names = sorted(arguments.scenarios or scenarios(), key=lambda name: (name != "default", name))
    with ThreadPoolExecutor(max_workers=arguments.jobs) as pool:
        done = list(pool.map(lambda name: run(name, arguments.platforms), names))
    failed = sum(not well for _name, _seconds, well in done)
    words = f"{failed} failed, " if failed else ""
    print(f"{words}{len(done) - failed} passed in {time.monotonic() - started:.2f}s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
