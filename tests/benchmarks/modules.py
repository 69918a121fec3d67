# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each module costs before it does anything: its imports, from the archive that Ansible ships it in.

Usage: python tests/benchmarks/modules.py [--runs 5] [--slowest NAME]

The archive is the real one: Ansible's own AnsiballZ of the module, unpacked and imported by a fresh interpreter. CPU seconds, less those of an
interpreter that imports nothing; `ping` of ansible-core is the peer. `--slowest` names the imports of one module that take longest.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COLLECTION = "ansible_collections.podcycle.gpu.plugins.modules."


def archive(folder: Path, module: str) -> tuple[Path, float] | None:
    """The unpacked archive of a module, and its size in KiB: what Ansible leaves behind when told to keep remote files."""
    tmp = folder / module
    environment = {**os.environ, "HOME": str(folder), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_KEEP_REMOTE_FILES": "1"}
    environment |= {"ANSIBLE_PIPELINING": "0", "ANSIBLE_REMOTE_TMP": str(tmp), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    command = [str(BIN / "ansible"), "-i", "localhost,", "localhost", "-c", "local", "-m", module, "-e", f"ansible_python_interpreter={sys.executable}"]
    subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    wrappers = list(tmp.glob("**/AnsiballZ_*.py"))
    if not wrappers:
        return None
    subprocess.run([sys.executable, str(wrappers[0]), "explode"], cwd=folder, capture_output=True, check=True)
    return wrappers[0].parent / "debug_dir", wrappers[0].stat().st_size / 1024


def spent(command: list[str]) -> float:
    """CPU seconds of one process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _pid, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return usage.ru_utime + usage.ru_stime


def importing(folder: Path, name: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); import {name}"]


def slowest(folder: Path, name: str) -> None:
    command = importing(folder, name)
    said = subprocess.run([command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True).stderr
    rows = [(int(own), what) for own, what in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", said)]
    for own, what in sorted(rows, reverse=True)[:15]:
        print(f"    {own / 1000:6.1f} ms  {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slowest", default="")
    options = parser.parse_args()
    own = [path.stem for path in sorted((ROOT / "plugins" / "modules").glob("*.py")) if "def main" in path.read_text(encoding="utf-8")]
    with tempfile.TemporaryDirectory(prefix="podcycle-bench-") as temporary:
        made = {name: archive(Path(temporary), f"podcycle.gpu.{name}") for name in own} | {"ping": archive(Path(temporary), "ansible.builtin.ping")}
        # An action plugin that refuses to work on nothing ships nothing.
        found = {name: (*at, "ansible.modules.ping" if name == "ping" else COLLECTION + name) for name, at in made.items() if at}
        nothing = statistics.median(spent([sys.executable, "-c", "pass"]) for _run in range(options.runs))
        rows: dict[str, list[float]] = {name: [] for name in found}
        for _run in range(options.runs):
            for name, (folder, _size, full) in found.items():
                rows[name].append(spent(importing(folder, full)) - nothing)
        peer = statistics.median(rows["ping"])
        for name in sorted(rows, key=lambda one: -statistics.median(rows[one])):
            seconds = statistics.median(rows[name])
            print(f"{name:14} {1000 * seconds:5.0f} ms  ({seconds / peer:4.2f})  {found[name][1]:4.0f} KiB")
        if options.slowest:
            slowest(found[options.slowest][0], found[options.slowest][2])
    print(f"an interpreter alone {1000 * nothing:.0f} ms; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
