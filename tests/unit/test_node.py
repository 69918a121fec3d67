# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages, accounts and services of a pod, against a dpkg, an apt-get and a systemctl that write down what they are told."""

from __future__ import annotations

import os
import pwd
import sys
import time
from pathlib import Path

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _node, _packages, _pod_service, _pod_watch, _standing
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError, UsageError
from ansible_collections.podcycle.gpu.plugins.module_utils._file_set import Entry
from ansible_collections.podcycle.gpu.plugins.module_utils._pod_service import Service, ServiceError, Systemd, converge
from ansible_collections.podcycle.gpu.plugins.module_utils._supervisor import STAMP, Supervisor
from ansible_collections.podcycle.gpu.plugins.module_utils._uv_tool import Tool, missing_tools
from support.world import ROOT

GIT = "Package: git\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.39.5-0+deb12u2\n"
STATUS = f"""{GIT}
Package: rsync
Status: deinstall ok config-files
Version: 3.2.7

Package: tmux
Status: install ok half-configured
Version: 3.3

Package: mawk
Status: install ok installed
Architecture: amd64
Provides: awk, gawk (= 1)
Version: 1.3.4
"""


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.status = root / "status"
        self.lists = root / "lists"
        self.calls = root / "calls"
        self.lists.mkdir()
        self.status.write_text(STATUS)
        (root / "bin").mkdir()
        self.tool("dpkg")
        self.apt()

    def tool(self, name: str, more: str = "") -> None:
        path = self.root / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.calls}\n{more}\n')
        path.chmod(0o755)

    def apt(self, update: str = "", install: str = "") -> None:
        stanza = "Package: rsync\\nStatus: install ok installed\\nVersion: 3.2.7\\n"
        update = update or f"touch {self.lists}/x_Packages"
        install = install or f"printf %b '{stanza}' > {self.status}"
        done = f'case "$*" in *update*) {update} ;; *) {install} ;; esac'
        self.tool("apt-get", done)

    @property
    def told(self) -> list[str]:
        """Which program was called for what."""
        words = [line.split() for line in self.calls.read_text().splitlines()] if self.calls.exists() else []
        return [" ".join([line[0], *(word for word in line[1:] if word in ("update", "install", "--configure", "rsync"))]) for line in words]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(_packages.os, "geteuid", lambda: 0)
    monkeypatch.setattr(_packages, "LISTS", made.lists)
    monkeypatch.setattr(_packages, "STATUS", made.status)
    monkeypatch.setattr(_packages, "USR", tmp_path)
    for name in ("git", "rsync"):
        made.tool(name)
    return made


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["git"], []),
        (["git:amd64", "git=1:2.39.5-0+deb12u2"], []),
        (["git=1:2.40"], ["git=1:2.40"]),
        (["rsync", "tmux", "nothing"], ["rsync", "tmux", "nothing"]),
        (["awk", "gawk"], []),
        ([], []),
    ],
)
def test_only_what_is_wholly_installed_counts(machine: Machine, names: list[str], missing: list[str]) -> None:
    assert _packages.missing(names) == missing


@pytest.mark.parametrize("name", ["-o=x", "a b", "Git", "git;reboot", ""])
def test_an_option_is_no_package(name: str) -> None:
    with pytest.raises(PodcycleError, match="is not the name of a Debian package"):
        _packages.check_names([name])


def test_lists_are_fetched_when_there_are_none(machine: Machine) -> None:
    _packages.install(["rsync"])
    assert machine.told == ["dpkg --configure", "apt-get update", "apt-get install rsync"]
    machine.calls.unlink()
    _packages.install(["rsync"])
    assert machine.told == ["dpkg --configure", "apt-get install rsync"]


def test_old_lists_are_tried_and_then_fetched(machine: Machine) -> None:
    (machine.lists / "x_Packages").touch()
    machine.apt(install=f"[ -e {machine.root}/fresh ] || exit 100", update=f"touch {machine.root}/fresh")
    with pytest.raises(PodcycleError, match="rsync is not installed; see /var/log"):
        _packages.install(["rsync"])
    assert machine.told == ["dpkg --configure", "apt-get install rsync", "apt-get update", "apt-get install rsync"]


def test_a_volume_has_what_was_fetched_when_the_archive_is_away(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each package the latest, but for those that are installed; for another release there is nothing."""
    monkeypatch.setattr(_packages, "read_os", lambda: {"id": "debian", "version": "12"})
    stanza = "Package: rsync\\nStatus: install ok installed\\nVersion: 3.2.7\\n"
    offline = f"case \"$*\" in *rsync_2_all.deb*) printf %b '{stanza}' > {machine.status} ;; *) echo 'E: Temporary failure resolving x' >&2; exit 100 ;; esac"
    machine.apt("echo 'E: Temporary failure resolving x' >&2; exit 100", offline)
    with pytest.raises(PodcycleError, match="apt-get update: E: Temporary failure resolving"):
        _packages.install(["rsync"], tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    for name, age in (("rsync_1_all", 2), ("rsync_2_all", 1), ("git_1_all", 1)):
        (kept / f"{name}.deb").touch()
        os.utime(kept / f"{name}.deb", (time.time() - age, time.time() - age))
    _packages.install(["rsync"], tmp_path / "cache")
    said = machine.calls.read_text().splitlines()[-1]
    assert "--no-download" in said and said.endswith(f"{kept}/rsync_2_all.deb") and "rsync_1" not in said and "git_1" not in said


@pytest.mark.parametrize(
    ("update", "install", "sentence"),
    [
        ("echo 'E: Failed to fetch x' >&2; exit 100", "", "apt-get update: E: Failed to fetch x; check the machine's network"),
        ("", "echo 'E: Unable to locate package rsync' >&2; exit 100", "Unable to locate package rsync; this release has no such package"),
    ],
)  # fmt: skip
def test_apt_says_why(machine: Machine, update: str, install: str, sentence: str) -> None:
    machine.apt(update, install)
    with pytest.raises(PodcycleError, match=sentence):
        _packages.install(["rsync"])


def test_a_program_deleted_behind_dpkgs_back_is_missed_and_reinstalled(machine: Machine) -> None:
    (machine.lists / "x_Packages").touch()
    git = machine.root / "bin/git"
    git.unlink()
    assert _packages.missing(["git", "mawk"]) == ["git"]
    machine.tool("dpkg", f'[ "$1" != -S ] || [ "$2" != {git} ] || {{ echo "diversion by x from: $2"; echo "git: $2"; }}')
    machine.apt(install=f"[ ! -e {git} ] && cp {machine.root}/bin/rsync {git}")
    _packages.install(["git"])
    assert _packages.missing(["git"]) == []
    assert machine.calls.read_text().splitlines()[-1].endswith("install --no-install-recommends --reinstall git")
    git.unlink()
    (machine.root / "local/bin").mkdir(parents=True)
    (machine.root / "bin/rsync").rename(machine.root / "local/bin/git")
    assert _packages.missing(["git:amd64"]) == [], "somebody's own in /usr/local will do"


def test_the_package_behind_a_link_is_reinstalled(machine: Machine) -> None:
    """g++ is a link, and the compiler itself comes with another package than build-essential."""
    (machine.lists / "x_Packages").touch()
    machine.status.write_text("Package: build-essential\nStatus: install ok installed\nVersion: 12.9\n")
    for name in ("gcc", "make"):
        machine.tool(name)
    compiler, link = machine.root / "bin/x86-g++-12", machine.root / "bin/g++"
    link.symlink_to("g++-12")
    (machine.root / "bin/g++-12").symlink_to(compiler)
    assert _packages.missing(["build-essential=12.9"]) == ["build-essential=12.9"]
    machine.tool("dpkg", f'[ "$1 $2" != "-S {compiler}" ] || echo "g++-12: $2"')
    machine.apt(install=f"cp {machine.root}/bin/make {compiler}")
    _packages.install(["build-essential"])
    assert machine.calls.read_text().splitlines()[-1].endswith("--reinstall build-essential g++-12")


def test_the_node_names_the_programs_that_its_packages_are_wanted_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_node, "STATUS", machine.status)
    found = _node.read_node(["git", "git:amd64", "nothing"], [], "", "")
    assert (found["programs"], found["missing_packages"]) == ([f"{machine.root}/bin/git"], ["nothing"])
    wanted = yaml.safe_load((ROOT / "roles/node/defaults/main.yml").read_text(encoding="utf-8"))["node_packages"]
    assert set(wanted) - set(_packages.PROGRAMS) == {"python3-venv"}, "which brings no program of its own"


def test_check_mode_asks_apt_without_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages.os, "geteuid", lambda: 1000)
    assert "has no package lists yet" in _packages.look_up(["rsync"]) and machine.told == []
    (machine.lists / "x_Packages").touch()
    assert _packages.look_up(["rsync"]) == ""
    assert machine.calls.read_text().startswith("apt-get -s ")
    machine.apt(install="echo 'E: Unable to locate package rsync' >&2; exit 100")
    with pytest.raises(PodcycleError, match="install rsync: E: Unable to locate package rsync; this release has no such package"):
        _packages.look_up(["rsync"])
    machine.apt(install="echo 'E: burnt' >&2; exit 100")
    assert _packages.look_up(["rsync"]).endswith("was not looked up: apt-get said: E: burnt")
    monkeypatch.setattr(_packages, "_lists_are_old", lambda: True)
    machine.apt(install="echo 'E: Unable to locate package rsync' >&2; exit 100")
    assert "was not looked up" in _packages.look_up(["rsync"]), "newer lists may know it"


def test_packages_need_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packages.os, "geteuid", lambda: 1000)
    with pytest.raises(PodcycleError, match="packages need root; run with become"):
        _packages.install(["rsync"])


@pytest.mark.parametrize(
    ("secret", "locked", "password"),
    [("!", True, False), ("!*", True, False), ("*", False, False), ("", False, True), ("$y$x", False, True), ("!$y$x", True, False)],
)
def test_an_account_is_locked_or_lets_a_password_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, locked: bool, password: bool) -> None:
    shadow = tmp_path / "shadow"
    shadow.write_text(f"root:x:1::::::\nnobody:{secret}:1::::::\n")
    monkeypatch.setattr(_standing, "SHADOW", shadow)
    found = _standing.read_account("nobody")
    assert found is not None and (found["locked"], found["password"]) == (locked, password)
    assert _standing.read_account("nobody-at-all") is None


@pytest.mark.parametrize(("comment", "made"), [("podcycle.gpu", True), ("podcycle.gpu,,,", True), ("A person", False), ("", False)])
def test_an_account_of_our_own_is_known_by_its_comment(monkeypatch: pytest.MonkeyPatch, comment: str, made: bool) -> None:
    row = pwd.struct_passwd(("me", "x", 1000, 1000, comment, "/home/me", "/bin/bash"))
    monkeypatch.setattr(_standing.pwd, "getpwnam", lambda _name: row)
    found = _standing.read_account("me")
    assert found is not None and found["made"] is made
    user = next(task for task in yaml.safe_load((ROOT / "roles/node/tasks/bring.yml").read_text(encoding="utf-8")) if "ansible.builtin.user" in task)
    assert f"'{_standing.MADE}'" in user["ansible.builtin.user"]["comment"]


def test_cores_are_those_of_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_node, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(_node.os, "sched_getaffinity", lambda _pid: set(range(64)))
    assert _node.cpus() == 64
    for text, count in (("max 100000", 64), ("800000 100000", 8), ("50000 100000", 1), ("rubbish", 64)):
        (tmp_path / "cpu.max").write_text(text)
        assert _node.cpus() == count


def test_infiniband_is_a_device_and_not_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_node, "INFINIBAND", tmp_path / "infiniband")
    assert not _node.has_infiniband()
    (tmp_path / "infiniband").mkdir()
    assert not _node.has_infiniband()
    (tmp_path / "infiniband" / "mlx5_0").mkdir()
    assert _node.has_infiniband()


def test_a_tool_counts_when_it_was_proven_and_is_linked(tmp_path: Path) -> None:
    tool = Tool("aws-cli", "1.2", "aws", tmp_path)
    for path in (tool.venv / "bin/python", tool.program, tool.venv / "lib/python3.11/site-packages/aws_cli-1.2.dist-info/RECORD"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    assert (missing_tools([tool]), tool.shown()) == (["aws-cli"], f"aws-cli, not whole, in {tool.venv}\n")
    (tool.venv / ".podcycle-tool.json").write_text('{"wanted": "1.2", "said": "aws 1.2"}')
    assert missing_tools([tool]) == ["aws-cli"]
    tool.link.parent.mkdir()
    tool.link.symlink_to(tool.program)
    assert (missing_tools([tool]), tool.shown()) == ([], f"aws-cli 1.2 in {tool.venv}\n{tool.link} -> {tool.program}\n")
    assert tool.planned() == tool.shown()
    assert missing_tools([Tool("aws-cli", "1.3", "aws", tmp_path)]) == ["aws-cli"]
    tool.program.unlink()
    assert missing_tools([tool]) == ["aws-cli"]
    assert missing_tools([Tool("anything", "", "sh", tmp_path)]) == [], "the system's own will do where no version is asked for"


def test_a_tool_with_more_packages_or_another_python_is_another_tool(tmp_path: Path) -> None:
    plain = Tool("uvicorn", "1.0", "uvicorn", tmp_path)
    more = Tool("uvicorn", "1.0", "uvicorn", tmp_path, extra=("fastapi==2.0",))
    other = Tool("uvicorn", "1.0", "uvicorn", tmp_path, extra=("fastapi==2.0",), python=sys.executable)
    gone = Tool("uvicorn", "1.0", "uvicorn", tmp_path, python=str(tmp_path / "nowhere"))
    assert [tool.wanted for tool in (plain, more, gone)] == ["1.0", "1.0 fastapi==2.0", "1.0"]
    assert other.wanted == f"1.0 fastapi==2.0 {Path(sys.executable).resolve()}"
    with pytest.raises(UsageError, match="is no requirement"):
        Tool("uvicorn", "1.0", "uvicorn", tmp_path, extra=("--index-url=https://example.org",)).check()


SYSTEMCTL = """
case "$1" in
  show) cat {root}/unit 2>/dev/null || echo MainPID=0 ;;
  restart)
    kill $(cat {root}/pid) 2>/dev/null
    eval "$(sed -n 's/^Environment="\\(.*\\)"$/export \\1/p' {units}/demo.service)"
    setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $! > {root}/pid
    printf 'MainPID=%s\\nActiveState=active\\nUnitFileState=enabled\\n' $! > {root}/unit ;;
  disable) kill $(cat {root}/pid); rm {root}/unit ;;
esac
"""


@pytest.fixture
def systemd(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    units = machine.root / "units"
    monkeypatch.setattr(_pod_service, "SYSTEMD_UNITS", str(units))
    machine.tool("systemctl", SYSTEMCTL.format(root=machine.root, units=units))
    machine.tool("journalctl", "echo it burns")
    return machine


def demo(machine: Machine, content: str = "one", **more: str) -> Systemd:
    files = [Entry(f"{machine.root}/app/settings", content=content)]
    return Systemd(Service("demo", ["/bin/sleep", "300", "50%$x"], str(machine.root / "ws"), environment=more, files=files))


def verbs(machine: Machine) -> list[str]:
    told = [line.split()[1] for line in machine.calls.read_text().splitlines() if line.startswith("systemctl") and " show " not in line]
    machine.calls.write_text("")
    return told


def test_systemd_restarts_only_on_a_change(systemd: Machine) -> None:
    changes, running, moved = converge(demo(systemd), present=True, check_mode=True)
    assert (len(changes), running.state, moved, (systemd.root / "units").exists()) == (2, "running", True, False)
    assert converge(demo(systemd), present=True, check_mode=False)[1].current
    unit = (systemd.root / "units/demo.service").read_text()
    assert 'ExecStart="/bin/sleep" "300" "50%%$$x"\n' in unit and "Restart=always" in unit
    assert "EnvironmentFile=-/etc/environment\n" in unit, "a login has it, and what heals needs the same proxy and index"
    assert verbs(systemd) == ["daemon-reload", "stop", "enable", "restart"]
    changes, running, moved = converge(demo(systemd), present=True, check_mode=False)
    assert (changes, running.current, moved, verbs(systemd)) == ([], True, False, [])
    (systemd.root / "units/demo.service").write_text(unit.replace("always", "no"))
    changes, running, moved = converge(demo(systemd), present=True, check_mode=False)
    assert ([str(change.path.name) for change in changes], running.current, moved) == (["demo.service"], True, True)
    assert verbs(systemd)[-1] == "restart" and (systemd.root / "units/demo.service").read_text() == unit
    for other in (demo(systemd, "two"), demo(systemd, "two", A="1")):
        assert converge(other, present=True, check_mode=False)[2]
        assert verbs(systemd)[-1] == "restart"
    assert converge(demo(systemd, "two", A="1"), present=False, check_mode=False)[2]
    assert verbs(systemd) == ["disable"] and not list((systemd.root / "units").iterdir()) and not list((systemd.root / "app").iterdir())
    assert converge(demo(systemd), present=False, check_mode=False)[::2] == ([], False)


def test_a_service_that_does_not_start_says_its_last_words(systemd: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd.tool("systemctl", "[ $1 = show ] && printf 'MainPID=0\\nActiveState=failed\\nUnitFileState=enabled\\n'; exit 0")
    monkeypatch.setattr(_pod_service, "START_SECONDS", 0.2)
    with pytest.raises(ServiceError, match="start demo with systemd: it is stopped after 0 s; its last words: it burns"):
        converge(demo(systemd), present=True, check_mode=False)


def test_the_program_never_comes_from_a_virtual_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert not Service("a", ["python3", "x"], "/ws").resolved[0].startswith(str(tmp_path))
    with pytest.raises(ServiceError, match="there is no program no-such-program"):
        assert Service("a", ["no-such-program"], "/ws").resolved


def test_a_supervisor_that_does_not_start_is_installed_anew_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    supervisor = Supervisor(Service("demo", ["/bin/true"], str(tmp_path)), "4.3.0", system=False)
    programs = supervisor.venv / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "supervisord").write_text("import nonesuch\n")
    (supervisor.venv / STAMP).write_text("{}")
    with pytest.raises(ServiceError, match="start supervisor in .*: it ended with 1 .*No module named 'nonesuch'"):
        supervisor._launch()
    assert not (supervisor.venv / STAMP).exists()


def test_the_start_script_and_the_watchdog_look_for_jobs_in_the_same_places() -> None:
    """One waits for a running job before it sets up, the other before it ends an idle machine."""
    places = yaml.safe_load((ROOT / "roles/cuda_watchdog/defaults/main.yml").read_text())["cuda_watchdog_jobs"]
    assert [place.replace("{{ cuda_watchdog_workspace }}/", "") for place in places] == list(_pod_watch.JOBS)
