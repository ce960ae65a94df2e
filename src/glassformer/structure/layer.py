"""Layer: attention, cross-attention and feed-forward, each a residual step around the same stream of states."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from .. import spec
from ..cache import KVLayer
from .maps import Maps
from .packing import NONE, Padding
from .places import Announcing

if TYPE_CHECKING:
    from .positions import Rotation


class Residual(nn.Module):
    """The norms and the dropout around one step: `x = after(x + dropout(out(f(before(x)))))`.

    Args:
        dim: D, the width of the hidden states.
        plan: which of the slots hold a norm.
    """

    def __init__(self, dim: int, plan: spec.Layer) -> None:
        super().__init__()
        self.before = plan.norm(dim) if "before" in plan.norm_at else nn.Identity()
        self.out = plan.norm(dim) if "out" in plan.norm_at else nn.Identity()
        self.after = plan.norm(dim) if "after" in plan.norm_at else nn.Identity()
        self.dropout = nn.Dropout(plan.dropout)

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        """What the next step reads, from x (B, T, D) and f(before(x)) (B, T, D)."""
        y: Tensor = self.after(x + self.dropout(self.out(added)))
        return y


class Layer(Announcing):
    """One layer of a stack.

    Args:
        dim: D, the width of the hidden states.
        plan: its parts.

    ```
    x ─┬─ before ─ attention ─ out ─(+)─ after ─ … cross_attention … ─┬─ before ─ feedforward ─ out ─(+)─ after ─
       └─────────────────────────────┘                                └───────────────────────────────┘
    ```
    """

    places: ClassVar[dict[str, str]] = {
        "input": "the states that the layer reads, (B, T, D)",
        "after_attention": "the states after the attention's residual step, (B, T, D)",
        "after_cross_attention": "the states after the cross-attention's residual step, (B, T, D)",
        "output": "the states that the layer gives, (B, T, D)",
    }

    def __init__(self, dim: int, plan: spec.Layer) -> None:
        super().__init__()
        self.attention = plan.attention(dim)
        self.attention_residual = Residual(dim, plan)
        self.cross_attention = plan.cross_attention(dim) if plan.cross_attention else None
        self.cross_attention_residual = Residual(dim, plan) if plan.cross_attention else None
        self.feedforward = plan.feedforward(dim)
        self.feedforward_residual = Residual(dim, plan)

    def has(self, place: str) -> bool:
        """Whether there is such a tensor: not every layer has cross-attention."""
        return super().has(place) and (place != "after_cross_attention" or self.cross_attention is not None)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        bias: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        memory_bias: Tensor | None = None,
        cache: KVLayer | None = None,
        memory_cache: KVLayer | None = None,
        maps: Maps | None = None,
        padding: Padding = NONE,
        memory_padding: Padding = NONE,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One layer's step.

        Args:
            x: (B, T, D).
            memory: the encoder's output, (B, S, D), for the cross-attention; without it that step is left out.
            bias: of the attention's scores.
            causal: whether queries may not look to their right.
            rotation: of queries and keys.
            memory_bias: of the cross-attention's scores.
            cache: keys and values of the attention.
            memory_cache: keys and values of the cross-attention.
            maps: which weights are wanted, or None.
            padding: what is left out of x, which is (1, N, D) then.
            memory_padding: the same of memory.

        Returns:
            The states (B, T, D), and the weights of attention and cross-attention, or None.
        """
        x = self.announce("input", x)
        residual = self.attention_residual
        added, attended = self.attention(residual.before(x), bias, causal, rotation, cache, maps, padding)
        x = self.announce("after_attention", residual(x, added))
        looked = None
        if memory is not None and self.cross_attention is not None and self.cross_attention_residual is not None:
            residual = self.cross_attention_residual
            added, looked = self.cross_attention(
                *(residual.before(x), memory, memory_bias, memory_cache, maps, padding, memory_padding)
            )
            x = self.announce("after_cross_attention", residual(x, added))
        residual = self.feedforward_residual
        x = residual(x, self.feedforward(residual.before(x)))
        return self.announce("output", x), attended, looked
