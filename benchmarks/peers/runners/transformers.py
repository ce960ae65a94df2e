"""Hugging Face Transformers, with the attention that it takes by default (SDPA)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert
import inputs
import models
import torch
import transformers

from .pytorch import Runner

VERSION = f"{transformers.__version__}, torch {torch.__version__}"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KINDS = {shape.classes[1]: getattr(transformers, shape.classes[1]) for shape in models.SHAPES.values()}


def opened(folder: Path, path: Path, precision: str) -> Any:
    """The model of a checkpoint in fp32 or bf16."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = KINDS[inputs.config(folder)["architectures"][0]]
    return kind.from_pretrained(path, dtype=DTYPES[precision])


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The model, which was saved in this precision."""
    torch.set_num_threads(threads)
    return Runner(folder, opened(folder, convert.form(folder, "transformers", precision), precision))
