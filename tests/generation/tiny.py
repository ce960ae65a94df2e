"""Tiny random models of the five families, the same in both libraries, and ragged inputs for them."""

import tempfile
from functools import cache
from typing import Any

import torch
import transformers

import glassformer

VOCABULARY, PAD, BOS = 61, 0, 1
# Likely enough that the rows of a batch end at different steps.
ENDS = [2, 7, 19, 23, 41]
IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": 2, "vocab_size": VOCABULARY}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "init_std": 0.4, "decoder_start_token_id": 2}
_PLAIN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_PLAIN |= {"max_position_embeddings": 64, "initializer_range": 0.4}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BertLMHeadModel": ("BertConfig", {**_PLAIN, **IDS, "is_decoder": True}),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.4, **IDS},
    ),
    "LlamaForCausalLM": ("LlamaConfig", {**_PLAIN, **IDS, "num_key_value_heads": 2}),
    "BartForConditionalGeneration": ("BartConfig", {**_BART, **IDS, "max_position_embeddings": 64}),
    "T5ForConditionalGeneration": ("T5Config", {**_T5, **IDS, "decoder_start_token_id": PAD}),
}
ALL = tuple(FAMILIES)
DECODERS, ENCODER_DECODERS = ALL[:3], ALL[3:]


@cache
def peer(name: str) -> Any:
    """The peer's model; attentions are returned by its slower implementation alone."""
    config, keys = FAMILIES[name]
    with torch.random.fork_rng():  # a test that has set a seed may be the first to ask
        torch.manual_seed(5)
        made = getattr(transformers, config)(**keys)
        return getattr(transformers, name)._from_config(made, attn_implementation="eager").eval()


@cache
def ours(name: str) -> Any:
    """The same model in this library, from the folder that the peer saves."""
    with tempfile.TemporaryDirectory() as folder:
        peer(name).save_pretrained(folder)
        return getattr(glassformer, name).from_pretrained(folder).eval()


def ragged(side: str = "left", seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of 7, 4 and 6 tokens, padded: ids and mask, both (3, 7)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=generator)
    mask = torch.arange(7)[None, :] >= torch.tensor([0, 3, 1])[:, None]
    if side == "right":
        mask = mask.flip(1)
    return torch.where(mask, ids, PAD), mask.long()


def both(name: str, *args: Any, seed: int = 3, **kwargs: Any) -> tuple[Any, Any]:
    """The same call of `generate` in this library and in the peer, from the same seed."""
    results = []
    for model in (ours(name), peer(name)):
        torch.manual_seed(seed)
        results.append(model.generate(*args, **kwargs))
    return results[0], results[1]
