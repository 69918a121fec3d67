# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Predict the next move of a game."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import vocab
from .board import Position
from .errors import DataError, UsageError
from .files import sha256_file
from .settings import allotted_threads

if TYPE_CHECKING:
    import torch

    from .model import AnyNetwork


def play(context: str, start: Position | None = None) -> Position:
    """The position after the moves of a context, from the usual one or another on."""
    position = Position() if start is None else start.copy()
    played = []
    for number, text in enumerate(context.replace(",", " ").split(), 1):
        white = position.white_to_move
        reason = position.play_uci(text)
        if reason is not None:
            raise DataError("context", 0, f"move {number}: {reason}")
        code = vocab.uci_codes()[text]
        played.append(vocab.index_table()[code if white else vocab.mirror_code(code)])
    position.played = played if start is None else None
    return position


def _history(model: AnyNetwork, position: Position, device: torch.device) -> torch.Tensor | None:
    """The moves before a position, for a network that reads them."""
    import torch

    from .model import LstmShape, histories

    if not isinstance(model.shape, LstmShape):
        return None
    if position.played is None and position.ply:
        raise DataError("context", 0, "this model reads the moves of a game from its first one on; ask it with moves alone, without another first position")
    moves = torch.tensor([*(position.played or []), 0], device=device)
    last = torch.tensor([len(moves) - 1], device=device)
    return histories(moves, last, last, model.shape.context)


def score(model: AnyNetwork, position: Position, device: torch.device) -> torch.Tensor:
    """The logits of one position."""
    import torch

    passing = 0 if position.en_passant < 0 else position.en_passant % 8 + 1
    tokens = torch.frombuffer(bytearray(position.board), dtype=torch.uint8).view(1, 64).to(device)
    meta = torch.tensor([[position.castling, passing, min(position.ply, 255)]], dtype=torch.uint8, device=device)
    with torch.inference_mode():
        logits: torch.Tensor = model(*model.inputs(tokens, meta, _history(model, position, device)))
    return logits[0].float().cpu()


def uci_of(position: Position, index: int) -> str:
    """A move of the vocabulary as text in a position; a pawn's plain move to the last rank is a promotion to a queen."""
    code = vocab.moves()[index]
    if code >> 12 == 0 and position.board[code & 63] == 1 and code >> 6 & 63 >= 56:
        code |= vocab.PROMOTIONS["q"] << 12
    return position.uci(code)


def choose(position: Position, logits: torch.Tensor, topk: int) -> dict[str, Any]:
    """The best legal moves with their probabilities among the legal ones."""
    import torch

    table = vocab.index_table()
    legal = sorted({table[code] for code in position.legal_moves()})
    raw = int(logits.argmax())
    mass = logits.softmax(0)[legal]
    probabilities = logits[legal].softmax(0)
    best = torch.topk(probabilities, min(topk, len(legal)))
    top = [{"move": uci_of(position, legal[row]), "p": round(p, 6)} for p, row in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    return {
        "move": top[0]["move"],
        "topk": top,
        "legal_moves": len(legal),
        "raw_move": uci_of(position, raw),
        "raw_legal": raw in legal,
        "fallback": raw not in legal,
        "legal_mass": round(float(mass.sum()), 6),
    }


def infer(model_path: Path, context: str, topk: int, device_name: str) -> dict[str, Any]:
    """The command infer."""
    position = play(context)
    moves = position.legal_moves()
    side = "white" if position.white_to_move else "black"
    result: dict[str, Any] = {"ok": True, "context": " ".join(context.replace(",", " ").split()), "ply": position.ply, "side": side}
    if not moves:
        terminal = "checkmate" if position.in_check() else "stalemate"
        return result | {"move": None, "topk": [], "legal_moves": 0, "terminal": terminal, "fallback": False}
    import torch

    from . import artifact

    if device_name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device_name}: this PyTorch ({torch.__version__}) sees no GPU")
    device = torch.device(device_name)
    torch.set_num_threads(allotted_threads(0))
    model = artifact.build(artifact.read(model_path), model_path).to(device)
    score(model, position, device)
    began = time.perf_counter()
    found = choose(position, score(model, position, device), topk)
    milliseconds = round(1000 * (time.perf_counter() - began), 3)
    return result | found | {"device": str(device), "model_sha256": sha256_file(model_path), "ms": milliseconds}
