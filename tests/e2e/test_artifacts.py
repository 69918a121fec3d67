# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Artifacts come home whole or the pod stays: pods that lie, pods that send harm, and transfers that are cut."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import close_masters, control_path_dir
from support.rclone import KEY, SECRET, rclone, s3

RUN = "hostile"
MIB = 1024**2


class Pod:
    """The folder of a process pod, where its owner can do as he likes."""

    def __init__(self, world: Any, run_id: str) -> None:
        self.id: str = world.pod_ids(run_id)[0]
        self.folder: Path = world.cloud_dir / "pods" / self.id
        self.run: Path = self.folder / "workspace" / "runs" / run_id
        self.python = os.readlink(self.folder / "bin" / "python3")

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def lie(self, replacement: str) -> None:
        """Change what the pod's modules answer."""
        self.program("python3", f"{self.python} \"$@\" | sed '{replacement}'")

    def be_honest(self) -> None:
        path = self.folder / "bin" / "python3"
        path.unlink()
        path.symlink_to(self.python)
        (self.folder / "bin" / "rsync").unlink(missing_ok=True)


class Runs:
    """Unpickled by an ordinary load, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def make_model_that_runs_code(pod: Pod, marker: Path) -> None:
    """In PyTorch's own container, and named in the manifest with its true checksum: only opening it can tell."""
    with zipfile.ZipFile(pod.run / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"format": 1, "state_dict": Runs(marker)}, protocol=2))
        archive.writestr("model/version", "3\n")
    manifest = json.loads((pod.run / "manifest.json").read_text(encoding="utf-8"))
    manifest["artifacts"]["model.pt"]["sha256"] = hashlib.sha256((pod.run / "model.pt").read_bytes()).hexdigest()
    (pod.run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def outside(world: Any) -> set[str]:
    """Every file of the artifacts folder that is no file of the run."""
    return {str(path) for path in (world.path / "artifacts").rglob("*") if not path.is_dir() and world.run_dir(RUN) not in path.parents}


def link(pod: Pod) -> None:
    (pod.run / "model.pt").unlink()
    (pod.run / "model.pt").symlink_to("/etc/passwd")


def grow(pod: Pod) -> None:
    os.truncate(pod.run / "model.pt", 100 * 1024**3)


HARM: list[tuple[Callable[[Pod], None], str]] = [
    (link, "lacks model.pt: not a plain file"),
    (grow, "lacks model.pt: 107374182400 bytes, more than"),
    (lambda pod: pod.lie('s/"sha256": "......../"sha256": "00000000/g'), "files differ after the transfer, the first is"),
    (lambda pod: pod.lie('s#"path": "config.json"#"path": "../../../../stolen.json"#'), "the pod lists a file with an unsafe path: '../../../../stolen.json'"),
    (lambda pod: pod.program("rsync", f'truncate -s 100G {pod.run}/model.pt; exec /usr/bin/rsync "$@"'), "sends more of a file than it said there is"),
]


@pytest.mark.chaos
def test_a_hostile_pod_is_refused_without_harm_and_held(world: Any, wait_until: Any) -> None:
    marker = world.path / "ran"
    run = world.begin("cycle.yml", run_id=RUN, hold_minutes=20)
    wait_until(lambda: world.event(RUN, "train", "ok"), 150, "training done")
    run.signal_group(signal.SIGSTOP)
    pod = Pod(world, RUN)
    sound = {name: (pod.run / name).read_bytes() for name in ("model.pt", "manifest.json")}
    make_model_that_runs_code(pod, marker)
    run.signal_group(signal.SIGCONT)
    result = run.end().failed()

    assert f"run {RUN} failed in stage validate: Validate each model: " in result.flat and "cannot be opened as weights only" in result.flat
    held = re.search(rf"held for its artifacts: {pod.id} \(running\), 0\.5900 \$/h, until (\S+Z)", result.flat)
    assert held, result.text[-3000:]
    left = datetime.fromisoformat(held.group(1).replace("Z", "+00:00")) - datetime.now(timezone.utc)
    assert timedelta(minutes=15) < left <= timedelta(minutes=20)

    collected = world.run_dir(RUN) / "collected" / "run_artifacts"
    for harm, words in HARM:
        (collected / "model.pt").unlink(missing_ok=True)
        (pod.run / "model.pt").write_bytes(sound["model.pt"])
        harm(pod)
        began = time.monotonic()
        failed = world.play("playbooks/collect.yml", run_id=RUN).failed()
        assert words in failed.flat.replace("''", "'"), failed.text[-3000:]
        assert time.monotonic() - began < 60
        (pod.run / "model.pt").unlink()
        pod.be_honest()
        assert [one["id"] for one in world.live()] == [pod.id]
        found = [path for path in world.run_dir(RUN).rglob("*") if path.is_symlink() or path.stat().st_blocks * 512 > 100 * MIB]
        assert found == [] and outside(world) == set()

    for name, content in sound.items():
        (pod.run / name).write_bytes(content)
    world.play("cycle.yml", run_id=RUN).ok()
    assert world.pod_ids(RUN) == [pod.id] and not marker.exists()
    assert not list(world.run_dir(RUN).rglob(".rsync-partial"))
    world.nothing_bills()


SIZE = 24 * MIB
CUTS = [0, 1, 70, 5000, 3 * MIB, 12 * MIB, SIZE - 1]


def cutting_play(pod: Pod, here: Path) -> list[dict[str, Any]]:
    """Cut the pod's end of rsync after so many bytes, then transfer again, both ways."""
    cut, tasks = pod.folder / "cut", []
    for side, cuts in (("pull", CUTS), ("push", CUTS[-3:])):
        for number, count in enumerate(cuts):
            there, local = str(pod.folder / "big"), str(here / "big")
            if side == "pull":
                local = str(here / f"pulled-{count}")
            else:
                there = str(pod.folder / f"pushed-{count}")
            transfer = {"direction": side, "src": there if side == "pull" else local, "dest": local if side == "pull" else there}
            # The last cut of each side is outlived within one task.
            tries = 2 if number == len(cuts) - 1 else 1
            tasks.append({"ansible.builtin.copy": {"content": f"{side} {count}\n", "dest": str(cut)}, "delegate_to": "localhost"})
            if tries == 1:
                tasks.append({"podcycle.gpu.transfer": {**transfer, "tries": 1}, "register": "first", "failed_when": "first.failed is not true"})
                tasks.append({"ansible.builtin.debug": {"msg": "SAID {{ first.msg }}"}})
            tasks.append({"podcycle.gpu.transfer": {**transfer, "tries": tries}, "register": "second"})
            tasks.append({"ansible.builtin.debug": {"msg": f"REST {side} {count} {{{{ second.bytes_sent }}}}"}})
    return [{"hosts": "cut-0", "gather_facts": False, "tasks": tasks}]


def test_a_transfer_cut_at_any_byte_goes_on_there(world: Any) -> None:
    world.play("playbooks/start.yml", run_id="cut").ok()
    pod = Pod(world, "cut")
    cut = pod.folder / "cut"
    pod.program(
        "rsync",
        f'[ -s {cut} ] || exec /usr/bin/rsync "$@"\nread side count < {cut}; rm {cut}\n'
        'if [ $side = pull ]\nthen /usr/bin/rsync "$@" | { stdbuf -o0 head -c $count; kill -KILL 0; }\n'
        'else stdbuf -o0 head -c $count | /usr/bin/rsync "$@"; fi',
    )
    content = os.urandom(SIZE)
    for folder in (pod.folder, world.path):
        (folder / "big").mkdir()
        (folder / "big" / "file.bin").write_bytes(content)
    book = world.path / "cut.yml"
    book.write_text(json.dumps(cutting_play(pod, world.path)), encoding="utf-8")
    result = world.play(str(book)).ok()

    rest = {(side, int(count)): int(sent) for side, count, sent in re.findall(r"REST (pull|push) (\d+) (\d+)", result.text)}
    assert len(rest) == len(CUTS) + 3
    assert {key: sent for key, sent in rest.items() if sent > SIZE - key[1] + MIB} == {}
    assert len(re.findall(r"transfer try 1 of [12] failed", result.text)) == len(rest)
    copies = [*world.path.glob("pulled-*/file.bin"), *pod.folder.glob("pushed-*/file.bin")]
    assert len(copies) == len(rest) and all(path.read_bytes() == content for path in copies)
    without_rsync(world, pod)
    through_a_remote(world, pod)
    changed_host_key(world, pod)


def without_rsync(world: Any, pod: Pod) -> None:
    """A pod that has no rsync: scp brings only what differs, within the limit, leaves out what is excluded, and nothing half-done stays."""
    pod.program("rsync", "echo 'sh: 1: rsync: not found' >&2; exit 127")
    here, there = world.path / "odd", pod.folder / "odd"
    for name in ("a", "deep [x]/b*", "tmp/c"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(os.urandom(300 * 1024))
    (here / "a").chmod(0o755)
    push = {"direction": "push", "src": str(here), "dest": str(there), "exclude": ["tmp/*"], "bandwidth_limit_kib_s": 300}
    pull = {**push, "direction": "pull", "src": str(there), "dest": str(world.path / "back")}
    shown = {"ansible.builtin.debug": {"msg": "SCP {{ sent.method | default('none') }} {{ sent.transferred | join(',') }} {{ sent.mib_s | default(0) }}"}}
    tasks: list[dict[str, Any]] = []
    for transfer in (push, push, pull):
        tasks += [{"podcycle.gpu.transfer": transfer, "register": "sent"}, shown]
    book = world.path / "scp.yml"
    book.write_text(json.dumps([{"hosts": "cut-0", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    said = re.findall(r"SCP (\S+) (.*) ([0-9.]+)", world.play(str(book)).ok().text)
    assert [row[:2] for row in said] == [("scp", "a,deep [x]/b*"), ("none", ""), ("scp", "a,deep [x]/b*")] and all(float(row[2]) <= 0.5 for row in said)
    for copy in (there, world.path / "back"):
        assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == {"a", "deep [x]/b*"}
        assert not (copy / ".scp-partial").exists() and (copy / "deep [x]" / "b*").read_bytes() == (here / "deep [x]" / "b*").read_bytes()
    assert (there / "a").stat().st_mode & 0o777 == 0o755


def through_a_remote(world: Any, pod: Pod) -> None:
    """Data from a real object store to the pod, files from here to it: compared by checksum, and the credentials are seen nowhere."""
    shutil.copy(rclone(), pod.folder / "bin" / "rclone")
    bucket = world.path / "buckets" / "chess"
    data = world.dataset(bucket / "data")
    sums = {name: hashlib.sha256((data / name).read_bytes()).hexdigest() for name in ("train.jsonl", "val.jsonl")}
    (data / "checksums.sha256").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="ascii")
    store = {"direction": "push", "remote": "s3:chess/stored", "path": str(world.path / "odd"), "exclude": ["tmp/*", "deep*"], "bandwidth_limit_kib_s": 8192}
    task = {"podcycle.gpu.remote_files": store, "delegate_to": "localhost", "register": "stored"}
    said = {"ansible.builtin.debug": {"msg": "STORED {{ stored.changed }} {{ stored.transferred | length }} {{ stored.verified }}."}}
    book = world.path / "store.yml"
    book.write_text(json.dumps([{"hosts": "cut-0", "gather_facts": False, "tasks": [task, said, task, said]}]), encoding="utf-8")
    with s3(world.path / "buckets") as env:
        env["PATH"] = f"{Path(rclone()).parent}:{world.environment()['PATH']}"
        first, again = (world.play("playbooks/push.yml", "-vv", run_id="cut", data_remote="s3:chess/data", env=env).ok() for _turn in range(2))
        assert first.recap("cut-0")["changed"] == 2 and again.recap("cut-0")["changed"] == 0
        stored = world.play(str(book), "-vv", env=env).ok()
        (data / "val.jsonl").write_bytes((data / "val.jsonl").read_bytes()[::-1])
        spoilt = world.play("playbooks/push.yml", run_id="cut", data_remote="s3:chess/data", env=env).failed()
        lacking = world.play("playbooks/start.yml", run_id="never", env=env, dataset_dir="", data_remote="s3:chess/none").failed()
    nowhere = {**env, "RCLONE_CONFIG_S3_ENDPOINT": "http://127.0.0.1:9"}
    dead = world.play("playbooks/start.yml", run_id="never", env=nowhere, dataset_dir="", data_remote="s3:x").failed()
    assert "the remote s3:x cannot be listed" in dead.flat
    assert "s3:chess/none lacks train.jsonl, val.jsonl" in lacking.flat
    assert "1 files differ from checksums.sha256, the first is val.jsonl" in spoilt.flat
    assert hashlib.sha256((pod.folder / "workspace" / "data" / "cut" / "train.jsonl").read_bytes()).hexdigest() == sums["train.jsonl"]
    told = re.findall(r"STORED (\w+ \d+) [^.]*(nothing read back|what was read back)\.", stored.flat)
    assert told == [("True 1", "what was read back"), ("False 0", "nothing read back")]
    assert (bucket / "stored" / "a").read_bytes() == (world.path / "odd" / "a").read_bytes() and not (bucket / "stored" / "tmp").exists()
    assert [one["id"] for one in world.live()] == [pod.id], "nothing was rented for a remote that does not answer"
    written = [path for folder in (pod.folder, world.run_dir("cut"), world.state) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    texts = [path.read_bytes() for path in [*written, *world.path.glob("output-*.log")] if path.stat().st_size < MIB]
    assert not [text for text in texts if SECRET.encode() in text or KEY.encode() in text]


def changed_host_key(world: Any, pod: Pod) -> None:
    """Every stage refuses a pod whose host key has changed, and says which pod and what to do; giving it back needs no SSH."""
    sentence = f"the SSH host key of pod {pod.id} is not the one seen at first contact"
    close_masters(control_path_dir(pod.id))
    world.control("POST", f"/pods/{pod.id}/host_key", {})
    for playbook in ("start", "push"):
        began = time.monotonic()
        failed = world.play(f"playbooks/{playbook}.yml", run_id="cut").failed()
        assert sentence in failed.flat and f"ssh-keygen -R {pod.id} -f" in failed.flat, failed.text[-3000:]
        assert time.monotonic() - began < 60
    world.play("playbooks/stop.yml", run_id="cut").ok()
    world.nothing_bills()
