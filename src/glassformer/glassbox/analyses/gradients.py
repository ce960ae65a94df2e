"""Integrated gradients: how much each token of the input counts for a score (https://arxiv.org/abs/1703.01365).

`(x - x') · ∫ ∂F/∂x (x' + a (x - x')) da`, the gradient on the way from a baseline that says nothing to the token
vectors. Summed over all, it is what the score gains on that way, F(x) - F(x').
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...heads import CausalLM, Seq2SeqLM
from ...structure.quantized import weight_of
from ..inputs import Inputs, position_of, prepared, real_tokens, token_id
from ..intervene import Interventions
from ..listen import places
from ..tables import Drawn, Table, bars, titled
from ..tokens import names_of, readable, tokens_of
from .hearing import evaluating, heard


@dataclass(frozen=True, eq=False, repr=False)
class IntegratedGradients(Drawn):
    """What each token counts for a score.

    Attributes:
        read: the tokens of each text, B lists of T.
        attributions: what each counts, (B, T), in units of the score; 0 of padding that the model does not look at.
        scores: F(x), the logit, (B,).
        baseline_scores: F of the baseline, (B,).
        target: the class or token whose logit it is, B of them.
    """

    read: list[list[str]]
    attributions: Tensor
    scores: Tensor
    baseline_scores: Tensor
    target: list[str]

    @property
    def gap(self) -> Tensor:
        """The error, (B,): what the attributions lack to F(x) - F(baseline); more steps make it less."""
        return self.scores - self.baseline_scores - self.attributions.sum(1)

    def tables(self) -> list[Table]:
        """A table a text: what each token counts."""
        found = []
        for row, tokens in enumerate(self.read):
            values = self.attributions[row].tolist()
            strips, shades = bars(values)
            cells = [[token, f"{value:+.4f}", strip] for token, value, strip in zip(readable(tokens), values, strips)]
            score, before, gap = (float(of[row]) for of in (self.scores, self.baseline_scores, self.gap))
            title = f"logit of {self.target[row]!r} {score:.3f}, of the baseline {before:.3f}, error {gap:.1e}"
            if abs(gap) > 0.05 * abs(score - before):
                title += ": take more steps, or another baseline"
            found.append(
                Table(titled(title, row, len(self.read)), ["", "counts", ""], cells, [[shade, 0.0] for shade in shades])
            )
        return found


def integrated_gradients(
    model: Any,
    inputs: Inputs,
    target: int | str | None = None,
    steps: int = 50,
    baseline: int | str | Tensor | None = None,
    position: int | None = None,
    tokenizer: Any = None,
) -> IntegratedGradients:
    """Attribute a logit to the tokens of the input; of an encoder-decoder to those of the encoder.

    Args:
        model: with class scores for texts or tokens, or with scores over the vocabulary.
        inputs: a text, several, or what the tokenizer made of them.
        target: the class by its number or label, or the token by its id or text; the likeliest of each text if not
            given.
        steps: points of the Gauss-Legendre rule at which the gradient is taken, a forward and backward pass each.
        baseline: where the way begins: a token, by its id or text, in the place of each; vectors (B, T, D), or that
            broadcast to it; zeros if not given. A model whose only norms are RMS norms, with no positions in its
            embedding, jumps at zeros, since a norm makes a small vector as large as any: give it a token.
        position: whose scores are meant where there are scores at every token, counted without padding; the last if a
            model predicts the next token.
        tokenizer: of the model; the one beside it if not given.

    Raises:
        InputError: if the model has no such scores, or steps, target, baseline or position do not fit.

    Example:
        >>> found = integrated_gradients(model, "What a wonderful day", target="LABEL_1")
        >>> found.attributions.sum(1), found.scores - found.baseline_scores, found.gap
    """
    if steps < 1:
        raise InputError(f"steps is {steps}; give 1 or more points at which the gradient is taken.")
    if "logits" not in places(model):
        raise InputError(
            f"{type(model).__name__} gives no scores of classes or tokens to attribute; load the checkpoint with a "
            "class that does, as AutoModelForSequenceClassification or AutoModelForCausalLM."
        )
    stack = "decoder" if model.base_model.encoder is None else "encoder"
    place = f"{stack}.embedding.tokens"
    with torch.inference_mode(False), evaluating(model):
        call, _, tokenizer = prepared(model, inputs, tokenizer)
        call.pop("logits_to_keep", None)
        # Tensors of an inference mode have no part in gradients, but their copies have.
        call = {n: t.clone() if isinstance(t, Tensor) and t.is_inference() else t for n, t in call.items()}
        with torch.no_grad():
            first = heard(model, call, [place, "logits", f"{stack}.input_ids"])
        x = first[place]
        rows = len(x)
        chosen, labels = _score(model, call, first["logits"], rows, target, position, tokenizer)
        start = _baseline(model, stack, baseline, tokenizer, x)

        def score(vectors: Tensor) -> Tensor:
            """F, the logit of each text, (B,)."""
            with Interventions(model, {place: lambda _: vectors}):
                return chosen(heard(model, call, ["logits"])["logits"].float())

        total = torch.zeros_like(x, dtype=torch.float32)
        for share, weight in zip(*gauss_legendre(steps)):
            with torch.enable_grad():
                point = (start + share * (x - start)).detach().requires_grad_()
                (slope,) = torch.autograd.grad(score(point).sum(), point)
            total += weight * slope
        with torch.no_grad():
            scores, before = score(x), score(start)
        counts = ((x - start) * total).sum(-1)
    texts = tokens_of(first.get(f"{stack}.input_ids"), tokenizer, rows, x.shape[1])
    return IntegratedGradients(texts, counts.cpu(), scores.cpu(), before.cpu(), labels)


def gauss_legendre(count: int) -> tuple[list[float], list[float]]:
    """Where between 0 and 1 to take a function, and with which weights, for the integral over it.

    Exact for polynomials of a degree below 2 · count; from the eigenvalues of the Legendre polynomials' recurrence
    (Golub and Welsch, https://doi.org/10.1090/S0025-5718-69-99647-1).
    """
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()


def _score(
    model: Any, call: dict[str, Any], logits: Tensor, rows: int, target: Any, position: int | None, tokenizer: Any
) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """What takes the score of each text, (B,), out of logits, and whose it is."""
    name, every = type(model).__name__, torch.arange(rows, device=logits.device)
    at = None
    if logits.dim() == 3:
        if position is None and not isinstance(model, (CausalLM, Seq2SeqLM)):
            raise InputError(f"{name} has scores at every token: say whose with position=, counted without padding.")
        stack = "encoder" if model.base_model.decoder is None else "decoder"
        at = position_of(real_tokens(model, call, stack, rows, logits.shape[1]), -1 if position is None else position)
    elif len(logits) != rows or logits.dim() != 2:
        raise InputError(
            f"The logits of {name} have shape {tuple(logits.shape)} for {rows} texts: what is attributed is one text's "
            "score of a class or token, so give texts, not choices."
        )
    elif position is not None:
        raise InputError(f"{name} has one score a text and class; leave position out.")
    count, words = logits.shape[-1], at is not None and hasattr(model, "lm_head")
    if target is None:
        ids = (logits if at is None else logits[every, at]).argmax(-1)
    else:
        ids = torch.full_like(every, token_id(target, tokenizer, count) if words else _label(model, target, count))
    labels = getattr(model.config, "id2label", None) or {}
    names = readable(names_of(ids.tolist(), tokenizer)) if words else [str(labels.get(i, i)) for i in ids.tolist()]
    return lambda logits: logits[every, ids] if at is None else logits[every, at, ids], names


def _label(model: Any, target: int | str, count: int) -> int:
    labels = getattr(model.config, "label2id", None) or {}
    index = labels.get(target) if isinstance(target, str) else target
    if index is None or not 0 <= int(index) < count:
        known = ", ".join(map(repr, list(labels)[:5]))
        raise InputError(f"{type(model).__name__} has no class {target!r} among {count}; its labels are {known}.")
    return int(index)


def _baseline(model: Any, stack: str, baseline: int | str | Tensor | None, tokenizer: Any, x: Tensor) -> Tensor:
    """Vectors of the shape of x, (B, T, D)."""
    if baseline is None:
        return torch.zeros_like(x)
    vectors: Tensor
    if isinstance(baseline, (int, str)):
        embedding = getattr(model.base_model, stack).embedding
        token = token_id(baseline, tokenizer, embedding.tokens.num_embeddings)
        vectors = weight_of(embedding.tokens)[token].detach() * embedding.scale
    else:
        vectors = baseline
    try:
        return vectors.to(x).expand_as(x)
    except RuntimeError:
        raise InputError(
            f"The baseline has shape {tuple(vectors.shape)}, but the token vectors have {tuple(x.shape)}; give vectors "
            "of a shape that broadcasts to it, or a token."
        ) from None
