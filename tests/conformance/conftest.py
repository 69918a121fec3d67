# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One rehearsal cloud for a provider's own package and for our driver; which version of the package is there depends on the environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import RunPodAccount
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from support.harness import FULL, GPU, FakeClock, Rehearsal, serving


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with serving(tmp_path_factory.mktemp("rehearsal")) as rehearsal:
        yield rehearsal


@pytest.fixture
def package() -> Any:
    return pytest.importorskip("runpod")


@pytest.fixture
def world(shared: Rehearsal, package: Any, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """The package takes its base URL from the environment and its key from a global."""
    shared.reset()
    monkeypatch.setenv("RUNPOD_API_BASE_URL", shared.url.removesuffix("/v2"))
    monkeypatch.setattr(package, "api_key", FULL)
    return shared


@pytest.fixture
def driver(world: Rehearsal) -> RunPod:
    return world.client(FakeClock())


@pytest.fixture
def account(world: Rehearsal) -> RunPodAccount:
    return RunPodAccount(HttpClient(world.url, FULL, "runpod"))


@pytest.fixture
def create(world: Rehearsal, package: Any) -> Callable[..., dict[str, Any]]:
    """A pod that the package rents."""

    def make(**changes: Any) -> dict[str, Any]:
        wish = {"name": "from-the-package", "image_name": "runpod/base:1", "gpu_type_id": GPU, "cloud_type": "SECURE", "ports": "22/tcp, 8888/http"}
        found: dict[str, Any] = package.create_pod(**{**wish, **changes})
        return found

    return make
