"""Where the code is that computes something: its file, line and text, read from what is loaded at the moment."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Source:
    """A piece of code.

    Attributes:
        file: relative to this package, "structure/attention.py"; of other packages with their name, "torch/nn/...".
        line: of the `def` or `class`, from 1.
        text: the code, without the indentation that all its lines share.
    """

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def line_of(self, *patterns: str) -> Source | None:
        """The line on which the first of some patterns is found; None if none is."""
        for pattern in patterns:
            if (found := re.search(pattern, self.text)) is not None:
                above = self.text.count("\n", 0, found.start())
                return Source(self.file, self.line + above, self.text.splitlines()[above].strip())
        return None


def source_of(thing: Any, method: str = "forward") -> Source | None:
    """The code of a function, a method or a class, or of what computes a module.

    Args:
        thing: any of these; a `functools.partial` stands for what it binds, a property for its getter.
        method: what is looked up in the class of a module.

    Returns:
        None where there is no text: built-in functions, and what was typed at a prompt.

    Example:
        >>> str(source_of(Attention(64, heads=4)))
        'structure/attention.py:72'
    """
    while isinstance(thing, functools.partial):
        thing = thing.func
    if isinstance(thing, property):
        thing = thing.fget
    elif not (inspect.isroutine(thing) or inspect.isclass(thing)):
        thing = getattr(type(thing), method, None)
    return _read(inspect.unwrap(thing)) if callable(thing) else None


@functools.lru_cache(maxsize=1024)
def _read(code: Any) -> Source | None:
    try:
        lines, first = inspect.getsourcelines(code)
        file = inspect.getfile(code)
    except (OSError, TypeError):
        return None
    above = next((n for n, line in enumerate(lines) if line.lstrip().startswith(("def ", "class ", "async "))), 0)
    text = textwrap.dedent("".join(lines[above:])).rstrip()  # without decorators
    return Source(relative(Path(file), code.__module__), first + above, text)


def relative(file: Path, module: str) -> str:
    """A file as `Source` names it, by the module that it is of."""
    top = module.partition(".")[0]
    root = getattr(sys.modules.get(top), "__file__", None)
    if root is None:
        return file.name
    folder = Path(root).parent
    folder = folder if top == PACKAGE else folder.parent
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
