"""Attention rollout: how much of each token reaches each state through all layers (https://arxiv.org/abs/2005.00928).

Half of what a state brings to the next layer is taken to be itself, the residual stream, and half what the attention
mixes in, its heads averaged: `(A + I) / 2`, multiplied over the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..inputs import Inputs, prepared, real_tokens
from ..stacks import stack_of
from ..tables import Drawn, Table, titled
from ..tokens import readable, tokens_of
from .hearing import heard

NEAREST = 5  # tokens that are named for each state


@dataclass(frozen=True, eq=False, repr=False)
class AttentionRollout(Drawn):
    """How much of each token reaches each state.

    Attributes:
        stack: "encoder" or "decoder".
        read: the tokens of each text, B lists of T.
        layers: the rollout after each layer, (B, layers, T, T): of query (third) how much comes from key (last). Rows
            sum to 1; rows and columns of padding are 0.
    """

    stack: str
    read: list[list[str]]
    layers: Tensor

    @property
    def rollout(self) -> Tensor:
        """The rollout after the last layer, (B, T, T)."""
        return self.layers[:, -1]

    def tables(self) -> list[Table]:
        """A table a text: for each token those from which most of its last state comes."""
        found = []
        for row, tokens in enumerate(self.read):
            names = readable(tokens)
            real = self.rollout[row].sum(-1) > 0
            top = self.rollout[row].topk(min(NEAREST, len(names)))
            shares = top.values.tolist()
            cells = [
                [names[at], *(f"{names[key]} {share:4.0%}" if share else "" for key, share in zip(keys, line))]
                for at, (keys, line) in enumerate(zip(top.indices.tolist(), shares))
            ]
            kept = real.nonzero()[:, 0].tolist()
            title = titled("where the last state of each token comes from, by attention rollout", row, len(self.read))
            header = ["", *(f"no. {place + 1}" for place in range(len(shares[0])))]
            found.append(Table(title, header, [cells[at] for at in kept], [shares[at] for at in kept]))
        return found


def attention_rollout(model: Any, inputs: Inputs, stack: str | None = None, tokenizer: Any = None) -> AttentionRollout:
    """Multiply the attention of all layers, with half of each left to the residual stream.

    Args:
        model: of this library.
        inputs: a text, several, or what the tokenizer made of them.
        stack: "encoder" or "decoder"; the only one if there is one.
        tokenizer: of the model; the one beside it if not given.

    Raises:
        InputError: if it is not said which of two stacks, or a cache is given, whose tokens have no states.

    Example:
        >>> attention_rollout(model, "to be or not to be").rollout[0, -1]
    """
    stack = stack_of(model, stack)
    call, _, tokenizer = prepared(model, inputs, tokenizer)
    if call.get("past_key_values") is not None:
        raise InputError("Tokens in a cache have no states to follow attention through; give the whole text.")
    count = len(getattr(model.base_model, stack).layers)
    names = [f"{stack}.layers.{layer}.attention.weights" for layer in range(count)]

    def mixed(tensor: Tensor) -> Tensor:
        if tensor.dim() < 4:
            return tensor
        step = tensor.float().mean(1) + torch.eye(tensor.shape[-1], device=tensor.device)
        return step / step.sum(-1, keepdim=True)

    with torch.no_grad():
        kept = heard(model, call, [*names, f"{stack}.input_ids"], mixed)
        rows, length = kept[names[0]].shape[:2]
        real = real_tokens(model, call, stack, rows, length)
        flow = torch.diag_embed(real.float())
        layers = []
        for name in names:
            flow = (kept[name] @ flow) * real[:, :, None]
            layers.append(flow)
    texts = tokens_of(kept.get(f"{stack}.input_ids"), tokenizer, rows, length)
    return AttentionRollout(stack, texts, torch.stack(layers, 1).cpu())
