# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

CANARY = "canary-4f1c9a7e-secret"
RUN = "whole"
# Everything that a run folder holds after a cycle of one pod (run.json says whose folder it is).
NAMES = {
    "run.json", "provision.json", "events.jsonl", "known_hosts", "cost.json", "reports/observations.md", "reports/report.html", "collected/manifest.json",
    "local_validation/infer_move_output.txt", "local_validation/validation.json",
}  # fmt: skip


# What a cycle may leave in /tmp: the folders of SSH's masters, whose paths must be short.
# What ansible-test writes of a module's documentation, and a module that a test beside this one runs, is none of it.
OTHERS = re.compile(r"podcycle-\d+|tmp\w{8}_.*\.yaml|ansible_.*_payload_\w+")
# Other programs of the machine write there too; what follows TMPDIR is looked for in the world's own folder.
OURS = re.compile(r"podcycle|rehearsal|chess", re.IGNORECASE)


def picture(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and time, but for the byte code that Python keeps of it."""
    files = [path for path in folder.rglob("*") if not path.is_dir() and path.parent.name != "__pycache__"]
    return {str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in files}


def temporary() -> set[str]:
    return {path.name for path in Path("/tmp").iterdir() if OURS.search(path.name) and not OTHERS.fullmatch(path.name)}


class ProcessWatch:
    """Samples the command lines of a world's processes for words that must never stand there, and their environments."""

    def __init__(self, world: Any, words: tuple[str, ...], *, environments: bool = False) -> None:
        # Tests of other worlds run beside this one, with the same rehearsal key.
        self.place = str(world.path)
        self.words = words
        self.environments = environments
        self.seen: set[str] = set()
        self.samples = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.samples += 1
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self._look(*((path / name).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace") for name in ("cmdline", "environ")))

    def _look(self, command: str, environment: str) -> None:
        if self.place not in command + environment:
            return
        # What is given to a pod stands in the environment of its first process, as on the real thing.
        if self.environments and "RUNPOD_POD_ID=" not in environment:
            command += f" with {environment}"
        self.seen |= {command for word in self.words if word in command}


def holding(folder: Path, words: tuple[str, ...]) -> list[str]:
    """Files below the folder that hold one of the words."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [f"{path}: {word}" for path in files for word in words if word.encode() in path.read_bytes()]


def settings_of_this_machine() -> dict[str, bytes]:
    """The files in which shells and services of this machine are set up, none of which a rehearsal may touch."""
    home = Path.home()
    places = [home / name for name in (".bashrc", ".profile", ".bash_profile", ".gitconfig")]
    places += [Path("/etc", name) for name in ("bash.bashrc", "profile", "environment")]
    places += [path for folder in ("/etc/profile.d", "/etc/systemd/system", "/etc/cron.d") for path in sorted(Path(folder).glob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in places if path.is_file() and os.access(path, os.R_OK)}


def installed(world: Any) -> Path:
    """The collection as it comes out of its built archive."""
    built, folder = world.path / "built", world.path / "installed"
    done = world.command("ansible-galaxy", "collection", "build", "--output-path", str(built))
    assert done.returncode == 0, done.stderr
    archive = next(built.glob("podcycle-gpu-*.tar.gz"))
    done = world.command("ansible-galaxy", "collection", "install", "--offline", "-p", str(folder), str(archive), ANSIBLE_COLLECTIONS_PATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    collection: Path = folder / "ansible_collections" / "podcycle" / "gpu"
    assert not [name for name in ("tests/e2e/.build", ".build", ".venv", ".state", "artifacts", ".git") if (collection / name).exists()]
    return collection


@pytest.mark.both_ends
def test_whole_cycle_of_the_installed_collection_from_an_empty_folder(still_world: Any) -> None:
    world = still_world
    collection = installed(world)
    env = {"ANSIBLE_CONFIG": str(world.path / "none.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(collection.parents[2]), "PODCYCLE_HOME": "", "PWD": str(world.home)}
    where = {"env": env, "inventory": str(collection / "inventories" / "rehearsal"), "cwd": world.home, "artifacts_dir": "artifacts"}
    secrets = (CANARY, "rpa_rehearsal_full", "rpa_pod_")
    variables = world.path / "secret.yml"
    variables.write_text(f"pod_secret_env: {{HF_TOKEN: {CANARY}}}\n", encoding="utf-8")
    settings, before, others = settings_of_this_machine(), picture(collection), temporary()
    with ProcessWatch(world, secrets) as watch:
        result = world.play("podcycle.gpu.cycle", "-vvvv", "-e", f"@{variables}", run_id=RUN, **where).ok()

    check_run_folder(world)
    check_cost(world)
    check_terminal(result.text, world.run_dir(RUN))
    world.nothing_bills()
    assert watch.samples > 20 and not watch.seen
    assert [word for word in secrets if word in result.text] == []
    assert holding(world.run_dir(RUN), secrets) == []
    assert holding(world.state, secrets) == []
    created = next(entry for entry in world.posts() if entry["path"] == "/v2/pods")
    assert created["body"]["env"]["HF_TOKEN"] == "(redacted)", "the secret has reached the pod"
    check_home(world)
    assert settings_of_this_machine() == settings
    assert picture(collection) == before and not temporary() - others
    assert {path.name for path in world.home.iterdir()} == {".state", "artifacts"}


def check_run_folder(world: Any) -> None:
    folder = world.run_dir(RUN)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("collected/run_artifacts/")} == NAMES
    artifacts = folder / "collected" / "run_artifacts"
    assert {"model.pt", "manifest.json", "metrics.jsonl", "config.json"} <= {path.name for path in artifacts.iterdir()}

    provision = world.read(RUN, "provision.json")
    assert provision["rehearsal"] is True and len(provision["pods"]) == 1
    assert Decimal(provision["pods"][0]["usd_per_hour"]) == Decimal("0.59")

    manifest = world.read(RUN, "collected/manifest.json")
    assert manifest["rehearsal"] is True
    listed = manifest["pods"][0]["files"]
    assert {row["path"] for row in listed} == {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    for row in listed:
        content = (artifacts / row["path"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (row["sha256"], row["size"]), row["path"]

    validation = world.read(RUN, "local_validation/validation.json")
    assert validation["ok"] is True and all(check["ok"] for check in validation["checks"])
    answer = world.read(RUN, "local_validation/infer_move_output.txt")
    assert answer["ok"] is True and answer["context"] == "e2e4 e7e5 g1f3", answer

    stages = [event["stage"] for event in world.events(RUN) if event["status"] == "started" and event["phase"] == event["stage"]]
    assert stages == ["start", "converge", "push", "train", "collect", "validate", "stop"]
    for event in world.events(RUN):
        assert {"ts", "stage", "phase", "status", "elapsed_ms"} <= event.keys()
    timed = [event["phase"] for event in world.events(RUN) if event["stage"] == "pod"]
    assert timed == ["load_data", "prepare", "train", "evaluate", "save_model"]
    assert "Rehearsal: true" in (folder / "reports" / "observations.md").read_text(encoding="utf-8")


def check_cost(world: Any) -> None:
    cost = world.read(RUN, "cost.json")
    assert cost["rehearsal"] is True
    meter = world.control("GET", "/meter")["pods"][world.pod_ids(RUN)[0]]
    # The price per second is 0.00016 $, and the ledger's clock begins and ends within seconds of the cloud's.
    assert abs(Decimal(cost["cost_usd"]) - Decimal(meter["compute_usd"])) <= Decimal("0.0008")
    assert Decimal(cost["cost_usd"]) > 0


def check_terminal(text: str, folder: Path) -> None:
    said = ("rehearsal: nothing was paid", "would have cost", "validation  ok", "every pod of this run was read back as gone", "positions/s", folder.name)
    assert [words for words in said if words not in text] == []


def check_home(world: Any) -> None:
    """Temporary files end; nothing but Ansible's and uv's own folders appears in the home folder."""
    home = {path.name for path in (world.path / "home").iterdir()}
    assert home <= {".ansible", ".cache", ".local"}, home
    left = [path.name for path in (world.path / "tmp").iterdir()]
    assert left == [], left
    assert not list((world.path / "home" / ".ansible" / "tmp").glob("*/*"))


WRONG = "rpa_canary_of_a_wrong_key_1c9a"


def test_a_secret_is_found_nowhere_else(world: Any) -> None:
    """The key comes from a file. Check mode, a failure, the inventory and its cache, facts, the end: at the highest verbosity."""
    secrets = (CANARY, "rpa_rehearsal_full", "rpa_pod_", WRONG)
    for name in ("pods.yml", "group_vars/all.yml"):
        path = world.path / "inventory" / name
        path.write_text("".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if "rpa_rehearsal_full" not in line))
    cached = {"cache": True, "cache_plugin": "jsonfile", "cache_connection": str(world.path / "cache")}
    with (world.path / "inventory" / "pods.yml").open("a", encoding="utf-8") as stream:
        stream.writelines(f"{name}: {json.dumps(value)}\n" for name, value in cached.items())
    dotenv, given = world.path / "env.runpod", world.path / "secret.yml"
    dotenv.write_text("RUNPOD_API_KEY=rpa_rehearsal_full\n", encoding="utf-8")
    given.write_text(f"pod_secret_env: {{HF_TOKEN: {CANARY}}}\n", encoding="utf-8")
    env = {"RUNPOD_DOTENV_PATH": str(dotenv)}
    verbose = ("-vvvv", "--diff", "-e", f"@{given}")
    said = []
    with ProcessWatch(world, secrets, environments=True) as watch:
        said.append(world.play("playbooks/start.yml", "--check", *verbose, env=env, run_id="dry").ok().text)
        said.append(world.play("cycle.yml", *verbose, env=env, run_id="bad", collect_required=["never-made"]).failed().text)
        assert "failed in stage collect" in " ".join(said[-1].split())
        for words in (("ansible-inventory", "--list", "--flush-cache"), ("ansible", "all", "-m", "ansible.builtin.setup", "-e", json.dumps(world.options()))):
            done = world.command(words[0], *words[1:], "-vvvv", "-i", str(world.path / "inventory"), **env)
            assert done.returncode == 0 and "bad-0" in done.stdout, done.stderr
            said += [done.stdout, done.stderr]
        said.append(world.play("playbooks/stop.yml", *verbose, env=env, run_id="bad").ok().text)
    # Here the key stands in the environment because a person has put it there.
    said.append(world.play("playbooks/start.yml", *verbose, env={"RUNPOD_API_KEY": WRONG}, run_id="wrong").failed().text)

    assert watch.samples > 20 and not watch.seen
    assert [(number, word) for number, text in enumerate(said) for word in secrets if word in text] == []
    assert list((world.path / "cache").iterdir()), "the inventory is cached"
    places = [world.path / name for name in ("artifacts", "cache", "home", "tmp", "inventory")]
    assert [hit for place in (*places, world.state) for hit in holding(place, secrets)] == []
    keys = [hit for place in (*places, world.state) for hit in holding(place, ("PRIVATE KEY",))]
    assert {Path(hit.partition(":")[0]).name for hit in keys} == {"id_ed25519"}
    open_to_others = [str(path) for place in (world.state, world.run_dir("bad")) for path in (place, *place.rglob("*")) if readable_by_others(world, path)]
    assert open_to_others == [], "\n".join(open_to_others)
    world.nothing_bills()


def readable_by_others(world: Any, path: Path) -> bool:
    shared = any(part.startswith("validation") for part in path.relative_to(world.path).parts)
    return not shared and path.suffix != ".pub" and not path.is_symlink() and path.stat().st_mode & 0o077 != 0
