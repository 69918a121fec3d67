# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks that score the 1858 moves of a position, from its board or from the moves that led to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import settings, vocab

DROPOUT = 0.15
PLANES = 18  # 12 pieces, 4 castling rights, en passant, ones


@dataclass(frozen=True)
class Shape:
    """What the network is made of; stands in every artifact."""

    filters: int
    blocks: int
    squeeze: int = 4
    head: int = 32


@dataclass(frozen=True)
class LstmShape:
    """What the network that reads moves is made of."""

    embed: int = 256
    hidden: int = 512
    layers: int = 2
    context: int = 64  # so many of the last moves are read


AnyShape = Shape | LstmShape


@dataclass(frozen=True)
class Preset:
    """A network with the settings it is trained with."""

    shape: AnyShape
    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int
    eval_positions: int = 8192


PRESETS = {
    "smoke": Preset(Shape(filters=32, blocks=3), batch_size=settings.PRESETS["smoke"], lr=5e-3, weight_decay=0.01, warmup_steps=20, eval_positions=4096),
    "cpu": Preset(Shape(filters=48, blocks=4), batch_size=settings.PRESETS["cpu"], lr=3e-3, weight_decay=0.01, warmup_steps=50),
    "gpu": Preset(Shape(filters=128, blocks=10, head=64), batch_size=settings.PRESETS["gpu"], lr=2e-3, weight_decay=0.05, warmup_steps=200),
    "lstm": Preset(LstmShape(), batch_size=settings.PRESETS["lstm"], lr=1e-3, weight_decay=0.01, warmup_steps=200),
    "lstm-small": Preset(
        LstmShape(embed=64, hidden=128), batch_size=settings.PRESETS["lstm-small"], lr=4e-3, weight_decay=0.01, warmup_steps=20, eval_positions=4096
    ),
}
# By the number of a piece, own ones first: pawn, knight, bishop, rook, queen, king.
_MATERIAL = (0, *(0, 3, 3, 5, 9, 0) * 2)


def phases(tokens: Tensor, meta: Tensor) -> Tensor:
    """0 opening, 1 middlegame, 2 endgame: by what is left besides pawns and kings, by queens, castling rights and the first 20 plies."""
    material = torch.tensor(_MATERIAL, device=tokens.device)[tokens.long()].sum(1)
    queens = ((tokens == 5) | (tokens == 11)).any(1)
    late = (material <= 14) | (~queens & (material <= 20))
    early = (meta[:, 2] <= 20) & (meta[:, 0] != 0)
    return torch.where(late, 2, torch.where(early, 0, 1))


def histories(moves: Tensor, rows: Tensor, ply: Tensor, length: int) -> Tensor:
    """The moves before each position, at most the last ones, as tokens: 1 begins, 0 fills up at the end.

    The positions of a game follow each other in the packed data, so the moves before one are those of the rows before it.
    """
    have = ply.long().clamp(max=length)
    at = (rows - have)[:, None] + torch.arange(length, device=rows.device)
    filled = torch.arange(length, device=rows.device) < have[:, None]
    tokens = torch.where(filled, moves[at.clamp(max=len(moves) - 1)].long() + 2, 0)
    return F.pad(tokens, (1, 0), value=1)


def planes(tokens: Tensor, meta: Tensor) -> Tensor:
    """Input planes of a batch, made on its device from packed positions."""
    count = len(tokens)
    pieces = torch.arange(1, 13, dtype=torch.uint8, device=tokens.device)
    board = tokens.view(count, 1, 64) == pieces.view(1, 12, 1)
    bits = torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=meta.device)
    castling = ((meta[:, :1] & bits) != 0).unsqueeze(2).expand(count, 4, 64)
    files = torch.arange(64, dtype=torch.uint8, device=meta.device) % 8 + 1
    passing = (meta[:, 1:2] == files).unsqueeze(1)
    ones = torch.ones((count, 1, 64), dtype=torch.bool, device=tokens.device)
    return torch.cat((board, castling, passing, ones), dim=1).view(count, PLANES, 8, 8).float()


class Block(nn.Module):
    """Two convolutions, a gate per channel, and a way around them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        filters = shape.filters
        self.first = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(filters)
        self.second = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(filters)
        self.squeeze = nn.Linear(filters, filters // shape.squeeze)
        self.excite = nn.Linear(filters // shape.squeeze, 2 * filters)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        gate, shift = self.excite(F.relu(self.squeeze(y.mean(dim=(2, 3))))).chunk(2, dim=1)
        return F.relu(x + y * torch.sigmoid(gate)[:, :, None, None] + shift[:, :, None, None])


class PolicyNet(nn.Module):
    """Scores every move of the vocabulary from the squares it leaves and reaches."""

    plain_index: Tensor
    under_index: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = nn.Conv2d(PLANES, shape.filters, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(shape.filters)
        self.blocks = nn.Sequential(*(Block(shape) for _turn in range(shape.blocks)))
        self.leave = nn.Conv2d(shape.filters, shape.head, 1)
        self.reach = nn.Conv2d(shape.filters, shape.head, 1)
        self.under = nn.Conv2d(shape.filters, 3, 1)
        self.move_bias = nn.Parameter(torch.zeros(len(vocab.moves())))
        codes = torch.tensor(vocab.moves())
        from_square, to_square, promotion = codes & 63, codes >> 6 & 63, codes >> 12
        self.register_buffer("plain_index", from_square * 64 + to_square, persistent=False)
        self.register_buffer("under_index", ((promotion - 1) * 64 + from_square)[promotion > 0], persistent=False)

    @staticmethod
    def inputs(tokens: Tensor, meta: Tensor, history: Tensor | None) -> tuple[Tensor, ...]:
        """What forward takes, from packed positions."""
        return (planes(tokens, meta).contiguous(memory_format=torch.channels_last),)

    def forward(self, x: Tensor) -> Tensor:
        """Logits over the vocabulary."""
        x = F.relu(self.stem_norm(self.stem(x)))
        x = self.blocks(x)
        leave = self.leave(x).flatten(2).transpose(1, 2)
        pairs = torch.bmm(leave, self.reach(x).flatten(2)) * self.shape.head**-0.5
        logits = pairs.flatten(1)[:, self.plain_index]
        under = self.under(x).flatten(1)[:, self.under_index]
        total: Tensor = logits.float() + self.move_bias + F.pad(under.float(), (logits.shape[1] - under.shape[1], 0))
        return total


class NextMoveLstm(nn.Module):
    """Scores every move of the vocabulary from the moves before it: the baseline that knows no board."""

    def __init__(self, shape: LstmShape) -> None:
        super().__init__()
        self.shape = shape
        size = len(vocab.moves())
        self.embed = nn.Embedding(size + 2, shape.embed, padding_idx=0)
        self.dropout = nn.Dropout(DROPOUT)
        self.lstm = nn.LSTM(shape.embed, shape.hidden, shape.layers, batch_first=True, dropout=DROPOUT if shape.layers > 1 else 0.0)
        self.phase, self.side = nn.Embedding(3, 8), nn.Embedding(2, 4)
        self.head = nn.Linear(shape.hidden + 12, size)

    @staticmethod
    def inputs(tokens: Tensor, meta: Tensor, history: Tensor | None) -> tuple[Tensor, ...]:
        """What forward takes, from packed positions."""
        assert history is not None
        longest = int((history != 0).sum(1).max())
        return history[:, :longest], phases(tokens, meta), meta[:, 2].long() % 2

    def forward(self, history: Tensor, phase: Tensor, side: Tensor) -> Tensor:
        """Logits over the vocabulary."""
        read = self.lstm(self.dropout(self.embed(history)))[0]
        last = read[torch.arange(len(history), device=history.device), (history != 0).sum(1) - 1]
        logits: Tensor = self.head(torch.cat((self.dropout(last), self.phase(phase), self.side(side)), 1)).float()
        return logits


AnyNetwork = PolicyNet | NextMoveLstm
Network = TypeVar("Network", bound=nn.Module)


def build(shape: AnyShape) -> AnyNetwork:
    """A network of a shape, with first weights."""
    return PolicyNet(shape) if isinstance(shape, Shape) else NextMoveLstm(shape)


def channels_last(model: Network) -> Network:
    """The network with its convolutions in the memory layout that is fastest for them."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def describe(shape: AnyShape) -> dict[str, Any]:
    """The part of an artifact that says how to build the network again."""
    if isinstance(shape, LstmShape):
        return {"family": "next_move_lstm", **asdict(shape)}
    return {"family": "chess_policy_se_resnet", "planes": PLANES, **asdict(shape)}


def parameter_count(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in model.parameters())
