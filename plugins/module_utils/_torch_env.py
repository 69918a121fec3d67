# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual environment with the PyTorch build that fits the machine, made by uv and proven in a fresh interpreter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ._aside import locked, write_json
from ._gpu_driver import Driver, uncovered
from ._machine import free_gib, nearest
from ._torch_proof import SCHEMA, STAMP, VERIFY, damaged, is_sound, read_record, read_stamp, site_packages, venv_python_version
from ._torch_wish import LOCK, NEEDED_GIB, TorchEnvError, cached_torch, check_lock, choose_python, numbers, plain_name
from ._unresolved import places, unresolved
from ._uv import NETWORK, Uv, UvError, base_python, install_wheels, last_words, run_program, uv_environment


class IndexUnreachable(TorchEnvError):
    code = "torch_index_unreachable"


class NoSuchVersion(TorchEnvError):
    """No index and no folder has what was asked for."""


class NotVerified(TorchEnvError):
    code = "torch_not_verified"


@dataclass(frozen=True)
class Wish:
    venv: Path
    version: str
    backend: str
    python: str
    extra_packages: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    index_url: str = ""
    cache_dir: str = ""
    # The least version when V(python) is empty, and where uv keeps an interpreter that it brings.
    least_python: str = ""
    python_home: str = ""
    lock: str = ""
    # Folder of the forward compatibility library.
    library_path: str = ""

    def fingerprint(self) -> dict[str, Any]:
        more: dict[str, Any] = {"python": self.least_python} if self.least_python else {}
        if self.lock:
            more["lock"] = hashlib.sha256(self.lock.encode()).hexdigest()
        return {"torch": self.version, "backend": self.backend, "extra_packages": sorted(self.extra_packages), **more}


def local_wheel(wish: Wish, python_tag: str) -> str | None:
    """The exact version of a fitting torch wheel in a local folder, such as V(2.13.0+cpu)."""
    exact = wish.version if "+" in wish.version else f"{wish.version}+{wish.backend}"
    prefix = f"torch-{exact}-{python_tag}-"
    for link in wish.find_links:
        folder = Path(link.removeprefix("file://"))
        if folder.is_dir() and any(wheel.name.startswith(prefix) and platform.machine() in wheel.name for wheel in folder.glob("torch-*.whl")):
            return exact
    return None


class TorchEnv:
    def __init__(self, wish: Wish, driver: Driver) -> None:
        self.wish = wish
        self.driver = driver
        self.python = wish.venv / "bin" / "python"
        self.stamp = wish.venv / STAMP
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    def record(self) -> dict[str, Any] | None:
        """What was proven about this venv, when all of it still holds; else None."""
        return read_record(self.wish.venv)

    def satisfied(self) -> bool:
        record = self.record()
        return record is not None and record.get("fingerprint") == self.wish.fingerprint() and record.get("driver") == self.driver.version

    def works(self, *, write: bool) -> bool:
        """Whether torch imports and computes now: the stamp vouches for torch's own files, and not for all that it imports."""
        try:
            self._verify(write=write)
        except NotVerified as error:
            self.notes.append(error.message)
            return False
        return True

    def sound(self) -> bool:
        return is_sound(self.wish.venv)

    def diff(self) -> dict[str, str]:
        """What is there and what is to come, in a line each."""
        if self.satisfied():
            return {"before": "", "after": ""}
        stamp = read_stamp(self.wish.venv)
        before = f"no proven torch in {self.wish.venv}"
        if stamp is not None:
            before = self._in_words(stamp.get("fingerprint") or {}, stamp.get("driver")) + ("" if self.sound() else ", damaged")
        return {"before": f"{before}\n", "after": f"{self._in_words(self.wish.fingerprint(), self.driver.version)}\n"}

    def _in_words(self, fingerprint: dict[str, Any], driver: str | None) -> str:
        extra = ", ".join(fingerprint.get("extra_packages") or [])
        more = (f" with {extra}" if extra else "") + (f" by the lock file {fingerprint['lock'][:12]}" if "lock" in fingerprint else "")
        python = f", Python {fingerprint['python']} or later" if "python" in fingerprint else ""
        proven = f", proven under driver {driver}" if driver else ""
        return f"torch {fingerprint.get('torch')} ({fingerprint.get('backend')}){more} in {self.wish.venv}{python}{proven}"

    def make(self, uv: Uv, *, broken: bool = False) -> dict[str, Any]:
        """Bring the venv to the wish; the stamp goes before anything is touched and comes last, so that a half-made venv never looks whole."""
        with locked(self.wish.venv):
            if self.satisfied() and not broken:
                return self.record() or {}
            fresh = not self._starts() or self._other_python()
            self._resolve(uv, fresh=fresh)
            self.stamp.unlink(missing_ok=True)
            try:
                proof = self._bring(uv, fresh=fresh)
            except NotVerified:
                if fresh:
                    raise
                # What cannot be mended in place is made anew.
                proof = self._bring(uv, fresh=True)
            return self._write_stamp(uv, proof)

    def _resolve(self, uv: Uv, *, fresh: bool) -> None:
        """A wish that cannot come true leaves a healthy environment alone. It costs a second, and only where there is one to lose."""
        record = self.record()
        if record is None or record.get("fingerprint") == self.wish.fingerprint():
            return
        done = self._dry_run(uv, ["--python", str(self.python)], fresh=fresh)
        if done.returncode:
            try:
                self._refuse(done.stderr)
            except (NoSuchVersion, IndexUnreachable):
                raise
            except TorchEnvError:
                # The interpreter that is to come may be another one than was thought.
                if not fresh:
                    raise

    def _dry_run(self, uv: Uv, more: list[str], *, fresh: bool, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        started, to_come = time.monotonic(), self._python_to_come() if fresh else ""
        with tempfile.TemporaryDirectory(prefix="torch-wish-") as folder:
            lock = Path(folder, "lock.txt")
            lock.write_text(self.wish.lock, encoding="utf-8")
            python = [*more, *(["--python-version", to_come] if to_come else [])]
            done = install_wheels(uv, ["--dry-run", *python, *self.install_arguments(lock, to_come)], environment or self._environment())
        self.seconds["resolve"] = _since(started)
        return done

    def look_up(self, uv: Uv | None) -> None:
        """For check mode: whether the wish can come true at all, without a trace in the environment or a cache. What nobody could ask is a note."""
        record = self.record()
        if record is not None and record.get("fingerprint") == self.wish.fingerprint():
            return
        what = f"whether torch {self.wish.version} ({self.wish.backend}) exists was not looked up"
        if uv is None:
            self.notes.append(f"{what}: there is no uv yet, and check mode brings none")
            return
        fresh = not self._starts() or self._other_python()
        # Quickly: a machine without a network is no reason to wait for minutes.
        environment = {"UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "1", **self._environment()}
        with tempfile.TemporaryDirectory(prefix="torch-look-") as folder:
            # A folder of its own: the machine's Python may be marked as the system's, and uv leaves a lock in an environment.
            aside = ["--python", (self.wish.python or base_python()) if fresh else str(self.python), "--target", folder, "--no-cache"]
            try:
                done = self._dry_run(uv, aside, fresh=fresh, environment=environment)
            except UvError as error:
                self.notes.append(f"{what}: {error}")
                return
        if done.returncode == 0:
            return
        none = unresolved(done.stderr)
        # The interpreter that is to come may be another one than was thought.
        if none and not (fresh and none.why):
            self._refuse(done.stderr)
        self.notes.append(f"{what}: uv said: {last_words(done.stderr)}")

    def _python_to_come(self) -> str:
        least, own = self.wish.least_python, platform.python_version_tuple()[:2]
        return ".".join(own if numbers(".".join(own)) >= numbers(least)[:2] else least.split(".")[:2]) if least else ""

    def _bring(self, uv: Uv, *, fresh: bool) -> dict[str, Any]:
        """In place as long as the interpreter starts: people install packages of their own into this environment."""
        there = (read_stamp(self.wish.venv) or {}).get("fingerprint") or {}
        if fresh or (there.get("torch"), there.get("backend")) != (self.wish.version, self.wish.backend):
            self._room()
        if fresh:
            self._keep_list(uv)
            self._create(uv)
        self._install(uv)
        bad = self._mend(uv)
        if bad:
            raise NotVerified(f"install torch into {self.wish.venv}: the files of {', '.join(bad)} have the wrong size; empty the cache {self.wish.cache_dir}")
        try:
            return self._verify()
        except NotVerified:
            # A package that torch needs may be damaged, and a file of the right size may hold something else.
            if not damaged(self.wish.venv, thorough=True):
                raise
        self._mend(uv, thorough=True)
        return self._verify()

    def _starts(self) -> bool:
        return (self.wish.venv / "pyvenv.cfg").exists() and run_program([str(self.python), "-IS", "-c", ""], self._environment(), timeout=60).returncode == 0

    def _keep_list(self, uv: Uv) -> None:
        """An environment that has to be made anew leaves the list of what was in it."""
        if site_packages(self.wish.venv) is None:
            return
        done = uv.run(["pip", "freeze", "--quiet", "--path", str(site_packages(self.wish.venv))], self._environment())
        listed = self.wish.venv.with_name(f"{self.wish.venv.name}.packages.txt")
        if done.returncode == 0 and done.stdout.strip():
            with contextlib.suppress(OSError):
                listed.write_text(done.stdout, encoding="utf-8")
                self.notes.append(f"{self.wish.venv} was made anew; what had been in it is listed in {listed}")

    def _other_python(self) -> bool:
        """Whether the environment's interpreter is older than the least one, and was not taken for want of another."""
        wanted = self.wish.least_python
        fingerprint = (read_stamp(self.wish.venv) or {}).get("fingerprint") or {}
        version = venv_python_version(self.wish.venv)
        return bool(wanted) and fingerprint.get("python") != wanted and version is not None and numbers(version) < numbers(wanted)

    def preflight(self) -> None:
        if self.wish.lock:
            check_lock(self.wish.lock, self.wish.version, self.wish.extra_packages)

    def _room(self) -> None:
        """An archive that is in a cache on the same file system is linked and takes no room."""
        cache, venv = Path(self.wish.cache_dir) if self.wish.cache_dir else None, self.wish.venv
        if cache and cache.is_dir() and os.stat(cache).st_dev == os.stat(nearest(venv)).st_dev and cached_torch(cache, self.wish):
            return
        free, needed = free_gib(venv), NEEDED_GIB["cpu" if self.wish.backend == "cpu" else "cuda"]
        if free < needed:
            raise TorchEnvError(
                f"install torch {self.wish.version} ({self.wish.backend}) into {venv}: {free:.1f} GiB are free there, and about {needed:.1f} GiB are needed",
                hint="make room, or name another folder with pytorch_workspace",
            )

    def _mend(self, uv: Uv, *, thorough: bool = False) -> list[str]:
        """Install again what is damaged, and say what is left of it. uv links the files of its cache: that has the damage too, or else may be all there is."""
        bad = damaged(self.wish.venv, thorough=thorough)
        for clean in (False, True):
            if bad and clean:
                uv.run(["cache", "clean", "--quiet", *bad], self._environment())
            if bad:
                self._install(uv, [part for name in bad for part in ("--reinstall-package", name)])
                bad = damaged(self.wish.venv, thorough=thorough)
        return bad

    def _create(self, uv: Uv) -> None:
        venv = self.wish.venv
        if venv.exists() and not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise TorchEnvError(
                f"make the virtual environment {venv}: this folder is there already, is not empty and is no virtual environment; name another with pytorch_venv"
            )
        started = time.monotonic()
        venv.parent.mkdir(parents=True, exist_ok=True)
        python = self.wish.python
        if self.wish.least_python:
            python, note = choose_python(uv, self.wish.least_python, self.wish.python_home, self._environment())
            self.notes += [note] if note else []
        done = uv.run(["venv", "--quiet", "--clear", "--no-python-downloads", "--python", python, str(venv)], self._environment())
        if done.returncode:
            raise TorchEnvError(f"make the virtual environment {venv} with {python}: {last_words(done.stderr)}")
        self.seconds["venv"] = _since(started)

    def _install(self, uv: Uv, more: list[str] | None = None) -> None:
        started = time.monotonic()
        if self.wish.lock:
            (self.wish.venv / LOCK).write_text(self.wish.lock, encoding="utf-8")
        done = install_wheels(uv, ["--python", str(self.python), *(more or []), *self.install_arguments()], self._environment())
        self.seconds["install"] = _since(started)
        if done.returncode:
            self._refuse(done.stderr)

    def _refuse(self, told: str) -> NoReturn:
        """Why uv did not install, in one sentence."""
        wish, none, said = self.wish, unresolved(told), last_words(told) or "nothing"
        what = f"install torch {wish.version} ({wish.backend}) into {wish.venv}"
        if none:
            asked = "" if local_wheel(wish, self._python_tag()) else wish.backend
            extra = none.package in {plain_name(name) for name in wish.extra_packages}
            hint = "set pytorch_version to one that exists, or name a folder or a mirror that has it by pytorch_find_links or pytorch_index_url"
            if none.package not in ("torch", "numpy"):
                hint = "set pytorch_version and pytorch_extra_packages to what fits together"
            if extra:
                hint = "set pytorch_extra_packages to what exists"
            if wish.lock:
                hint = "lock again with versions that exist"
            error = TorchEnvError if none.why else NoSuchVersion
            raise error(f"{what}: {none.sentence(places(wish.find_links, wish.index_url, asked))}", hint=hint)
        if NETWORK.search(told):
            raise IndexUnreachable(
                f"{what}: the PyTorch package index could not be reached ({said})",
                hint="check the machine's network, name a mirror with pytorch_index_url, or put the wheels into a folder and name it with pytorch_find_links",
            )
        raise TorchEnvError(f"{what}: uv said: {said}", hint="see which versions exist, or name a folder of wheels with pytorch_find_links")

    def install_arguments(self, lock: Path | None = None, python: str = "") -> list[str]:
        wish = self.wish
        arguments = [part for link in wish.find_links for part in ("--find-links", link)]
        exact = local_wheel(wish, self._python_tag(python))
        if wish.index_url:
            arguments += ["--index", wish.index_url]
        elif exact is None:
            arguments += ["--torch-backend", wish.backend]
        if wish.lock:
            return [*arguments, "--require-hashes", "--requirement", str(lock or wish.venv / LOCK)]
        return [*arguments, f"torch=={exact or wish.version}", "numpy", *wish.extra_packages]

    def _python_tag(self, version: str = "") -> str:
        link = next(iter(sorted((self.wish.venv / "lib").glob("python3.*"))), None)
        version = version or (link.name.removeprefix("python") if link else ".".join(platform.python_version_tuple()[:2]))
        return "cp" + version.replace(".", "")

    def _environment(self) -> dict[str, str]:
        return uv_environment(self.wish.cache_dir)

    def _verify(self, *, write: bool = True) -> dict[str, Any]:
        """Import and compute in a new interpreter, which also writes the byte code of the modules that an import of torch needs."""
        started = time.monotonic()
        environment = self._environment()
        if self.wish.library_path:
            environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (self.wish.library_path, environment.get("LD_LIBRARY_PATH"))))
        done = run_program([str(self.python), *([] if write else ["-B"]), "-I", "-c", VERIFY], environment, timeout=300)
        self.seconds["verify"] = _since(started)
        try:
            proof = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
        except (ValueError, IndexError):
            proof = None
        what = f"verify torch in {self.wish.venv}"
        if not isinstance(proof, dict):
            raise NotVerified(f"{what}: the import failed with exit code {done.returncode}: {last_words(done.stderr)}; run the role again to rebuild it")
        cpu = self.wish.backend == "cpu"
        if not proof["matmul"]:
            raise NotVerified(f"{what}: a matrix product came out wrong; the machine or the build is broken, rent another pod")
        if cpu != (proof["cuda"] is None):
            raise NotVerified(f"{what}: the {self.wish.backend} build was asked for, and torch {proof['torch']} reports CUDA {proof['cuda']}")
        if not cpu and not proof["cuda_available"]:
            raise NotVerified(
                f"{what}: torch {proof['torch']} finds no usable GPU under driver {self.driver.version}: {proof.get('cuda_error', 'no reason given')}",
                hint="rent another pod, or name another build with pytorch_backend",
            )
        capability = uncovered(self.driver.capabilities, proof["arch_list"])
        if capability:
            raise NotVerified(
                f"{what}: torch {proof['torch']} has kernels for {', '.join(proof['arch_list'])}, and this machine's GPU has compute capability {capability}",
                hint="name a pytorch_backend or a pytorch_version whose list has it, or rent another GPU",
            )
        return proof

    def _write_stamp(self, uv: Uv, proof: dict[str, Any]) -> dict[str, Any]:
        record = {
            "schema": SCHEMA,
            "fingerprint": self.wish.fingerprint(),
            "driver": self.driver.version,
            "gpus": self.driver.gpus,
            "uv": str(uv.path),
            "uv_version": uv.version,
            "notes": self.notes,
            "library_path": self.wish.library_path,
            **{key: proof[key] for key in ("torch", "numpy", "python", "cuda", "cuda_available", "arch_list", "devices")},
        }
        write_json(self.stamp, record)
        return record


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)
