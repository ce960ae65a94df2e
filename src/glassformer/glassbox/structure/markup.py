"""Draws a `Structure` for notebooks: one static piece of HTML, whose parts open to their names, insides and code.

Whatever comes from a model or its files is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ..writing import figure, safe
from .drawing import COLUMNS, amount, cells, heading, layer_title
from .structure import Part, Structure

STYLE = """
.gf-structure .gf-row{display:grid;grid-template-columns:minmax(12rem,1fr) 8.5rem 7rem 5.5rem 6.5rem;gap:0 .5rem}
.gf-structure .gf-row>*{overflow-wrap:anywhere}
.gf-structure .gf-row>:nth-child(n+3){text-align:right;font-variant-numeric:tabular-nums}
.gf-structure .gf-box{border:1px solid rgba(128,128,128,.45);border-radius:10px;margin:.5em 0;padding:.4em .6em}
.gf-structure .gf-box>.gf-row{font-weight:600;padding:0 .5em .2em}
.gf-structure .gf-layer{background:rgba(128,128,128,.08)}
.gf-structure .gf-step{border-left:2px solid rgba(128,128,128,.5);border-radius:8px;margin:.35em 0 .35em .5em}
.gf-structure .gf-step{padding-left:.5em}
.gf-structure details,.gf-structure .gf-plain{border-left:4px solid rgba(128,128,128,.5);border-radius:6px}
.gf-structure details,.gf-structure .gf-plain{margin:.25em 0}
.gf-structure details{background:rgba(128,128,128,.10)}
.gf-structure details details{background:none}
.gf-structure summary,.gf-structure .gf-plain{padding:.15em .5em;cursor:default}
.gf-structure summary{cursor:pointer;list-style:none}
.gf-structure summary::-webkit-details-marker{display:none}
.gf-structure .gf-head{padding:0 .5em}
.gf-structure>.gf-head .gf-row,.gf-structure>details .gf-row{margin-right:calc(1.2em + 2px)}
.gf-structure .gf-stack>.gf-row,.gf-structure .gf-stack>details .gf-row,.gf-structure .gf-stack>.gf-plain .gf-row{
margin-right:calc(.6em + 1px)}
.gf-structure .gf-inside{padding:.3em .8em .6em}
.gf-structure pre{overflow-x:auto;margin:.5em 0 0;padding:.6em;border-radius:6px;background:rgba(128,128,128,.12)}
.gf-structure .gf-attention{border-left-color:#8b6cf0}
.gf-structure .gf-feedforward{border-left-color:#1f9d76}
.gf-structure .gf-table,.gf-structure .gf-positions{border-left-color:#3f86e0}
.gf-structure .gf-readout,.gf-structure .gf-pick{border-left-color:#d98a1f}
@media(max-width:46rem){.gf-structure .gf-row{grid-template-columns:1fr auto}.gf-structure .gf-head{display:none}}
"""


def fragment(structure: Structure) -> str:
    """The structure as HTML to be put into a page."""
    taken = structure.kind == "encoder-decoder"
    body = f'<div class="gf-head gf-quiet">{_row("", "", COLUMNS)}</div>'
    body += "".join(_part(part, taken) for part in structure.parts)
    return figure("structure", f"Structure of {structure.class_name}", heading(structure), body, STYLE)


def page(structure: Structure) -> str:
    """The structure as a page of its own, which needs nothing else."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>Structure of {safe(structure.class_name)}</title></head>"
        f'<body style="margin:2rem auto;max-width:62rem;padding:0 1rem">{fragment(structure)}</body></html>\n'
    )


def _part(part: Part, taken: bool) -> str:
    """A part with what is inside; `taken` says whether the encoder's states go to a decoder."""
    if part.kind in ("stack", "layer"):
        inside = "".join(_part(inner, taken) for inner in part.parts)
        if part.kind == "stack" and part.name == "encoder" and taken:
            inside += '<div class="gf-quiet">its last states go to each cross-attention of the decoder</div>'
        title = part.title if part.kind == "stack" else layer_title(part)
        row = _row(title, str(part.source or ""), cells(part, part.times))
        return f'<div class="gf-box gf-{part.kind}">{row}{inside}</div>'
    if part.kind == "embedding":
        return "".join(_part(inner, taken) for inner in part.parts)
    if part.kind == "step":
        inside = "".join(_part(inner, taken) for inner in part.parts)
        added = f"⊕ added to what came in <code>{safe(str(part.source or ''))}</code>"
        return f'<div class="gf-step">{inside}<div class="gf-quiet">{added}</div></div>'
    detail = part.detail + (" ◂ the encoder’s states" if taken and part.title == "cross-attention" else "")
    row = _row(part.title, detail, cells(part))
    if part.kind == "input":
        return f'<div class="gf-plain">{row}</div>'
    inside = f'<div class="gf-inside">{_inside(part)}</div>'
    return f'<details class="gf-{part.kind}"><summary>{row}</summary>{inside}</details>'


def _inside(part: Part) -> str:
    """What a part shows when it is opened: its names, the parts inside, and the code."""
    facts = [("name", part.name), ("in the checkpoint", part.stored), ("tied to", part.tied)]
    if part.operations_per_key:
        facts.append(("operations", f"of which {amount(part.operations_per_key)} for each token in view"))
    lines = [f"{key}: <code>{safe(value)}</code>" for key, value in facts if value]
    rows = [_row(inner.title, inner.stored, cells(inner)) for inner in part.parts]
    code = ""
    if part.source is not None:
        lines.append(f"computed by: <code>{safe(str(part.source))}</code>")
        code = f"<pre><code>{escape(part.source.text)}</code></pre>"
    return f"{'<br>'.join(lines)}{''.join(rows)}{code}"


def _row(title: str, detail: str, numbers: Iterable[str]) -> str:
    """A line of the table."""
    what = f'<span>{safe(title)} <span class="gf-quiet">{safe(detail)}</span></span>'
    return f'<span class="gf-row">{what}{"".join(f"<span>{safe(number)}</span>" for number in numbers)}</span>'
