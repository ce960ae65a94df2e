"""The table of what was measured, as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import machine
import models

OURS = "glassformer"
PACKAGES = ["transformers", "torch", "ctranslate2", "llama-cpp-python", "onnxruntime", "openvino", "nncf"]


def fastest(row: dict[str, Any]) -> str | None:
    """The peer with the best number of a row."""
    peers = {program: value for program, value in row["values"].items() if program != OURS}
    if not peers:
        return None
    return (max if row["more"] else min)(peers, key=lambda program: peers[program])


def ratio(row: dict[str, Any]) -> float | None:
    """How many times as fast as the fastest peer this library is."""
    best = fastest(row)
    if best is None or OURS not in row["values"]:
        return None
    quotient: float = row["values"][OURS] / row["values"][best]
    return quotient if row["more"] else 1 / quotient


def cell(row: dict[str, Any], program: str) -> str:
    """A program's number."""
    if program not in row["values"]:
        return "failed" if row["absent"].get(program, "").startswith("failed") else "–"
    value = row["values"][program]
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"**{text}**" if program == fastest(row) else text


def share(row: dict[str, Any], bandwidth: float) -> str:
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


def write(kept: dict[str, Any], target: Path) -> None:
    """Write the tables of all rows that were ever measured here."""
    rows = list(kept["rows"].values())
    rows.sort(key=lambda row: (list(models.SHAPES).index(row["model"]), row["task"]))
    named = {program for row in rows for program in [*row["values"], *row["absent"]]} - {OURS}
    programs = [OURS, *sorted(program for program in named if any(program in row["values"] for row in rows))]
    parts = [
        "# Beside the peers",
        "Written by `make bench` (README.md in this folder says how it is measured). Ratio: this library's speed as a "
        "multiple of that of the fastest peer (bold), so that more than 1 is faster. Bound: the part of the memory "
        "bandwidth that reading each weight once a step makes use of. Spread: the largest (max − min) ÷ median of any "
        "program in the row; where it is large, the machine was not quiet.",
        "\n".join(f"- {line}" for line in kept["machine"])
        + f"\n- Memory read by {max([row['threads'] for row in rows], default=2)} threads: "
        f"{kept['bandwidth'] / 1e9:.1f} GB/s\n- Versions: {machine.versions(PACKAGES)}",
    ]
    for title in dict.fromkeys(row["title"] for row in rows):
        body = []
        for row in (row for row in rows if row["title"] == title):
            times = ratio(row)
            body.append(
                [f"{models.SHAPES[row['model']].title}, {row['precision']}"]
                + [cell(row, program) for program in programs]
                + [f"{times:.2f}" if times else "", share(row, kept["bandwidth"])]
                + [f"{max(row['spread'].values(), default=0):.0%}", f"{row['rounds']}", row["when"], row["commit"]]
            )
        head = ["", *programs, "ratio", "bound", "spread", "rounds", "measured", "commit"]
        parts += [f"## {title[0].upper()}{title[1:]}", table(head, body)]
    body, reasons = [], []
    for name, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        same = [row for row in rows if (row["model"], row["precision"]) == (name, precision)]
        row = max(same, key=lambda row: str(row["when"]))
        where = f"{models.SHAPES[name].title}, {precision}"
        body.append([where, *(error(row["errors"][p]) if p in row["errors"] else "–" for p in programs)])
    for row in rows:
        for program, reason in row["absent"].items():
            if reason.startswith("failed"):
                where = f"{models.SHAPES[row['model']].title}, {row['precision']}"
                reasons.append(f"- {where}, {program}: {reason}")
    parts += [
        "## Errors",
        "The relative error (norm of the difference ÷ norm) of the last logits after 32 tokens, or of an encoder's "
        "last states, against Transformers in fp32; in brackets how many of the first greedy tokens are the same.",
        table(["", *programs], body),
        *(["What failed:", "\n".join(dict.fromkeys(reasons))] if reasons else []),
    ]
    target.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
