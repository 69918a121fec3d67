# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers of the role scenarios: the Docker engine, the images, and pods with an SSH server in them.

Usage: containers.py engine | image PLATFORM ... | create SCENARIO [VARIANT] | mark SCENARIO | untouched SCENARIO | twin SCENARIO |
       destroy SCENARIO | list SCENARIO

A platform is BASE[-systemd][-tools], such as debian12, debian13-systemd, ubuntu2404. PODCYCLE_PLATFORMS names those of a scenario, by default debian12.
An image is pulled where a registry answers, else made with debootstrap (Debian only, as root).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".build" / "molecule"
BASES = {
    "debian12": ("debian:12", "bookworm"),
    "debian13": ("debian:13", "trixie"),
    "ubuntu2204": ("ubuntu:22.04", None),
    "ubuntu2404": ("ubuntu:24.04", None),
}
PYTHONS = {"debian12": "311", "debian13": "313", "ubuntu2204": "310", "ubuntu2404": "312"}
BARE = "python3 sudo openssh-server ca-certificates iproute2 procps systemd systemd-sysv dbus"
TOOLS = "g++ git rsync"
# What a machine's package tools are told by their environment; a container is told the same.
PASSED_ON = ("PIP_", "UV_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
LABEL = "podcycle.molecule"
TWIN = "-twin"
CACHE = "/var/cache/podcycle"
WHEELS = "/srv/wheels"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
CA_INSIDE = "/srv/ca-certificates.crt"


class Refused(Exception):
    """A sentence for people."""


def run(*command: str, timeout: float = 600, check: bool = True, stdin: bytes | None = None) -> str:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise Refused(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{' '.join(command[:3])} did not end in {timeout:.0f} s") from error
    if check and done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise Refused(f"{' '.join(command[:6])} ended with {done.returncode}: {said[-1] if said else 'no reason given'}")
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def docker(*words: str, timeout: float = 600, check: bool = True, stdin: bytes | None = None) -> str:
    return run("docker", *words, timeout=timeout, check=check, stdin=stdin)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f".{name}.lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def answering() -> bool:
    try:
        return bool(docker("info", "--format", "{{.ServerVersion}}", timeout=30, check=False).strip())
    except Refused:
        return False


def apt_install(*packages: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # What these recommend (control groups mounted, the keyring of the archive) is what makes them work.
    install = ["apt-get", "install", "-y", "-qq", *packages]
    if subprocess.run(install, capture_output=True, env=environment, check=False).returncode:
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, env=environment, check=False)
        done = subprocess.run(install, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise Refused(f"apt could not install {' '.join(packages)}: {done.stderr.strip()[-200:]}")


def engine() -> None:
    """A Docker engine that answers: the one that runs, or one installed and started here when that may be done."""
    if answering():
        return
    advice = "install and start a Docker engine (on Debian or Ubuntu: sudo apt-get install docker.io), then run this again"
    if os.geteuid() or not shutil.which("apt-get"):
        raise Refused(f"no Docker engine answers; {advice}")
    with locked("engine"):
        if not shutil.which("dockerd"):
            print("Installing docker.io with apt", file=sys.stderr, flush=True)
            apt_install("docker.io", "iptables")
        if Path("/run/systemd/system").is_dir():
            subprocess.run(["systemctl", "start", "docker"], capture_output=True, check=False)
        if not answering():
            with (HOME / "dockerd.log").open("ab") as log:
                subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        for _turn in range(90):
            if answering():
                return
            time.sleep(0.5)
    raise Refused(f"the Docker engine did not come up in 45 s; its log is {HOME / 'dockerd.log'}")


def has_image(tag: str) -> bool:
    return bool(docker("image", "ls", "--quiet", tag).strip())


def base_image(base: str) -> str:
    """The distribution's own image under its usual name."""
    name, suite = BASES[base]
    if has_image(name):
        return name
    try:
        docker("pull", "--quiet", name, timeout=300)
        return name
    except Refused as refusal:
        made_here = f"podcycle-base:{base}"
        if has_image(made_here):
            return made_here
        if suite is None or os.geteuid() or not shutil.which("apt-get"):
            raise Refused(f"the image {name} could not be pulled ({refusal}), and it cannot be made here") from refusal
    if not shutil.which("debootstrap"):
        apt_install("debootstrap")
    print(f"Making {made_here} with debootstrap", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=HOME, prefix="root-") as folder:
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", suite, f"{folder}/root", timeout=1200)
        archive = Path(folder, "root.tar")
        run("tar", "-C", f"{folder}/root", "--exclude=./var/cache/apt/archives/*.deb", "-cf", str(archive), ".")
        docker("import", str(archive), made_here)
    return made_here


def image(platform: str) -> str:
    """The image of a platform: its base with Python and an SSH server, and in the variant tools a compiler and git."""
    parts = platform.split("-")
    if parts[0] not in BASES:
        raise Refused(f"platform {platform!r} is not known; there are {', '.join(BASES)}, each with -systemd and -tools behind it")
    packages = BARE + (f" {TOOLS}" if "tools" in parts else "")
    stamp = hashlib.sha256(packages.encode()).hexdigest()[:10]
    variant = "tools" if "tools" in parts else "bare"
    tag = f"podcycle-{variant}:{parts[0]}-{stamp}"
    source = image(parts[0]) if variant == "tools" else None
    with locked(f"image-{parts[0]}"):
        if has_image(tag):
            return tag
        source = source or base_image(parts[0])
        print(f"Making {tag} from {source}", file=sys.stderr, flush=True)
        script = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages} >/dev/null && apt-get clean"
        container = docker("create", "--env", "DEBIAN_FRONTEND=noninteractive", source, "sh", "-ec", script).strip()
        try:
            docker("start", "--attach", container, timeout=900)
            docker("commit", "--change", 'CMD ["/bin/bash"]', container, tag)
        finally:
            docker("rm", "--force", container, check=False)
    return tag


def platforms() -> list[str]:
    return os.environ.get("PODCYCLE_PLATFORMS", "").split() or ["debian12"]


def name_of(scenario: str, platform: str) -> str:
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
    return f"podcycle-{checkout}-{scenario}-{platform}"


@functools.cache
def key_file() -> Path:
    key = HOME / "id_ed25519"
    with locked("key"):
        if not key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "molecule", "-f", str(key))
    return key


def environment_of_pods() -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
    for key in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "UV_CACHE_DIR", "PIP_CERT", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON"):
        found.pop(key, None)
    found["UV_CACHE_DIR"] = f"{CACHE}/uv"
    if wheel_folder():
        found["UV_FIND_LINKS"] = found["PIP_FIND_LINKS"] = WHEELS
    if CA_BUNDLE.exists():
        found["SSL_CERT_FILE"] = found["PIP_CERT"] = CA_INSIDE
    return found


def wheel_folder() -> Path | None:
    links = (os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or "").replace(",", " ").split()
    return next((Path(link) for link in links if Path(link).is_dir()), None)


def lent_python(platform: str) -> Path | None:
    """This machine's interpreter, where its wheel of torch is made for that one and the platform's own is another."""
    folder, own = wheel_folder(), f"{sys.version_info[0]}{sys.version_info[1]}"
    theirs = PYTHONS[platform.split("-")[0]]
    if folder is None or theirs == own or any(folder.glob(f"torch-*-cp{theirs}-*.whl")) or not any(folder.glob(f"torch-*-cp{own}-*.whl")):
        return None
    return Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")


def mounts(platform: str) -> list[str]:
    """Package caches that outlive a container, wheels of this machine with an interpreter for them, and the certificates it trusts."""
    cache = HOME / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    words = ["--volume", f"{cache}:{CACHE}"]
    if CA_BUNDLE.exists():
        words += ["--volume", f"{CA_BUNDLE.resolve()}:{CA_INSIDE}:ro"]
    if wheel_folder():
        words += ["--volume", f"{wheel_folder()}:{WHEELS}:ro"]
    python = lent_python(platform)
    if python:
        # At its own place: it finds its libraries by their path.
        words += ["--volume", f"{python.parents[1]}:{python.parents[1]}:ro"]
    return words


def create(scenario: str, wanted: str = "") -> None:
    """One container per platform; a container that runs already stays."""
    engine()
    for platform in platforms():
        create_one(scenario, f"{platform}-{wanted}" if wanted and wanted not in platform.split("-") else platform, platform)
    mark(scenario)


def create_one(scenario: str, full: str, platform: str) -> None:
    tag, name = image(full), name_of(scenario, platform)
    if docker("ps", "--quiet", "--filter", f"name=^{name}$").strip():
        return
    docker("rm", "--force", name, check=False)
    words = ["run", "--detach", "--name", name, "--hostname", platform, "--label", f"{LABEL}={name_of(scenario, '')}"]
    words += ["--publish", "127.0.0.1::22", *mounts(platform)]
    if "systemd" in full.split("-"):
        words += ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--cgroupns=host"]
        words += ["--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", tag, "/lib/systemd/systemd"]
    else:
        words += ["--init", tag, "sh", "-c", "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e"]
    docker(*words)
    prepare(name)


def prepare(name: str) -> None:
    """The machine's environment, our key, and its host key into the known hosts."""
    environment = "".join(f'{key}="{value}"\n' for key, value in sorted(environment_of_pods().items()))
    docker("exec", "--interactive", name, "sh", "-c", "cat >> /etc/environment", stdin=environment.encode())
    public = key_file().with_suffix(".pub").read_bytes()
    docker("exec", "--interactive", name, "sh", "-c", "umask 077; mkdir -p /root/.ssh; cat >> /root/.ssh/authorized_keys", stdin=public)
    host_key = docker("exec", name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
    with locked("known-hosts"):
        known = HOME / "known_hosts"
        lines = [line for line in (known.read_text(encoding="utf-8") if known.exists() else "").splitlines() if not line.startswith(f"{name} ")]
        known.write_text("\n".join([*lines, f"{name} {host_key[0]} {host_key[1]}"]) + "\n", encoding="utf-8")
    for _turn in range(60):
        words = ["ssh", "-o", "BatchMode=yes", *ssh_words(name), "-i", str(key_file()), "-p", str(port_of(name)), "root@127.0.0.1", "true"]
        if subprocess.run(words, capture_output=True, timeout=30, check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise Refused(f"the container {name} answers no SSH after 30 s; see docker logs {name}")


def ssh_words(name: str) -> list[str]:
    return ["-o", f"UserKnownHostsFile={HOME / 'known_hosts'}", "-o", f"HostKeyAlias={name}", "-o", "StrictHostKeyChecking=yes"]


def port_of(name: str) -> int:
    return int(docker("port", name, "22/tcp").splitlines()[0].rpartition(":")[2])


def names(scenario: str, *, twins: bool = False) -> list[str]:
    found = docker("ps", "--all", "--filter", f"label={LABEL}={name_of(scenario, '')}", "--format", "{{.Names}}").split()
    return sorted(name for name in found if twins or not name.endswith(TWIN))


# What a login and a module leave behind in any case.
TRACES = ("/root/.ansible", "/tmp", "/run", "/var/log", "/var/cache", "/root/.cache", "/root/.ssh")


def changes(name: str) -> set[str]:
    lines = docker("diff", name).splitlines()
    return {line for line in lines if not line[2:].startswith(TRACES) and line[2:] not in ("/root", "/var")}


def mark(scenario: str) -> None:
    """Remember what the file systems look like now."""
    for name in names(scenario):
        (HOME / f"{name}.json").write_text(json.dumps(sorted(changes(name))), encoding="utf-8")


def untouched(scenario: str) -> None:
    """Refuse where the file system differs from what it was when it was marked."""
    for name in names(scenario):
        before = set(json.loads((HOME / f"{name}.json").read_text(encoding="utf-8")))
        written = sorted(changes(name) - before)
        if written:
            raise Refused(f"{name}: check mode has written {len(written)} files, such as {', '.join(written[:5])}")


def twin(scenario: str) -> None:
    """Give a bare container of the same base the one file from each pod, run it, and print the fingerprint that it ends with."""
    prints: dict[str, str] = {}
    for name in names(scenario):
        platform = name.removeprefix(name_of(scenario, ""))
        second, script = f"{name}{TWIN}", HOME / f"{name}.sh"
        docker("cp", f"{name}:/workspace/pod_setup.sh", str(script))
        docker("rm", "--force", second, check=False)
        environment = [word for key, value in environment_of_pods().items() for word in ("--env", f"{key}={value}")]
        label = f"{LABEL}={name_of(scenario, '')}"
        bare = base_image(platform.split("-")[0])
        docker("run", "--detach", "--init", "--name", second, "--label", label, *mounts(platform), *environment, bare, "sleep", "7200")
        docker("exec", second, "mkdir", "-p", "/workspace")
        docker("cp", str(script), f"{second}:/workspace/pod_setup.sh")
        said = docker("exec", second, "bash", "/workspace/pod_setup.sh", timeout=1800)
        print(said, flush=True)
        found = re.findall(r"fingerprint ([0-9a-f]{64})", said)
        prints[platform] = found[-1] if found else "none"
    print(json.dumps(prints))


def destroy(scenario: str) -> None:
    if answering():
        found = names(scenario, twins=True)
        if found:
            docker("rm", "--force", "--volumes", *found)


def inventory(scenario: str) -> dict[str, object]:
    hosts = {}
    for name in names(scenario) if answering() else []:
        platform = name.removeprefix(name_of(scenario, ""))
        python = lent_python(platform)
        hosts[platform] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port_of(name),
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(key_file()),
            "ansible_ssh_common_args": " ".join(ssh_words(name)),
            "container": name,
            **({"pytorch_python": str(python)} if python else {}),
        }
    return {"_meta": {"hostvars": hosts}, "all": {"children": ["pods"]}, "pods": {"hosts": list(hosts)}}


def main(words: list[str]) -> int:
    if not words or words[0] not in ("engine", "image", "create", "mark", "untouched", "twin", "destroy", "list"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        verb, *rest = words
        if verb == "engine":
            engine()
        elif verb == "image":
            engine()
            print("\n".join(image(platform) for platform in rest))
        elif verb == "create":
            create(*rest)
        elif verb == "destroy":
            destroy(rest[0])
        elif verb == "mark":
            mark(rest[0])
        elif verb == "twin":
            twin(rest[0])
        elif verb == "untouched":
            untouched(rest[0])
        else:
            print(json.dumps(inventory(rest[0])))
    except Refused as refusal:
        print(f"containers: {refusal}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
