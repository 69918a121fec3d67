# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A residual network with squeeze-and-excitation that scores the 1858 moves of a position."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import vocab

PLANES = 18  # 12 pieces, 4 castling rights, en passant, ones


@dataclass(frozen=True)
class Shape:
    """What the network is made of; stands in every artifact."""

    filters: int
    blocks: int
    squeeze: int = 4
    head: int = 32


@dataclass(frozen=True)
class Preset:
    """A network with the settings it is trained with."""

    shape: Shape
    batch_size: int
    lr: float
    weight_decay: float
    warmup_steps: int
    eval_positions: int = 8192


PRESETS = {
    "smoke": Preset(Shape(filters=32, blocks=3), batch_size=128, lr=5e-3, weight_decay=0.01, warmup_steps=20, eval_positions=4096),
    "cpu": Preset(Shape(filters=48, blocks=4), batch_size=256, lr=3e-3, weight_decay=0.01, warmup_steps=50),
    "gpu": Preset(Shape(filters=128, blocks=10, head=64), batch_size=4096, lr=2e-3, weight_decay=0.05, warmup_steps=200),
}


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


Network = TypeVar("Network", bound=nn.Module)


def channels_last(model: Network) -> Network:
    """The network with its convolutions in the memory layout that is fastest for them."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def describe(shape: Shape) -> dict[str, Any]:
    """The part of an artifact that says how to build the network again."""
    return {"family": "chess_policy_se_resnet", "planes": PLANES, **asdict(shape)}


def parameter_count(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in model.parameters())
