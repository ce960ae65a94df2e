"""GenerationMixin: `generate` as a method, for the classes that score the next token."""

from __future__ import annotations

from .explain import explain_generation
from .generate import compute_transition_scores, generate
from .streaming import stream


class GenerationMixin:
    """Adds `generate`, `stream` and what belongs to it to a model class; the model is the function's first argument."""

    generate = generate
    stream = stream
    explain_generation = explain_generation
    compute_transition_scores = staticmethod(compute_transition_scores)
