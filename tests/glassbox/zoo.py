"""Tiny models of every class of every family, with fresh weights: what the tables of concepts are made for."""

from functools import cache
from typing import Any

import torch

import glassformer as gf
from glassformer import families

SIZES: dict[str, dict[str, Any]] = {
    "bert": {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 40, "max_position_embeddings": 32},
    "gpt2": {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 32, "pad_token_id": 3,
             "bos_token_id": 1, "eos_token_id": 2},
    "t5": {"vocab_size": 61, "d_model": 24, "d_kv": 7, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2,
           "num_heads": 3, "decoder_start_token_id": 0},
    "bart": {"vocab_size": 61, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40,
             "decoder_ffn_dim": 44, "encoder_attention_heads": 3, "decoder_attention_heads": 4,
             "max_position_embeddings": 32},
    "llama": {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 44, "max_position_embeddings": 64, "pad_token_id": 3},
}  # fmt: skip
# Class, and what is set beside the sizes.
ODD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("BertLMHeadModel", {"is_decoder": True}),
    ("BertModel", {"is_decoder": True, "add_cross_attention": True}),
    ("BertForSequenceClassification", {"num_labels": 1}),
    ("BertForSequenceClassification", {"num_labels": 5, "problem_type": "multi_label_classification"}),
    ("BertForTokenClassification", {"num_labels": 7}),
    ("GPT2LMHeadModel", {"add_cross_attention": True}),
    ("GPT2ForSequenceClassification", {"pad_token_id": None}),
    ("GPT2LMHeadModel", {"pad_token_id": None, "eos_token_id": None}),
    ("LlamaForCausalLM", {"num_key_value_heads": 1, "head_dim": 12, "eos_token_id": [2, 5]}),
    ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu"}),
)
CLASSES = tuple(name for page in families.PAGES for name in families.family(page).classes)


@cache
def model(name: str, **options: Any) -> Any:
    """A model of a class."""
    kind = getattr(gf, name)
    torch.manual_seed(0)
    return kind(kind.config_class(**{**SIZES[kind.config_class.model_type], **options})).eval()


def odd(index: int) -> Any:
    """One of the odd ones."""
    name, options = ODD[index]
    kind = getattr(gf, name)
    torch.manual_seed(0)
    return kind(kind.config_class(**{**SIZES[kind.config_class.model_type], **options})).eval()


BUNDLED = (
    ("AutoModelForSequenceClassification", "glassformer/tiny-bert"),
    ("AutoModelForTokenClassification", "glassformer/tiny-bert-punctuation"),
    ("AutoModelForCausalLM", "glassformer/tiny-gpt2"),
    ("AutoModelForSeq2SeqLM", "glassformer/tiny-t5"),
)


@cache
def bundled(auto: str, name: str) -> Any:
    """A bundled model."""
    return getattr(gf, auto).from_pretrained(name)
