"""Where the chance of one call comes from: torch's own generator, or one or several that belong to the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError

Generators = torch.Generator | Sequence[torch.Generator] | None


def generators(seed: int | Sequence[int] | None, generator: Generators, rows: int, device: torch.device) -> Generators:
    """The generators of a call.

    Args:
        seed: one for the whole batch, which then draws what `torch.manual_seed(seed)` would let it draw; or one a row,
            so that no row depends on those beside it.
        generator: the same as generators; they go on from where they are.
        rows: of the batch, B.
        device: where the scores are.

    Returns:
        One generator, one a row, or None for torch's own.

    Raises:
        GenerationError: both are given, or a list has not one item a row.
    """
    if seed is not None and generator is not None:
        raise GenerationError("generate() got both seed and generator, which are the same thing: pass one.")
    if seed is not None:
        try:
            made = [torch.Generator(device).manual_seed(one) for one in _as_list(seed)]
        except (TypeError, RuntimeError, ValueError, OverflowError) as error:
            raise GenerationError(f"seed is {seed!r}: give a whole number, or a list with one a row.") from error
        generator = made if isinstance(seed, Sequence) else made[0]
    if isinstance(generator, Sequence) and len(generator) != rows:
        name = "generator" if seed is None else "seed"
        raise GenerationError(f"{name} has {len(generator)} items for {rows} rows: give one, or one for each.")
    if any(not isinstance(one, torch.Generator) for one in _as_list(generator) if one is not None):
        raise GenerationError(f"generator is {generator!r}: give a torch.Generator, or a list with one a row.")
    return generator


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) else [value]


def draw_several_with(generator: Generators) -> Callable[[Tensor, int], Tensor]:
    """A function that draws different places of every row by weight: from weights (B, N) and a count to (B, count)."""
    if isinstance(generator, Sequence):
        one_by_one = generator
        return lambda weights, count: torch.stack(
            [torch.multinomial(row, count, generator=own) for row, own in zip(weights, one_by_one)]
        )
    return lambda weights, count: torch.multinomial(weights, count, generator=generator)


def draw_with(generator: Generators) -> Callable[[Tensor], Tensor]:
    """A function that draws a token of every row by its weight: from weights (B, V) to tokens (B,)."""
    if isinstance(generator, Sequence):
        one_by_one = generator
        return lambda weights: torch.cat(
            [torch.multinomial(row, 1, generator=own) for row, own in zip(weights, one_by_one)]
        )
    return lambda weights: torch.multinomial(weights, 1, generator=generator).squeeze(1)


def uniform_with(generator: Generators, device: torch.device) -> Callable[[int], Tensor]:
    """A function that draws numbers between 0 and 1: from how many to (B,), on the device."""
    if isinstance(generator, Sequence):
        one_by_one = generator
        return lambda rows: torch.cat([torch.rand(1, generator=own, device=device) for own in one_by_one])
    return lambda rows: torch.rand(rows, generator=generator, device=device)
