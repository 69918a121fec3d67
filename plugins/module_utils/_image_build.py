# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine as the training image needs it: build, try, push, each told apart when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._errors import clean_text
from ._image import LABEL, WHAT, ImageError, host_of

_STEP = re.compile(r"^#\d+ \[[^\]]*?(\d+/\d+\] .+)")
_OUTPUT = re.compile(r"#\d+ \d+\.\d+ +(\S.*)")
_COMMAND = re.compile(r"(?:executor failed running \[.*\]|process \".*\" did not complete successfully)")
_MOUNTS = re.compile(r"(--mount=\S+|\s)+")
_REFUSED = re.compile(r"(?i)\b401\b|unauthorized|authentication required|no basic auth|access denied|requested access|insufficient_scope|\b403\b|forbidden")
_UNREACHABLE = re.compile(r"(?i)no such host|connection refused|i/o timeout|dial tcp|tls handshake|network is unreachable|failed to do request")
_MOVE = re.compile(r"[a-h][1-8][a-h][1-8][qrbn]?")
_FILES = ("model.pt", "manifest.json", "metrics.jsonl")
SERVICES = ("SSHD", "JUPYTER", "INFERENCE_API", "HF_WATCH", "IDLE_WATCHDOG", "OTEL_COLLECTOR")


@dataclass
class Docker:
    """The client on this machine; `program` is another one in tests."""

    program: str = "docker"
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self.program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                env={**os.environ, **self.environment}, timeout=timeout, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise ImageError(f"{WHAT}: there is no program {self.program} here", hint="install Docker Engine with its buildx plugin") from error
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"{WHAT}: {self.program} {' '.join(words[:2])} did not answer in {timeout:.0f} s", hint="see what the engine does") from error

    def probe(self) -> None:
        """Everything that has to be there, before anything is written."""
        done = self.run("version", "--format", "{{.Server.Version}}", timeout=60)
        if done.returncode:
            said = last_line(done)
            if "permission denied" in said.lower():
                raise ImageError(
                    f"{WHAT}: this account may not use the Docker engine ({said})", hint="sudo usermod -aG docker YOU, log in again, then type the same"
                )
            raise ImageError(f"{WHAT}: no Docker engine answers ({said})", hint="start it (sudo systemctl start docker), then type the same again")
        done = self.run("buildx", "version", timeout=60)
        if done.returncode:
            hint = "install docker-buildx-plugin (Docker's packages) or docker-buildx (Ubuntu, Debian 13), then type the same again"
            raise ImageError(f"{WHAT}: docker has no buildx ({last_line(done)})", hint=hint)

    def image(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of an image; None when there is none of that name."""
        done = self.run("image", "inspect", name)
        if done.returncode:
            if "no such image" in done.stderr.lower():
                return None
            raise ImageError(f"{WHAT}: the engine does not tell about {name}: {last_line(done)}")
        found = json.loads(done.stdout)[0]
        return {
            "id": found["Id"],
            "size": int(found.get("Size") or 0),
            "labels": found["Config"].get("Labels") or {},
            "content": [found.get("Created"), (found.get("RootFS") or {}).get("Layers")],
        }

    def build(self, words: list[str], log: Path, seconds: float, tell: Callable[[str], None]) -> float:
        """Run buildx with its whole output in a log, and each step of the Dockerfile told when it begins."""
        began = time.monotonic()
        lines: list[str] = []
        with log.open("w", encoding="utf-8") as stream:
            child = subprocess.Popen(
                [self.program, "buildx", "build", "--progress", "plain", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip
            # buildx is a child of docker, and would hold the pipe open.
            timer = threading.Timer(seconds, os.killpg, (child.pid, signal.SIGKILL))
            timer.start()
            told = set()
            try:
                for line in child.stderr or ():
                    stream.write(line)
                    lines = [*lines[-200:], line.rstrip()]
                    step = _STEP.match(line)
                    if step and step.group(1) not in told:
                        told.add(step.group(1))
                        tell(clean_text(f"{time.monotonic() - began:.0f} s [{_MOUNTS.sub(' ', step.group(1))}", 120))
                child.wait()
            finally:
                timer.cancel()
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        took = time.monotonic() - began
        if child.returncode:
            ended = "did not end in" if took >= seconds else "ended after"
            raise BuildFailed(lines, f"{ended} {took:.0f} s", log)
        return round(took, 1)


class BuildFailed(ImageError):
    """What buildx said last, to be told in the words of what it was asked for."""

    def __init__(self, lines: list[str], ended: str, log: Path) -> None:
        errors = [line for line in lines if re.search(r"(?i)\berror\b|denied|unauthorized|failed", line) and not line.startswith("------")]
        said = _COMMAND.sub("a step", (errors or lines or ["nothing"])[-1].removeprefix("ERROR: "))
        self.in_step = "a step" in said
        # What the step itself said last, from its error on; its command alone tells nobody why.
        output = [found.group(1).strip() for line in lines if (found := _OUTPUT.match(line))]
        first = max((number for number, line in enumerate(output) if line.lower().startswith("error")), default=len(output) - 1)
        self.said = clean_text(f"{said}: {'; '.join(output[first:])}" if self.in_step and output else said, 400)
        self.everything = "\n".join(lines)
        super().__init__(f"{WHAT}: docker buildx build {ended}: {self.said}", hint=f"see {log}")


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return clean_text(lines[-1] if lines else f"it ended with {done.returncode}", 200)


def build_words(platform: str, labels: Mapping[str, str], tags: list[str], ca_bundle: str, folder: Path) -> list[str]:
    words = ["--platform", platform]
    for name, value in sorted(labels.items()):
        words += ["--label", f"{name}={value}"]
    for tag in tags:
        words += ["--tag", tag]
    if ca_bundle:
        # A secret of the build: there while a step runs, in no layer.
        words += ["--secret", f"id=ca,src={ca_bundle}"]
    return [*words, str(folder)]


def smoke(docker: Docker, image: str, seconds: float) -> dict[str, Any]:
    """Train and infer in a container without a network, as the runner, with every service off; the container is gone afterwards."""
    name = f"podcycle-smoke-{secrets.token_hex(4)}"
    what = f"try the training image {image}"
    off = [word for service in SERVICES for word in ("--env", f"START_{service}=0")]
    words = ["run", "--name", name, "--rm", "--network", "none", "--user", "runner", "--pull", "never", "--label", "io.podcycle.smoke=1", *off, image]
    try:
        done = docker.run(*words, "python3", "/opt/podcycle/image/smoke.py", timeout=seconds)
    except ImageError as error:
        if "did not answer" in error.message:
            raise ImageError(f"{what}: it did not end in {seconds:.0f} s", hint="give it more time with -e image_smoke_seconds=N") from error
        raise
    finally:
        with contextlib.suppress(ImageError):
            docker.run("rm", "--force", name, timeout=60)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ImageError(f"{what}: it ended with {done.returncode} and without a report: {last_line(done)}")
    wrong = judged(found)
    if done.returncode or wrong:
        raise ImageError(f"{what}: {'; '.join(wrong) or f'it ended with {done.returncode}'}", hint=f"its last words: {last_line(done)}", smoke=found)
    return found


def judged(found: Mapping[str, Any]) -> list[str]:
    """What of the report is not as it has to be."""
    files = found.get("files") or {}
    wrong = [f"{step} ended with {found.get(f'{step}_exit_code')}" for step in ("train", "infer") if found.get(f"{step}_exit_code") != 0]
    wrong += [f"{name} is {'empty' if name in files else 'missing'}" for name in _FILES if not files.get(name)]
    if not wrong and not _MOVE.fullmatch(str(found.get("move"))):
        wrong.append(f"the model answers {clean_text(found.get('move'), 20)!r} instead of a move")
    if found.get("uid") in (0, None):
        wrong.append("it ran as root")
    if found.get("listening"):
        wrong.append(f"something listens on {', '.join(map(str, found['listening']))} although every service is off")
    return wrong


def push(docker: Docker, words: list[str], repository: str, tags: list[str], log: Path, seconds: float, tell: Callable[[str], None]) -> dict[str, str]:
    """Push by buildx, and read back what the registry has now: tag -> digest."""
    what = f"push {repository}:{tags[0]}"
    try:
        docker.build(["--push", *words], log, seconds, tell)
    except BuildFailed as error:
        if _REFUSED.search(error.everything):
            host = host_of(repository)
            login = f"docker login{'' if host == 'docker.io' else f' {host}'}"
            hint = f"type {login} with an account that may write there, then the same again"
            raise ImageError(f"{what}: the registry refused: {error.said}", hint=hint, registry=host) from None
        if _UNREACHABLE.search(error.said) and not error.in_step:
            raise ImageError(f"{what}: the registry {host_of(repository)} cannot be reached: {error.said}", hint="check its name and the network") from None
        raise ImageError(f"{what}: {error.said}", hint=error.hint) from None
    found = {tag: there(docker, f"{repository}:{tag}") for tag in tags}
    lost = [tag for tag, digest in found.items() if not digest]
    if lost:
        raise ImageError(f"{what}: the push ended well, and the registry does not tell about {', '.join(lost)}; type the same again")
    return found


def there(docker: Docker, name: str) -> str:
    """The digest that a registry has under a name; empty when it has none or does not say."""
    found, _done = _inspect(docker, name, "--format", "{{json .Manifest}}")
    digest = (found or {}).get("digest")
    return digest if isinstance(digest, str) else ""


def _inspect(docker: Docker, name: str, *how: str) -> tuple[dict[str, Any] | None, subprocess.CompletedProcess[str]]:
    done = docker.run("buildx", "imagetools", "inspect", name, *how, timeout=120)
    try:
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else None, done


def _told(docker: Docker, name: str, *how: str) -> dict[str, Any]:
    """What the registry has under a digest that it has just told."""
    found, done = _inspect(docker, name, *how)
    if found is None:
        raise ImageError(
            f"compare {name} with the image that was built and tried here: the registry cannot be asked ({last_line(done)})",
            hint="it was pushed; type the same again: what is there already is not sent anew",
        )
    return found


def refuse_another(docker: Docker, repository: str, pushed: Mapping[str, str], built: Mapping[str, Any], platform: str) -> None:
    """What the registry has is the image that was built and tried here: a builder that has lost its cache makes another one for a push."""
    for digest in dict.fromkeys(pushed.values()):
        manifest, config = _manifest(docker, repository, digest, platform)
        if built["id"] in (config, manifest, digest):
            continue
        name = f"{repository}@{manifest}"
        # An engine that keeps images as containerd does names them by their manifest, which a push writes anew; others by their config.
        if config and all(built["content"]) and _content(_told(docker, name, "--format", "{{json .Image}}"), platform) == built["content"]:
            continue
        tags = ", ".join(tag for tag, one in pushed.items() if one == digest)
        theirs = f"image {config}" if config else f"something without an image for {platform}"
        raise ImageError(
            f"push {repository}: the registry has {theirs} under {tags}, which is not the one that was built and tried here, {built['id']}",
            hint=f"nobody has tried it; type docker image rm --force {built['id']}, then the same again: it is built, tried and pushed anew",
            pushed=config or digest,
            tried=built["id"],
        )


def _manifest(docker: Docker, repository: str, digest: str, platform: str) -> tuple[str, str]:
    """The digests of a platform's manifest and of its config; an index has one manifest for each platform, and some for what is said of them."""
    found = _told(docker, f"{repository}@{digest}", "--raw")
    if "manifests" in found:
        rows = [row for row in found["manifests"] if isinstance(row, dict) and isinstance(row.get("platform"), dict)]
        own = [row.get("digest") for row in rows if f"{row['platform'].get('os')}/{row['platform'].get('architecture')}" == platform]
        if len(own) != 1 or not isinstance(own[0], str):
            return digest, ""
        digest, found = own[0], _told(docker, f"{repository}@{own[0]}", "--raw")
    config = found.get("config")
    return digest, str(config.get("digest") or "") if isinstance(config, dict) else ""


def _content(image: Mapping[str, Any], platform: str) -> list[Any]:
    one = image.get(platform, image)
    return [one.get("created"), (one.get("rootfs") or {}).get("diff_ids")]


def is_built(found: Mapping[str, Any] | None, digest: str) -> bool:
    return found is not None and found["labels"].get(LABEL) == digest
