"""Stacks: which of encoder and decoder a model has."""

from __future__ import annotations

from typing import Any

from ..errors import InputError

STACKS = ("encoder", "decoder")


def stacks_of(model: Any) -> list[str]:
    """The names of a model's stacks, in the order in which they run."""
    base = getattr(model, "base_model", model)
    return [name for name in STACKS if getattr(base, name) is not None]


def stack_of(model: Any, stack: str | None) -> str:
    """The stack that is meant, "encoder" or "decoder".

    Raises:
        InputError: if the model has no such one, or two and none is named.
    """
    there = stacks_of(model)
    if stack is None and len(there) > 1:
        raise InputError("This model has an encoder and a decoder: say stack='encoder' or stack='decoder'.")
    if stack is not None and stack not in there:
        raise InputError(f"This {type(model).__name__} has no {stack!r}, only {' and '.join(there)}.")
    return stack or there[0]


def kind_of(model: Any) -> str:
    """What the textbook calls the structure: "encoder-only", "decoder-only" or "encoder-decoder"."""
    there = stacks_of(model)
    return f"{there[0]}-only" if len(there) == 1 else "encoder-decoder"
