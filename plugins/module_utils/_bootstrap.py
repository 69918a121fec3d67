# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One start script for every kind of machine: brings this collection's own archive along and converges the machine with it.

The same collection and the same variables give the same bytes.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

from ._errors import PodcycleError, UsageError
from ._pod_state import misspelt, watched
from ._secrets import looks_secret, secrets_in, without_secrets

ROLES = ("node", "cuda13", "cutlass", "pytorch", "cuda_watchdog", "chess_training")
# stack_roles is not among them: it restricts one run.
SHARED = ("stack", "stack_scope")
KINDS = ("pod_setup", "runpod", "vast", "gce", "user_data")
# runpod: Linux takes no single argument of 128 KiB. vast: the API refuses a longer onstart. gce: one metadata value. user_data: EC2, the least of all clouds.
LIMITS = {"runpod": 131071, "vast": 4048, "gce": 262144, "user_data": 16384}
TEMPLATE = "playbooks/templates/bootstrap.sh.in"
_PLAYBOOKS = ("playbooks/bootstrap.yml", *(f"playbooks/tasks/{name}.yml" for name in ("find", "look", "stack", "pod_setup", "sign")))
_TEMPLATES = ("look.sh.j2", "changed.j2", "summary.j2")
_ALWAYS = ("LICENSE", "meta/runtime.yml", "requirements-run.txt", TEMPLATE, *_PLAYBOOKS, *(f"playbooks/templates/{name}" for name in _TEMPLATES))
_UTILS = "ansible_collections.podcycle.gpu.plugins.module_utils"
_IMPORT = re.compile(r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]+)", re.MULTILINE)
_USAGE = """\
bash {name} [--check] [--force] [--workspace DIR] [-e NAME=VALUE] ...
bash {name} --login | --watchdog [--detach] | --help

Sets this machine up as the head of this file says; what is there already stays. The exit status is the truth.
  --check          say what would change; only its own tools come into the workspace
  --login          nothing but one line when all is well (under 2 s), else the set-up; for ~/.bashrc
  --watchdog       the watchdog in the foreground; with --detach in the background, printing its PID
  --force          also where a start script of a cloud ran before
  --no-hook        leave ~/.bashrc and ~/.profile alone
  --workspace DIR  the persistent volume ({workspace})
  -e NAME=VALUE    another variable for this run
Log, phases and result: setup.log, phases.jsonl and status.json in DIR/.podcycle/bootstrap"""


class ScriptTooLong(PodcycleError):
    code = "script_too_long"


@dataclass(frozen=True)
class Archive:
    data: bytes
    files: list[str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Wish:
    """What the script is to do; `archive` is V(embedded), a path on the machine or an address."""

    kind: str
    variables: dict[str, Any] = field(default_factory=dict)
    workspace: str = "/workspace"
    archive: str = "embedded"
    archive_sha256: str = ""
    baseline_minutes: float = 20.0
    usd_per_hour: str = ""
    then: list[str] = field(default_factory=list)
    limit: int = 0
    reference_url: str = ""


@dataclass(frozen=True)
class Script:
    """`text` fits the limit; `full` is what it stands for."""

    text: str
    full: str
    form: str
    payload: str


def version_of(collection: Path) -> str:
    """From MANIFEST.json of an installed collection, or galaxy.yml of a checkout."""
    manifest = collection / "MANIFEST.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])
    return str(yaml_load((collection / "galaxy.yml").read_text(encoding="utf-8"))["version"])


def runtime_files(
    collection: Path,
    names: Iterable[str] = ROLES,
    always: Iterable[str] = _ALWAYS,
    playbooks: Iterable[str] = _PLAYBOOKS,
    plugins: Iterable[str] = ("bootstrap_script", "_pod_setup"),
) -> list[str]:
    """What converging a machine needs of this collection, found by following what roles and playbooks name."""
    roles = [path for role in names for path in _role_files(collection / "roles" / role)]
    told = "".join(path.read_text(encoding="utf-8") for path in (*roles, *(collection / name for name in playbooks)) if path.suffix == ".yml")
    found = {collection / name for name in always if (collection / name).exists()} | set(roles)
    for name in {*plugins, *re.findall(r"\bpodcycle\.gpu\.([a-z0-9_]+)", told)}:
        found |= {path for folder in ("modules", "action") if (path := collection / "plugins" / folder / f"{name}.py").exists()}
    utils = collection / "plugins" / "module_utils"
    named = {*(name for name in plugins if name.startswith("_")), *re.findall(r"\bmodule_utils/(_[a-z0-9_]+)\.py", told)}
    todo = [*(path for path in found if path.suffix == ".py"), *(utils / f"{name}.py" for name in named)]
    while todo:
        path = todo.pop()
        if not path.exists():
            continue
        found.add(path)
        todo += [util for util in _imported(path, utils) if util not in found]
    return sorted(path.relative_to(collection).as_posix() for path in found)


def _role_files(role: Path) -> list[Path]:
    """What a role needs at work; caches of checkers and other hidden things lie about in a checkout."""
    left_out = {"tests", "molecule", "__pycache__", "smoke", "README.md"}

    def needed(path: Path) -> bool:
        return path.is_file() and not any(part in left_out or part.startswith(".") for part in path.relative_to(role).parts)

    return [path for path in sorted(role.rglob("*")) if needed(path)]


def _imported(source: Path, utils: Path) -> Iterator[Path]:
    """Files of module_utils that one file imports, in whichever spelling; read by its lines, which is 50 times quicker than its syntax."""
    for dots, module, listed in _IMPORT.findall(source.read_text(encoding="utf-8")):
        if not dots and not module.startswith(_UTILS):
            continue
        inside = module if dots else module.removeprefix(_UTILS).strip(".")
        home = {1: source.parent, 2: source.parent.parent}.get(len(dots), utils)
        names = [word.split()[0] for word in re.sub(r"#.*", "", listed).strip("()").split(",") if word.strip()]
        base = home.joinpath(*inside.split(".")) if inside else home
        wanted = [base / name for name in names] + ([base] if inside else [])
        yield from (path for place in wanted for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists())


def pack(collection: Path) -> Archive:
    """A tar.bz2 of the runtime files, a quarter smaller than by gzip: no times, no owners, one order."""
    names = runtime_files(collection)
    about = {"collection_info": {"name": "gpu", "namespace": "podcycle", "version": version_of(collection)}, "format": 1}
    content = {"MANIFEST.json": json.dumps(about, sort_keys=True).encode() + b"\n", **{name: (collection / name).read_bytes() for name in names}}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(content):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content[name]), 0o644
            tar.addfile(entry, io.BytesIO(content[name]))
    return Archive(bz2.compress(plain.getvalue()), sorted(content))


def defaults_of(collection: Path) -> dict[str, Any]:
    """Every input of the stack's roles with its default."""
    found: dict[str, Any] = {}
    for role in ROLES:
        path = collection / "roles" / role / "defaults" / "main.yml"
        if path.exists():
            found.update(yaml_load(path.read_text(encoding="utf-8")) or {})
    return found


def names_of(collection: Path) -> list[str]:
    """The variables that decide a machine's stack."""
    return [*SHARED, *defaults_of(collection)]


def refuse_secrets(variables: Mapping[str, Any]) -> None:
    """A start script is read by everybody who can see the machine's metadata."""
    secret = sorted(place for name in variables for place in secrets_in(name, variables[name]))
    if secret:
        raise UsageError(
            f"write a bootstrap script: {', '.join(secret)} looks like a secret, and whoever sees the machine can read its start script; leave it out"
        )


def refuse_unknown(collection: Path, variables: Mapping[str, Any], doing: str = "write a bootstrap script", *, near_only: bool = False) -> None:
    """A misspelt variable would be passed over, and found when the machine is set up otherwise than was wanted."""
    wrong = misspelt(variables, names_of(collection), ROLES, near_only=near_only)
    if wrong:
        raise UsageError(f"{doing}: {wrong}; docs/stack.md and the roles' README.md name them all")


def stack_variables(collection: Path, known: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Of all that is known of a host, what decides its stack; and the names of secrets that stay out."""
    found = {name: known[name] for name in names_of(collection) if name in known}
    empty = [name for name in found if looks_secret(name) and not found[name]]
    secret = sorted([*empty, *(place for name, value in found.items() for place in secrets_in(name, value))])
    return {name: value for name, value in without_secrets(found).items() if name not in empty}, secret


def pins(collection: Path, variables: Mapping[str, Any]) -> dict[str, str]:
    """Every version that the roles pin, as it will be."""
    values = {**defaults_of(collection), **variables}
    return {name: str(value) for name, value in values.items() if name.endswith("_version") and value and "{{" not in str(value)}


def ansible_pins(collection: Path) -> list[str]:
    lines = (collection / "requirements-run.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("ansible-core==")]


def render(wish: Wish, collection: Path, archive: Archive) -> Script:
    """The script in the first of its forms that fits: plain, packed, by reference."""
    refuse_secrets(wish.variables)
    refuse_unknown(collection, wish.variables)
    full, payload = _plain(wish, collection, archive)
    limit = wish.limit or LIMITS.get(wish.kind, 0)
    if not limit or len(full.encode()) <= limit:
        return Script(full, full, "plain", payload)
    packed = _packed(_stripped(full), version_of(collection))
    if len(packed.encode()) <= limit:
        return Script(packed, full, "packed", payload)
    if wish.reference_url:
        loader = _loader(full, wish.reference_url, version_of(collection))
        if len(loader.encode()) <= limit:
            return Script(loader, full, "reference", payload)
        packed = loader
    raise ScriptTooLong(
        f"write a bootstrap script of kind {wish.kind}: it has {len(packed.encode())} characters at the least, and {limit} are taken",
        hint="leave the archive out of it (archive: path or url), or give reference_url and reference_dest",
    )


def _plain(wish: Wish, collection: Path, archive: Archive) -> tuple[str, str]:
    digest = wish.archive_sha256 or archive.sha256
    settings = {
        "version": version_of(collection),
        "kind": wish.kind,
        "variables": dict(wish.variables),
        "baseline_minutes": wish.baseline_minutes,
        "usd_per_hour": wish.usd_per_hour,
    }
    # A price may change without the machine being another one.
    text = json.dumps({**settings, "kind": "", "usd_per_hour": "", "archive": digest, "workspace": wish.workspace}, sort_keys=True)
    payload = hashlib.sha256(text.encode()).hexdigest()[:16]
    said = json.dumps({**settings, "payload": payload}, sort_keys=True)
    embedded = wish.archive == "embedded"
    lines = "\n".join(_folded(base64.b64encode(archive.data).decode())) if embedded else ""
    words = {
        "HEAD": _head(wish, collection, digest),
        "PAYLOAD": payload,
        "SCOPE": shlex.quote(str(wish.variables.get("stack_scope", "auto"))),
        "WATCHED": "1" if watched(wish.variables) else "0",
        "ARCHIVE_SHA256": digest,
        "ARCHIVE": shlex.quote(wish.archive),
        "WORKSPACE": shlex.quote(wish.workspace),
        "USAGE": _USAGE.format(name="pod_setup.sh", workspace=wish.workspace),
        "SETTINGS": said,
        "PAYLOAD_ARCHIVE": f"\npayload_archive() {{\n  cat <<'PODCYCLE_ARCHIVE'\n{lines}\nPODCYCLE_ARCHIVE\n}}" if embedded else "",
        "START": _start(wish),
    }
    template = _for_kind((collection / TEMPLATE).read_text(encoding="utf-8"), wish.kind)
    return re.sub(r"@([A-Z0-9_]+)@", lambda match: words[match.group(1)], template), payload


def _for_kind(template: str, kind: str) -> str:
    """Without the parts that are for another kind, each between #[KIND and #]."""
    kept: list[str] = []
    wanted = True
    for line in template.splitlines():
        if line.startswith("#["):
            wanted = line[2:] == ("pod_setup" if kind == "pod_setup" else "others")
        elif line == "#]":
            wanted = True
        elif wanted:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _start(wish: Wish) -> str:
    if not wish.then:
        return 'main "$@"'
    # What the container is for goes on whether or not its set-up worked.
    return f'if (($#)); then main "$@"; else (main) & exec {shlex.join(wish.then)}; fi'


def _head(wish: Wish, collection: Path, digest: str) -> str:
    roles = wish.variables.get("stack_roles") or [role for role in ROLES if wish.variables.get("stack") != "cpu" or role not in ("cuda13", "cutlass")]
    source = "in this file" if wish.archive == "embedded" else f"from {wish.archive}"
    lines = [
        f"podcycle.gpu {version_of(collection)}: sets this machine up, and again whenever its disk was wiped. bash THIS_FILE --help",
        "Steps:",
        "  1 python    Python 3.10 or later, by apt where it is missing",
        f"  2 archive   this collection, {source}, sha256 {digest}",
        f"  3 tools     uv and {' or '.join(ansible_pins(collection))}, in the workspace",
        f"  4 converge  roles {', '.join(roles)}",
        "  5 hook      one marked block in ~/.bashrc and ~/.profile",
        "Pins:",
        *(f"  {name}: {value}" for name, value in sorted(pins(collection, wish.variables).items())),
    ]
    return "\n".join(f"# {re.sub(r'[^ -~]', '?', line)}" for line in lines)


def _folded(text: str, width: int = 160) -> Iterable[str]:
    return (text[at : at + width] for at in range(0, len(text), width))


def _stripped(full: str) -> str:
    """Without comments and indentation, but for the first line, the Python part and what a here-document holds."""
    kept: list[str] = []
    ending = ""
    python = False
    for line in full.splitlines():
        if ending:
            kept.append(line)
            ending = "" if line == ending else ending
        elif not kept or not (line.strip().startswith("#") or not line.strip()):
            python = line.endswith(" -c '") or python and not line.startswith("' ")
            kept.append(line if python else line.strip())
            found = re.search(r"<<'(\w+)'$", line)
            ending = found.group(1) if found else ""
    return "\n".join(kept) + "\n"


def _packed(text: str, version: str) -> str:
    data = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    return (
        f"#!/bin/bash\n# podcycle.gpu {version}, packed; to read it: base64 -d | gunzip\nset -euo pipefail\n"
        f's=$(base64 -d <<\'E\' | gunzip\n{data}\nE\n)\nexec bash -c "$s" bootstrap "$@"\n'
    )


def _loader(full: str, url: str, version: str) -> str:
    digest = hashlib.sha256(full.encode()).hexdigest()
    return f"""#!/bin/bash
# podcycle.gpu {version}: fetches the start script, checks its sha256 and runs it
set -euo pipefail
u={shlex.quote(url)} s={digest} f=$(mktemp)
for n in 1 2 3 4 5; do
  curl -fsSL --max-time 300 "$u" -o "$f" || wget -qT 60 -O "$f" "$u" ||
    python3 -c 'import socket,sys,urllib.request as r; socket.setdefaulttimeout(60); r.urlretrieve(*sys.argv[1:])' "$u" "$f" ||
    {{ sleep $((n * 3)); continue; }}
  echo "$s  $f" | sha256sum -c --status && exec bash "$f" "$@"
  echo "[Bootstrap] failed: $u is not the script that was meant: $(sha256sum <"$f") instead of $s" >&2
  exit 1
done
echo "[Bootstrap] failed: $u cannot be fetched" >&2
exit 1
"""
