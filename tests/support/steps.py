# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The twelve steps: create, change and delete, each in check mode and for real, and both again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Args = dict[str, Any]
STEPS = ("check", "do", "check again", "do again")
PYTHON_TYPES: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}
# What Ansible itself adds to a result.
ANSIBLES = {"changed", "failed", "msg", "diff", "invocation", "failure", "warnings", "deprecations", "exception", "discovered_interpreter"}


@dataclass(frozen=True)
class Walk:
    """The phases that a module has; `lacks` says why the others do not exist."""

    module: str
    phases: dict[str, Args]
    lacks: str = ""
    # Each run adds a line, so the second does what the first did.
    journal: bool = False
    fails: Args = field(default_factory=dict)
    reads: dict[str, Args] = field(default_factory=dict)


def tasks_of(walks: list[Walk]) -> list[Args]:
    found: list[Args] = []
    for walk in walks:
        for phase, args in walk.phases.items():
            for step in STEPS:
                found.append({"name": f"{walk.module} | {phase} | {step}", f"podcycle.gpu.{walk.module}": args, "check_mode": step.startswith("check")})
        found += [{"name": f"{module} | read", f"podcycle.gpu.{module}": args} for module, args in walk.reads.items()]
        if walk.fails:
            found.append({"name": f"{walk.module} | must fail", f"podcycle.gpu.{walk.module}": walk.fails, "ignore_errors": True})
    return found


def phases_of(walks: list[Walk]) -> set[str]:
    return {phase.split(":")[0].split(" ")[0] for walk in walks for phase in walk.phases}


def judge(walk: Walk, rows: list[dict[str, Any]]) -> list[str]:
    """What is wrong with one phase."""
    check, do, check_again, do_again = (row["result"] for row in rows)
    faults = [f"{step}: not run in check mode" for step, row in zip(STEPS, rows, strict=True) if row["check"] is not step.startswith("check")]
    for step, row in zip(STEPS, rows, strict=True):
        quiet = step != "do" and not (walk.journal and step == "do again")
        faults += [f"{step}: wrote {what}" for what in (*row["writes"], *row["files"]) if quiet]
    if check["changed"] is not do["changed"]:
        faults.append(f"check mode said changed={check['changed']}, the real run {do['changed']}")
    if not (walk.journal or (do["changed"] and (rows[1]["writes"] or rows[1]["files"]))):
        faults.append("the real run changed nothing")
    faults += [f"{step}: changed" for step, result in (("check again", check_again), ("do again", do_again)) if result["changed"]]
    if check.get("diff") != do.get("diff"):
        faults.append(f"check mode showed {check.get('diff')}, the real run {do.get('diff')}")
    return faults


def judge_results(documented: Args, results: list[Args]) -> list[str]:
    """What is documented and never returned, returned and not documented, or of another type."""
    faults = missing("", documented, results)
    for result in results:
        if result.get("failed") and not (result.get("msg") and result.get("failure", {}).keys() >= {"code", "message", "details"}):
            faults.append(f"a failure that explains nothing: {result}")
    names = {name for result in results for name in result if not name.startswith("_ansible")}
    return faults + [f"{name} is returned and not documented" for name in sorted(names - documented.keys() - ANSIBLES)]


def missing(where: str, documented: dict[str, Any], results: list[dict[str, Any]]) -> list[str]:
    faults = []
    for name, row in documented.items():
        values = [result[name] for result in results if name in result]
        if not values:
            faults.append(f"{where}{name} is never returned")
        faults += [f"{where}{name} is {value!r}, documented as {row['type']}" for value in values if value is not None and not fits(value, row["type"])]
        inner = [one for value in values for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
        if row.get("contains"):
            faults += missing(f"{where}{name}.", row["contains"], inner)
    return faults


def fits(value: Any, kind: str) -> bool:
    return isinstance(value, PYTHON_TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))


def judge_module(walks: list[Walk], rows: dict[str, Args], module: str) -> list[str]:
    """What is wrong with a module's steps; a phase that it lacks wants a reason."""
    own = [walk for walk in walks if walk.module == module]
    wrong = [] if phases_of(own) == {"create", "change", "delete"} or any(walk.lacks for walk in own) else [f"{module} lacks a phase without saying why"]
    for walk in own:
        for phase in walk.phases:
            wrong += [f"{module}, {phase}: {one}" for one in judge(walk, [rows[f"{module} | {phase} | {step}"] for step in STEPS])]
    return wrong
