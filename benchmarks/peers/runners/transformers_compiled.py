"""Hugging Face Transformers with a static cache and `torch.compile`, where it decodes; compiling takes a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inputs
import torch

from . import transformers
from .pytorch import Runner

VERSION = transformers.VERSION


def load(folder: Path, precision: str, threads: int) -> Any:
    """The model with its forward compiled."""
    if inputs.config(folder).get("is_encoder_decoder") or "BertModel" in inputs.config(folder)["architectures"]:
        raise inputs.Unsupported("a static cache helps decoders only")
    model = transformers.load(folder, precision, threads).model
    model.forward = torch.compile(model.forward)
    return Runner(folder, model, cache_implementation="static")
