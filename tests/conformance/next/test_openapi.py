# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI description that the rehearsal cloud serves and what it answers: the same, for requests that fit the description and for such as break it."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.configuration import set_hypothesis_home_dir
from schemathesis.config import SchemathesisConfig

from rehearsal.api.runpod_openapi import describe
from support.harness import FULL, GPU, ROOT, Rehearsal

set_hypothesis_home_dir(ROOT / ".build" / "hypothesis")
BODIES: dict[str, dict[str, Any]] = {
    "pods": {"name": "seen", "image": "runpod/base:1", "gpu": {"id": GPU, "count": 1}, "mounts": {"persistent": {"size": 20, "path": "/w"}}},
    "templates": {"name": "seen", "image": "runpod/base:1", "env": {"A": "1"}},
    "network-volumes": {"name": "seen", "size": 10, "dataCenter": "EU-RO-1"},
    "registries": {"name": "seen", "username": "me", "password": "hush-hush"},
}
KNOWN = {"gpus": GPU, "datacenters": "EU-RO-1"}
HEADERS = {"Authorization": f"Bearer {FULL}"}
# What no schema can say, capacity above all, is refused with 400; a body that fits never with 422.
RULES = ["2xx", "400", "401", "402", "403", "404", "409", "413", "429"]
CONFIG = {"checks": {"positive_data_acceptance": {"expected-statuses": RULES}}, "generation": {"with-security-parameters": False}}
api = schemathesis.openapi.from_dict(describe(), config=SchemathesisConfig.from_dict(CONFIG))


def test_the_description_is_served(shared: Rehearsal) -> None:
    assert requests.get(f"{shared.url}/openapi.json", timeout=20).json() == describe()


@pytest.mark.parametrize("text", [b"{", b'{"disk": NaN}', b'{"name": "\\ud800"}', b"[" * 90_000])
def test_what_is_no_json_is_said_so(shared: Rehearsal, text: bytes) -> None:
    assert requests.post(f"{shared.url}/pods", data=text, headers=HEADERS, timeout=20).status_code == 400


def existing(case: Any, url: str) -> str | None:
    """Something for a path to name, made where the last request has deleted it. Logs of a living pod never end."""
    words = case.path.split("/")
    if words[-1] == "logs" or "{id}" not in words:
        return None
    name = words[words.index("{id}") - 1]
    if name in KNOWN:
        return KNOWN[name]
    base = f"{url}/{name}"
    rows = next(value for value in requests.get(base, headers=HEADERS, timeout=20).json().values() if isinstance(value, list))
    found = rows[0] if rows else requests.post(base, json=BODIES[name], headers=HEADERS, timeout=20).json()
    return str(found["id"])


@api.parametrize()
@settings(max_examples=25, derandomize=True, database=None, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
def test_an_operation_keeps_to_its_description(case: Any, shared: Rehearsal) -> None:
    case.call_and_validate(base_url=shared.url, headers=HEADERS, timeout=20)
    there = existing(case, shared.url)
    if there is not None:
        case.path_parameters = {"id": there}
        case.call_and_validate(base_url=shared.url, headers=HEADERS, timeout=20)
