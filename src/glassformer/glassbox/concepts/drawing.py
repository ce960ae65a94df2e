"""Draws the table of concepts and explanations: plain text for terminals, escaped HTML for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..writing import WIDTH, ends, figure, joined, safe, wrapped

if TYPE_CHECKING:
    from .answers import Explanation
    from .concepts import Concepts
    from .glossary import Concept
    from .names import Aspect
    from .rows import Row

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
.gf-concepts table{border-collapse:collapse;width:100%;table-layout:fixed}
.gf-concepts th,.gf-concepts td{text-align:left;vertical-align:top;padding:.4em .6em;overflow-wrap:anywhere}
.gf-concepts tr{border-top:1px solid rgba(128,128,128,.35)}
.gf-concepts th{font-weight:600}
.gf-concepts th:first-child{width:11rem}
.gf-concepts pre{white-space:pre-wrap;margin:.3em 0;padding:.4em .6em;border-radius:6px}
.gf-concepts pre{background:rgba(128,128,128,.12)}
"""


def concepts_text(table: Concepts) -> str:
    """The table for a terminal, at most 110 columns wide."""
    lines = _heading(table)
    lines += [f">>> {line}" for line in table.setup]
    for row in table:
        if row.applies:
            lines += ["", *wrapped(f"{row.concept.name} · {row.concept.sentence}", 2)]
            lines += [f"  >>> {row.call}", ends(f"  {row.gives}", str(row.source or ""))]
    absent = [row for row in table if not row.applies]
    lines += ["", "Not in this model"] if absent else []
    for row in absent:
        lines += wrapped(f"  {row.concept.name.ljust(26)}{_missing(row)}", 28)
    return joined(lines)


def _heading(table: Concepts) -> list[str]:
    named = f" · {table.name}" if table.name else ""
    numbers = ", ".join(f"{name} = {number:,}{SIZES.get(name, '')}" for name, number in table.sizes.items())
    return [f"{table.model} · {table.kind}{named}", *wrapped(numbers, 0), ""]


def _missing(row: Row) -> str:
    return f"{row.missing}; see {row.has}"


def concepts_html(table: Concepts) -> str:
    """The table for a notebook."""
    title, *about = _heading(table)
    setup = "\n".join(map(safe, table.setup))
    rows = "".join(_row_html(row) for row in table)
    body = (
        f"<pre>{setup}</pre><table><thead><tr><th scope=col>concept</th><th scope=col>call, and what it gives</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>"
    )
    return figure("concepts", f"Concepts and calls of {table.model}", [title, " ".join(about)], body, STYLE)


def _row_html(row: Row) -> str:
    head = f"<th scope=row>{safe(row.concept.name)}</th>"
    if not row.applies:
        return f'<tr class="gf-quiet">{head}<td>{safe(_missing(row))}</td></tr>'
    about = f'<span class="gf-quiet">{safe(row.concept.sentence)}</span>'
    gives = f"{safe(str(row.gives))} · <code>{safe(str(row.source or ''))}</code>"
    return f"<tr>{head}<td>{about}<pre>{safe(row.call)}</pre>{gives}</td></tr>"


def explanation_text(explanation: Explanation) -> str:
    """An explanation for a terminal, at most 110 columns wide."""
    lines = [explanation.name]
    for aspect in explanation.aspects:
        lines += ["", *wrapped(f"{aspect.kind} · {aspect.text}", 4)]
        lines += [f"    {line}" for fact in _facts(aspect) for line in _pair(*fact)]
    for concept, row in _told(explanation):
        lines += ["", *wrapped(f"concept · {concept.name}: {concept.sentence}", 4)]
        facts = [("formula", concept.formula), ("paper", concept.paper)]
        lines += [f"    {line}" for fact in facts if fact[1] for line in _pair(*fact)]
        if row is not None and row.applies:
            lines += [f"    >>> {row.call}", ends(f"    {row.gives}", str(row.source or ""))]
        elif row is not None:
            lines += [f"    {_missing(row)}"]
    if explanation.related:
        lines += ["", *_pair("related", ", ".join(explanation.related))]
    return joined(lines)


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
    return wrapped(f"{label.ljust(9)}{value}", 9, 4, WIDTH - 4)


def explanation_html(explanation: Explanation) -> str:
    """An explanation for a notebook."""
    rows = []
    for aspect in explanation.aspects:
        facts = "".join(f"<br>{label}: <code>{safe(value)}</code>" for label, value in _facts(aspect))
        rows.append(f"<tr><th scope=row>{safe(aspect.kind)}</th><td>{safe(aspect.text)}{facts}</td></tr>")
    for concept, row in _told(explanation):
        more = "".join(f"<br><code>{safe(text)}</code>" for text in (concept.formula, concept.paper) if text)
        if row is not None and row.applies:
            more += f"<pre>{safe(row.call)}</pre>{safe(str(row.gives))}"
        elif row is not None:
            more += f"<br>{safe(_missing(row))}"
        told = f"<b>{safe(concept.name)}</b>: {safe(concept.sentence)}{more}"
        rows.append(f"<tr><th scope=row>concept</th><td>{told}</td></tr>")
    if explanation.related:
        rows.append(f"<tr><th scope=row>related</th><td>{safe(', '.join(explanation.related))}</td></tr>")
    body = f"<table>{''.join(rows)}</table>"
    return figure("concepts", f"What {explanation.name} is", [explanation.name], body, STYLE)
