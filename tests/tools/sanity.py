# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-test sanity on the unpacked built archive.

ansible-test refuses a checkout that is not below ansible_collections, and a link to one. It also downloads a script that
brings pip into its virtual environments; a stand-in made from pip itself takes the script's place, so that a package index is
all that is needed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build"
BIN = Path(sys.executable).parent
TREE = BUILD / "ansible_collections" / "podcycle" / "gpu"
STAND_IN = '''"""Runs pip from {folder} with the arguments that the real bootstrap script would take."""
import sys
sys.path.insert(0, {folder!r})
from pip._internal.cli.main import main
sys.exit(main(["install", "--ignore-installed"] + [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]))
'''


def build() -> Path:
    """The archive of this checkout, unpacked where ansible-test accepts it."""
    archives = BUILD / "archive"
    shutil.rmtree(archives, ignore_errors=True)
    subprocess.run([str(BIN / "ansible-galaxy"), "collection", "build", "--force", "--output-path", str(archives), str(ROOT)], check=True)
    archive = next(archives.glob("podcycle-gpu-*.tar.gz"))
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(TREE, filter="data")
    # ansible-test asks the nearest repository for its files, and the checkout's own ignores .build.
    subprocess.run(["git", "init", "--quiet", str(TREE)], check=True)
    return TREE


def pip_versions() -> list[str]:
    """The versions of pip that this ansible-test brings into its environments."""
    spec = importlib.util.find_spec("ansible_test")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("ansible-test is not installed beside this Python; run make setup-test")
    source = Path(next(iter(spec.submodule_search_locations)), "_internal", "python_requirements.py").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"""pip['"]?\s*[=:]+\s*['"]([0-9.]+)['"]""", source)))


def stand_in(home: Path) -> None:
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in pip_versions():
        folder = BUILD / "pip" / version
        if not (folder / "pip").is_dir():
            subprocess.run([str(BIN / "uv"), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), f"pip=={version}"], check=True)
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(STAND_IN.format(folder=str(folder)), encoding="utf-8")


def main() -> int:
    tree = build()
    home = BUILD / "sanity-home"
    stand_in(home)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment.setdefault("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    python = "{}.{}".format(*sys.version_info)
    command = [str(BIN / "ansible-test"), "sanity", "--local", "--requirements", "--python", python, "--color", "no", *sys.argv[1:]]
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
