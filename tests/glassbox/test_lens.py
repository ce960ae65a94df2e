"""The logit lens: each row is what the peer's own norm and head make of that layer's states, the last the logits."""

from typing import Any

import pytest
import torch

import glassformer as gf
from glassformer.errors import InputError
from glassformer.glassbox.analyses.lens import logit_lens

from .analysed import arguments, ours, peer

# How each family reads its last states, in the peer's modules.
READS: dict[str, Any] = {
    "GPT2-plain:LMHeadModel": lambda m, h: m.lm_head(m.transformer.ln_f(h)),
    "GPT2-gelu-untied:LMHeadModel": lambda m, h: m.lm_head(m.transformer.ln_f(h)),
    "Llama-biases:ForCausalLM": lambda m, h: m.lm_head(m.model.norm(h)),
    "T5-plain:ForConditionalGeneration": lambda m, h: m.lm_head(m.decoder.final_layer_norm(h) * m.model_dim**-0.5),
    "Bart-uneven:ForConditionalGeneration": lambda m, h: m.lm_head(h) + m.final_logits_bias,
    "Bert-plain:ForMaskedLM": lambda m, h: m.cls(h),
    "Bert-plain:ForPreTraining": lambda m, h: m.cls.predictions(h),
    "Bert-decoder:LMHeadModel": lambda m, h: m.cls(h),
}
FINAL_NORM = ("GPT2", "Llama", "T5")  # the peer's last hidden state is after it


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", READS)
@torch.no_grad()
def test_each_layer_is_read_as_the_peer_reads_the_last(name: str, side: str) -> None:
    given, model, other = arguments(name, side), ours(name), peer(name)
    found = logit_lens(model, given, k=4)
    out = other(**given, output_hidden_states=True)
    states = out.get("decoder_hidden_states") or out.hidden_states
    rows = [READS[name](other, state) for state in states]
    if name.startswith(FINAL_NORM):
        rows[-1] = out.get("logits")
    assert len(found.layers) == len(rows)
    real = given.get("decoder_attention_mask", given["attention_mask"]).bool()  # padding may look at nothing, or at all
    for layer, scores in enumerate(rows):
        top = scores.softmax(-1).topk(4)
        kept = found.top_probabilities[:, layer][real]
        torch.testing.assert_close(kept, top.values[real], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.probabilities[:, layer][real], kept[:, 0], rtol=0, atol=0)
        own = scores.softmax(-1).gather(-1, found.top_ids[:, layer])
        torch.testing.assert_close(kept, own[real], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", READS)
@torch.no_grad()
def test_the_last_row_is_the_models_own(name: str) -> None:
    """At every token; a lens sees padding, too, which the model leaves out."""
    given, model = arguments(name), ours(name)
    found, out = logit_lens(model, given, k=61), model(**given)
    scores = out["prediction_logits" if name.endswith("PreTraining") else "logits"]
    real = given.get("decoder_attention_mask", given["attention_mask"]).bool()
    own = torch.zeros_like(scores).scatter(-1, found.top_ids[:, -1], found.top_probabilities[:, -1])
    torch.testing.assert_close(own[real], scores.softmax(-1)[real], rtol=1e-4, atol=1e-6)
    assert torch.equal(found.target[real], scores.argmax(-1)[real])
    assert (found.target_ranks[:, -1] == 0).all()


@torch.no_grad()
def test_a_token_is_followed() -> None:
    """Its probability and rank in each row are those in the whole distribution, however it is named."""
    name = "GPT2-plain:LMHeadModel"
    given, model = arguments(name), ours(name)
    whole = logit_lens(model, given, k=61)
    found = logit_lens(model, given, k=1, target=7)
    places = (whole.top_ids == 7).int().argmax(-1)
    assert torch.equal(found.target_ranks, places)
    torch.testing.assert_close(
        found.target_probabilities, whole.top_probabilities.gather(-1, places[..., None])[..., 0]
    )
    each = logit_lens(model, given, target=given["input_ids"])
    assert torch.equal(each.target, given["input_ids"])
    assert torch.equal(each.target_ranks[each.target[:, None].expand_as(each.target_ranks) == 7],
                       found.target_ranks[each.target[:, None].expand_as(each.target_ranks) == 7])  # fmt: skip


def test_a_text_is_read_with_the_tokenizer_beside() -> None:
    """Tokens are named, the drawing holds them, and a target is found by its text."""
    model = gf.GPT2LMHeadModel.from_pretrained("glassformer/tiny-gpt2")
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    text = "It is a truth universally acknowledged, that"
    found = logit_lens(model, text, target=" was")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert found.read == [tokenizer.convert_ids_to_tokens(ids[0].tolist())]
    assert (found.target == tokenizer(" was")["input_ids"][0]).all()
    best = int(model(ids).logits[0, -1].argmax())
    assert found.top(-1, -1)[0][0] == found.tokens[0][-1][-1] == tokenizer.convert_ids_to_tokens(best)
    drawn = str(found)
    assert max(map(len, drawn.splitlines())) <= 110
    assert all(word in drawn for word in ("embedding", "layer 3", "·truth"))


def test_what_cannot_be_read_is_refused() -> None:
    name = "GPT2-plain:LMHeadModel"
    given, model = arguments(name), ours(name)
    with pytest.raises(InputError, match="no head over the vocabulary"):
        logit_lens(ours("Bert-plain:ForSequenceClassification"), given)
    with pytest.raises(InputError, match="k is 0"):
        logit_lens(model, given, k=0)
    with pytest.raises(InputError, match="no token 61"):
        logit_lens(model, given, target=61)
    with pytest.raises(InputError, match="Without a tokenizer"):
        logit_lens(model, given, target="word")
    with pytest.raises(InputError, match="no tokenizer beside it"):
        logit_lens(model, "a text")
    spoken = gf.GPT2LMHeadModel.from_pretrained("glassformer/tiny-gpt2")
    with pytest.raises(InputError, match="not one token"):
        logit_lens(spoken, "It is", target="unquestionably so")
