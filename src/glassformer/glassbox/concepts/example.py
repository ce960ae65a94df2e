"""Example: inputs for the calls of a model, as lines of Python that are shown and run, and the sizes that they have."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from ...heads import Head
from ..inputs import tokenizer_beside
from ..sources import PACKAGE
from ..stacks import kind_of

TEXTS = ("The cat sat on the mat.", "It slept.")
ANSWERS = ("It was a cat.", "Yes.")
REREADS = ("SequenceClassification", "QuestionAnswering")  # their decoders read what the encoder reads


class Example:
    """A model with a batch of inputs.

    Args:
        model: of this library.
        tokenizer: of the model; the one beside it if not given and there is one, else the ids are made up.
        texts: the batch.

    Attributes:
        setup: the lines of Python that make the inputs, from `model`, `tokenizer`, `torch` and `gf`, this package.
        fed: the name of the inputs that the model takes.
        call: the beginning of a call of the model, without the closing bracket.
        written: whether the calls give the decoder of an encoder-decoder its tokens.
        labels: the labels of the head's task, as Python, and their shape in symbols; None without a task.
        kind: "encoder-only", "decoder-only" or "encoder-decoder".
        task: "Model", or the name of the head's class.
    """

    def __init__(self, model: Any, tokenizer: Any = None, texts: Sequence[str] | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer or tokenizer_beside(model)
        self.base, self.config = model.base_model, model.config
        self.both = len(self.base.stacks) == 2
        self.kind = kind_of(model)
        self.task = model.kind.task
        self.head = model if isinstance(model, Head) else None
        self.first = "encoder" if self.base.encoder is not None else "decoder"  # the stack that reads the inputs
        self.fed = "choices" if self.task == "MultipleChoice" else "inputs"
        self.written = self.both and self.task not in REREADS
        self.call = f"model(**{self.fed}" + (", decoder_input_ids=decoder_input_ids" if self.written else "")
        self.labels = self._labels()
        self.setup = tuple(self._setup(texts))

    def _setup(self, texts: Sequence[str] | None) -> list[str]:
        model, tokenizer, config = self.model, self.tokenizer, self.config
        to = "" if model.device.type in ("cpu", "meta") else ".to(model.device)"
        # Without padding there can be no second text of another length; some heads need the id to find a text's end.
        padded = tokenizer is None or tokenizer.pad_token is not None
        alone = not padded or (self.task == "SequenceClassification" and config.pad_token_id is None)
        if tokenizer is not None:
            shown = [texts] if isinstance(texts, str) else list(map(str, texts or TEXTS[: 1 if alone else 2]))
            padding = "padding=True, " if padded else ""
            lines = [f"texts = {shown!r}", f'inputs = tokenizer(texts, {padding}return_tensors="pt"){to}']
        else:
            rows = [self._ids(6), [*self._ids(4), *[config.pad_token_id or 0] * 2]][: 1 if alone else 2]
            mask = [[1] * 6, [1] * 4 + [0] * 2][: len(rows)]
            lines = [
                f"ids = torch.tensor({rows}){to}",
                f"mask = torch.tensor({mask}){to}",
                'inputs = {"input_ids": ids, "attention_mask": mask}',
            ]
        if self.fed == "choices":
            lines.append("choices = {name: value[None] for name, value in inputs.items()}  # one question")
        if self.written:
            name = "target" if self.labels is not None else "decoder_input_ids"
            if tokenizer is not None:
                answers = [ANSWERS[number % len(ANSWERS)] for number in range(len(shown))]
                lines.append(f"answers = {answers!r}")
                lines.append(f'{name} = tokenizer(answers, {padding}return_tensors="pt").input_ids{to}')
            else:
                lines.append(f"{name} = torch.tensor({[self._ids(4)] * len(rows)}){to}")
        decoder = self.base.decoder
        if not self.both and decoder is not None and decoder.layers[0].cross_attention is not None:
            lines.append('memory = model.get_input_embeddings()(inputs["input_ids"])  # any states will do')
        if self.labels is not None:
            lines.append(f"labels = {self.labels[0]}")
        if self.written and self.labels is not None:  # the labels shifted right
            lines.append("decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)")
        return lines

    def _ids(self, length: int) -> list[int]:
        """Made-up ids, none of them special but the last, which is the end of a text where there is one."""
        ends = self.config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or ())
        names = ("pad_token_id", "bos_token_id", "decoder_start_token_id")
        special = {*ends, *(getattr(self.config, name, None) for name in names)}
        plain = [token for token in range(self.base.spec.vocab_size) if token not in special] or [0]
        return [*(plain[(7 * n + 3) % len(plain)] for n in range(length - 1)), (ends or plain[:1])[0]]

    def _labels(self) -> tuple[str, str] | None:
        task, config = self.task, self.config
        if task in ("CausalLM", "DoubleHeads", "MaskedLM", "PreTraining"):
            return 'inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)', "B T"
        if task == "Seq2SeqLM":
            pad = config.pad_token_id
            return f"target.masked_fill(target == {pad}, -100)", "B U"
        if task == "TokenClassification":
            return '(inputs["attention_mask"] - 1) * 100', "B T"  # class 0, and -100 where there is no token
        if task == "SequenceClassification":
            if config.problem_type == "multi_label_classification":
                return 'inputs["input_ids"].new_zeros(len(inputs["input_ids"]), model.config.num_labels).float()', "B L"
            if config.num_labels == 1:
                return 'inputs["input_ids"].new_zeros(len(inputs["input_ids"])).float()', "B"
        if task == "MultipleChoice":
            return 'inputs["input_ids"].new_zeros(1)', "1"
        if task in ("SequenceClassification", "QuestionAnswering", "NextSentencePrediction"):
            return 'inputs["input_ids"].new_zeros(len(inputs["input_ids"]))', "B"
        return None

    @cached_property
    def names(self) -> dict[str, Any]:
        """What the calls can use, by name."""
        names = {"model": self.model, "tokenizer": self.tokenizer, "torch": torch, "gf": sys.modules[PACKAGE]}
        exec("\n".join(self.setup), names)  # lines of this file, with texts as literals
        return names

    def run(self, call: str) -> Any:
        """The value of a call; the model is what it was afterwards."""
        problem = self.config.problem_type  # which labels may set
        try:
            with torch.no_grad():
                return eval(call, self.names)  # a line of `concepts`
        finally:
            self.config.problem_type = problem

    # Sizes

    @cached_property
    def lengths(self) -> dict[str, int]:
        """B, T and U of the example."""
        ids = self.names["inputs"]["input_ids"]
        written = self.names.get("decoder_input_ids", ids)
        return {"B": ids.shape[0], "T": ids.shape[1], "U": written.shape[1], "S": ids.shape[1]}

    def sizes(self, stack: str | None = None) -> dict[str, int]:
        """The numbers behind the symbols of a stack's shapes, as far as the model alone says them."""
        return sizes(self.model, stack or self.first)


def sizes(model: Any, stack: str) -> dict[str, int]:
    """The numbers behind the symbols of shapes: V, D, L, and of one stack N, H, kv_heads, head_dim and inner."""
    base = model.base_model
    part = getattr(base, stack)
    layer = part.layers[0]
    attention = layer.attention
    known = {
        "V": base.stacks[0].embedding.tokens.num_embeddings,
        "D": base.spec.hidden_size,
        "L": model.config.num_labels,
        "N": len(part.layers),
        "H": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "inner": layer.feedforward.up_proj.out_features,
    }
    if rotary := getattr(part.positions, "dim", None):
        known["rotary dim"] = rotary
    return known
