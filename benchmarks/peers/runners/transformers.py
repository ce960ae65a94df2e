"""Hugging Face Transformers, with the attention that it takes by default (SDPA)."""

from __future__ import annotations

from pathlib import Path

import inputs
import torch
import transformers

from .pytorch import Runner

VERSION = f"{transformers.__version__}, torch {torch.__version__}"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The model in fp32 or bf16."""
    if precision not in DTYPES:
        raise inputs.Unsupported(f"no {precision} on a CPU")
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, inputs.config(folder)["architectures"][0])
    return Runner(folder, kind.from_pretrained(folder / "hf", dtype=DTYPES[precision]))
