"""GenerationMixin: `generate` as a method, for the classes that score the next token."""

from __future__ import annotations

from functools import wraps
from typing import Any

from . import generate as generation


class GenerationMixin:
    """Adds `generate` to a model class."""

    @wraps(generation.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - wraps gives the docstring
        return generation.generate(self, *args, **kwargs)

    compute_transition_scores = staticmethod(generation.compute_transition_scores)
