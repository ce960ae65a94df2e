"""Feed-forward: each position alone, through a wider layer and back."""

from __future__ import annotations

from torch import Tensor, nn

from .activations import activation as activation_named


class FeedForward(nn.Module):
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

    def __init__(self, dim: int, inner: int, activation: str, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.up_proj = nn.Linear(dim, inner, bias=bias)
        self.down_proj = nn.Linear(inner, dim, bias=bias)
        self.activation = activation_named(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self._down(self.activation(self.up_proj(x)))

    def _down(self, inner: Tensor) -> Tensor:
        # The way down may be kept in fp32 in a model of fp16 (see Spec.keep_fp32).
        output: Tensor = self.down_proj(self.dropout(inner).to(self.down_proj.weight.dtype))
        return output


class GatedFeedForward(FeedForward):
    """`down(act(gate(x)) · up(x))` (https://arxiv.org/abs/2002.05202); the arguments are FeedForward's."""

    def __init__(self, dim: int, inner: int, activation: str, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(dim, inner, activation, bias, dropout)
        self.gate_proj = nn.Linear(dim, inner, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self._down(self.activation(self.gate_proj(x)) * self.up_proj(x))
