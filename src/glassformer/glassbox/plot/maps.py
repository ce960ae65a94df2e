"""Pictures of attention: a head, many heads, and a text as it was generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..tokens import readable
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, np.dtype[np.float64]]
_UNIT = "attention weight"
_HINT = "give out.attentions, or one layer's weights, (batch, heads, queries, keys) or without a batch or heads"


def attention(
    weights: Any,
    tokens: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    head: int | None = None,
    row: int = 0,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Where each token looks: a heatmap with a row for each query and a column for each key; a row adds up to 1.

    Args:
        weights: `out.attentions`, `out.cross_attentions` and the like, (B, H, T, S) a layer, or (H, T, S) as in
            `list(out.stitched("attentions", row=0))`; or one layer's weights, (B, H, T, S), (H, T, S) or (T, S).
        tokens: of the queries, T; positions are numbered if not given.
        keys: of the keys, S; `tokens` if not given and there are as many.
        layer: of a tuple of layers; the last that is there if not given.
        head: the head, counted among those that are there; the mean of all if not given.
        row: of the batch.
        vmax: the weight with the darkest colour; the greatest if not given. Lower it to see small ones.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes; the weights themselves are in `ax.images[-1]`.

    Raises:
        InputError: the shapes do not fit, or there is no such layer, head or row.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> out = model(**inputs, output_attentions=True)
        >>> plot.attention(out.attentions, tokenizer.convert_ids_to_tokens(inputs.input_ids[0]), layer=1, head=3)
    """
    names = []
    if _is_layers(weights):
        layer, weights = _layer(weights, layer)
        names.append(f"layer {layer}")
    elif layer is not None:
        raise InputError(f"layer={layer} is given, but the weights are of one layer: give out.attentions, or no layer.")
    heads = _heads(weights, row)
    if heads is None:
        if head is not None:
            raise InputError(f"head={head} is given, but the weights are of one head: give those of all, or no head.")
        shown = canvas.array(weights, "weights")
    else:
        names.append(_head_name(len(heads), head))
        shown = heads.mean(0) if head is None else heads[canvas.chosen(head, len(heads), "head")]
    return _draw(shown, *_labels(shown.shape, tokens, keys), ", ".join(names), vmax, ax)


def heads(
    weights: Any,
    tokens: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    row: int = 0,
    vmax: float | None = None,
    axes: Any = None,
) -> Any:
    """All heads at once, a small heatmap each, in the same colours: of one layer, or of all with a line for each.

    Args:
        weights: as in `attention`, with heads.
        tokens: of the queries, T; without them nothing is written at the sides.
        keys: of the keys, S; `tokens` if not given and there are as many.
        layer: of a tuple of layers; all if not given.
        row: of the batch.
        vmax: the weight with the darkest colour; the greatest of all heads if not given.
        axes: an array of axes to draw on, (lines, heads); a new figure if not given.

    Returns:
        An array of axes, (layers, heads); (1, heads) for one layer.

    Raises:
        InputError: the shapes do not fit, or there is no such layer or row.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> plot.heads(model(**inputs, output_attentions=True).attentions)
    """
    if _is_layers(weights):
        there = [place for place, one in enumerate(weights) if one is not None]
        lines = there if layer is None else [canvas.chosen(layer, len(weights), "layer")]
        titles, chosen = [f"layer {line}" for line in lines], [_layer(weights, line)[1] for line in lines]
    elif layer is not None:
        raise InputError(f"layer={layer} is given, but the weights are of one layer: give out.attentions, or no layer.")
    else:
        titles, chosen = [""], [weights]
    grid = [_heads(one, row) for one in chosen]
    if not grid or any(one is None for one in grid):
        raise InputError(f"There are no heads to draw beside each other: {_HINT}.")
    maps: list[Array] = [one for one in grid if one is not None]
    columns = max(len(one) for one in maps)
    if axes is None:
        queries, seen = maps[0].shape[1:]
        size = min(max(1.9, 0 if tokens is None else 0.16 * seen), 16 / columns)
        height = size * min(max(queries / seen, 0.4), 2.5)
        figsize = (columns * size + 1.6, len(maps) * height + 0.9)
        _, axes = canvas.pyplot().subplots(len(maps), columns, figsize=figsize, squeeze=False, layout="constrained")
    axes = np.asarray(axes, dtype=object)
    if axes.size != len(maps) * columns:
        raise InputError(f"{axes.size} axes are given for {len(maps)} × {columns} heads; give one a head.")
    axes = axes.reshape(len(maps), columns)
    highest = max(float(np.nanmax(one, initial=0.0)) for one in maps)
    for line, (title, one) in enumerate(zip(titles, maps)):
        axes[line, 0].set_ylabel(title, fontsize=9)
        for column, ax in enumerate(axes[line]):
            if column >= len(one):
                ax.set_axis_off()
                continue
            image = canvas.heatmap(ax, one[column], highest=highest if vmax is None else vmax)
            ax.set(xticks=[], yticks=[])
            if line == 0:
                ax.set_title(f"head {column}", fontsize=9)
    canvas.bar(image, axes, _UNIT, beyond=vmax is not None and vmax < highest)
    for line, one in enumerate(maps if tokens is not None else []):
        written, read = _labels(one.shape[1:], tokens, keys)
        canvas.label(axes[line, 0].yaxis, written, canvas.inches(axes[line, 0], False))
        for ax in axes[line, : len(one)] if line == len(maps) - 1 else []:
            canvas.label(ax.xaxis, read, canvas.inches(ax, True))
    return axes


def attention_over_generation(
    output: Any,
    tokenizer: Any,
    *,
    layer: int | None = None,
    head: int | None = None,
    row: int = 0,
    source: Any = None,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Where the model looked when it chose each token: a row for each new token, a column for each it could see.

    The row of a token is that of the query which chose it: the token before it, read last. Padding at the left is left
    out, and so is what comes after a text's end.

    Args:
        output: of `generate(..., return_dict_in_generate=True, output_attentions=True)`.
        tokenizer: for the labels.
        layer: of the decoder; the last that is there if not given.
        head: the head; the mean of all if not given.
        row: of `output.sequences`.
        source: the encoder's input ids, (B, S) or (S,): the picture is then of the cross-attention over them.
        vmax: the weight with the darkest colour; the greatest if not given.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes.

    Raises:
        InputError: there is no such layer, head or row, or the output is no whole text with its attentions.
        GenerationError: the output holds no attentions.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> out = model.generate(**inputs, return_dict_in_generate=True, output_attentions=True)
        >>> plot.attention_over_generation(out, tokenizer, layer=2, head=1)
    """
    if not hasattr(output, "stitched"):
        raise InputError(
            f"output is a {type(output).__name__}; give what generate(return_dict_in_generate=True, "
            "output_attentions=True) returns."
        )
    own = "attentions" if "attentions" in output else "decoder_attentions"
    layers = output.stitched("cross_attentions" if source is not None else own)
    place, weights = _layer(layers, layer)
    row = canvas.chosen(row, len(weights), "row")
    maps = canvas.array(weights[row], "output")
    shown = maps.mean(0) if head is None else maps[canvas.chosen(head, len(maps), "head")]
    ids = output.sequences[row].tolist()
    first = len(ids) - len(output[own])  # of the new tokens
    if first < 0 or (source is None and shown.shape[-1] != len(ids) - 1):
        raise InputError(
            f"The attentions are of {shown.shape[-1]} tokens and the sequence is of {len(ids)}: give the output of a "
            "call that was given input_ids and read a token a step."
        )
    end = _end(ids, first, tokenizer, output.finish_reason[row] if output.finish_reason else None)
    rows = slice(maps.shape[1] - (len(ids) - first), maps.shape[1] - (len(ids) - end))
    start = 0
    if source is not None:
        seen = _source(source, row, len(weights), shown.shape[1])
    else:
        unseen = (maps[:, rows, :first] == 0).all(axis=(0, 1))
        while start < first and unseen[start] and ids[start] == tokenizer.pad_token_id:
            start += 1
        seen = ids[start : end - 1]
    # Read together, since it is seen by the whole text how a vocabulary writes its tokens.
    labels = readable(tokenizer.convert_ids_to_tokens([*ids[first:end], *seen]))
    shown = shown[rows, start : start + len(seen)]
    title = f"layer {place}, {_head_name(len(maps), head)}"
    ax = _draw(shown, labels[: end - first], labels[end - first :], title, vmax, ax)
    ax.set_ylabel("token chosen")
    ax.set_xlabel("token of the source" if source is not None else "token read")
    if source is None and 0 < first - start < len(seen):
        ax.axvline(first - start - 0.5, color=canvas.ACCENT, linewidth=1, linestyle="--")
        ax.set_xlabel("token read; after the line, those generated")
    return ax


def _is_layers(weights: Any) -> bool:
    return isinstance(weights, (tuple, list)) and all(one is None or hasattr(one, "shape") for one in weights)


def _layer(weights: Sequence[Any], layer: int | None) -> tuple[int, Any]:
    """One layer's weights and its number."""
    there = [place for place, one in enumerate(weights) if one is not None]
    if not there:
        raise InputError("No layer's weights are in the tuple: call the model with output_attentions=True.")
    layer = there[-1] if layer is None else canvas.chosen(layer, len(weights), "layer")
    if weights[layer] is None:
        raise InputError(f"The weights of layer {layer} were not asked for, only of {there}: choose one of these.")
    return layer, weights[layer]


def _heads(weights: Any, row: int) -> Array | None:
    """The maps of all heads, (H, T, S), of one row; None if the weights are of one map only."""
    shape = tuple(getattr(weights, "shape", np.shape(weights)))
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise InputError(f"The weights have shape {shape}: {_HINT}.")
    if len(shape) == 4:
        weights = weights[canvas.chosen(row, shape[0], "row")]
    return None if len(shape) == 2 else canvas.array(weights, "weights")


def _head_name(count: int, head: int | None) -> str:
    return f"mean of {count} heads" if head is None else f"head {canvas.chosen(head, count, 'head')}"


def _labels(shape: tuple[int, ...], tokens: Any, keys: Any) -> tuple[list[str], list[str]]:
    if keys is None:
        if tokens is not None and shape[0] != shape[1]:
            raise InputError(f"The weights are of {shape[0]} queries over {shape[1]} keys: give the keys' tokens too.")
        keys = tokens
    return canvas.labels_of(tokens, shape[0]), canvas.labels_of(keys, shape[1], "keys")


def _draw(shown: Array, queries: list[str], seen: list[str], title: str, vmax: float | None, ax: Axes | None) -> Axes:
    ax = canvas.axes_of(ax, canvas.side(len(seen)) + 2, canvas.side(len(queries)) + 1.2)
    greatest = float(np.nanmax(shown, initial=0.0))
    image = canvas.heatmap(ax, shown, highest=vmax)
    canvas.bar(image, ax, _UNIT, beyond=vmax is not None and vmax < greatest)
    canvas.label(ax.yaxis, queries, canvas.inches(ax, False))
    canvas.label(ax.xaxis, seen, canvas.inches(ax, True))
    ax.set(xlabel="key: token looked at", ylabel="query: token that looks", title=title)
    return ax


def _end(ids: list[int], first: int, tokenizer: Any, reason: str | None) -> int:
    """Where a text ends: after its end token, or before the padding that follows it."""
    end = len(ids)
    pad, eos = getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)
    if reason in (None, "eos") and eos is not None and eos in ids[first:]:
        return ids.index(eos, first) + 1
    while pad is not None and end > first + 1 and ids[end - 1] == pad:
        end -= 1
    return end


def _source(source: Any, row: int, rows: int, keys: int) -> list[int]:
    """The encoder's ids of a row of the output, of which there may be several a text."""
    ids: Any = source.tolist() if hasattr(source, "tolist") else source
    if not isinstance(ids, list) or not ids:
        raise InputError(f"source is a {type(source).__name__}; give the encoder's input_ids.")
    if isinstance(ids[0], list):
        ids = ids[row // max(1, rows // len(ids))]
    if len(ids) != keys:
        raise InputError(f"source has {len(ids)} tokens, but the encoder read {keys}: give its input_ids.")
    found: list[int] = ids
    return found
