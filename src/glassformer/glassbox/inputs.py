"""Inputs: what the analyses are given, made ready for one call of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GlassformerError, InputError
from ..heads import QuestionAnswering, SequenceClassification
from ..structure.maps import picked

Inputs = str | Sequence[str] | Mapping[str, Any]


def prepared(
    model: Any, inputs: Inputs, tokenizer: Any = None, anatomy: Any = None
) -> tuple[dict[str, Any], list[str] | None, Any]:
    """The arguments of one call.

    Args:
        model: of this library.
        inputs: a text, several, or what the tokenizer made of them. A model with an encoder and a decoder and no
            decoder_input_ids begins with its start token, unless its head reads the encoder's tokens again.
        tokenizer: of the model; the one beside it if not given.
        anatomy: the same model of this library, where it is foreign.

    Returns:
        The arguments, the texts where they were given, and the tokenizer or None.

    Raises:
        InputError: if texts are given and there is no tokenizer.
    """
    call, texts, tokenizer = tokenized(model, inputs, tokenizer)
    anatomy = model if anatomy is None else anatomy
    spec = getattr(getattr(anatomy, "transformer", anatomy), "spec", None)
    both = spec is not None and spec.encoder is not None and spec.decoder is not None
    rereads = isinstance(anatomy, (SequenceClassification, QuestionAnswering))
    begun = any(call.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds", "labels"))
    if both and not rereads and not begun:
        given = next((call[name] for name in ("input_ids", "inputs_embeds") if call.get(name) is not None), None)
        if given is not None:
            start = model.config.decoder_start_token_id
            call["decoder_input_ids"] = torch.full((len(given), 1), start, device=given.device)
    return call, texts, tokenizer


def tokenized(model: Any, inputs: Inputs, tokenizer: Any = None) -> tuple[dict[str, Any], list[str] | None, Any]:
    """The same, but a decoder beside an encoder is given nothing to begin with."""
    texts = None
    tokenizer = tokenizer or tokenizer_beside(model)
    if not isinstance(inputs, Mapping):
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if tokenizer is None:
            raise InputError(f"This {type(model).__name__} has no tokenizer beside it: give tokenizer=, or inputs.")
        made = tokenizer(texts, padding=len(texts) > 1, return_tensors="pt")
        inputs = {name: tensor.to(model.device) for name, tensor in made.items()}
    return dict(inputs), texts, tokenizer


def tokenizer_beside(model: Any) -> Any:
    """The tokenizer of the folder or bundled name that a model was loaded from; None if there is none."""
    from ..checkpoints.hub import Repository
    from ..tokenization import AutoTokenizer

    where = getattr(getattr(model, "config", None), "name_or_path", "")
    if not where or not Repository(where).is_local:
        return None
    try:
        return AutoTokenizer.from_pretrained(where)
    except (GlassformerError, OSError):
        return None


def real_tokens(model: Any, call: Mapping[str, Any], stack: str, rows: int, length: int) -> Tensor:
    """Which tokens of a stack are no padding, (B, T) booleans: what the call's mask says, all if it has none."""
    both = len(model.base_model.stacks) > 1
    mask = call.get("decoder_attention_mask" if both and stack == "decoder" else "attention_mask")
    if mask is None or mask.dim() > 3:  # a mask of four dimensions says who looks at whom, not what is padding
        return torch.ones(rows, length, dtype=torch.bool, device=model.device)
    real: Tensor = mask.flatten(0, -2)[:, -length:].bool()
    return real


def position_of(real: Tensor, position: int) -> Tensor:
    """The place in each row, (B,), of a token counted among those that are no padding, real (B, T).

    Raises:
        InputError: if a row has no such token.
    """
    places = [row.nonzero()[:, 0].tolist() for row in real]
    chosen = [there[picked(position, len(there), "token")[0]] for there in places]
    return torch.tensor(chosen, device=real.device)


def token_id(token: int | str, tokenizer: Any, size: int) -> int:
    """The id of a token, given by its id, its name in the vocabulary, or a text that is one token.

    Args:
        token: which.
        tokenizer: of the model, or None.
        size: of the vocabulary.

    Raises:
        InputError: if there is no such token, or the text is several.
    """
    if isinstance(token, str):
        if tokenizer is None:
            raise InputError(f"Without a tokenizer {token!r} has no id: give tokenizer=, or the id.")
        vocabulary = tokenizer.get_vocab()
        ids = [vocabulary[token]] if token in vocabulary else tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(ids))) or "none"
            raise InputError(f"{token!r} is not one token of the vocabulary but {len(ids)} ({pieces}); give one.")
        return int(ids[0])
    if not 0 <= token < size:
        raise InputError(f"There is no token {token} in a vocabulary of {size}; ids count from 0.")
    return token
