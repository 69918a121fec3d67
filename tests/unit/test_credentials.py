# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a key is looked for, in which order, and what is no key."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import KEY
from ansible_collections.podcycle.gpu.plugins.module_utils._credentials import find_key, read_dotenv
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import CredentialError


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A keyring module with one password and a backend that can be made to fail."""
    module, faults = ModuleType("keyring"), ModuleType("keyring.errors")
    faults.KeyringError = type("KeyringError", (Exception,), {})  # type: ignore[attr-defined]
    module.errors = faults  # type: ignore[attr-defined]
    module.asked = []  # type: ignore[attr-defined]

    def get_password(service: str, user: str) -> str:
        module.asked.append((service, user))
        return "from-keyring"

    module.get_password = get_password  # type: ignore[attr-defined]
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setitem(sys.modules, "keyring.errors", faults)
    return module


def test_the_first_place_that_has_a_key_wins(keyring: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".env.runpod").write_text("RUNPOD_API_KEY=from-env-runpod\n")
    (tmp_path / ".env").write_text("RUNPOD_API_KEY=from-dotenv\n")
    (tmp_path / "mine").write_text("RUNPOD_API_KEY=from-mine\n")
    environ = {"RUNPOD_API_KEY": "from-environment", "RUNPOD_DOTENV_PATH": "mine"}

    def found(option: str | None = None) -> tuple[str, str]:
        credential = find_key(KEY, option, environ, tmp_path)
        return credential.value, credential.source

    assert found("from-option") == ("from-option", "option")
    assert keyring.asked == []
    assert found() == found("") == ("from-environment", "environment RUNPOD_API_KEY")
    environ["RUNPOD_API_KEY"] = ""
    assert found() == ("from-keyring", "keyring runpod/RUNPOD_API_KEY")
    assert keyring.asked == [("runpod", "RUNPOD_API_KEY")]
    keyring.get_password = lambda service, user: None  # type: ignore[attr-defined]
    assert found() == ("from-mine", "file mine")
    del environ["RUNPOD_DOTENV_PATH"]
    assert found() == ("from-env-runpod", "file .env.runpod")
    (tmp_path / ".env.runpod").unlink()
    assert found() == ("from-dotenv", "file .env")
    (tmp_path / ".env").unlink()
    with pytest.raises(CredentialError) as caught:
        found()
    for place in ("option", "RUNPOD_API_KEY", "keyring runpod/RUNPOD_API_KEY", ".env.runpod, .env", "export RUNPOD_API_KEY"):
        assert place in str(caught.value)


def test_a_locked_or_missing_keyring_is_no_failure(keyring: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("RUNPOD_API_KEY=from-dotenv\n")
    for fault in (keyring.errors.KeyringError("locked"), RuntimeError("no backend"), OSError("no bus")):

        def fail(service: str, user: str, fault: Exception = fault) -> str:
            raise fault

        keyring.get_password = fail  # type: ignore[attr-defined]
        assert find_key(KEY, None, {}, tmp_path).value == "from-dotenv"
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert find_key(KEY, None, {}, tmp_path).value == "from-dotenv"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("RUNPOD_API_KEY=plain", "plain"),
        ("export RUNPOD_API_KEY=plain", "plain"),
        ("export\tRUNPOD_API_KEY=plain", "plain"),
        ("  RUNPOD_API_KEY = plain  ", "plain"),
        ('RUNPOD_API_KEY="quo#ted"', "quo#ted"),
        ("RUNPOD_API_KEY='quo ted'", "quo ted"),
        ("RUNPOD_API_KEY=plain # a comment", "plain"),
        ('RUNPOD_API_KEY="quoted" # a comment', "quoted"),
        ("RUNPOD_API_KEY=a=b==", "a=b=="),
        ("RUNPOD_API_KEY=with#hash", "with#hash"),
        ("\ufeffRUNPOD_API_KEY=plain", "plain"),
        ("RUNPOD_API_KEY=first\nRUNPOD_API_KEY=last", "last"),
        ("RUNPOD_API_KEY=plain\r", "plain"),
        ("# RUNPOD_API_KEY=off", None),
        ("RUNPOD_API_KEY", None),
        ("OTHER_RUNPOD_API_KEY=x", None),
    ],
)
def test_dotenv_lines(tmp_path: Path, line: str, value: str | None) -> None:
    path = tmp_path / ".env"
    path.write_bytes(f"OTHER=1\n{line}\n".encode() if not line.startswith("\ufeff") else f"{line}\nOTHER=1\n".encode())
    values = read_dotenv(path)
    assert values.get("RUNPOD_API_KEY") == value and values["OTHER"] == "1"


def test_an_unreadable_dotenv_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"RUNPOD_API_KEY=\xff\xfe\n")
    with pytest.raises(CredentialError, match=r"\.env"):
        find_key(KEY, None, {}, tmp_path)
    assert read_dotenv(tmp_path) == {} and read_dotenv(tmp_path / "absent") == {}


@pytest.mark.parametrize("key", ["two words", "a\nb", "k\u00e9y", "key\u200b", "tab\there", "   ", "\n", "a\x7fb", "a\x00b"])
def test_a_key_with_odd_characters_is_refused_without_being_told(key: str, tmp_path: Path) -> None:
    for option, environ in ((key, {}), (None, {"RUNPOD_API_KEY": key})):
        with pytest.raises(CredentialError) as caught:
            find_key(KEY, option, environ, tmp_path)
        assert len(key.strip()) < 3 or key not in str(caught.value)
        assert ("option" if option else "environment RUNPOD_API_KEY") in str(caught.value)


def test_a_line_break_at_the_end_is_forgiven(tmp_path: Path) -> None:
    assert find_key(KEY, "rpa_key\n", {}, tmp_path).value == "rpa_key"


def test_a_credential_does_not_show_its_value(tmp_path: Path) -> None:
    assert "rpa_key" not in repr(find_key(KEY, "rpa_key", {}, tmp_path))
