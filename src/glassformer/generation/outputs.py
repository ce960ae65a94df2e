"""What `generate(return_dict_in_generate=True)` returns; field order is the peer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glassformer.outputs import ModelOutput

if TYPE_CHECKING:
    from torch import Tensor

    Steps = tuple[Tensor, ...]
    LayersOfSteps = tuple[tuple[Tensor, ...], ...]


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """Of a decoder-only model; a tuple has one item a step, and n is 1 or, in the first step, the prompt's length.

    Attributes:
        sequences: token ids (B, T), the prompt first.
        scores: (B, V) a step, after the processors.
        logits: (B, V) a step, as the model gave them.
        attentions: (B, H, n, T) a step and layer.
        hidden_states: (B, n, D) a step and layer.
        past_key_values: the cache, for a call that continues.
    """

    sequences: Tensor | None = None
    scores: Steps | None = None
    logits: Steps | None = None
    attentions: LayersOfSteps | None = None
    hidden_states: LayersOfSteps | None = None
    past_key_values: Any = None


@dataclass
class GenerateEncoderDecoderOutput(ModelOutput):
    """Of an encoder-decoder; a tuple has one item a step, and n is 1 or, in the first step, the given tokens.

    Attributes:
        sequences: token ids (B, T) of the decoder, the start token first.
        scores: (B, V) a step, after the processors.
        logits: (B, V) a step, as the model gave them.
        encoder_attentions: (B, H, S, S) a layer.
        encoder_hidden_states: (B, S, D) a layer.
        decoder_attentions: (B, H, n, T) a step and layer.
        cross_attentions: (B, H, n, S) a step and layer.
        decoder_hidden_states: (B, n, D) a step and layer.
        past_key_values: the cache, for a call that continues.
    """

    sequences: Tensor | None = None
    scores: Steps | None = None
    logits: Steps | None = None
    encoder_attentions: Steps | None = None
    encoder_hidden_states: Steps | None = None
    decoder_attentions: LayersOfSteps | None = None
    cross_attentions: LayersOfSteps | None = None
    decoder_hidden_states: LayersOfSteps | None = None
    past_key_values: Any = None
