# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a process pod: what is in it, what a stop throws away, and the environment of its sessions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DRIVER_VERSION = "580.95.05"
CUDA_VERSION = "13.0"
# What the image of a rented host may bake in; everything else of this machine's environment stays outside.
BAKED_IN = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "PIP_FIND_LINKS", "UV_FIND_LINKS",
            "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy")  # fmt: skip
REFUSALS = {
    "sudo": "sudo: a process pod runs as its one user; become is refused here",
    "su": "su: a process pod runs as its one user; become is refused here",
    "doas": "doas: a process pod runs as its one user; become is refused here",
    "systemctl": "System has not been booted with systemd as init system (PID 1). Can't operate.",
    "service": "service: a process pod has no system services",
    "apt-get": "apt-get: a process pod must not change the machine it runs on; system packages are refused here",
    "apt": "apt: a process pod must not change the machine it runs on; system packages are refused here",
    "dpkg": "dpkg: a process pod must not change the machine it runs on; system packages are refused here",
    "docker": "docker: a process pod has no container engine",
    "reboot": "reboot: a process pod must not touch the machine it runs on",
    "shutdown": "shutdown: a process pod must not touch the machine it runs on",
}


def base_interpreter() -> Path:
    """The interpreter under the virtual environment that runs the rehearsal cloud."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable) or sys.executable))


def persistent_folder(pod_dir: Path, mount_path: str) -> Path:
    """Where a volume mounted at an absolute path lies in the pod folder; `/workspace` is `workspace`."""
    parts = [part for part in mount_path.split("/") if part not in ("", ".", "..")]
    return pod_dir.joinpath(*(parts or ["workspace"]))


def build(pod_dir: Path, gpu: Mapping[str, Any] | None, image_cache: Path | None) -> None:
    """Make the folder as a fresh container would find it; what a persistent volume left there stays."""
    for name in ("home", "workspace", "tmp", "bin", "cache"):
        (pod_dir / name).mkdir(parents=True, exist_ok=True)
    pod_dir.chmod(0o700)
    (pod_dir / "tmp").chmod(0o1777)
    interpreter = base_interpreter()
    for name in ("python3", f"python3.{sys.version_info.minor}"):
        link = pod_dir / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(interpreter)
    for name, sentence in REFUSALS.items():
        _script(pod_dir / "bin" / name, f"echo {_quote(sentence)} >&2\nexit 1\n")
    if gpu is not None:
        _install_nvidia_smi(pod_dir, gpu)
    _write_profile(pod_dir)
    if image_cache is not None and image_cache.is_dir() and not (pod_dir / "cache" / "uv").exists():
        _copy_cache(image_cache, pod_dir / "cache" / "uv")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _script(path: Path, body: str) -> None:
    path.write_text("#!/bin/sh\n" + body, encoding="utf-8")
    path.chmod(0o755)


def _install_nvidia_smi(pod_dir: Path, gpu: Mapping[str, Any]) -> None:
    folder = pod_dir / "bin" / ".nvidia"
    folder.mkdir(exist_ok=True)
    cards = [
        {
            "index": index,
            "name": gpu["name"],
            "uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{pod_dir.name}/{index}')}",
            "bus_id": f"00000000:{index + 1:02X}:00.0",
            "memory_mib": gpu["memory_mib"],
            "compute_cap": gpu["compute_cap"],
            "power_w": gpu["power_w"],
        }
        for index in range(gpu["count"])
    ]
    (folder / "gpu.json").write_text(json.dumps({"driver": DRIVER_VERSION, "cuda": CUDA_VERSION, "cards": cards}), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("nvidia_smi.py"), folder / "nvidia_smi.py")
    binary = pod_dir / "bin"
    _script(binary / "nvidia-smi", f'exec {_quote(str(binary / "python3"))} -I -S -B {_quote(str(folder / "nvidia_smi.py"))} "$@"\n')


def _write_profile(pod_dir: Path) -> None:
    # /etc/profile of Debian replaces PATH in login shells.
    text = f'export PATH={_quote(str(pod_dir / "bin"))}:"$PATH"\n'
    for name in (".profile", ".bash_profile"):
        path = pod_dir / "home" / name
        if not path.exists():
            path.write_text(text, encoding="utf-8")


def _copy_cache(source: Path, target: Path) -> None:
    done = subprocess.run(["cp", "-al", "--", str(source), str(target)], capture_output=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", "--", str(source), str(target)], capture_output=True, check=True)


def write_authorized_keys(pod_dir: Path, environment: Mapping[str, str]) -> bool:
    """What the image's start script does at container start; False when no key was given, and then no sshd starts."""
    keys = [environment[name].strip() for name in ("PUBLIC_KEY", "SSH_PUBLIC_KEY") if environment.get(name, "").strip()]
    folder = pod_dir / "home" / ".ssh"
    if not keys:
        return False
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "authorized_keys"
    path.write_text("\n".join(dict.fromkeys(keys)) + "\n", encoding="utf-8")
    path.chmod(0o600)
    return True


def wipe_container_disk(pod_dir: Path, persistent_path: str | None) -> None:
    """A stop loses everything outside the persistent volume."""
    kept = persistent_folder(pod_dir, persistent_path) if persistent_path else None
    if not pod_dir.is_dir():
        return
    for entry in list(pod_dir.iterdir()):
        if kept is not None and (entry == kept or entry in kept.parents):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def link_volume(source: Path, target: Path) -> None:
    """Without namespaces nothing can be mounted; what the image had there is hidden all the same."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def session_environment(pod_dir: Path) -> dict[str, str]:
    """Environment of every SSH session: the pod's own folders, and of this machine only what an image would bake in."""
    home = pod_dir / "home"
    environment = {
        "HOME": str(home),
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": shell(),
        "LANG": "C.UTF-8",
        "PATH": f"{pod_dir / 'bin'}:{SYSTEM_PATH}",
        "TMPDIR": str(pod_dir / "tmp"),
        "XDG_CACHE_HOME": str(pod_dir / "cache"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_STATE_HOME": str(home / ".local" / "state"),
        "UV_CACHE_DIR": str(pod_dir / "cache" / "uv"),
    }
    return environment | {name: os.environ[name] for name in BAKED_IN if os.environ.get(name)}


def shell() -> str:
    return "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"


def passwd(pod_dir: Path) -> str:
    """The machine's user list with root's home in the pod, so that `~root` is the pod's too."""
    lines = ["root:x:0:0:root:{}:{}".format(pod_dir / "home", shell())]
    with open("/etc/passwd", encoding="utf-8", errors="replace") as handle:
        lines += [line.rstrip("\n") for line in handle if not line.startswith("root:")]
    return "\n".join(lines) + "\n"


def kept_paths() -> list[Path]:
    """What a pod needs of the machine even where it lies under /tmp."""
    paths = [base_interpreter().parent.parent, Path(sys.base_prefix)]
    for name in BAKED_IN:
        for word in os.environ.get(name, "").split():
            if word.startswith("/"):
                paths.append(Path(word))
    return paths
