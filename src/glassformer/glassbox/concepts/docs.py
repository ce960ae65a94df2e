"""Reads docstrings: the sections of the Google style, and the line on which a name stands."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..sources import Source, relative, source_of


def summary(thing: Any) -> str:
    """The first paragraph of a docstring, in one line; "" without one."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


@lru_cache(maxsize=512)
def entries(thing: Any, section: str = "Args") -> dict[str, str]:
    """What a section of a docstring says of each name, in one line."""
    found: dict[str, list[str]] = {}
    inside, last = False, None
    for line in (inspect.getdoc(thing) or "").splitlines():
        if line and not line[0].isspace():
            inside = line == f"{section}:"
        elif inside and (start := re.match(r"    ([*\w, ]+?): ?(.*)$", line)):
            last = start[1]
            found[last] = [start[2]]
        elif inside and line.strip() and last is not None:
            found[last].append(line.strip())
    joined = {names: " ".join(words) for names, words in found.items()}
    return {name: text for names, text in joined.items() for name in re.findall(r"\w+", names)}


def section(thing: Any, name: str) -> str:
    """A section of a docstring that is plain text, in one line."""
    found = re.search(rf"^{name}:\n((?:(?:    .*)?\n?)+)", inspect.getdoc(thing) or "", re.M)
    return " ".join(found[1].split()) if found else ""


def line_of(thing: Any, *patterns: str) -> Source | None:
    """Where the first of some patterns stands in the code of a thing; the beginning of its code if none does."""
    source = source_of(thing)
    return source and (source.line_of(*patterns) or source)


def line_in_module(module: Any, *patterns: str) -> Source | None:
    """Where the first of some patterns stands in a module; None if none does."""
    file = relative(Path(inspect.getfile(module)), module.__name__)
    return Source(file, 1, inspect.getsource(module)).line_of(*patterns)
