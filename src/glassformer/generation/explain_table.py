"""The text of a `GenerationExplanation`: settings, then every choice with its candidates; no line wider than asked."""

from __future__ import annotations

import math
import shutil
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassformer.generation.explain import Candidate, Choice, GenerationExplanation, Stage

_TOKEN, _NUMBER = 16, 9  # columns of a table
_LEAST = 40


def table(explanation: GenerationExplanation, width: int | None = None) -> str:
    """An explanation as text.

    Args:
        explanation: what to show.
        width: of the longest line, in columns, at least 40; the terminal's if not given.
    """
    width = max(_LEAST, width or shutil.get_terminal_size((100, 24)).columns)
    lines = ["Settings"]
    chosen = [setting for setting in explanation.settings if setting.source not in ("default", "not set")]
    lines += [f"  {setting.name} = {setting.value!r}  ({setting.source})" for setting in chosen]
    lines += [f"  {'the others have' if chosen else 'all have'} their defaults"]
    for choices, reason in zip(explanation.rows, explanation.finish_reason):
        for choice in choices:
            lines += ["", *_choice(choice, width)]
        if choices:
            lines += ["", f"Row {choices[0].row} ended by {reason} at step {choices[-1].step}."]
    return "\n".join(cut(line, width).rstrip() for line in lines)


def _choice(choice: Choice, width: int) -> list[str]:
    place = f", rank {choice.rank} of {choice.possible}" if choice.how == "sampled" else ", the most likely"
    name = _name(choice.token_id, choice.token)
    lines = [f"Row {choice.row}, step {choice.step}: {name}, {choice.how} at {choice.probability:.1%}{place}"]
    # Stages that did nothing need no column; where there is no room for all, the last ones stay.
    acted = [number for number, stage in enumerate(choice.stages) if stage.changed]
    room = max(0, (width - 2 - _TOKEN - 3 * _NUMBER) // _NUMBER)
    shown = acted[len(acted) - min(room, len(acted)) :]
    headers = ["logit", "p before", *(f"[{number + 1}]" for number in shown), "p after"]
    lines.append("  " + fit("token", _TOKEN) + "".join(header.rjust(_NUMBER) for header in headers))
    lines += [_candidate(candidate, shown) for candidate in choice.candidates]
    for number, stage in enumerate(choice.stages, 1):
        lines += _stage(number, stage)
    return lines


def _candidate(candidate: Candidate, shown: list[int]) -> str:
    cells = [
        _score(candidate.logit),
        f"{candidate.model_probability:.2%}",
        *(_score(candidate.scores[number]) for number in shown),
        f"{candidate.probability:.2%}" if candidate.probability else "-",
    ]
    mark = "> " if candidate.chosen else "  "
    name = fit(_name(candidate.token_id, candidate.token), _TOKEN)
    return mark + name + "".join(cell.rjust(_NUMBER) for cell in cells)


def _stage(number: int, stage: Stage) -> list[str]:
    parameters = ", ".join(f"{name}={value!r}" for name, value in stage.parameters.items() if _plain(value))
    counts = [f"forbade {stage.forbidden}"] if stage.forbidden else []
    if (moved := stage.changed - stage.forbidden) or not counts:
        counts.append(f"changed {moved or 'nothing'}")
    lines = [f"  [{number}] {stage.processor} {', '.join(counts)} ({parameters})".removesuffix(" ()")]
    if stage.changes:
        lines.append("      " + ", ".join(
            f"{_name(change.token_id, change.token)} {_score(change.before)} to {_score(change.after)}"
            for change in stage.changes
        ))  # fmt: skip
    return lines


def _plain(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _score(value: float) -> str:
    return f"{value:.2f}"


def _name(token_id: int, token: str | None) -> str:
    return repr(token) if token is not None else str(token_id)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, width: int) -> str:
    """A text in at most `width` columns, with an ellipsis where something is missing."""
    if columns(text) <= width:
        return text
    kept, used = [], 1  # of the ellipsis
    for letter in text:
        used += _columns(letter)
        if used > width:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def fit(text: str, width: int) -> str:
    """A text cut or filled to `width` columns, of which the last is empty."""
    text = cut(text, width - 1)
    return text + " " * (width - columns(text))
