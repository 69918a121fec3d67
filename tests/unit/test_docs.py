# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written down equals what is done: options, defaults, results, examples, action groups."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils import basic

from support.stage import constants

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
ACTIONS = sorted(path.stem for path in (PLUGINS / "action").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "meta" / "argument_specs.yml").exists())
TYPES = {"str", "int", "float", "bool", "list", "dict", "path", "raw", "complex"}


class Caught(Exception):
    """The argument spec of a module, on its way out of main."""


def fragments(names: list[str]) -> dict[str, Any]:
    """What the named fragments add."""
    merged: dict[str, Any] = {"options": {}, "attributes": {}}
    for name in names:
        assert name.startswith("podcycle.gpu."), name
        file, _dot, variable = name.removeprefix("podcycle.gpu.").partition(".")
        fragment = importlib.import_module(f"ansible_collections.podcycle.gpu.plugins.doc_fragments.{file}").ModuleDocFragment
        for part, content in yaml.safe_load(getattr(fragment, (variable or "documentation").upper())).items():
            merged[part].update(content)
    return merged


def documentation(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(constants(PLUGINS / "modules" / f"{name}.py")["DOCUMENTATION"])
    shared = fragments(found.get("extends_documentation_fragment") or [])
    options = {key: dict(value) for key, value in shared["options"].items()}
    for key, value in (found.get("options") or {}).items():
        options.setdefault(key, {}).update(value)
    found["options"] = options
    attributes = {key: dict(value) for key, value in shared["attributes"].items()}
    for key, value in (found.get("attributes") or {}).items():
        attributes.setdefault(key, {}).update(value)
    found["attributes"] = attributes
    return found


@pytest.fixture
def spec_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The spec that a module gives to AnsibleModule, or that its action plugin checks."""

    class Stop:
        def __init__(self, **given: Any) -> None:
            raise Caught(given)

    def find(name: str) -> dict[str, Any]:
        module = importlib.import_module(f"ansible_collections.podcycle.gpu.plugins.modules.{name}")
        if hasattr(module, "main"):
            monkeypatch.setattr(basic, "AnsibleModule", Stop)
            monkeypatch.setattr(module, "AnsibleModule", Stop)
            with pytest.raises(Caught) as caught:
                module.main()
            return dict(caught.value.args[0])
        action = importlib.import_module(f"ansible_collections.podcycle.gpu.plugins.action.{name}")
        return {"argument_spec": action.SPEC, "supports_check_mode": True}

    return find


def compare(where: str, documented: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    faults = [f"{where}{name} is documented and not taken" for name in documented.keys() - spec.keys()]
    faults += [f"{where}{name} is taken and not documented" for name in spec.keys() - documented.keys()]
    for name in documented.keys() & spec.keys():
        doc, real = documented[name], spec[name]
        for key, fallback in (("type", "str"), ("elements", None), ("choices", None), ("default", None), ("required", False)):
            if doc.get(key, fallback) != real.get(key, fallback):
                faults.append(f"{where}{name}: {key} is documented as {doc.get(key, fallback)!r} and is {real.get(key, fallback)!r}")
        if not doc.get("description"):
            faults.append(f"{where}{name} has no description")
        faults += compare(f"{where}{name}.", doc.get("suboptions") or {}, real.get("options") or {})
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_documented_options_are_the_real_ones(name: str, spec_of: Callable[[str], dict[str, Any]]) -> None:
    assert compare("", documentation(name)["options"], spec_of(name)["argument_spec"]) == []


@pytest.mark.parametrize("name", MODULES)
def test_check_mode_is_promised_where_it_is_kept(name: str, spec_of: Callable[[str], dict[str, Any]]) -> None:
    support = documentation(name)["attributes"]["check_mode"]["support"]
    assert (support != "none") is bool(spec_of(name).get("supports_check_mode"))


@pytest.mark.parametrize("name", MODULES)
def test_secrets_are_marked(name: str, spec_of: Callable[[str], dict[str, Any]]) -> None:
    for option, real in spec_of(name)["argument_spec"].items():
        if re.search(r"key|secret|token|pass", option):
            assert "no_log" in real, option
    assert spec_of(name)["argument_spec"].get("api_key", {"no_log": True})["no_log"] is True
    assert spec_of(name)["argument_spec"].get("secret_env", {"no_log": True})["no_log"] is True


def check_returns(where: str, returns: dict[str, Any]) -> list[str]:
    faults = []
    for name, row in returns.items():
        if not row.get("description") or row.get("type") not in TYPES or "returned" not in row:
            faults.append(f"{where}{name} lacks a description, a type or returned")
        if "contains" not in row and "sample" not in row and row.get("returned") in ("always", "success"):
            faults.append(f"{where}{name} has no sample")
        if row.get("type") == "list" and "elements" not in row:
            faults.append(f"{where}{name} is a list of what?")
        faults += check_returns(f"{where}{name}.", row.get("contains") or {})
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_results_and_examples_parse(name: str, spec_of: Callable[[str], dict[str, Any]]) -> None:
    text = constants(PLUGINS / "modules" / f"{name}.py")
    assert documentation(name)["module"] == name
    returns = yaml.safe_load(text["RETURN"]) or {}
    assert check_returns("", returns) == [] and (returns or "_info" not in name)
    examples = yaml.safe_load(text["EXAMPLES"])
    used = [task for task in examples if f"podcycle.gpu.{name}" in task]
    assert used, "no example uses the module"
    for task in used:
        assert task["name"][0].isupper()
        unknown = set(task[f"podcycle.gpu.{name}"] or {}) - set(spec_of(name)["argument_spec"])
        assert not unknown, unknown
        missing = {option for option, real in spec_of(name)["argument_spec"].items() if real.get("required")} - set(task[f"podcycle.gpu.{name}"] or {})
        assert not missing, missing


def test_every_action_plugin_has_its_documentation() -> None:
    assert set(ACTIONS) <= set(MODULES)
    for name in ACTIONS:
        assert documentation(name)["attributes"]["action"]["support"] == "full", name


def test_action_groups_name_modules_that_exist() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    groups = runtime["action_groups"]
    for name, members in groups.items():
        for member in members:
            if isinstance(member, dict):
                assert set(member["metadata"]["extend_group"]) <= set(groups), name
            else:
                assert member in MODULES, f"{name}: {member}"
    with_account = {name for name in MODULES if "api_key" in documentation(name)["options"]}
    assert with_account <= set(groups["runpod"]), "module_defaults of the group must reach every module that takes an account"


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_specs_equal_its_defaults(role: str) -> None:
    spec = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text(encoding="utf-8")) or {}
    for entry in spec["argument_specs"].values():
        options = entry["options"]
        assert {name: row["default"] for name, row in options.items() if "default" in row} == defaults
        assert all(name.startswith(f"{role}_") and row.get("description") and row.get("type") in TYPES for name, row in options.items())
        assert not [name for name, row in options.items() if row.get("required") and "default" in row]


def test_every_role_is_looked_at() -> None:
    assert sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir()) == ROLES


def test_each_proof_of_an_edge_case_is_a_test_that_there_is() -> None:
    known = {name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_[a-z0-9_]+)", path.read_text(), re.MULTILINE)}
    told = (ROOT / "docs/edge-cases.md").read_text()
    rows = [line for line in told.splitlines() if re.match(r"\| [0-9]+ \|", line)]
    assert len(rows) == 70 and set(re.findall(r"`(test_[a-z0-9_]+)`", told)) <= known
