"""Token losses: what each token costs a model, -ln of the probability that it gave it, in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ...heads import CausalLM, MaskedLM, Seq2SeqLM
from ..inputs import Inputs, prepared, real_tokens, tokenized
from ..tables import Drawn, Table, bars, titled
from ..tokens import names_of, readable
from .hearing import heard

Labels = str | Sequence[str] | Tensor | None


@dataclass(frozen=True, eq=False, repr=False)
class TokenLosses(Drawn):
    """What each token costs.

    Attributes:
        losses: of each label, (B, T), in nats; NaN where the label is not counted.
        labels: (B, T), -100 where they are not counted.
        tokens: the labels' tokens, B lists of T; of one that is not counted the token that was read, or "".
    """

    losses: Tensor
    labels: Tensor
    tokens: list[list[str]]

    @property
    def loss(self) -> float:
        """The mean over all labels that are counted, in nats: what the model's own loss is."""
        return float(self.losses.nanmean())

    @property
    def perplexity(self) -> float:
        """`e^loss`: among how many tokens, all alike, the model would be as unsure."""
        return math.exp(self.loss)

    def tables(self) -> list[Table]:
        """A table a text: what each token costs, and the probability that it had."""
        found = []
        for row, tokens in enumerate(self.tokens):
            values = self.losses[row].tolist()
            strips, shades = bars(values, 1.0)
            cells = []
            for token, value, strip in zip(readable(tokens), values, strips):
                counted = value == value
                cells.append(
                    [token, f"{value:.3f}" if counted else "", f"{math.exp(-value):.1%}" if counted else "", strip]
                )
            mean = float(self.losses[row].nanmean())
            title = titled(f"loss of each token, mean {mean:.3f} nats", row, len(self.tokens))
            found.append(Table(title, ["", "nats", "p", ""], cells, [[shade, 0.0, 0.0] for shade in shades]))
        return found


def token_losses(model: Any, inputs: Inputs, labels: Labels = None, tokenizer: Any = None) -> TokenLosses:
    """The loss of each token, whose mean is the model's own loss with these labels.

    Args:
        model: with a head over the vocabulary.
        inputs: a text, several, or what the tokenizer made of them; "labels" among it count as `labels`.
        labels: as the model takes them, (B, T), -100 where they are not counted. Or texts: for an encoder-decoder what
            it is to write, for a masked LM the texts without masks, of which the tokens that differ from the inputs
            count. A causal LM predicts its own input if not given, without padding.
        tokenizer: of the model; the one beside it if not given.

    Raises:
        InputError: if the model has no such head, or labels are missing or do not fit.

    Example:
        >>> token_losses(model, "To be or not to be").perplexity
    """
    if not isinstance(model, (CausalLM, MaskedLM, Seq2SeqLM)):
        raise InputError(
            f"{type(model).__name__} predicts no tokens, so they have no loss; load the checkpoint with "
            "AutoModelForCausalLM, AutoModelForSeq2SeqLM or AutoModelForMaskedLM."
        )
    call, _, tokenizer = tokenized(model, inputs, tokenizer)
    backbone = model.transformer
    if given := [name for name in ("shift_labels", "num_items_in_batch", "logits_to_keep") if name in call]:
        raise InputError(f"token_losses takes no {given[0]}; give labels.")
    labels = call.get("labels") if labels is None else labels
    call["labels"] = _labels(model, call, labels, tokenizer)
    stack = "encoder" if backbone.decoder is None else "decoder"
    call, _, _ = prepared(model, call, tokenizer)
    with torch.no_grad():
        kept = heard(model, call, ["logits", f"{stack}.input_ids"])
    shifted = isinstance(model, CausalLM) and model.readouts.shifted
    scores, ids = kept["logits"].float(), call["labels"].to(kept["logits"].device)
    if shifted:
        scores, ids = scores[..., :-1, :], F.pad(ids[..., 1:], (1, 0), value=-100)
    wanted = ids[..., 1:] if shifted else ids
    losses = F.cross_entropy(scores.flatten(0, -2), wanted.flatten(), reduction="none", ignore_index=-100)
    losses = losses.view(wanted.shape).masked_fill(wanted == -100, math.nan)
    if shifted:
        losses = F.pad(losses, (1, 0), value=math.nan)
    losses, ids = losses.flatten(0, -2).cpu(), ids.flatten(0, -2).cpu()
    same = shifted or isinstance(model, MaskedLM)  # whether a label stands where its own token is read
    there = kept.get(f"{stack}.input_ids") if same else None
    shown = ids if there is None else torch.where(ids < 0, there.cpu(), ids)
    names = [names_of(row, tokenizer) for row in shown.clamp(min=0).tolist()]
    tokens = [["" if i < 0 else name for name, i in zip(*pair)] for pair in zip(names, shown.tolist())]
    return TokenLosses(losses, ids, tokens)


def _labels(model: Any, call: dict[str, Any], labels: Labels, tokenizer: Any) -> Tensor:
    """Labels as the model takes them, (B, T)."""
    ids: Tensor | None = call.get("input_ids")
    if isinstance(labels, Tensor):
        return labels
    if labels is None:
        if not isinstance(model, CausalLM) or ids is None:
            raise InputError(f"What the tokens are to be is not known to {type(model).__name__}: give labels.")
        real = real_tokens(model, call, "decoder", ids.shape[:-1].numel(), ids.shape[-1])
        own = ids.masked_fill(~real.view_as(ids), -100)
        return own if model.readouts.shifted else F.pad(own[..., 1:], (0, 1), value=-100)
    if tokenizer is None:
        raise InputError(f"This {type(model).__name__} has no tokenizer beside it for the labels: give tokenizer=.")
    texts = [labels] if isinstance(labels, str) else list(labels)
    seq2seq = isinstance(model, Seq2SeqLM)
    made = tokenizer(**{"text_target" if seq2seq else "text": texts}, padding=len(texts) > 1, return_tensors="pt")
    found: Tensor = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100).to(model.device)
    if seq2seq:
        return found
    if ids is None or ids.shape != found.shape:
        read = "none" if ids is None else tuple(ids.shape)
        raise InputError(
            f"The labels are {tuple(found.shape)} tokens and the inputs {read}; give texts that are alike."
        )
    return found.masked_fill(found == ids, -100) if isinstance(model, MaskedLM) else found
