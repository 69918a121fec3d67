# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables hold a secret, by their names and by addresses with a password in them, however deep they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME = re.compile(r"(?<![a-z])(api_?key|auth_?key|private_?key|access_?key|secret|token|passw(or)?d|credentials?)(?![a-z])|_(key|pass)$", re.IGNORECASE)
# A token alone is what git hosts take over https; ssh://git@host holds none.
_ADDRESS = re.compile(r"://[^/\s:@]*:[^/\s@]+@|https?://[^/\s@]+@", re.IGNORECASE)
# Text that stands for a dictionary: NAME=VALUE words, or JSON.
_PAIR = re.compile(r"""(?:(?<![\w.-])([A-Za-z_]\w*)=(?!=)|["']([^"']+)["']\s*:\s*)["']?[^\s"',}\]]""")
# A value as shlex.quote writes it, which may go over several lines.
_EXPORT = re.compile(r"^export ([A-Za-z_][A-Za-z0-9_]*)=((?:'[^']*'|\"[^\"]*\"|[^\s'\"])*)", re.MULTILINE)
_SECRET = object()


def looks_secret(name: str) -> bool:
    return bool(_NAME.search(name))


def is_secret(name: str, value: Any) -> bool:
    """An empty value gives nothing away."""
    return bool(value) and (looks_secret(name) or isinstance(value, str) and bool(_ADDRESS.search(value) or _named(value)))


def _named(text: str) -> list[str]:
    """The secrets in text that stands for a dictionary."""
    return [name for pair in _PAIR.findall(text) if looks_secret(name := pair[0] or pair[1])]


def secrets_in(name: str, value: Any) -> Iterator[str]:
    """Where secrets lie in a variable, such as node_environment.HF_TOKEN."""
    last = name.rpartition(".")[2]
    if is_secret(last, value):
        inside = [] if looks_secret(last) or not isinstance(value, str) else _named(value)
        yield from (f"{name}.{one}" for one in inside) if inside else (name,)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secrets_in(f"{name}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for at, inner in enumerate(value):
            yield from secrets_in(f"{name}[{at}]", inner)


def without_secrets(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The same without these; of a dictionary or a list the rest stays."""
    pairs = ((name, _rest(str(name), value)) for name, value in variables.items())
    return {name: value for name, value in pairs if value is not _SECRET}


def _rest(name: str, value: Any) -> Any:
    if is_secret(name, value):
        return _SECRET
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, (list, tuple)):
        return [rest for inner in value if (rest := _rest("", inner)) is not _SECRET]
    return value


def masked(text: str) -> str:
    """A file of exports for people to read, without what is secret in it."""
    return _EXPORT.sub(lambda match: f"export {match[1]}=(hidden)" if is_secret(match[1], match[2].strip("'\"")) else match[0], text)
