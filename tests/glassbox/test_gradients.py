"""Integrated gradients: captum's, to rounding, and a sum that is the score's gain with a stated error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import glassformer as gf
from glassformer.errors import InputError
from glassformer.glassbox.analyses.gradients import gauss_legendre, integrated_gradients

from .analysed import arguments, ours

captum = pytest.importorskip("captum.attr")

# The model, where its token vectors are, the target, and the position, counted without padding, where there is one.
SINGLE = [
    ("Bert-plain:ForSequenceClassification", "encoder", 1, None),
    ("Bert-plain:ForNextSentencePrediction", "encoder", 0, None),
    ("Bert-plain:ForTokenClassification", "encoder", 0, 1),
    ("Bert-plain:ForMaskedLM", "encoder", 9, 2),
    ("GPT2-plain:ForSequenceClassification", "decoder", 1, None),
    ("GPT2-plain:LMHeadModel", "decoder", 7, None),
    ("Llama-biases:ForCausalLM", "decoder", 7, None),
    ("Llama-plain:ForSequenceClassification", "decoder", 0, None),
    ("Bert-decoder:LMHeadModel", "decoder", 7, -2),
]
DOUBLE = [
    ("T5-plain:ForConditionalGeneration", 7),
    ("T5-plain:ForSequenceClassification", 1),
    ("Bart-silu-scaled-untied:ForConditionalGeneration", 7),
    ("Bart-plain:ForSequenceClassification", 2),
]


def at_position(logits: Tensor, mask: Tensor, target: int, position: int | None) -> Tensor:
    """One score a row, whichever way captum repeats the rows."""
    if logits.dim() == 2:
        return logits[:, target]
    places = [int(row.nonzero()[-1 if position is None else position, 0]) for row in mask]
    return logits[torch.arange(len(logits)), torch.tensor(places), target]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "stack", "target", "position"), SINGLE)
def test_captums_with_a_token_as_baseline(name: str, stack: str, target: int, position: int | None, side: str) -> None:
    given, model = arguments(name, side), ours(name)
    found = integrated_gradients(model, given, target, 20, baseline=5, position=position)
    rest = {key: value for key, value in given.items() if key != "input_ids"}
    picker = model.config.pad_token_id is not None and name.endswith("ForSequenceClassification") and stack == "decoder"

    def forward(ids: Tensor) -> Tensor:
        count = len(ids) // len(given["input_ids"])
        more = {key: value.repeat(count, *[1] * (value.dim() - 1)) for key, value in rest.items()}
        logits = model(input_ids=ids, **more).logits
        return at_position(logits, more["attention_mask"], target, position)

    baseline = torch.full_like(given["input_ids"], 5)
    if picker:  # such a head finds a text's end by its padding, which a baseline must not move
        baseline = torch.where(given["attention_mask"].bool(), baseline, given["input_ids"])
    table = getattr(model.base_model, stack).embedding.tokens
    theirs = captum.LayerIntegratedGradients(forward, table).attribute(
        given["input_ids"], baseline, n_steps=20, method="gausslegendre"
    )
    torch.testing.assert_close(found.attributions, theirs.sum(-1), rtol=1e-3, atol=2e-4)
    with torch.no_grad():
        torch.testing.assert_close(found.scores, forward(given["input_ids"]))
        if not picker:
            torch.testing.assert_close(found.baseline_scores, forward(baseline), rtol=1e-4, atol=1e-4)
    if side == "right" or position is not None or stack == "decoder":  # else the head reads the first token as it is
        assert not found.attributions[~given["attention_mask"].bool()].any()


@pytest.mark.parametrize(("name", "target"), DOUBLE)
def test_captums_over_the_encoders_vectors(name: str, target: int) -> None:
    """From a baseline of vectors; the decoder reads what it read."""
    given, model = arguments(name), ours(name)
    embedding = model.base_model.encoder.embedding
    vectors = (embedding.tokens(given["input_ids"]) * embedding.scale).detach()
    baseline = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    found = integrated_gradients(model, given, target, 20, baseline)
    rest = {key: value for key, value in given.items() if key != "input_ids"}
    ids = given["input_ids"]

    def forward(x: Tensor) -> Tensor:
        count = len(x) // len(ids)
        more = {key: value.repeat(count, *[1] * (value.dim() - 1)) for key, value in rest.items()}
        if "SequenceClassification" in name:  # which finds the end of a text in its ids
            with model.intervene({"encoder.embedding.tokens": lambda _: x}):
                return model(input_ids=ids.repeat(count, 1), **more).logits[:, target]
        logits = model(inputs_embeds=x, **more).logits
        return at_position(logits, more["decoder_attention_mask"], target, None)

    theirs = captum.IntegratedGradients(forward).attribute(vectors, baseline, n_steps=20, method="gausslegendre")
    torch.testing.assert_close(found.attributions, theirs.sum(-1), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["GPT2-plain:LMHeadModel", "Bert-plain:ForSequenceClassification"])
def test_the_sum_is_the_scores_gain(name: str) -> None:
    """From zeros, with an error that is the one stated and that more steps make small."""
    given, model = arguments(name), ours(name)
    found = integrated_gradients(model, given, steps=200)
    torch.testing.assert_close(found.scores - found.baseline_scores - found.attributions.sum(1), found.gap)
    assert found.gap.abs().max() < 2e-3
    assert integrated_gradients(model, given, steps=2).gap.abs().max() > found.gap.abs().max()
    stack = "decoder" if "GPT2" in name else "encoder"
    with torch.no_grad(), model.intervene({f"{stack}.embedding.tokens": lambda x: x * 0}):
        logits = model(**given).logits
    classes = torch.tensor([int(label) if label.isdigit() else model.config.label2id[label] for label in found.target])
    if logits.dim() == 3:
        logits = torch.stack([row[int(mask.sum()) - 1] for row, mask in zip(logits, given["attention_mask"])])
    torch.testing.assert_close(found.baseline_scores, logits[torch.arange(3), classes])


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_the_rule_is_numpys(count: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    ours_ = gauss_legendre(count)
    np.testing.assert_allclose(ours_[0], (nodes + 1) / 2, atol=1e-12)
    np.testing.assert_allclose(ours_[1], weights / 2, atol=1e-12)


def test_texts_labels_and_the_drawing() -> None:
    model = gf.BertForSequenceClassification.from_pretrained("glassformer/tiny-bert")
    found = integrated_gradients(model, ["Guten Morgen zusammen", "Hello there"], target="German")
    assert found.target == ["German", "German"]
    assert found.gap.abs().max() < 1e-2
    drawn = str(found)
    assert "logit of 'German'" in drawn
    assert "█" in drawn
    assert max(map(len, drawn.splitlines())) <= 110
    rough = integrated_gradients(model, "Guten Morgen zusammen", target="German", steps=1)
    assert "take more steps" in str(rough)


def test_within_no_grad_and_inference_mode() -> None:
    """The gradient is taken whatever mode the caller is in, and the caller's mode stays."""
    model = gf.BertForSequenceClassification.from_pretrained("glassformer/tiny-bert")
    plain = integrated_gradients(model, "Hello there", steps=3).attributions
    with torch.no_grad():
        assert torch.equal(integrated_gradients(model, "Hello there", steps=3).attributions, plain)
        assert not torch.is_grad_enabled()
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-bert")
    with torch.inference_mode():
        assert torch.equal(integrated_gradients(model, "Hello there", steps=3).attributions, plain)
        given = tokenizer("Hello there", return_tensors="pt")
        assert given["input_ids"].is_inference()
        assert torch.equal(integrated_gradients(model, given, steps=3).attributions, plain)
        assert torch.is_inference_mode_enabled()
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


REFUSED: list[tuple[str, Callable[[Any, Any], Any], str]] = [
    ("GPT2-plain:Model", lambda m, g: integrated_gradients(m, g), "gives no scores"),
    ("Bert-plain:ForQuestionAnswering", lambda m, g: integrated_gradients(m, g), "gives no scores"),
    ("Bert-plain:ForMultipleChoice", lambda m, g: integrated_gradients(m, g), "not choices"),
    ("Bert-plain:ForMaskedLM", lambda m, g: integrated_gradients(m, g), "say whose with position="),
    ("Bert-plain:ForSequenceClassification", lambda m, g: integrated_gradients(m, g, position=0), "leave position out"),
    ("Bert-plain:ForSequenceClassification", lambda m, g: integrated_gradients(m, g, target=2), "no class 2"),
    ("Bert-plain:ForSequenceClassification", lambda m, g: integrated_gradients(m, g, target="x"), "no class 'x'"),
    ("GPT2-plain:LMHeadModel", lambda m, g: integrated_gradients(m, g, steps=0), "steps is 0"),
    ("GPT2-plain:LMHeadModel", lambda m, g: integrated_gradients(m, g, target=61), "no token 61"),
    ("GPT2-plain:LMHeadModel", lambda m, g: integrated_gradients(m, g, baseline=torch.zeros(5)), "The baseline has"),
    ("GPT2-plain:LMHeadModel", lambda m, g: integrated_gradients(m, g, position=9), "no token 9"),
]


@pytest.mark.parametrize(("name", "call", "message"), REFUSED)
def test_what_does_not_fit_is_refused(name: str, call: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(ours(name), arguments(name))
