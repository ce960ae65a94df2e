"""Padding: what makes the texts of a batch equally long is not computed, and its states are zeros.

Every part of a layer but attention treats each token alone, so the real tokens of all texts are laid end to end,
(B, T, ...) becomes (1, N, ...), and only within attention are they where they were:

```
 a b c .          a b c d e f g h i ─ projections ─▶ scattered ─ attention ─▶ gathered ─ feed-forward ─▶ ...
 d e f g    ─▶
 h i . .
```
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from .maps import Maps, picked
from .places import Announcing

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Padding:
    """A batch without padding, and what the others do about theirs."""

    def pack(self, x: Tensor) -> Tensor:
        """What is computed, (1, N, ...), of x (B or 1, T, ...)."""
        return x

    def unpack(self, x: Tensor) -> Tensor:
        """The way back, to (B, T, ...)."""
        return x

    def blank(self, x: Tensor) -> Tensor:
        """What was computed, as it is given back, (B, T, ...): zeros at padding."""
        return x

    def blank_maps(self, weights: Tensor, maps: Maps) -> Tensor:
        """Attention maps, (B, heads, queries, S) of those wanted: padding looks at nothing."""
        return weights


class Computed(Padding):
    """Padding that is computed all the same, as somebody listens or the order of random numbers counts.

    Args:
        real: (B, T), whether a position holds a token.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = real

    def blank(self, x: Tensor) -> Tensor:
        """As in `Padding`."""
        return x.masked_fill(~self.real.view(*self.real.shape, *[1] * (x.dim() - 2)), 0)

    def blank_maps(self, weights: Tensor, maps: Maps) -> Tensor:
        """As in `Padding`."""
        real = self.real if maps.queries is None else self.real[:, picked(maps.queries, self.real.shape[1], "query")]
        return weights.masked_fill(~real[:, None, :, None], 0)


class Packed(Computed):
    """Padding that is left out.

    Args:
        real: (B, T), whether a position holds a token.

    Example:
        >>> packed = Packed(torch.tensor([[True, True, False], [True, False, False]]))
        >>> packed.pack(torch.arange(6).view(2, 3)), packed.unpack(torch.tensor([[7, 8, 9]]))
        (tensor([[0, 1, 3]]), tensor([[7, 8, 0],
                [9, 0, 0]]))
    """

    def __init__(self, real: Tensor) -> None:
        super().__init__(real)
        self.index = real.flatten().nonzero()[:, 0]

    def pack(self, x: Tensor) -> Tensor:
        """As in `Padding`."""
        return x.expand(len(self.real), *x.shape[1:]).flatten(0, 1).index_select(0, self.index)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """As in `Padding`."""
        whole = x.new_zeros(self.real.numel(), *x.shape[2:])
        return whole.index_copy(0, self.index, x[0]).view(*self.real.shape, *x.shape[2:])

    def blank(self, x: Tensor) -> Tensor:
        """As in `Padding`."""
        return self.unpack(x)


NONE = Padding()


def padding_of(real: Tensor | None, batch: int, module: nn.Module) -> Padding:
    """What a module does about padding.

    Args:
        real: (B or 1, T), whether a position holds a token; None if all do.
        batch: B.
        module: what is to be run.
    """
    if real is None or real.all():
        return NONE
    real = real.expand(batch, -1)
    return Computed(real) if _needs_all(module) else Packed(real)


def _needs_all(module: nn.Module) -> bool:
    """Whether positions must be where they are: they are looked at, drawn for, or traced by torch."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or bool(global_hooks._global_forward_hooks or global_hooks._global_forward_pre_hooks)
        or any(_looked_at(part) or _draws(part) for part in module.modules())
    )


def _looked_at(part: nn.Module) -> bool:
    return any(getattr(part, name) for name in _HOOKS) or (isinstance(part, Announcing) and part.listener is not None)


def _draws(part: nn.Module) -> bool:
    return isinstance(part, nn.Dropout) and part.training and part.p > 0
