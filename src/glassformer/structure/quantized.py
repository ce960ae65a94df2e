"""Quantised weights: matrices of 8 or 4 bits, held in the panels that the native code reads, and unpacked for PyTorch.

A weight (outputs, inputs) is cut into panels of 16 outputs, and a panel into pairs of groups of 32 inputs, with zeros
where the matrix ends. An output has one scale a group, of bf16, and a number is its code times that scale. Bytes are
laid out as (panels, pairs, bytes of a pair), and those of a pair as

    8 bits   (2 groups, 8 quads, 16 outputs, 4 inputs) codes, 128 added      and (2 groups, 16 outputs) scales
    4 bits   (2 groups, 4 pairs of quads, 16 outputs, 4 inputs), two places  and (2 groups, 16 outputs) scales
             in `CODES` a byte: a quad in the low halves, the next in the high
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embedding import Table

PAIR = {8: 1088, 4: 576}  # bytes of a pair of groups, by bits
# Fitted to normal weights: denser around zero (kernels/codes.h).
CODES = torch.tensor([-32, -25, -20, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 22, 30], dtype=torch.float32)
_SCALES = 64  # the last bytes of a pair


def packed_shape(outputs: int, inputs: int, bits: int) -> tuple[int, int, int]:
    """The shape of a weight's bytes: (panels, pairs of groups, bytes of a pair)."""
    return -(-outputs // 16), -(-inputs // 64), PAIR[bits]


def unpacked(packed: Tensor, outputs: int, inputs: int) -> Tensor:
    """The weight that packed bytes stand for, (outputs, inputs), in fp32.

    Args:
        packed: (panels, pairs, bytes of a pair), uint8, on any device.
        outputs: rows of the weight.
        inputs: its columns.

    Example:
        >>> unpacked(layer.weight, layer.out_features, layer.in_features).shape
    """
    codes, scales = _parts(packed)
    return _numbers(codes.flatten(0, 1), scales.flatten(0, 1))[:outputs, :inputs]


def _parts(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Views of codes, (panels, 16, pairs, 2, 8 or 4, 4), and of scales, (panels, 16, pairs, 2)."""
    panels, pairs, _ = packed.shape
    codes = packed[..., :-_SCALES].view(panels, pairs, 2, -1, 16, 4)
    scales = packed[..., -_SCALES:].view(torch.bfloat16).view(panels, pairs, 2, 16)
    return codes.permute(0, 4, 1, 2, 3, 5), scales.permute(0, 3, 1, 2)


def _numbers(codes: Tensor, scales: Tensor) -> Tensor:
    """Rows of numbers, (..., 64 · pairs), from their codes, (..., pairs, 2, 8 or 4, 4), and scales, (..., pairs, 2)."""
    if codes.shape[-2] == 4:
        places = torch.stack((codes & 15, codes >> 4), dim=-2)
        values = CODES.to(codes.device)[places.int()].flatten(-3)
    else:
        values = codes.flatten(-2).float() - 128
    return (values * scales[..., None].float()).flatten(-3)


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight is packed; activations stay as they are.

    Args:
        inputs: columns of the weight.
        outputs: its rows.
        packed: the bytes, (panels, pairs, bytes of a pair).
        bias: (outputs,), or None.
    """

    def __init__(self, inputs: int, outputs: int, packed: nn.Parameter, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)  # not Linear's, which would draw a weight
        self.in_features, self.out_features = inputs, outputs
        self.weight = packed
        self.register_parameter("bias", bias)

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return bits_of(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weight = unpacked(self.weight, self.out_features, self.in_features)
        return F.linear(input, weight.to(input.dtype), self.bias)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{super().extra_repr()}, bits={self.bits}"


class QuantizedTable(Table):
    """A table whose rows are unpacked as they are looked up.

    Args:
        table: whose sizes it takes.
        packed: the bytes, (panels, pairs, bytes of a pair).
        dtype: of the rows that it gives; it follows `model.to(dtype)`.
    """

    def __init__(self, table: nn.Embedding, packed: nn.Parameter, dtype: torch.dtype) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, device="meta")
        self.weight = packed
        self.register_buffer("like", torch.empty(0, dtype=dtype, device="cpu"), persistent=False)

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return bits_of(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """The rows (..., D) of indices (...).

        Raises:
            RangeError: if there is no such row (on a CPU).
        """
        if input.device.type == "cpu" and input.numel():
            least, most = map(int, torch.aminmax(input))
            if least < 0 or most >= self.num_embeddings:
                self.refuse(least, most)
        codes, scales = _parts(self.weight)
        panel, row = input // 16, input % 16
        rows = _numbers(codes[panel, row], scales[panel, row])[..., : self.embedding_dim]
        return rows.to(self.get_buffer("like").dtype)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{super().extra_repr()}, bits={self.bits}"


def bits_of(packed: Tensor) -> int:
    """Bits of a number of packed bytes, (panels, pairs, bytes of a pair)."""
    return 8 if packed.shape[-1] == PAIR[8] else 4


def weight_of(layer: nn.Linear | nn.Embedding) -> Tensor:
    """The weight of a layer or table, (rows, columns), in floating point, whether it is quantised or not."""
    if isinstance(layer, QuantizedLinear):
        return unpacked(layer.weight, layer.out_features, layer.in_features)
    if isinstance(layer, QuantizedTable):
        return unpacked(layer.weight, layer.num_embeddings, layer.embedding_dim)
    return layer.weight


def dtype_of(table: nn.Embedding) -> torch.dtype:
    """The dtype of the rows that a table gives."""
    return table.get_buffer("like").dtype if isinstance(table, QuantizedTable) else table.weight.dtype


def counts(model: nn.Module) -> dict[int, int]:
    """By the identity of each quantised parameter of a model, how many numbers it stands for."""
    found: dict[int, int] = {}
    module: Any
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            found[id(module.weight)] = module.out_features * module.in_features
        elif isinstance(module, QuantizedTable):
            found[id(module.weight)] = module.num_embeddings * module.embedding_dim
    return found
