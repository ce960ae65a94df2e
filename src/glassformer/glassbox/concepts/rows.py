"""The rows of the table from concept to call: what a term of the textbook is in one model, and what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ... import families, heads
from ...cache import KVCache
from ...errors import InputError
from ...generation import beams, generate, search
from ...generation.assemble import build_processors
from ...model import Transformer
from ...outputs import ModelOutput
from ...structure.embedding import shift_right
from ...structure.layer import Residual
from ...structure.maps import attention_maps
from ...structure.masks import attention_bias
from ...structure.positions import RelativeBuckets, Rotary
from ...structure.stack import Stack
from ..sources import Source, source_of
from .example import Example
from .glossary import Concept

NEW = "max_new_tokens=4, min_new_tokens=4"
ADDED = 4


@dataclass(frozen=True)
class Gives:
    """What a call gives: a tensor, or several alike.

    Attributes:
        what: the class of the value, "Tensor" or "tuple of Tensor" for instance.
        symbols: the shape of each tensor in symbols, "(B, T, D)"; "" where it is no tensor.
        shape: the same in numbers; of a cache the keys of each layer, of an output its first tensor.
        count: how many there are; None for one.
        counted: the count in symbols, "N + 1".
    """

    what: str
    symbols: str = ""
    shape: tuple[int, ...] = ()
    count: int | None = None
    counted: str = ""

    def __str__(self) -> str:
        many = f", {self.counted} = {self.count}" if self.counted else ""
        many = f", {self.count} of them" if self.counted == str(self.count) else many
        each = f"{', each' if many else ''} {self.symbols}" if self.symbols else ""
        return f"{self.what}{many}{each}{f' = {self.shape}' if self.shape else ''}"


def measured(value: Any) -> tuple[str, tuple[int, ...], int | None]:
    """The class, shape and count of a value, to be held against `Gives`.

    Raises:
        InputError: if the parts of the value have several shapes.
    """
    if isinstance(value, Tensor):
        return "Tensor", tuple(value.shape), None
    if isinstance(value, KVCache):
        return type(value).__name__, _one([tuple(layer.keys.shape) for layer in value.layers]), len(value.layers)  # type: ignore[union-attr]
    if isinstance(value, ModelOutput):
        return type(value).__name__, tuple(value[0].shape), None
    if isinstance(value, (tuple, list)):
        parts = [measured(part) for part in value]
        return f"{type(value).__name__} of {_one([part[0] for part in parts])}", _one([p[1] for p in parts]), len(parts)
    return type(value).__name__, (), None


def _one(values: list[Any]) -> Any:
    if len(set(values)) != 1:
        raise InputError(f"The parts of the value are not alike: {values}.")
    return values[0]


@dataclass(frozen=True)
class Row:
    """A concept for one model.

    Attributes:
        concept: the term and its sentence.
        call: a line of Python that shows it; "" where the model has no such thing.
        gives: what the call gives.
        source: the code that computes it.
        missing: why the model has no such thing, or "".
        has: a class that has it, where this one has not.
        example: what the call runs on.
    """

    concept: Concept
    call: str = ""
    gives: Gives | None = None
    source: Source | None = None
    missing: str = ""
    has: str = ""
    example: Example | None = field(default=None, compare=False, repr=False)

    @property
    def applies(self) -> bool:
        """Whether the model has it."""
        return self.gives is not None

    def run(self) -> Any:
        """The value of the call on the example's inputs, without gradients.

        Raises:
            InputError: if the model has no such thing.
        """
        if self.example is None or not self.applies:
            raise InputError(f"{self.concept.name} has no call here: {self.missing}; {self.has} has it.")
        return self.example.run(self.call)

    def to_dict(self) -> dict[str, Any]:
        """The row as data that JSON can hold."""
        gives = self.gives
        return {
            "concept": self.concept.name,
            "sentence": self.concept.sentence,
            "formula": self.concept.formula,
            "paper": self.concept.paper,
            "call": self.call,
            "gives": None if gives is None else {**vars(gives), "shape": list(gives.shape), "text": str(gives)},
            "source": str(self.source) if self.source else None,
            "missing": self.missing,
            "has": self.has,
        }


def rows(example: Example, concepts: Iterable[Concept]) -> tuple[Row, ...]:
    """The rows of some concepts for the model of an example."""
    made = _Rows(example)
    return tuple(made.row(concept) for concept in concepts)


Answer = tuple[str, Gives, Any] | tuple[str, str]


class _Rows:
    """The rows of one model; each concept has a method, which gives the call, its value and the code, or why not."""

    def __init__(self, example: Example) -> None:
        self.example, self.model, self.base = example, example.model, example.base
        self.first = example.first
        self.stack: Stack = getattr(self.base, self.first)
        self.layer: Any = self.stack.layers[0]

    def row(self, concept: Concept) -> Row:
        """The row of a concept."""
        make: Callable[[], Answer] = getattr(self, concept.name.replace(", ", "_").replace(" ", "_").replace("-", "_"))
        answer = make()
        if len(answer) == 2:
            return Row(concept, missing=answer[0], has=answer[1])
        call, gives, code = answer
        return Row(concept, call, gives, code if isinstance(code, Source) else source_of(code), example=self.example)

    def gives(self, what: str, symbols: str = "", counted: str = "", stack: str | None = None, **known: int) -> Gives:
        """What a call gives, from its shape in symbols."""
        sizes = {**self.example.lengths, **self.example.sizes(stack), **known}
        parts = symbols.replace(" · ", "·").split()
        shape = tuple(_number(part, sizes) for part in parts)
        count = _number(counted.replace(" ", ""), sizes) if counted else None
        shown = ", ".join(part.replace("·", " · ").replace("+", " + ") for part in parts)
        shown += "," if len(parts) == 1 else ""
        return Gives(what, f"({shown})" if symbols else "", shape, count, counted)

    def trace(self, name: str, written: bool = False) -> str:
        """A call that records one tensor."""
        fed = self.example.fed
        if written and self.example.written:
            fed = f'{{**{fed}, "decoder_input_ids": decoder_input_ids}}'
        return f'gf.trace(model, {fed})["{name}"]'

    def elsewhere(self, task: str) -> str:
        """The Auto class of a task, with this family's class if it has one, else another family's."""
        for family in (self.model.family, *(families.family(page) for page in families.PAGES)):
            found = family.auto.get(task) or next((n for n, k in family.classes.items() if k.task == task), None)
            if found is not None:
                return f"AutoModel{'' if task == 'Model' else f'For{task}'} ({found})"
        raise KeyError(task)

    # From text to vectors

    def tokenisation(self) -> Answer:
        if self.example.tokenizer is None:
            return "there is no tokenizer beside this model", "AutoTokenizer"
        return "inputs.tokens(0)", self.gives("list of str", counted="T"), type(self.example.tokenizer).__call__

    def token_ids(self) -> Answer:
        from ...tokenization import PreTrainedTokenizerBase

        code = PreTrainedTokenizerBase if self.example.tokenizer is None else type(self.example.tokenizer)
        return 'inputs["input_ids"]', self.gives("Tensor", "B T"), code.__call__

    def padding_mask(self) -> Answer:
        return 'inputs["attention_mask"]', self.gives("Tensor", "B T"), attention_bias

    def embedding(self) -> Answer:
        call = 'model.get_input_embeddings()(inputs["input_ids"])'
        return call, self.gives("Tensor", "B T D"), self.stack.embedding

    def positions(self) -> Answer:
        learned, positions = self.stack.embedding.positions, self.stack.positions
        if learned is not None:
            return self.trace(f"{self.first}.embedding.positions"), self.gives("Tensor", "1 T D"), learned
        if isinstance(positions, Rotary):
            gives = self.gives("Tensor", "1 T rotary_dim", rotary_dim=positions.dim)
            return self.trace(f"{self.first}.positions.cos"), gives, positions
        if isinstance(positions, RelativeBuckets):
            return self.trace(f"{self.first}.positions.bias"), self.gives("Tensor", "1 H T T"), positions
        return "its positions have no part of their own", self.elsewhere("Model")

    # The three structures

    def encoder_only_backbone(self) -> Answer:
        if self.example.kind == "encoder-only":
            return "model.base_model(**inputs)", self.gives(_backbone_output(self.base), "B T D"), Transformer.forward
        alone = next((n for n, k in self.model.family.classes.items() if k.part == "encoder" and k.task == "Model"), "")
        return f"this is {self.example.kind}", alone or "AutoModel (BertModel)"

    def decoder_only_LM(self) -> Answer:
        if self.example.kind != "decoder-only":
            return f"this is {self.example.kind}", self.elsewhere("CausalLM")
        if self.example.task not in ("CausalLM", "DoubleHeads"):
            return "this class has no vocabulary scores", self.elsewhere("CausalLM")
        return "model(**inputs).logits", self.gives("Tensor", "B T V"), heads.CausalLM.forward

    def encoder_decoder_LM(self) -> Answer:
        if not self.example.both:
            return f"this is {self.example.kind}", self.elsewhere("Seq2SeqLM")
        if self.example.task != "Seq2SeqLM":
            return "this class has no vocabulary scores", self.elsewhere("Seq2SeqLM")
        return f"{self.example.call}).logits", self.gives("Tensor", "B U V"), heads.Seq2SeqLM.forward

    # Inside a layer

    def self_attention(self) -> Answer:
        return (
            self.trace(f"{self.first}.layers.0.attention.output"),
            self.gives("Tensor", "B T D"),
            self.layer.attention,
        )

    def queries_keys_and_values(self) -> Answer:
        call = self.trace(f"{self.first}.layers.0.attention.keys")
        return call, self.gives("Tensor", "B kv_heads T head_dim"), self.layer.attention

    def attention_weights(self) -> Answer:
        key = "encoder_attentions" if self.example.both else "attentions"
        call = f"{self.example.call}, output_attentions=True).{key}"
        return call, self.gives("tuple of Tensor", "B H T T", "N"), attention_maps

    def causal_mask(self) -> Answer:
        if self.base.decoder is None:
            return "an encoder reads in both directions", self.elsewhere("CausalLM")
        if self.example.both:
            return self.trace("decoder.mask", written=True), self.gives("Tensor", "1 1 U U"), attention_bias
        padded = not bool(self.example.names["inputs"]["attention_mask"].all())
        return self.trace("decoder.mask"), self.gives("Tensor", f"{'B' if padded else 1} 1 T T"), attention_bias

    def cross_attention_weights(self) -> Answer:
        layer = self.base.decoder.layers[0] if self.base.decoder is not None else None
        if layer is None or layer.cross_attention is None:
            return "no decoder here looks at an encoder", self.elsewhere("Seq2SeqLM")
        if self.example.both:
            call = f"{self.example.call}, output_attentions=True).cross_attentions"
            gives = self.gives("tuple of Tensor", "B H U T", "N", "decoder")
        else:
            call = "model(**inputs, encoder_hidden_states=memory, output_attentions=True).cross_attentions"
            gives = self.gives("tuple of Tensor", "B H T S", "N")
        return call, gives, layer.cross_attention

    def feed_forward(self) -> Answer:
        call = self.trace(f"{self.first}.layers.0.feedforward.inner")
        return call, self.gives("Tensor", "B T inner"), source_of(self.layer.feedforward, "wide")

    def residual_stream_and_norm(self) -> Answer:
        return self.trace(f"{self.first}.layers.0.after_attention"), self.gives("Tensor", "B T D"), Residual.forward

    # What comes out

    def hidden_states(self) -> Answer:
        key = "encoder_hidden_states" if self.example.both else "hidden_states"
        call = f"{self.example.call}, output_hidden_states=True).{key}"
        return call, self.gives("tuple of Tensor", "B T D", "N + 1"), Stack._run

    def token_representations(self) -> Answer:
        reader = "model.get_encoder()" if self.example.both else "model.base_model"
        return f"{reader}(**inputs).last_hidden_state", self.gives("Tensor", "B T D"), self.stack

    def pooling(self) -> Answer:
        if self.base.pooler is not None:
            return "model.base_model(**inputs).pooler_output", self.gives("Tensor", "B D"), self.base.pooler
        if self.example.task == "SequenceClassification":
            pick = self.base.spec.readouts.pick.__name__.replace("_", " ")
            return f"the head reads the state of the {pick}", "AutoModel (BertModel)"
        return "nothing here makes one vector of a text", "AutoModel (BertModel)"

    def vocabulary_scores(self) -> Answer:
        tasks = ("CausalLM", "DoubleHeads", "Seq2SeqLM", "MaskedLM", "PreTraining")
        if self.example.task not in tasks:
            other = "Seq2SeqLM" if self.example.both else "MaskedLM" if self.base.encoder else "CausalLM"
            return "this class has no vocabulary scores", self.elsewhere(other)
        key = "prediction_logits" if self.example.task == "PreTraining" else "logits"
        symbols = "B U V" if self.example.task == "Seq2SeqLM" else "B T V"
        return f"{self.example.call}).{key}", self.gives("Tensor", symbols), self.model.lm_head

    def class_scores(self) -> Answer:
        shapes = {
            "SequenceClassification": "B L",
            "TokenClassification": "B T L",
            "NextSentencePrediction": "B 2",
            "PreTraining": "B 2",
            "MultipleChoice": "1 choices",
        }
        if self.example.task not in shapes:
            return "this class has no classes", self.elsewhere("SequenceClassification")
        key = "seq_relationship_logits" if self.example.task == "PreTraining" else "logits"
        gives = self.gives("Tensor", shapes[self.example.task], choices=self.example.lengths["B"])
        return f"{self.example.call}).{key}", gives, heads.TASKS[self.example.task].forward

    def answer_span(self) -> Answer:
        if self.example.task != "QuestionAnswering":
            return "this class looks for no answer", self.elsewhere("QuestionAnswering")
        return f"{self.example.call}).start_logits", self.gives("Tensor", "B T"), heads.QuestionAnswering.forward

    # Training

    def labels(self) -> Answer:
        if self.example.labels is None:
            return "a backbone has no task", self.elsewhere("PreTraining")
        call, symbols = self.example.labels
        code: Any = heads.TASKS[self.example.task].forward
        return call, self.gives("Tensor", symbols), shift_right if self.example.task == "Seq2SeqLM" else code

    def training_loss(self) -> Answer:
        if self.example.labels is None:
            return "a backbone has no task", self.elsewhere("PreTraining")
        given = "labels=labels"
        if self.example.task == "QuestionAnswering":
            given = "start_positions=labels, end_positions=labels"
        elif self.example.task == "PreTraining":
            given = 'labels=labels, next_sentence_label=inputs["input_ids"].new_zeros(len(labels))'
        code: Any = heads.SequenceClassification.loss
        code = code if self.example.task == "SequenceClassification" else heads.cross_entropy
        return f"model(**{self.example.fed}, {given}).loss", Gives("Tensor", "()"), code

    # Generation

    def autoregressive_generation(self) -> Answer:
        return self.generated("", "B", generate.generate)

    def sampling(self) -> Answer:
        return self.generated("do_sample=True, top_p=0.9, seed=0, ", "B", search.drawn)

    def beam_search(self) -> Answer:
        return self.generated("num_beams=3, num_return_sequences=2, ", "B·2", beams.beam_search)

    def score_processing(self) -> Answer:
        return self.generated("repetition_penalty=1.2, ", "B", build_processors)

    def generated(self, settings: str, rows: str, code: Any) -> Answer:
        """A call of `generate`: the prompt, or the decoder's start token, and what was added."""
        if why := self.no_generation():
            return why
        call = f"model.generate(**inputs, {settings}{self.plainly(settings)}{NEW})"
        return call, self.gives("Tensor", f"{rows} {1 if self.example.both else 'T'}+{ADDED}"), code

    def streaming(self) -> Answer:
        if why := self.no_generation():
            return why
        call = f"[step.tokens for step in model.stream(**inputs, {self.plainly()}{NEW})]"
        return call, self.gives("list of Tensor", "B", str(ADDED)), type(self.model).stream

    def plainly(self, settings: str = "") -> str:
        """What the model's own settings have to be told, so that each text gives one sequence of ids."""
        own = self.model.generation_config
        neutral = {"num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
        told = [n for n, value in neutral.items() if getattr(own, n) not in (None, value) and n not in settings]
        return "".join(f"{name}={neutral[name]}, " for name in told)

    def no_generation(self) -> tuple[str, str] | None:
        """Why the model does not generate, and the class that does; None if it does."""
        if not self.model.can_generate():
            return "this class does not generate", self.elsewhere("Seq2SeqLM" if self.example.both else "CausalLM")
        if self.base.decoder is None:
            return "an encoder predicts no next token", f"{type(self.model).__name__} with is_decoder=True"
        return None

    def KV_cache(self) -> Answer:
        if self.base.decoder is None:
            return "an encoder reads a text at once", self.elsewhere("CausalLM")
        if self.example.both:
            gives = self.gives("EncoderDecoderCache", "B kv_heads U head_dim", "N", "decoder")
            return f"{self.example.call}, use_cache=True).past_key_values", gives, KVCache
        # Heads over tokens keep no cache, their backbones do.
        reader = "model" if self.example.task in ("Model", "CausalLM", "DoubleHeads") else "model.base_model"
        gives = self.gives("KVCache", "B kv_heads T head_dim", "N")
        return f"{reader}(**inputs, use_cache=True).past_key_values", gives, KVCache


def _number(symbol: str, sizes: dict[str, int]) -> int:
    """The number of a symbol, of a product "B·2" or of a sum "T+4"."""
    for sign, join in (("·", int.__mul__), ("+", int.__add__)):
        if sign in symbol:
            left, _, right = symbol.partition(sign)
            return join(_number(left, sizes), _number(right, sizes))
    return sizes[symbol] if symbol in sizes else int(symbol)


def _backbone_output(base: Any) -> str:
    """The class of the output of an encoder-only backbone."""
    if base.spec.pooler is not None:
        return "BaseModelOutputWithPoolingAndCrossAttentions"
    return "BaseModelOutputWithPastAndCrossAttentions" if base.spec.crosses else "BaseModelOutput"
