"""Token healing: the last token of a prompt may be the beginning of one that the model would rather have written.

A prompt that ends in "http:" ends in a token that the model has hardly ever seen before "//", since "://" is one token.
So the last token is taken back, and the model chooses again among the tokens that begin with the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassformer.errors import GenerationError

_LONGER = 10.0  # added to the scores of all tokens that begin as the last one
_SAME = 11.0  # and to its own, which is kept unless another one is clearly better


def heal(
    model: Any, tokenizer: Any, inputs: Tensor | None, given: dict[str, Any], generate: Callable[..., Any]
) -> tuple[Tensor, dict[str, Any]]:
    """The prompts with their last tokens chosen again, padded on the left.

    White space at the end of a prompt, where it is a token by itself, is left out. A prompt of one token stays.

    Args:
        model: decoder-only.
        tokenizer: the model's.
        inputs: token ids (B, T), or None if they are among the other arguments.
        given: the other arguments of the call.
        generate: the function of this name.

    Returns:
        The new ids (B, T'), and the other arguments with the mask of these.

    Raises:
        GenerationError: there is no tokenizer, or what is given are no whole prompts of tokens.
    """
    given = dict(given)
    ids = given.pop("input_ids", None) if inputs is None else inputs
    if tokenizer is None:
        raise GenerationError("token_healing looks at the text of tokens: pass the model's tokenizer as tokenizer=.")
    other = [name for name in ("past_key_values", "position_ids", "token_type_ids") if given.get(name) is not None]
    if ids is None or other or model.config.is_encoder_decoder:
        found = other or (["an encoder-decoder"] if model.config.is_encoder_decoder else ["no input_ids"])
        raise GenerationError(
            f"token_healing changes the prompts of a decoder-only model, given as input_ids; here is {found[0]}: leave "
            "out one of them."
        )
    mask = given.pop("attention_mask", None)
    pad = tokenizer.pad_token_id or 0
    if mask is None:
        mask = ids.ne(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else torch.ones_like(ids)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    rows = [_healed(model, tokenizer, row[real.bool()], vocabulary, special, generate) for row, real in zip(ids, mask)]
    length = max(1, *map(len, rows))
    healed = torch.stack([torch.cat([row.new_full((length - len(row),), pad), row]) for row in rows])
    given["attention_mask"] = torch.stack([torch.arange(length) >= length - len(row) for row in rows]).to(mask)
    return healed, given


def _healed(
    model: Any,
    tokenizer: Any,
    row: Tensor,
    vocabulary: dict[str, int],
    special: set[int],
    generate: Callable[..., Any],
) -> Tensor:
    while len(row) > 1 and not tokenizer.decode(row[-1:].tolist()).strip():
        row = row[:-1]
    last = int(row[-1]) if len(row) else -1
    if len(row) < 2 or last in special:
        return row
    begins = tokenizer.convert_ids_to_tokens(last)
    longer = [number for token, number in vocabulary.items() if token.startswith(begins) and number not in special]
    if longer == [last]:
        return row
    bias = {(number,): _SAME if number == last else _LONGER for number in longer}
    healed: Tensor = generate(
        model, row[None, :-1], max_new_tokens=1, sequence_bias=bias, do_sample=False, num_beams=1, token_healing=False,
        attention_mask=torch.ones_like(row[None, :-1]), return_dict_in_generate=False, num_return_sequences=1,
    )[0]  # fmt: skip
    return healed
