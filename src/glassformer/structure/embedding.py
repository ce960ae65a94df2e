"""Embedding: token ids to vectors, with token types and learned positions where a model has them."""

from __future__ import annotations

from typing import ClassVar, NoReturn

import torch
from torch import Tensor, nn

from .. import spec
from ..errors import InputError, RangeError
from .places import Announcing


class Table(nn.Embedding):
    """An `nn.Embedding` that draws nothing on the meta device, where torch would load its compiler to do so."""

    def reset_parameters(self) -> None:
        """Draw the rows, unless there is no memory to draw them in."""
        if self.weight.device.type != "meta":
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """The rows (..., D) of indices (...).

        Raises:
            RangeError: if there is no such row (on a CPU; other devices stop in their own way).
        """
        try:
            return super().forward(input)
        except IndexError:
            self.refuse(int(input.min()), int(input.max()))

    def refuse(self, least: int, most: int) -> NoReturn:
        """Raise RangeError, as indices from `least` to `most` were looked up."""
        raise RangeError(
            f"Indices from {least} to {most} were looked up in a table of {self.num_embeddings} rows: a token id "
            "or a position is beyond what the model has; use its own tokenizer, and shorter texts."
        ) from None


class Embedding(Announcing):
    """`dropout(norm(scale · tokens + types + positions))`.

    Args:
        tokens: the token table, which stacks may share.
        plan: what else there is.

    Example:
        >>> plan = spec.Embedding(Embedding, types=2)
        >>> Embedding(nn.Embedding(100, 8), plan)(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 8])
    """

    places: ClassVar[dict[str, str]] = {
        "tokens": "the vector of each token, scaled, (B, T, D)",
        "types": "the vector of each token's type, (B, T, D) or (D,) for one type",
        "positions": "the vector of each position, (B or 1, T, D)",
        "output": "their sum, normed, (B, T, D)",
    }

    def __init__(self, tokens: nn.Embedding, plan: spec.Embedding) -> None:
        super().__init__()
        dim = tokens.embedding_dim
        self.tokens = tokens
        self.types = Table(plan.types, dim) if plan.types else None
        self.positions = plan.positions(dim) if plan.positions else None
        self.norm = plan.norm(dim) if plan.norm else nn.Identity()
        self.dropout = nn.Dropout(plan.dropout)
        self.scale = plan.scale

    def has(self, place: str) -> bool:
        """Whether there is such a tensor: types and positions are not in every embedding."""
        lacking = {"types": self.types is None, "positions": self.positions is None}
        return super().has(place) and not lacking.get(place, False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """The vectors (B, T, D) that the first layer reads.

        Args:
            input_ids: (B, T); or
            inputs_embeds: (B, T, D) in the place of the scaled token vectors.
            token_type_ids: (B, T), zeros if not given.
            position_ids: (B or 1, T).
        """
        x: Tensor = self.tokens(input_ids) * self.scale if inputs_embeds is None else inputs_embeds
        x = self.with_types(self.announce("tokens", x), token_type_ids)
        if self.positions is not None and position_ids is not None:
            x = x + self.announce("positions", self.positions(position_ids))
        return self.announce("output", self.dropout(self.norm(x)))

    def with_types(self, x: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """The vectors x, (B, T, D), plus those of token types, (B, T), where the model has any."""
        if self.types is None:
            return x
        types = self.types.weight[0] if token_type_ids is None else self.types(token_type_ids)
        return x + self.announce("types", types)


def shift_right(ids: Tensor, start: int | None, pad: int | None) -> Tensor:
    """What a decoder reads to predict `ids`: the start token and all but the last; labels of -100 become padding.

    Args:
        ids: (B, T), labels or token ids.
        start: the id that a decoder begins with.
        pad: the id of padding.

    Raises:
        InputError: if there is no start or pad id.
    """
    if start is None or pad is None:
        raise InputError(
            f"decoder_start_token_id is {start} and pad_token_id is {pad}, but both are needed to make the decoder's "
            "inputs; set them in the model's config, or give decoder_input_ids."
        )
    shifted = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad)
