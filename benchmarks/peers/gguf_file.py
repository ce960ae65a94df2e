"""GGUF files for llama.cpp: written in fp32 from the checkpoint, and quantised by llama.cpp itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import inputs
import numpy as np
from numpy.typing import NDArray

ARCHITECTURES = {"GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama"}


def write(folder: Path, target: Path, precision: str) -> None:
    """Write a file of a model whose architecture is one of ARCHITECTURES."""
    config = inputs.config(folder)
    if precision == "fp32":
        unquantised(folder, config, target)
        return
    import llama_cpp

    source = folder / "llama_cpp" / "fp32.gguf"
    if not source.exists():
        unquantised(folder, config, source)
    llama_cpp.llama_log_set(silence(), None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 1
    params.ftype = {
        "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
        "int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
        "int4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    }[precision]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise RuntimeError(f"llama.cpp could not write {target}")


@cache
def silence() -> Any:
    """What llama.cpp calls with each line that it would print; kept, since it may call it at any time."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda *_: None)


def permuted(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a query or key projection, (heads · D, ...), as llama.cpp has them: a head's two halves in turn."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def unquantised(folder: Path, config: dict[str, Any], target: Path) -> None:
    """Write a file in fp32, without a vocabulary: it is given ids."""
    import gguf
    from safetensors import safe_open

    architecture = ARCHITECTURES[config["architectures"][0]]
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if architecture == "gpt2":
        layers, heads = config["n_layer"], config["n_head"]
        kv_heads = heads
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(4 * config["n_embd"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        layers, heads, kv_heads = (
            config[f"num_{name}"] for name in ("hidden_layers", "attention_heads", "key_value_heads")
        )
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_dimension_count(config["hidden_size"] // heads)
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)
    with safe_open(folder / "hf" / "model.safetensors", "np") as file:
        for key in file.keys():  # noqa: SIM118
            if key.endswith("o_proj.bias"):  # zeros
                continue
            weight = file.get_tensor(key)
            if architecture == "gpt2" and weight.ndim == 2 and ".h." in key:
                weight = weight.T  # Conv1D keeps (inputs, outputs)
            for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
                if part in key:
                    weight = permuted(weight, count)
            writer.add_tensor(names.get_name(key, (".weight", ".bias")), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
