"""Attention rollout: the product of `(A + I) / 2` over the layers, written out for each text without its padding."""

import numpy as np
import pytest
import torch

import glassformer as gf
from glassformer.errors import InputError
from glassformer.glassbox.analyses.rollout import attention_rollout

from .analysed import arguments, ours

CASES = [
    ("Bert-plain:Model", None, "attentions", "attention_mask"),
    ("Bert-plain:ForTokenClassification", "encoder", "attentions", "attention_mask"),
    ("GPT2-plain:LMHeadModel", None, "attentions", "attention_mask"),
    ("Llama-one-kv-head:ForCausalLM", "decoder", "attentions", "attention_mask"),
    ("T5-uneven-depth:ForConditionalGeneration", "encoder", "encoder_attentions", "attention_mask"),
    ("T5-plain:ForConditionalGeneration", "decoder", "decoder_attentions", "decoder_attention_mask"),
    ("Bart-uneven:ForConditionalGeneration", "encoder", "encoder_attentions", "attention_mask"),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "stack", "maps", "mask"), CASES)
@torch.no_grad()
def test_rollout_is_its_formula(name: str, stack: str | None, maps: str, mask: str, side: str) -> None:
    given, model = arguments(name, side), ours(name)
    found = attention_rollout(model, given, stack)
    attentions = model(**given, output_attentions=True)[maps]
    assert found.layers.shape[1] == len(attentions)
    for row, real in enumerate(given[mask].bool()):
        flow = np.eye(int(real.sum()))
        for layer, weights in enumerate(attentions):
            mean = weights[row].double().mean(0)[real][:, real].numpy()
            step = 0.5 * mean + 0.5 * np.eye(len(mean))
            flow = (step / step.sum(-1, keepdims=True)) @ flow
            ours_ = found.layers[row, layer]
            np.testing.assert_allclose(ours_[real][:, real].numpy(), flow, atol=1e-5)
            assert not ours_[~real].any()
            assert not ours_[:, ~real].any()
            torch.testing.assert_close(ours_[real].sum(-1), torch.ones(len(mean)))
    assert torch.equal(found.rollout, found.layers[:, -1])


def test_a_stack_must_be_said_and_the_whole_text_given() -> None:
    name = "T5-plain:ForConditionalGeneration"
    with pytest.raises(InputError, match="say stack='encoder' or stack='decoder'"):
        attention_rollout(ours(name), arguments(name))
    with pytest.raises(InputError, match="has no 'encoder'"):
        attention_rollout(ours("GPT2-plain:Model"), arguments("GPT2-plain:Model"), "encoder")
    model = ours("GPT2-plain:LMHeadModel")
    ids = torch.tensor([[1, 2, 3]])
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match="give the whole text"):
        attention_rollout(model, {"input_ids": ids, "past_key_values": cache})


def test_the_drawing_leaves_padding_out() -> None:
    model = gf.BertForSequenceClassification.from_pretrained("glassformer/tiny-bert")
    drawn = str(attention_rollout(model, ["Guten Morgen zusammen", "Hello"]))
    assert "[SEP]" in drawn
    assert "[PAD]" not in drawn
    assert max(map(len, drawn.splitlines())) <= 110
