"""What every measured call is given: token ids drawn from a fixed seed, the same for every program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

EQUAL = [128] * 32
RAGGED = [int(length) for length in np.random.default_rng(1).permutation(np.linspace(8, 128, 32).round())]
PROBE = 32  # tokens whose last logits are compared
FIRST_ID = 10  # smaller ids mean something to some programs


class Unsupported(Exception):
    """What a program does not do, in a few words."""


def config(folder: Path) -> dict[str, Any]:
    """The configuration of a model."""
    return cast("dict[str, Any]", json.loads((folder / "hf" / "config.json").read_text()))


def ids(folder: Path, lengths: list[int]) -> list[NDArray[np.int64]]:
    """One text a length, of ids of the model's vocabulary."""
    draw = np.random.default_rng(0)
    return [draw.integers(FIRST_ID, config(folder)["vocab_size"], length) for length in lengths]


def padded(texts: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Texts as one array (B, T), padded on the right with zeros, and the mask of real tokens."""
    mask = (np.arange(max(map(len, texts))) < np.array([[len(text)] for text in texts])).astype(np.int64)
    whole = np.zeros_like(mask)
    whole[mask == 1] = np.concatenate(texts)
    return whole, mask
