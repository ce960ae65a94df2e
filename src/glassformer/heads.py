"""Heads: what For... adds to a Transformer, one class a task: its logits and its loss.

The readouts themselves are parts that a family chooses (`structure/readout.py`); a loss is in nats, the mean over
labels that are not -100.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import outputs
from .config import Config
from .errors import ConfigError, InputError
from .model import Transformer, carry
from .structure.masks import reaching, tokens
from .structure.packing import padding_of
from .structure.places import Announcing

IGNORED = -100  # the label of a position that has none


def cross_entropy(logits: Tensor, labels: Tensor, items: Any = None) -> Tensor:
    """The mean over labels of -log softmax(logits)[label], leaving out labels of -100.

    Args:
        logits: (..., classes).
        labels: (...), integers.
        items: what the sum is divided by in the place of the number of labels (`num_items_in_batch`).
    """
    logits, labels = logits.flatten(0, -2), labels.flatten().to(logits.device)
    if items is None:
        return F.cross_entropy(logits, labels, ignore_index=IGNORED)
    items = items.to(logits.device) if isinstance(items, Tensor) else items
    loss: Tensor = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / items
    return loss


class Head(Announcing):
    """What heads share: a Transformer under `transformer` and the configuration.

    Args:
        transformer: the backbone.
        config: where the number of labels and the problem type are read.

    Attributes:
        pools: whether the backbone needs its pooled vector.
        arguments: what `forward` takes beyond what the backbone takes.
    """

    places: ClassVar[dict[str, str]] = {
        "logits": "the scores, one a class or token",
        "loss": "how far the scores are from the labels, in nats or squared distance, ()",
    }
    pools = False
    arguments: tuple[str, ...] = ("labels",)

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = config
        self.width = transformer.spec.hidden_size
        self.readouts = transformer.spec.readouts

    def read(self, **inputs: Any) -> Any:
        """The backbone's output; a decoder beside an encoder reads what the encoder reads, if nothing else is given."""
        spec = self.transformer.spec
        given = [inputs.get(name) for name in ("decoder_input_ids", "decoder_inputs_embeds")]
        if self.backbone == "both" and given == [None, None] and inputs.get("input_ids") is not None:
            inputs["decoder_input_ids"] = spec.decoder_start(inputs["input_ids"])  # type: ignore[misc]
        return self.transformer(**inputs, return_dict=True)

    def labelled(self, inputs: dict[str, Any], labels: Tensor | None) -> dict[str, Any]:
        """The inputs under which the states at labels, (B, T), are computed, padding or not."""
        return inputs if labels is None else self.in_full(inputs, labels != IGNORED)

    def in_full(self, inputs: dict[str, Any], needed: Tensor | None = None) -> dict[str, Any]:
        """The inputs under which padding is computed too, if any is among the positions needed, (B, T); all if None."""
        if (mask := inputs.get(self.masked)) is None:
            return inputs
        length = self.length(inputs)
        if needed is None or needed.shape[1] != length:
            needed = torch.ones(1, length, dtype=torch.bool)
        return {**inputs, self.masked: reaching(mask, needed, causal=self.transformer.decoder is not None)}

    def real(self, inputs: dict[str, Any]) -> Tensor | None:
        """Which of the states that a head reads are of tokens, (B, T); None where none is left out."""
        return tokens(inputs.get(self.masked), self.length(inputs))

    def scores(self, readout: nn.Module, out: Any, inputs: dict[str, Any], logits_to_keep: int | Tensor = 0) -> Tensor:
        """Scores (B, T, outputs) of the last states, (B, T, D): zeros at padding, which is left out."""
        states, real = _kept(out.last_hidden_state, logits_to_keep), self.real(inputs)
        padding = padding_of(None if real is None else _kept(real, logits_to_keep), len(states), readout)
        return padding.blank(readout(padding.pack(states)))

    def give(self, kind: type[Any], out: Any, loss: Any, **new: Any) -> Any:
        """The task's output: its loss, its scores, and what it takes over from the backbone's output."""
        return carry(kind, out, loss=None if loss is None else self.announce("loss", loss), **new)

    @property
    def masked(self) -> str:
        """The argument that says which of the states that a head reads are of tokens."""
        return "decoder_attention_mask" if self.backbone == "both" else "attention_mask"

    def length(self, inputs: dict[str, Any]) -> int:
        """T, how many states a head reads."""
        prefix = self.masked.removesuffix("attention_mask")
        given = (inputs.get(name) for name in (f"{prefix}input_ids", f"{prefix}inputs_embeds", self.masked))
        return next((x.shape[1] for x in given if x is not None), 0)

    @property
    def backbone(self) -> str:
        """Which of the three structures the backbone is, for the choice of an output class."""
        if self.transformer.encoder is None:
            return "decoder"
        return "encoder" if self.transformer.decoder is None else "both"


def _kept(states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """What is (B, T, ...) at the positions whose scores are wanted: the last n, all for 0, or those of an index."""
    if isinstance(logits_to_keep, int):
        return states[:, -logits_to_keep:] if logits_to_keep else states
    return states[:, logits_to_keep]


class CausalLM(Head):
    """The next token at every position of a decoder.

    Attributes:
        burst: a step or several in one native call, where that gives the same, or None; see `engine/burst.py`.
    """

    burst: Callable[..., Tensor | None] | None = None
    arguments: tuple[str, ...] = ("labels", "logits_to_keep", "num_items_in_batch", "shift_labels")

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        lm = self.readouts.causal_lm or self.readouts.lm
        self.lm_head = lm(self.width, transformer.spec.vocab_size)

    def forward(
        self,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Any = None,
        shift_labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Scores for the next token, and with labels the loss.

        Args:
            labels: (B, T); the inputs themselves, shifted here, unless the family's labels are shifted already.
            logits_to_keep: score only the last n positions; 0 for all.
            num_items_in_batch: divide the loss by this in the place of the number of labels.
            shift_labels: (B, T), labels that are shifted already, in the place of `labels`.
            **inputs: of the backbone.
        """
        if labels is not None and shift_labels is None:
            shift_labels = F.pad(labels, (0, 1), value=IGNORED)[:, 1:] if self.readouts.shifted else labels
        targets = None if labels is None else shift_labels
        inputs = self.labelled(inputs, targets)
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.scores(self.lm_head, out, inputs, logits_to_keep))
        loss = None if targets is None else cross_entropy(logits.float(), targets, num_items_in_batch)
        crosses = self.transformer.spec.crosses
        kind = outputs.CausalLMOutputWithCrossAttentions if crosses else outputs.CausalLMOutputWithPast
        return self.give(kind, out, loss=loss, logits=logits)


class Seq2SeqLM(Head):
    """The next token at every position of a decoder that looks at an encoder.

    Attributes:
        burst: as in `CausalLM`.
    """

    burst: Callable[..., Tensor | None] | None = None

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.lm_head = self.readouts.lm(self.width, transformer.spec.vocab_size)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Scores for the next token, and with labels (B, U) the loss; labels shifted right are the decoder's inputs."""
        if (
            labels is not None
            and inputs.get("decoder_input_ids") is None
            and inputs.get("decoder_inputs_embeds") is None
        ):
            inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
        inputs = self.labelled(inputs, labels)
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.scores(self.lm_head, out, inputs))
        loss = None if labels is None else cross_entropy(logits, labels)
        return self.give(outputs.Seq2SeqLMOutput, out, loss=loss, logits=logits)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's inputs (B, U) for labels (B, U): shifted right, -100 as padding."""
        ids: Tensor = self.transformer.spec.decoder_start(labels)  # type: ignore[misc]
        return ids


class MaskedLM(Head):
    """The token at every position of an encoder."""

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.lm_head = self.readouts.lm(self.width, transformer.spec.vocab_size)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Scores for the token at each position, and with labels (B, T) the loss over those that are not -100."""
        inputs = self.labelled(inputs, labels)
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.scores(self.lm_head, out, inputs))
        loss = None if labels is None else cross_entropy(logits, labels)
        return self.give(outputs.MaskedLMOutput, out, loss=loss, logits=logits)


class NextSentencePrediction(Head):
    """Whether the second text follows the first."""

    pools = True

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.next_sentence = nn.Linear(self.width, 2)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Scores (B, 2) for "follows" and "random", and with labels (B,) the loss."""
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.next_sentence(out.pooler_output))
        loss = None if labels is None else cross_entropy(logits, labels)
        return self.give(outputs.NextSentencePredictorOutput, out, loss=loss, logits=logits)


class PreTraining(MaskedLM):
    """Both tasks that BERT was pretrained with."""

    places: ClassVar[dict[str, str]] = {
        **Head.places,
        "next_sentence_logits": "whether the second text follows the first, (B, 2)",
    }
    pools = True
    arguments = ("labels", "next_sentence_label")

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.next_sentence = nn.Linear(self.width, 2)

    def forward(self, labels: Tensor | None = None, next_sentence_label: Tensor | None = None, **inputs: Any) -> Any:
        """Scores of both tasks, and with labels (B, T) and next_sentence_label (B,) the sum of both losses."""
        inputs = self.labelled(inputs, labels)
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.scores(self.lm_head, out, inputs))
        follows = self.announce("next_sentence_logits", self.next_sentence(out.pooler_output))
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = cross_entropy(logits, labels) + cross_entropy(follows, next_sentence_label)
        return self.give(
            *(outputs.BertForPreTrainingOutput, out),
            loss=loss,
            prediction_logits=logits,
            seq_relationship_logits=follows,
        )


class SequenceClassification(Head):
    """A class, several, or a number for a whole text."""

    pools = True

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.classifier = self.readouts.sequence(self.width, config.num_labels)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Scores (B, labels), and with labels the loss that config.problem_type names.

        Args:
            labels: (B,) integers for one class a text; (B, labels) floats for several; (B,) or (B, labels) floats for
                regression. Without a problem type it follows from them, and is kept in the configuration.
            **inputs: of the backbone.
        """
        picked = inputs.get("input_ids"), self.config.pad_token_id, self.config.eos_token_id
        pools = self.transformer.pooler is not None
        if not pools and (real := self.real(inputs)) is not None:
            # The token that stands for a text may be padding, by the mask.
            inputs = self.in_full(inputs, real | ~self.readouts.pick(real[..., None], *picked))
        out = self.read(**inputs)
        text = out.pooler_output if pools else self.readouts.pick(out.last_hidden_state, *picked)
        logits = self.announce("logits", self.classifier(text))
        loss = None if labels is None else self.loss(logits, labels.to(logits.device))
        kinds = {
            "encoder": outputs.SequenceClassifierOutput,
            "decoder": outputs.SequenceClassifierOutputWithPast,
            "both": outputs.Seq2SeqSequenceClassifierOutput,
        }
        kind = outputs.SequenceClassifierOutput if pools else kinds[self.backbone]
        return self.give(kind, out, loss=loss, logits=logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of scores (B, labels), by the kind of problem."""
        config = self.config
        if config.problem_type is None:
            if config.num_labels == 1:
                config.problem_type = "regression"
            elif labels.dtype in (torch.long, torch.int):
                config.problem_type = "single_label_classification"
            else:
                config.problem_type = "multi_label_classification"
        match config.problem_type:
            case "regression":
                return (
                    F.mse_loss(logits.squeeze(), labels.squeeze())
                    if config.num_labels == 1
                    else F.mse_loss(logits, labels)
                )
            case "single_label_classification":
                return cross_entropy(logits, labels)
            case "multi_label_classification":
                return F.binary_cross_entropy_with_logits(logits, labels)
        raise ConfigError(
            f"problem_type is {config.problem_type!r}; it is 'regression', 'single_label_classification' or "
            "'multi_label_classification'."
        )


class TokenClassification(Head):
    """A class for every token."""

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.tagger = self.readouts.token(self.width, config.num_labels)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Scores (B, T, labels), and with labels (B, T) the loss over those that are not -100."""
        inputs = self.labelled(inputs, labels)
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.scores(self.tagger, out, inputs))
        loss = None if labels is None else cross_entropy(logits, labels)
        return self.give(outputs.TokenClassifierOutput, out, loss=loss, logits=logits)


class QuestionAnswering(Head):
    """Where in a text an answer starts and ends."""

    places: ClassVar[dict[str, str]] = {
        "start_logits": "how well each token begins an answer, (B, T)",
        "end_logits": "how well each token ends an answer, (B, T)",
        "loss": Head.places["loss"],
    }
    arguments = ("start_positions", "end_positions")

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.span = self.readouts.span(self.width, self.readouts.span_labels)

    def forward(self, start_positions: Tensor | None = None, end_positions: Tensor | None = None, **inputs: Any) -> Any:
        """Scores (B, T) for the start and for the end, and with both positions (B,) the mean of their losses.

        A position beyond the text is left out of the loss. Padding competes with the text, so that it is computed.

        Raises:
            ConfigError: if the configuration has another number of labels than two.
        """
        if (labels := self.span.linear.out_features) != 2:
            raise ConfigError(f"An answer has a start and an end, but num_labels is {labels}: load with num_labels=2.")
        out = self.read(**self.in_full(inputs))
        start, end = (scores.squeeze(-1).contiguous() for scores in self.span(out.last_hidden_state).split(1, dim=-1))
        start, end = self.announce("start_logits", start), self.announce("end_logits", end)
        loss = None
        if start_positions is not None and end_positions is not None:
            length = start.shape[1]
            places = [p.reshape(p.shape[0]).clamp(0, length).to(start.device) for p in (start_positions, end_positions)]
            loss = sum(F.cross_entropy(s, p, ignore_index=length) for s, p in zip((start, end), places)) / 2
        seq2seq = self.backbone == "both"
        kind = outputs.Seq2SeqQuestionAnsweringModelOutput if seq2seq else outputs.QuestionAnsweringModelOutput
        return self.give(kind, out, loss=loss, start_logits=start, end_logits=end)


def _flattened(inputs: dict[str, Any]) -> tuple[torch.Size, dict[str, Any]]:
    """The leading sizes of inputs (B, choices, T...) or (B, T...), and the inputs as (rows, T...)."""
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if ids is None and embeds is None:
        raise InputError("Give exactly one of input_ids and inputs_embeds.")
    sizes = ids.shape[:-1] if ids is not None else embeds.shape[:-2]  # type: ignore[union-attr]
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
    flat = {name: inputs[name].flatten(0, len(sizes) - 1) for name in names if inputs.get(name) is not None}
    return sizes, {**inputs, **flat}


class MultipleChoice(Head):
    """Which of several texts."""

    pools = True

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        self.classifier = self.readouts.sequence(self.width, 1)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Scores (B, choices) for inputs (B, choices, T), and with labels (B,) the loss."""
        sizes, inputs = _flattened(inputs)
        if len(sizes) != 2:
            raise InputError("Choices need inputs of shape (batch, choices, tokens); stack the tokenized choices.")
        out = self.transformer(**inputs, return_dict=True)
        logits = self.announce("logits", self.classifier(out.pooler_output).view(sizes))
        loss = None if labels is None else cross_entropy(logits, labels)
        return self.give(outputs.MultipleChoiceModelOutput, out, loss=loss, logits=logits)


class DoubleHeads(CausalLM):
    """GPT-2's two heads: the next token, and which of several texts."""

    places: ClassVar[dict[str, str]] = {**Head.places, "mc_logits": "how well each choice fits, (B, choices)"}
    arguments: tuple[str, ...] = ("mc_token_ids", "labels", "mc_labels")

    def __init__(self, transformer: Transformer, config: Config) -> None:
        super().__init__(transformer, config)
        if self.readouts.choice is None:
            raise ConfigError("This family has no score for choices; use a MultipleChoice class.")
        self.choice = self.readouts.choice(self.width, 1)

    def forward(  # type: ignore[override]
        self,
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Scores of both heads for inputs (B, choices, T) or (B, T), and the loss of each that has labels.

        Args:
            mc_token_ids: (B, choices) or (B,), the position that stands for each choice; the last if not given.
            labels: (B, choices, T), the inputs themselves, for the next token.
            mc_labels: (B,), the right choice.
            **inputs: of the backbone.
        """
        sizes, inputs = _flattened(inputs)
        out = self.transformer(**self.in_full(inputs), return_dict=True)  # a summary may read any position
        states = out.last_hidden_state.unflatten(0, sizes)
        logits = self.announce("logits", self.lm_head(states))
        scores = self.announce("mc_logits", self.choice(states, mc_token_ids).squeeze(-1))
        if out.get("hidden_states") is not None:
            out["hidden_states"] = (*out.hidden_states[:-1], states)  # as the peer gives them: only the last in sizes
        return self.give(
            *(outputs.GPT2DoubleHeadsModelOutput, out),
            loss=None if labels is None else cross_entropy(logits[..., :-1, :], labels[..., 1:]),
            mc_loss=None if mc_labels is None else cross_entropy(scores, mc_labels),
            logits=logits,
            mc_logits=scores,
        )


TASKS: dict[str, type[Head]] = {
    kind.__name__: kind
    for kind in (
        *(CausalLM, Seq2SeqLM, MaskedLM, NextSentencePrediction, PreTraining, SequenceClassification),
        *(TokenClassification, QuestionAnswering, MultipleChoice, DoubleHeads),
    )
}
