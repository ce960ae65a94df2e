"""Writing: what all drawings of this room share, for a terminal of 110 columns and for notebooks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

from ..generation.explain_table import columns, cut

WIDTH = 110  # columns of a terminal
# Colours are the reader's own with a little added, so that a figure can be read on light and on dark ground.
STYLE = """
.gf-figure{margin:0;max-width:62rem;font:14px/1.5 system-ui,sans-serif;color:inherit}
.gf-figure figcaption{margin:0 0 .7em}
.gf-figure figcaption b{font-size:1.15em}
.gf-figure .gf-quiet{opacity:.72}
.gf-figure code,.gf-figure pre{font:12px/1.5 ui-monospace,monospace;background:none;color:inherit;padding:0}
.gf-figure summary{cursor:pointer}
.gf-figure summary:focus-visible{outline:2px solid currentColor;outline-offset:1px}
"""


def printable(value: str) -> str:
    """A text of a stranger without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in value)


def joined(lines: Iterable[str]) -> str:
    """Lines as one text for a terminal; what is too long is cut."""
    return "\n".join(cut(printable(line), WIDTH).rstrip() for line in lines)


def wrapped(text: str, indent: int, most: int | None = None, width: int = WIDTH) -> list[str]:
    """A text in lines, at least one.

    Args:
        text: to be broken between words.
        indent: of the second line and those after it.
        most: lines; all if not given.
        width: of a line.
    """
    lines = textwrap.wrap(
        text, width, subsequent_indent=" " * indent, max_lines=most, placeholder=" …", break_on_hyphens=False
    )
    return lines or [""]


def ends(left: str, right: str) -> str:
    """Two texts in a line of a terminal, one at each end."""
    return left + right.rjust(max(len(right) + 2, WIDTH - columns(left)))


def plural(count: int, noun: str) -> str:
    """How many there are of something: "1 token", "2 tokens"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def sizes(shape: Iterable[int]) -> str:
    """A shape: "(2, 3)", "(2)"."""
    return f"({', '.join(map(str, shape))})"


def safe(value: str) -> str:
    """A text of a stranger as HTML that is text and nothing else."""
    return escape(printable(value))


def figure(name: str, label: str, heading: Iterable[str], body: str, style: str = "") -> str:
    """A static piece of HTML to be put into a page.

    Args:
        name: of its kind, for its styles: `.gf-name`.
        label: what it is, for who cannot see it; escaped here.
        heading: the lines above it, the first of them bold; escaped here.
        body: HTML.
        style: CSS of its own.
    """
    first, *more = map(safe, heading)
    return (
        f'<figure class="gf-figure gf-{name}" aria-label="{safe(label)}"><style>{STYLE}{style}</style>'
        f"<figcaption><b>{first}</b>{''.join(f'<br>{line}' for line in more)}</figcaption>{body}</figure>"
    )
