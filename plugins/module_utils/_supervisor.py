# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services under supervisor, for containers and users without a systemd of their own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from ._file_set import Entry, FileSet
from ._pod_service import Running, Service, ServiceError, ServiceManager, end_strays, is_current
from ._uv import find_uv, install_uv

STAMP = ".podcycle-supervisor.json"
# A socket's path holds 107 bytes.
_SOCKET_BYTES = 100


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> Any:
        return _Connection(self.path)


class Supervisor(ServiceManager):
    kind = "supervisor"

    def __init__(self, service: Service, version: str, *, system: bool) -> None:
        super().__init__(service)
        self.version = version
        self.dir = Path(service.workspace, ".podcycle", "supervisor")
        self.venv = self.dir / "venv"
        self.config = self.dir / "supervisord.conf"
        self.program = self.dir / "conf.d" / f"{service.name}.conf"
        self.run = runtime_dir(self.dir, system=system)
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(str(self.run / "supervisor.sock")))
        self.rpc: Any = proxy.supervisor

    def entries(self) -> list[Entry]:
        service = self.service
        variables = ",".join(f'{key}="{value}"' for key, value in sorted(service.variables.items()))
        text = (
            f"; Written by podcycle.gpu; changes are lost.\n[program:{service.name}]\ncommand={_escaped(shlex.join(service.resolved))}\n"
            f"environment={_escaped(variables)}\ndirectory=/\nautostart=true\nautorestart=true\nstartsecs=1\nstartretries=1000000\n"
            f"redirect_stderr=true\nstdout_logfile={_escaped(str(self.dir / (service.name + '.log')))}\nstdout_logfile_maxbytes=1MB\nstdout_logfile_backups=1\n"
        )
        return [Entry(str(self.config), content=self._main(), mode="0644"), Entry(str(self.program), content=text, mode="0644")]

    def _main(self) -> str:
        folder, run = _escaped(str(self.dir)), _escaped(str(self.run))
        return (
            f"; Written by podcycle.gpu; changes are lost.\n[unix_http_server]\nfile={run}/supervisor.sock\nchmod=0600\n\n"
            f"[supervisord]\nlogfile={folder}/supervisord.log\nlogfile_maxbytes=1MB\nlogfile_backups=1\npidfile={run}/supervisord.pid\n\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
            f"[supervisorctl]\nserverurl=unix://{run}/supervisor.sock\n\n[include]\nfiles={folder}/conf.d/*.conf\n"
        )

    def clean(self) -> list[Entry]:
        last = not [path for path in (self.dir / "conf.d").glob("*.conf") if path != self.program]
        return [Entry(str(self.dir), "absent", recursive=True)] if last and self.dir.is_dir() else [Entry(str(self.program), "absent")]

    def look(self, *, present: bool) -> Running:
        info = self._info()
        if info is None:
            return Running(state="stopped" if self.program.exists() else "absent")
        pid = int(info.get("pid") or 0)
        state = str(info.get("statename", "unknown")).lower()
        if not pid:
            return Running(state=state)
        return Running(pid, state, present and state == "running" and is_current(pid, self.service.digest))

    def _info(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
            found = self.rpc.getProcessInfo(self.service.name)
            return found if isinstance(found, dict) else None
        return None

    def bring_up(self) -> None:
        self._install()
        if not self._answers():
            self._end()
            end_strays(self.service)
            # It reads its files as they are now, and starts what stands in them.
            self._launch()
            return
        try:
            self.rpc.reloadConfig()
            with contextlib.suppress(xmlrpc.client.Fault):
                self.rpc.stopProcessGroup(self.service.name)
            with contextlib.suppress(xmlrpc.client.Fault):
                self.rpc.removeProcessGroup(self.service.name)
            end_strays(self.service)
            with contextlib.suppress(xmlrpc.client.Fault):
                self.rpc.addProcessGroup(self.service.name)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise ServiceError(f"start {self.service.name}: supervisor does not take it: {error}; see {self.dir}/supervisord.log") from error

    def take_down(self) -> None:
        last = not [path for path in (self.dir / "conf.d").glob("*.conf") if path != self.program]
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
            self.rpc.stopProcessGroup(self.service.name)
            self.rpc.removeProcessGroup(self.service.name)
        if last:
            self._end()
            shutil.rmtree(self.run, ignore_errors=True)

    def words(self) -> str:
        logs = [self.dir / f"{self.service.name}.log", self.dir / "supervisord.log"]
        return "\n".join(log.read_text(encoding="utf-8", errors="replace")[-300:] for log in logs if log.exists())

    def _answers(self) -> bool:
        try:
            state = self.rpc.getState()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return isinstance(state, dict) and state.get("statename") == "RUNNING"

    def _pid(self) -> int | None:
        """The supervisor of this folder; a number that was given to a stranger meanwhile is none."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.run / "supervisord.pid").read_text())
            if str(self.config).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
        return None

    def _launch(self) -> None:
        self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.run.stat().st_uid != os.geteuid():
            raise ServiceError(f"start supervisor in {self.dir}: {self.run} belongs to another user; remove it, or set XDG_RUNTIME_DIR")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "SSH_", "PYTHON"))}
        command = [str(self.venv / "bin" / "python"), str(self.venv / "bin" / "supervisord"), "-c", str(self.config)]
        # With nothing of ours held open, the end of this connection is not waited for.
        with (self.dir / "start.log").open("wb") as log:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", timeout=60, check=False)
        end = time.monotonic() + 20
        while not self._answers():
            if done.returncode or time.monotonic() >= end:
                # The next attempt installs it anew.
                (self.venv / STAMP).unlink(missing_ok=True)
                said = " ".join((self.dir / "start.log").read_text(encoding="utf-8", errors="replace").split())[-300:] or self.words()[-300:]
                raise ServiceError(f"start supervisor in {self.dir}: it ended with {done.returncode} and does not answer; its last words: {said}")
            time.sleep(0.05)

    def _end(self) -> None:
        """Ends the supervisor that stands in the way, answering or not."""
        for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
            pid = self._pid()
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            end = time.monotonic() + seconds
            while self._pid() is not None and time.monotonic() < end:
                time.sleep(0.05)

    def _install(self) -> None:
        python = self.service.resolved[0] if "python" in Path(self.service.resolved[0]).name else "/usr/bin/python3"
        wanted = {"version": self.version, "python": python}
        if os.access(self.venv / "bin" / "python", os.X_OK):
            with contextlib.suppress(OSError, ValueError):
                if json.loads((self.venv / STAMP).read_text(encoding="utf-8")) == wanted:
                    return
        bin_dir, cache = Path(self.service.workspace, "bin"), Path(os.environ.get("UV_CACHE_DIR") or f"{self.service.workspace}/cache/uv")
        uv = find_uv(bin_dir, "", cache) or install_uv(bin_dir)
        environment = {**{key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}, "UV_CACHE_DIR": str(cache)}
        for arguments in (
            ["venv", "--quiet", "--clear", "--no-python-downloads", "--python", python, str(self.venv)],
            ["pip", "install", "--quiet", "--python", str(self.venv / "bin" / "python"), f"supervisor=={self.version}"],
        ):
            done = uv.run(arguments, environment)
            if done.returncode:
                said = " ".join(done.stderr.split())[-300:]
                raise ServiceError(f"install supervisor {self.version} into {self.venv}: {said}", hint="check the machine's network, or bring the uv cache")
        FileSet([Entry(str(self.venv / STAMP), content=json.dumps(wanted))]).converge()


def runtime_dir(folder: Path, *, system: bool) -> Path:
    """Where socket and pid live: where the system scope may write, gone with the container as their process is."""
    mark = hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:10]
    if system and os.access("/run", os.W_OK):
        return Path("/run/podcycle", mark)
    given, own = os.environ.get("XDG_RUNTIME_DIR", ""), f"supervisor-{os.geteuid()}-{mark}"
    places = [Path(given, "podcycle", mark)] if given and os.access(given, os.W_OK) else []
    places += [folder / "run", Path(tempfile.gettempdir(), own), Path("/tmp", own)]
    return next((place for place in places if len(str(place / "supervisor.sock").encode()) < _SOCKET_BYTES), places[-1])


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
