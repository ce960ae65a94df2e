"""Transformer: encoder-only, decoder-only, or encoder-decoder, from token ids to hidden states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import outputs
from .errors import ConfigError, InputError
from .outputs import BaseModelOutput
from .spec import Spec
from .structure.embedding import Table
from .structure.maps import Request
from .structure.masks import reaching
from .structure.stack import Decoder, Encoder


class Transformer(nn.Module):
    """The three structures; which one is decided when the model is built.

    Args:
        spec: the parts.
        add_pooling_layer: whether an encoder-only model that can pool a text into one vector has that part.

    Example:
        >>> model = AutoModel.from_pretrained("glassformer/tiny-bert")
        >>> model(input_ids=torch.tensor([[2, 9, 3]])).last_hidden_state.shape
    """

    def __init__(self, spec: Spec, add_pooling_layer: bool = True) -> None:
        super().__init__()
        pad = None if spec.pad is None or spec.pad < 0 else spec.pad  # some checkpoints write -1 for none
        if pad is not None and pad >= spec.vocab_size:
            raise ConfigError(f"pad_token_id is {pad}, but the vocabulary has {spec.vocab_size} tokens; correct one.")
        self.spec = spec
        tokens = Table(spec.vocab_size, spec.hidden_size, padding_idx=pad)
        self.encoder = Encoder(tokens, spec.encoder) if spec.encoder else None
        if spec.encoder and not spec.shared:
            tokens = Table(spec.vocab_size, spec.hidden_size, padding_idx=pad)
        self.decoder = Decoder(tokens, spec.decoder) if spec.decoder else None
        self.pooler = spec.pooler(spec.hidden_size) if spec.pooler and add_pooling_layer else None

    @property
    def stacks(self) -> list[Encoder | Decoder]:
        """The encoder and the decoder, those that there are."""
        return [stack for stack in (self.encoder, self.decoder) if stack is not None]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        encoder_outputs: Any = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: Request = False,
        output_hidden_states: Request = False,
    ) -> Any:
        """From tokens to states; which arguments have a meaning follows from the structure.

        Args:
            input_ids: (B, T) token ids, the encoder's where there is one.
            attention_mask: (B, T), 1 for real tokens; with a cache it covers the past too.
            token_type_ids: (B, T).
            position_ids: (B or 1, T); counted from zero, or on from the cache, if not given.
            inputs_embeds: (B, T, D) in the place of input_ids.
            decoder_input_ids: (B, U) token ids of the decoder.
            decoder_attention_mask: (B, past + U).
            decoder_inputs_embeds: (B, U, D) in the place of decoder_input_ids.
            encoder_outputs: what the encoder gave in an earlier call, so that it does not run again.
            encoder_hidden_states: (B, S, D), for a decoder-only model with cross-attention.
            encoder_attention_mask: (B, S).
            past_key_values: the cache of an earlier call.
            use_cache: whether the cache is wanted back.
            output_attentions: True, or the layers whose weights are wanted, or from layers to their heads or `Maps`.
            output_hidden_states: True, or the numbers of the states that are wanted.

        Raises:
            InputError: if inputs are missing, double or do not fit.
        """
        asked: dict[str, Any] = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        text = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            **asked,
        }
        if self.pooler is not None:
            attention_mask = self._reaching_first(attention_mask, input_ids if inputs_embeds is None else inputs_embeds)
        if self.decoder is None and self.encoder is not None:
            return self._pooled(self.encoder(input_ids, attention_mask, **text))
        if self.encoder is None and self.decoder is not None:
            out = self.decoder(
                *(input_ids, attention_mask),
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **text,
            )
            return self._pooled(out)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds=inputs_embeds, **asked)  # type: ignore[misc]
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._decoder_ids(input_ids)
        out = self.decoder(  # type: ignore[misc]
            *(decoder_input_ids, decoder_attention_mask),
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **asked,
        )
        return outputs.Seq2SeqModelOutput(
            last_hidden_state=out.last_hidden_state,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )

    def _reaching_first(self, mask: Tensor | None, given: Tensor | None) -> Tensor | None:
        """A mask under which the first position is computed, which the pooler reads, padding or not."""
        if given is None:
            return mask
        first = torch.arange(given.shape[1], device=given.device)[None] == 0
        return reaching(mask, first, causal=self.decoder is not None)

    def _pooled(self, out: Any) -> Any:
        """The output of a single stack in the class that its family gives."""
        if self.spec.crosses:
            # Maps that were asked for, of which there are none, are an empty tuple.
            cross = out.get("cross_attentions") or (None if out.attentions is None else ())
            out = carry(outputs.BaseModelOutputWithPastAndCrossAttentions, out, cross_attentions=cross)
        if self.spec.pooler is not None:
            pooled = self.pooler(out.last_hidden_state) if self.pooler is not None else None
            return carry(outputs.BaseModelOutputWithPoolingAndCrossAttentions, out, pooler_output=pooled)
        if self.decoder is not None and not self.spec.crosses:
            return carry(outputs.BaseModelOutputWithPast, out)
        return out

    def _decoder_ids(self, input_ids: Tensor | None) -> Tensor:
        if not self.spec.decoder_reads_inputs or self.spec.decoder_start is None or input_ids is None:
            raise InputError(
                "An encoder-decoder model needs decoder_input_ids (or decoder_inputs_embeds), or labels on a class "
                "with a head; to continue from a text call model.generate."
            )
        ids: Tensor = self.spec.decoder_start(input_ids)
        return ids


def carry(kind: type[Any], out: Any, **new: Any) -> Any:
    """An output of class `kind` that takes what it has a field for from `out`, and the rest from `new`."""
    taken = {name: value for name, value in out.items() if name in kind.__dataclass_fields__}
    return kind(**{**taken, **new})
