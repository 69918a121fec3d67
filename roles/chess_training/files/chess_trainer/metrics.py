# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model is worth: accuracy with the legal moves as mask, the share of legal first choices, and two baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from . import vocab
from .board import Position
from .cache import Positions
from .model import AnyNetwork, histories

MIDDLE_GAME_PLY = 20
BATCH = 1024
ROUND = 6


def position_of(tokens: npt.NDArray[np.uint8], meta: npt.NDArray[np.uint8]) -> Position:
    """A position out of its packed form; its ply is even, so that it keeps the view of the side to move."""
    en_passant = -1 if meta[1] == 0 else 39 + int(meta[1])
    return Position(tokens.tobytes(), int(meta[0]), en_passant)


@dataclass
class EvaluationSet:
    """A fixed, evenly spread part of the validation positions with their legal moves."""

    tokens: Tensor
    meta: Tensor
    moves: Tensor
    legal: Tensor
    history: Tensor | None = None

    def __len__(self) -> int:
        return len(self.moves)

    def to(self, device: torch.device) -> EvaluationSet:
        """The same set on a device."""
        history = None if self.history is None else self.history.to(device)
        return EvaluationSet(self.tokens.to(device), self.meta.to(device), self.moves.to(device), self.legal.to(device), history)


def evaluation_set(positions: Positions, count: int, tick: Callable[[float], None], context: int = 0) -> EvaluationSet:
    """Choose the positions and compute their legal moves; a network that reads moves gets so many of those before each."""
    chosen = np.unique(np.linspace(0, len(positions) - 1, min(count, len(positions))).astype(np.int64))
    tokens, meta = np.array(positions.tokens[chosen]), np.array(positions.meta[chosen])
    table = vocab.index_table()
    legal = np.zeros((len(chosen), len(vocab.moves())), dtype=np.bool_)
    for row in range(len(chosen)):
        legal[row, [table[code] for code in position_of(tokens[row], meta[row]).legal_moves()]] = True
        if row % 256 == 0:
            tick(row / len(chosen))
    moves = positions.moves[chosen].astype(np.int64)
    found = EvaluationSet(torch.from_numpy(tokens), torch.from_numpy(meta), torch.from_numpy(moves), torch.from_numpy(legal))
    if context:
        found.history = histories(torch.from_numpy(np.array(positions.moves)), torch.from_numpy(chosen), found.meta[:, 2], context)
    return found


def _share(hits: Tensor, chosen: Tensor | None = None) -> float:
    values = hits.double() if chosen is None else hits[chosen].double()
    return round(float(values.mean()), ROUND) if len(values) else 0.0


@torch.no_grad()
def evaluate(model: AnyNetwork, data: EvaluationSet, autocast: Callable[[], Any], tick: Callable[[float], None]) -> dict[str, float]:
    """Score a model on an evaluation set."""
    training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64)
    raw, masked, mass, five = [], [], [], []
    for start in range(0, len(data), BATCH):
        part = slice(start, start + BATCH)
        inputs = model.inputs(data.tokens[part], data.meta[part], None if data.history is None else data.history[part])
        with autocast():
            logits = model(*inputs).float()
        loss += F.cross_entropy(logits, data.moves[part], reduction="sum").double().cpu()
        mass.append((logits.softmax(1) * data.legal[part]).sum(1))
        raw.append(logits.argmax(1))
        best = logits.masked_fill(~data.legal[part], -torch.inf).topk(5, dim=1).indices
        masked.append(best[:, 0])
        five.append((best == data.moves[part, None]).any(1))
        tick(min(1.0, (start + BATCH) / len(data)))
    model.train(training)
    return _summary(data, loss, torch.cat(raw), torch.cat(masked), torch.cat(five), torch.cat(mass))


def _summary(data: EvaluationSet, loss: Tensor, raw: Tensor, masked: Tensor, five: Tensor, mass: Tensor) -> dict[str, float]:
    later = data.meta[:, 2] >= MIDDLE_GAME_PLY
    hit = masked == data.moves
    return {
        "scored": len(data),
        "scored_ply20": int(later.sum()),
        "loss": round(float(loss) / len(data), ROUND),
        "top1": _share(hit),
        "top1_ply20": _share(hit, later),
        "top5": _share(five),
        "top1_raw": _share(raw == data.moves),
        "raw_legal": _share(data.legal.gather(1, raw[:, None])[:, 0]),
        "legal_mass": _share(mass),
    }


def baselines(data: EvaluationSet, train_moves: npt.NDArray[np.int16]) -> dict[str, float]:
    """Top-1 of a random legal move, and of the legal move that is played most often in the training data."""
    later = data.meta[:, 2] >= MIDDLE_GAME_PLY
    chance = 1.0 / data.legal.sum(1).double()
    counts = torch.from_numpy(np.bincount(train_moves, minlength=data.legal.shape[1]))
    frequent = torch.where(data.legal, counts, torch.tensor(-1)).argmax(1) == data.moves
    return {
        "random_legal": _share(chance),
        "random_legal_ply20": _share(chance, later),
        "frequent_legal": _share(frequent),
        "frequent_legal_ply20": _share(frequent, later),
    }
