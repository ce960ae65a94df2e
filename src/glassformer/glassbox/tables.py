"""Drawn: what an analysis found as tables, drawn for a terminal and for a notebook from the same cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ..generation.explain_table import columns, cut
from .writing import WIDTH, printable, safe

CELL = 26  # the most columns of a cell
# The most that is shown: of a longer table its beginning and its end, and how much is between.
TABLES, ROWS, BLOCKS, CELLS = 6, 40, 4, 300
GAP = "…"
STYLE = (
    "<style>.gf-table{overflow-x:auto;margin:0 0 1em}.gf-table table{border-collapse:collapse;font:13px/1.4 "
    "ui-monospace,monospace}.gf-table caption{text-align:left;font:14px/1.5 system-ui,sans-serif}.gf-table th,"
    ".gf-table td{padding:.1em .5em;text-align:right;white-space:pre;color:inherit}.gf-table th:first-child"
    "{text-align:left;font-weight:normal;opacity:.8}</style>"
)


@dataclass(frozen=True)
class Table:
    """Cells with a title.

    Attributes:
        title: what the table is, and in which unit.
        header: over the columns.
        rows: of cells; the first of each says what the row is.
        shades: how strong each cell after the first is, from -1 to 1; None for no colours.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]] | None = None


class Drawn(ABC):
    """A result that is drawn as tables."""

    @abstractmethod
    def tables(self) -> list[Table]:
        """The result, a table a text."""

    def __str__(self) -> str:
        """The tables for a terminal, at most 110 columns wide."""
        tables = self.tables()
        more = [_more(len(tables) - TABLES, "texts")] if len(tables) > TABLES else []
        return "\n\n".join([*map(terminal, tables[:TABLES]), *more])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = self.tables()
        more = f"<p>{_more(len(tables) - TABLES, 'texts')}</p>" if len(tables) > TABLES else ""
        return STYLE + "".join(map(markup, tables[:TABLES])) + more


def terminal(table: Table) -> str:
    """A table as text, at most 110 columns wide: what does not fit beside stands below."""
    rows = kept(len(table.rows), ROWS)
    lines = [table.header, *([GAP] * len(table.header) if row is None else table.rows[row] for row in rows)]
    # Control characters of a stranger's text would move the terminal's cursor.
    grid = [[cut(printable(cell), CELL) for cell in line] for line in lines]
    widths = [max(columns(line[column]) for line in grid) for column in range(len(table.header))]
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for column in range(1, len(widths)):
        if blocks[-1] and used + 2 + widths[column] > WIDTH:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(column)
        used += 2 + widths[column]
    shown = kept(len(blocks), BLOCKS)
    texts = [cut(printable(table.title), WIDTH)]
    for place in shown:
        if place is None:
            hidden = blocks[BLOCKS // 2 : len(blocks) - (BLOCKS - BLOCKS // 2)]
            texts += [_more(sum(map(len, hidden)), "columns"), ""]
            continue
        for line in grid:
            cells = [line[0] + " " * (widths[0] - columns(line[0]))]
            cells += [" " * (widths[at] - columns(line[at])) + line[at] for at in blocks[place]]
            texts.append("  ".join(cells).rstrip())
        texts.append("")
    if None in rows:
        texts.append(_more(len(table.rows) - ROWS, "rows"))
    return "\n".join(texts).rstrip()


def markup(table: Table) -> str:
    """A table as HTML, with everything in it escaped."""
    across = kept(len(table.header) - 1, CELLS)

    def line(cells: Sequence[str], tag: str, shades: Sequence[float] | None) -> str:
        scope = "" if tag == "td" else ' scope="col"'
        made = [f'<th scope="{"row" if tag == "td" else "col"}">{safe(cells[0])}</th>']
        for column in across:
            style = "" if shades is None or column is None else _colour(shades[column])
            made.append(f"<{tag}{scope}{style}>{GAP if column is None else safe(cells[column + 1])}</{tag}>")
        return f"<tr>{''.join(made)}</tr>"

    body = []
    for row in kept(len(table.rows), CELLS):
        if row is None:
            body.append(f'<tr><th colspan="{len(across) + 1}">{_more(len(table.rows) - CELLS, "rows")}</th></tr>')
        else:
            body.append(line(table.rows[row], "td", None if table.shades is None else table.shades[row]))
    head = line(table.header, "th", None)
    caption = f"<caption>{safe(table.title)}</caption>"
    return f'<div class="gf-table"><table>{caption}<thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def kept(count: int, most: int) -> list[int | None]:
    """The indices below `count` that are shown, of more than `most` the first and the last, None where some are not."""
    if count <= most:
        return list(range(count))
    return [*range(most // 2), None, *range(count - (most - most // 2), count)]


def bars(values: Sequence[float], least: float = 0.0, width: int = 20) -> tuple[list[str], list[float]]:
    """A bar for each value, "░" for a negative one, and the share that each is of the greatest, from -1 to 1.

    Args:
        values: NaN for none.
        least: what the greatest is taken to be at least, so that bars of small values stay short.
        width: of the longest bar; all are filled up to it.
    """
    known = [value if value == value else 0.0 for value in values]
    most = max([least, *map(abs, known)]) or 1.0
    shares = [value / most for value in known]
    return [(("█" if share > 0 else "░") * round(abs(share) * width)).ljust(width) for share in shares], shares


def titled(what: str, row: int, rows: int) -> str:
    """A title that says which of several texts it is about."""
    return what if rows == 1 else f"Text {row}: {what}"


def _more(count: int, what: str) -> str:
    return f"{GAP} {count:,} more {what} {GAP}"


def _colour(shade: float) -> str:
    """Blue for what is positive, orange for what is negative, on any ground."""
    if not abs(shade) > 0.01:
        return ""
    red, green, blue = (47, 111, 174) if shade > 0 else (217, 95, 2)
    return f' style="background:rgba({red},{green},{blue},{min(abs(shade), 1.0) * 0.65:.2f})"'
