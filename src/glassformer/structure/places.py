"""Places: where each tensor that has a name in the textbook passes, for whoever listens.

A part announces its tensors as it computes them. As a rule nobody listens, and a tensor passes as it is; a listener may
keep it, or give back another in its place. The full name of a tensor is the path of its part and the place:
`decoder.layers.3.attention.weights`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor, nn

from .maps import Maps


class Listener(Protocol):
    """Who listens to one part."""

    def wants(self, place: str) -> Maps | None:
        """What of a place is to be computed for the sake of being announced; None for nothing."""

    def changes(self, place: str) -> bool:
        """Whether another tensor may come back in the place of the one announced."""

    def hear(self, place: str, tensor: Tensor) -> Tensor:
        """Take the tensor of a place; what is returned goes on."""


class Announcing(nn.Module):
    """A part whose tensors can be looked at.

    Attributes:
        places: the names of the tensors that parts of this class may have, each with what it is and its shape.
        listener: who listens, or None.
    """

    places: ClassVar[dict[str, str]] = {}
    listener: Listener | None = None

    def has(self, place: str) -> bool:
        """Whether this part, as it was built, can have the tensor of a place."""
        return place in self.places

    def announce(self, place: str, tensor: Tensor) -> Tensor:
        """Let a tensor pass through its place."""
        return tensor if self.listener is None else self.listener.hear(place, tensor)
