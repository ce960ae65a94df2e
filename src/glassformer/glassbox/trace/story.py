"""The story of a call: what a trace holds, from the text to the choice, in chapters that a person reads from above.

`chapters` is the data; `told` draws it for a terminal, and markup.py for a notebook.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...generation.explain_table import cut
from ..sources import Source
from ..tokens import readable
from ..writing import WIDTH, joined, plural, printable, sizes, wrapped

if TYPE_CHECKING:
    from .trace import Trace

ROWS = 4  # texts that are shown
STEPS = 16  # choices that are shown
_IN_LAYER = re.compile(r"layers\.(\d+)\.(.+)", re.DOTALL)
HIDDEN = -1e4  # scores below this are those of tokens that may not be looked at
# What the one line of a layer shows of it, where it was recorded.
BRIEF = ("attention.weights", "cross_attention.weights", "attention.output", "feedforward.output", "output")


@dataclass(frozen=True)
class Line:
    """One tensor.

    Attributes:
        name: in full.
        label: the end of the name, as it is written in its chapter.
        shape: in the last call.
        look: what there is to see of its values.
        brief: the same in few characters.
        meaning: what it is, and its shape in symbols.
        source: the line of code that computed it, if it is known.
    """

    name: str
    label: str
    shape: tuple[int, ...]
    look: str
    brief: str
    meaning: str
    source: Source | None


@dataclass
class Chapter:
    """A stack, a layer, or what comes after the stacks.

    Attributes:
        title: "decoder", "layer 3".
        before: tensors before the layers.
        layers: a chapter each, of a stack.
        after: tensors after the layers.
    """

    title: str
    before: list[Line] = field(default_factory=list)
    layers: list[Chapter] = field(default_factory=list)
    after: list[Line] = field(default_factory=list)


def chapters(trace: Trace) -> list[Chapter]:
    """The chapters of a call: the stacks in the order in which they ran, and what was read from them.

    Args:
        trace: what was recorded.
    """
    eye = _Eye(trace)
    found: dict[str, Chapter] = {}
    for name in trace.names:
        first, _, rest = name.partition(".")
        stack = first if first in ("encoder", "decoder") else ""
        chapter = found.setdefault(stack, Chapter(stack or "what is read from the states"))
        in_layer = _IN_LAYER.fullmatch(rest) if stack else None
        if in_layer is None:
            target = chapter.after if chapter.layers or not stack else chapter.before
            target.append(eye.line(name, rest if stack else name))
            continue
        title, label = f"layer {in_layer[1]}", in_layer[2]
        if not chapter.layers or chapter.layers[-1].title != title:
            chapter.layers.append(Chapter(title))
        chapter.layers[-1].before.append(eye.line(name, label))
    return sorted(found.values(), key=lambda chapter: chapter.title.startswith("what"))


class _Eye:
    """Looks at tensors: the tokens of a trace as a person reads them, and what is worth saying of values."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.tokens = {stack: [readable(row) for row in rows] for stack, rows in trace.tokens.items()}

    def line(self, name: str, label: str) -> Line:
        trace = self.trace
        tensor = trace[name].detach()
        look, brief = self.look(name, tensor)
        meaning = printable(trace.meanings.get(name, ""))
        return Line(name, printable(label), tuple(tensor.shape), look, brief, meaning, trace.lines.get(name))

    def look(self, name: str, tensor: Tensor) -> tuple[str, str]:
        """What there is to see of values, and the same in few characters."""
        place = name.rpartition(".")[2]
        if tensor.numel() == 0:
            return "empty", "empty"
        if not tensor.is_floating_point():
            ids = " ".join(str(number) for number in tensor.flatten()[:12].tolist())
            return cut(ids + (" …" if tensor.numel() > 12 else ""), 48), ids[:12]
        values = tensor.float()
        if place in ("mask", "memory_mask"):
            hidden = f"{int((values < HIDDEN).sum())} of {values.numel()} hidden"
            return hidden, hidden
        if place == "scores":
            values = values[values >= HIDDEN]
        infinite = values.numel() - int(torch.isfinite(values).sum())
        if infinite:
            lost = f"{infinite} of {values.numel()} not finite"
            return lost, lost
        if place == "weights" and (seen := self.seen(name, values)):
            return seen
        if not values.numel():
            return "all hidden", "all hidden"
        if values.numel() == 1:
            return number(values.item()), number(values.item())
        size = number(values.abs().mean().item())
        return f"{number(values.min().item())} … {number(values.max().item())}, mean |x| {size}", size

    def seen(self, name: str, weights: Tensor) -> tuple[str, str] | None:
        """What the last token of the first text looks at most, a mean over the heads, of weights (B, H, T, S)."""
        stack = name.partition(".")[0]
        over = "encoder" if "cross_attention" in name and "encoder" in self.tokens else stack
        rows = self.tokens.get(over)
        if not rows or weights.dim() != 4 or not weights.shape[2]:
            return None
        keys = rows[0]
        last = weights.shape[2] - 1
        own = self.tokens.get(stack, [[]])[0]
        if last + 1 == len(own):  # the last that is not padding
            raw = self.trace.tokens[stack][0]
            last = max((place for place, token in enumerate(raw) if token != self.trace.padding), default=last)
        shares = weights[0, :, last].mean(0)
        best = shares.topk(min(3, len(shares)))
        # A cache of fixed size has more keys than there are tokens yet.
        names = [keys[place] if place < len(keys) else f"[{place}]" for place in best.indices.tolist()]
        parts = [f"{cut(token, 12)} {share:.2f}" for token, share in zip(names, best.values.tolist())]
        who = f"{cut(own[last], 12)} " if weights.shape[2] == len(own) > 1 else ""
        return f"{who}looks at {'  '.join(parts)}", "  ".join(parts[:2])


def number(value: float) -> str:
    """A number in three digits, with a minus that is as wide as a digit."""
    return f"{value:.3g}".replace("-", "−", 1) if abs(value) < 1e5 else f"{value:.2e}".replace("-", "−", 1)


def choices(trace: Trace) -> list[tuple[str, str]]:
    """What the scores came to: after or at which token, and the candidates with their probabilities.

    Args:
        trace: what was recorded.
    """
    stack = "decoder" if "decoder" in trace.tokens else "encoder"
    rows = trace.tokens.get(stack, [])
    told = []
    starts: dict[str, list[int]] = {}
    for name in {choice.name for choice in trace.choices}:
        lengths = [call.shape[1] if call.dim() == 3 else 0 for call in trace.records.get(name, [])]
        first = len(rows[0]) - sum(lengths) if rows else 0  # where only the last scores were kept
        starts[name] = [first + sum(lengths[:call]) for call in range(len(lengths))]
    for choice in trace.choices:
        where = []
        if len(rows) > 1:
            where.append(f"text {choice.row}")
        if choice.name != "logits":
            where.append(printable(choice.name.removesuffix("_logits").replace("_", " ")))
        if choice.position is not None:
            start = starts.get(choice.name, [])
            place = choice.position + (start[choice.call] if choice.call < len(start) else 0)
            row = rows[choice.row] if choice.row < len(rows) else []
            known = [*row, *choice.labels]
            where.append(readable(known)[place] if 0 <= place < len(row) else f"token {choice.position}")
        labels = readable([*(rows[0] if rows else []), *choice.labels])[-len(choice.labels) :]
        shares = [f"{cut(label, 16)} {share:.3f}" for label, share in zip(labels, choice.probabilities)]
        told.append((" ".join(where), "   ".join(shares)))
    return told


def heading(trace: Trace) -> list[str]:
    """What was called with what, in a few lines."""
    calls = max((len(tensors) for tensors in trace.records.values()), default=0)
    rows = max((len(rows) for rows in trace.tokens.values()), default=0)
    sizes = [f"{plural(len(rows[0]), 'token')} in the {stack}" for stack, rows in trace.tokens.items() if rows]
    return [trace.model, *([plural(rows, "text")] if rows else []), *sizes, plural(calls, "call"),
            plural(len(trace.records), "tensor")]  # fmt: skip


def told(trace: Trace, fold: bool = True) -> str:
    """The story for a terminal, at most 110 columns wide.

    Args:
        trace: what was recorded.
        fold: whether layers after the first have one line each, or all their tensors.
    """
    lines = [*wrapped(printable(" · ".join(heading(trace))), 2, 4), ""]
    for text in (trace.texts or [])[:ROWS]:
        lines += wrapped(f"text     {printable(text)}", 9, 4)
    for stack, rows in trace.tokens.items():
        label = "tokens" if len(trace.tokens) == 1 else printable(stack)
        for row in rows[:ROWS]:
            lines += wrapped(f"{label:<8} {' '.join(readable(row))}", 9, 4)
        if len(rows) > ROWS:
            lines.append(f"         … and {len(rows) - ROWS} more")
    parts = chapters(trace)
    for chapter in parts:
        lines += ["", f"── {chapter.title} ".ljust(WIDTH, "─")]
        lines += [text for line in chapter.before for text in _line(line, 2)]
        shown = 1 if fold else len(chapter.layers)
        for layer in chapter.layers[:shown]:
            lines += ["", f"  {layer.title}"]
            lines += [text for line in layer.before for text in _line(line, 4)]
        lines += _table(chapter.layers[0], chapter.layers[shown:]) if len(chapter.layers) > shown else []
        lines += ["", *(text for line in chapter.after for text in _line(line, 2))] if chapter.after else []
    found = choices(trace)
    if found:
        lines += ["", "── choice ".ljust(WIDTH, "─")]
        width = min(24, max(len(where) for where, _ in found))
        lines += [cut(f"  {where:<{width}} → {what}", WIDTH) for where, what in found[:STEPS]]
        if len(found) > STEPS:
            lines.append(f"  … and {len(found) - STEPS} more in .choices")
    if fold and any(len(chapter.layers) > 1 for chapter in parts):
        lines += ["", "Every layer in full: print(t.story(fold=False)); a tensor: t[name], for the names in t.names."]
    return joined(lines).rstrip()


def _line(line: Line, indent: int) -> list[str]:
    """A tensor in two lines or more: what it holds, and below what it is and where it was computed."""
    head = f"{' ' * indent}{line.label:<{34 - indent}} {sizes(line.shape):<20} {line.look}"
    where = f" · {printable(str(line.source))}" if line.source is not None else ""
    below = wrapped(f"{line.meaning}{where}", 0, width=WIDTH - indent - 4)
    return [head, *(" " * (indent + 4) + text for text in below)]


def _table(first: Chapter, layers: list[Chapter]) -> list[str]:
    """One line a layer: what its attention looks at, and how large what it computes is."""
    columns = brief_columns(first)
    widths = [24 if column.endswith("weights") else max(9, len(column)) for column in columns]
    head = "  ".join(f"{column:<{width}}" for column, width in zip(columns, widths))
    rows = []
    for layer in layers:
        cells = {line.label: line.brief for line in layer.before}
        row = "  ".join(f"{cut(cells.get(c, ''), w):<{w}}" for c, w in zip(columns, widths))
        rows.append(cut(f"    {layer.title.removeprefix('layer '):<6} {row}", WIDTH))
    names = f"{layers[0].title}–{layers[-1].title.removeprefix('layer ')}" if len(layers) > 1 else layers[0].title
    note = f"  {names.replace('layer', 'layers') if len(layers) > 1 else names}: as {first.title}"
    return ["", f"{note}; of states and outputs the mean |x|", cut(f"    {'layer':<6} {head}", WIDTH), *rows]


def brief_columns(first: Chapter) -> list[str]:
    """Which tensors of a layer its one line shows: the usual ones, or what there is."""
    there = [line.label for line in first.before]
    return [label for label in BRIEF if label in there] or there[:4]
