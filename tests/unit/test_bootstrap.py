# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The start script: same bytes, everything it needs inside, whole or nothing, one line at login, once on a machine."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _bootstrap as bootstrap
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _pod_setup as pod_setup
from ansible_collections.podcycle.gpu.plugins.module_utils import _pod_state as pod_state
from ansible_collections.podcycle.gpu.plugins.module_utils import _pod_watch as pod_watch
from ansible_collections.podcycle.gpu.plugins.module_utils import _receipts, _secrets
from ansible_collections.podcycle.gpu.plugins.module_utils._uv import Uv
from support.world import ROOT

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def archive() -> bootstrap.Archive:
    return bootstrap.pack(ROOT)


@pytest.fixture(scope="module")
def unpacked(archive: bootstrap.Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as a machine unpacks it."""
    home = tmp_path_factory.mktemp("machine")
    with tarfile.open(fileobj=io.BytesIO(archive.data)) as tar:
        tar.extractall(home / "ansible_collections/podcycle/gpu", filter="data")
    return home


@pytest.fixture
def script(archive: bootstrap.Archive, tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "start.sh", **wish: Any) -> Path:
        path = tmp_path / name
        path.write_text(render(archive, **wish).text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A program on a machine that has a home folder and nothing else."""
    (tmp_path / "home").mkdir()

    def start(*command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(tmp_path / "home"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **more}
        return subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)

    return start


def render(packed: bootstrap.Archive, **wish: Any) -> bootstrap.Script:
    return bootstrap.render(bootstrap.Wish(**{"kind": "pod_setup", "variables": {"stack_scope": "user"}, **wish}), ROOT, packed)


@contextlib.contextmanager
def running_watchdog(workspace: Path) -> Iterator[None]:
    with (workspace / ".podcycle/watchdog/run.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def mark(tmp_path: Path, workspace: Path, text: str) -> None:
    folder = tmp_path / "home/.local/state/podcycle"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"bootstrap{str(workspace).replace('/', '-')}").write_text(text, encoding="utf-8")


# ---- what is in it -----------------------------------------------------------------------------------------


def test_the_same_collection_gives_the_same_bytes_here_and_on_the_machine(archive: bootstrap.Archive, unpacked: Path) -> None:
    there = unpacked / "ansible_collections/podcycle/gpu"
    assert bootstrap.pack(ROOT) == archive and bootstrap.pack(there) == archive
    wish = bootstrap.Wish("pod_setup", {"pytorch_version": "2.13.0"})
    assert bootstrap.render(wish, there, archive) == render(archive, variables={"pytorch_version": "2.13.0"})
    assert render(archive, usd_per_hour="2").payload == render(archive).payload != render(archive, workspace="/w").payload


def test_the_archive_has_all_that_the_roles_need_and_no_cloud(archive: bootstrap.Archive, unpacked: Path) -> None:
    playbooks = ["playbooks/bootstrap.yml", "playbooks/tasks/stack.yml", "playbooks/tasks/pod_setup.yml"]
    tasks = [name for name in archive.files if name.startswith("roles/") and name.endswith(".yml")]
    for name in [*playbooks, *tasks]:
        told = (ROOT / name).read_text(encoding="utf-8")
        for module in sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py") if f"podcycle.gpu.{path.stem}:" in told):
            assert f"plugins/modules/{module}.py" in archive.files, name
    for name in [name for name in archive.files if name.startswith("playbooks/") and name.endswith(".yml")]:
        told = (ROOT / name).read_text(encoding="utf-8")
        named = re.findall(r"(?:include|import)_tasks: (?:tasks/)?(\S+)|vars_files: \[(.*)\]|'(templates/[^']+)'", told)
        for included, variables, template in named:
            assert "playbooks/" + (f"tasks/{included}" if included else variables or template) in archive.files, name
    assert {path.name for path in (ROOT / "roles").iterdir() if path.name in bootstrap.ROLES} == {name.split("/")[1] for name in tasks}
    assert not [name for name in archive.files if "_clouds" in name or "smoke" in name or "__pycache__" in name]
    found = [name for name in archive.files if name.startswith("plugins/module_utils/")]
    words = [f"ansible_collections.podcycle.gpu.{name.removesuffix('.py').replace('/', '.')}" for name in found]
    env = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run([sys.executable, "-c", f"import {', '.join(words)}"], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_machines_own_python_needs_no_package(unpacked: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from ansible_collections.podcycle.gpu.plugins.module_utils import _pod_setup"
    done = subprocess.run([sys.executable, "-IS", "-c", code, str(unpacked)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_its_head_tells_the_steps_and_the_pins(archive: bootstrap.Archive) -> None:
    text = render(archive, variables={"pytorch_version": "2.12.0", "stack": "cpu"}).text
    head = text[: text.index("set -euo")]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "pytorch_version: 2.12.0" in head and "ansible-core==2.19" in head and archive.sha256 in head and "roles node, pytorch," in head
    hostile = render(archive, variables={"pytorch_version": "1\nrm -rf /\n$(id)", "stack_scope": "x'; id; '"}, workspace="/w $(id)").text
    assert "\nrm -rf" not in hostile and subprocess.run(["bash", "-n"], input=hostile, text=True, check=False).returncode == 0


def test_secrets_are_refused_and_the_hosts_stay_out(archive: bootstrap.Archive) -> None:
    with pytest.raises(errors.UsageError, match="tailscale_auth_key"):
        render(archive, variables={"node_tailscale_auth_key": "tskey-1"})
    for name, secret in {"api_key": 1, "db_password": 1, "hf_token": 1, "pytorch_python": 0, "cuda13_apt_fingerprint": 0, "tokenizers": 0}.items():
        assert _secrets.looks_secret(name) is bool(secret), name
    known = {"pytorch_backend": "cpu", "pytorch_result": {"changed": True}, "cloud_api_key": "k", "ansible_user": "root", "stack": "cpu"}
    assert bootstrap.stack_variables(ROOT, known) == ({"pytorch_backend": "cpu", "stack": "cpu"}, [])


def test_a_run_of_a_few_roles_is_no_wish_of_the_machine(archive: bootstrap.Archive, tmp_path: Path) -> None:
    known = {"pytorch_backend": "cpu", "stack": "cpu", "stack_scope": "user", "stack_roles": ["cuda_watchdog"]}
    assert bootstrap.stack_variables(ROOT, known) == ({"pytorch_backend": "cpu", "stack": "cpu", "stack_scope": "user"}, [])
    assert "  4 converge  roles node, pytorch, cuda_watchdog," in render(archive, variables=bootstrap.stack_variables(ROOT, known)[0]).text
    # What a start script was written for is: it says so to the tasks that write the workspace's own.
    setup = pod_state.Setup(tmp_path, {"variables": {"stack_roles": ["pytorch"]}}, 0.0)
    assert pod_setup.variables(setup)["podcycle_stack_roles"] == ["pytorch"]
    assert "podcycle_stack_roles" not in pod_setup.variables(pod_state.Setup(tmp_path, {"variables": {}}, 0.0))
    tasks = yaml.safe_load((ROOT / "playbooks/tasks/pod_setup.yml").read_text(encoding="utf-8"))
    assert tasks[0]["podcycle.gpu.bootstrap_script"]["variables"] == (
        "{{ {'stack_roles': podcycle_stack_roles} if podcycle_stack_roles is defined else {} }}"
    )


SECRET = "s3cr3t-value"
HIDDEN = {
    "node_environment.HF_TOKEN": {"node_environment": {"HF_TOKEN": SECRET, "A": "1"}},
    "cutlass_repo": {"cutlass_repo": f"https://oauth2:{SECRET}@git.example/cutlass.git"},
    "node_environment.deep[1].api_key": {"node_environment": {"deep": ["x", {"api_key": SECRET}]}},
    "pytorch_find_links[0]": {"pytorch_find_links": [f"https://{SECRET}@wheels.example/", "/wheels"]},
}


@pytest.mark.parametrize("place", HIDDEN)
def test_a_secret_deep_inside_is_refused_and_that_of_the_host_stays_out(archive: bootstrap.Archive, place: str) -> None:
    with pytest.raises(errors.UsageError, match=re.escape(f"{place} looks like a secret")):
        render(archive, variables=HIDDEN[place])
    found, left_out = bootstrap.stack_variables(ROOT, HIDDEN[place])
    assert SECRET not in json.dumps(found) and left_out == [place]
    assert SECRET not in render(archive, variables=found).full


def test_the_rest_of_a_dictionary_and_an_address_without_a_password_stay(archive: bootstrap.Archive) -> None:
    assert bootstrap.stack_variables(ROOT, HIDDEN["node_environment.HF_TOKEN"])[0] == {"node_environment": {"A": "1"}}
    assert bootstrap.stack_variables(ROOT, HIDDEN["pytorch_find_links[0]"])[0] == {"pytorch_find_links": ["/wheels"]}
    plain = {"cutlass_repo": "ssh://git@git.example:22/cutlass.git", "node_environment": {"HF_TOKEN": "", "TOKENIZERS_PARALLELISM": "true"}}
    assert bootstrap.stack_variables(ROOT, plain) == (plain, []) and render(archive, variables=plain)


@pytest.mark.parametrize(
    ("name", "near"),
    [("pytorch_verison", "pytorch_version"), ("node_runer", "node_runner"), ("cuda_watchdog_interval", "cuda_watchdog_interval_seconds")],
)
def test_a_misspelt_variable_names_the_one_that_was_meant(archive: bootstrap.Archive, name: str, near: str) -> None:
    with pytest.raises(errors.UsageError, match=f"no role has a variable {name}; {near} was meant"):
        render(archive, variables={name: 1})
    assert render(archive, variables={"my_own": 1, near: 1, "stack_scope": "user"})


def test_behind_e_only_what_resembles_a_variable_is_misspelt() -> None:
    bootstrap.refuse_unknown(ROOT, dict.fromkeys(("node_exporter_version", "node_version", "node_count", "pytorch_home"), 1), near_only=True)
    for name in ("pytorch_verson", "cutlass_vesion", "node_extra_pakages"):
        with pytest.raises(errors.UsageError, match=f"no role has a variable {name}; "):
            bootstrap.refuse_unknown(ROOT, {"node_count": 1, name: 1}, near_only=True)


def test_the_playbook_refuses_a_misspelt_variable_before_it_writes(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "playbooks/pod_setup.yml", "-e"]
    given = {"bootstrap_dest": str(tmp_path / "one.sh"), "bootstrap_variables": {}, "my_own": 1, "pytorch_verson": "2.12.0"}
    done = subprocess.run([*command, json.dumps(given)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode and "no role has a variable pytorch_verson; pytorch_version was meant" in " ".join(done.stdout.split())
    assert not (tmp_path / "one.sh").exists()


# ---- its forms ----------------------------------------------------------------------------------------------


def test_each_kind_takes_the_first_form_that_fits(archive: bootstrap.Archive) -> None:
    away = {"archive": "/workspace/podcycle.tar.gz"}
    assert render(archive).form == "plain"
    assert render(archive, kind="gce").form == "plain"
    assert render(archive, kind="runpod", **away).form == "plain"
    vast = render(archive, kind="vast", **away)
    assert vast.form == "packed" and len(vast.text) <= 4048
    by_reference = render(archive, kind="vast", reference_url="https://example.org/start.sh")
    assert by_reference.form == "reference" and len(by_reference.text) <= 4048 and archive.sha256 in by_reference.full
    with pytest.raises(bootstrap.ScriptTooLong, match="4048 are taken"):
        render(archive, kind="vast")


def test_packed_and_fetched_scripts_do_what_the_plain_one_does(archive: bootstrap.Archive, script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    away = {"kind": "vast", "archive": "/nowhere/podcycle.tar.gz"}
    full = tmp_path / "full.sh"
    forms = {"plain": {"limit": 99999}, "packed": {}, "reference": {"limit": 1500, "reference_url": f"file://{full}"}}
    full.write_text(render(archive, **away).full, encoding="utf-8")
    for form, more in forms.items():
        assert render(archive, **away, **more).form == form
        done = run("bash", script(**away, **more), "--workspace", tmp_path / form)
        assert done.returncode == 1 and "/nowhere/podcycle.tar.gz cannot be read" in done.stderr, form
        assert json.loads((tmp_path / form / ".podcycle/bootstrap/status.json").read_text(encoding="utf-8"))["state"] == "failed"
    full.write_text("echo somebody else's", encoding="utf-8")
    done = run("bash", script(**away, **forms["reference"]))
    assert done.returncode == 1 and "is not the script that was meant" in done.stderr and "somebody" not in done.stdout


# ---- whole or nothing ----------------------------------------------------------------------------------------


def test_a_script_that_was_cut_short_does_nothing(archive: bootstrap.Archive, run: Run, tmp_path: Path) -> None:
    text = render(archive).text
    cut = tmp_path / "cut.sh"
    for at in sorted({*range(0, 9000, 450), len(text) // 2, len(text) - 20, len(text) - 12}):
        cut.write_text(text[:at], encoding="utf-8")
        run("bash", cut, "--workspace", tmp_path / "w")
        assert not (tmp_path / "w").exists() and not list((tmp_path / "home").iterdir()), at


def test_a_damaged_archive_is_one_sentence(archive: bootstrap.Archive, script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    path = script()
    text = path.read_text(encoding="utf-8")
    at = text.index("PODCYCLE_ARCHIVE'") + 5000
    path.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :], encoding="utf-8")
    done = run("bash", path, "--workspace", tmp_path / "w")
    assert done.returncode == 1 and "the archive (embedded) is damaged or another one" in done.stderr
    assert not (tmp_path / "w/.podcycle/bootstrap/collection").exists()
    # One that lies on the volume is checked too, and what was fetched once is kept.
    source = tmp_path / "podcycle.tar.gz"
    source.write_bytes(archive.data[:-1])
    away = script("away.sh", kind="gce", archive=str(source))
    assert "is damaged" in run("bash", away, "--workspace", tmp_path / "w").stderr
    assert not (tmp_path / "w/.podcycle/bootstrap/collection.tar.bz2").exists()


def test_a_second_one_waits_and_says_so(script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    state = tmp_path / "w/.podcycle/bootstrap"
    state.mkdir(parents=True)
    with (state / "lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("bash", script(), "--workspace", tmp_path / "w", PODCYCLE_WAIT_SECONDS="1")
        assert done.returncode == 1 and "waiting for the set-up" in done.stdout and "did not end in 1 s" in done.stderr
        at_login = run("bash", script(), "--workspace", tmp_path / "w", "--login")
        assert at_login.returncode == 0 and at_login.stdout.count("\n") == 1 and "at work in another process" in at_login.stdout


def test_what_it_does_not_know_it_refuses(script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    mistyped = {
        ("--wipe",): "--wipe is no option",
        ("--workspace",): "wants a folder",
        ("--workspace", "here"): "wants a folder",
        # With --help behind them nothing could come of these, whatever becomes of the refusal.
        ("--workspace", "/", "--help"): "--workspace wants a folder from the root on, such as /workspace",
        ("--workspace", "//", "--help"): "wants a folder",
        ("-e",): "-e wants NAME=VALUE, such as -e stack=cpu",
        ("-e", "--check"): "-e wants NAME=VALUE",
        ("--check", "--extra-vars", "pytorch_version"): "--extra-vars wants NAME=VALUE",
        ("-e", "=2"): "-e wants NAME=VALUE",
        ("--detach", "--workspace", "/proc/w"): "--detach goes with --watchdog: type --watchdog --detach",
    }
    for words, told in mistyped.items():
        done = run("bash", script(), *words)
        assert (done.returncode, done.stdout) == (2, "") and told in done.stderr and done.stderr.count("\n") == 1, done
    done = run("bash", script(), "--workspace", "/proc/w")
    assert done.returncode == 1 and "cannot be written" in done.stderr
    for value in ("a=", "@more.yml", '{"a": 1}'):
        done = run("bash", script(), "-e", value, "--workspace", "/proc/w")
        assert done.returncode == 1 and "cannot be written" in done.stderr, value
    assert "--watchdog" in run("bash", script(), "--help").stdout


@pytest.mark.parametrize(
    ("lose", "told"),
    [
        (lambda root: (root / "w/pod_setup.sh").unlink(), "{root}/w/pod_setup.sh is missing"),
        (lambda root: (root / "mark").unlink(), "{root}/mark is missing"),
        (lambda root: os.truncate(root / "home/.bashrc", 0), "the block podcycle.gpu bootstrap in {root}/home/.bashrc is missing"),
    ],
)
def test_a_set_up_signs_for_the_script_its_mark_and_the_lines_at_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], object], told: str
) -> None:
    parts = {"os": "debian 12"}
    _receipts.sign_all(tmp_path / "w", {}, {"parts": parts}, write=True)
    for name in ("w/pod_setup.sh", "mark"):
        (tmp_path / name).write_text("it\n", encoding="utf-8")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PODCYCLE_MARK", str(tmp_path / "mark"))
    setup = pod_state.Setup(tmp_path / "w", {"payload": "p1"}, 0.0)
    pod_state.hook(setup, tmp_path / "home")
    setup.tell_status("failed", 1)
    assert _receipts.read_all(tmp_path / "w", _receipts.machine_of(parts)) == {}
    setup.tell_status("ok", 0)
    assert _receipts.read_all(tmp_path / "w", _receipts.machine_of(parts)) == {"pod_setup": {"digest": "p1", "stands": True, "why": "", "faults": []}}
    lose(tmp_path)
    assert _receipts.read_all(tmp_path / "w", _receipts.machine_of(parts))["pod_setup"]["faults"] == [told.format(root=tmp_path)]


# ---- at login, and once only ---------------------------------------------------------------------------------


def test_one_line_in_interactive_shells_and_nothing_elsewhere(archive: bootstrap.Archive, script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    (workspace / ".podcycle/bootstrap").mkdir(parents=True)
    script("w/pod_setup.sh")
    mark(tmp_path, workspace, render(archive).payload)
    (tmp_path / "home/.profile").write_text("# mine\n. ~/.bashrc", encoding="utf-8")
    setup = pod_state.Setup(workspace, {}, 0.0)
    assert pod_state.hook(setup, tmp_path / "home") == [".bashrc", ".profile"] and pod_state.hook(setup, tmp_path / "home") == []
    assert (tmp_path / "home/.profile").read_text(encoding="utf-8").startswith("# mine\n. ~/.bashrc\n#")
    (tmp_path / "home/.bashrc").write_text("# another one wrote this\n", encoding="utf-8")
    # Without the watchdog nothing vouches for the rest.
    check = workspace / ".podcycle/watchdog/cuda_watchdog.py"
    check.parent.mkdir()
    with (workspace / ".podcycle/bootstrap/lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "at work in another process" in run("bash", workspace / "pod_setup.sh", "--login").stdout
    check.write_text("", encoding="utf-8")
    assert pod_state.hook(setup, tmp_path / "home") == [".bashrc"]
    with running_watchdog(workspace):
        for shell, lines in ((["-ic"], 1), (["-lic"], 1), (["-lc"], 0), (["-c"], 0)):
            assert run("bash", *shell, "true").stdout == "[Bootstrap] Environment ready\n" * lines, shell
    # A watchdog that does not run, a check that fails, or a machine's disk that is new, is not ready; a broken GPU is told and not set up again.
    with (workspace / ".podcycle/bootstrap/lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "at work in another process" in run("bash", workspace / "pod_setup.sh", "--login").stdout
    with (workspace / ".podcycle/bootstrap/lock").open("a", encoding="ascii") as lock, running_watchdog(workspace):
        fcntl.flock(lock, fcntl.LOCK_EX)
        for code, told in ((0, "Environment ready\n"), (3, "Environment ready but for a GPU"), (1, "at work in another process")):
            check.write_text(f"import sys; sys.exit({code} if sys.argv[1:] == ['check', '--quick'] else 9)", encoding="utf-8")
            assert told in run("bash", workspace / "pod_setup.sh", "--login").stdout, code
        check.unlink()
        mark(tmp_path, workspace, "of another script")
        assert "at work in another process" in run("bash", workspace / "pod_setup.sh", "--login").stdout
    (workspace / "pod_setup.sh").unlink()
    gone = f"[Bootstrap] Environment not checked: {workspace}/pod_setup.sh is not there; see that the volume is mounted, or converge this machine again\n"
    for shell, told in ((["-ic"], gone), (["-lic"], gone), (["-lc"], ""), (["-c"], "")):
        assert run("bash", *shell, "true").stdout == told, shell


def test_a_login_beside_a_job_touches_nothing(archive: bootstrap.Archive, script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    one = script(workspace=str(workspace))
    mark(tmp_path, workspace, render(archive, workspace=str(workspace)).payload)
    watchdog, job = workspace / ".podcycle/watchdog", workspace / "jobs/train/status.json"
    shutil.copytree(ROOT / "roles/cuda_watchdog/files", watchdog)
    settings = {"torch": {"venv": str(workspace / "venv")}, "gpu": False, "jobs": [str(workspace / "jobs/*/status.json")]}
    (watchdog / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    job.parent.mkdir(parents=True)
    started = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    job.write_text(json.dumps({"state": "running", "pid": os.getpid(), "pid_started": started}), encoding="utf-8")
    files = {path for path in workspace.rglob("*") if "__pycache__" not in path.parts}
    done = run("bash", one, "--login", "--workspace", workspace)
    told = f"; a job runs in {job.parent}, so nothing is touched; bash {workspace}/pod_setup.sh sets it up all the same\n"
    assert (done.returncode, done.stdout) == (0, f"[Bootstrap] Environment NOT ready: {workspace}/venv/bin/python is missing{told}"), done
    assert {path for path in workspace.rglob("*") if "__pycache__" not in path.parts} == files
    (watchdog / "config.json").write_text(json.dumps({**settings, "torch": None}), encoding="utf-8")
    assert f"NOT ready: the watchdog does not run{told}" in run("bash", one, "--login", "--workspace", workspace).stdout
    # Where the watchdog is gone too, the collection's own is asked.
    shutil.rmtree(watchdog)
    done = run("bash", one, "--login", "--workspace", workspace)
    assert (done.returncode, done.stdout) == (0, f"[Bootstrap] Environment NOT ready: the watchdog is gone{told}"), done
    assert not (workspace / ".podcycle/bootstrap/status.json").exists() and not (workspace / "bin").exists()


def test_a_clouds_start_script_runs_once_on_a_machine(archive: bootstrap.Archive, script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    away = {"kind": "gce", "archive": "/nowhere.tar.gz"}
    mark(tmp_path, tmp_path / "w", "of another script")
    assert run("bash", script(**away), "--workspace", tmp_path / "w").returncode == 1
    mark(tmp_path, tmp_path / "w", render(archive, **away).payload)
    assert run("bash", script(**away), "--workspace", tmp_path / "w").returncode == 1, "its watchdog is gone"
    few = {**away, "variables": {"stack_scope": "user", "stack_roles": ["pytorch"]}}
    mark(tmp_path, tmp_path / "w", render(archive, **few).payload)
    assert "was set up before" in run("bash", script(**few), "--workspace", tmp_path / "w").stdout, "it was to bring none"
    (tmp_path / "w/.podcycle/watchdog").mkdir()
    (tmp_path / "w/.podcycle/watchdog/cuda_watchdog.py").write_text("", encoding="utf-8")
    mark(tmp_path, tmp_path / "w", render(archive, **away).payload)
    # After the restart of a container nobody else starts its watchdog.
    assert run("bash", script(**away), "--workspace", tmp_path / "w").returncode == 1, "its watchdog does not run"
    with running_watchdog(tmp_path / "w"):
        again = run("bash", script(**away), "--workspace", tmp_path / "w")
    assert again.returncode == 0 and "was set up before" in again.stdout
    assert run("bash", script(**away), "--workspace", tmp_path / "w", "--force").returncode == 1


def test_a_check_installs_no_python(script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "date", "mkdir", "chmod", "flock", "id", "cat", "getent", "cut", "mv", "dirname"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "apt-get").write_text(f"#!/bin/bash\necho $* >> {tmp_path}/apt\n", encoding="utf-8")
    (tools / "apt-get").chmod(0o755)
    one = script()
    text = one.read_text(encoding="utf-8")
    for python in ("/usr/bin/python3", "/usr/local/bin/python3", "/opt/conda/bin/python3"):
        text = text.replace(f" {python}", " /nowhere/python3")
    one.write_text(text, encoding="utf-8")
    done = run("bash", one, "--check", "--workspace", tmp_path / "w", PATH=str(tools))
    assert done.returncode == 1 and not (tmp_path / "apt").exists()
    assert done.stderr == (
        "[Bootstrap] failed: there is no Python 3.10 or later, and check mode installs none; type: sudo apt-get install python3, or leave --check out\n"
    )


def test_a_check_installs_no_python_for_ansible_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(pod_setup, "run_program", lambda command, *_more, **_named: asked.append(command) or subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(pod_setup.os, "geteuid", lambda: 0)
    monkeypatch.setattr(pod_setup.shutil, "which", lambda _name: "/usr/bin/apt-get")
    assert "/usr/bin/python3.11" not in pod_setup.controller_pythons(check=True) and asked == []
    assert "/usr/bin/python3.11" in pod_setup.controller_pythons(check=False)


def test_a_container_goes_on_whatever_becomes_of_its_set_up(script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    entry = script(kind="runpod", archive="/nowhere.tar.gz", workspace=str(tmp_path / "w"), then=["sh", "-c", "echo serving; sleep 1"])
    done = run("bash", entry)
    assert done.returncode == 0 and "serving" in done.stdout


def test_a_check_leaves_the_status_of_the_last_run(script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    status = tmp_path / "w/.podcycle/bootstrap/status.json"
    away = script(kind="gce", archive="/nowhere.tar.gz")
    assert run("bash", away, "--check", "--workspace", tmp_path / "w").returncode == 1 and not status.exists()
    assert run("bash", away, "--workspace", tmp_path / "w").returncode == 1
    real = status.read_bytes()
    assert run("bash", away, "--check", "--workspace", tmp_path / "w").returncode == 1
    pod_state.Setup(tmp_path / "w", {}, 0.0, check=True).tell_status("ok", 0)
    assert status.read_bytes() == real
    pod_state.Setup(tmp_path / "w", {}, 0.0).tell_status("ok", 0)
    assert status.read_bytes() != real


# ---- its Python part -----------------------------------------------------------------------------------------


def test_phases_and_cost_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / ".podcycle/bootstrap"
    state.mkdir(parents=True)
    setup = pod_state.Setup(tmp_path, {"baseline_minutes": 20.0, "usd_per_hour": "2.70", "variables": {}}, 1000.0)
    monkeypatch.setattr(pod_state.time, "time", lambda: 1120.0)
    with setup.phase("uv"):
        pass
    for line in (
        "    - did torch none -> 2.13.0",
        "    - phase cuda13 4.5 s",
        "        - 'phase pytorch 61.0 s'",
        "a phase of the moon 3 s",
        "host : ok=29   changed=7    unreachable=0",
    ):
        pod_setup.follow(setup, line)
    with pytest.raises(errors.UsageError), setup.phase("converge"):
        raise errors.UsageError("no")
    rows = [json.loads(line) for line in (state / "phases.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [(row["stage"], row["phase"], row["status"]) for row in rows]
    assert told == [("bootstrap", "uv", "ok"), ("converge", "cuda13", "ok"), ("converge", "pytorch", "ok"), ("bootstrap", "converge", "failed")]
    assert setup.changed == 7 and rows[1]["elapsed_ms"] == 4500
    assert pod_state.cost_lines(setup) == [
        "120.0 s: uv 0.0 s, converge 0.0 s (cuda13 4.5 s, pytorch 61.0 s)",
        "cost 0.0900 $ at 2.70 $/h; saved 18.0 min against 20 min by hand, 0.8100 $",
    ]
    # A check and a run that had nothing to build have saved nobody's work.
    setup.check = True
    assert pod_state.cost_lines(setup)[1:] == ["cost 0.0900 $ at 2.70 $/h"]
    setup.check, setup.built = False, False
    for line in ("    - did driver 570.1 -> 580.2", "    - did torch 2.13.0 -> none"):
        pod_setup.follow(setup, line)
    assert pod_state.cost_lines(setup)[1:] == ["cost 0.0900 $ at 2.70 $/h"]
    del setup.settings["usd_per_hour"]
    assert pod_state.cost_lines(setup)[1:] == []


def test_the_summary_and_its_reader_agree() -> None:
    text = (ROOT / "playbooks/templates/summary.j2").read_text(encoding="utf-8")
    assert pod_setup.PHASE_LINE.match(yaml.safe_dump(["phase cuda13 4.5 s"]).rstrip()) and "phase {{ name }} {{ '%.1f' |" in text
    for part in ("nvcc", "cutlass.version", "torch"):
        assert pod_setup.BUILT_LINE.match(yaml.safe_dump([f"did {part} none -> 1.0"]).rstrip())
    assert "did {{ part }} {{ before.parts" in text


def test_the_environment_of_the_machine_reaches_uv_and_not_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ANSIBLE_CONFIG": "/mine.cfg", "PYTHONPATH": "/mine", "PIP_INDEX_URL": "http://i", "PIP_FIND_LINKS": "/a /b", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    env = pod_setup.environment(pod_state.Setup(tmp_path, {}, 0.0))
    assert env["UV_DEFAULT_INDEX"] == "http://i" and env["UV_FIND_LINKS"] == "/a,/b" and env["LC_ALL"] == "C.UTF-8"
    assert "PYTHONPATH" not in env and env["ANSIBLE_CONFIG"].startswith(str(tmp_path))


def test_a_cache_that_cannot_be_written_is_no_matter_of_the_network(tmp_path: Path) -> None:
    setup = pod_state.Setup(tmp_path, {}, 0.0)
    setup.collection.mkdir(parents=True)
    (setup.collection / "requirements-run.txt").write_text("ansible-core==2.19.0\n", encoding="utf-8")
    program = tmp_path / "uv"
    said = "error: Failed to initialize cache at $UV_CACHE_DIR: Permission denied (os error 13)"
    program.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 2\n', encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(errors.PodcycleError) as caught:
        pod_setup.bring_ansible(setup, Uv(program, "0.13.9"))
    assert str(caught.value) == (
        f"bring ansible-core: uv venv: its cache {tmp_path}/cache/uv cannot be written: Permission denied; "
        "let this account write there, become root, or name another folder with --workspace DIR"
    )


def test_the_archive_holds_every_task_file_that_is_included(unpacked: Path) -> None:
    """One that is left out would be missed only on the pod, when the watchdog heals with it."""
    home = next(unpacked.rglob("playbooks/bootstrap.yml")).parents[1]
    missing = []
    for path in (*home.glob("playbooks/**/*.yml"), *home.glob("roles/*/tasks/*.yml")):
        folder = home / "playbooks" if "playbooks" in path.parts else path.parent
        for name in re.findall(r"include_tasks: (\S+)", path.read_text(encoding="utf-8")):
            if not ((folder / name).exists() or (path.parent / name).exists()):
                missing.append(f"{path.relative_to(home)} includes {name}")
    assert missing == []


SECRETS = ["node_tailscale_auth_key=tskey-1", '{"a": "tskey-2",\n "b": [1]}', "c='tskey 3' d=4", "@more.yml"]


def test_what_is_typed_reaches_python_in_no_process_list(script: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    fake.write_text(f"""#!/bin/bash
[[ $1 != -IS ]] || exec {sys.executable} "$@"
printf '%s\\n' "$@" >{tmp_path}/argv; printf %s "$PODCYCLE_TYPED" >{tmp_path}/typed
""", encoding="utf-8")  # fmt: skip
    fake.chmod(0o755)
    one = script()
    one.write_text(one.read_text(encoding="utf-8").replace("/usr/bin/python3 python3 ", f"{fake} "), encoding="utf-8")
    done = run("bash", one, "--workspace", tmp_path / "w", "--no-hook", *(word for typed in SECRETS for word in ("-e", typed)))
    assert done.returncode == 0, done.stderr
    assert "tskey" not in (tmp_path / "argv").read_text(encoding="utf-8") and "--no-hook" in (tmp_path / "argv").read_text(encoding="utf-8")
    assert pod_setup.typed_values((tmp_path / "typed").read_text(encoding="utf-8")) == SECRETS


def test_what_is_typed_reaches_ansible_in_no_process_list_and_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = pod_state.Setup(tmp_path, {"variables": {}}, 0.0, extra=SECRETS)
    (setup.venv / "bin").mkdir(parents=True)
    (setup.venv / "bin/python").symlink_to(sys.executable)
    look = f"""import json, os, sys
about = {{"argv": sys.argv, "line": open("/proc/self/cmdline").read(), "typed": os.environ.get("PODCYCLE_TYPED")}}
json.dump(about, open({str(tmp_path / "seen")!r}, "w"))
"""
    (setup.venv / "bin/ansible-playbook").write_text(look, encoding="utf-8")
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the workspace was imported')", encoding="utf-8")
    assert pod_setup.converge(setup, 30) == 0
    seen = json.loads((tmp_path / "seen").read_text(encoding="utf-8"))
    assert seen["argv"][0].endswith("/ansible-playbook") and seen["argv"][-8:] == [word for typed in SECRETS for word in ("-e", typed)]
    assert "tskey" not in seen["line"] and seen["typed"] is None
    log = (setup.state / "setup.log").read_text(encoding="utf-8")
    assert "tskey" not in log and "and 4 of -e" in log
    assert not [path for path in setup.state.rglob("*") if path.is_file() and "tskey" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("pytorch_bakend=cpu", "pytorch_backend"),
        ("stack=cpu node_group=me node_extra_package=jq", "node_extra_packages"),
        ('{"stack": "cpu", "pytorch_bakend": 1}', "pytorch_backend"),
        ("cuda13_xyzzy=1", ""),
    ],
)
def test_a_misspelt_variable_is_refused_before_anything_is_fetched(unpacked: Path, tmp_path: Path, typed: str, near: str) -> None:
    setup = pod_state.Setup(tmp_path, {"variables": {}}, 0.0, extra=["node_tailscale_auth_key=node_x=1", '{"node_environment": {"node_x": "1"}}', typed])
    setup.collection.parent.mkdir(parents=True)
    setup.collection.symlink_to(unpacked / "ansible_collections/podcycle/gpu")
    with pytest.raises(pod_state.SetupError, match=f"no role has a variable [a-z0-9_]*{f'; {near} was meant' if near else ''}"):
        pod_setup.set_up(setup, hooked=False)
    setup.extra.pop()
    pod_setup.refuse_typed(setup)


# ---- what stands behind its last line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "runs", "code", "told"),
    [
        (None, False, 0, "Environment ready\n"),
        ("", True, 0, "Environment ready\n"),
        ("print('broken: gpu: lost'); raise SystemExit(3)", True, 0, "Environment ready but for a GPU: gpu: lost\n"),
        ("print('broken: nvcc: it is missing\\nbroken: torch: x'); raise SystemExit(1)", True, 1, "nvcc: it is missing"),
        ("import sys; sys.exit('cuda_watchdog: no settings')", True, 1, "no settings"),
        ("", False, 1, "the watchdog does not run"),
    ],
)
def test_ready_is_what_the_watchdog_has_seen(
    program: str | None, runs: bool, code: int, told: str, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_receipts, "_START_SECONDS", 0.3)
    state = tmp_path / ".podcycle/bootstrap"
    state.mkdir(parents=True)
    (state / "collection").symlink_to(unpacked)
    for name, result in (("bring_uv", None), ("bring_ansible", None), ("converge", 0), ("install_self", True)):
        monkeypatch.setattr(pod_setup, name, lambda *_args, result=result, **_named: result)
    monkeypatch.setenv("PODCYCLE_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("PODCYCLE_SETTINGS", json.dumps({"payload": "p", "baseline_minutes": 20.0, "variables": {}}))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(pod_setup.signal, "signal", lambda *_args: None)
    if program is not None:
        (tmp_path / ".podcycle/watchdog").mkdir(parents=True)
        (tmp_path / ".podcycle/watchdog/cuda_watchdog.py").write_text(program, encoding="utf-8")
    with running_watchdog(tmp_path) if runs else contextlib.nullcontext():
        assert pod_setup.main(["--workspace", str(tmp_path), "--no-hook"]) == code
    said = capsys.readouterr().out
    assert said.splitlines()[-1].find(told.strip()) > 0 and (code == 0) == ("Environment ready" in said), said
    assert (tmp_path / "mark").exists() is (code == 0)
    assert json.loads((tmp_path / ".podcycle/bootstrap/status.json").read_text(encoding="utf-8"))["exit"] == code


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["stack=cpu", "stack_roles=node"], True),
        (['{"stack_roles": ["node"]}'], True),
        (["@site.yml"], True),
        (["@~/site.json"], True),
        (["@other.yml", "@gone.yml"], False),
    ],
)
def test_roles_for_one_run_are_seen_wherever_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], named: bool) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "site.yml").write_text("stack: cpu\nstack_roles: [node]\n", encoding="utf-8")
    (tmp_path / "home/site.json").write_text('{"stack": "cpu", "stack_roles": ["node"]}', encoding="utf-8")
    (tmp_path / "other.yml").write_text("my_stack_roles: [node]\n# stack_roles: [node]\n", encoding="utf-8")
    assert pod_state.names_roles(pod_state.Setup(tmp_path, {"variables": {}}, 0.0, extra=typed)) is named


def test_a_watchdog_in_the_background_is_told_by_its_own_pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pod_watch, "LOCK_FD", -1)
    setup = pod_state.Setup(tmp_path, {}, 0.0)
    folder = tmp_path / ".podcycle/watchdog"
    folder.mkdir(parents=True)
    program = folder / "cuda_watchdog.py"
    program.write_text("import sys; sys.exit('the settings cannot be read')", encoding="utf-8")
    for state in ("", '{"pid": null}', '{"pid": 4194304999}'):
        (folder / "state.json").write_text(state, encoding="utf-8")
        with pytest.raises(errors.PodcycleError, match="the watchdog ended with 1: the settings cannot be read"):
            pod_watch.watch(setup, detach=True)
    program.write_text("raise SystemExit(2)", encoding="utf-8")
    (folder / "state.json").write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
    assert pod_watch.watch(setup, detach=True) == 0 and capsys.readouterr().out == f"{os.getpid()}\n"
