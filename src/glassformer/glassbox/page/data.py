"""What the page shows, as data that JSON can hold: each view's numbers, its words, and the code that makes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from ...generation.explain import Choice, GenerationExplanation, explain_generation
from ...generation.explain_table import cut
from ...structure.maps import attention_maps
from ..analyses.lens import LogitLens, logit_lens
from ..sources import Source, source_of
from ..structure.structure import Structure
from ..structure.structure import structure as structure_of
from ..tokens import readable
from ..trace.choices import choices_of
from ..trace.story import Line, chapters, heading
from ..trace.trace import Trace
from .maps import attention

STEPS = 400  # of a generation that are shown
CELLS = 4000  # of the logit lens
# What a part of the drawing gives is, in a trace, the tensor of this name beside it or inside it.
_GIVES = {
    "q_proj": "queries",
    "k_proj": "keys",
    "v_proj": "values",
    "o_proj": "output",
    "gate_proj": "inner",
    "up_proj": "inner",
    "down_proj": "output",
    "attention_residual": "after_attention",
    "cross_attention_residual": "after_cross_attention",
    "feedforward_residual": "output",
    "final_norm": "output",
    "norm": "output",
}
_SCORES = ("logits", "start_logits")


def page_data(
    trace: Trace,
    structure: Structure | None,
    generation: GenerationExplanation | None,
    lens: LogitLens | None,
    title: str | None,
    row: int,
    layers: Iterable[int] | None,
    heads: Iterable[int] | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything the page shows; a view that there is nothing for is None."""
    text = trace.texts[row] if trace.texts is not None and row < len(trace.texts) else None
    maps = attention(trace, row, layers, heads)
    sources: dict[str, str] = {}
    data: dict[str, Any] = {
        "title": title or (f"“{cut(text, 90)}”" if text else trace.model),
        "model": f"{trace.model} · {structure.name}" if structure and structure.name else trace.model,
        "facts": " · ".join(heading(trace)[1:]),
        "text": text,
        "row": row,
        "rows": max((len(rows) for rows in trace.tokens.values()), default=1),
        "tokens": {stack: _tokens(trace, stack, shown, row) for stack, shown in maps["tokens"].items()},
        "attention": maps["kinds"] or None,
        "unlinked": maps["unlinked"],
        "structure": _structure(structure, trace, sources) if structure else None,
        "lens": _lens(lens, row) if lens is not None else None,
        "generation": _generation(generation, row) if generation else None,
        "choices": None if generation else _choices(trace, row) or None,
        "story": _story(trace),
        "code": _code(trace, structure, settings or _called(generation), text),
        "sources": sources,
    }
    computed = {
        "attention": attention_maps,
        "structure": structure_of,
        "lens": logit_lens,
        "generation": explain_generation,
        "choices": choices_of,
        "story": Trace,
    }
    data["where"] = {view: _kept(source_of(made), sources) for view, made in computed.items()}
    return data


def _called(generation: GenerationExplanation | None) -> dict[str, Any]:
    """The settings that the call gave, as far as they can be written down."""
    given = [one for one in generation.settings if one.source == "call"] if generation else []
    return {one.name: one.value for one in given if isinstance(one.value, (int, float, str, list))}


def _kept(source: Source | None, sources: dict[str, str]) -> str | None:
    """Where code is; its text is kept beside the others."""
    if source is None:
        return None
    sources[str(source)] = source.text
    return str(source)


def _tokens(trace: Trace, stack: str, shown: list[str], row: int) -> dict[str, Any]:
    """The tokens of a stack as a person reads them, and their ids where these were recorded whole."""
    name = f"{stack}.input_ids"
    ids: list[int] = []
    if name in trace:
        ids = [token for call in trace.calls(name) if row < len(call) for token in call[row].tolist()][-len(shown) :]
    return {"shown": shown, "ids": ids if len(ids) == len(shown) else None}


# The structure


def _structure(structure: Structure, trace: Trace, sources: dict[str, str]) -> dict[str, Any]:
    data = structure.to_dict()
    sources.update(data.pop("sources"))

    def live(part: dict[str, Any]) -> dict[str, Any]:
        name = _gives(part, trace)
        inner = [live(one) for one in part["parts"]]
        return {**part, "parts": inner, "gives": name, "live": _shapes(trace, name) if name else None}

    return {**data, "parts": [live(part) for part in data["parts"]]}


def _gives(part: dict[str, Any], trace: Trace) -> str | None:
    """The recorded tensor that a part gives; of the first of alike layers."""
    name = part["name"]
    path, _, last = name.rpartition(".")
    if last in ("before", "after"):  # a norm of a residual step
        step = path.removesuffix("_residual")
        path, _, kind = step.rpartition(".")
        name = f"{step}.input" if last == "before" else f"{path}.{_GIVES[f'{kind}_residual']}"
    tries = [name, f"{name}.output", f"{path}.{_GIVES.get(last, last)}", f"{name}.bias", f"{name}.cos"]
    tries += _SCORES if "." not in name and part["kind"] == "readout" else ()
    for one in tries:
        pattern = re.compile(re.escape(one).replace(r"\*", r"\d+"))
        if found := next((known for known in trace.names if pattern.fullmatch(known)), None):
            return found
    return None


def _shapes(trace: Trace, name: str) -> str:
    """The shapes of a tensor in all calls, those that follow each other and are alike as one."""
    runs: list[tuple[str, int]] = []
    for call in trace.calls(name):
        shape = str(tuple(call.shape))
        if runs and runs[-1][0] == shape:
            runs[-1] = (shape, runs[-1][1] + 1)
        else:
            runs.append((shape, 1))
    if len(runs) > 3:
        runs = [*runs[:2], (f"… {sum(count for _, count in runs[2:-1])} more …", 1), runs[-1]]
    return ", then ".join(shape if count == 1 else f"{count} × {shape}" for shape, count in runs)


# The story


def _story(trace: Trace) -> list[dict[str, Any]]:
    """The chapters of the call, each with its tensors in the order in which they were computed."""
    told = []
    for chapter in chapters(trace):
        groups = [
            (chapter.title, chapter.before),
            *((f"{chapter.title}, {one.title}", one.before) for one in chapter.layers),
        ]
        groups.append((f"{chapter.title}, after the layers" if chapter.layers else chapter.title, chapter.after))
        told += [{"title": title, "lines": [_line(line, trace) for line in lines]} for title, lines in groups if lines]
    return told


def _line(line: Line, trace: Trace) -> dict[str, Any]:
    return {
        "name": line.name,
        "meaning": line.meaning,
        "shape": _shapes(trace, line.name),
        "look": line.look,
        "code": line.source.text if line.source else None,
        "place": str(line.source) if line.source else None,
    }


# What the scores came to


def _choices(trace: Trace, row: int) -> list[dict[str, Any]]:
    """The likeliest tokens or classes of one text, with the token, call or scores that they belong to."""
    stack = "decoder" if "decoder" in trace.tokens else "encoder"
    read = trace.tokens.get(stack, [[]])[row]
    found = []
    for choice in [choice for choice in trace.choices if choice.row == row][:STEPS]:
        where, labels = choice.name.replace("_", " "), list(choice.labels)
        if choice.position is not None:
            known = readable([*read, *labels])
            labels = known[len(read) :]
            once = len(trace.calls(choice.name)) == 1 and trace[choice.name].shape[1] == len(read)
            where = known[choice.position] if once else f"call {choice.call + 1}"
        found.append({"where": where, "labels": labels, "shares": [_short(share) for share in choice.probabilities]})
    return found


# The logit lens


def _lens(lens: LogitLens, row: int) -> dict[str, Any]:
    """The likeliest tokens after each layer, of the last tokens read for which there is room."""
    length = lens.top_ids.shape[2]
    start = max(0, length - CELLS // len(lens.layers))
    ids, shares = lens.top_ids[row, :, start:].tolist(), lens.top_probabilities[row, :, start:].tolist()
    words = {token: place for place, token in enumerate(lens.names)}
    cells = [
        [[[words[token], _short(share)] for token, share in zip(*pair)] for pair in zip(*layer)]
        for layer in zip(ids, shares)
    ]
    return {
        "layers": list(lens.layers),
        "tokens": readable(lens.read[row])[start:],
        "start": start,
        "count": length,
        "words": readable(lens.names.values()),
        "cells": cells,
    }


def _short(number: float) -> float:
    return float(f"{number:.4g}")


# The generation


def _generation(generation: GenerationExplanation, row: int) -> dict[str, Any]:
    choices = generation.rows[row] if row < len(generation.rows) else []
    settings = [setting for setting in generation.settings if setting.source not in ("default", "not set")]
    return {
        "settings": [{"name": s.name, "value": repr(s.value), "source": s.source} for s in settings],
        "finish": generation.finish_reason[row] if row < len(generation.finish_reason) else None,
        "count": len(choices),
        "steps": [_choice(choice) for choice in choices[:STEPS]],
    }


def _choice(choice: Choice) -> dict[str, Any]:
    """One step: the candidates with their probabilities by the model's scores and after each processor."""
    ids = torch.tensor([candidate.token_id for candidate in choice.candidates])
    after = [stage.scores.float().softmax(-1)[ids.to(stage.scores.device)].tolist() for stage in choice.stages]
    before = choice.logits.float().softmax(-1)[ids.to(choice.logits.device)].tolist()
    return {
        "token": _token(choice.token, choice.token_id),
        "how": choice.how,
        "probability": _short(choice.probability),
        "rank": choice.rank,
        "possible": choice.possible,
        "stages": [
            {
                "name": stage.processor,
                "settings": cut(
                    ", ".join(
                        f"{name}={value!r}" for name, value in stage.parameters.items() if name != "filter_value"
                    ),
                    200,
                ),
                "changed": stage.changed,
                "forbidden": stage.forbidden,
            }
            for stage in choice.stages
        ],
        "candidates": [
            {
                "token": _token(candidate.token, candidate.token_id),
                "chosen": candidate.chosen,
                "logit": _short(candidate.logit),
                "shares": [_short(before[place]), *(_short(stage[place]) for stage in after)],
            }
            for place, candidate in enumerate(choice.candidates)
        ],
    }


def _token(token: str | None, token_id: int) -> str:
    return readable([token])[0] if token is not None else str(token_id)


# The code


def _code(trace: Trace, structure: Structure | None, settings: dict[str, Any], text: str | None) -> dict[str, str]:
    """Lines of Python that make each view, after those of "setup"."""
    folder = structure.name if structure and structure.name else None
    setup = ["import glassformer"]
    if folder:
        setup.append(f"model = glassformer.{trace.model}.from_pretrained({folder!r})")
        setup.append(f"tokenizer = glassformer.AutoTokenizer.from_pretrained({folder!r})")
    else:
        setup.append("model, tokenizer = ...  # as they were")
    setup.append(f"text = {text!r}" if text is not None and len(text) <= 200 else "text = ...  # as it was")
    setup.append('inputs = tokenizer(text, return_tensors="pt")')
    code = {"structure": "print(model.structure())"}
    if settings:
        setup.append(f"settings = {settings!r}")
        code["generation"] = (
            "why = model.explain_generation(\n    **inputs, **settings, tokenizer=tokenizer)\nprint(why)"
        )
    if any(len(calls) > 1 for calls in trace.records.values()):
        generate = f"ids = model.generate(**inputs{', **settings' if settings else ''})"
        read = '{**inputs, "decoder_input_ids": ids}' if "encoder" in trace.tokens else '{"input_ids": ids}'
        code["trace"] = f"with model.trace() as t:\n    {generate}"
        code["lens"] = f"{generate}\nread = {read}\nprint(glassformer.logit_lens(model, read))"
    else:
        code["trace"] = "t = glassformer.trace(model, text)"
        code["lens"] = "print(glassformer.logit_lens(model, text))"
    return {
        **code,
        "setup": "\n".join(setup),
        "story": f"{code['trace']}\nprint(t.story(fold=False))",
        "choices": f"{code['trace']}\nprint(t.choices)",
    }
