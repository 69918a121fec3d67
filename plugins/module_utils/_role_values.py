# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and values that are given for the roles' variables, held against the roles before anything is written.

Python 3.10 and the standard library alone: a start script asks before it has brought Ansible.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from ._errors import UsageError, clean_text
from ._pod_state import Setup, SetupError, misspelt, names_in
from ._secrets import is_secret

_OPTION = re.compile(r"^ {6}(\w+):\n((?: {8}.*\n?)+)", re.MULTILINE)
_FIELD = re.compile(r"^ {8}(type|choices): (.+)$", re.MULTILINE)
_BOUNDS = re.compile(r"^ {2}(\w+): \[(\d+), (\d+)\]$", re.MULTILINE)
_PRICE = r"((\d+([.]\d*)?|[.]\d+)(e[-+]?\d+)?)?"
_WORKSPACE = r"/+(?![.][.]?(/|$))[^/].*"
_BOOLEANS = {"y", "yes", "on", "1", "1.0", "true", "t", "n", "no", "off", "0", "0.0", "false", "f"}
# Their role splits text at its commas, since the environment can say them no other way.
_SPLIT = ("services_hf_patterns",)
# What tasks/look.yml takes.
SHARED: dict[str, dict[str, Any]] = {
    "stack": {"choices": ["full", "cpu"]},
    "stack_scope": {"choices": ["auto", "system", "user"]},
    "stack_roles": {"type": "roles", "choices": ["node", "cuda13", "cutlass", "pytorch", "pod_setup", "cuda_watchdog", "chess_training"]},
    "usd_per_hour": {"pattern": _PRICE, "wanted": "a price in dollars, such as 2.69"},
    "podcycle_usd_per_hour": {"pattern": _PRICE, "wanted": "a price in dollars, such as 2.69"},
    "workspace": {"pattern": _WORKSPACE, "wanted": "an absolute path below /, such as /workspace"},
}


class Mistyped(SetupError):
    """Nothing was tried, so that nothing has become of the machine either."""


def specs_of(collection: Path) -> dict[str, dict[str, Any]]:
    """Type, choices and bounds of every variable of the roles that are there."""
    found = dict(SHARED)
    for path in sorted(collection.glob("roles/*/meta/argument_specs.yml")):
        for name, text in _OPTION.findall(path.read_text(encoding="utf-8")):
            field = dict(_FIELD.findall(text))
            choices = field["choices"].strip("[]").split(", ") if "choices" in field else []
            found[name] = {"type": field.get("type", "str"), "choices": choices}
    bounds = collection / "roles" / "cuda_watchdog" / "vars" / "main.yml"
    for name, low, high in _BOUNDS.findall(bounds.read_text(encoding="utf-8")) if bounds.exists() else ():
        found[f"cuda_watchdog_{name}"]["bounds"] = (int(low), int(high))
    return found


def wrong_values(collection: Path, given: Mapping[str, Any]) -> str:
    """Every value that its role would refuse and what it has to be instead, as the end of a sentence."""
    told = []
    bounded = given.get("cuda_watchdog_state") != "absent"
    for name, spec in specs_of(collection).items():
        value = given.get(name)
        # A template is filled in when the role works, which looks at it then.
        known = "{{" not in value and "{%" not in value if isinstance(value, str) else isinstance(value, (int, float, Mapping, list, tuple))
        split = name in _SPLIT and isinstance(value, str)
        if known and not split and not _fits(value, spec, bounded=bounded):
            told.append(f"{name} is {_shown(name, value, spec)} and has to be {_wanted(name, spec)}")
    return "; ".join(told)


def refuse_values(collection: Path, given: Mapping[str, Any], doing: str) -> None:
    wrong = wrong_values(collection, given)
    if wrong:
        raise UsageError(f"{doing}: {wrong}")


def refuse_typed(setup: Setup) -> None:
    """What stood behind -e of a start script, where every variable is for the roles."""
    defaults = list(setup.collection.glob("roles/*/defaults/main.yml"))
    known = [name for path in defaults for name in re.findall(r"(?m)^([a-z0-9_]+):", path.read_text(encoding="utf-8"))]
    roles = [path.parent.parent.name for path in defaults]
    wrong = misspelt((name for value in setup.extra for name in names_in(value)), [*known, *SHARED], roles, others=True)
    wrong = wrong or wrong_values(setup.collection, _typed(setup.extra))
    if wrong:
        raise Mistyped(f"set up this machine: {wrong}")


def _typed(extra: Iterable[str]) -> dict[str, Any]:
    """What can be read without Ansible: NAME=VALUE and JSON. The playbook looks at the rest."""
    found: dict[str, Any] = {}
    for text in extra:
        try:
            if text.startswith("{"):
                found.update(json.loads(text))
            elif not text.startswith(("@", "[")):
                found.update({name: value for name, equals, value in (word.partition("=") for word in shlex.split(text)) if equals})
        except ValueError:
            continue
    return found


def _fits(value: Any, spec: Mapping[str, Any], *, bounded: bool) -> bool:
    """As Ansible takes it for this type; but a role would go through text letter by letter, so that it is neither a list nor a dictionary."""
    kind = spec.get("type", "str")
    if kind == "roles":
        return isinstance(value, (list, tuple)) and bool(value) and all(one in spec["choices"] for one in value)
    if spec.get("pattern"):
        return not isinstance(value, bool) and re.fullmatch(spec["pattern"], str(value), re.IGNORECASE) is not None
    if spec.get("choices") and str(value) not in spec["choices"]:
        return False
    if kind == "int":
        return _whole(value, spec.get("bounds") if bounded else None)
    if kind == "bool":
        return str(value).strip().lower() in _BOOLEANS
    if kind == "dict":
        return isinstance(value, Mapping)
    return kind != "list" or isinstance(value, (list, tuple))


def _whole(value: Any, bounds: tuple[int, int] | None) -> bool:
    try:
        number = Decimal(int(value) if isinstance(value, bool) else str(value))
        return number == int(number) and (not bounds or bounds[0] <= number <= bounds[1])
    except (ArithmeticError, ValueError):
        return False


def _wanted(name: str, spec: Mapping[str, Any]) -> str:
    if spec.get("wanted"):
        return str(spec["wanted"])
    if spec.get("choices"):
        return f"{'a list out of' if spec.get('type') == 'roles' else 'one of'} {', '.join(spec['choices'])}"
    typed = {"list": f"""a list, such as -e '{{"{name}": ["..."]}}'""", "dict": f"""a dictionary, such as -e '{{"{name}": {{"NAME": "..."}}}}'"""}
    words = {"int": "a whole number", "bool": "true or false", **typed}[spec["type"]]
    return words + (f" from {spec['bounds'][0]} to {spec['bounds'][1]}" if spec.get("bounds") else "")


def _shown(name: str, value: Any, spec: Mapping[str, Any]) -> str:
    """Where a secret may be inside, only what kind of thing it is."""
    if is_secret(name, value) or spec.get("type") == "dict" or isinstance(value, Mapping):
        return "a dictionary" if isinstance(value, Mapping) else "text" if isinstance(value, str) else "something else"
    return clean_text(json.dumps(value, default=str), 100)
