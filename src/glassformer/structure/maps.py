"""Attention maps: which are wanted, and how they are computed beside the fast kernel, which never forms them.

Only what was asked for is computed and kept: a layer, some of its heads, some of its queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

# So many queries are scored at a time, so that the scores stay in the processor's cache and only the maps in memory.
ROWS = 64

Pick = int | slice | Sequence[int] | None


@dataclass(frozen=True)
class Maps:
    """Which attention maps of a layer are wanted.

    Attributes:
        heads: a head, several, a slice, or None for all.
        queries: a query, several, a slice, or None for all; -1 is the newest token.

    Example:
        >>> model(**inputs, output_attentions={3: Maps(heads=[0, 5], queries=-1)}).attentions[3].shape
        torch.Size([1, 2, 1, 9])
    """

    heads: Pick = None
    queries: Pick = None


ALL = Maps()
Wanted = Maps | int | slice | Sequence[int] | None
Request = bool | int | Iterable[int] | Mapping[int, Wanted] | None


def requested(request: Request, count: int) -> set[int]:
    """The indices below `count` that `output_attentions` or `output_hidden_states` asks for.

    Args:
        request: True for all, False or None for none, or the indices wanted (from the end if negative).
        count: how many there are.

    Returns:
        The indices from the start; those out of range select nothing, as an encoder and a decoder differ in depth.
    """
    if request is None or isinstance(request, bool):
        return set(range(count)) if request else set()
    indices = [request] if isinstance(request, int) else list(request)
    return {index % count for index in indices if -count <= index < count}


def requested_maps(request: Request, layers: int) -> dict[int, Maps]:
    """The maps that `output_attentions` asks for, by layer.

    Args:
        request: as in `requested`, or from layers to their heads or `Maps`.
        layers: how many there are.
    """
    if not isinstance(request, Mapping):
        return dict.fromkeys(requested(request, layers), ALL)
    wanted = {layer: maps if isinstance(maps, Maps) else Maps(maps) for layer, maps in request.items()}
    return {layer % layers: maps for layer, maps in wanted.items() if -layers <= layer < layers}


def picked(pick: Pick, count: int, name: str) -> list[int]:
    """The indices below `count` that a pick selects.

    Raises:
        InputError: if there is no such one, naming it.
    """
    if pick is None:
        return list(range(count))
    if isinstance(pick, slice):
        return list(range(count))[pick]
    indices = [pick] if isinstance(pick, int) else list(pick)
    for index in indices:
        if not -count <= index < count:
            raise InputError(f"There is no {name} {index} among {count}; count from 0, or from -1 at the end.")
    return [index % count for index in indices]


def attention_maps(
    query: Tensor, key: Tensor, bias: Tensor | None, causal: bool, scale: float, maps: Maps = ALL, softmax: bool = True
) -> Tensor:
    """`softmax(q kᵀ · scale + bias)`, the weights of queries over keys.

    A query that may look at nothing has equal weights, so that no row is NaN.

    Args:
        query: (B, H, T, head_dim).
        key: (B, kv_heads, S, head_dim), each shared by H / kv_heads heads.
        bias: (B or 1, H or 1, T, S), or None.
        causal: whether queries may not look to their right; only where T is S.
        scale: of the scores.
        maps: which are wanted.
        softmax: whether the weights are wanted, or the scores before the softmax, in fp32.

    Returns:
        (B, heads, queries, S), those that were picked, in the order in which they were picked.
    """
    length, keys = query.shape[2], key.shape[2]
    if maps.heads is not None:
        heads = picked(maps.heads, query.shape[1], "attention head")
        group = query.shape[1] // key.shape[1]
        query, key = query[:, heads], key[:, [head // group for head in heads]]
        bias = bias[:, heads] if bias is not None and bias.shape[1] > 1 else bias
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).transpose(-1, -2)
    places = torch.arange(length, device=query.device)
    if maps.queries is not None:
        places = places[picked(maps.queries, length, "query")]
        query = query[:, :, places]
        bias = bias[:, :, places] if bias is not None else None
    lowest = torch.finfo(torch.float32).min

    def rows(start: int, end: int) -> Tensor:
        """The maps of the queries from `start` to `end`."""
        scores = (query[:, :, start:end] @ key).float().mul_(scale)
        if causal:
            right = torch.arange(keys, device=places.device) > places[start:end, None]
            scores = scores.masked_fill_(right, lowest)
        if bias is not None:
            scores = scores.add_(bias[:, :, start:end].float().clamp(min=lowest))
        return scores.softmax(-1).to(query.dtype) if softmax else scores

    if len(places) <= ROWS:
        return rows(0, len(places))
    result = query.new_empty(*query.shape[:3], keys, dtype=query.dtype if softmax else torch.float32)
    for start in range(0, len(places), ROWS):
        result[:, :, start : start + ROWS] = rows(start, start + ROWS)
    return result


def selected(weights: Tensor, maps: Maps) -> Tensor:
    """The maps that are wanted of all weights, (B, H, T, S) to (B, heads, queries, S)."""
    heads = picked(maps.heads, weights.shape[1], "attention head")
    return weights[:, heads][:, :, picked(maps.queries, weights.shape[2], "query")]
