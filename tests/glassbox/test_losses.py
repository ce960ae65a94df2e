"""Token losses: -log softmax of the peer's logits at each label, and a mean that is the model's own loss."""

import math

import pytest
import torch
from torch import Tensor

import glassformer as gf
from glassformer.errors import InputError
from glassformer.glassbox.analyses.losses import token_losses

from .analysed import arguments, labels, ours, peer

CAUSAL = ("GPT2-plain:LMHeadModel", "Llama-plain:ForCausalLM", "Bert-decoder:LMHeadModel")
ALIGNED = (
    "Bart-plain:ForCausalLM",
    "Bert-plain:ForMaskedLM",
    "T5-plain:ForConditionalGeneration",
    "Bart-plain:ForConditionalGeneration",
)


def by_hand(logits: Tensor, wanted: Tensor, shifted: bool) -> Tensor:
    """The loss of each label in a loop over all."""
    losses = torch.full(wanted.shape, math.nan)
    for row in range(len(wanted)):
        for place in range(wanted.shape[1]):
            at = place - shifted
            if at >= 0 and wanted[row, place] != -100:
                scores = logits[row, at].double()
                losses[row, place] = float(scores.logsumexp(-1) - scores[wanted[row, place]])
    return losses


@pytest.mark.parametrize("name", [*CAUSAL, *ALIGNED])
@torch.no_grad()
def test_losses_are_those_of_the_peers_logits(name: str) -> None:
    """Each label's, and their mean is the loss that both libraries give."""
    given, wanted = arguments(name), labels(name)
    found = token_losses(ours(name), given, wanted)
    out = peer(name)(**given, labels=wanted)
    expected = by_hand(out.logits, wanted, name in CAUSAL)
    assert expected.isnan().any()
    torch.testing.assert_close(found.losses, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert math.isclose(found.loss, float(out.loss), rel_tol=1e-5)
    assert math.isclose(found.loss, float(ours(name)(**given, labels=wanted).loss), rel_tol=1e-6)
    assert math.isclose(found.perplexity, math.exp(found.loss))
    within = token_losses(ours(name), {**given, "labels": wanted})
    assert torch.equal(within.losses.nan_to_num(-1), found.losses.nan_to_num(-1))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*CAUSAL, "Bart-plain:ForCausalLM"])
@torch.no_grad()
def test_a_causal_lm_predicts_its_own_input(name: str, side: str) -> None:
    """Without labels every next token counts, but for padding, whether the model's labels are shifted or not."""
    given, model = arguments(name, side), ours(name)
    found = token_losses(model, given)
    wanted = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    own = wanted if name in CAUSAL else torch.nn.functional.pad(wanted[:, 1:], (0, 1), value=-100)
    logits = model(**given, labels=own).logits  # also at padding that predicts a text's first token
    expected = by_hand(logits, wanted, True)
    if name not in CAUSAL:  # stands where it is predicted
        expected = torch.nn.functional.pad(expected[:, 1:], (0, 1), value=math.nan)
    torch.testing.assert_close(found.losses, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_both_pretraining_heads_and_both_of_gpt2() -> None:
    """The vocabulary's part of a model with two losses; choices are rows of their own."""
    name = "Bert-plain:ForPreTraining"
    given, wanted = arguments(name), labels("Bert-plain:ForMaskedLM")
    with torch.no_grad():
        logits = peer(name)(**given).prediction_logits
    torch.testing.assert_close(
        token_losses(ours(name), given, wanted).losses, by_hand(logits, wanted, False), rtol=1e-4, atol=1e-4,
        equal_nan=True,
    )  # fmt: skip
    name = "GPT2-plain:DoubleHeadsModel"
    given, wanted = arguments(name), labels(name)
    found = token_losses(ours(name), given, wanted)
    assert found.losses.shape == (6, 7)
    assert math.isclose(found.loss, peer(name)(**given, labels=wanted).loss.item(), rel_tol=1e-5)


def test_texts_as_labels() -> None:
    """What an encoder-decoder is to write, padding left out; what a masked LM is to find, only where it is masked."""
    t5 = gf.T5ForConditionalGeneration.from_pretrained("glassformer/tiny-t5")
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-t5")
    found = token_losses(t5, ["4 march 2021", "5 may 2020"], ["2021-03-04", "2021"])
    assert found.tokens[0] == [*"2021-03-04", "</s>"]
    assert (found.labels[1] == -100).sum() == 6
    given = tokenizer(["4 march 2021", "5 may 2020"], padding=True, return_tensors="pt")
    assert math.isclose(found.loss, t5(**given, labels=found.labels).loss.item(), rel_tol=1e-5)
    assert found.losses[0].max() < found.losses[1].nan_to_num(0).max()

    case = gf.BertConfig(**{**gf.AutoConfig.from_pretrained("glassformer/tiny-bert").to_dict(), "num_hidden_layers": 1})
    bert = gf.BertForMaskedLM(case).eval()
    words = gf.AutoTokenizer.from_pretrained("glassformer/tiny-bert")
    found = token_losses(bert, "hello [MASK] hello", "hello there hello", words)
    assert [token for token, loss in zip(found.tokens[0], found.losses[0]) if loss == loss] == ["there"]
    with pytest.raises(InputError, match="texts that are alike"):
        token_losses(bert, "hello [MASK]", "hello there hello", words)


def test_the_drawing() -> None:
    model = gf.GPT2LMHeadModel.from_pretrained("glassformer/tiny-gpt2")
    found = token_losses(model, "It is a truth universally acknowledged")
    drawn = str(found)
    assert max(map(len, drawn.splitlines())) <= 110
    assert f"mean {found.loss:.3f} nats" in drawn
    assert "·truth" in drawn


def test_what_has_no_loss_is_refused() -> None:
    given = arguments("Bert-plain:ForMaskedLM")
    with pytest.raises(InputError, match="predicts no tokens"):
        token_losses(ours("Bert-plain:ForSequenceClassification"), given)
    with pytest.raises(InputError, match="give labels"):
        token_losses(ours("Bert-plain:ForMaskedLM"), given)
    with pytest.raises(InputError, match="give labels"):
        token_losses(ours("T5-plain:ForConditionalGeneration"), arguments("T5-plain:ForConditionalGeneration"))
    with pytest.raises(InputError, match="no tokenizer beside it for the labels"):
        token_losses(ours("Bert-plain:ForMaskedLM"), given, "a text")
    name = "GPT2-plain:LMHeadModel"
    with pytest.raises(InputError, match="takes no num_items_in_batch"):
        token_losses(ours(name), {**arguments(name), "num_items_in_batch": 3})
