# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""model.pt: the weights and all that is needed to use them, opened without running foreign code."""

from __future__ import annotations

import dataclasses
import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from . import __version__, vocab
from .encode import ENCODER_VERSION
from .errors import DataError, MissingError
from .files import write_bytes
from .model import PLANES, AnyNetwork, AnyShape, LstmShape, Shape, channels_last, describe
from .model import build as network_of

FORMAT = 1
FAMILIES: dict[str, type[Shape] | type[LstmShape]] = {"chess_policy_se_resnet": Shape, "next_move_lstm": LstmShape}
MAX_FILTERS, MAX_BLOCKS, MAX_CONTEXT = 2048, 100, 255


def plain_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights on the CPU, whole numbers aside in fp32, with the names of the uncompiled network."""
    state = {}
    for name, value in model.state_dict().items():
        value = value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)
        state[name.removeprefix("_orig_mod.")] = value.contiguous().clone()
    return state


def save(path: Path, state: dict[str, torch.Tensor], shape: AnyShape, about: dict[str, Any]) -> None:
    """Write model.pt."""
    content = {
        "format": FORMAT,
        "trainer": __version__,
        "network": describe(shape),
        "encoder_version": ENCODER_VERSION,
        "vocabulary_sha256": vocab.vocabulary_sha256(),
        "vocabulary": [vocab.code_to_uci(code) for code in vocab.moves()],
        "about": about,
        "state_dict": state,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> dict[str, Any]:
    """Open model.pt and check that this trainer can use it."""
    _refuse_packed(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingError(f"the model {path} is not there") from None
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(str(path), 0, f"cannot be opened as weights only: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(str(path), 0, f"not a model of this trainer (format {FORMAT})")
    if content.get("vocabulary_sha256") != vocab.vocabulary_sha256():
        raise DataError(str(path), 0, "the model was trained with another move vocabulary")
    if content.get("encoder_version") != ENCODER_VERSION:
        raise DataError(str(path), 0, f"the model was trained with encoder version {content.get('encoder_version')}, this trainer has {ENCODER_VERSION}")
    return content


def _refuse_packed(path: Path) -> None:
    """torch.save stores and never packs; a packed entry can grow a thousandfold in memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except FileNotFoundError:
        raise MissingError(f"the model {path} is not there") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(str(path), 0, f"cannot be opened: {error}") from error
    if packed:
        raise DataError(str(path), 0, f"has packed entries, which torch.save does not write: {ascii(packed[0])[:80]}")


def _refuse_inflated(state: object, shape: AnyShape, path: Path) -> None:
    """A view can claim any number of elements from few bytes, and a shape any network: both must fit the file's size before memory is given to them."""
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(str(path), 0, "holds no weights")
    size = path.stat().st_size
    if isinstance(shape, Shape):
        # The two 3 x 3 convolutions of each block, in fp32.
        least = 4 * 2 * 9 * shape.filters**2 * shape.blocks
    else:
        # The four gates of each layer, and the tokens.
        least = 4 * (4 * shape.hidden**2 * shape.layers + shape.embed * len(vocab.moves()))
    if max(least, sum(value.numel() * value.element_size() for value in state.values())) > size:
        raise DataError(str(path), 0, f"the weights claim more than the {size} bytes that the file has")


def shape_of(content: dict[str, Any], path: Path) -> AnyShape:
    """The network's shape; numbers that cannot be meant are refused before anything is built."""
    network = content.get("network")
    kind = FAMILIES.get(str(network.get("family"))) if isinstance(network, dict) else None
    if not isinstance(network, dict) or kind is None or network.get("planes", PLANES) != PLANES:
        raise DataError(str(path), 0, "the network of the model is not known")
    numbers = {field.name: network.get(field.name) for field in dataclasses.fields(kind)}
    limits = {"blocks": MAX_BLOCKS, "layers": MAX_BLOCKS, "context": MAX_CONTEXT}
    if not all(isinstance(number, int) and 0 < number <= limits.get(name, MAX_FILTERS) for name, number in numbers.items()):
        raise DataError(str(path), 0, f"the network of the model cannot be built: {str(network)[:200]}")
    return kind(**numbers)  # type: ignore[arg-type]


def build(content: dict[str, Any], path: Path) -> AnyNetwork:
    """The network with its weights, ready to score positions."""
    shape = shape_of(content, path)
    _refuse_inflated(content.get("state_dict"), shape, path)
    model = network_of(shape)
    try:
        model.load_state_dict(content["state_dict"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(str(path), 0, f"the weights do not fit the network: {re.sub(chr(10), ' ', str(error))[:200]}") from error
    return channels_last(model.eval())
