"""What `forward` returns: ModelOutput (a mapping, a tuple and attributes at once) and one class a task.

Field order is the peer's, since tuples and unpacking depend on it. Fields that are None have no key.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.utils._pytree as pytree

if TYPE_CHECKING:
    from torch import Tensor

    from .cache import KVCache

    Maps = tuple[Tensor, ...]


class ModelOutput(OrderedDict[str, Any]):
    """Named results: `out.logits`, `out["logits"]` and `out[0]` are the same thing; what is None is not there.

    Subclasses are dataclasses whose fields all default to None. They are nodes of torch's pytree.

    Example:
        >>> out = BaseModelOutput(last_hidden_state=torch.zeros(1, 2, 3))
        >>> list(out), out[0].shape
        (['last_hidden_state'], torch.Size([1, 2, 3]))
    """

    def __init_subclass__(cls) -> None:
        pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), list(output.keys())),
            lambda values, keys: cls(**dict(zip(keys, values))),
            serialized_type_name=f"{cls.__module__}.{cls.__name__}",
        )

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:  # type: ignore[attr-defined]
            if (value := getattr(self, name)) is not None:
                super().__setitem__(name, value)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"{type(self).__name__} keeps its keys; copy it into a dict to remove {key!r}.")

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)  # type: ignore[attr-defined]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are there, in field order."""
        return tuple(self.values())


@dataclass
class BaseModelOutput(ModelOutput):
    """Of an encoder: last_hidden_state (B, T, D); hidden_states, layers + 1 of it; attentions, (B, H, T, T) a layer."""

    last_hidden_state: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class BaseModelOutputWithPast(ModelOutput):
    """Of a decoder: last_hidden_state (B, T, D), its cache, and what was asked for on the way."""

    last_hidden_state: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Of a decoder that may look at an encoder: cross_attentions are (B, H, T, S) a layer."""

    last_hidden_state: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None
    cross_attentions: Maps | None = None


@dataclass
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """Of BERT's backbone: pooler_output is (B, D), the first token's state through a dense layer and tanh."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None
    cross_attentions: Maps | None = None


@dataclass
class Seq2SeqModelOutput(ModelOutput):
    """Of an encoder-decoder: last_hidden_state (B, T, D) is the decoder's, encoder_last_hidden_state (B, S, D)."""

    last_hidden_state: Tensor | None = None
    past_key_values: KVCache | None = None
    decoder_hidden_states: Maps | None = None
    decoder_attentions: Maps | None = None
    cross_attentions: Maps | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Maps | None = None
    encoder_attentions: Maps | None = None


@dataclass
class CausalLMOutputWithPast(ModelOutput):
    """Next-token scores: logits (B, T, vocabulary); loss, the mean over labels in nats."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Next-token scores of a decoder that may look at an encoder: logits (B, T, vocabulary)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None
    cross_attentions: Maps | None = None


@dataclass
class Seq2SeqLMOutput(ModelOutput):
    """Next-token scores of an encoder-decoder: logits (B, T, vocabulary)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    decoder_hidden_states: Maps | None = None
    decoder_attentions: Maps | None = None
    cross_attentions: Maps | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Maps | None = None
    encoder_attentions: Maps | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """Scores for every position's token: logits (B, T, vocabulary)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class BertForPreTrainingOutput(ModelOutput):
    """Both heads of BERT's pretraining: prediction_logits (B, T, vocabulary), seq_relationship_logits (B, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class NextSentencePredictorOutput(ModelOutput):
    """Whether the second text follows the first: logits (B, 2), index 0 for yes."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Class scores of a text: logits (B, labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class SequenceClassifierOutputWithPast(ModelOutput):
    """Class scores of a text by a decoder: logits (B, labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class Seq2SeqSequenceClassifierOutput(ModelOutput):
    """Class scores of a text by an encoder-decoder: logits (B, labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    decoder_hidden_states: Maps | None = None
    decoder_attentions: Maps | None = None
    cross_attentions: Maps | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Maps | None = None
    encoder_attentions: Maps | None = None


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """One score a choice: logits (B, choices)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """Class scores of every token: logits (B, T, labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """Where an answer starts and ends: start_logits and end_logits (B, T)."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None


@dataclass
class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """Where an answer starts and ends, by an encoder-decoder: start_logits and end_logits (B, T)."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: KVCache | None = None
    decoder_hidden_states: Maps | None = None
    decoder_attentions: Maps | None = None
    cross_attentions: Maps | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Maps | None = None
    encoder_attentions: Maps | None = None


@dataclass
class GPT2DoubleHeadsModelOutput(ModelOutput):
    """Next-token scores (B, choices, T, vocabulary) in logits, and one score a choice (B, choices) in mc_logits."""

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: Maps | None = None
    attentions: Maps | None = None
