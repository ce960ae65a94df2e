"""What `generate(return_dict_in_generate=True)` returns; field order is the peer's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from glassformer.generation.stitching import stitch
from glassformer.outputs import ModelOutput

if TYPE_CHECKING:
    from torch import Tensor

    Steps = tuple[Tensor, ...]
    LayersOfSteps = tuple[tuple[Tensor, ...], ...]


class GenerateOutput(ModelOutput):
    """What every output of `generate` knows beside its keys, which are the peer's.

    Attributes:
        finish_reason: of every row "eos", "stop_string", "time", "length" or "criterion" (one of one's own).
    """

    finish_reason: tuple[str | None, ...] | None = None  # no field, since this class is no dataclass

    def __reduce__(self) -> Any:
        return (*super().__reduce__(), {"finish_reason": self.finish_reason})

    @overload
    def stitched(self, name: str) -> list[Tensor | None]: ...
    @overload
    def stitched(self, name: str, row: int) -> Tensor: ...
    def stitched(self, name: str, row: int | None = None) -> list[Tensor | None] | Tensor:
        """Attentions or hidden states of the whole text, in the place of a piece a step.

        A token that nothing was read after, as the last one, has no place in them. With beams the rows are those of
        `sequences`, each along the beams that it came through, and 0 after its end.

        Args:
            name: a key of this output: "attentions", "decoder_attentions", "cross_attentions", "hidden_states" or
                "decoder_hidden_states".
            row: a text of the batch, to have all its layers as one tensor.

        Returns:
            A tensor a layer, with T the tokens read: attentions (B, H, T, keys), 0 for keys that came later;
            cross-attentions (B, H, T, S); hidden states (B, T, D); None for a layer that was not asked for. With a row
            one tensor of the layers asked for: (layers, H, T, keys), (layers, H, T, S) or (layers, T, D).

        Raises:
            GenerationError: the output has no such steps.

        Example:
            >>> out = model.generate(ids, return_dict_in_generate=True, output_attentions=True)
            >>> out.stitched("attentions", row=0).shape  # layers, heads, queries, keys
        """
        return stitch(self, name, row)


@dataclass
class GenerateDecoderOnlyOutput(GenerateOutput):
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
class GenerateEncoderDecoderOutput(GenerateOutput):
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


@dataclass
class GenerateBeamDecoderOnlyOutput(GenerateOutput):
    """Of a decoder-only model with beams; rows of a step are B * beams, those of a text next to each other.

    Attributes:
        sequences: token ids (B * returned, T), the prompt first, of every text the best sequence first.
        sequences_scores: (B * returned,), the log-probability of what is new / length ** length_penalty.
        scores: (B * beams, V) a step, log-probabilities after the processors.
        logits: (B * beams, V) a step, as the model gave them.
        beam_indices: (B * returned, steps), the row of each step's scores that a token came from, -1 after the end.
        attentions: (B * beams, H, n, T) a step and layer.
        hidden_states: (B * beams, n, D) a step and layer.
        past_key_values: the cache of the last beams.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: Steps | None = None
    logits: Steps | None = None
    beam_indices: Tensor | None = None
    attentions: LayersOfSteps | None = None
    hidden_states: LayersOfSteps | None = None
    past_key_values: Any = None


@dataclass
class GenerateBeamEncoderDecoderOutput(GenerateOutput):
    """Of an encoder-decoder with beams; rows of a step are B * beams, those of a text next to each other.

    Attributes:
        sequences: token ids (B * returned, T) of the decoder, of every text the best sequence first.
        sequences_scores: (B * returned,), the log-probability of what is new / length ** length_penalty.
        scores: (B * beams, V) a step, log-probabilities after the processors.
        logits: (B * beams, V) a step, as the model gave them.
        beam_indices: (B * returned, steps), the row of each step's scores that a token came from, -1 after the end.
        encoder_attentions: (B, H, S, S) a layer.
        encoder_hidden_states: (B, S, D) a layer.
        decoder_attentions: (B * beams, H, n, T) a step and layer.
        cross_attentions: (B * beams, H, n, S) a step and layer.
        decoder_hidden_states: (B * beams, n, D) a step and layer.
        past_key_values: the cache of the last beams.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: Steps | None = None
    logits: Steps | None = None
    beam_indices: Tensor | None = None
    encoder_attentions: Steps | None = None
    encoder_hidden_states: Steps | None = None
    decoder_attentions: LayersOfSteps | None = None
    cross_attentions: LayersOfSteps | None = None
    decoder_hidden_states: LayersOfSteps | None = None
    past_key_values: Any = None
