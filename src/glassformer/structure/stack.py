"""Encoder and Decoder: an embedding, the loop over the layers, and what is collected on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from .. import spec
from ..cache import EncoderDecoderCache, KVCache, as_cache
from ..errors import InputError
from ..outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, ModelOutput
from .layer import Layer
from .maps import Request, requested, requested_maps
from .masks import attention_bias, packed_segments, tokens, visible
from .packing import NONE, Padding, padding_of
from .places import Announcing
from .positions import Positions
from .twin import twin

Shaped = TypeVar("Shaped", bound=ModelOutput)


def _layers(dim: int, plans: Sequence[spec.Layer]) -> list[Layer]:
    """A layer a plan."""
    layers: list[Layer] = []
    for index, plan in enumerate(plans):
        again = index > 0 and plan is plans[index - 1] and next(layers[-1].parameters()).is_meta
        layers.append(twin(layers[-1]) if again else Layer(dim, plan))
    return layers


class Stack(Announcing):
    """What encoders and decoders share.

    Args:
        tokens: the token table.
        plan: the parts.

    Attributes:
        checkpoint: recomputes a layer in the backward pass instead of keeping what it computed; None to keep all.
        executor: runs the stack in another way where that gives the same, or gives None; None for PyTorch alone.
    """

    executor: Callable[..., dict[str, Any] | None] | None = None

    places: ClassVar[dict[str, str]] = {
        "input_ids": "the tokens, (B, T)",
        "mask": "what is added to the scores: 0 where a query may look, minus infinity where not, (B or 1, 1, T, S)",
        "memory_mask": "the same for the encoder's states, (B or 1, 1, T, S)",
        "output": "the last states, after the final norm, (B, T, D)",
    }

    def __init__(self, tokens: nn.Embedding, plan: spec.Stack) -> None:
        super().__init__()
        dim = tokens.embedding_dim
        self.embedding = plan.embedding.part(tokens, plan.embedding)
        self.positions = plan.positions() if plan.positions else Positions()
        self.layers = nn.ModuleList(_layers(dim, plan.layers))
        self.final_norm = plan.final_norm(dim) if plan.final_norm else nn.Identity()
        self.dropout = nn.Dropout(plan.final_dropout)
        self.layerdrop = plan.layerdrop
        self.packs = plan.packs
        self.checkpoint: Callable[..., Any] | None = None

    def has(self, place: str) -> bool:
        """Whether there is such a tensor: not every stack looks at an encoder."""
        crosses = any(layer.cross_attention is not None for layer in self.layers)
        return super().has(place) and (place != "memory_mask" or crosses)

    def _shape(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, int]:
        """B and T of what is given, which is one of the two."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InputError("Give exactly one of input_ids and inputs_embeds.")
        if input_ids is not None and input_ids.dim() != 2:
            raise InputError(f"input_ids has shape {tuple(input_ids.shape)}; give (batch, tokens).")
        return given.shape[0], given.shape[1]

    def _embed(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        past: int,
        padding: Padding,
    ) -> tuple[Tensor, Tensor]:
        """What the first layer reads, (B, T, D) or (1, N, D), and the positions, (B or 1, T)."""
        if input_ids is not None:
            input_ids = self.announce("input_ids", input_ids)
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(past, past + given.shape[1], device=given.device)[None]
            if self.embedding.positions is not None:
                self.embedding.positions.check(past + given.shape[1])
        inputs = (input_ids, inputs_embeds, token_type_ids, position_ids)
        return self.embedding(*(None if x is None else padding.pack(x) for x in inputs)), position_ids

    def _mask(
        self, place: str, bias: Tensor | None, causal: bool, queries: int, keys: int, x: Tensor
    ) -> tuple[Tensor | None, bool]:
        """Announce a mask, also where kernels need none to be made."""
        if self.listener is None or self.listener.wants(place) is None:
            return bias, causal
        shown = visible(queries, keys, causal, x) if bias is None else bias
        heard = self.announce(place, shown)
        return (bias, causal) if heard is shown else (heard, False)

    def _run(
        self,
        x: Tensor,
        position_ids: Tensor,
        bias: Tensor | None,
        causal: bool,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        cache: KVCache | None = None,
        output_attentions: Request = False,
        output_hidden_states: Request = False,
        padding: Padding = NONE,
        memory_padding: Padding = NONE,
    ) -> dict[str, Any]:
        """The loop over the layers, from embedded tokens to the last states and what was asked for."""
        maps = requested_maps(output_attentions, len(self.layers))
        kept = requested(output_hidden_states, len(self.layers) + 1)
        attentions: list[Tensor | None] = []
        cross_attentions: list[Tensor | None] = []
        states: list[Tensor | None] = []
        rotation = self.positions.rotation(position_ids, x.dtype)
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        cross = cache.cross_attention_cache if isinstance(cache, EncoderDecoderCache) else None
        for index, layer in enumerate(self.layers):
            if self.training and self.layerdrop > 0.0 and torch.rand([]) < self.layerdrop:
                continue
            states.append(padding.blank(x) if index in kept else None)
            arguments = (
                *(x, memory, bias, causal, rotation, memory_bias),
                own.layer(index) if own is not None else None,
                cross.layer(index) if cross is not None else None,
                *(maps.get(index), padding, memory_padding),
            )
            if self.checkpoint is not None and self.training:
                x, attended, looked = self.checkpoint(layer, *arguments)
            else:
                x, attended, looked = layer(*arguments)
            attentions.append(None if attended is None else padding.blank_maps(attended, maps[index]))
            cross_attentions.append(None if looked is None else padding.blank_maps(looked, maps[index]))
        x = padding.blank(self.announce("output", self.dropout(self.final_norm(x))))
        states.append(x if len(self.layers) in kept else None)
        asked = output_attentions is not None and output_attentions is not False
        return {
            "last_hidden_state": x,
            "hidden_states": tuple(states) if output_hidden_states not in (None, False) else None,
            "attentions": tuple(attentions) if asked else None,
            "cross_attentions": tuple(cross_attentions) if asked and memory is not None else None,
        }


class Encoder(Stack):
    """Reads a text in both directions.

    Example:
        >>> states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: Request = False,
        output_hidden_states: Request = False,
        return_dict: bool | None = True,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """From tokens to states.

        Args:
            input_ids: (B, T); or
            inputs_embeds: (B, T, D).
            attention_mask: (B, T), 1 for real tokens, all others being left out; or (B, 1, T, T), leaving out none.
            token_type_ids: (B, T).
            position_ids: (B or 1, T); counted from zero if not given.
            output_attentions: True, or the layers whose weights are wanted, or from layers to their heads or `Maps`.
            output_hidden_states: True, or the numbers of the states that are wanted.
            return_dict: whether the result has names or is a tuple.

        Raises:
            InputError: if inputs are missing, double or do not fit.
        """
        if self.executor is not None and inputs_embeds is None:
            given = (input_ids, attention_mask, token_type_ids, position_ids, output_attentions, output_hidden_states)
            if (run := self.executor(self, *given)) is not None:
                del run["cross_attentions"]
                return _shaped(BaseModelOutput(**run), return_dict)
        batch, length = self._shape(input_ids, inputs_embeds)
        padding = padding_of(tokens(attention_mask, length), batch, self)
        x, position_ids = self._embed(input_ids, inputs_embeds, token_type_ids, position_ids, 0, padding)
        bias, _ = attention_bias(attention_mask, length, length, False, x.dtype)
        bias, _ = self._mask("mask", bias, False, length, length, x)
        bias, _ = self.positions.bias(bias, False, length, length)
        run = self._run(
            *(x, position_ids, bias, False),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            padding=padding,
        )
        del run["cross_attentions"]
        return _shaped(BaseModelOutput(**run), return_dict)


class Decoder(Stack):
    """Reads a text to the left only, with a cache of what it has read, and may look at an encoder's output."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: Request = False,
        output_hidden_states: Request = False,
        return_dict: bool | None = True,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """From tokens to states.

        Args:
            input_ids: (B, T), the new tokens; or
            inputs_embeds: (B, T, D).
            attention_mask: (B, past + T), 1 for real tokens, all others being left out; or (B, 1, T, past + T),
                leaving out none.
            token_type_ids: (B, T).
            position_ids: (B or 1, T); counted on from the cache if not given.
            encoder_hidden_states: (B, S, D), what cross-attention looks at.
            encoder_attention_mask: (B, S).
            past_key_values: the cache of the tokens before.
            use_cache: whether a cache is wanted back.
            output_attentions: True, or the layers whose weights are wanted, or from layers to their heads or `Maps`.
            output_hidden_states: True, or the numbers of the states that are wanted.
            return_dict: whether the result has names or is a tuple.

        Raises:
            InputError: if inputs are missing, double or do not fit.
        """
        memory = encoder_hidden_states
        if memory is not None and all(layer.cross_attention is None for layer in self.layers):
            raise InputError(
                "encoder_hidden_states were given, but this model has no cross-attention; "
                "load it with add_cross_attention=True, or leave them out."
            )
        recomputed = self.checkpoint is not None and self.training
        cache = None
        if (use_cache or past_key_values is not None) and not recomputed:
            cache = as_cache(past_key_values, memory is not None)
        if self.executor is not None and inputs_embeds is None:
            given = (input_ids, attention_mask, token_type_ids, position_ids, output_attentions, output_hidden_states)
            run = self.executor(self, *given, memory, encoder_attention_mask, cache)
            if run is not None:
                return _shaped(BaseModelOutputWithPastAndCrossAttentions(past_key_values=cache, **run), return_dict)
        batch, length = self._shape(input_ids, inputs_embeds)
        padding = padding_of(tokens(attention_mask, length), batch, self)
        past = cache.get_seq_length() if cache is not None else 0
        segments = None
        if self.packs and position_ids is not None and attention_mask is None and cache is None:
            segments = packed_segments(position_ids)
        x, position_ids = self._embed(input_ids, inputs_embeds, token_type_ids, position_ids, past, padding)
        bias, causal = attention_bias(attention_mask, length, past + length, True, x.dtype, segments)
        bias, causal = self._mask("mask", bias, causal, length, past + length, x)
        bias, causal = self.positions.bias(bias, causal, length, past + length)
        memory_bias, memory_padding = None, NONE
        if memory is not None:
            looked = memory.shape[1]
            memory_bias, _ = attention_bias(encoder_attention_mask, length, looked, False, x.dtype)
            memory_bias, _ = self._mask("memory_mask", memory_bias, False, length, looked, x)
            if not (isinstance(cache, EncoderDecoderCache) and cache.cross_attention_cache.get_seq_length()):
                memory_padding = padding_of(tokens(encoder_attention_mask, looked), len(memory), self)
                memory = memory_padding.pack(memory)
        run = self._run(
            *(x, position_ids, bias, causal, memory, memory_bias, cache, output_attentions, output_hidden_states),
            padding=padding,
            memory_padding=memory_padding,
        )
        return _shaped(BaseModelOutputWithPastAndCrossAttentions(past_key_values=cache, **run), return_dict)


def _shaped(output: Shaped, return_dict: bool | None) -> Shaped | tuple[Any, ...]:
    return output.to_tuple() if return_dict is False else output
