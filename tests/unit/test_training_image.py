# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The training image: its names, what it is built from, how each failure reads, and the playbook before an engine that is none."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _image as images
from ansible_collections.podcycle.gpu.plugins.module_utils import _image_build as builds
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError
from support.docker import FakeDocker
from support.services import load
from support.world import ROOT

GOOD = {"uid": 1001, "train_exit_code": 0, "infer_exit_code": 0, "move": "b8c6", "listening": [], "files": dict.fromkeys(builds._FILES, 9)}
INSPECTED = [{"Id": "sha256:" + "a" * 64, "Size": 2097152, "Config": {"Labels": {images.LABEL: "@LABEL@"}}}]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmineminemineminemineminemineminemineminemine me@here"


def args(**more: Any) -> dict[str, Any]:
    return {"platform": "linux/amd64", "backend": "cu130", "torch": {}, "dockerfile": "FROM ubuntu:24.04\n", "programs": {}, **more}


def start_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_start", ROOT / "roles/training_image/files/start.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["image_start"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("given", "name", "host"),
    [
        ("ghcr.io/Me/Chess", "ghcr.io/me/chess", "ghcr.io"), ("me/chess", "me/chess", "docker.io"),
        (" 127.0.0.1:5000/a/b ", "127.0.0.1:5000/a/b", "127.0.0.1:5000"),
        ("localhost/x", "localhost/x", "localhost"), ("registry.example.org:443/a__b/c-d", "registry.example.org:443/a__b/c-d", "registry.example.org:443"),
    ],
)  # fmt: skip
def test_a_repository_is_written_in_lower_case_and_that_is_told(given: str, name: str, host: str) -> None:
    found, note = images.repository_of(given)
    assert (found, images.host_of(found), bool(note)) == (name, host, name != given.strip())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "IMAGE_REPO names no repository"), ("https://ghcr.io/a/b", "leave it out: ghcr.io/a/b"), ("ghcr.io/a/b:v1", "has a tag"),
        ("ghcr.io/a@sha256:00", "has a tag or a digest"), ("ghcr.io/a b", "is no repository"), ("/a", "is no repository"), ("a/../b", "is no repository"),
        ("--push", "is no repository"), ("a" * 201, "is no repository"),
    ],
)  # fmt: skip
def test_what_is_no_repository_is_refused_in_a_sentence(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        images.repository_of(given)


def test_a_commit_names_the_image_and_changes_keep_latest_away(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        environment = {**os.environ, "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"}
        return subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True, env=environment).stdout.strip()

    with pytest.raises(UsageError, match="image_revision"):
        images.revision_of(tmp_path, "")
    git("init", "-q")
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "a").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = images.revision_of(tmp_path, "")
    assert (clean.tags, clean.created) == ([git("rev-parse", "--short=12", "HEAD"), "latest"], "2026-01-02T03:04:05Z")
    (tmp_path / "notes.txt").write_text("no part of an image")
    assert images.revision_of(tmp_path, "") == clean
    (tmp_path / "roles" / "b").write_text("not in git yet, and in the image")
    dirty = images.revision_of(tmp_path, "")
    assert dirty.tags == [f"{clean.short}-dirty"] and dirty.full == f"{clean.full}-dirty"


def test_the_context_has_every_program_and_changes_with_each() -> None:
    context = images.context_of(ROOT, args())
    sources = yaml.safe_load((ROOT / "roles/services/vars/main.yml").read_text())["__services_sources"]
    packed = {name.rpartition("/")[2] for name in context.texts if name.startswith("collection/")}
    assert set(sources) | {"trainer.py", "uv_tool.py", "pod_service.py", "file_set.py", "system_packages.py", "install_package.py"} <= packed
    assert not [name for name in context.texts if "__pycache__" in name or "/tests/" in name or name.startswith("collection/roles/chess_training/files/smoke")]
    assert context.texts["torch/arguments"].splitlines()[:3] == ["--torch-backend", "cu130", "torch==2.13.0"]
    again = images.context_of(ROOT, args())
    assert again.digest({"a": 1}) == context.digest({"a": 1}) != context.digest({"a": 2})
    again.texts["collection/roles/chess_training/files/chess_trainer/trainer.py"] += "# another\n"
    assert again.digest({"a": 1}) != context.digest({"a": 1})


def test_torch_is_chosen_as_the_role_does(tmp_path: Path) -> None:
    wheel = tmp_path / f"torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_{os.uname().machine}.whl"
    wheel.write_bytes(b"wheel")
    # As a list, and as a command line says it.
    for links in ([str(tmp_path)], f"{tmp_path}, https://wheels.example.org"):
        local = images.context_of(ROOT, args(backend="cpu", torch={"find_links": links}))
        arguments = local.texts["torch/arguments"].splitlines()
        assert arguments[:2] == ["--find-links", "/srv/torch"] and "torch==2.13.0+cpu" in arguments and local.wheels == {f"torch/{wheel.name}": wheel}
    locked = images.context_of(ROOT, args(torch={"version": "2.12.0", "lock": "torch==2.12.0 --hash=sha256:00\n"}))
    assert "--require-hashes" in locked.texts["torch/arguments"] and "--hash" in locked.texts["torch/lock.txt"]
    with pytest.raises(UsageError, match="holds a password"):
        images.context_of(ROOT, args(torch={"index_url": "https://me:hunter2@wheels.example.org/simple"}))
    for wrong in ({"platform": "windows/amd64"}, {"dockerfile": "FROM $(id)\n"}):
        with pytest.raises(UsageError):
            images.context_of(ROOT, args(**wrong))


def test_a_context_is_made_whole_and_never_in_somebody_elses_folder(tmp_path: Path) -> None:
    context = images.Context({"a/b.txt": "1", "Dockerfile": "FROM x\n"}, {}, "x")
    context.write(tmp_path / "new")
    (tmp_path / "new" / "a" / "old.txt").write_text("stale")
    context.write(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").rglob("*") if path.is_file()) == [images.MARKER, "Dockerfile", "b.txt"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match="image_dir"):
        context.write(tmp_path / "own")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"version": {"code": 1, "err": "permission denied while trying to connect to the Docker daemon socket\n"}}, "usermod -aG docker"),
        ({"version": {"code": 1, "err": "Cannot connect to the Docker daemon. Is the docker daemon running?\n"}}, "start it"),
        ({"buildx version": {"code": 1, "err": "docker: unknown command: docker buildx\n"}}, "docker-buildx-plugin"),
    ],
)
def test_a_missing_engine_is_one_sentence(tmp_path: Path, answers: dict[str, Any], said: str) -> None:
    fake = FakeDocker(tmp_path)
    docker = builds.Docker(str(fake.program))
    docker.probe()
    fake.tell(answers)
    with pytest.raises(images.ImageError) as caught:
        docker.probe()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(images.ImageError, match="install Docker Engine"):
        builds.Docker(str(tmp_path / "none")).probe()


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"train_exit_code": 70}, "train ended with 70"), ({"files": {**GOOD["files"], "model.pt": 0}}, "model.pt is empty"),
        ({"move": "resign"}, "instead of a move"),
        ({"uid": 0}, "ran as root"), ({"listening": [22]}, "something listens on 22"), ({"files": {}}, "model.pt is missing"),
    ],
)  # fmt: skip
def test_a_try_is_judged_by_what_it_left(report: dict[str, Any], said: str) -> None:
    assert builds.judged(GOOD) == [] and said in "; ".join(builds.judged({**GOOD, **report}))


def test_the_container_of_a_try_is_gone_whatever_happens(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path)
    fake.tell({"run": {"sleep": 30}, "rm": {}})
    with pytest.raises(images.ImageError, match="did not end in 1 s"):
        builds.smoke(builds.Docker(str(fake.program)), "it:1", 1)
    ran, removed = fake.asked()[-2:]
    assert removed[:2] == ["rm", "--force"] and removed[2] == ran[ran.index("--name") + 1]
    assert ran[ran.index("--network") + 1] == "none" and ran[ran.index("--user") + 1] == "runner" and "START_SSHD=0" in ran


def test_a_build_ends_in_time_although_its_own_child_holds_the_pipe(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nsleep 30 &\nsleep 30\n", encoding="utf-8")
    program.chmod(0o755)
    began = time.monotonic()
    with pytest.raises(builds.BuildFailed, match="did not end in 1 s"):
        builds.Docker(str(program)).build(["."], tmp_path / "log", 1, print)
    assert time.monotonic() - began < 15


def test_a_step_that_failed_says_what_it_wanted(tmp_path: Path) -> None:
    log = """\
#11 [stage-0  6/12] RUN --mount=type=cache,target=/var/cache/uv uv pip install torch
#11 10.92 error: Request failed after 3 retries in 10.4s
#11 10.93   cause: Failed to fetch: https://wheels.example.org/whl/cpu/torch/
#11 10.93   cause: client error (Connect)
#11 10.93   cause: network is unreachable
#11 ERROR: executor failed running [/bin/bash -c uv pip install torch]: exit code: 2
------
ERROR: failed to solve: executor failed running [/bin/bash -c uv pip install torch]: exit code: 2
"""
    fake = FakeDocker(tmp_path)
    fake.tell({"buildx build": {"code": 1, "err": log}})
    with pytest.raises(images.ImageError) as caught:
        builds.push(builds.Docker(str(fake.program)), ["."], "ghcr.io/me/it", ["a"], tmp_path / "log", 10, print)
    said = caught.value.message
    assert "a step: exit code: 2: error: Request failed" in said and "Failed to fetch: https://wheels.example.org/whl/cpu/torch/; cause: client" in said
    assert "network is unreachable" in said and "registry" not in said


@pytest.mark.parametrize(
    ("err", "said"),
    [
        ("ERROR: failed to solve: unexpected status: 401 Unauthorized\n", "docker login ghcr.io"),
        ("denied: requested access to the resource is denied\n", "docker login ghcr.io"),
        ("ERROR: failed to do request: dial tcp: lookup ghcr.io: no such host\n", "cannot be reached"),
    ],
)
def test_what_the_registry_answered_is_in_the_error(tmp_path: Path, err: str, said: str) -> None:
    fake = FakeDocker(tmp_path)
    fake.tell({"buildx build": {"code": 1, "err": err}})
    with pytest.raises(images.ImageError) as caught:
        builds.push(builds.Docker(str(fake.program)), ["."], "ghcr.io/me/x", ["abc"], tmp_path / "log", 60, print)
    assert said in str(caught.value) and err.strip().removeprefix("ERROR: ") in str(caught.value)


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


# As `docker buildx imagetools inspect` told them: what an engine pushed, and what a builder pushed with its provenance.
ENGINE_PUSHED = {
    "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 441, "digest": digest("c")}, "layers": [],
}  # fmt: skip
INDEX = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [
        {"digest": digest("d"), "size": 480, "platform": {"architecture": "amd64", "os": "linux"}},
        {
            "digest": digest("e"), "size": 566, "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {"vnd.docker.reference.digest": digest("d"), "vnd.docker.reference.type": "attestation-manifest"},
        },
    ],
}  # fmt: skip
PUSHED_CONFIG = {"created": "2026-11-23T00:39:49.167998007Z", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest("1")]}}
LATER = PUSHED_CONFIG | {"created": "2026-11-23T00:50:00Z"}
CONTENT = [PUSHED_CONFIG["created"], [digest("1")]]


@pytest.mark.parametrize(
    ("top", "image", "built", "said"),
    [
        (ENGINE_PUSHED, {}, {"id": digest("c")}, ""),
        (ENGINE_PUSHED, PUSHED_CONFIG, {"id": digest("9")}, ""),
        (ENGINE_PUSHED, LATER, {"id": digest("9")}, f"image {digest('c')} under abc, latest, which is not the one .* tried here, {digest('9')}"),
        (INDEX, {}, {"id": digest("c")}, ""),
        (INDEX, {}, {"id": digest("b")}, ""), (INDEX, {}, {"id": digest("d")}, ""),
        (INDEX, PUSHED_CONFIG, {"id": digest("9")}, ""),
        (INDEX, {"linux/amd64": PUSHED_CONFIG}, {"id": digest("9")}, ""),
        (INDEX, LATER, {"id": digest("9")}, f"the registry has image {digest('c')}"),
        (INDEX | {"manifests": INDEX["manifests"][1:]}, {}, {"id": digest("c")}, "something without an image for linux/amd64 under abc, latest"),
    ],
)  # fmt: skip
def test_what_was_pushed_is_the_image_that_was_tried(tmp_path: Path, top: Any, image: dict[str, Any], built: dict[str, Any], said: str) -> None:
    fake, asking = FakeDocker(tmp_path), "buildx imagetools inspect ghcr.io/me/x@"
    fake.tell({f"{asking}{digest('b')} --raw": {"out": json.dumps(top)}, f"{asking}{digest('d')} --raw": {"out": json.dumps(ENGINE_PUSHED)}})
    fake.tell({f"{asking}{digest('d')} --format": {"out": json.dumps(image)}, f"{asking}{digest('b')} --format": {"out": json.dumps(image)}})

    def compare() -> None:
        known = {"content": CONTENT, **built}
        builds.refuse_another(builds.Docker(str(fake.program)), "ghcr.io/me/x", {"abc": digest("b"), "latest": digest("b")}, known, "linux/amd64")

    if not said:
        compare()
        return
    with pytest.raises(images.ImageError, match=said) as caught:
        compare()
    assert f"docker image rm --force {built['id']}" in str(caught.value)
    fake.tell({f"{asking}{digest('b')} --raw": {"code": 1, "err": "ERROR: dial tcp: i/o timeout\n"}})
    with pytest.raises(images.ImageError, match="the registry cannot be asked .*i/o timeout.* type the same again") as caught:
        compare()
    assert "image rm" not in str(caught.value)


def test_services_are_brought_as_the_account_that_they_need() -> None:
    start = start_program()
    off = {name: False for name in start.OF_ROOT + start.OF_RUNNER} | {"repo_url": ""}

    def accounts(environ: dict[str, str], keys: list[str], as_: str = "root", **on: Any) -> list[tuple[str, bool]]:
        return [(one.account, one.given["sshd"]) for one in start.plan({**off, **on}, environ, keys, as_)]

    assert accounts({}, []) == accounts({"START_SSHD": "0"}, [KEY]) == accounts({}, [], "runner") == []
    assert accounts({}, [KEY]) == accounts({"START_SSHD": "1"}, [], sshd=True) == [("root", True)]
    assert accounts({}, [KEY], jupyter=True) == [("root", True), ("runner", False)]
    assert accounts({}, [], repo_url="https://example.org/x.git") == [("runner", False)]
    assert accounts({}, [], "runner", inference=True) == [("runner", False)]
    keys = start.keys_of({"PUBLIC_KEY": f"{KEY}\n# mine\nhello", "AUTHORIZED_KEYS": KEY}, lambda line: line.startswith("ssh-"))
    assert keys == ([KEY], 1)


@pytest.mark.parametrize(("wish", "brought"), [({}, True), ({"START_SSHD": "0"}, False), ({"START_SSHD": "sure"}, True)])
def test_a_value_that_cannot_be_meant_locks_nobody_out(wish: dict[str, str], brought: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, settings, prepare = start_program(), load("pod_settings"), load("prepare")
    played: list[tuple[Any, dict[str, str]]] = []
    monkeypatch.setattr(start, "play", lambda _book, one, environ: played.append((one, environ)) or 0)
    monkeypatch.setattr(start, "PAUSES", (0,))
    monkeypatch.setattr(start, "open_workspace", lambda _place: None)
    account = SimpleNamespace(pw_name="root", pw_dir=str(tmp_path), pw_uid=os.geteuid(), pw_gid=os.getegid())
    for module in (start, prepare):
        monkeypatch.setattr(module.pwd, "getpwuid", lambda _uid: account)
        monkeypatch.setattr(module.pwd, "getpwnam", lambda _name: account)
    assert start.bring({"PUBLIC_KEY": KEY, "START_JUPYTER": "1", "JUPYTER_PORT": "99999", **wish}) == 0
    assert KEY in (tmp_path / ".ssh/authorized_keys").read_text() and bool(played) == brought
    for one, environ in played:
        found = settings.resolve(one.given, environ, "/opt/podcycle/root")["settings"]
        assert one.account == "root" and found["sshd"] and not found["jupyter"] and found["authorized_keys"] == KEY


def test_both_passes_and_a_cycle_share_one_heartbeat_and_the_watchdog_sees_every_job() -> None:
    start, role = start_program(), ROOT / "roles/services"
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "roles/training_image/templates"), trim_blocks=True)
    templates.filters["hash"] = lambda text, kind: "0" * 64
    given = yaml.safe_load((ROOT / "roles/training_image/defaults/main.yml").read_text())
    text = templates.get_template("Dockerfile.j2").render(__training_image_home="/opt/podcycle", **given).replace("\\\n", " ")
    environ = dict(word.split("=", 1) for line in re.findall(r"^ENV (.+)$", text, re.MULTILINE) for word in line.split())
    settings, beats = load("pod_settings"), set()
    own = [start.variables_of(start.Pass(account), environ)["services_workspace"] for account in ("root", "runner")]
    for place in (*own, "/opt/podcycle", "/workspace"):
        beats.add(settings.resolve({}, environ, place)["settings"]["idle_heartbeat"])
    (beat,) = beats
    assert f"install -m 0664 -o runner -g runner /dev/null {beat} " in text, "both accounts may touch it"
    start.HOME = Path("/opt/podcycle")
    jobs = jinja2.Environment().from_string(yaml.safe_load((role / "vars/main.yml").read_text())["__services_jobs"])
    for account in ("root", "runner"):
        seen = jobs.render(**start.variables_of(start.Pass(account), environ))
        assert all(f"'{place}/runs/*/jobs/*/status.json'" in seen for place in ("/opt/podcycle", "/workspace")), seen
    assert "START_JUPYTER" not in environ and start.variables_of(start.Pass("runner"), {"PODCYCLE_PORTS": "22/tcp 8888/http"})["services_ports"] == [
        "22/tcp", "8888/http",
    ]  # fmt: skip


def test_the_playbook_builds_once_tries_once_and_writes_nothing_in_check_mode(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path / "bin")
    inspected = {"out": json.dumps(INSPECTED)}
    fake.tell({"image inspect": [{"code": 1, "err": "Error: No such image\n"}, {"code": 1, "err": "Error: No such image\n"}, inspected]})
    fake.tell({"buildx build": {}, "run": {"out": json.dumps(GOOD) + "\n"}, "rm": {}})
    folder = tmp_path / "image"

    def play(*words: str, **environment: str) -> tuple[int, str]:
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "playbooks/image.yml", "-e", f"image_dir={folder}", *words]
        path = {"PATH": f"{fake.home}:{os.environ['PATH']}", "ANSIBLE_LOCAL_TEMP": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "400"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **path, **environment})
        return done.returncode, " ".join(done.stdout.split())

    code, said = play(IMAGE_REPO="")
    assert code and "IMAGE_REPO names no repository" in said and fake.asked() == []
    given = ("-e", "image_revision=first", "-e", "image_backend=cpu")
    code, said = play("--check", *given, IMAGE_REPO="GHCR.io/Me/x")
    assert code == 0 and "ghcr.io/me/x:first would be built from ubuntu:24.04" in said and "changed=1" in said and not folder.exists()
    assert not [words for words in fake.asked() if words[:2] == ["buildx", "build"]]
    code, said = play(*given, IMAGE_REPO="ghcr.io/me/x")
    built = [words for words in fake.asked() if words[:2] == ["buildx", "build"]]
    assert code == 0 and "changed=1" in said and len(built) == 1 and "--push" not in built[0], said
    tags = [built[0][at + 1] for at, word in enumerate(built[0]) if word == "--tag"]
    assert tags == ["ghcr.io/me/x:first", "ghcr.io/me/x:latest"] and built[0][-1] == str(folder / "context")
    dockerfile = (folder / "context/Dockerfile").read_text()
    assert dockerfile.index("uv pip install") < dockerfile.index("COPY collection") and "FROM ubuntu:24.04" in dockerfile
    code, said = play(*given, IMAGE_REPO="ghcr.io/me/x")
    assert code == 0 and "changed=0" in said and "is built already" in said
    words = [words[0] for words in fake.asked()]
    assert words.count("run") == 1 and len([1 for one in fake.asked() if one[:2] == ["buildx", "build"]]) == 1
    inspect = f"buildx imagetools inspect ghcr.io/me/x@{digest('b')} --raw"
    fake.tell({"buildx imagetools inspect": {"out": json.dumps({"digest": digest("b")})}, inspect: {"out": json.dumps(ENGINE_PUSHED)}})
    code, said = play(*given, IMAGE_REPO="ghcr.io/me/x", PUSH_IMAGE="1")
    assert code and digest("c") in said and digest("a") in said and "pushed" not in json.loads((folder / "record.json").read_text())
    tried = {**ENGINE_PUSHED, "config": {"digest": digest("a")}}
    fake.tell({inspect: {"out": json.dumps(tried)}})
    for changed in (1, 0):
        code, said = play(*given, IMAGE_REPO="ghcr.io/me/x", PUSH_IMAGE="1")
        assert code == 0 and f"changed={changed}" in said, said
