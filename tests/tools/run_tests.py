# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the groups of tests, two steps at a time, and ends with one closing line over all of them.

Usage: run_tests.py [GROUP_OR_STEP ...]      without arguments: everything
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build"
BIN = Path(sys.executable).parent
TRAINER_PYTHON = BUILD / "trainer-venv" / "bin" / "python"
COUNTED = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "error", "errors")
WORDS = "|".join(COUNTED)
PLUGINS = ".collections/ansible_collections/podcycle/gpu/plugins"
BORROWED = "roles/services/files:roles/cuda_watchdog/files:roles/chess_training/files/chess_trainer:plugins/module_utils"
BORROWING = ("roles/services/files", "roles/training_image/files")
GROUPS = {
    "lint": ["ruff", "mypy", "yamllint", "ansible-lint", "changelog"],
    "unit": ["unit", "trainer", "unit-high"],
    "sanity": ["sanity"],
    "integration": ["integration"],
    "conformance": ["conformance", "conformance-next"],
    "chaos": ["chaos"],
    "e2e": ["e2e", "e2e-high"],
    "molecule": ["molecule"],
}


@dataclass
class Step:
    name: str
    commands: list[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    pytest: bool = False
    # Steps of one lane run one after the other.
    lane: str = "house"
    seconds: float = 0.0
    code: int | None = None
    last: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def log(self) -> Path:
        return BUILD / "logs" / f"{self.name}.log"

    def run(self) -> None:
        started = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            for command in self.commands:
                done = subprocess.run(
                    command, cwd=ROOT, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
                )
                self.code = done.returncode
                self.last = command
                if self.code:
                    break
        self.text = self.log.read_text(encoding="utf-8", errors="replace")
        self.seconds = time.monotonic() - started

    @property
    def counts(self) -> dict[str, int]:
        closing = [line for line in self.text.splitlines() if re.search(rf"\d+ (?:{WORDS})\b.* in [\d.]+s", line)]
        if not (self.pytest and closing):
            return {}
        return {word: int(number) for number, word in re.findall(rf"(\d+) ({WORDS})\b", closing[-1])}


def existing(*names: str) -> list[str]:
    return [name for name in names if (ROOT / name).exists()]


def second_end() -> Path | None:
    """A Python that carries the newer ansible-core, when the venv at hand carries the older one."""
    if sys.version_info >= (3, 12):
        return None
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = (shutil.which(f"python3.{minor}") for minor in (14, 13, 12))
    for candidate in (*filter(None, on_path), *(str(path) for path in sorted(pyenv.glob("3.1[2-4].*/bin/python"), reverse=True))):
        # A shim of a version manager is there and may still not run.
        done = subprocess.run([candidate, "-c", "import sys; print(sys.version_info >= (3, 12))"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == "True":
            return Path(candidate)
    return None


def python_steps() -> list[Step]:
    python = str(BIN / "python")
    packages = [f"extensions/{name}" for name in ("rehearsal",) if (ROOT / "extensions" / name / "__init__.py").exists()]
    trainer = existing("roles/chess_training/files/chess_trainer")
    return [
        Step("ruff", [[str(BIN / "ruff"), "check", "."]]),
        Step(
            "mypy",
            [
                [python, "-m", "mypy", PLUGINS],
                [python, "-m", "mypy", *packages, "extensions/molecule/containers.py", "tests/tools", "tests/support", "tests/benchmarks"],
                trainer_setup(),
                [python, "-m", "mypy", "--python-executable", str(TRAINER_PYTHON), *trainer],
                # On a pod these lie beside what they borrow.
                ["env", f"MYPYPATH={BORROWED}", python, "-m", "mypy", "--follow-imports=silent", "--ignore-missing-imports", *BORROWING],
            ],
        ),
    ]


def yaml_steps() -> list[Step]:
    return [
        Step("yamllint", [[str(BIN / "yamllint"), "--strict", "."]]),
        Step(
            "ansible-lint",
            [[str(BIN / "ansible-lint"), "--offline", "--strict"]],
            {"PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_HOME": str(BUILD / "ansible-home")},
        ),
        Step("changelog", [[str(BIN / "antsibull-changelog"), "lint"]]),
    ]


def trainer_setup() -> list[str]:
    """The trainer's own environment, made by the module that makes it on pods; nothing is done when it is there."""
    wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or ""
    defaults = (ROOT / "roles/pytorch/defaults/main.yml").read_text(encoding="utf-8")
    options = {
        "version": re.findall(r"^pytorch_version: (\S+)", defaults, re.MULTILINE)[0],
        "venv": str(TRAINER_PYTHON.parents[1]),
        "bin_dir": str(BUILD / "bin"),
        "backend": "cpu",
        "accept_cpu_on_gpu": True,
        "find_links": wheels.split(),
        "extra_packages": ["pytest", "chess", "PyYAML"],
        "cache_dir": str(BUILD / "image-cache"),
    }
    return [str(BIN / "ansible"), "localhost", "-m", "podcycle.gpu.torch_env", "-a", json.dumps(options)]


def services_setup() -> list[list[str]]:
    """What the role brings for the services, in one environment beside the trainer's, of the same Python."""
    defaults = (ROOT / "roles/services/defaults/main.yml").read_text(encoding="utf-8")
    pins = [f"{name}=={re.findall(rf'^services_{name}_version: (.+)$', defaults, re.MULTILINE)[0]}" for name in ("fastapi", "uvicorn", "huggingface_hub")]
    uv, venv = str(BIN / "uv"), BUILD / "services-venv"
    make = [uv, "venv", "--quiet", "--allow-existing", "--no-python-downloads", "--python", str(TRAINER_PYTHON), str(venv)]
    return [make, [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), *pins]]


def high_setup(python: Path) -> list[list[str]]:
    venv = BUILD / "venv-high"
    uv = str(BIN / "uv")
    wanted = [
        line.split()[0] for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if re.match(r"(pytest|pytest-xdist|httpx)==", line)
    ]
    make = [uv, "venv", "--quiet", "--allow-existing", "--no-python-downloads", "--python", str(python), str(venv)]
    return [make, [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), "-r", "requirements-run.txt", *wanted]]


def next_setup(python: Path) -> list[list[str]]:
    """An environment for the package of a provider that cannot be installed beside the others."""
    uv = str(BIN / "uv")
    make = [uv, "venv", "--quiet", "--allow-existing", "--no-python-downloads", "--python", sys.executable, str(python.parents[1])]
    return [make, [uv, "pip", "install", "--quiet", "--python", str(python), "-r", "tests/conformance/next/requirements.txt"]]


def pytest_steps() -> list[Step]:
    python = str(BIN / "python")
    steps = [Step("unit", [[python, "-m", "pytest", "-q", "-n", "2", *existing("tests/unit", "tests/rehearsal")]], pytest=True, lane="tests")]
    trainer = [trainer_setup(), *services_setup(), [str(TRAINER_PYTHON), "-m", "pytest", "-q", "tests/trainer"]]
    steps.append(Step("trainer", trainer, pytest=True, lane="tests"))
    steps.append(Step("chaos", [[python, "-m", "pytest", "-q", "-n", "2", "tests/chaos"]], pytest=True, lane="tests"))
    conformance = [str(path) for path in sorted((ROOT / "tests/conformance").glob("test_*.py"))]
    steps.append(Step("conformance", [[python, "-m", "pytest", "-q", *conformance]], pytest=True, lane="tests"))
    own = BUILD / "venv-next" / "bin" / "python"
    steps.append(Step("conformance-next", [*next_setup(own), [str(own), "-m", "pytest", "-q", "tests/conformance/next"]], pytest=True, lane="tests"))
    if existing("tests/integration"):
        steps.append(Step("integration", [[python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "tests/integration"]], pytest=True, lane="tests"))
    if existing("tests/e2e"):
        steps.append(Step("e2e", [[python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-m", "not chaos", "tests/e2e"]], pytest=True, lane="tests"))
    high = second_end()
    if high is None:
        print("second end of ansible-core: not run; it wants a Python 3.12 or later beside a venv of Python 3.11", flush=True)
        return steps
    bin_high = BUILD / "venv-high" / "bin"
    path = {"PATH": f"{bin_high}:{os.environ['PATH']}"}
    plugins = [str(bin_high / "python"), "-m", "pytest", "-q", "-n", "2", "--second-end", "tests/unit"]
    syntax = [str(bin_high / "ansible-playbook"), "--syntax-check", "-i", "localhost,", "cycle.yml"]
    steps.append(Step("unit-high", [*high_setup(high), *([syntax] if existing("cycle.yml") else []), plugins], path, pytest=True))
    if existing("tests/e2e"):
        run = [str(bin_high / "python"), "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-m", "both_ends", *existing("tests/e2e", "tests/integration")]
        steps.append(Step("e2e-high", [*high_setup(high), run], path, pytest=True, lane="tests"))
    return steps


def molecule_steps() -> list[Step]:
    """Every role scenario once, in containers; one line instead where no Docker engine answers and none may be started."""
    tool = ROOT / "extensions" / "molecule" / "containers.py"
    if not tool.exists():
        return []
    done = subprocess.run([str(BIN / "python"), str(tool), "engine"], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"molecule: not run; {done.stderr.strip().removeprefix('containers: ')}", flush=True)
        # Where everything has to be proven, a missing engine is a failure.
        return [Step("molecule", [[str(BIN / "python"), str(tool), "engine"]])] if os.environ.get("CI") else []
    return [Step("molecule", [[str(BIN / "python"), "tests/tools/molecule_all.py"]], pytest=True)]


def all_steps() -> list[Step]:
    sanity = Step("sanity", [[str(BIN / "python"), "tests/tools/sanity.py"]])
    return [*pytest_steps(), *python_steps(), *yaml_steps(), sanity]


def run_lanes(steps: list[Step]) -> None:
    lanes = {lane: [step for step in steps if step.lane == lane] for lane in dict.fromkeys(step.lane for step in steps)}

    def work(lane: list[Step]) -> None:
        for step in lane:
            step.run()
            print(f"{'ok' if step.code == 0 else 'FAILED':6} {step.name:13} {step.seconds:6.1f} s", flush=True)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def closing_line(steps: list[Step], seconds: float) -> str:
    total: dict[str, int] = {}
    for step in steps:
        for word, number in step.counts.items():
            total[word] = total.get(word, 0) + number
        if step.code and not any(step.counts.get(word) for word in ("failed", "error", "errors")):
            total["failed"] = total.get("failed", 0) + 1
    text = ", ".join(f"{total[word]} {word}" for word in COUNTED if total.get(word)) or "no tests ran"
    return f" {text} in {seconds:.2f}s ".center(80, "=")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"groups ({', '.join(GROUPS)}) or single steps")
    names = parser.parse_args().names
    wanted = {step for name in names for step in GROUPS.get(name, [name])}
    everything = [*all_steps(), *(molecule_steps() if not wanted or "molecule" in wanted else [])]
    steps = [step for step in everything if not wanted or step.name in wanted]
    unknown = wanted - {step.name for step in steps} - {"unit-high", "e2e", "e2e-high", "molecule"}
    if unknown:
        parser.error(f"no such group or step: {', '.join(sorted(unknown))}")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.monotonic()
    run_lanes(steps)
    for step in steps:
        if step.code:
            print(f"\n--- {step.name}: {shlex.join(step.last)} (exit code {step.code})\n{step.text.rstrip()}\n", flush=True)
    print(closing_line(steps, time.monotonic() - started), flush=True)
    return 1 if any(step.code for step in steps) else 0


if __name__ == "__main__":
    sys.exit(main())
