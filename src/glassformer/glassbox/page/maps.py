"""Attention maps for the page: the text's whole maps, sampled down to what a file may hold, a byte a cell."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..tokens import readable
from ..trace.trace import Trace

BYTES = 2_400_000  # of all maps together; a third more as text
MOST = 400  # maps on a page
_NAME = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(attention|cross_attention)\.weights")
_TITLES = {
    ("encoder", "attention"): "Encoder: the text over itself",
    ("decoder", "attention"): "Decoder: each token over those before it",
    ("decoder", "cross_attention"): "Cross-attention: the decoder over the encoder’s text",
}


def attention(
    trace: Trace, row: int, only_layers: Iterable[int] | None, only_heads: Iterable[int] | None
) -> dict[str, Any]:
    """The maps of a trace, and the tokens that they are of.

    Args:
        trace: of a call, or of the calls of one `generate`.
        row: of the batch.
        only_layers: those that are shown; None for as many as there is room for.
        only_heads: the same.

    Returns:
        "tokens" by stack, as a person reads them; and "kinds", one a stack and kind of attention: "maps" has for each
        layer the maps of its heads end to end, a byte a cell, the square root of the weight; "block" says how many
        tokens a cell stands for on either side, "rows" and "columns" how many cells there are.
        "unlinked" counts the layers whose maps are not of all tokens, where there are no others.
    """
    layers, heads = (None if wanted is None else set(wanted) for wanted in (only_layers, only_heads))
    tokens = {stack: readable(rows[row]) for stack, rows in trace.tokens.items() if row < len(rows)}
    named: dict[tuple[str, str], dict[int, str]] = {}
    for name in trace.names:
        if found := _NAME.fullmatch(name):
            named.setdefault((found[1], found[3]), {})[int(found[2])] = name
    there = sum(len(names) * trace[next(iter(names.values()))].shape[1] for names in named.values())
    kinds = [
        _kind(kind, names, trace, row, layers, heads, tokens, (MOST / max(there, 1)) ** 0.5)
        for kind, names in named.items()
    ]
    chosen = [kind for kind in kinds if kind is not None and kind["heads"]]
    if named and not chosen and (layers is not None or heads is not None):
        raise InputError(
            "layers= and heads= select no attention map that was recorded of the whole text: choose others."
        )
    cells = BYTES // max(1, sum(len(kind["layers"]) * len(kind["heads"]) for kind in chosen))
    unlinked = 0 if chosen else sum(map(len, named.values()))
    return {"tokens": tokens, "unlinked": unlinked, "kinds": [_packed(kind, cells) for kind in chosen]}


def together(trace: Trace, name: str) -> Tensor | None:
    """The maps (B, H, T, S) of a whole text: those of the steps of a cached `generate` end to end, or the last call's.

    None where the calls are of texts of different rows.
    """
    calls = trace.calls(name)
    if len({call.shape[0] for call in calls}) > 1:
        return None
    if ".cross_attention." in name:
        return trace.stitched(name)
    read = 0
    for call in calls:
        read += call.shape[2]
        if call.shape[3] < read:  # each call reads everything again
            return calls[-1]
    return trace.stitched(name)[..., :read]  # a cache of fixed size has more keys than tokens


def _kind(
    kind: tuple[str, str],
    names: dict[int, str],
    trace: Trace,
    row: int,
    layers: set[int] | None,
    heads: set[int] | None,
    tokens: dict[str, list[str]],
    share: float,
) -> dict[str, Any] | None:
    """One kind of attention with the maps (heads, T, S) that are shown, or None if there is no such one."""
    stack, place = kind
    queries, keys = stack, "encoder" if place == "cross_attention" else stack
    shape = (len(tokens.get(queries, ())), len(tokens.get(keys, ())))
    shown = _spread(sorted(names), layers, share)
    whole = {layer: maps[row] for layer in shown if (maps := together(trace, names[layer])) is not None}
    # What was recorded of chosen queries, or of an encoder that was not run here, has no tokens to be linked to.
    fitting = {layer: maps for layer, maps in whole.items() if maps.shape[1:] == shape}
    if not fitting:
        return None
    count = next(iter(fitting.values())).shape[0]
    chosen = _spread(list(range(count)), heads, share)
    return {
        "title": _TITLES[kind],
        "queries": queries,
        "keys": keys,
        "name": f"{stack}.layers.{{}}.{place}.weights",
        "layers": list(fitting),
        "all_layers": len(names),
        "heads": chosen,
        "all_heads": count,
        "steps": len(trace.calls(names[shown[0]])),
        "maps": [maps[chosen].float() for maps in fitting.values()],
    }


def _packed(kind: dict[str, Any], cells: int) -> dict[str, Any]:
    """The same, of at most so many cells a map, each a byte."""
    block, (queries, keys) = 1, kind["maps"][0].shape[1:]
    while -(-queries // block) * -(-keys // block) > cells:
        block += 1
    pooled = [pool(maps, block) for maps in kind["maps"]]
    packed = [base64.b64encode(quantised(maps).cpu().numpy().tobytes()).decode("ascii") for maps in pooled]
    return {**kind, "block": block, "rows": pooled[0].shape[1], "columns": pooled[0].shape[2], "maps": packed}


def _spread(there: list[int], wanted: set[int] | None, share: float) -> list[int]:
    """Those that are wanted; or evenly as many as there is room for."""
    if wanted is not None:
        return [one for one in there if one in wanted or one - there[-1] - 1 in wanted]
    count = max(1, round(len(there) * min(share, 1.0)))
    return [there[place * len(there) // count] for place in range(count)]


def pool(maps: Tensor, block: int) -> Tensor:
    """Maps (H, T, S) of blocks of tokens, (H, ⌈T/block⌉, ⌈S/block⌉): the mean of the queries, the sum over the keys.

    A row is the attention that a block's tokens give on average, and still sums to 1.
    """
    if block == 1:
        return maps
    queries, keys = maps.shape[1:]
    maps = nn.functional.pad(maps, (0, -keys % block, 0, -queries % block))
    rows, columns = maps.shape[1] // block, maps.shape[2] // block
    maps = maps.reshape(len(maps), rows, block, columns, block).sum((2, 4))
    sizes = torch.full((maps.shape[1],), float(block), device=maps.device)
    sizes[-1] = queries - block * (maps.shape[1] - 1)
    return maps / sizes[:, None]


def quantised(maps: Tensor) -> Tensor:
    """A byte for a weight: its square root, so that small weights keep two digits; none is off by more than 0.004."""
    return (maps.clamp(0, 1).sqrt() * 255).round().to(torch.uint8).contiguous()
