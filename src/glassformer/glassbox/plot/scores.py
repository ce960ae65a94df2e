"""Pictures of what a model predicts: the next token's probabilities, and what each token of a text cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import InputError
from ..tokens import NEWLINE, readable
from . import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def next_tokens(
    logits: Any,
    tokenizer: Any,
    k: int = 10,
    *,
    temperature: float = 1.0,
    row: int = 0,
    position: int = -1,
    ax: Axes | None = None,
) -> Axes:
    """The likeliest next tokens: a bar each, with softmax(logits / temperature) as its length.

    Args:
        logits: `out.logits`, (B, T, V); or (B, V), as one of `output.scores` of `generate`; or (V,).
        tokenizer: for the tokens of ids.
        k: how many to show.
        temperature: above 0.
        row: of the batch.
        position: of (B, T, V), the token that is read last; the last of all if not given.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes; a bar's length is a probability from 0 to 1.

    Raises:
        InputError: the logits are of another shape or no finite one is there, or k or temperature is no such number.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> plot.next_tokens(model(**inputs).logits, tokenizer, k=5)
    """
    shape = tuple(getattr(logits, "shape", np.shape(logits)))
    if len(shape) not in (1, 2, 3) or 0 in shape:
        raise InputError(f"The logits have shape {shape}: give (batch, tokens, V), (batch, V) or (V,).")
    if not temperature > 0:
        raise InputError(f"temperature is {temperature!r}; give a number above 0.")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is {k!r}; give how many tokens to show, at least 1.")
    if len(shape) > 1:
        logits = logits[canvas.chosen(row, shape[0], "row")]
    if len(shape) == 3:
        logits = logits[canvas.chosen(position, shape[1], "position")]
    scores = torch.from_numpy(canvas.array(logits, "logits"))
    probabilities = (scores / temperature).softmax(-1)
    if probabilities.isnan().any():
        raise InputError("The logits have no softmax, since some are NaN or all are infinite: look at what made them.")
    best = probabilities.topk(min(k, len(scores)))
    lengths = best.values.tolist()
    names = readable(tokenizer.convert_ids_to_tokens(best.indices.tolist()))
    ax = canvas.axes_of(ax, 4.6, 0.24 * len(names) + 1.0)
    from matplotlib.ticker import PercentFormatter

    ax.barh(range(len(names)), lengths, color=canvas.INK, height=0.72)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, max(lengths) * 1.16)
    canvas.label(ax.yaxis, names, canvas.inches(ax, False))
    for place, length in enumerate(lengths):
        ax.annotate(
            f"{length:.1%}" if length >= 0.001 else f"{length:.1e}",
            *((length, place), (3, 0)),
            textcoords="offset points",
            va="center",
            fontsize=canvas.FONT,
        )
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    heat = "" if temperature == 1 else f" at temperature {temperature:g}"
    ax.set(xlabel="probability" + heat)
    ax.set_title(f"{len(names)} of {len(scores)} tokens, together {sum(lengths):.1%}", fontsize=9)
    canvas.open_frame(ax)
    return ax


def token_losses(
    losses: Any,
    tokens: Sequence[str],
    *,
    text: bool | None = None,
    vmax: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What each token cost: a bar each, or the text itself, each token as dark as its loss is great.

    Args:
        losses: (T,), in nats, -log p of each token; NaN where there is none; or (T - 1,) where the first has none.
        tokens: T.
        text: whether to draw the text; if not given, where there are more than 40 tokens.
        vmax: the loss with the darkest colour; the greatest if not given.
        ax: where to draw; a new figure if not given.

    Returns:
        The axes; for a text the losses are in `ax.collections[0].get_array()`.

    Raises:
        InputError: there are not as many losses as tokens, or none.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> losses = -model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        >>> plot.token_losses(losses, tokenizer.convert_ids_to_tokens(ids[0]))
    """
    found = canvas.array(losses, "losses")
    if found.ndim != 1 or found.size == 0:
        raise InputError(f"The losses have shape {found.shape}: give one number a token, of one text.")
    if len(found) == len(tokens) - 1:
        found = np.concatenate([[np.nan], found])
    labels = canvas.labels_of(tokens, len(found))
    known = found[np.isfinite(found)]
    mean = f"mean {known.mean():.2f} nats, perplexity {np.exp(known.mean()):.3g}" if known.size else "no losses"
    highest = vmax if vmax is not None else float(known.max(initial=1e-9))
    beyond = vmax is not None and bool((known > vmax).any())
    draw = _text if (len(found) > 40 if text is None else text) else _bars
    ax = draw(found, labels, highest, beyond, ax)
    ax.set_title(mean, fontsize=9)
    return ax


def _bars(losses: Any, labels: list[str], highest: float, beyond: bool, ax: Axes | None) -> Axes:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ax = canvas.axes_of(ax, canvas.side(len(labels)) + 2, 2.8)
    colours = ScalarMappable(Normalize(0, highest), colormaps[canvas.MAP])
    ax.bar(range(len(labels)), losses, color=colours.to_rgba(losses), edgecolor="#777777", linewidth=0.5)
    known = losses[np.isfinite(losses)]
    if known.size:
        ax.axhline(known.mean(), color=canvas.ACCENT, linewidth=1, linestyle="--")
    ax.set_xlim(-0.6, len(labels) - 0.4)
    canvas.label(ax.xaxis, labels, canvas.inches(ax, True))
    ax.set(xlabel="token", ylabel="loss (nats)")
    canvas.open_frame(ax)
    return ax


def _text(losses: Any, labels: list[str], highest: float, beyond: bool, ax: Axes | None) -> Axes:
    """Tokens one after another in lines, in a grid of equally wide characters."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    letter, line = 0.6 * canvas.FONT / 72, 1.9 * canvas.FONT / 72  # inches; a monospaced letter is 0.6 of its height
    width = 7.5 if ax is None else canvas.inches(ax, True)
    columns = max(canvas.LONGEST + 1, int(width / letter))
    shown = [canvas.drawable(text) for text in labels]
    places, column, row = [], 0, 0
    for text in shown:
        if column + len(text) + 0.5 > columns:
            column, row = 0, row + 1
        places.append((column, row, len(text) + 0.5))
        column += len(text) + 1
        if NEWLINE in text:
            column, row = 0, row + 1
    ax = canvas.axes_of(ax, width + 1.3, (row + 1) * line + 0.5)
    boxes = [((x, y), (x + wide, y), (x + wide, y + 0.86), (x, y + 0.86)) for x, y, wide in places]
    cells = PolyCollection(boxes, cmap=colormaps[canvas.MAP].with_extremes(bad="#dddddd"), linewidths=0)
    cells.set_array(np.ma.masked_invalid(losses))
    cells.set_clim(0, highest)
    ax.add_collection(cells)
    for (x, y, wide), text, loss in zip(places, shown, losses):
        colour = canvas.on(cells.to_rgba(loss)) if np.isfinite(loss) else "black"
        style = {**canvas.plain("monospace"), "fontsize": canvas.FONT, "color": colour}
        ax.text(x + wide / 2, y + 0.45, text, ha="center", va="center", **style)
    ax.set(xlim=(0, columns), ylim=(row + 1, 0))
    ax.set_axis_off()
    canvas.bar(cells, ax, "loss (nats)", beyond=beyond)
    return ax
