"""Reaching in: what is replaced, scaled or switched off has the effect that its formula says, and leaves no trace."""

from typing import Any

import pytest
import torch

import glassformer as gf
from generation.tiny import ALL, DECODERS, ENCODER_DECODERS, ours, ragged


def inputs(name: str) -> dict[str, Any]:
    ids, mask = ragged()
    given = {"input_ids": ids, "attention_mask": mask}
    return {**given, "decoder_input_ids": ids[:, :5]} if name in ENCODER_DECODERS else given


def listeners(model: torch.nn.Module) -> list[Any]:
    return [part for part in model.modules() if "listener" in vars(part)]


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_what_is_put_back_as_it_was_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a call, replaced by itself, gives the call's logits: exactly, or to rounding in the attention."""
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")  # bit by bit, both calls have to be PyTorch's
    model, given = ours(name), inputs(name)
    plain = model(**given).logits
    with model.trace() as trace:
        model(**given)
    for place in trace.names:
        with model.intervene({place: trace[place]}):
            patched = model(**given).logits
        if place.endswith((".scores", ".weights", ".mask", "memory_mask")):
            kept = given["attention_mask"][:, :5] if name in ENCODER_DECODERS else given["attention_mask"]
            torch.testing.assert_close(patched[kept.bool()], plain[kept.bool()], rtol=1e-4, atol=2e-5)
        else:
            assert torch.equal(patched, plain), place
    assert not listeners(model)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_a_patch_carries_over(name: str) -> None:
    """The last layer's output of one text, put into another's call, gives the first text's logits."""
    model, given = ours(name), inputs(name)
    ids = given["input_ids"].roll(1, dims=1)
    other = {**given, "input_ids": ids}
    if "decoder_input_ids" in other:
        other["decoder_input_ids"] = ids[:, :5]
    with model.trace("decoder.layers.1.output") as trace:
        wanted = model(**given).logits
    with model.intervene({"decoder.layers.1.output": trace["decoder.layers.1.output"]}):
        assert torch.equal(model(**other).logits, wanted)
    with model.intervene().replace("decoder.layers.1.output", trace["decoder.layers.1.output"], positions=[-1]):
        some = model(**other).logits
    assert torch.equal(some[:, -1], wanted[:, -1])
    assert not torch.equal(some[:, 0], wanted[:, 0])


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_heads_off_is_a_projection_without_them(name: str) -> None:
    """Heads switched off bring in nothing: as with the columns of the output projection that read them set to zero."""
    model, given = ours(name), inputs(name)
    attention = model.base_model.decoder.layers[1].attention
    weight = attention.o_proj.weight
    with model.intervene().heads_off(1, [0, 3], stack="decoder"):
        off = model(**given).logits
    before = weight.clone()
    width = attention.head_dim
    weight[:, :width], weight[:, 3 * width :] = 0.0, 0.0
    expected = model(**given).logits
    weight.copy_(before)
    torch.testing.assert_close(off, expected, rtol=1e-4, atol=1e-4)
    weight[:, width : 2 * width] *= 0.5
    expected = model(**given).logits
    weight.copy_(before)
    with model.intervene().scale_heads(-1, 1, by=0.5, stack="decoder"):
        torch.testing.assert_close(model(**given).logits, expected, rtol=1e-4, atol=1e-4)
    with model.intervene({"decoder.layers.1.attention.weights": lambda w: w.index_fill(1, torch.tensor([0, 3]), 0.0)}):
        by_weights = model(**given, output_attentions=[1])
    kept = given["attention_mask"][:, :5].bool() if name in ENCODER_DECODERS else given["attention_mask"].bool()
    torch.testing.assert_close(by_weights.logits[kept], off[kept], rtol=1e-4, atol=2e-5)
    maps = by_weights.get("decoder_attentions") or by_weights.attentions
    assert maps[1][:, [0, 3]].eq(0).all()
    assert maps[1][:, 1].ne(0).any()


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_layer_off_gives_what_it_reads(name: str) -> None:
    """Without its last layer a model is the one whose states are those before it."""
    model, given = ours(name), inputs(name)
    with model.intervene().layer_off(-1), model.trace("*.output") as trace:
        model(**given)
    assert torch.equal(trace["decoder.layers.1.output"], trace["decoder.layers.0.output"])


@torch.no_grad()
def test_steering_adds_at_chosen_tokens() -> None:
    """A vector is added at some tokens; changes of one tensor follow each other in order."""
    model, given = ours(DECODERS[1]), inputs(DECODERS[1])
    vector = torch.randn(32)
    place = "decoder.layers.0.output"
    with model.trace(place) as plain:
        model(**given)
    steered = model.intervene().add(place, vector, positions=[2]).scale(place, 2.0, positions=slice(2, 4))
    with steered, model.trace(place) as after:
        model(**given)
    expected = plain[place].clone()
    expected[:, 2] += vector
    expected[:, 2:4] *= 2.0
    assert torch.equal(after[place], expected)


@torch.no_grad()
def test_generation_can_be_steered() -> None:
    """An intervention acts at every step of generate, with the cache."""
    model = ours(DECODERS[1])
    token, ids = 5, ragged()[0]
    with model.intervene({"logits": lambda logits: logits.index_fill(2, torch.tensor([token]), 1e9)}):
        out = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert out[:, -4:].eq(token).all()


@pytest.mark.parametrize("name", DECODERS)
def test_gradients_pass_through(name: str) -> None:
    """A replaced tensor takes its gradient, so that its influence can be measured."""
    model, given = ours(name), inputs(name)
    with torch.no_grad(), model.trace("decoder.layers.0.output") as trace:
        model(**given)
    leaf = trace["decoder.layers.0.output"].clone().requires_grad_()
    with model.intervene({"decoder.layers.0.output": leaf}):
        model(**given).logits[:, -1].sum().backward()
    model.zero_grad()
    assert leaf.grad is not None
    assert leaf.grad.ne(0).any()


def test_bad_requests() -> None:
    """One sentence names what was asked for and what there is, and the model is left as it was."""
    model = ours(DECODERS[1])
    with pytest.raises(gf.InputError, match=r"named 'decoder.layers.0.attention.weight'.*weights"):
        model.intervene({"decoder.layers.0.attention.weight": torch.zeros(1)})
    with pytest.raises(gf.InputError, match="no decoder layer 2 among 2"):
        model.intervene().layer_off(2)
    with pytest.raises(gf.InputError, match="no 'encoder'"):
        model.intervene().layer_off(0, stack="encoder")
    with pytest.raises(gf.InputError, match="encoder and a decoder"):
        ours(ENCODER_DECODERS[0]).intervene().heads_off(0, 0)
    with (
        pytest.raises(gf.InputError, match=r"shape \(3, 7, 32\), but \(5, 9\)"),
        model.intervene({"decoder.layers.0.output": torch.zeros(5, 9)}),
    ):
        model(**inputs(DECODERS[1]))
    with (
        pytest.raises(gf.InputError, match="no heads"),
        model.intervene().scale("decoder.layers.0.output", 2.0, heads=0),
    ):
        model(**inputs(DECODERS[1]))
    assert not listeners(model)
