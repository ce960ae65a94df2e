"""Direct logit attribution: the parts sum to the logit, and each is what the logit loses without it."""

from typing import Any

import pytest
import torch

import glassformer as gf
from glassformer.errors import InputError
from glassformer.glassbox.analyses.attribution import direct_logit_attribution

from .analysed import arguments, ours

SUMS = (
    "GPT2-plain:LMHeadModel",
    "GPT2-gelu-untied:LMHeadModel",
    "GPT2-cross-attention:LMHeadModel",
    "GPT2-silu-uneven:LMHeadModel",
    "Llama-plain:ForCausalLM",
    "Llama-one-kv-head:ForCausalLM",
    "Llama-wide-head_dim:ForCausalLM",
    "Llama-biases:ForCausalLM",
    "T5-plain:ForConditionalGeneration",
    "T5-gated-gelu-v1.1:ForConditionalGeneration",
    "T5-wide-heads:ForConditionalGeneration",
)


def last_real(given: dict[str, Any], position: int = -1) -> torch.Tensor:
    mask = given.get("decoder_attention_mask", given["attention_mask"])
    return torch.tensor([row.nonzero()[position, 0] for row in mask])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SUMS)
@torch.no_grad()
def test_contributions_sum_to_the_logit(name: str, side: str) -> None:
    """Of the likeliest token and of one that is named, at the last real token and at another."""
    given, model = arguments(name, side), ours(name)
    logits = model(**given).logits
    every = torch.arange(len(logits))
    for target, position in ((None, -1), (7, -1), (5, 0), (5, -2)):
        found = direct_logit_attribution(model, given, target, position)
        at = last_real(given, position)
        scores = logits[every, at]
        expected = scores.max(-1).values if target is None else scores[:, target]
        assert torch.equal(found.positions, at)
        torch.testing.assert_close(found.logits, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.contributions.sum(1), expected, rtol=0, atol=1e-4)
        assert found.gap.abs().max() < 1e-4


@pytest.mark.parametrize("name", SUMS)
@torch.no_grad()
def test_a_part_is_what_the_logit_loses_without_it(name: str) -> None:
    """Switched off, with all other parts held at what they added and the final norm's scale at what it was."""
    given, model = arguments(name), ours(name)
    found = direct_logit_attribution(model, given, target=7)
    with model.trace() as trace:
        model(**given)
    stack, head = model.base_model.decoder, model.lm_head
    end = f"decoder.layers.{len(stack.layers) - 1}.output"
    every, at = torch.arange(len(found.positions)), found.positions
    whole = trace[end][every, at]
    norm = stack.final_norm
    if isinstance(norm, torch.nn.LayerNorm):
        scale = 1 / (whole.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    else:
        scale = 1 / (whole.square().mean(-1, keepdim=True) + norm.eps).sqrt()

    def read(state: torch.Tensor) -> torch.Tensor:
        if isinstance(norm, torch.nn.LayerNorm):
            state = state - state.mean(-1, keepdim=True)
        return (state * scale * norm.weight * head.scale) @ head.linear.weight[7]

    outputs = [place for place in trace.names if place.startswith("decoder.layers.")
               and place.endswith(("attention.output", "feedforward.output"))]  # fmt: skip
    for place in outputs:
        path = place.removesuffix(".output")
        held = {other: trace[other] for other in outputs if other != place}
        if path.endswith("attention"):
            _, _, layer, part = path.split(".")
            parts = [(f"{path}.heads.{h}", h) for h in range(model.base_model.get_submodule(path).heads)]
        else:
            parts = [(path, None)]
        for part_name, index in parts:
            change = model.intervene(held)
            if index is None:
                change.scale(place, 0.0)
            else:
                change.heads_off(int(layer), index, "decoder", part)
            with model.trace(end) as without, change:
                model(**given)
            lost = read(whole) - read(without[end][every, at])
            torch.testing.assert_close(found.of(part_name), lost, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_two_tokens_give_the_difference() -> None:
    name = "Llama-biases:ForCausalLM"
    given, model = arguments(name), ours(name)
    one, two = (direct_logit_attribution(model, given, token) for token in (7, 9))
    both = direct_logit_attribution(model, given, (7, 9))
    assert both.parts == one.parts
    torch.testing.assert_close(both.contributions, one.contributions - two.contributions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.logits, one.logits - two.logits)
    assert both.target == ["7 - 9"] * 3


@torch.no_grad()
def test_parts_are_named_and_summed() -> None:
    """Patterns choose parts, and heads come as a matrix of layers and heads."""
    name = "GPT2-cross-attention:LMHeadModel"
    found = direct_logit_attribution(ours(name), arguments(name))
    own, cross = found.heads(), found.heads("cross_attention")
    assert own.shape == cross.shape == (3, 2, 3)
    assert torch.equal(own[:, 1, 2], found.of("decoder.layers.1.attention.heads.2"))
    assert torch.equal(cross[:, 0, 1], found.of("decoder.layers.0.cross_attention.heads.1"))
    whole = found.of("decoder.embedding.*") + found.of("decoder.layers.*") + found.of("final_norm.bias")
    torch.testing.assert_close(whole, found.logits, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="No part is named"):
        found.of("decoder.layers.9")
    name = "Llama-plain:ForCausalLM"
    alone = direct_logit_attribution(ours(name), arguments(name))
    with pytest.raises(InputError, match="no heads of 'cross_attention'"):
        alone.heads("cross_attention")


def test_a_text_and_its_drawing() -> None:
    model = gf.GPT2LMHeadModel.from_pretrained("glassformer/tiny-gpt2")
    found = direct_logit_attribution(model, "It is a truth", target=(" that", " of"))
    drawn = str(found)
    assert max(map(len, drawn.splitlines())) <= 110
    assert all(word in drawn for word in ("·that - ·of", "head 3", "feed-forward", "embedding positions", "layer 3"))


@pytest.mark.parametrize(
    "name", ["Bert-decoder:LMHeadModel", "Bart-plain:ForConditionalGeneration", "Bart-plain:ForCausalLM"]
)
def test_norms_inside_the_stream_are_refused(name: str) -> None:
    """With the reason, and what to do instead."""
    with pytest.raises(InputError, match=r"norms inside it.*integrated_gradients works"):
        direct_logit_attribution(ours(name), arguments(name))


def test_what_has_no_such_logit_is_refused() -> None:
    for name in ("Bert-plain:ForMaskedLM", "GPT2-plain:Model", "GPT2-plain:ForSequenceClassification"):
        with pytest.raises(InputError, match="no causal or sequence-to-sequence LM"):
            direct_logit_attribution(ours(name), arguments(name))
    name = "GPT2-plain:LMHeadModel"
    with pytest.raises(InputError, match="no token 6 among 4"):
        direct_logit_attribution(ours(name), arguments(name), position=6)
    with pytest.raises(InputError, match="names 3 tokens"):
        direct_logit_attribution(ours(name), arguments(name), target=(1, 2, 3))  # type: ignore[arg-type]
