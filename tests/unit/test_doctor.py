# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor: each ailment is found, named, and comes with a remedy; none hides another; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _doctor
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.base import Account
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from support.harness import FULL

READ_ONLY = "rpa_rehearsal_readonly"


@pytest.fixture
def examine(rehearsal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    for name in _doctor._PROXIES:
        monkeypatch.delenv(name, raising=False)

    def examined(version: str = "2.19.1", **options: Any) -> dict[str, Any]:
        given = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(tmp_path / "state"), **options}
        found = _doctor.examine(given, version)
        found["by"] = {check["name"]: check for check in found["checks"]}
        assert all(check["remedy"] for check in found["checks"] if check["status"] != "ok"), "a finding without a remedy"
        return found

    return examined


def test_all_is_well_and_nothing_was_changed(examine: Any, rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunPod, "account", lambda self: Account(Decimal("12.5"), Decimal("0.59")))
    found = examine()
    assert found["verdict"] == "ok" and found["rehearsal"], found["lines"]
    assert found["by"]["key"]["found"] == "from option" and found["by"]["balance"]["found"] == "12.50 $, 0.5900 $/h being spent, 21.2 h left"
    assert list(found["by"])[-7:] == ["key", "API", "rights", "clock", "GraphQL", "balance", "leases"]
    assert rehearsal.pods() == [] and [path for _method, path in rehearsal.writes()] == ["/v2/pods/podcycle0doctor/action"]


@pytest.mark.parametrize(
    ("options", "ailing", "words", "also"),
    [
        ({"api_key": "rpa_nobody"}, "API", "does not know the key", {"Python", "state folder"}),
        ({"api_key": READ_ONLY}, "rights", "may read but not write", {"API", "clock", "leases"}),
        ({"endpoint": "http://127.0.0.1:9/v2"}, "API", "cannot connect", {"key"}),
        ({"endpoint": "http://example.org/v2"}, "key", "unencrypted", {"ssh"}),
        ({"version": "2.18.9"}, "ansible-core", "2.18.9", {"API"}),
    ],
)
def test_an_ailment_is_found_and_hides_no_other(examine: Any, options: dict[str, Any], ailing: str, words: str, also: set[str]) -> None:
    found = examine(**options)
    check = found["by"][ailing]
    assert found["verdict"] == "fail" and check["status"] == "fail" and words in check["found"]
    assert all(found["by"][name]["status"] == "ok" for name in also)
    place = next(number for number, line in enumerate(found["lines"]) if line.startswith("FAIL") and ailing in line)
    assert found["lines"][place + 1].startswith("      do: ")


def test_no_key_says_every_place_that_was_looked_at(examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check = examine(api_key=None)["by"]["key"]
    assert "RUNPOD_API_KEY" in check["found"] and "keyring" in check["found"] and "export RUNPOD_API_KEY" in check["remedy"]


@pytest.mark.parametrize(
    ("account", "status", "words"),
    [
        (Account(Decimal("0.30"), Decimal("0.59")), "fail", "0.5 h left"),
        (Account(Decimal(0), Decimal(0)), "fail", "nothing is being spent"),
        (None, "warn", "does not tell"),
        (errors.Forbidden("the key has no GraphQL rights", hint="give it some"), "warn", "only GraphQL tells it"),
    ],
)
def test_the_balance(examine: Any, monkeypatch: pytest.MonkeyPatch, account: Any, status: str, words: str) -> None:
    def told(self: Any) -> Any:
        if isinstance(account, Exception):
            raise account
        return account

    monkeypatch.setattr(RunPod, "account", told)
    found = examine()["by"]
    assert found["balance"]["status"] == status and words in found["balance"]["found"]
    if isinstance(account, Exception):
        assert found["GraphQL"] == {"name": "GraphQL", "status": "warn", "found": account.message, "remedy": "give it some"}
    else:
        assert ("GraphQL" in found) is (account is not None)


@pytest.mark.parametrize(
    ("ahead", "status", "words"), [(0.9, "ok", "right"), (30.0, "warn", "30 s ahead"), (-3600.0, "fail", "3600 s behind"), (None, "warn", "does not tell")]
)
def test_the_clock(examine: Any, monkeypatch: pytest.MonkeyPatch, ahead: float | None, status: str, words: str) -> None:
    monkeypatch.setattr(RunPod, "clock_ahead", lambda self: ahead)
    check = examine()["by"]["clock"]
    assert check["status"] == status and words in check["found"]


def test_the_clock_is_compared_with_the_answers_date(stub: Any, told: Any) -> None:
    stub.tell(told(200, {"pods": []}, headers={"Date": "Sun, 01 Nov 2020 10:00:00 GMT"}))
    assert RunPod(HttpClient(stub.url, "rpa_key", "runpod"), "option").clock_ahead() > 10**8


def test_tools_that_are_missing_are_named_with_their_packages(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor.shutil, "which", lambda name: None)
    found = examine()
    assert {name: found["by"][name]["status"] for name in ("ssh", "rsync", "git")} == {"ssh": "fail", "rsync": "fail", "git": "warn"}
    assert found["by"]["ssh-keygen"]["remedy"] == "sudo apt-get install openssh-client"


def test_leases_that_are_over_are_told(examine: Any, rehearsal: Any, make_engine: Any, make_wish: Any, tmp_path: Path) -> None:
    engine = make_engine()
    engine.rent(make_wish(), check_mode=False)
    rehearsal.control("POST", f"/pods/{rehearsal.pods()[0]['id']}/remove")
    check = examine(state_dir=str(engine.state.path))["by"]["leases"]
    assert check["status"] == "warn" and "1 open" in check["found"] and "reap.yml" in check["remedy"]
