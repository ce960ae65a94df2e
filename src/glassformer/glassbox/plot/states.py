"""Pictures of hidden states: how alike they are, and what they would say if they were the last."""

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


def similarity(
    states: Any,
    tokens: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    token: int | None = None,
    row: int = 0,
    vmin: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How alike the states of tokens are: the cosine of each pair, 1 for the same direction and 0 for a right angle.

    Args:
        states: `out.hidden_states`, (B, T, D) a layer, the embedding first; or one layer's, (B, T, D) or (T, D).
        tokens: T; positions are numbered if not given.
        layer: of a tuple of layers, 0 for the embedding; the last if not given.
        token: a position: its states in all layers are then compared with each other.
        row: of the batch.
        vmin: the cosine with the lightest colour; the least that is there if not given.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes; the cosines themselves are in `ax.images[-1]`.

    Raises:
        InputError: the shapes do not fit, or there is no such layer, token or row.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> out = model(**inputs, output_hidden_states=True)
        >>> plot.similarity(out.hidden_states, tokenizer.convert_ids_to_tokens(inputs.input_ids[0]), layer=2)
        >>> plot.similarity(out.hidden_states, token=3)  # how far a token's state moves from layer to layer
    """
    layers = list(states) if isinstance(states, (tuple, list)) else None
    if layers is None and (layer is not None or token is not None):
        raise InputError("The states are of one layer: give out.hidden_states, or neither layer nor token.")
    there = [place for place, one in enumerate(layers or ()) if one is not None]
    if layers is not None and not there:
        raise InputError("No layer's states are in the tuple: call the model with output_hidden_states=True.")
    if layers is not None and token is not None:
        if layer is not None:
            raise InputError("Give layer to compare the tokens of a layer, or token to compare its layers, not both.")
        found = [_states(layers[place], row) for place in there]
        token = canvas.chosen(token, len(found[0]), "token")
        vectors, labels, side = np.stack([one[token] for one in found]), [str(place) for place in there], "layer"
        name = f" “{canvas.labels_of(tokens, len(found[0]))[token]}”" if tokens is not None else ""
        title = f"token {token}{name}"
    else:
        title, side = "", "token"
        if layers is not None:
            layer = there[-1] if layer is None else canvas.chosen(layer, len(layers), "layer")
            if layers[layer] is None:
                raise InputError(f"The states of layer {layer} were not asked for, only of {there}: choose one.")
            states, title = layers[layer], f"layer {layer}" if layer else "embedding"
        vectors = _states(states, row)
        labels = canvas.labels_of(tokens, len(vectors))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths == 0, np.nan, lengths)
    cosines = directions @ directions.T
    size = canvas.side(len(labels))
    ax = canvas.axes_of(ax, size + 2, size + 1.1)
    least = float(np.nanmin(cosines, initial=1.0)) if vmin is None else vmin
    image = canvas.heatmap(ax, cosines, lowest=min(least, 0.999), highest=1.0)
    canvas.bar(image, ax, "cosine of the states")
    canvas.label(ax.yaxis, labels, canvas.inches(ax, False))
    canvas.label(ax.xaxis, labels, canvas.inches(ax, True))
    ax.set(xlabel=side, ylabel=side)
    ax.set_title(canvas.drawable(title, 60), **canvas.plain())
    return ax


def logit_lens(
    lens: Any,
    tokens: Sequence[str] | None = None,
    *,
    row: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """What each layer would say next: the likeliest token of every state, as dark as it is likely.

    Args:
        lens: with `.probabilities`, (layers, T), the embedding first, of the likeliest tokens, and `.tokens`, as many
            strings; or these two as a pair. A batch, (B, layers, T), is taken too.
        tokens: those that were read, T; positions are numbered if not given.
        row: of a batch.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes; the probabilities themselves are in `ax.images[-1]`, the tokens in `ax.texts` where there is room.

    Raises:
        InputError: the shapes do not fit.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> plot.logit_lens(logit_lens(model, inputs), tokenizer.convert_ids_to_tokens(inputs.input_ids[0]))
    """
    pair = (
        lens
        if isinstance(lens, (tuple, list))
        else (getattr(lens, "probabilities", None), getattr(lens, "tokens", None))
    )
    if len(pair) != 2 or any(one is None for one in pair):
        raise InputError(f"lens is a {type(lens).__name__}; give what logit_lens returns, or (probabilities, tokens).")
    probabilities, top = canvas.array(pair[0], "lens"), pair[1]
    if probabilities.ndim == 3:
        row = canvas.chosen(row, len(probabilities), "row")
        probabilities, top = probabilities[row], top[row]
    cells = [readable(line) for line in top]
    if probabilities.ndim != 2 or [len(line) for line in cells] != [probabilities.shape[1]] * len(probabilities):
        raise InputError(
            f"The probabilities have shape {probabilities.shape}, and the tokens {len(cells)} lines of "
            f"{sorted({len(line) for line in cells})}: give (layers, positions) of both."
        )
    layers, length = probabilities.shape
    ax = canvas.axes_of(ax, min(max(length * 0.72, 3), 16) + 1.6, canvas.side(layers, 0.34) + 1.1)
    image = canvas.heatmap(ax, probabilities, highest=1.0)
    ax.invert_yaxis()
    canvas.bar(image, ax, "probability")
    width, height = canvas.inches(ax, True), canvas.inches(ax, False)
    canvas.label(ax.xaxis, canvas.labels_of(tokens, length), width)
    canvas.label(ax.yaxis, ["embedding", *map(str, range(layers - 1))], height)
    canvas.write(ax, image, cells, width / length, height / layers)
    ax.set(xlabel="token read", ylabel="layer", title="likeliest next token after each layer")
    return ax


def _states(states: Any, row: int) -> Array:
    """The states (T, D) of one row."""
    shape = tuple(getattr(states, "shape", np.shape(states)))
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"The states have shape {shape}: give out.hidden_states, (batch, tokens, D) or (tokens, D).")
    return canvas.array(states[canvas.chosen(row, shape[0], "row")] if len(shape) == 3 else states, "states")
