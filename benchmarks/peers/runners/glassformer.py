"""glassformer, by its public calls alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert
import inputs
import torch

import glassformer
from glassformer import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from .pytorch import Runner

VERSION = glassformer.__version__
ASKED: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
}


def opened(folder: Path, path: Path, precision: str) -> Any:
    """The model of a checkpoint in any precision."""
    config, kind = inputs.config(folder), AutoModelForCausalLM
    if config["architectures"] == ["BertModel"]:
        kind = AutoModel
    elif config.get("is_encoder_decoder"):
        kind = AutoModelForSeq2SeqLM
    return kind.from_pretrained(path, **ASKED[precision])


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The model, which was saved in this precision."""
    torch.set_num_threads(threads)
    return Runner(folder, opened(folder, convert.form(folder, "glassformer", precision), precision))
