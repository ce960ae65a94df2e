"""Logit lens: what the model would say if it stopped after each layer.

Every layer's residual stream is read as the last one is, through the final norm and the vocabulary's readout
(https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...structure.maps import picked
from ..inputs import Inputs, prepared, token_id
from ..tables import Drawn, Table, titled
from ..tokens import names_of, readable, tokens_of
from .hearing import evaluating, heard


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Drawn):
    """What each layer would say; L is the number of layers and one for the embedding.

    Attributes:
        layers: the names of the L rows, "embedding" first.
        read: the tokens of each text that was read, B lists of T.
        tokens: the likeliest token after each layer, B lists of L lists of T.
        probabilities: of these, (B, L, T), from 0 to 1.
        top_ids: the k likeliest tokens, (B, L, T, k).
        top_probabilities: of these, (B, L, T, k).
        target: the tokens that are followed through the layers, (B, T): those asked for, or what the model says.
        target_probabilities: of these, (B, L, T).
        target_ranks: how many tokens are likelier, (B, L, T); 0 for the likeliest.
        names: from the ids of all these tokens to their text.
    """

    layers: tuple[str, ...]
    read: list[list[str]]
    tokens: list[list[list[str]]]
    probabilities: Tensor
    top_ids: Tensor
    top_probabilities: Tensor
    target: Tensor
    target_probabilities: Tensor
    target_ranks: Tensor
    names: dict[int, str]

    def top(self, layer: int, position: int, row: int = 0) -> list[tuple[str, float]]:
        """The likeliest tokens after a layer at a position, each with its probability.

        Args:
            layer: 0 is the embedding, -1 what the model says.
            position: of the token read.
            row: of the text.
        """
        layer = picked(layer, len(self.layers), "layer of the lens")[0]
        position = picked(position, self.probabilities.shape[2], "position")[0]
        place = (picked(row, len(self.read), "text")[0], layer, position)
        ids, shares = self.top_ids[place].tolist(), self.top_probabilities[place].tolist()
        return [(self.names[token], share) for token, share in zip(ids, shares)]

    def tables(self) -> list[Table]:
        """A table a text: the last layer above, a column for each token read."""
        found = []
        for row, tokens in enumerate(self.read):
            said = [readable(line) for line in self.tokens[row]]
            shares = self.probabilities[row].tolist()
            order = range(len(self.layers) - 1, -1, -1)
            cells = [[self.layers[at], *map(_share, said[at], shares[at])] for at in order]
            title = titled("the likeliest token after each layer", row, len(self.read))
            found.append(Table(title, ["", *readable(tokens)], cells, [shares[at] for at in order]))
        return found


def logit_lens(
    model: Any, inputs: Inputs, tokenizer: Any = None, k: int = 5, target: int | str | Tensor | None = None
) -> LogitLens:
    """Read every layer's states as the vocabulary's head reads the last ones; the last row is the model's own.

    Args:
        model: with a head over the vocabulary; of an encoder-decoder it is the decoder that is read.
        inputs: a text, several, or what the tokenizer made of them.
        tokenizer: of the model; the one beside it if not given.
        k: how many tokens are kept of each distribution.
        target: a token to be followed, by its id or its text, or ids (B, T) or that broadcast to it; what the model
            says in the end if not given.

    Raises:
        InputError: if the model has no such head, or k or the target is not in the vocabulary.

    Example:
        >>> lens = logit_lens(model, "To be or not to")
        >>> lens.top(layer=-1, position=-1)[0]
    """
    head = getattr(model, "lm_head", None)
    if head is None:
        raise InputError(
            f"{type(model).__name__} has no head over the vocabulary to read its layers with; load the checkpoint "
            "with AutoModelForCausalLM, AutoModelForSeq2SeqLM or AutoModelForMaskedLM."
        )
    stack = model.base_model.stacks[-1]
    name = "encoder" if model.base_model.decoder is None else "decoder"
    call, _, tokenizer = prepared(model, inputs, tokenizer)
    places = [f"{name}.layers.0.input", *(f"{name}.layers.{layer}.output" for layer in range(len(stack.layers)))]
    with torch.no_grad(), evaluating(model):
        states = heard(model, call, [*places, f"{name}.input_ids"])
        rows, length = states[places[0]].shape[:2]
        size = head.linear.out_features
        if not 1 <= k <= size:
            raise InputError(f"k is {k}; give a number from 1 to {size}, the tokens of the vocabulary.")
        followed = None if target is None else _followed(target, tokenizer, size).to(model.device)
        followed = None if followed is None else followed.expand(rows, length)
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        # From the last layer, which says what is followed; one layer's scores over the vocabulary at a time.
        for place in reversed(places):
            scores = head(stack.final_norm(states[place])).float()
            top = scores.topk(k)
            followed = top.indices[..., 0] if followed is None else followed
            shares = scores.softmax(-1)
            of = followed[..., None]
            rank = (scores > scores.gather(-1, of)).sum(-1)
            found.append((top.indices, shares.gather(-1, top.indices), shares.gather(-1, of)[..., 0], rank))
    assert followed is not None
    ids, shares, followed_shares, ranks = (torch.stack(kind[::-1], 1).cpu() for kind in zip(*found))
    known = sorted({*ids.flatten().tolist(), *followed.flatten().tolist()})
    names = dict(zip(known, names_of(known, tokenizer)))
    tokens = [[[names[token] for token in line] for line in text] for text in ids[..., 0].tolist()]
    layers = ("embedding", *(f"layer {layer}" for layer in range(len(stack.layers))))
    texts = tokens_of(states.get(f"{name}.input_ids"), tokenizer, rows, length)
    return LogitLens(
        *(layers, texts, tokens, shares[..., 0], ids, shares, followed.cpu(), followed_shares, ranks, names)
    )


def _followed(target: int | str | Tensor | Sequence[int], tokenizer: Any, size: int) -> Tensor:
    if isinstance(target, (int, str)):
        return torch.tensor(token_id(target, tokenizer, size))
    ids = torch.as_tensor(target)
    token_id(int(ids.min()), tokenizer, size)
    token_id(int(ids.max()), tokenizer, size)
    return ids


def _share(token: str, share: float) -> str:
    return f"{token} {share:4.0%}"
