"""Readouts: what turns hidden states into scores, and what picks the one vector that stands for a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from .activations import activation as activation_named
from .places import Announcing


class Pooler(Announcing):
    """`tanh(dense(x[0]))`, the first token's state as the state of the text.

    Args:
        dim: D.
    """

    places: ClassVar[dict[str, str]] = {"output": "the vector of the text, (B, D)"}

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        pooled: Tensor = torch.tanh(self.dense(states[:, 0]))
        return self.announce("output", pooled)


class Linear(nn.Module):
    """Scores from a state: dropout, then a linear layer.

    Args:
        dim: D.
        outputs: how many scores.
        bias: whether the layer has one.
        dropout: probability.

    Attributes:
        scale: what states are multiplied with first.
        executor: runs the layer, and what is added to its scores, in another way where that gives the same, or gives
            None; None for PyTorch alone.
    """

    scale = 1.0
    executor: Callable[[nn.Module, Tensor, Tensor | None], Tensor | None] | None = None

    def __init__(self, dim: int, outputs: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, outputs, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) to (..., outputs)."""
        return self._read(states)

    def _read(self, states: Tensor, offset: Tensor | None = None) -> Tensor:
        """Scores, with an offset (1, outputs) added."""
        states = self.dropout(states)
        scores = None if self.executor is None else self.executor(self.linear, states, offset)
        if scores is None:
            scores = self.linear(states) if offset is None else self.linear(states) + offset
        return scores


class Scaled(Linear):
    """Scores of states divided by √D, as T5 has them where it shares the token table."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__(dim, outputs, bias=False)
        self.scale = dim**-0.5

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) to (..., outputs)."""
        return super().forward(states * self.scale)


class Offset(Linear):
    """Scores with a fixed number added to each, which takes no gradient (BART's `final_logits_bias`)."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__(dim, outputs, bias=False)
        self.register_buffer("offset", torch.zeros(1, outputs))

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) to (..., outputs)."""
        return self._read(states, self.get_buffer("offset"))


class Transformed(Linear):
    """Scores after a dense layer, an activation and a norm (BERT's vocabulary head).

    Args:
        dim: D.
        outputs: how many scores.
        activation: its name.
        norm: the class of the norm.
    """

    def __init__(self, dim: int, outputs: int, activation: str, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(dim, outputs)
        self.dense = nn.Linear(dim, dim)
        self.activation = activation_named(activation)
        self.norm = norm(dim)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) to (..., outputs)."""
        return super().forward(self.norm(self.activation(self.dense(states))))


class Dense(Linear):
    """Scores after a dense layer and tanh, with dropout before each layer (T5's and BART's class head)."""

    def __init__(self, dim: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__(dim, outputs, dropout=dropout)
        self.dense = nn.Linear(dim, dim)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) to (..., outputs)."""
        return super().forward(torch.tanh(self.dense(self.dropout(states))))


# What picks one vector a text: (states (B, T, D), input_ids (B, T) or None, pad id, eos id) to (B, D).
Pick = Callable[[Tensor, Tensor | None, int | None, int | None], Tensor]


def last_token(states: Tensor, input_ids: Tensor | None, pad: int | None, eos: int | None) -> Tensor:
    """The state of the last token that is not padding; without ids or a pad id, simply the last.

    Raises:
        InputError: if there are several rows and no pad id to tell their ends.
    """
    rows = states.shape[0]
    if pad is None and rows != 1:
        raise InputError(
            "A batch of several texts needs config.pad_token_id, to find the last token of each; "
            "set model.config.pad_token_id = tokenizer.pad_token_id."
        )
    if pad is None or input_ids is None:
        return states[:, -1]
    places = torch.arange(input_ids.shape[-1], device=states.device)
    last = (places * (input_ids != pad).to(states.device)).argmax(-1)
    return states[torch.arange(rows, device=states.device), last]


def eos_token(states: Tensor, input_ids: Tensor | None, pad: int | None, eos: int | None) -> Tensor:
    """The state at the last eos token of each text.

    Raises:
        InputError: if texts have none, or not all the same number of them.
    """
    if input_ids is None:
        raise InputError(
            "This head finds the end of a text by its eos token, so it needs input_ids, not inputs_embeds."
        )
    ends = input_ids.eq(eos if eos is not None else -1).to(states.device)
    counts = ends.sum(1)
    if counts.min() == 0 or counts.min() != counts.max():
        raise InputError(
            f"Every text needs the same number of eos tokens (id {eos}), at least one, but the batch has "
            f"{counts.tolist()}; tokenize with add_special_tokens=True."
        )
    return states[ends].view(states.shape[0], -1, states.shape[-1])[:, -1]
