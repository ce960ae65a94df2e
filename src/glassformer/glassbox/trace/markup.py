"""Draws the story of a call for notebooks: one static piece of HTML, whose layers open and close without any script.

Whatever comes from a model, its files or a text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..tokens import readable
from ..writing import figure, safe, sizes
from .story import ROWS, STEPS, Chapter, Line, brief_columns, chapters, choices, heading

if TYPE_CHECKING:
    from .trace import Trace

STYLE = """
.gf-story .gf-text{margin:.15em 0;overflow-wrap:anywhere}
.gf-story .gf-token{display:inline-block;padding:0 .3em;margin:.1em .15em .1em 0;border-radius:4px;
background:rgba(128,128,128,.16);font:13px/1.6 ui-monospace,monospace}
.gf-story h4{font-size:1em;margin:1em 0 .3em;border-bottom:1px solid rgba(128,128,128,.45)}
.gf-story details{border-left:4px solid rgba(128,128,128,.45);border-radius:6px;background:rgba(128,128,128,.07);
margin:.3em 0;padding:.1em .6em}
.gf-story dl{margin:.2em 0 .4em}
.gf-story dl>div{display:grid;grid-template-columns:minmax(11rem,15rem) 9rem 1fr;gap:0 .8rem;padding:.15em 0}
.gf-story dt,.gf-story dd{margin:0;overflow-wrap:anywhere}
.gf-story dt{font:12px/1.6 ui-monospace,monospace}
.gf-story dd.gf-quiet{grid-column:1/-1;padding-left:1.2em;font-size:.92em}
.gf-story dd,.gf-story li,.gf-story summary{white-space:pre-wrap}
.gf-story ol{margin:.2em 0;padding:0;list-style:none}
@media(max-width:46rem){.gf-story dl>div{grid-template-columns:1fr}}
"""


def fragment(trace: Trace) -> str:
    """The story as HTML to be put into a page.

    Args:
        trace: what was recorded.
    """
    first, *rest = heading(trace)
    body = f"{_read(trace)}{''.join(map(_chapter, chapters(trace)))}{_chosen(trace)}"
    return figure("story", f"The story of a call of {first}", [first, " · ".join(rest)], body, STYLE)


def _read(trace: Trace) -> str:
    """The texts and their tokens."""
    parts = [f'<div class="gf-text">“{safe(text)}”</div>' for text in (trace.texts or [])[:ROWS]]
    for stack, rows in trace.tokens.items():
        for row in rows[:ROWS]:
            tokens = "".join(f'<span class="gf-token">{safe(token)}</span>' for token in readable(row))
            parts.append(f'<div class="gf-text"><span class="gf-quiet">{safe(stack)} reads </span>{tokens}</div>')
        if len(rows) > ROWS:
            parts.append(f'<div class="gf-text gf-quiet">… and {len(rows) - ROWS} more</div>')
    return "".join(parts)


def _chapter(chapter: Chapter) -> str:
    columns = brief_columns(chapter.layers[0]) if chapter.layers else []
    layers = "".join(_layer(layer, columns, index == 0) for index, layer in enumerate(chapter.layers))
    return f"<h4>{safe(chapter.title)}</h4>{_lines(chapter.before)}{layers}{_lines(chapter.after)}"


def _layer(layer: Chapter, columns: Iterable[str], is_open: bool) -> str:
    """A layer: one line when it is closed, all its tensors when it is open."""
    cells = {line.label: line.brief for line in layer.before}
    brief = " · ".join(f"{column} {cells[column]}" for column in columns if column in cells)
    summary = f'<summary>{safe(layer.title)} <span class="gf-quiet">{safe(brief)}</span></summary>'
    return f"<details{' open' if is_open else ''}>{summary}{_lines(layer.before)}</details>"


def _lines(lines: Iterable[Line]) -> str:
    rows = "".join(map(_line, lines))
    return f"<dl>{rows}</dl>" if rows else ""


def _line(line: Line) -> str:
    source = "" if line.source is None else f' · <code title="{safe(line.source.text)}">{safe(str(line.source))}</code>'
    return (
        f'<div><dt title="{safe(line.name)}">{safe(line.label)}</dt><dd><code>{sizes(line.shape)}</code></dd>'
        f'<dd>{safe(line.look)}</dd><dd class="gf-quiet">{safe(line.meaning)}{source}</dd></div>'
    )


def _chosen(trace: Trace) -> str:
    found = choices(trace)
    if not found:
        return ""
    rows = "".join(f"<li><code>{safe(where)}</code> → {safe(what)}</li>" for where, what in found[:STEPS])
    more = f'<li class="gf-quiet">… and {len(found) - STEPS} more</li>' if len(found) > STEPS else ""
    return f"<h4>choice</h4><ol>{rows}{more}</ol>"
