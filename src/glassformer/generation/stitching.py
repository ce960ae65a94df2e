"""From a piece a step to one tensor a layer: the attentions and hidden states of a whole generated text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from glassformer.errors import GenerationError

_NAMES = ("attentions", "decoder_attentions", "cross_attentions", "hidden_states", "decoder_hidden_states")


def stitch(output: Mapping[str, Any], name: str, row: int | None = None) -> list[Tensor | None] | Tensor:
    """As `GenerateOutput.stitched`, of an output of `generate`."""
    if name not in _NAMES or name not in output:
        there = [known for known in _NAMES if known in output]
        asked = "output_attentions=True or output_hidden_states=True, and return_dict_in_generate=True"
        raise GenerationError(
            f"There is no {name!r} to stitch: choose one of {', '.join(there)}."
            if there
            else f"There is no {name!r} to stitch: call generate() with {asked}."
        )
    steps = output[name]
    rows = output.get("beam_indices")
    layers = [_layer([step[index] for step in steps], rows, name) for index in range(len(steps[0]))]
    return layers if row is None else torch.stack([layer[row] for layer in layers if layer is not None])


def _layer(steps: list[Tensor], rows: Tensor | None, name: str) -> Tensor | None:
    if steps[0] is None:
        return None  # a layer that was not asked for
    queries = 1 if name.endswith("hidden_states") else 2  # the dimension of what was read
    # What was read before is read again in every step without a cache: only the newest is new.
    pieces = [steps[0], *(step.narrow(queries, step.shape[queries] - 1, 1) for step in steps[1:])]
    if rows is not None:
        pieces = [_of_beams(piece, rows[:, min(at, rows.shape[1] - 1)]) for at, piece in enumerate(pieces)]
    if name.endswith("hidden_states") or name == "cross_attentions":
        return torch.cat(pieces, dim=queries)
    first = pieces[0].shape[3]
    most = first + len(pieces) - 1
    whole = []
    for at, piece in enumerate(pieces):
        forgotten = first + at - piece.shape[3]  # keys that lie before a sliding window
        whole.append(pad(piece, (forgotten, most - first - at)))
    return torch.cat(whole, dim=2)


def _of_beams(piece: Tensor, rows: Tensor) -> Tensor:
    """The rows of a step that sequences came from, (R,), negative where a sequence has ended."""
    piece = piece[rows.clamp(min=0)]
    return piece.masked_fill(rows.lt(0).reshape(-1, *[1] * (piece.dim() - 1)), 0.0)
