"""BART (https://arxiv.org/abs/1910.13461): encoder and decoder, learned positions, norms after each step."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor

from ..checkpoints.names import Row, row
from ..spec import Embedding, Layer, Readouts, Spec, Stack
from ..structure import embedding, readout
from ..structure.attention import Attention, CrossAttention
from ..structure.feedforward import FeedForward
from ..structure.norms import LayerNorm
from ..structure.positions import Learned
from .family import Family, ModelClass, constant


def complete(keys: dict[str, Any]) -> None:
    """Three labels, if none are named: the checkpoints were tuned for natural language inference."""
    if keys["id2label"] is None:
        labels = [f"LABEL_{index}" for index in range(3)]
        keys["id2label"] = dict(enumerate(labels))
        keys["label2id"] = {label: index for index, label in enumerate(labels)}


def spec(c: Any) -> Spec:
    """The structure of a BartConfig."""

    def stack(layers: int, heads: int, inner: int, layerdrop: float, decodes: bool) -> Stack:
        attention = {"heads": heads, "dropout": c.attention_dropout}
        layer = Layer(
            attention=partial(Attention, **attention),
            cross_attention=partial(CrossAttention, **attention) if decodes else None,
            feedforward=partial(
                FeedForward, inner=inner, activation=c.activation_function, dropout=c.activation_dropout
            ),
            norm=LayerNorm,
            norm_at=("after",),
            dropout=c.dropout,
        )
        return Stack(
            Embedding(
                embedding.Embedding,
                # Two rows before the first position are never used.
                positions=partial(Learned, length=c.max_position_embeddings, offset=2),
                norm=LayerNorm,
                scale=math.sqrt(c.d_model) if c.scale_embedding else 1.0,
                dropout=c.dropout,
            ),
            [layer] * layers,
            layerdrop=layerdrop,
        )

    return Spec(
        c.vocab_size,
        c.d_model,
        encoder=stack(c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim, c.encoder_layerdrop, False),
        decoder=stack(c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim, c.decoder_layerdrop, True),
        decoder_start=partial(decoder_start, c),
        decoder_reads_inputs=True,
        readouts=Readouts(
            lm=readout.Offset,
            causal_lm=partial(readout.Linear, bias=False),
            sequence=partial(readout.Dense, dropout=c.classifier_dropout),
            token=readout.Linear,
            span=readout.Linear,
            pick=readout.eos_token,
            shifted=False,
        ),
        tied=c.tie_word_embeddings,
        shared=c.tie_word_embeddings,
        pad=c.pad_token_id,
        crosses=True,
        std=partial(constant, c.init_std),
    )


def decoder_start(c: Any, ids: Tensor) -> Tensor:
    """What the decoder reads to predict `ids`, (B, T)."""
    return embedding.shift_right(ids, c.decoder_start_token_id, c.pad_token_id)


def rows(c: Any) -> list[Row]:
    """What checkpoints call the parts."""
    attention = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "out_proj"}
    tables = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    table = [
        # Untied stacks have a table each, and `shared` is written but not used.
        row("encoder.embedding.tokens", tables[0], also=tables[1:])
        if c.tie_word_embeddings
        else row("encoder.embedding.tokens", tables[1], also=tables[:1], copies=tables[:1]),
        row("decoder.embedding.tokens", tables[2], also=tables[:1]),
        row("lm_head.linear", "lm_head"),
        row("lm_head.offset", "final_logits_bias"),
        row("classifier.dense", "classification_head.dense"),
        row("classifier.linear", "classification_head.out_proj"),
        row("span.linear", "qa_outputs"),
    ]
    for stack in ("encoder", "decoder"):
        layer = f"{stack}.layers.*"
        table += [
            row(f"{stack}.embedding.positions.table", f"{stack}.embed_positions"),
            row(f"{stack}.embedding.norm", f"{stack}.layernorm_embedding"),
            *(row(f"{layer}.attention.{a}", f"{layer}.self_attn.{b}") for a, b in attention.items()),
            row(f"{layer}.attention_residual.after", f"{layer}.self_attn_layer_norm"),
            *(row(f"{layer}.cross_attention.{a}", f"{layer}.encoder_attn.{b}") for a, b in attention.items()),
            row(f"{layer}.cross_attention_residual.after", f"{layer}.encoder_attn_layer_norm"),
            row(f"{layer}.feedforward.up_proj", f"{layer}.fc1"),
            row(f"{layer}.feedforward.down_proj", f"{layer}.fc2"),
            row(f"{layer}.feedforward_residual.after", f"{layer}.final_layer_norm"),
        ]
    return table


BOTH = "input_ids attention_mask decoder_input_ids decoder_attention_mask encoder_outputs"
ALONE = "input_ids attention_mask encoder_hidden_states encoder_attention_mask past_key_values inputs_embeds"
EMBEDS = "inputs_embeds decoder_inputs_embeds"

FAMILY = Family(
    "bart",
    "Bart",
    defaults={
        "vocab_size": 50265,
        "max_position_embeddings": 1024,
        "encoder_layers": 12,
        "encoder_ffn_dim": 4096,
        "encoder_attention_heads": 16,
        "decoder_layers": 12,
        "decoder_ffn_dim": 4096,
        "decoder_attention_heads": 16,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "activation_function": "gelu",
        "d_model": 1024,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": 0.02,
        "classifier_dropout": 0.0,
        "scale_embedding": False,
        "use_cache": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
        "is_decoder": False,
        "tie_word_embeddings": True,
        "id2label": None,
        "label2id": None,
    },
    aliases={
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
    complete=complete,
    spec=spec,
    rows=rows,
    no_effect=("is_decoder",),
    ignored=(r"(encoder|decoder)\.version$",),
    classes={
        "BartModel": ModelClass("Model", f"{BOTH} past_key_values {EMBEDS} use_cache"),
        "BartForConditionalGeneration": ModelClass(
            "Seq2SeqLM", f"{BOTH} past_key_values {EMBEDS} labels use_cache", "model.", trains_cached=False
        ),
        "BartForSequenceClassification": ModelClass(
            "SequenceClassification", f"{BOTH} {EMBEDS} labels use_cache", "model.", trains_cached=False
        ),
        "BartForQuestionAnswering": ModelClass(
            "QuestionAnswering",
            f"{BOTH} start_positions end_positions {EMBEDS} use_cache",
            "model.",
            trains_cached=False,
            num_labels=2,
        ),
        "BartForCausalLM": ModelClass("CausalLM", f"{ALONE} labels use_cache logits_to_keep", "model.", part="decoder"),
        "BartDecoder": ModelClass("Model", f"{ALONE} use_cache", part="decoder"),
    },
    auto={"MaskedLM": "BartForConditionalGeneration", "PreTraining": "BartForConditionalGeneration"},
)
