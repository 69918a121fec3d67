# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.world import World, make_world, until

TOGETHER = ("tests/e2e/test_refusals.py", "tests/integration/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker runs a whole file whose tests share a world.

    xdist 3.8 loses its groups under pytest 9.2, which no longer reads the attribute that names them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return str(super()._split_scope(nodeid)) if nodeid.startswith(TOGETHER) else nodeid

    return ByFile(config, log)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world whose cloud runs ten times as fast as by default."""
    made = make_world(re.sub(r"\W", "", request.node.name.removeprefix("test_")))
    try:
        made.start_cloud()
        yield made
    finally:
        made.close()


@pytest.fixture
def training_only(world: World) -> None:
    """A converge that leaves out the node and the watchdog; whole cycles elsewhere bring them."""
    world.extra["stack_roles"] = ["pytorch", "chess_training"]


@pytest.fixture
def still_world() -> Iterator[World]:
    """A world whose cloud is not started, with an empty folder to run from."""
    made = make_world("still")
    made.home = made.path / "empty"
    made.home.mkdir()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world that tests share which rent nothing."""
    made = make_world(request.module.__name__.rpartition(".")[2].removeprefix("test_"))
    try:
        made.start_cloud()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], Any], float, str], Any]:
    """Ask again and again until there is an answer, for so many seconds; the words say what was wanted."""
    return until
