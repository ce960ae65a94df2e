"""Draws a `Structure` for a terminal: the residual stream runs down, parts hang on it, numbers stand in columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ...generation.explain_table import columns, cut
from ..writing import WIDTH, joined, printable
from .structure import Part, Structure

MARGIN = 3  # where the encoder's states go down to the decoder
BOXES = 9  # the borders of two boxes, one inside the other
TITLE = 22
SIGN_OF_USE = "▶"
# Columns of the numbers, and what stands above them.
COLUMNS = {"gives": 15, "parameters": 12, "bytes": 9, "operations": 12}
NUMBERS = sum(COLUMNS.values())
SIZES = {"D": "width D = {:,}", "V": "V = {:,} tokens in the vocabulary"}
LEGEND = "name here ← name in the checkpoint"


@dataclass(frozen=True)
class Line:
    """A line of the drawing.

    Attributes:
        text: what is drawn.
        mark: "tap" where the encoder's states leave, "use" where cross-attention takes them; "box" for a line of the
            layers' box.
    """

    text: str
    mark: str = ""


def text(structure: Structure) -> str:
    """The drawing of a structure, at most 110 columns wide."""
    both = structure.kind == "encoder-decoder"
    room = WIDTH - BOXES - MARGIN * both
    lines: list[Line] = []
    for part in structure.parts:
        last = part is structure.parts[-1]
        if part.kind == "stack":
            lines += _stack(part, room, taps=both and part.name == "encoder", goes_on=not last)
        elif part.name == "lm_head" and not last:  # beside the other head
            lines += [Line(f"    {line.text}") for line in _rows(part, "├─●", "│ │", "", room)]
        else:
            lines += [Line(f"    {line.text}") for line in _rows(part, "●", " " if last else "│", "", room)]
    body = _with_memory(lines) if both else [line.text for line in lines]
    return joined([*_header(structure), *body, "", _legend(structure)])


def _header(structure: Structure) -> list[str]:
    """What is said of the whole, and the headings of the columns."""
    return [*heading(structure), "", " " * (WIDTH - 5 - NUMBERS) + _aligned(list(COLUMNS))]


def heading(structure: Structure) -> list[str]:
    """What the model is, its totals, and what the symbols mean, a line each."""
    named = f" · {printable(structure.name)}" if structure.name else ""
    both = structure.kind == "encoder-decoder"
    sizes = [f"B texts of T tokens{' read and U written' if both else ''}"]
    if any(part.kind == "positions" and "S" in part.symbols for part in structure.walk()):
        sizes.append("S of them in view")
    sizes += [SIZES[key].format(value) for key, value in structure.sizes.items()]
    token = "a token read and written" if both else "a token"
    view = f"{amount(structure.operations_per_key)} for each of {structure.context:,} tokens in view"
    text = f"; {amount(structure.operations_per_text)} more a text" if structure.operations_per_text else ""
    return [
        f"{structure.class_name} · {structure.kind}{named}",
        f"{structure.parameters:,} parameters · {size(structure.bytes)} in {structure.dtype}",
        f"{amount(structure.operations)} operations {token}, of which {view}{text}",
        ", ".join(sizes),
    ]


def _legend(structure: Structure) -> str:
    kinds = {part.kind for part in structure.walk()}
    added = " · ⊕ adds to what comes down"
    return LEGEND + added + (" · ◇ comes in at ◆" if "positions" in kinds else "")


def _stack(part: Part, room: int, taps: bool, goes_on: bool) -> list[Line]:
    """An encoder or a decoder in its box."""
    body: list[Line] = []
    meets = any(child.kind == "positions" for child in part.parts)
    for child in part.parts:
        if child.kind == "input":
            body += _rows(child, "○", "│", part.name, room)[:1]
        elif child.kind == "embedding":
            for table in child.parts:
                first = table is child.parts[0] or table.kind != "table"
                body += _rows(table, "●" if first else "⊕", "│", part.name, room)
        elif child.kind == "positions":
            body += _rows(child, "◇", "│", part.name, room)
        elif child.kind == "layer":
            body += _layer(child, "◆" if meets else "●", room)
        else:
            body += _rows(child, "●", "│", part.name, room)
    inside = [
        Line(f"│ {line.text} │" if line.mark in ("box", "use") else f"│   {line.text}    │", line.mark) for line in body
    ]
    if taps:
        left = f"┼───╯ its last states, to each {SIGN_OF_USE}"
        inside.append(Line(left.ljust(room + BOXES - 1) + "│", "tap"))
    return [
        Line(_top(part.title, part, room + BOXES, 5)),
        *inside,
        Line(_bottom("╰───" + ("┼" if goes_on and not taps else "─"), part, room + BOXES, 5)),
    ]


def _layer(part: Part, attention: str, room: int) -> list[Line]:
    """A layer, or several that are alike, in a box."""
    lines = [Line(_top(layer_title(part), part, room + 5, 3, "┼"))]
    for child in part.parts:
        if child.kind != "step":
            lines += _rows(child, "●", "│", part.name, room)
            continue
        lines.append(Line("├─╮".ljust(room)))
        for inner in child.parts:
            crosses = inner.title == "cross-attention"
            sign = attention if inner.kind == "attention" and not crosses else "●"
            rows = _rows(inner, f"│ {sign}", "│ │", part.name, room)
            lines += [replace(rows[0], mark="use"), *rows[1:]] if crosses else rows
        lines.append(Line("⊕─╯" + str(child.source or "").rjust(room - 3)))
    inside = [Line(f"│ {line.text}  │", line.mark or "box") for line in lines[1:]]
    return [replace(lines[0], mark="box"), *inside, Line(_bottom("╰─┼", part, room + 5, 3), "box")]


def layer_title(part: Part) -> str:
    """How a layer, or several that are alike, are called."""
    first, last = part.layers[0], part.layers[-1]
    if part.name.endswith("*"):
        return f"{part.times} × layer"
    return f"layer {first}" if first == last else f"{part.times} × layer, {first} to {last}"


def _top(title: str, part: Part, width: int, right: int, enters: str = "─") -> str:
    """The upper border of a box, with the totals of what is in it, `right` columns from its corner."""
    each = f", {amount(part.parameters)} parameters each" if part.times > 1 else ""
    head = f"╭─{enters}─ {title}{each} "
    numbers = _aligned([f" {cell}" if n else cell for n, cell in enumerate(cells(part, part.times))], "─")
    # The border gives way to the numbers, and to short gaps between them.
    numbers = re.sub(r"(?<=[^─ ])─", " ", numbers)
    numbers = re.sub(r"(?<= )─{1,2} ", lambda gap: " " * len(gap[0]), numbers)
    return head + "─" * (width - columns(head) - NUMBERS - right - 1) + " " + numbers + " " + "─" * (right - 2) + "╮"


def _bottom(start: str, part: Part, width: int, right: int) -> str:
    """The lower border of a box, with the line that computes what is in it, `right` columns from its corner."""
    place = f" {part.source} " if part.source else ""
    return start + "─" * (width - len(start) - len(place) - right + 1) + place + "─" * (right - 2) + "╯"


def _rows(part: Part, sign: str, stream: str, outer: str, room: int) -> list[Line]:
    """A part: what it is with its numbers; then its names, and the line of code."""
    left, indent = room - NUMBERS - 1, TITLE + 4  # as far as the signs of a layer's steps
    start = f"{sign} ".ljust(len(stream) + 1)
    told = textwrap.wrap(printable(part.detail), left - indent, max_lines=3, placeholder=" …") or [""]
    rows = [cut(f"{start}{part.title} ".ljust(indent) + told[0], left)]
    rows[0] += " " * (left + 1 - columns(rows[0])) + _aligned(cells(part))
    rows += [cut(stream.ljust(indent) + more, left) for more in told[1:]]
    within = room - len(stream) - 3
    place = str(part.source or "")
    name = part.name.removeprefix(f"{outer}.") + (f" = {part.tied}" if part.tied else "")
    stored = f"← {part.stored}" if part.stored else ""
    lines = [f"{name} {stored}".rstrip()]
    if columns(lines[0]) + 2 + len(place) > within:  # the checkpoint's names on lines of their own
        lines = [cut(name, within - len(place) - 2), *textwrap.wrap(stored, within, subsequent_indent="  ")]
    lines[0] += place.rjust(within - columns(lines[0]))
    rows += [f"{stream}   {line}" for line in lines]
    return [Line(row + " " * (room - columns(row))) for row in rows]


def cells(part: Part, times: int = 1) -> list[str]:
    """The numbers of a part in their columns."""
    if part.kind in ("input", "pick"):
        return [part.shape, "", "", ""]
    total = times * part.parameters
    parameters = (f"{total:,}" if total < 10**9 else amount(total)) if total else "tied" if part.tied else "–"
    memory = size(times * part.bytes) if part.bytes else "–"
    done = amount(times * part.operations) if part.operations else "–"
    if part.operations_per_text:
        done = f"{amount(part.operations_per_text)}/text"
    return [part.shape, parameters, memory, done]


def _aligned(texts: Iterable[str], fill: str = " ") -> str:
    """Texts in their columns, the first to the left, the others to the right."""
    first, *others = zip(texts, COLUMNS.values())
    return first[0].ljust(first[1], fill) + "".join(cell.rjust(width, fill) for cell, width in others)


def _with_memory(lines: Sequence[Line]) -> list[str]:
    """Lines with the way of the encoder's states down the margin, to every cross-attention."""
    tap = next(number for number, line in enumerate(lines) if line.mark == "tap")
    uses = [number for number, line in enumerate(lines) if line.mark == "use"]
    drawn = []
    for number, line in enumerate(lines):
        margin, drawing = " " * MARGIN, line.text
        if number == tap:
            margin = "╭──"
        elif number in uses:
            margin = "╰──" if number == uses[-1] else "├──"
            before, after = drawing.split(" ●", 1)
            drawing = "".join("┼" if letter == "│" else "─" for letter in before) + SIGN_OF_USE + "●" + after
        elif uses and tap < number < uses[-1]:
            margin = "│  "
        drawn.append(margin + drawing)
    return drawn


def amount(number: float) -> str:
    """A number in three digits: 1234567 is "1.23 M"."""
    for unit in ("", " k", " M", " G", " T"):
        if number < 999.5 or unit == " T":
            break
        number /= 1000
    digits = 0 if not unit or number >= 100 else 1 if number >= 10 else 2
    return f"{number:.{digits}f}{unit}"


def size(number: float) -> str:
    """Bytes in three digits: 1234567 is "1.23 MB"."""
    short = amount(number)
    return f"{short}B" if " " in short else f"{short} B"
