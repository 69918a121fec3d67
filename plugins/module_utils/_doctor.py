# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be well before a pod is rented: tools, state folder, key, rights, clock, money, leases; each with its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Cloud
from ansible_collections.podcycle.gpu.plugins.module_utils._http import is_loopback
from ansible_collections.podcycle.gpu.plugins.module_utils._leases import audit
from ansible_collections.podcycle.gpu.plugins.module_utils._session import Session, open_cloud, open_session, open_state
from ansible_collections.podcycle.gpu.plugins.module_utils._table import columns

OK, WARN, FAIL = "ok", "warn", "fail"
_LEAST_PYTHON, _LEAST_ANSIBLE = (3, 11), (2, 19)
_LEAST_FREE_GIB = 2.0
# Certificates and signed requests bear some minutes; leases are counted in seconds.
_CLOCK_WARN, _CLOCK_FAIL = 5.0, 120.0
_LEAST_HOURS = 1
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class Check:
    """One finding; a remedy says what to type or do."""

    name: str
    status: str
    found: str
    remedy: str = ""


def examine(options: Mapping[str, Any], ansible_version: str) -> dict[str, Any]:
    """Every check in its order; one that fails keeps none of the others from being made."""
    checks = [*tools(ansible_version), *_safely("state folder", lambda: _state(options)), *_network()]
    cloud: Cloud | None = None
    try:
        cloud = open_cloud(options)
    except errors.PodcycleError as err:
        checks.append(_failed("key", err))
    if cloud is not None:
        checks += _of_cloud(cloud, options)
    worst = next((level for level in (FAIL, WARN) if any(check.status == level for check in checks)), OK)
    return {
        "changed": False,
        "verdict": worst,
        "checks": [asdict(check) for check in checks],
        "lines": lines(checks),
        "rehearsal": cloud is not None and is_loopback(cloud.endpoint),
    }


def _of_cloud(cloud: Cloud, options: Mapping[str, Any]) -> Iterator[Check]:
    yield Check("key", OK, f"from {cloud.key_source}")
    began = time.monotonic()
    try:
        cloud.check()
    except errors.PodcycleError as err:
        yield _failed("API", err)
        return
    yield Check("API", OK, f"{cloud.endpoint} answers in {1000 * (time.monotonic() - began):.0f} ms")
    yield from _safely("rights", lambda: _rights(cloud))
    yield from _safely("clock", lambda: _clock(cloud))
    yield from _money(cloud)
    yield from _safely("leases", lambda: _leases(open_session(options)))


def tools(ansible_version: str) -> Iterator[Check]:
    """The programs that a cycle calls on this machine."""
    python = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= _LEAST_PYTHON
    yield Check("Python", OK if good else FAIL, python, "" if good else "use Python 3.11 or later: make setup PYTHON=python3.12")
    known = tuple(int(part) for part in ansible_version.split(".")[:2])
    good = known >= _LEAST_ANSIBLE
    yield Check("ansible-core", OK if good else FAIL, ansible_version, "" if good else "pip install 'ansible-core>=2.19'")
    for name, words, needed in (("ssh", ["-V"], True), ("ssh-keygen", [], True), ("rsync", ["--version"], True), ("git", ["--version"], False)):
        path = shutil.which(name)
        package = "openssh-client" if name.startswith("ssh") else name
        if path is None:
            yield Check(name, FAIL if needed else WARN, "not installed", f"sudo apt-get install {package}")
            continue
        said = ""
        if words:
            done = subprocess.run([path, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20, check=False)
            said = errors.clean_text((done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else "", 60)
        yield Check(name, OK, said or path)


def _state(options: Mapping[str, Any]) -> Iterator[Check]:
    state = open_state(options)
    free = shutil.disk_usage(state.path).free / (1 << 30)
    remedy = "" if free >= _LEAST_FREE_GIB else f"make room on the disk of {state.path}: the ledger and the artifacts want some"
    yield Check("state folder", OK if free >= _LEAST_FREE_GIB else WARN, f"{state.path}, {free:.0f} GiB free, owner id {state.owner}", remedy)
    keys = [path for path in Path(state.path, "runs").glob("*/id_ed25519") if path.stat().st_mode & 0o077]
    if keys:
        yield Check("SSH keys", FAIL, f"{len(keys)} can be read by others, such as {keys[0]}", f"chmod 600 {keys[0]}")
    else:
        yield Check("SSH keys", OK, "each run has a key of its own, made when it begins")


def _network() -> Iterator[Check]:
    proxies = [name for name in _PROXIES if os.environ.get(name)]
    if proxies:
        remedy = f"if the API answers with a web page, try without: env -u {proxies[0]} ansible-playbook playbooks/doctor.yml"
        yield Check("proxy", WARN, f"{', '.join(proxies)} is set: requests go through it", remedy)


def _rights(cloud: Cloud) -> Iterator[Check]:
    if cloud.may_write():
        yield Check("rights", OK, "the key may rent and give back")
    else:
        found = "the key may read but not write: it can neither rent nor give back"
        yield Check("rights", FAIL, found, "give the key Read/Write access in the provider's console")


def _clock(cloud: Cloud) -> Iterator[Check]:
    ahead = cloud.clock_ahead()
    if ahead is None:
        yield Check("clock", WARN, f"{cloud.name} does not tell its time", "see yourself that this machine's clock is right: date -u")
        return
    status = FAIL if abs(ahead) > _CLOCK_FAIL else WARN if abs(ahead) > _CLOCK_WARN else OK
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {cloud.name}'s" if status != OK else "right"
    yield Check("clock", status, found, "" if status == OK else "leases end by this clock: sudo timedatectl set-ntp true")


def _money(cloud: Cloud) -> Iterator[Check]:
    """Not being told the balance keeps nobody from renting."""
    try:
        account = cloud.account()
    except errors.PodcycleError as err:
        yield Check("GraphQL", WARN, err.message, err.hint or "look into the provider's console")
        yield Check("balance", WARN, "not told: only GraphQL tells it", "see GraphQL, or look into the provider's console")
        return
    if account is None:
        yield Check("balance", WARN, f"{cloud.name} does not tell it", "look into the provider's console")
        return
    yield Check("GraphQL", OK, "the key may ask it: spot pods, live prices and the balance")
    left = account.hours_left
    low = left is not None and left < _LEAST_HOURS or account.balance_usd <= 0
    at = f", {model.usd(account.burn_usd_per_hour)} $/h being spent, {left:.1f} h left" if left is not None else ", nothing is being spent"
    yield Check("balance", FAIL if low else OK, f"{account.balance_usd:.2f} ${at}", "add money: at zero the provider ends pods by itself" if low else "")


def _leases(session: Session) -> Iterator[Check]:
    found = audit(session)
    over = [row for row in found.rows if row["over"]]
    doubtful = [row for row in found.rows if row["observed"] in (model.UNKNOWN, model.GONE)]
    told = f"{len(found.rows)} open, {len(found.strays)} ours by their name alone, {len(found.strangers)} pods of others"
    if over or doubtful or found.strays:
        told += f"; {len(over)} over, {len(doubtful)} not to be seen"
        yield Check("leases", WARN, told, "see which, and what to type: ansible-playbook playbooks/reap.yml")
    else:
        yield Check("leases", OK, told)


def _safely(name: str, work: Callable[[], Iterator[Check]]) -> list[Check]:
    found: list[Check] = []
    try:
        found += work()
    except errors.PodcycleError as err:
        found.append(_failed(name, err))
    except (OSError, subprocess.SubprocessError) as err:
        found.append(Check(name, FAIL, errors.clean_text(err, 200)))
    return found


def _failed(name: str, err: errors.PodcycleError) -> Check:
    return Check(name, FAIL, err.message, err.hint or "")


def lines(checks: list[Check]) -> list[str]:
    """A row for each check, its remedy below it."""
    rows = columns([(check.status.upper() if check.status != OK else OK, check.name, check.found) for check in checks])
    told = []
    for check, row in zip(checks, rows, strict=True):
        told.append(row)
        told += [f"      do: {check.remedy}"] if check.remedy else []
    return told
