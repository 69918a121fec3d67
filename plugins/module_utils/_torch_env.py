# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual environment with the PyTorch build that fits the machine, made by uv and proven in a fresh interpreter."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._aside import locked, write_json
from ._errors import PodcycleError
from ._gpu_driver import Driver
from ._torch_proof import SCHEMA, STAMP, VERIFY, is_sound, read_record
from ._uv import NETWORK, Uv, install_wheels, last_words, run_program, uv_environment



class TorchEnvError(PodcycleError):
    code = "torch_env"


class IndexUnreachable(TorchEnvError):
    code = "torch_index_unreachable"


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

    def fingerprint(self) -> dict[str, Any]:
        return {"torch": self.version, "backend": self.backend, "extra_packages": sorted(self.extra_packages)}


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

    def record(self) -> dict[str, Any] | None:
        """What was proven about this venv, when all of it still holds; else None."""
        return read_record(self.wish.venv)

    def satisfied(self) -> bool:
        record = self.record()
        return record is not None and record.get("fingerprint") == self.wish.fingerprint() and record.get("driver") == self.driver.version

    def sound(self) -> bool:
        return is_sound(self.wish.venv)

    def make(self, uv: Uv) -> dict[str, Any]:
        """Bring the venv to the wish; the stamp comes last, so that a half-made venv never looks whole."""
        with locked(self.wish.venv):
            if self.satisfied():
                return self.record() or {}
            fresh = not self.sound()
            self.stamp.unlink(missing_ok=True)
            if fresh:
                self._create(uv)
            self._install(uv)
            proof = self._verify()
            return self._write_stamp(uv, proof)

    def _create(self, uv: Uv) -> None:
        venv = self.wish.venv
        if venv.exists() and not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise TorchEnvError(
                f"make the virtual environment {venv}: this folder is there already, is not empty and is no virtual environment; name another with pytorch_venv"
            )
        started = time.monotonic()
        venv.parent.mkdir(parents=True, exist_ok=True)
        done = uv.run(["venv", "--quiet", "--clear", "--no-python-downloads", "--python", self.wish.python, str(venv)], self._environment())
        if done.returncode:
            raise TorchEnvError(f"make the virtual environment {venv} with {self.wish.python}: {last_words(done.stderr)}")
        self.seconds["venv"] = _since(started)

    def _install(self, uv: Uv) -> None:
        started = time.monotonic()
        done = install_wheels(uv, ["--python", str(self.python), *self.install_arguments()], self._environment())
        self.seconds["install"] = _since(started)
        if done.returncode == 0:
            return
        what = f"install torch {self.wish.version} ({self.wish.backend}) into {self.wish.venv}"
        said = last_words(done.stderr)
        if NETWORK.search(done.stderr):
            raise IndexUnreachable(
                f"{what}: the PyTorch package index could not be reached ({said})",
                hint="check the machine's network, name a mirror with pytorch_index_url, or put the wheels into a folder and name it with pytorch_find_links",
            )
        raise TorchEnvError(f"{what}: uv said: {said}", hint="see which versions exist, or name a folder of wheels with pytorch_find_links")

    def install_arguments(self) -> list[str]:
        wish = self.wish
        arguments = [part for link in wish.find_links for part in ("--find-links", link)]
        exact = local_wheel(wish, self._python_tag())
        if wish.index_url:
            arguments += ["--index", wish.index_url]
        elif exact is None:
            arguments += ["--torch-backend", wish.backend]
        return [*arguments, f"torch=={exact or wish.version}", "numpy", *wish.extra_packages]

    def _python_tag(self) -> str:
        link = next(iter(sorted((self.wish.venv / "lib").glob("python3.*"))), None)
        version = link.name.removeprefix("python") if link else ".".join(platform.python_version_tuple()[:2])
        return "cp" + version.replace(".", "")

    def _environment(self) -> dict[str, str]:
        return uv_environment(self.wish.cache_dir)

    def _verify(self) -> dict[str, Any]:
        """Import and compute in a new interpreter, which also writes the byte code of the modules that an import of torch needs."""
        started = time.monotonic()
        done = run_program([str(self.python), "-c", VERIFY], self._environment(), timeout=300)
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
        return proof

    def _write_stamp(self, uv: Uv, proof: dict[str, Any]) -> dict[str, Any]:
        record = {
            "schema": SCHEMA,
            "fingerprint": self.wish.fingerprint(),
            "driver": self.driver.version,
            "gpus": self.driver.gpus,
            "uv": str(uv.path),
            "uv_version": uv.version,
            **{key: proof[key] for key in ("torch", "numpy", "python", "cuda", "cuda_available", "arch_list", "devices")},
        }
        write_json(self.stamp, record)
        return record


def describe(env: TorchEnv, record: dict[str, Any], uv: Uv | None) -> dict[str, Any]:
    keys = ("torch", "numpy", "cuda", "cuda_available", "devices")
    return {
        "venv": str(env.wish.venv),
        "python": str(env.python),
        "python_version": record.get("python"),
        "uv": str(uv.path) if uv else record.get("uv"),
        "backend": env.wish.backend,
        **{key: record.get(key) for key in keys},
        "driver_version": env.driver.version,
        "gpus": env.driver.gpus,
        "seconds": env.seconds,
    }


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)
