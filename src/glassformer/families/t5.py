"""T5 (https://arxiv.org/abs/1910.10683): encoder and decoder, relative positions, RMS norms before each step.

Scores are not divided by the root of the head's width; the weights are drawn so that they need not be. Version 1.1
gates its feed-forward and has a vocabulary head of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..checkpoints.names import Row, row
from ..errors import ConfigError
from ..spec import Embedding, Layer, Readouts, Spec, Stack
from ..structure import embedding, readout
from ..structure.attention import Attention, CrossAttention
from ..structure.feedforward import FeedForward, GatedFeedForward
from ..structure.norms import RMSNorm
from ..structure.positions import RelativeBuckets
from .family import Family, ModelClass


def complete(keys: dict[str, Any]) -> None:
    """Fill in what follows from `feed_forward_proj`, `num_layers` and `tie_word_embeddings`."""
    if keys["num_decoder_layers"] is None:
        keys["num_decoder_layers"] = keys["num_layers"]
    *gated, activation = keys["feed_forward_proj"].split("-")
    if gated not in ([], ["gated"]):
        raise ConfigError(
            f"feed_forward_proj is {keys['feed_forward_proj']!r}; it is an activation's name or 'gated-' and a name."
        )
    activation = "gelu_new" if keys["feed_forward_proj"] == "gated-gelu" else activation
    for key, value in (("dense_act_fn", activation), ("is_gated_act", bool(gated))):
        if keys.setdefault(key, value) != value:
            raise ConfigError(
                f"{key}={keys[key]!r} contradicts feed_forward_proj={keys['feed_forward_proj']!r}; change one."
            )
    # "Untied" in an old configuration means no more than unscaled: whether the head is the token table, weights say.
    keys.setdefault("scale_decoder_outputs", keys.get("tie_word_embeddings") is not False)
    keys["tie_word_embeddings"] = True


def spec(c: Any) -> Spec:
    """The structure of a T5Config."""
    norm = partial(RMSNorm, eps=c.layer_norm_epsilon)
    heads = {"heads": c.num_heads, "head_dim": c.d_kv, "bias": False, "scale": 1.0, "dropout": c.dropout_rate}
    feedforward = GatedFeedForward if c.is_gated_act else FeedForward

    def stack(layers: int, decodes: bool) -> Stack:
        layer = Layer(
            attention=partial(Attention, **heads),
            cross_attention=partial(CrossAttention, **heads) if decodes else None,
            feedforward=partial(
                feedforward, inner=c.d_ff, activation=c.dense_act_fn, bias=False, dropout=c.dropout_rate
            ),
            norm=norm,
            dropout=c.dropout_rate,
        )
        return Stack(
            Embedding(embedding.Embedding, dropout=c.dropout_rate),
            [layer] * layers,
            positions=partial(
                RelativeBuckets,
                heads=c.num_heads,
                buckets=c.relative_attention_num_buckets,
                max_distance=c.relative_attention_max_distance,
                both_ways=not decodes,
            ),
            final_norm=norm,
            final_dropout=c.dropout_rate,
        )

    return Spec(
        c.vocab_size,
        c.d_model,
        encoder=stack(c.num_layers, decodes=False),
        decoder=stack(c.num_decoder_layers, decodes=True),
        decoder_start=partial(decoder_start, c),
        readouts=Readouts(
            lm=readout.Scaled if c.scale_decoder_outputs else partial(readout.Linear, bias=False),
            sequence=partial(readout.Dense, dropout=c.classifier_dropout),
            token=partial(readout.Linear, dropout=c.classifier_dropout),
            span=readout.Linear,
            span_labels=c.num_labels,
            pick=readout.eos_token,
        ),
        crosses=True,
        std=partial(std, c),
        norm=c.initializer_factor,
        keep_fp32=("down_proj",),
    )


def decoder_start(c: Any, ids: Tensor) -> Tensor:
    """What the decoder reads to predict `ids`, (B, T)."""
    return embedding.shift_right(ids, getattr(c, "decoder_start_token_id", None), c.pad_token_id)


def std(c: Any, name: str) -> float:
    """The standard deviation of a fresh weight, by the module that it belongs to."""
    width = {
        "q_proj": (c.d_model * c.d_kv) ** -0.5,
        "o_proj": (c.num_heads * c.d_kv) ** -0.5,
        "down_proj": c.d_ff**-0.5,
        "tokens": 1.0,
    }.get(name.rpartition(".")[2], 1.0 if name.startswith("tagger") else c.d_model**-0.5)
    return float(c.initializer_factor * width)


def rows(c: Any) -> list[Row]:
    """What checkpoints call the parts."""
    attention = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
    table = [
        row("encoder.embedding.tokens", "shared", also=("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")),
        row("lm_head.linear", "lm_head"),
        row("classifier.dense", "classification_head.dense"),
        row("classifier.linear", "classification_head.out_proj"),
        row("tagger.linear", "classifier"),
        row("span.linear", "qa_outputs"),
    ]
    for stack, last in (("encoder", 1), ("decoder", 2)):
        layer, theirs = f"{stack}.layers.*", f"{stack}.block.*.layer"
        table += [
            row(f"{stack}.positions.table", f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"),
            *(row(f"{layer}.attention.{a}", f"{theirs}.0.SelfAttention.{b}") for a, b in attention.items()),
            row(f"{layer}.attention_residual.before", f"{theirs}.0.layer_norm"),
            *(row(f"{layer}.cross_attention.{a}", f"{theirs}.1.EncDecAttention.{b}") for a, b in attention.items()),
            row(f"{layer}.cross_attention_residual.before", f"{theirs}.1.layer_norm"),
            row(f"{layer}.feedforward.gate_proj", f"{theirs}.{last}.DenseReluDense.wi_0"),
            row(f"{layer}.feedforward.up_proj", f"{theirs}.{last}.DenseReluDense.wi{'_1' if c.is_gated_act else ''}"),
            row(f"{layer}.feedforward.down_proj", f"{theirs}.{last}.DenseReluDense.wo"),
            row(f"{layer}.feedforward_residual.before", f"{theirs}.{last}.layer_norm"),
            row(f"{stack}.final_norm", f"{stack}.final_layer_norm"),
        ]
    return table


TEXT = "input_ids attention_mask"
BOTH = f"{TEXT} decoder_input_ids decoder_attention_mask encoder_outputs"
EMBEDS = "inputs_embeds decoder_inputs_embeds"

FAMILY = Family(
    "t5",
    "T5",
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "feed_forward_proj": "relu",
        "is_encoder_decoder": True,
        "use_cache": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "classifier_dropout": 0.0,
        "is_decoder": False,
    },
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    complete=complete,
    spec=spec,
    rows=rows,
    no_effect=("is_decoder", "feed_forward_proj"),
    ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
    classes={
        "T5Model": ModelClass("Model", f"{BOTH} past_key_values {EMBEDS} use_cache"),
        "T5ForConditionalGeneration": ModelClass("Seq2SeqLM", f"{BOTH} past_key_values {EMBEDS} labels use_cache"),
        "T5EncoderModel": ModelClass("Model", f"{TEXT} inputs_embeds", part="encoder"),
        "T5ForSequenceClassification": ModelClass(
            "SequenceClassification", f"{BOTH} {EMBEDS} labels use_cache", "transformer.", trains_cached=False
        ),
        "T5ForTokenClassification": ModelClass(
            "TokenClassification", f"{TEXT} inputs_embeds labels", "transformer.", part="encoder"
        ),
        "T5ForQuestionAnswering": ModelClass(
            "QuestionAnswering", f"{BOTH} start_positions end_positions {EMBEDS} use_cache", trains_cached=False
        ),
    },
    auto={"PreTraining": "T5ForConditionalGeneration"},
)
