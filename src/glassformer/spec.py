"""The structure of a model as plain frozen data: which parts it takes, and how they are put together.

A family page turns a configuration into a `Spec`; `model.py` builds the modules from it. A `Part` is a class of
`structure/` with its settings bound (`functools.partial(RMSNorm, eps=1e-6)`): variants are other classes, so nothing in
a forward pass asks which family it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

Part = Callable[..., Any]


@dataclass(frozen=True)
class Embedding:
    """How tokens become vectors: their table, plus token types and learned positions, then a norm.

    Attributes:
        part: the class that embeds.
        types: how many token types there are; 0 for none.
        positions: learned positions, added to the vectors; None where they come in later (rotary, relative) or not.
        norm: applied to the sum; None for none.
        scale: what the token vectors are multiplied with.
        dropout: probability, after the norm.
    """

    part: Part
    types: int = 0
    positions: Part | None = None
    norm: Part | None = None
    scale: float = 1.0
    dropout: float = 0.0


@dataclass(frozen=True)
class Layer:
    """One layer: attention, for a decoder that looks at an encoder cross-attention, and feed-forward.

    Each is a residual step `x = after(x + out(f(before(x))))`; a norm that is not named is the identity.

    Attributes:
        attention: over the layer's own sequence.
        feedforward: of each position alone.
        norm: the class of the norms.
        norm_at: the slots that hold one, of "before", "out" and "after": ("before",) in GPT-2, ("after",) in BERT.
        cross_attention: over the encoder's output, or None.
        dropout: probability, on what each step adds.
    """

    attention: Part
    feedforward: Part
    norm: Part
    norm_at: tuple[str, ...] = ("before",)
    cross_attention: Part | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Stack:
    """An encoder or a decoder: an embedding and a list of layers.

    Attributes:
        embedding: what the stack begins with.
        layers: one entry a layer.
        positions: positions that meet the model inside the layers (rotary, relative), computed once a call.
        final_norm: after the last layer, or None.
        final_dropout: probability, after the final norm.
        layerdrop: probability that training skips a layer (https://arxiv.org/abs/1909.11556).
        packs: whether position_ids that start anew within a row part texts that do not see each other.
    """

    embedding: Embedding
    layers: Sequence[Layer]
    positions: Part | None = None
    final_norm: Part | None = None
    final_dropout: float = 0.0
    layerdrop: float = 0.0
    packs: bool = False


@dataclass(frozen=True)
class Readouts:
    """What the For... classes of a family read from the hidden states; each is built with (width, outputs).

    Attributes:
        lm: scores over the vocabulary.
        sequence: class scores from one vector a text.
        pick: takes that vector out of the hidden states.
        token: class scores of every token.
        span: start and end scores of every token; its outputs are 2 unless `span_labels` says the configuration's.
        choice: one score a choice.
        causal_lm: scores over the vocabulary from a decoder alone, where they differ from `lm`.
        shifted: whether a causal LM's labels are the inputs, to be shifted here, or are shifted already.
    """

    lm: Part
    sequence: Part
    token: Part
    span: Part
    pick: Part
    choice: Part | None = None
    causal_lm: Part | None = None
    span_labels: int = 2
    shifted: bool = True


@dataclass(frozen=True)
class Spec:
    """A whole Transformer: an encoder, a decoder, or both.

    Attributes:
        vocab_size: rows of the token table.
        hidden_size: D, the width of the hidden states.
        encoder: reads in both directions; None for decoder-only.
        decoder: reads to the left only; None for encoder-only.
        readouts: what the heads are made of.
        tied: whether the scores over the vocabulary use the token table itself.
        shared: whether an encoder and a decoder have one token table between them.
        pad: the id whose row of the token table starts at zero and takes no gradient, or None.
        pooler: one vector a text made from the hidden states, or None.
        decoder_start: makes decoder_input_ids from labels or input_ids, (B, T) to (B, T); None without a decoder of
            its own.
        decoder_reads_inputs: whether decoder_input_ids, when not given, are made from input_ids.
        std: the standard deviation of a fresh weight, by the name of its module.
        crosses: whether the family's decoders can look at an encoder, so that outputs have a place for its maps.
        norm: what the scales of fresh norms begin with.
        keep_fp32: last parts of module names that stay in fp32 when the model is loaded in fp16.
    """

    vocab_size: int
    hidden_size: int
    readouts: Readouts
    std: Callable[[str], float]
    encoder: Stack | None = None
    decoder: Stack | None = None
    tied: bool = True
    shared: bool = True
    pad: int | None = None
    pooler: Part | None = None
    decoder_start: Callable[..., Any] | None = None
    decoder_reads_inputs: bool = False
    crosses: bool = False
    norm: float = 1.0
    keep_fp32: tuple[str, ...] = ()

    def encoder_only(self) -> Spec:
        """The same model without its decoder."""
        return replace(self, decoder=None)

    def decoder_only(self) -> Spec:
        """The same model without its encoder."""
        return replace(self, encoder=None)
