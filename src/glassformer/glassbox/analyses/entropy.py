"""Attention entropy: how widely each head spreads its attention, `-Σ w ln w` over the keys, in nats.

0 is a head that looks at one token alone; ln n one that looks at n tokens alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..inputs import Inputs, prepared, real_tokens
from ..stacks import stack_of
from ..tables import Drawn, Table
from ..tokens import tokens_of
from .hearing import heard


@dataclass(frozen=True, eq=False, repr=False)
class AttentionEntropy(Drawn):
    """How widely heads spread their attention.

    Attributes:
        part: what attends, as in "decoder.cross_attention".
        read: the tokens whose queries they are, B lists of T.
        queries: the entropy of each query's weights, (B, layers, H, T), in nats; NaN for padding.
        heads: the mean over all queries of all texts that are no padding, (layers, H), in nats.
    """

    part: str
    read: list[list[str]]
    queries: Tensor
    heads: Tensor

    def tables(self) -> list[Table]:
        """One table: a row a layer, a column a head."""
        means = self.heads.tolist()
        most = max(max(line) for line in means)
        cells = [[f"layer {layer}", *(f"{value:.2f}" for value in line)] for layer, line in enumerate(means)]
        title = f"entropy of {self.part} in nats, mean over queries; e^entropy is how many tokens a head looks at"
        shades = [[value / most if most else 0.0 for value in line] for line in means]
        return [Table(title, ["", *(f"head {head}" for head in range(len(means[0])))], cells, shades)]


def attention_entropy(
    model: Any, inputs: Inputs, stack: str | None = None, part: str = "attention", tokenizer: Any = None
) -> AttentionEntropy:
    """Measure how widely each head of each layer looks; no map is kept.

    Args:
        model: of this library.
        inputs: a text, several, or what the tokenizer made of them.
        stack: "encoder" or "decoder"; the only one if there is one, and for cross-attention the decoder.
        part: "attention" or "cross_attention".
        tokenizer: of the model; the one beside it if not given.

    Raises:
        InputError: if it is not said which of two stacks, or the call has no such attention.

    Example:
        >>> attention_entropy(model, "to be or not to be").heads.shape
    """
    if part not in ("attention", "cross_attention"):
        raise InputError(f"part is {part!r}; it is 'attention' or 'cross_attention'.")
    stack = stack_of(model, "decoder" if part == "cross_attention" and stack is None else stack)
    call, _, tokenizer = prepared(model, inputs, tokenizer)
    count = len(getattr(model.base_model, stack).layers)
    names = [f"{stack}.layers.{layer}.{part}.weights" for layer in range(count)]

    def spread(tensor: Tensor) -> Tensor:
        return tensor if tensor.dim() < 4 else torch.special.entr(tensor.float()).sum(-1)

    with torch.no_grad():
        kept = heard(model, call, [*names, f"{stack}.input_ids"], spread)
    if names[0] not in kept:
        raise InputError(f"No {part} was computed in this call: the {stack} was given no encoder's states to look at.")
    queries = torch.stack([kept[name] for name in names], 1)
    rows, length = queries.shape[0], queries.shape[-1]
    real = real_tokens(model, call, stack, rows, length)
    queries = queries.masked_fill(~real[:, None, None], math.nan).cpu()
    texts = tokens_of(kept.get(f"{stack}.input_ids"), tokenizer, rows, length)
    return AttentionEntropy(f"{stack}.{part}", texts, queries, queries.nanmean((0, 3)))
