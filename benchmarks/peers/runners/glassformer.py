"""glassformer, by its public calls alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inputs
import torch

import glassformer

from .pytorch import Runner

VERSION = glassformer.__version__
ASKED: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
}


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The model in any precision that `from_pretrained` knows."""
    torch.set_num_threads(threads)
    config, kind = inputs.config(folder), glassformer.AutoModelForCausalLM
    if config["architectures"] == ["BertModel"]:
        kind = glassformer.AutoModel
    elif config.get("is_encoder_decoder"):
        kind = glassformer.AutoModelForSeq2SeqLM
    try:
        model = kind.from_pretrained(folder / "hf", **ASKED[precision])
    except (TypeError, ValueError) as error:
        if precision in ("int8", "int4") and "quantization" in str(error):
            raise inputs.Unsupported(f"{precision} is not there yet") from error
        raise
    return Runner(folder, model)
