"""GlassBox: looking inside as methods of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .concepts.concepts import Concepts
    from .intervene import Change, Interventions
    from .listen import Patterns
    from .structure.structure import Structure
    from .trace.trace import Trace


class GlassBox:
    """Adds `structure`, `concepts`, `trace` and `intervene` to a model class; each is a function of this room."""

    def structure(self, context: int = 128) -> Structure:
        """The parts of this model; see `glassformer.structure`."""
        from .structure.structure import structure

        return structure(self, context)

    def concepts(self, tokenizer: Any = None, texts: Sequence[str] | None = None) -> Concepts:
        """From each concept to the call of this model that shows it; see `glassformer.concepts`."""
        from .concepts.concepts import concepts

        return concepts(self, tokenizer, texts)

    def trace(self, record: Patterns = "*", tokenizer: Any = None, detach: bool = True) -> Trace:
        """Record the calls of this model while a `with` is open; see `glassformer.Trace`."""
        from .trace.trace import Trace

        return Trace(self, record, tokenizer, None, detach)

    def intervene(self, changes: Mapping[str, Any | Change] | None = None) -> Interventions:
        """Change named tensors while a `with` is open; see `glassformer.Interventions`."""
        from .intervene import Interventions

        return Interventions(self, changes)
