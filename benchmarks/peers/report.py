"""The tables of what was measured, as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import machine
import models

OURS = "glassformer"
PACKAGES = ["transformers", "torch", "ctranslate2", "llama-cpp-python", "onnxruntime", "openvino", "nncf"]
TITLES = {
    "transformers": "Transformers",
    "transformers_compiled": "Transformers compiled",
    "ctranslate2": "CTranslate2",
    "llama_cpp": "llama.cpp",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
Row = dict[str, Any]


def fastest(row: Row) -> str | None:
    """The peer with the best number of a row."""
    peers = {program: value for program, value in row["values"].items() if program != OURS}
    if not peers:
        return None
    return (max if row["more"] else min)(peers, key=lambda program: peers[program])


def ratio(row: Row) -> float | None:
    """How many times as fast as the fastest peer this library is."""
    best = fastest(row)
    if best is None or OURS not in row["values"]:
        return None
    quotient: float = row["values"][OURS] / row["values"][best]
    return quotient if row["more"] else 1 / quotient


def number(value: float) -> str:
    """Three digits of a number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(row: Row, program: str) -> str:
    """A program's number."""
    if program not in row["values"]:
        return "failed" if row["absent"].get(program, "").startswith("failed") else "–"
    text = number(row["values"][program])
    return f"**{text}**" if program == fastest(row) else text


def share(row: Row, bandwidth: float) -> str:
    """Which part of the measured bandwidth this library's reading of weights makes use of."""
    if "bytes" not in row or OURS not in row["values"]:
        return ""
    return f"{row['values'][OURS] / row['batch'] * row['bytes'] / bandwidth:.0%}"


def table(head: list[str], body: list[list[str]]) -> str:
    """A table of Markdown; its first column is text, the others numbers."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def error(found: dict[str, float]) -> str:
    """An error, and how many greedy tokens were the same."""
    same = f" ({found['same']}/{found['of']})" if "of" in found else ""
    return f"{found['error']:.1e}{same}"


def where(row: Row) -> str:
    """A model and its precision."""
    return f"{models.SHAPES[row['model']].title}, {row['precision']}"


def precisions(rows: list[Row]) -> list[str]:
    """Those of some rows, the widest first."""
    return [name for name in ("fp32", "bf16", "int8", "int4") if any(row["precision"] == name for row in rows)]


def glance(rows: list[Row]) -> str:
    """One line for each thing measured, one column for each precision: the ratio alone."""
    head, body = precisions(rows), []
    for model, title in dict.fromkeys((row["model"], row["title"]) for row in rows):
        same = {row["precision"]: row for row in rows if (row["model"], row["title"]) == (model, title)}
        times = [ratio(same[name]) if name in same else None for name in head]
        what = title.rpartition(", ")[0]  # without the unit
        body.append([f"{models.SHAPES[model].title}: {what}", *(f"{found:.2f}" if found else "–" for found in times)])
    return table(["", *head], body)


def short(rows: list[Row]) -> str:
    """One line for each thing measured, one column for each precision, and under each model its errors."""
    head, body = precisions(rows), []
    for model in dict.fromkeys(row["model"] for row in rows):
        own, name = [row for row in rows if row["model"] == model], models.SHAPES[model].title
        for title in dict.fromkeys(row["title"] for row in own):
            found = {row["precision"]: row for row in own if row["title"] == title and OURS in row["values"]}
            body.append([f"{name}: {title}", *(summary(found[kind]) if kind in found else "–" for kind in head)])
        latest = {row["precision"]: row["errors"] for row in sorted(own, key=lambda row: str(row["when"]))}
        body.append([f"{name}: error", *(errors(latest[kind]) if kind in latest else "–" for kind in head)])
    return table(["", *head], body)


def summary(row: Row) -> str:
    """This library's number, and its ratio to that of the fastest peer."""
    times, best = ratio(row), fastest(row)
    against = f"{times:.2f} × {TITLES[best]}" if times and best else "no peer"
    return f"{number(row['values'][OURS])} ({against})"


def errors(found: dict[str, dict[str, float]]) -> str:
    """This library's error, and the least and the largest of the peers; Transformers in fp32 is the reference."""
    peers = [value["error"] for program, value in found.items() if program != OURS and value["error"]]
    said = f" ({min(peers):.0e} to {max(peers):.0e})" if peers else ""
    return (f"{found[OURS]['error']:.0e}" if OURS in found else "–") + said


def full(rows: list[Row], programs: list[str], bandwidth: float) -> str:
    """The table of one task: every program's number."""
    body = []
    for row in rows:
        times = ratio(row)
        body.append(
            [
                where(row),
                *(cell(row, program) for program in programs),
                f"{times:.2f}" if times else "",
                share(row, bandwidth),
                f"{max(row['spread'].values(), default=0):.0%}",
                *(f"{row['rounds']}", row["when"], row["commit"]),
            ]
        )
    named = [TITLES.get(program, program) for program in programs]
    return table(["", *named, "ratio", "bound", "spread", "rounds", "measured", "commit"], body)


def write(kept: dict[str, Any], target: Path) -> None:
    """Write the tables of all rows that were ever measured here."""
    rows = list(kept["rows"].values())
    order = list(models.SHAPES)
    rows.sort(key=lambda row: (order.index(row["model"]), row["task"]))
    named = {program for row in rows for program in row["values"]} - {OURS}
    programs = [OURS, *sorted(named)]
    parts = [
        "# Beside the peers",
        "Written by `make bench` (README.md in this folder says how it is measured).",
        "\n".join(f"- {line}" for line in kept["machine"])
        + f"\n- Memory read by {max([row['threads'] for row in rows], default=2)} threads: "
        f"{kept['bandwidth'] / 1e9:.1f} GB/s\n- Versions: {machine.versions(PACKAGES)}",
        "## At a glance",
        "This library's speed as a multiple of that of the fastest peer in the same precision: more than 1 is faster.",
        glance(rows),
        "## In short",
        "What this library reaches, and in brackets how many times the speed of the fastest peer in the same precision "
        "that is. Errors: of this library, and in brackets the least and the largest of the peers.",
        short(rows),
        "## In full",
        "Ratio: this library's speed as a multiple of that of the fastest peer (bold), so that more than 1 is faster. "
        "Bound: the part of the memory bandwidth that reading each weight once a step makes use of. Spread: the "
        "largest (max − min) ÷ median of any program in the row; where it is large, the machine was not quiet.",
    ]
    for title in dict.fromkeys(row["title"] for row in rows):
        same = [row for row in rows if row["title"] == title]
        parts += [f"### {title[0].upper()}{title[1:]}", full(same, programs, kept["bandwidth"])]
    latest = {where(row): row["errors"] for row in sorted(rows, key=lambda row: str(row["when"]))}
    body = [
        [name, *(error(latest[name][p]) if p in latest[name] else "–" for p in programs)]
        for name in dict.fromkeys(map(where, rows))
    ]
    parts += [
        "### Errors",
        "The relative error (norm of the difference ÷ norm) of the last logits after 32 tokens, or of an encoder's "
        "last states, against Transformers in fp32; in brackets how many of the first greedy tokens are the same.",
        table(["", *(TITLES.get(program, program) for program in programs)], body),
    ]
    failures = [
        f"- {where(row)}, {program}: {reason}"
        for row in rows
        for program, reason in row["absent"].items()
        if reason.startswith("failed")
    ]
    if failures:
        parts += ["### What failed", "\n".join(dict.fromkeys(failures))]
    target.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
