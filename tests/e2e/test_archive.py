# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built archive, installed and run from an empty folder, and what such a run leaves outside its own folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# What a cycle may leave in /tmp: the folders of SSH's masters, whose paths must be short. What ansible-test writes of a module's documentation is none of it.
OTHERS = re.compile(r"podcycle-\d+|tmp\w{8}_.*\.yaml")
# Other programs of the machine write there too; what follows TMPDIR is looked for in the world's own folder.
OURS = re.compile(r"podcycle|rehearsal|chess", re.IGNORECASE)


def picture(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time, but for the byte code that Python keeps of it."""
    files = [path for path in folder.rglob("*") if not path.is_dir() and path.parent.name != "__pycache__"]
    return {str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in files}


def temporary() -> set[str]:
    return {path.name for path in Path("/tmp").iterdir() if OURS.search(path.name) and not OTHERS.fullmatch(path.name)}


def test_installed_collection_runs_from_an_empty_folder(still_world: Any) -> None:
    world = still_world
    built, installed = world.path / "built", world.path / "installed"
    done = world.command("ansible-galaxy", "collection", "build", "--output-path", str(built))
    assert done.returncode == 0, done.stderr
    archive = next(built.glob("podcycle-gpu-*.tar.gz"))
    done = world.command("ansible-galaxy", "collection", "install", "--offline", "-p", str(installed), str(archive), ANSIBLE_COLLECTIONS_PATH=str(installed))
    assert done.returncode == 0, done.stdout + done.stderr
    collection = installed / "ansible_collections" / "podcycle" / "gpu"
    assert not [name for name in ("tests/e2e/.build", ".build", ".venv", ".state", "artifacts", ".git") if (collection / name).exists()]

    before, others = picture(collection), temporary()
    env = {"ANSIBLE_CONFIG": str(world.path / "none.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(installed), "PODCYCLE_HOME": "", "PWD": str(world.home)}
    inventory = str(collection / "inventories" / "rehearsal")
    result = world.play("podcycle.gpu.cycle", env=env, inventory=inventory, cwd=world.home, run_id="packed", artifacts_dir="artifacts").ok()

    assert "every pod of this run was read back as gone" in result.text
    world.nothing_bills()
    assert (world.home / "artifacts" / "cycles" / "packed" / "local_validation" / "validation.json").is_file()
    assert picture(collection) == before and not temporary() - others
    assert list((world.path / "tmp").iterdir()) == []
    assert {path.name for path in world.home.iterdir()} == {".state", "artifacts"}
    assert {path.name for path in (world.path / "home").iterdir()} <= {".ansible", ".cache", ".local"}
