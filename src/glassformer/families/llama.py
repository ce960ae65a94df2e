"""Llama (https://arxiv.org/abs/2302.13971): a decoder with rotary positions, RMS norms and a gated feed-forward."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..checkpoints.names import Row, row
from ..errors import ConfigError
from ..spec import Embedding, Layer, Readouts, Spec, Stack
from ..structure import embedding, readout
from ..structure.attention import Attention
from ..structure.feedforward import GatedFeedForward
from ..structure.norms import RMSNorm
from ..structure.positions import Rotary
from .family import Family, ModelClass, constant


def complete(keys: dict[str, Any]) -> None:
    """Fill in the sizes of heads, and gather what older configurations say of rotary positions in one key."""
    heads = keys["num_attention_heads"]
    if keys["hidden_size"] % heads:
        raise ConfigError(
            f"hidden_size {keys['hidden_size']} is not a multiple of {heads} attention heads; change one."
        )
    if keys["head_dim"] is None:
        keys["head_dim"] = keys["hidden_size"] // heads
    if keys["num_key_value_heads"] is None:
        keys["num_key_value_heads"] = heads
    rope = dict(keys.pop("rope_scaling", None) or keys["rope_parameters"] or {})
    rope.setdefault("rope_theta", keys.pop("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    if "partial_rotary_factor" in keys:
        rope.setdefault("partial_rotary_factor", keys.pop("partial_rotary_factor"))
    if rope["rope_type"] != "proportional" and rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(
            f"partial_rotary_factor={rope['partial_rotary_factor']} is not computed for Llama with rope_type "
            f"{rope['rope_type']!r}, only with 'proportional'; set it to 1.0 if all of a head turns."
        )
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        rope.setdefault("original_max_position_embeddings", keys["max_position_embeddings"])
    keys["rope_parameters"] = rope


def spec(c: Any) -> Spec:
    """The structure of a LlamaConfig."""
    norm = partial(RMSNorm, eps=c.rms_norm_eps)
    layer = Layer(
        attention=partial(
            Attention,
            heads=c.num_attention_heads,
            kv_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            bias=c.attention_bias,
            dropout=c.attention_dropout,
        ),
        feedforward=partial(GatedFeedForward, inner=c.intermediate_size, activation=c.hidden_act, bias=c.mlp_bias),
        norm=norm,
    )
    stack = Stack(
        Embedding(embedding.Embedding),
        [layer] * c.num_hidden_layers,
        positions=partial(Rotary, c.head_dim, c.max_position_embeddings, c.rope_parameters),
        final_norm=norm,
        packs=True,
    )
    dropout = getattr(c, "classifier_dropout", None)
    return Spec(
        c.vocab_size,
        c.hidden_size,
        decoder=stack,
        readouts=Readouts(
            lm=partial(readout.Linear, bias=False),
            sequence=partial(readout.Linear, bias=False),
            token=partial(readout.Linear, dropout=0.1 if dropout is None else dropout),
            span=readout.Linear,
            pick=readout.last_token,
        ),
        tied=c.tie_word_embeddings,
        pad=c.pad_token_id,
        std=partial(constant, c.initializer_range),
    )


def rows(c: Any) -> list[Row]:
    """What checkpoints call the parts."""
    layer, theirs = "decoder.layers.*", "layers.*"
    return [
        row("decoder.embedding.tokens", "embed_tokens"),
        row(f"{layer}.attention_residual.before", f"{theirs}.input_layernorm"),
        *(row(f"{layer}.attention.{part}_proj", f"{theirs}.self_attn.{part}_proj") for part in "qkvo"),
        row(f"{layer}.feedforward_residual.before", f"{theirs}.post_attention_layernorm"),
        *(row(f"{layer}.feedforward.{part}_proj", f"{theirs}.mlp.{part}_proj") for part in ("gate", "up", "down")),
        row("decoder.final_norm", "norm"),
        row("lm_head.linear", "lm_head"),
        row("classifier.linear", "score"),
        row("tagger.linear", "score"),
        row("span.linear", "qa_outputs"),
    ]


TEXT = "input_ids attention_mask position_ids past_key_values inputs_embeds"

FAMILY = Family(
    "llama",
    "Llama",
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pretraining_tp": 1,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "head_dim": None,
    },
    complete=complete,
    spec=spec,
    rows=rows,
    no_effect=("pretraining_tp",),
    ignored=(r"rotary_emb\.inv_freq$",),
    classes={
        "LlamaModel": ModelClass("Model", f"{TEXT} use_cache"),
        "LlamaForCausalLM": ModelClass("CausalLM", f"{TEXT} labels use_cache logits_to_keep", "model."),
        "LlamaForSequenceClassification": ModelClass("SequenceClassification", f"{TEXT} labels use_cache", "model."),
        "LlamaForQuestionAnswering": ModelClass(
            "QuestionAnswering", f"{TEXT} start_positions end_positions", "transformer."
        ),
        "LlamaForTokenClassification": ModelClass("TokenClassification", f"{TEXT} labels use_cache", "model."),
    },
)
