"""GenerationMixin: `generate` as a method, for the classes that score the next token."""

from __future__ import annotations

from .generate import compute_transition_scores, generate


class GenerationMixin:
    """Adds `generate` and what belongs to it to a model class; the model is the function's first argument."""

    generate = generate
    compute_transition_scores = staticmethod(compute_transition_scores)
