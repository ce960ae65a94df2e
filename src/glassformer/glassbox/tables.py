"""Draws the table of concepts and explanations: plain text for terminals, escaped HTML for notebooks."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

from ..generation.explain_table import columns, cut
from .drawing import printable

if TYPE_CHECKING:
    from .answers import Explanation
    from .concepts import Concepts
    from .glossary import Concept
    from .names import Aspect
    from .rows import Row

WIDTH = 110
MOST = 8  # names in a list
# What the symbols of sizes count.
SIZES = {
    "B": " texts",
    "T": " tokens",
    "U": " tokens written",
    "V": " tokens in the vocabulary",
    "D": " wide",
    "L": " classes",
    "N": " layers",
    "H": " heads",
}

STYLE = """
.gf-concepts{margin:0;max-width:62rem;font:14px/1.5 system-ui,sans-serif;color:inherit}
.gf-concepts table{border-collapse:collapse;width:100%;table-layout:fixed}
.gf-concepts th,.gf-concepts td{text-align:left;vertical-align:top;padding:.4em .6em;overflow-wrap:anywhere}
.gf-concepts tr{border-top:1px solid rgba(128,128,128,.35)}
.gf-concepts th{font-weight:600}
.gf-concepts th:first-child{width:11rem}
.gf-concepts .gf-quiet{opacity:.72}
.gf-concepts code,.gf-concepts pre{font:12px/1.5 ui-monospace,monospace;background:none;color:inherit;padding:0}
.gf-concepts pre{white-space:pre-wrap;margin:.3em 0;padding:.4em .6em;border-radius:6px}
.gf-concepts pre{background:rgba(128,128,128,.12)}
"""


def concepts_text(table: Concepts) -> str:
    """The table for a terminal, at most 110 columns wide."""
    lines = _heading(table)
    lines += [f">>> {line}" for line in table.setup]
    for row in table:
        if row.applies:
            lines += ["", *_wrapped(f"{row.concept.name} · {row.concept.sentence}", "  ")]
            lines += [f"  >>> {row.call}", _ends(f"  {row.gives}", str(row.source or ""))]
    absent = [row for row in table if not row.applies]
    lines += ["", "Not in this model"] if absent else []
    for row in absent:
        lines += _wrapped(f"  {row.concept.name.ljust(26)}{_missing(row)}", " " * 28)
    return "\n".join(cut(printable(line), WIDTH).rstrip() for line in lines)


def _heading(table: Concepts) -> list[str]:
    named = f" · {table.name}" if table.name else ""
    numbers = ", ".join(f"{name} = {number:,}{SIZES.get(name, '')}" for name, number in table.sizes.items())
    return [f"{table.model} · {table.kind}{named}", *_wrapped(numbers, ""), ""]


def _missing(row: Row) -> str:
    return f"{row.missing}; see {row.has}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent) or [""]


def _ends(left: str, right: str) -> str:
    """Two texts in a line, one at each end."""
    return left + right.rjust(max(len(right) + 2, WIDTH - columns(left)))


def concepts_html(table: Concepts) -> str:
    """The table for a notebook."""
    title, *about = _heading(table)
    setup = "\n".join(map(_safe, table.setup))
    rows = "".join(_row_html(row) for row in table)
    return (
        f'<figure class="gf-concepts" aria-label="Concepts and calls of {_safe(table.model)}"><style>{STYLE}</style>'
        f"<figcaption><b>{_safe(title)}</b><br>{_safe(' '.join(about))}</figcaption><pre>{setup}</pre>"
        "<table><thead><tr><th scope=col>concept</th><th scope=col>call, and what it gives</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></figure>"
    )


def _row_html(row: Row) -> str:
    head = f"<th scope=row>{_safe(row.concept.name)}</th>"
    if not row.applies:
        return f'<tr class="gf-quiet">{head}<td>{_safe(_missing(row))}</td></tr>'
    about = f'<span class="gf-quiet">{_safe(row.concept.sentence)}</span>'
    gives = f"{_safe(str(row.gives))} · <code>{_safe(str(row.source or ''))}</code>"
    return f"<tr>{head}<td>{about}<pre>{_safe(row.call)}</pre>{gives}</td></tr>"


def explanation_text(explanation: Explanation) -> str:
    """An explanation for a terminal, at most 110 columns wide."""
    lines = [explanation.name]
    for aspect in explanation.aspects:
        lines += ["", *_wrapped(f"{aspect.kind} · {aspect.text}", "    ")]
        lines += [f"    {line}" for fact in _facts(aspect) for line in _pair(*fact)]
    for concept, row in _told(explanation):
        lines += ["", *_wrapped(f"concept · {concept.name}: {concept.sentence}", "    ")]
        facts = [("formula", concept.formula), ("paper", concept.paper)]
        lines += [f"    {line}" for fact in facts if fact[1] for line in _pair(*fact)]
        if row is not None and row.applies:
            lines += [f"    >>> {row.call}", _ends(f"    {row.gives}", str(row.source or ""))]
        elif row is not None:
            lines += [f"    {_missing(row)}"]
    if explanation.related:
        lines += ["", *_pair("related", ", ".join(explanation.related))]
    return "\n".join(cut(printable(line), WIDTH).rstrip() for line in lines)


def _told(explanation: Explanation) -> list[tuple[Concept, Row | None]]:
    """The concepts of an explanation, with the model's rows where there are any."""
    rows = {row.concept: row for row in explanation.rows}
    return [(concept, rows.get(concept)) for concept in explanation.concepts]


def _facts(aspect: Aspect) -> list[tuple[str, str]]:
    """What is known of an aspect beside its text, each with its name."""
    facts = []
    for name in ("shape", "value", "takes", "gives", "of", "source"):
        value = getattr(aspect, name)
        label = "taken by" if name == "takes" and aspect.kind.startswith(("argument", "setting")) else name
        label = "given by" if name == "gives" and aspect.kind in ("output field", "class") else label
        facts.append((label, _listed(value) if isinstance(value, tuple) else str(value or "")))
    return [fact for fact in facts if fact[1]]


def _listed(names: tuple[str, ...]) -> str:
    """Names in a line; of many, the first ones and how many there are."""
    shown = ", ".join(names[:MOST])
    return shown if len(names) <= MOST else f"{shown} and {len(names) - MOST} more"


def _pair(label: str, value: str) -> list[str]:
    return textwrap.wrap(
        f"{label.ljust(9)}{value}", WIDTH - 4, subsequent_indent=" " * 9, max_lines=4, placeholder=" …"
    )


def explanation_html(explanation: Explanation) -> str:
    """An explanation for a notebook."""
    rows = []
    for aspect in explanation.aspects:
        facts = "".join(f"<br>{label}: <code>{_safe(value)}</code>" for label, value in _facts(aspect))
        rows.append(f"<tr><th scope=row>{_safe(aspect.kind)}</th><td>{_safe(aspect.text)}{facts}</td></tr>")
    for concept, row in _told(explanation):
        more = "".join(f"<br><code>{_safe(text)}</code>" for text in (concept.formula, concept.paper) if text)
        if row is not None and row.applies:
            more += f"<pre>{_safe(row.call)}</pre>{_safe(str(row.gives))}"
        elif row is not None:
            more += f"<br>{_safe(_missing(row))}"
        told = f"<b>{_safe(concept.name)}</b>: {_safe(concept.sentence)}{more}"
        rows.append(f"<tr><th scope=row>concept</th><td>{told}</td></tr>")
    if explanation.related:
        rows.append(f"<tr><th scope=row>related</th><td>{_safe(', '.join(explanation.related))}</td></tr>")
    return (
        f'<figure class="gf-concepts" aria-label="What {_safe(explanation.name)} is"><style>{STYLE}</style>'
        f"<figcaption><b>{_safe(explanation.name)}</b></figcaption><table>{''.join(rows)}</table></figure>"
    )


def _safe(value: str) -> str:
    return escape(printable(value))
