"""Interventions: reaching into a call: tensors replaced, heads and layers switched off or scaled, vectors added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..structure.maps import ALL, Maps, Pick, picked
from .listen import listening, matching, places
from .stacks import stack_of

if TYPE_CHECKING:
    from typing_extensions import Self

Change = Callable[[Tensor], Tensor]


class Interventions:
    """Changes of named tensors while a `with` is open; the model is what it was afterwards.

    The methods give the object back, so that they can be chained; changes of one tensor follow each other in order.

    Args:
        model: what is reached into.
        changes: from names or patterns to a tensor that takes the place of the one computed, or a function of it.

    Example:
        >>> with model.intervene().heads_off(3, [0, 2]):
        ...     without = model(**inputs).logits
        >>> with model.intervene({"decoder.layers.5.attention.output": other["decoder.layers.5.attention.output"]}):
        ...     patched = model(**inputs).logits
    """

    def __init__(self, model: Any, changes: Mapping[str, Tensor | Change] | None = None) -> None:
        self._model = model
        self._known = places(model)
        self._changes: dict[str, list[Change]] = {}
        self._kept: dict[str, Tensor] = {}
        self._reads: set[str] = set()
        self._open: ExitStack | None = None
        for names, change in (changes or {}).items():
            self.replace(names, change)

    def replace(self, names: str | Iterable[str], change: Tensor | Change, positions: Pick = None) -> Self:
        """Put another tensor in the place of those that are named.

        Args:
            names: a name, a pattern, or several.
            change: the tensor, of the same shape or one that broadcasts to it; or a function from the tensor computed
                to the one that goes on.
            positions: the tokens at which it changes, where only some; all if not given.

        Raises:
            InputError: if a pattern selects nothing; or in the call, if the shape does not fit.
        """
        for name in matching(self._model, names):
            self._changes.setdefault(name, []).append(_replacing(name, change, positions))
        return self

    def scale(self, names: str | Iterable[str], by: float, heads: Pick = None, positions: Pick = None) -> Self:
        """Multiply tensors, of some heads or at some tokens only.

        Args:
            names: a name, a pattern, or several.
            by: the factor; 0 switches off.
            heads: of tensors (B, H, ...) that have heads.
            positions: the tokens at which it changes.
        """
        for name in matching(self._model, names):
            self._changes.setdefault(name, []).append(_scaling(name, by, heads, positions))
        return self

    def add(self, names: str | Iterable[str], vector: Tensor, positions: Pick = None) -> Self:
        """Add a vector (D,), or a tensor that broadcasts, to tensors; the steering of activations.

        Args:
            names: a name, a pattern, or several.
            vector: what is added.
            positions: the tokens at which it changes.
        """
        return self.replace(names, lambda tensor: tensor + vector.to(tensor), positions)

    def scale_heads(
        self, layer: int, heads: Pick, by: float, stack: str | None = None, part: str = "attention"
    ) -> Self:
        """Scale what some heads of a layer bring in.

        Args:
            layer: its number; from the end if negative.
            heads: which; None for all.
            by: the factor.
            stack: "encoder" or "decoder"; the only one if there is one.
            part: "attention" or "cross_attention".
        """
        return self.scale(f"{self._layer(layer, stack)}.{part}.mixed", by, heads)

    def heads_off(self, layer: int, heads: Pick, stack: str | None = None, part: str = "attention") -> Self:
        """Switch some heads of a layer off; the arguments are those of `scale_heads`."""
        return self.scale_heads(layer, heads, 0.0, stack, part)

    def layer_off(self, layer: int, stack: str | None = None) -> Self:
        """Switch a layer off: it gives the states that it reads.

        Args:
            layer: its number; from the end if negative.
            stack: "encoder" or "decoder"; the only one if there is one.
        """
        path = self._layer(layer, stack)
        self._reads.add(f"{path}.input")
        self._changes.setdefault(f"{path}.output", []).append(lambda _: self._kept.pop(f"{path}.input"))
        return self

    def _layer(self, layer: int, stack: str | None) -> str:
        stack = stack_of(self._model, stack)
        count = sum(name.endswith(".after_attention") and name.startswith(f"{stack}.") for name in self._known)
        return f"{stack}.layers.{picked(layer, count, f'{stack} layer')[0]}"

    # While a model runs

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._open.enter_context(listening(self._model, self, {*self._changes, *self._reads}))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._open is not None
        self._open.close()
        self._kept.clear()

    def wants(self, name: str) -> Maps | None:
        """Interventions hear what they change, and what they put back later."""
        return ALL if name in self._changes or name in self._reads else None

    def changes(self, name: str) -> bool:
        """Whether a tensor is changed."""
        return name in self._changes

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Change a tensor."""
        for change in self._changes.get(name, ()):
            tensor = change(tensor)
        if name in self._reads:
            self._kept[name] = tensor
        return tensor


def _axis(name: str, tensor: Tensor) -> int:
    """The dimension of the tokens: 2 of heads and maps, else 1."""
    return 2 if tensor.dim() == 4 else 1


def _replacing(name: str, change: Tensor | Change, positions: Pick) -> Change:
    def replaced(tensor: Tensor) -> Tensor:
        new = change.to(tensor) if isinstance(change, Tensor) else change(tensor)
        if not isinstance(new, Tensor):
            raise InputError(f"The function for {name} gave a {type(new).__name__}, not a tensor.")
        try:
            new = new.expand_as(tensor)
        except RuntimeError:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}, but {tuple(new.shape)} was put in its place; give a tensor "
                "of the same shape, or one that broadcasts to it."
            ) from None
        if positions is None:
            return new
        at = picked(positions, tensor.shape[_axis(name, tensor)], "position")
        keep = torch.ones(tensor.shape[_axis(name, tensor)], dtype=torch.bool, device=tensor.device)
        keep[at] = False
        shape = [1] * tensor.dim()
        shape[_axis(name, tensor)] = -1
        return torch.where(keep.view(shape), tensor, new)

    return replaced


def _scaling(name: str, by: float, heads: Pick, positions: Pick) -> Change:
    def scaled(tensor: Tensor) -> Tensor:
        factors = torch.ones(tensor.shape[1] if heads is not None else 1, dtype=tensor.dtype, device=tensor.device)
        if heads is not None and tensor.dim() != 4:
            raise InputError(f"{name} has shape {tuple(tensor.shape)} and no heads; leave heads out.")
        factors[picked(heads, len(factors), "attention head")] = by
        return tensor * factors.view(1, -1, 1, 1) if heads is not None else tensor * by

    return _replacing(name, scaled, positions)


def intervene(model: Any, changes: Mapping[str, Tensor | Change] | None = None) -> Interventions:
    """Changes of named tensors while a `with` is open; see `Interventions`.

    Args:
        model: what is reached into.
        changes: from names or patterns to tensors, or to functions of the tensors computed.

    Example:
        >>> with intervene(model, {"decoder.layers.*.attention.weights": lambda w: w * 0 + 1 / w.shape[-1]}):
        ...     model(**inputs)
    """
    return Interventions(model, changes)
