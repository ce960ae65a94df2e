"""GPT-2: a decoder with norms before each step.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Checkpoints fuse query, key and value into
one matrix and store matrices as (in, out).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..checkpoints.names import Row, fused, row
from ..errors import ConfigError
from ..spec import Embedding, Layer, Readouts, Spec, Stack
from ..structure import embedding, readout
from ..structure.activations import activation
from ..structure.attention import Attention, CrossAttention
from ..structure.feedforward import FeedForward
from ..structure.norms import LayerNorm
from ..structure.positions import Learned
from .family import Family, ModelClass


class TypesAreTokens(embedding.Embedding):
    """An embedding whose token types, where they are given, are rows of the token table."""

    def has(self, place: str) -> bool:
        """Whether there is such a tensor: types need no table of their own."""
        return place == "types" or super().has(place)

    def with_types(self, x: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """The vectors x, (B, T, D), plus those of token types, (B, T), where they are given."""
        return x if token_type_ids is None else x + self.announce("types", self.tokens(token_type_ids))


def spec(c: Any) -> Spec:
    """The structure of a GPT2Config."""
    norm = partial(LayerNorm, eps=c.layer_norm_epsilon)
    scale = (c.n_embd // c.n_head) ** -0.5 if c.scale_attn_weights else 1.0

    def layer(scale: float) -> Layer:
        heads = {"heads": c.n_head, "scale": scale, "dropout": c.attn_pdrop}
        return Layer(
            attention=partial(Attention, **heads),
            cross_attention=partial(CrossAttention, **heads) if c.add_cross_attention else None,
            feedforward=partial(FeedForward, inner=c.n_inner or 4 * c.n_embd, activation=c.activation_function),
            norm=norm,
            dropout=c.resid_pdrop,
        )

    sinking = [layer(scale / (index + 1)) for index in range(c.n_layer)] if c.scale_attn_by_inverse_layer_idx else None
    stack = Stack(
        Embedding(TypesAreTokens, positions=partial(Learned, length=c.n_positions), dropout=c.embd_pdrop),
        sinking or [layer(scale)] * c.n_layer,
        final_norm=norm,
        packs=True,
    )
    scores = partial(readout.Linear, bias=False)
    dropout = getattr(c, "classifier_dropout", None)
    return Spec(
        c.vocab_size,
        c.n_embd,
        decoder=stack,
        readouts=Readouts(
            lm=scores,
            sequence=scores,
            token=partial(readout.Linear, dropout=0.1 if dropout is None else dropout),
            span=readout.Linear,
            pick=readout.last_token,
            choice=partial(Summary, c),
        ),
        tied=c.tie_word_embeddings,
        crosses=True,
        std=partial(std, c.initializer_range, 2 * c.n_layer),
    )


def std(width: float, steps: int, name: str) -> float:
    """The standard deviation of a fresh weight; smaller where it adds to the residual stream, by how many steps do."""
    return width / math.sqrt(steps) if name.endswith(("o_proj", "down_proj")) else width


def chosen(states: Tensor, index: Tensor | None) -> Tensor:
    """The states (..., D) at index (...), or the last ones, of states (..., T, D)."""
    if index is None:
        return states[..., -1, :]
    return states.gather(-2, index[..., None, None].expand(*index.shape, 1, states.shape[-1])).squeeze(-2)


# summary_type to what it takes of states (..., T, D).
SUMMARIES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "cls_index": chosen,
    "first": lambda states, index: states[..., 0, :],
    "last": lambda states, index: states[..., -1, :],
    "mean": lambda states, index: states.mean(-2),
}


class Summary(nn.Module):
    """The score of a choice in GPT2DoubleHeadsModel: one state a choice, dropout, a linear layer, an activation.

    Args:
        c: the configuration, whose `summary_...` keys say which.
        dim: D.
        outputs: how many scores.
    """

    def __init__(self, c: Any, dim: int, outputs: int) -> None:
        super().__init__()
        if c.summary_type not in SUMMARIES:
            raise ConfigError(
                f"summary_type={c.summary_type!r} is not computed here; it is one of {', '.join(SUMMARIES)}."
            )
        self.kind = c.summary_type
        self.dropout = nn.Dropout(c.summary_first_dropout)
        outputs = outputs if c.summary_proj_to_labels else dim
        self.linear = nn.Linear(dim, outputs) if c.summary_use_proj else nn.Identity()
        self.activation = activation(c.summary_activation or "linear")

    def forward(self, states: Tensor, index: Tensor | None) -> Tensor:
        """States (..., T, D), and the places (...) of what stands for the choices, to scores (..., outputs)."""
        return self.activation(self.linear(self.dropout(SUMMARIES[self.kind](states, index))))


def rows(c: Any) -> list[Row]:
    """What checkpoints call the parts."""
    layer = "decoder.layers.*"
    return [
        row("decoder.embedding.tokens", "wte"),
        row("decoder.embedding.positions.table", "wpe"),
        row(f"{layer}.attention_residual.before", "h.*.ln_1"),
        fused(f"{layer}.attention", ("q_proj", "k_proj", "v_proj"), "h.*.attn.c_attn", transposed=True),
        row(f"{layer}.attention.o_proj", "h.*.attn.c_proj", transposed=True),
        row(f"{layer}.cross_attention_residual.before", "h.*.ln_cross_attn"),
        row(f"{layer}.cross_attention.q_proj", "h.*.crossattention.q_attn", transposed=True),
        fused(f"{layer}.cross_attention", ("k_proj", "v_proj"), "h.*.crossattention.c_attn", transposed=True),
        row(f"{layer}.cross_attention.o_proj", "h.*.crossattention.c_proj", transposed=True),
        row(f"{layer}.feedforward_residual.before", "h.*.ln_2"),
        row(f"{layer}.feedforward.up_proj", "h.*.mlp.c_fc", transposed=True),
        row(f"{layer}.feedforward.down_proj", "h.*.mlp.c_proj", transposed=True),
        row("decoder.final_norm", "ln_f"),
        row("lm_head.linear", "lm_head"),
        row("classifier.linear", "score"),
        row("tagger.linear", "classifier"),
        row("span.linear", "qa_outputs"),
        row("choice.linear", "multiple_choice_head.summary"),
    ]


TEXT = "attention_mask token_type_ids position_ids inputs_embeds"
PAST = f"input_ids past_key_values {TEXT}"
MEMORY = "encoder_hidden_states encoder_attention_mask"

FAMILY = Family(
    "gpt2",
    "GPT2",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
        "summary_first_dropout": 0.1,
        "scale_attn_weights": True,
        "use_cache": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": None,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    spec=spec,
    rows=rows,
    # Scores are computed in fp32 here whatever the weights are, which is what this key asks for. The summary keys are
    # read by the one class that has a summary.
    no_effect=(
        "reorder_and_upcast_attn",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
    ),
    ignored=(r"attn\.bias$", r"attn\.masked_bias$"),
    classes={
        "GPT2Model": ModelClass("Model", f"{PAST} {MEMORY} use_cache"),
        "GPT2LMHeadModel": ModelClass("CausalLM", f"{PAST} {MEMORY} labels use_cache logits_to_keep", "transformer."),
        "GPT2DoubleHeadsModel": ModelClass(
            "DoubleHeads", f"{PAST} mc_token_ids labels mc_labels use_cache", "transformer.", num_labels=1
        ),
        "GPT2ForSequenceClassification": ModelClass(
            "SequenceClassification", f"{PAST} labels use_cache", "transformer."
        ),
        "GPT2ForTokenClassification": ModelClass("TokenClassification", f"{PAST} labels use_cache", "transformer."),
        "GPT2ForQuestionAnswering": ModelClass(
            "QuestionAnswering", f"input_ids {TEXT} start_positions end_positions", "transformer."
        ),
    },
    auto={"PreTraining": "GPT2LMHeadModel"},
)
