"""GGUF files for llama.cpp: written in fp32 from the checkpoint, and quantised by llama.cpp itself."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import inputs
import numpy as np
from numpy.typing import NDArray

ARCHITECTURES = {"GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama", "T5ForConditionalGeneration": "t5"}


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


def gpt2(writer: Any, config: dict[str, Any]) -> None:
    """What llama.cpp must know of a GPT-2."""
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])


def llama(writer: Any, config: dict[str, Any]) -> None:
    """What it must know of a Llama."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])


def t5(writer: Any, config: dict[str, Any]) -> None:
    """What it must know of a T5."""
    writer.add_context_length(512)
    writer.add_embedding_length(config["d_model"])
    writer.add_feed_forward_length(config["d_ff"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_block_count(config["num_layers"])
    writer.add_head_count(config["num_heads"])
    writer.add_key_length(config["d_kv"])
    writer.add_value_length(config["d_kv"])
    writer.add_relative_attn_buckets_count(config["relative_attention_num_buckets"])
    writer.add_decoder_start_token_id(config["decoder_start_token_id"])


def weight_of(key: str, weight: NDArray[Any], config: dict[str, Any]) -> NDArray[Any]:
    """A weight of the checkpoint as llama.cpp reads it."""
    if config["model_type"] == "gpt2" and weight.ndim == 2 and ".h." in key:
        return weight.T  # Conv1D keeps (inputs, outputs)
    if config["model_type"] == "llama":
        for part, count in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in key:
                return permuted(weight, config[count])
    if key == "decoder.final_layer_norm.weight":  # llama.cpp leaves out T5's scale before the tied readout
        return weight * np.float32(config["d_model"] ** -0.5)
    return weight


def unquantised(folder: Path, config: dict[str, Any], target: Path) -> None:
    """Write a file in fp32, without a vocabulary: it is given ids."""
    import gguf
    from safetensors import safe_open

    architecture = ARCHITECTURES[config["architectures"][0]]
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    {"gpt2": gpt2, "llama": llama, "t5": t5}[architecture](writer, config)
    with safe_open(folder / "hf" / "model.safetensors", "np") as file:
        keys = [key for key in file.keys() if not key.endswith("o_proj.bias")]  # zeros  # noqa: SIM118
        layers = 1 + max(int(number) for key in keys for number in re.findall(r"\.(\d+)\.", key))
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)
        for key in keys:
            weight = np.ascontiguousarray(weight_of(key, file.get_tensor(key), config))
            writer.add_tensor(names.get_name(key, (".weight", ".bias")), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
