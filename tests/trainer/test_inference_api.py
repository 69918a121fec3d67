# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inference service as it runs on a pod: an environment of its own, the trainer's from the stack, a model that the trainer wrote."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch numpy to run the trainer's tests")
chess = pytest.importorskip("chess", reason="python-chess is not installed")

from chess_trainer import infer  # noqa: E402
from chess_trainer.cli import main  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("PODCYCLE_SERVICES_PYTHON") or ROOT / ".build/services-venv/bin/python")
API = ROOT / "roles/services/files/inference_api.py"
SITE = [path for path in sys.path if path.endswith("site-packages")]
OPENING = "e2e4 e7e5 g1f3"
SLOW = """
import sys, threading, time
sys.path.insert(0, {folder!r})
import inference_api
real, alone = inference_api.Loaded.answer, threading.Lock()
def slow(self, position, topk):
    assert alone.acquire(blocking=False), "two at a time"
    time.sleep(0.5)
    alone.release()
    return real(self, position, topk)
inference_api.Loaded.answer = slow
sys.exit(inference_api.main())
"""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="the environment of the services is not there; make test makes it")


@pytest.fixture(scope="session")
def model(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("model") / "run"
    fixed = ["--data", str(small_data), "--run-dir", str(run_dir), "--cache-dir", str(small_data / "cache"), "--eval-positions", "64"]
    assert main(["train", *fixed, "--preset", "smoke", "--max-steps", "8"]) == 0
    return run_dir / "model.pt"


class Api:
    def __init__(self, folder: Path, program: Path = API, **changes: Any) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        base = {"port": self.port, "models": [f"{folder}/runs/*/model.pt"], "device": "cpu", "heartbeat": f"{folder}/heartbeat"}
        packages = [*SITE, str(ROOT / "roles/chess_training/files")]
        (folder / "config.json").write_text(json.dumps({**base, "packages": packages, **changes}))
        self.log = (folder / "log").open("w+")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "VIRTUAL_ENV"))}
        command = [str(PYTHON), str(program), "--config", str(folder / "config.json")]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def ask(self, path: str, body: Any = None, *, raw: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers or {})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
                status, text = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, text.decode() if path == "/metrics" else json.loads(text)

    def until(self, status: int) -> Any:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                found, answer = self.ask("/healthz")
                if found == status:
                    return answer
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def put(self, content: bytes, run: str) -> Path:
        path = self.folder / "runs" / run / "model.pt"
        path.parent.mkdir(parents=True)
        part = path.with_name(".part")
        part.write_bytes(content)
        return part.replace(path)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=20)
        self.log.close()
        assert code == 0, (self.folder / "log").read_text()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.end()


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["BOMB"])),)


def test_it_waits_for_a_model_answers_as_infer_move_and_refuses_a_bad_successor(
    api: Api, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no model" in api.until(503)["detail"] and api.ask("/infer", {"context": []})[0] == 503
    path = api.put(model.read_bytes(), "r1")
    assert api.until(200) == {"ok": True, "device": "cpu", "model_path": str(path), "load_seconds": api.ask("/healthz")[1]["load_seconds"]}
    assert not (tmp_path / "heartbeat").exists()
    expected = infer.infer(path, OPENING, 4, "cpu")
    status, answer = api.ask("/infer", {"context": OPENING.split(), "winner_side": "B", "topk": 4})
    assert status == 200 and answer.pop("latency_ms") > 0
    assert [answer["topk"], answer["probabilities"]] == [[row["move"] for row in expected["topk"]], [row["p"] for row in expected["topk"]]]
    assert [answer[key] for key in ("best_legal", "predicted_uci", "device", "model_path")] == [expected["move"], expected["raw_move"], "cpu", str(path)]
    assert (tmp_path / "heartbeat").exists()
    # The same position as text, and moves from there on.
    board = chess.Board()
    board.push_uci("e2e4")
    board.push_uci("e7e5")
    status, other = api.ask("/infer", {"fen": board.fen(en_passant="fen"), "context": "g1f3", "topk": 4})
    assert status == 200 and other["topk"] == answer["topk"] and other["probabilities"] == answer["probabilities"]
    assert len(api.ask("/infer", {})[1]["topk"]) == 10
    # A newer file that would run code is refused, and the good model stays.
    monkeypatch.setenv("BOMB", str(tmp_path / "ran"))
    bomb = api.put(pickle.dumps(Bomb()), "r2")
    end = time.monotonic() + 20
    while "newer" not in api.ask("/healthz")[1]:
        assert time.monotonic() < end
        time.sleep(0.1)
    status, health = api.ask("/healthz")
    assert status == 200 and str(bomb) in health["newer"] and health["model_path"] == str(path) and not (tmp_path / "ran").exists()


def test_the_newest_model_that_can_be_used_is_served(api: Api, model: Path) -> None:
    good = api.put(model.read_bytes(), "r1")
    api.put(b"no model", "r2")
    os.utime(good, (1, 1))
    health = api.until(200)
    assert health["model_path"] == str(good) and "r2/model.pt cannot be used" in health["newer"]
    better = api.put(model.read_bytes(), "r3")
    end = time.monotonic() + 20
    while api.ask("/healthz")[1]["model_path"] != str(better):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_each_bad_request_has_its_status(api: Api, model: Path) -> None:
    api.put(model.read_bytes(), "r1")
    api.until(200)
    big = b" " * 70000

    def parts() -> Iterator[bytes]:
        yield from (b" " * 1000 for _turn in range(70))

    found = {
        "no JSON": api.ask("/infer", raw=b'{"context": '),
        "no text": api.ask("/infer", raw=b"\xff\xfe"),
        "too large": api.ask("/infer", raw=big),
        "too large, in parts": api.ask("/infer", raw=parts()),
        "a list": api.ask("/infer", [1]),
        "illegal": api.ask("/infer", {"context": "e2e4 e2e4"}),
        "no move": api.ask("/infer", {"context": ["Nf3"]}),
        "no king": api.ask("/infer", {"fen": "8/8/8/8/8/8/8/K7 w - - 0 1"}),
        "mate": api.ask("/infer", {"context": "f2f3 e7e5 g2g4 d8h4"}),
        "side": api.ask("/infer", {"winner_side": "X"}),
        "topk": api.ask("/infer", {"topk": 0}),
        "field": api.ask("/infer", {"contxt": "e2e4"}),
        "no context": api.ask("/infer", {"context": False}),
        "no fen": api.ask("/infer", {"fen": 0}),
    }
    assert {name: status for name, (status, _answer) in found.items()} == {
        "no JSON": 400, "no text": 400, "too large": 413, "too large, in parts": 413, "a list": 422, "illegal": 422, "no move": 422, "no king": 422,
        "mate": 422, "side": 422, "topk": 422, "field": 422, "no context": 422, "no fen": 422,
    }  # fmt: skip
    assert "checkmate" in found["mate"][1]["detail"] and "e2" in found["illegal"][1]["detail"] and "0 kings" in found["no king"][1]["detail"]
    assert api.ask("/infer", {})[0] == 200
    metrics = dict(line.rsplit(" ", 1) for line in api.ask("/metrics")[1].splitlines() if not line.startswith("#"))
    wanted = {"200": 1, "400": 2, "413": 2, "422": 10, "503": 0}
    assert {code: int(metrics[f'podcycle_inference_requests_total{{code="{code}"}}']) for code in wanted} == wanted
    assert [metrics["podcycle_inference_seconds_count"], metrics["podcycle_inference_ready"]] == ["1", "1"]


def test_one_at_a_time_and_no_more_wait_than_the_queue_holds(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW.format(folder=str(API.parent)))
    api = Api(tmp_path, program, queue=3, model=str(shutil.copy(model, tmp_path / "given.pt")))
    try:
        api.until(200)
        with ThreadPoolExecutor(8) as pool:
            statuses = sorted(status for status, _answer in pool.map(lambda _n: api.ask("/infer", {"context": OPENING}), range(8)))
        assert statuses == [200] * 3 + [503] * 5
        assert api.ask("/infer", {})[0] == 200
    finally:
        api.end()
