# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pod's services are to be: a variable of the role, else the container's environment, else the default.

One table names them all; started as a program, it prints it as docs/services.md shows it. Standard library only.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Options, whose quotes may hold blanks, before the kind of the key.
KEY = re.compile(r'(?:(?:[^\s"]|"[^"]*")+\s+)?(?:ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+(?: .*)?')
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


class SettingsError(Exception):
    """A value that cannot be meant."""


@dataclass(frozen=True)
class Setting:
    """One row: its name in the role (behind services_), in the environment, its kind, its default, its meaning."""

    name: str
    env: str
    kind: str
    default: Any
    meaning: str
    low: float = 0
    high: float = 2592000
    choices: tuple[str, ...] = ()


ACTIONS = ("stop", "terminate", "exit", "none")
# A row without a name in the role is read from the environment alone: a secret, or what is told and not done.
SETTINGS = (
    Setting("sshd", "START_SSHD", "bool", False, "an SSH server, where none answers yet"),
    Setting("jupyter", "START_JUPYTER", "bool", False, "Jupyter Lab"),
    Setting("inference", "START_INFERENCE_API", "bool", False, "the inference API"),
    Setting("hf_watch", "START_HF_WATCH", "bool", False, "the upload of finished files to Hugging Face"),
    Setting("idle_watchdog", "START_IDLE_WATCHDOG", "bool", False, "the idle watchdog"),
    Setting("", "START_OTEL_COLLECTOR", "noted", None, "read and told: no collector is brought"),
    Setting("repo_url", "REPO_URL", "str", "", "repository to clone; none without it"),
    Setting("repo_ref", "REPO_REF", "str", "main", "its branch, tag or commit"),
    Setting("repo_dir", "REPO_DIR", "path", "{workspace}/repo", "its folder"),
    Setting("clone_repo", "CLONE_REPO_ON_START", "bool", True, "clone it where it is missing"),
    Setting("pull_repo", "GIT_AUTO_PULL", "bool", True, "bring a clone without local changes up to date"),
    Setting("venv", "VENV_DIR", "path", "{workspace}/venv", "environment of the repository's requirements, made where it is missing"),
    Setting("sync_requirements", "SYNC_REQUIREMENTS_ON_START", "bool", True, "install its requirements.txt when that has changed"),
    Setting("force_sync", "FORCE_PIP_SYNC", "bool", False, "install it each time"),
    Setting("account", "RUNNER_USER", "str", "", "account that the keys are for; the one that converges when empty or not there"),
    Setting("authorized_keys", "AUTHORIZED_KEYS", "str", "", "public keys, one a line; those of others in the file stay"),
    Setting("sshd_port", "SSHD_PORT", "int", 22, "port of the SSH server", 1, 65535),
    Setting("jupyter_port", "JUPYTER_PORT", "int", 8888, "port of Jupyter Lab", 1, 65535),
    Setting("jupyter_root", "JUPYTER_ROOT_DIR", "path", "{workspace}", "folder that Jupyter Lab shows"),
    Setting("", "JUPYTER_TOKEN", "secret", None, "its token; a random one, kept in a file, when not given"),
    Setting("inference_host", "INFERENCE_API_HOST", "str", "", "address to listen on; by the rented ports when empty"),
    Setting("inference_port", "INFERENCE_API_PORT", "int", 8000, "port of the inference API", 1, 65535),
    Setting("inference_model", "INFERENCE_API_MODEL_PATH", "str", "latest", "a model.pt, or the newest below WORKSPACE/runs and WORKSPACE/models"),
    Setting("inference_device", "INFERENCE_API_DEVICE", "str", "auto", "auto, cpu, cuda or cuda:N"),
    Setting("inference_topk", "INFERENCE_API_TOPK_DEFAULT", "int", 10, "moves of an answer when a request names no number", 1, 218),
    Setting("hf_repo_id", "HF_REPO_ID", "str", "", "repository on Hugging Face"),
    Setting("hf_repo_type", "HF_REPO_TYPE", "str", "model", "model, dataset or space", choices=("model", "dataset", "space")),
    Setting("", "HF_TOKEN", "secret", None, "key for Hugging Face; it stays in the container's environment"),
    Setting("hf_source_dir", "HF_SYNC_SOURCE_DIR", "path", "{workspace}/runs", "folder that is watched"),
    Setting("hf_patterns", "HF_SYNC_PATTERNS", "list", ["*.pt", "*.json"], "names of files that are uploaded"),
    Setting("hf_interval_seconds", "HF_SYNC_INTERVAL_SECONDS", "int", 120, "seconds between two looks", 5, 86400),
    Setting("", "HF_HUB_OFFLINE", "kept", None, "nothing is uploaded while it is set"),
    Setting("idle_seconds", "IDLE_TIMEOUT_SECONDS", "int", 3600, "seconds without work after which the pod is ended", 1),
    Setting("idle_interval_seconds", "IDLE_CHECK_INTERVAL_SECONDS", "int", 15, "seconds between two looks", 1, 3600),
    Setting("idle_gpu_percent", "IDLE_GPU_UTIL_THRESHOLD", "int", 10, "a GPU that is used this much works", 0, 100),
    Setting("idle_gpu_mem_mb", "IDLE_GPU_MEM_MB_THRESHOLD", "int", 0, "a GPU with more MiB in use than this works; 0: memory is no work", 0, 10000000),
    Setting("idle_heartbeat", "ACTIVITY_HEARTBEAT_FILE", "path", "{workspace}/.podcycle/services/heartbeat", "a file that is touched by whoever works"),
    Setting("idle_action", "AUTOSTOP_ACTION", "str", "stop", "stop, terminate, exit or none; runpod_api is stop", choices=ACTIONS),
    Setting("timing", "RUNPOD_PHASE_TIMING_ENABLED", "bool", True, "write runpod_phase_times.jsonl"),
    Setting("timing_log", "RUNPOD_PHASE_TIMING_LOG", "str", "", "where to; the run's folder in a cycle, else WORKSPACE/.podcycle/timings, when empty"),
    Setting("timing_run_id", "RUNPOD_PHASE_TIMING_RUN_ID", "str", "", "the run that its rows name; that of the cycle when empty"),
)  # fmt: skip
# Where the training image lies; its start brings in these two what the container's environment asks for.
IMAGE = "/opt/podcycle"
IMAGE_WORKSPACES = (f"{IMAGE}/root", f"{IMAGE}/runner")
SYNONYMS = {("idle_action", "runpod_api"): "stop"}


def read(row: Setting, raw: Any, where: str) -> Any:
    """A value in its kind; where it comes from is told when it has none."""
    text = str(raw).strip()
    if row.kind == "bool":
        if text.lower() not in TRUE + FALSE:
            raise SettingsError(f"{where} is {text[:40]!r}, which is neither 1 nor 0")
        return text.lower() in TRUE
    if row.kind == "int":
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not row.low <= int(text) <= row.high:
            raise SettingsError(f"{where} is {text[:40]!r} and has to be a number from {row.low:.0f} to {row.high:.0f}")
        return int(text)
    if row.kind == "list":
        return [str(item) for item in raw] if isinstance(raw, list) else [item.strip() for item in text.split(",") if item.strip()]
    if row.kind == "path" and not (text.startswith("/") and ".." not in text.split("/") and text.strip("/")):
        raise SettingsError(f"{where} is {text[:80]!r}, which is no folder or file from the root on")
    text = SYNONYMS.get((row.name, text), text)
    if row.choices and text not in row.choices:
        raise SettingsError(f"{where} is {text[:40]!r}, which is none of {', '.join(row.choices)}")
    return text


def resolve(given: Mapping[str, Any], environ: Mapping[str, str], workspace: str) -> dict[str, Any]:
    """Every setting, where each comes from, and what is told about names that change nothing."""
    known = [row.name for row in SETTINGS if row.name]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise SettingsError(f"there is no variable services_{name}{f'; services_{near[0]} was meant, perhaps' if near else ''}")
    settings: dict[str, Any] = {}
    origin: dict[str, str] = {}
    notes = []
    for row in SETTINGS:
        if row.kind == "noted" and environ.get(row.env, "") not in FALSE:
            notes.append(f"{row.env} is {environ[row.env][:40]!r}: {row.meaning.removeprefix('read and told: ')}")
        if not row.name:
            continue
        if given.get(row.name) is not None:
            settings[row.name], origin[row.name] = read(row, given[row.name], f"services_{row.name}"), f"services_{row.name}"
        elif environ.get(row.env, "") != "":
            settings[row.name], origin[row.name] = read(row, environ[row.env], row.env), row.env
        else:
            settings[row.name] = row.default.replace("{workspace}", workspace) if isinstance(row.default, str) else row.default
            origin[row.name] = "default"
    return {"settings": settings, "origin": origin, "notes": notes}


def keys_in(text: str, where: str = "AUTHORIZED_KEYS") -> list[str]:
    """The public keys of a text, one a line."""
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    bad = [key for key in keys if not KEY.fullmatch(key)]
    if bad:
        raise SettingsError(f"{where} holds a line that is no public key: {bad[0][:30]!r}")
    return keys


def brought_by_image(environ: Mapping[str, str], workspace: str, first_command: str) -> list[str] | None:
    """What the training image brings by itself; None where its start is not the container's first program, and in its own workspaces."""
    if f"{IMAGE}/image/start.py" not in first_command or workspace in IMAGE_WORKSPACES:
        return None
    try:
        settings = resolve({}, environ, workspace)["settings"]
    except SettingsError:
        # It brings keys and an SSH server then.
        return []
    return [name for name in ("sshd", "jupyter", "inference", "hf_watch", "idle_watchdog", "repo_url") if settings[name]]


def rented(port: int, ports: list[str]) -> bool:
    """Whether a port is among the rented ones, such as 8888/http."""
    return str(port) in (entry.partition("/")[0] for entry in ports)


def places(settings: Mapping[str, Any], ports: list[str], pod_id: str) -> dict[str, dict[str, Any]]:
    """Where each open service listens and how it is reached."""
    found = {}
    for name in ("jupyter", "inference"):
        port = settings[f"{name}_port"]
        host = settings.get(f"{name}_host") or ("0.0.0.0" if rented(port, ports) else "127.0.0.1")
        proxied = f"{port}/http" in ports and pod_id and host == "0.0.0.0"
        found[name] = {"wanted": settings[name], "host": host, "port": port, "url": f"https://{pod_id}-{port}.proxy.runpod.net" if proxied else None}
    return found


def table() -> str:
    lines = ["| in the environment | variable | default | what it says |", "|---|---|---|---|"]
    for row in SETTINGS:
        default = "" if row.default in (None, "") else f"`{','.join(row.default) if isinstance(row.default, list) else told(row.default)}`"
        lines.append(f"| `{row.env}` | {f'`services_{row.name}`' if row.name else ''} | {default} | {row.meaning} |")
    return "\n".join(lines).replace("{workspace}", "WORKSPACE") + "\n"


def told(value: Any) -> str:
    return ("0", "1")[value] if isinstance(value, bool) else str(value)


def main() -> int:
    """The table; with --check the settings on standard input are read as a pod would, before there is one."""
    if sys.argv[1:] != ["--check"]:
        sys.stdout.write(table())
        return 0
    wish = json.load(sys.stdin)
    try:
        # What a provider's secret holds only the pod will know.
        known = {name: str(value) for name, value in wish["environ"].items() if "{{" not in str(value)}
        found = resolve(wish["given"], known, wish["workspace"])
        keys_in(found["settings"]["authorized_keys"], found["origin"]["authorized_keys"])
    except SettingsError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
