"""Hearing: tensors of one call by their names, without dropout, from a model that is afterwards what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ...structure.maps import ALL, Maps
from ..listen import listening

Make = Callable[[Tensor], Tensor]


class Kept:
    """A hook that keeps what a function makes of each tensor, so that the tensor itself need not stay.

    Args:
        names: of the tensors.
        make: the function; the tensor itself if not given.
    """

    def __init__(self, names: Iterable[str], make: Make | None = None) -> None:
        self.names = frozenset(names)
        self.make = make
        self.tensors: dict[str, Tensor] = {}

    def wants(self, name: str) -> Maps | None:
        """All of each tensor that it keeps."""
        return ALL if name in self.names else None

    def changes(self, name: str) -> bool:
        """It changes nothing."""
        return False

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Keep a tensor."""
        if name in self.names:
            self.tensors[name] = tensor if self.make is None else self.make(tensor)
        return tensor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout while it is open; the mode of every part is put back."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def heard(model: Any, call: Mapping[str, Any], names: Iterable[str], make: Make | None = None) -> dict[str, Tensor]:
    """What passes under some names in one call, by name; a name that the call does not reach is left out.

    Args:
        model: that is called.
        call: its arguments.
        names: of the tensors.
        make: what is kept of each tensor; the tensor itself if not given.
    """
    kept = Kept(names, make)
    with evaluating(model), listening(model, kept, kept.names):
        model(**call)
    return kept.tensors
