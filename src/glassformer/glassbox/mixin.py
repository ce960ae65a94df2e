"""GlassBox: looking inside as methods of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .intervene import Change, Interventions
    from .listen import Patterns
    from .structure import Structure
    from .trace import Trace


class GlassBox:
    """Adds `structure`, `trace` and `intervene` to a model class; each is the function of that name in this room."""

    def structure(self, context: int = 128) -> Structure:
        """The parts of this model; see `glassformer.structure`."""
        from .structure import structure

        return structure(self, context)

    def trace(self, record: Patterns = "*", tokenizer: Any = None, detach: bool = True) -> Trace:
        """Record the calls of this model while a `with` is open; see `glassformer.Trace`."""
        from .trace import Trace

        return Trace(self, record, tokenizer, None, detach)

    def intervene(self, changes: Mapping[str, Any | Change] | None = None) -> Interventions:
        """Change named tensors while a `with` is open; see `glassformer.Interventions`."""
        from .intervene import Interventions

        return Interventions(self, changes)
