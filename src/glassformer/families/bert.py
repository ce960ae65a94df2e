"""BERT (https://arxiv.org/abs/1810.04805): an encoder with norms after each step; as a decoder with `is_decoder`."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..checkpoints.names import Row, row
from ..errors import ConfigError
from ..spec import Embedding, Layer, Readouts, Spec, Stack
from ..structure import embedding, readout
from ..structure.attention import Attention, CrossAttention
from ..structure.feedforward import FeedForward
from ..structure.norms import LayerNorm
from ..structure.positions import Learned
from .family import Family, ModelClass, constant


def spec(c: Any) -> Spec:
    """The structure of a BertConfig."""
    if (kind := getattr(c, "position_embedding_type", "absolute")) != "absolute":
        raise ConfigError(f"position_embedding_type={kind!r} is not computed here, only 'absolute'; use another model.")
    norm = partial(LayerNorm, eps=c.layer_norm_eps)
    heads = {"heads": c.num_attention_heads, "dropout": c.attention_probs_dropout_prob}
    layer = Layer(
        attention=partial(Attention, **heads),
        cross_attention=partial(CrossAttention, **heads) if c.add_cross_attention else None,
        feedforward=partial(FeedForward, inner=c.intermediate_size, activation=c.hidden_act),
        norm=norm,
        norm_at=("after",),
        dropout=c.hidden_dropout_prob,
    )
    stack = Stack(
        Embedding(
            embedding.Embedding,
            types=c.type_vocab_size,
            positions=partial(Learned, length=c.max_position_embeddings),
            norm=norm,
            dropout=c.hidden_dropout_prob,
        ),
        [layer] * c.num_hidden_layers,
    )
    dropout = c.hidden_dropout_prob if c.classifier_dropout is None else c.classifier_dropout
    scores = partial(readout.Linear, dropout=dropout)
    return Spec(
        c.vocab_size,
        c.hidden_size,
        encoder=None if c.is_decoder else stack,
        decoder=stack if c.is_decoder else None,
        pooler=readout.Pooler,
        readouts=Readouts(
            lm=partial(readout.Transformed, activation=c.hidden_act, norm=norm),
            sequence=scores,
            token=scores,
            span=readout.Linear,
            span_labels=c.num_labels,
            pick=readout.last_token,
        ),
        tied=c.tie_word_embeddings,
        pad=c.pad_token_id,
        crosses=True,
        std=partial(constant, c.initializer_range),
    )


def rows(c: Any) -> list[Row]:
    """What checkpoints call the parts."""
    stack, layer, theirs = "decoder" if c.is_decoder else "encoder", "layers.*", "encoder.layer.*"
    attention = {"q_proj": "self.query", "k_proj": "self.key", "v_proj": "self.value", "o_proj": "output.dense"}
    table = [
        ("embedding.tokens", "embeddings.word_embeddings"),
        ("embedding.types", "embeddings.token_type_embeddings"),
        ("embedding.positions.table", "embeddings.position_embeddings"),
        ("embedding.norm", "embeddings.LayerNorm"),
        *((f"{layer}.attention.{a}", f"{theirs}.attention.{b}") for a, b in attention.items()),
        (f"{layer}.attention_residual.after", f"{theirs}.attention.output.LayerNorm"),
        *((f"{layer}.cross_attention.{a}", f"{theirs}.crossattention.{b}") for a, b in attention.items()),
        (f"{layer}.cross_attention_residual.after", f"{theirs}.crossattention.output.LayerNorm"),
        (f"{layer}.feedforward.up_proj", f"{theirs}.intermediate.dense"),
        (f"{layer}.feedforward.down_proj", f"{theirs}.output.dense"),
        (f"{layer}.feedforward_residual.after", f"{theirs}.output.LayerNorm"),
    ]
    # The bias of the vocabulary head has two names; where the head is untied, the first of them is unused but written.
    names = ("cls.predictions.bias", "cls.predictions.decoder.bias")
    tied = c.tie_word_embeddings
    return [
        *(row(f"{stack}.{a}", b) for a, b in table),
        row("pooler.dense", "pooler.dense"),
        row("lm_head.linear.bias", names[not tied], also=names, copies=() if tied else names[:1]),
        row("lm_head.linear.weight", "cls.predictions.decoder.weight"),
        row("lm_head.dense", "cls.predictions.transform.dense"),
        row("lm_head.norm", "cls.predictions.transform.LayerNorm"),
        row("next_sentence", "cls.seq_relationship"),
        row("classifier.linear", "classifier"),
        row("tagger.linear", "classifier"),
        row("span.linear", "qa_outputs"),
    ]


TEXT = "input_ids attention_mask token_type_ids position_ids inputs_embeds"
MEMORY = "encoder_hidden_states encoder_attention_mask"

FAMILY = Family(
    "bert",
    "Bert",
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "use_cache": True,
        "classifier_dropout": None,
        "is_decoder": False,
        "add_cross_attention": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    },
    spec=spec,
    rows=rows,
    ignored=(r"embeddings\.position_ids$",),
    classes={
        "BertModel": ModelClass("Model", f"{TEXT} {MEMORY} past_key_values use_cache"),
        "BertForPreTraining": ModelClass("PreTraining", f"{TEXT} labels next_sentence_label", "bert."),
        "BertLMHeadModel": ModelClass(
            "CausalLM", f"{TEXT} {MEMORY} labels past_key_values use_cache logits_to_keep", "bert.", trains_cached=False
        ),
        "BertForMaskedLM": ModelClass("MaskedLM", f"{TEXT} {MEMORY} labels", "bert."),
        "BertForNextSentencePrediction": ModelClass("NextSentencePrediction", f"{TEXT} labels", "bert."),
        "BertForSequenceClassification": ModelClass("SequenceClassification", f"{TEXT} labels", "bert."),
        "BertForMultipleChoice": ModelClass("MultipleChoice", f"{TEXT} labels", "bert."),
        "BertForTokenClassification": ModelClass("TokenClassification", f"{TEXT} labels", "bert."),
        "BertForQuestionAnswering": ModelClass("QuestionAnswering", f"{TEXT} start_positions end_positions", "bert."),
    },
)
