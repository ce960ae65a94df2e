"""Feed-forward: each position alone, through a wider layer and back."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .activations import activation as activation_named
from .places import Announcing


class FeedForward(Announcing):
    """`down(act(up(x)))`.

    Args:
        dim: D, the width of the hidden states.
        inner: the width between.
        activation: its name.
        bias: whether the projections have biases.
        dropout: probability, before the way down.

    Example:
        >>> FeedForward(8, inner=32, activation="gelu")(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    places: ClassVar[dict[str, str]] = {
        "input": "what each token brings, (B, T, D)",
        "inner": "the wider layer, after the activation and the gate, (B, T, inner)",
        "output": "what each token takes away, (B, T, D)",
    }

    def __init__(self, dim: int, inner: int, activation: str, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.up_proj = nn.Linear(dim, inner, bias=bias)
        self.down_proj = nn.Linear(inner, dim, bias=bias)
        self.activation = activation_named(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        inner = self.announce("inner", self.wide(self.announce("input", x)))
        # The way down may be kept in fp32 in a model of fp16 (see Spec.keep_fp32).
        wider = torch.promote_types(inner.dtype, self.down_proj.weight.dtype)
        output: Tensor = self.down_proj(self.dropout(inner).to(wider))
        return self.announce("output", output)

    def wide(self, x: Tensor) -> Tensor:
        """The wider layer, (B, T, inner), of x, (B, T, D)."""
        inner: Tensor = self.activation(self.up_proj(x))
        return inner


class GatedFeedForward(FeedForward):
    """`down(act(gate(x)) · up(x))` (https://arxiv.org/abs/2002.05202); the arguments are FeedForward's."""

    def __init__(self, dim: int, inner: int, activation: str, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(dim, inner, activation, bias, dropout)
        self.gate_proj = nn.Linear(dim, inner, bias=bias)

    def wide(self, x: Tensor) -> Tensor:
        """The wider layer, (B, T, inner), of x, (B, T, D)."""
        inner: Tensor = self.activation(self.gate_proj(x)) * self.up_proj(x)
        return inner
