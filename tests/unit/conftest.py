# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that only tests move, a server that answers as told, and a rehearsal cloud without processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._giving_back import Waits
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._model import LeaseTerms, PodWish
from ansible_collections.podcycle.gpu.plugins.module_utils._state import StateDir
from support.harness import FULL, GPU, FakeClock, Rehearsal, serving


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--second-end", action="store_true", help="each test with its first and its last parameters only, and none of those marked one_end")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a second ansible-core the parameters in between would prove the same of our own code once more; a new test is run there too."""
    if not config.getoption("second_end"):
        return
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {ends for family in families.values() if not family[0].get_closest_marker("one_end") for ends in (family[0], family[-1])}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@dataclass
class Told:
    """One answer of the stub; `cut` sends that many bytes of the body and hangs up, `before` runs when the request has arrived."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    cut: int | None = None
    silent: bool = False
    before: Callable[[], None] | None = None

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else b"" if self.body is None else json.dumps(self.body).encode()


class Stub:
    """Answers requests in order as told, the last answer for ever, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: list[Told] = []
        self.seen: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.close_connection = True
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    return
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                stub.seen.append((self.command, self.path, json.loads(body) if body else None))
                stub.headers.append({key.lower(): value for key, value in self.headers.items()})
                told = stub.answers.pop(0) if len(stub.answers) > 1 else stub.answers[0]
                if told.before is not None:
                    told.before()
                if not told.silent:
                    self._answer(told)

            def _answer(self, told: Told) -> None:
                content = told.content()
                self.send_response(told.status)
                for name, value in {"Content-Type": told.content_type, "Content-Length": str(len(content)), **told.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content if told.cut is None else content[: told.cut])

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v2"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def tell(self, *answers: Told) -> None:
        self.answers = list(answers)
        self.seen.clear()

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _body in self.seen]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, endpoint or state folder of the person who runs the tests."""
    for name in ("RUNPOD_API_KEY", "RUNPOD_REST_V2_URL", "RUNPOD_GRAPHQL_URL", "RUNPOD_DOTENV_PATH", "PODCYCLE_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def told() -> type[Told]:
    return Told


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state").open()


@pytest.fixture
def make_wish() -> Callable[..., PodWish]:
    def make(**changes: Any) -> PodWish:
        base: dict[str, Any] = {
            "run_id": "r1", "name": "pod", "count": 1, "gpus": (GPU,), "gpu_count": 1, "max_usd_per_hour": Decimal("1.50"), "image": "runpod/base:1",
            "disk_gib": 20, "volume_gib": 0, "volume_path": "/workspace", "ports": ("22/tcp",), "ssh_public_key": "ssh-ed25519 AAAA me",
            "lease": LeaseTerms(Decimal(1)), "options": {"cloud_type": "secure"},
        }  # fmt: skip
        return PodWish(**{**base, **changes})

    return make


@pytest.fixture(scope="session")
def shared_rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with serving(tmp_path_factory.mktemp("rehearsal")) as rehearsal:
        yield rehearsal


@pytest.fixture
def rehearsal(shared_rehearsal: Rehearsal) -> Rehearsal:
    shared_rehearsal.reset()
    return shared_rehearsal


@pytest.fixture
def make_engine(state: StateDir, clock: FakeClock, rehearsal: Rehearsal) -> Callable[..., Engine]:
    """An engine on the rehearsal cloud, with time that costs nothing."""

    def make(key: str = FULL, cloud: Any = None, **more: Any) -> Engine:
        driver = cloud or rehearsal.client(clock, key)
        waits = Waits(**{"settle": 3.0, **more.pop("waits", {})})
        return Engine(driver, Ledger(state, "runpod", driver.endpoint), state, clock=clock, waits=waits, **more)

    return make


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()
