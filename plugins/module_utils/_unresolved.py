# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wish that no set of versions fulfils: uv proves that in several lines, and a person needs one sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ._git import bare_url
from ._uv import one_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPEC = r"[A-Za-z0-9][A-Za-z0-9._\-\[\]]*(?:[<>=!~][^\s,]*)?(?:,[<>=!~][^\s,]+)*"
_WANTED = re.compile(rf"and you require ({_SPEC})")
_LISTED = re.compile(r"only the following versions of \S+ (?:is|are) available: (.*?) and you require")
_RANGE = re.compile(rf"Because only ({_SPEC}) is available and you require")
_ABSENT = re.compile(rf"there (?:is|are) no versions? of ({_SPEC})|({_SPEC}) was not found in the ")
_WHEEL = re.compile(rf"({_SPEC}) has no wheels with a matching (Python|platform)[^()]*\(e\.g\.,? `([^`]+)`\)")
# Then nobody knows whether it exists.
_NOT_ASKED = re.compile(r"could not be queried|network was disabled")
_PYTHON = re.compile(rf"({_SPEC}) requires (Python ?[<>=!~][^\s]+)")


@dataclass(frozen=True)
class Unresolved:
    """C(package) is the one that is to blame, if a single one is; C(there) what exists of it, C(why) what is wrong with one that exists."""

    package: str = ""
    wanted: str = ""
    there: str = ""
    why: str = ""

    def sentence(self, looked_at: list[str]) -> str:
        if self.why:
            return self.why
        has = f", which {'has' if len(looked_at) == 1 else 'have'} {self.there}" if self.there else ""
        return f"{self.wanted} does not exist in {_listed(looked_at)}{has}"


def unresolved(said: str) -> Unresolved | None:
    """What uv's proof comes to; None when it failed for another reason."""
    words = one_line(said)
    if ("No solution found" not in words and "unsatisfiable" not in words) or _NOT_ASKED.search(words):
        return None
    wanted = _WANTED.search(words)
    for listed in (_LISTED.search(words), _RANGE.search(words)):
        if listed and wanted:
            return Unresolved(_name(wanted.group(1)), wanted.group(1), ", ".join(map(_plain, listed.group(1).split())))
    wheel, python, absent = _WHEEL.search(words), _PYTHON.search(words), _ABSENT.search(words)
    if wheel:
        machine = "this machine's Python" if wheel.group(2) == "Python" else "this machine"
        return Unresolved(_name(wheel.group(1)), why=f"{wheel.group(1)} has no wheel for {machine} ({wheel.group(3)})")
    if python:
        return Unresolved(_name(python.group(1)), why=f"{python.group(1)} requires {python.group(2)}")
    if absent:
        named = next(filter(None, absent.groups()))
        return Unresolved(_name(named), wanted.group(1) if wanted and _name(wanted.group(1)) == _name(named) else named)
    proof = re.sub(r",? we can conclude that .*?\.(?= |$)", ",", words[words.find("Because ") :].removeprefix("Because "))
    return Unresolved(why=f"no versions fit together: {proof.replace(', And because', ', and').strip(' ,')[:300]}")


def places(find_links: list[str], index_url: str = "", backend: str = "") -> list[str]:
    """Where uv has looked, without the keys that an address may carry."""
    named = [bare_url(index_url)] if index_url else [f"PyTorch's index for {backend}"] if backend else []
    return [*(bare_url(link) for link in find_links), *named, "the package index"]


def _name(spec: str) -> str:
    found = _NAME.match(spec)
    return re.sub(r"[-_.]+", "-", found.group(0)).lower() if found else ""


def _plain(spec: str) -> str:
    """C(torch<=2.0) as people say it."""
    version = _NAME.sub("", spec, count=1).strip(",")
    for sign, more in (("==", ""), ("<=", " and older"), (">=", " and newer")):
        if version.startswith(sign) and "," not in version:
            return version.removeprefix(sign) + more
    return version or spec


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
