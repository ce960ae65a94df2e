"""Lines: the line of code at which each named tensor of a model is computed, read from what is loaded at the moment."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path
from typing import Any

from torch import nn

from .listen import parts
from .sources import Source, relative, source_of


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
        for place in part.places:
            owner: Any = type(part)
            line = _line(owner, place)
            if line is not None:
                found[f"{path}.{place}" if path else place] = line
    return found


@functools.lru_cache(maxsize=1024)
def _line(part: Any, place: str) -> Source | None:
    """Where a class, or the nearest of those it derives from, passes the name of a place on to who listens."""
    says = re.compile(rf'self\.(announce|_mask)\("{re.escape(place)}"')
    for owner in part.__mro__:
        if owner is nn.Module:
            break
        try:
            lines, first = inspect.getsourcelines(owner)
            file = inspect.getfile(owner)
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines):
            if says.search(line):
                return Source(relative(Path(file), owner.__module__), first + number, line.strip())
    return source_of(part)
