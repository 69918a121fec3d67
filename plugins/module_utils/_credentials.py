# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a key comes from: option, environment, keyring, dotenv file; the first that has one wins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import CredentialError

_LINE = re.compile(
    r"""\s*(?:export\s+)?(?P<key>\w+)\s*=\s*(?:'(?P<single>[^']*)'\s*(?:\#.*)?|"(?P<double>[^"]*)"\s*(?:\#.*)?|(?P<bare>.*?)\s*(?:\s\#.*)?)\Z"""
)


@dataclass(frozen=True)
class KeySource:
    """The places one cloud's key may be in."""

    label: str
    variables: tuple[str, ...]
    keyring_service: str
    keyring_user: str
    dotenv_variable: str
    dotenv_files: tuple[str, ...]
    hint: str


@dataclass(frozen=True)
class Credential:
    value: str
    source: str

    def __repr__(self) -> str:
        return f"Credential(source={self.source!r})"


def find_key(source: KeySource, option: str | None, environ: Mapping[str, str], folder: Path) -> Credential:
    """The key and where it was found; raises CredentialError naming every place that was looked at."""
    if option:
        return _checked(option, "option", source)
    for name in source.variables:
        if environ.get(name):
            return _checked(environ[name], f"environment {name}", source)
    ringed = _from_keyring(source)
    if ringed:
        return _checked(ringed, f"keyring {source.keyring_service}/{source.keyring_user}", source)
    files = [environ[source.dotenv_variable]] if environ.get(source.dotenv_variable) else list(source.dotenv_files)
    for name in files:
        values = read_dotenv(folder / name)
        for variable in source.variables:
            if values.get(variable):
                return _checked(values[variable], f"file {name}", source)
    looked = ", ".join([f"environment {'/'.join(source.variables)}", f"keyring {source.keyring_service}/{source.keyring_user}", f"files {', '.join(files)}"])
    raise CredentialError(f"no key for {source.label}: looked at the option, {looked}", hint=source.hint)


def read_dotenv(path: Path) -> dict[str, str]:
    """KEY=VALUE lines, with optional `export` and quotes; an absent file is empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as err:
        raise CredentialError(f"cannot read {path}: {err}") from err
    values: dict[str, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match:
            values[match["key"]] = next(text for text in (match["single"], match["double"], match["bare"]) if text is not None)
    return values


def _from_keyring(source: KeySource) -> str | None:
    if os.environ.get("PYTHON_KEYRING_BACKEND") == "keyring.backends.null.Keyring":
        return None
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        found = keyring.get_password(source.keyring_service, source.keyring_user)
    except (keyring.errors.KeyringError, RuntimeError, OSError):
        return None
    return str(found) if found else None


def _checked(value: str, where: str, source: KeySource) -> Credential:
    text = value.strip()
    if not text:
        raise CredentialError(f"the key for {source.label} from {where} is empty", hint=source.hint)
    if any(not 33 <= ord(char) <= 126 for char in text):
        raise CredentialError(f"the key for {source.label} from {where} has spaces, line breaks or odd characters in it", hint=source.hint)
    return Credential(text, where)
