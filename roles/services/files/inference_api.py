# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers with the next move of a game over HTTP, from the newest model that the trainer wrote.

  GET /healthz   200 once a model has made a first inference, else 503 and why
  POST /infer    {"context": ["e2e4"] or "e2e4", "fen": "...", "winner_side": "W", "topk": 10}
  GET /metrics   Prometheus text

400 no JSON, 413 too large, 422 no such position, 503 no model yet or too many wait. One inference at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import site
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIDES = ("W", "B", "D", "?")
# What an answer can be, so that each count is there from the beginning.
CODES = (200, 400, 413, 422, 500, 503)
LOOK_SECONDS = 2.0
# A model that was refused is tried again: what it needs may have been healed.
REFUSED_SECONDS = 60.0
MAX_TOPK, MAX_MOVES = 218, 2000
DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 8000,
    "model": "latest",
    "models": [],
    "device": "auto",
    "topk": 10,
    "queue": 16,
    "max_bytes": 65536,
    "packages": [],
    "heartbeat": "",
}


Stamp = tuple[int, int, int]


class Refused(Exception):
    """A request that is not done, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Loaded:
    """One model, ready and warm."""

    def __init__(self, path: Path, device_name: str) -> None:
        import torch

        from chess_trainer import artifact, infer
        from chess_trainer.board import Position
        from chess_trainer.settings import allotted_threads

        began = time.perf_counter()
        self.path, self.stamp = path, stamp_of(path)
        self.device = torch.device(device_name if device_name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(allotted_threads(0))
        # Weights only: a model is foreign data.
        self.network = artifact.build(artifact.read(path), path).to(self.device)
        self.infer = infer
        infer.score(self.network, Position(), self.device)
        self.seconds = time.perf_counter() - began

    def answer(self, position: Any, topk: int) -> dict[str, Any]:
        found = self.infer.choose(position, self.infer.score(self.network, position, self.device), topk)
        moves = [row["move"] for row in found["topk"]]
        return {
            "topk": moves,
            "best_legal": found["move"],
            "predicted_uci": found["raw_move"],
            "probabilities": [row["p"] for row in found["topk"]],
            "legal_moves": found["legal_moves"],
            "side": "white" if position.white_to_move else "black",
        }


def stamp_of(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class Models:
    """Keeps the wanted model loaded, and the last good one while a newer is bad."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.loaded: Loaded | None = None
        self.why = "no model was looked for yet"
        # When each file that cannot be used was last tried.
        self.refused: dict[tuple[Path, Stamp], float] = {}
        self.loads = self.failures = 0

    def candidates(self) -> list[tuple[Path, Stamp]]:
        """The named model, or those that the patterns find, the newest first."""
        named = self.config["model"] != "latest"
        paths = [Path(self.config["model"])] if named else [path for pattern in self.config["models"] for path in Path("/").glob(pattern.lstrip("/"))]
        found = []
        for path in paths:
            with contextlib.suppress(OSError):
                found.append((path, stamp_of(path)))
        if not found:
            self.why = f"the model {paths[0]} is not there" if named else f"there is no model in {', '.join(self.config['models']) or 'any folder'}"
        return sorted(found, key=lambda row: (row[1][2], str(row[0])), reverse=True)

    def look(self) -> None:
        """Load the newest model that can be used, unless it is loaded already."""
        self.refused = {row: at for row, at in self.refused.items() if time.monotonic() - at < REFUSED_SECONDS}
        for path, stamp in self.candidates():
            if self.loaded and (self.loaded.path, self.loaded.stamp) == (path, stamp):
                return
            if (path, stamp) in self.refused:
                continue
            try:
                fresh = Loaded(path, self.config["device"])
            # Whatever a file does to the loader, the model that is there goes on.
            except Exception as error:
                self.failures += 1
                self.refused[path, stamp] = time.monotonic()
                self.why = f"{path} cannot be used: {str(error)[:300]}"
                say(self.why)
                continue
            self.loads += 1
            self.loaded = fresh
            self.why = self.why if self.refused else ""
            say(f"serving {path} on {fresh.device}, loaded and warm in {fresh.seconds:.2f} s")
            return


class Metrics:
    def __init__(self) -> None:
        self.codes = dict.fromkeys(CODES, 0)
        self.buckets = [0] * len(BUCKETS)
        self.count, self.seconds = 0, 0.0

    def observe(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        for number, bound in enumerate(BUCKETS):
            self.buckets[number] += seconds <= bound

    def text(self, models: Models, waiting: int) -> str:
        name = "podcycle_inference"
        rows = [f"# TYPE {name}_requests_total counter", *(f'{name}_requests_total{{code="{code}"}} {n}' for code, n in self.codes.items())]
        rows += [f"# TYPE {name}_seconds histogram", *(f'{name}_seconds_bucket{{le="{b}"}} {n}' for b, n in zip(BUCKETS, self.buckets, strict=True))]
        rows += [f'{name}_seconds_bucket{{le="+Inf"}} {self.count}', f"{name}_seconds_sum {self.seconds:.6f}", f"{name}_seconds_count {self.count}"]
        rows += [f"# TYPE {name}_queue gauge", f"{name}_queue {waiting}", f"# TYPE {name}_ready gauge", f"{name}_ready {int(models.loaded is not None)}"]
        rows += [f"# TYPE {name}_model_loads_total counter", f'{name}_model_loads_total{{result="ok"}} {models.loads}']
        return "\n".join([*rows, f'{name}_model_loads_total{{result="error"}} {models.failures}']) + "\n"


class Service:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.models, self.metrics = Models(config), Metrics()
        # One thread: inferences and the loading of models follow one another.
        self.worker = ThreadPoolExecutor(1)
        self.waiting = 0

    async def infer(self, request: Request) -> Response:
        code = 500
        try:
            answer: Any = await self._infer(request)
            code = 200
        except Refused as refusal:
            answer, code = {"detail": str(refusal)}, refusal.status
        finally:
            self.metrics.codes[code] += 1
        return JSONResponse(answer, code, {"Retry-After": "1"} if code == 503 else None)

    async def _infer(self, request: Request) -> dict[str, Any]:
        given = await self._body(request)
        began = time.perf_counter()
        if self.models.loaded is None:
            raise Refused(503, self.models.why)
        if self.waiting >= self.config["queue"]:
            raise Refused(503, f"{self.waiting} requests wait already")
        self.waiting += 1
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self.worker, self._work, given)
        finally:
            self.waiting -= 1
        self.beat()
        return {**answer, "latency_ms": round(1000 * (time.perf_counter() - began), 3)}

    async def _body(self, request: Request) -> dict[str, Any]:
        limit = self.config["max_bytes"]
        length = request.headers.get("content-length", "0")
        raw = bytearray()
        if length.isdigit() and int(length) <= limit:
            async for part in request.stream():
                raw += part
                if len(raw) > limit:
                    break
        if not length.isdigit() or int(length) > limit or len(raw) > limit:
            raise Refused(413, f"the request has more than {limit} bytes")
        try:
            given = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the request is no JSON: {str(error)[:200]}") from error
        return checked(given, self.config["topk"])

    def _work(self, given: dict[str, Any]) -> dict[str, Any]:
        import fen

        from chess_trainer import infer
        from chess_trainer.errors import DataError

        model = self.models.loaded
        assert model is not None
        try:
            position = infer.play(given["context"], fen.parse(given["fen"]) if given["fen"] else None)
        except DataError as error:
            raise Refused(422, error.reason) from error
        except ValueError as error:
            raise Refused(422, f"fen: {error}") from error
        if not position.legal_moves():
            raise Refused(422, f"the game is over: {'checkmate' if position.in_check() else 'stalemate'}")
        began = time.perf_counter()
        try:
            answer = model.answer(position, given["topk"])
        except DataError as error:
            raise Refused(422, error.reason) from error
        self.metrics.observe(time.perf_counter() - began)
        return {**answer, "device": str(model.device), "model_path": str(model.path)}

    def beat(self) -> None:
        """A move that somebody asked for is work: the idle watchdog looks at this file."""
        if self.config["heartbeat"]:
            with contextlib.suppress(OSError):
                Path(self.config["heartbeat"]).touch()

    def healthz(self) -> Response:
        model = self.models.loaded
        if model is None:
            return JSONResponse({"ok": False, "detail": self.models.why}, 503, {"Retry-After": "2"})
        about = {"ok": True, "device": str(model.device), "model_path": str(model.path), "load_seconds": round(model.seconds, 3)}
        return JSONResponse({**about, "newer": self.models.why} if self.models.why else about)

    def keep_loaded(self, ending: threading.Event) -> None:
        while not ending.is_set():
            self.worker.submit(self.models.look).result()
            ending.wait(LOOK_SECONDS)


def checked(given: Any, topk: int) -> dict[str, Any]:
    """The fields of a request; a context is a list of moves or a text."""
    if not isinstance(given, dict):
        raise Refused(422, "the request is no JSON object")
    unknown = sorted(set(given) - {"context", "fen", "winner_side", "topk"})
    if unknown:
        raise Refused(422, f"there is no field {ascii(unknown[0])[:60]}; there are context, fen, winner_side and topk")
    context = "" if given.get("context") is None else given["context"]
    moves = context.replace(",", " ").split() if isinstance(context, str) else context
    if not isinstance(moves, list) or not all(isinstance(move, str) for move in moves) or len(moves) > MAX_MOVES:
        raise Refused(422, f"context is no list of up to {MAX_MOVES} moves in UCI notation")
    fen = "" if given.get("fen") is None else given["fen"]
    if not isinstance(fen, str) or len(fen) > 200:
        raise Refused(422, "fen is no text of up to 200 characters")
    # The upstream's models are told who wins; this one needs no such word, and takes it.
    if given.get("winner_side", "W") not in SIDES:
        raise Refused(422, f"winner_side is none of {', '.join(SIDES)}")
    wish = given.get("topk")
    wish = topk if wish is None else wish
    if isinstance(wish, bool) or not isinstance(wish, int) or not 1 <= wish <= MAX_TOPK:
        raise Refused(422, f"topk is no number from 1 to {MAX_TOPK}")
    return {"context": " ".join(moves), "fen": fen, "topk": wish}


def build(service: Service) -> FastAPI:
    app = FastAPI(title="podcycle inference", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/infer", service.infer, methods=["POST"], response_model=None)
    app.add_api_route("/healthz", service.healthz, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", lambda: PlainTextResponse(service.metrics.text(service.models, service.waiting)), methods=["GET"], response_model=None)
    return app


def say(text: str) -> None:
    print("".join(letter if letter.isprintable() else " " for letter in text), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve a chess policy over HTTP.")
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().with_name("config.json"))
    config = {**DEFAULTS, **json.loads(parser.parse_args().config.read_text(encoding="utf-8"))}
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # PyTorch and the trainer live in the stack's environment; what is here comes first.
    for folder in config["packages"]:
        for place in sorted(Path("/").glob(folder.lstrip("/"))):
            site.addsitedir(str(place))
    service, ending = Service(config), threading.Event()
    threading.Thread(target=service.keep_loaded, args=(ending,), daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(build(service), host=config["host"], port=config["port"], log_level="warning", timeout_graceful_shutdown=5))
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    server.run()
    ending.set()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
