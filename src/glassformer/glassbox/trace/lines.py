"""Lines: the line of code at which each named tensor of a model is computed, read from what is loaded at the moment."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ..listen import parts
from ..sources import Source, source_of


def lines_of(model: nn.Module) -> dict[str, Source]:
    """The line that announces each tensor of a model, by the tensor's full name.

    Args:
        model: of this library.

    Returns:
        What `places` names; tensors whose code cannot be read (an interpreter without source files) are left out.

    Example:
        >>> str(lines_of(model)["decoder.layers.0.attention.queries"])
        'structure/attention.py:106'
    """
    found = {}
    for path, part in parts(model).items():
        for place in filter(part.has, part.places):
            line = announced(type(part), place)
            if line is not None:
                found[f"{path}.{place}" if path else place] = line
    return found


def announced(part: Any, place: str) -> Source | None:
    """Where a class, or the nearest of those it derives from, passes the name of a place on to who listens.

    Args:
        part: the class of a part.
        place: one of its places.

    Returns:
        The line; the beginning of the part's code if the name is made up somewhere else.
    """
    for owner in part.__mro__[: part.__mro__.index(nn.Module)]:
        source = source_of(owner)
        line = source and source.line_of(rf'self\.(announce|_mask)\("{re.escape(place)}"')
        if line is not None:
            return line
    return source_of(part)
