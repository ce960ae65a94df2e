"""What all pictures share: axes, readable labels that fit, heatmaps with their colour bar, numbers out of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, MissingExtraError
from ..tokens import escaped, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.colorbar import Colorbar
    from matplotlib.image import AxesImage

MAP = "Blues"  # light to dark, the same to every eye and in print
INK, ACCENT = "#2f6fae", "#d95f02"
# Okabe and Ito's colours, which every eye tells apart, and how their lines are dashed.
LINES = {"#0072b2": "-", "#d55e00": "--", "#009e73": "-.", "#cc79a7": ":"}
FONT = 8.0  # points, of tokens
LONGEST = 14  # characters of a label
_CELL = 0.26  # inches, of a heatmap that chooses its own size
_LEAST, _MOST = 2.2, 9.0  # inches, of the side of such a heatmap
# Fonts with the letters that matplotlib's own lacks, tried in this order where they are installed.
_FALLBACKS: tuple[str, ...] = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Yu Gothic",
)
_FALLBACKS += ("Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Segoe UI")


def pyplot() -> Any:
    """matplotlib.pyplot.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingExtraError(
            "Pictures are drawn by matplotlib, which is not installed: run `pip install 'glassformer[plot]'`."
        ) from error
    return plt


def axes_of(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or those of a new pyplot figure of that size in inches, which notebooks show by themselves."""
    plt = pyplot()
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    assert ax is not None
    return ax


def side(cells: int, cell: float = _CELL) -> float:
    """The side of a heatmap of so many cells, in inches."""
    return min(max(cells * cell, _LEAST), _MOST)


def array(values: Any, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers of a tensor, on whatever device, or of what numpy takes.

    Raises:
        InputError: they are no numbers.
    """
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is a {type(values).__name__} without numbers in it; give a tensor.") from error


def chosen(index: int, count: int, name: str) -> int:
    """An index from the start.

    Raises:
        InputError: there is no such one.
    """
    if isinstance(index, bool) or not isinstance(index, int) or not -count <= index < count:
        raise InputError(f"There is no {name} {index!r} among {count}; count from 0, or from -1 at the end.")
    return index % count


def labels_of(tokens: Sequence[Any] | None, count: int, name: str = "tokens") -> list[str]:
    """Readable labels; their numbers where there are no tokens.

    Raises:
        InputError: there are not as many tokens as there is to label.
    """
    if tokens is None:
        return [str(place) for place in range(count)]
    if isinstance(tokens, (str, Tensor)):
        raise InputError(
            f"{name} is a {type(tokens).__name__}; give a list of strings: tokenizer.convert_ids_to_tokens(ids[row])."
        )
    labels = readable(tokens)
    if len(labels) != count:
        raise InputError(f"There are {len(labels)} {name} for {count} positions; give one string a position.")
    return labels


def plain(family: str | None = None) -> dict[str, Any]:
    """Properties of a text that is drawn letter by letter: no mathematics in "$", no TeX, and fonts that have it."""
    families = list(_families())
    return {"parse_math": False, "usetex": False, "fontfamily": [family, *families] if family else families}


def drawable(text: str, longest: int = LONGEST) -> str:
    """A text cut to its first characters, those that no font here can draw by their number."""
    known = _characters(_families())
    text = "".join(character if ord(character) in known else escaped(character) for character in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _families() -> tuple[str, ...]:
    """The user's fonts, and after them those installed that have more letters."""
    from matplotlib import rcParams

    return (*rcParams["font.family"], *_fallbacks())


@lru_cache(maxsize=1)
def _fallbacks() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FALLBACKS if name in installed)


@lru_cache(maxsize=8)
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """The numbers of the characters that fonts have."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    found = [fontManager.findfont(FontProperties(family=[name])) for name in families]
    return frozenset(number for path in found for number in get_font(path).get_charmap())


def inches(ax: Axes, horizontal: bool) -> float:
    """The length of a side of the axes, as they are now."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    box = ax.get_window_extent()
    return float((box.width if horizontal else box.height) / figure.dpi)


def label(axis: XAxis | YAxis, labels: Sequence[str], length: float) -> None:
    """Labels at 0, 1, 2, ...: turned upright only where they do not fit, and every second, third, ... of too many.

    Args:
        axis: of the axes, x or y.
        labels: one a position.
        length: of the axis, in inches.
    """
    shown = [drawable(text) for text in labels]
    cell = length / max(1, len(labels))
    horizontal = axis.axis_name == "x"
    widest = max((_width(text) for text in shown), default=0.0)
    upright = horizontal and widest > cell
    step = 1 if horizontal and not upright else max(1, math.ceil(1.15 * FONT / 72 / cell))
    places = range(0, len(labels), step)
    axis.set_ticks(places, [shown[place] for place in places])
    for tick in axis.get_ticklabels():
        tick.set(**plain(), fontsize=FONT, rotation=90 if upright else 0)
    axis.set_tick_params(length=0 if step == 1 else 2)


def _width(text: str) -> float:
    """About how wide a text is, in inches."""
    return (0.62 * len(text) + 0.8) * FONT / 72


def heatmap(
    ax: Axes, values: np.ndarray[Any, Any], lowest: float = 0.0, highest: float | None = None, colours: str = MAP
) -> AxesImage:
    """Cells of the axes, the first row at the top; what is not a number is grey."""
    from matplotlib import colormaps

    shown = np.ma.masked_invalid(values)
    if highest is None:
        highest = float(shown.max()) if shown.count() else 1.0
    image = ax.imshow(
        shown,
        cmap=colormaps[colours].with_extremes(bad="#bbbbbb"),
        vmin=lowest,
        vmax=max(highest, lowest + 1e-12),
        aspect="auto",
        interpolation="nearest",
    )
    for spine in ax.spines.values():
        spine.set(color="#999999", linewidth=0.6)
    return image


def bar(image: Any, ax: Any, name: str, beyond: bool = False) -> Colorbar:
    """The colour bar of an image, with what its numbers are."""
    figure = (ax.flat[0] if isinstance(ax, np.ndarray) else ax).get_figure(root=True)
    extend = "max" if beyond else "neither"
    made: Colorbar = figure.colorbar(image, ax=ax, label=name, extend=extend, pad=0.02, aspect=30)
    made.ax.tick_params(labelsize=FONT)
    made.outline.set(linewidth=0.6, edgecolor="#999999")
    return made


def on(colour: Any) -> str:
    """The colour of a text that is read on another, (r, g, b, alpha)."""
    return "white" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.55 else "black"


def write(ax: Axes, image: Any, cells: Sequence[Sequence[str]], width: float, height: float) -> None:
    """Texts in the cells of a heatmap, cut to their width in inches; none where not even three letters fit."""
    letters = int(width / (0.6 * FONT / 72)) - 1
    if letters < 3 or height < 1.2 * FONT / 72:
        return
    colours = image.to_rgba(image.get_array())
    for y, line in enumerate(cells):
        for x, text in enumerate(line):
            colour = on(colours[y, x])
            ax.text(x, y, drawable(text, letters), ha="center", va="center", fontsize=FONT, color=colour, **plain())


def open_frame(ax: Axes) -> None:
    """Axes without the lines at the top and the right."""
    ax.spines[["top", "right"]].set_visible(False)
