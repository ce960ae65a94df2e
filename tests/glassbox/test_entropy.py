"""Attention entropy: torch's own entropy of each query's weights, and means that leave padding out."""

import math

import pytest
import torch
from torch.distributions import Categorical

from glassformer.errors import InputError
from glassformer.glassbox.analyses.entropy import attention_entropy

from .analysed import arguments, ours

CASES = [
    ("Bert-plain:Model", "encoder", "attention", "attentions", "attention_mask"),
    ("GPT2-plain:LMHeadModel", "decoder", "attention", "attentions", "attention_mask"),
    ("Llama-plain:ForCausalLM", "decoder", "attention", "attentions", "attention_mask"),
    ("GPT2-cross-attention:LMHeadModel", "decoder", "cross_attention", "cross_attentions", "attention_mask"),
    ("T5-plain:ForConditionalGeneration", "encoder", "attention", "encoder_attentions", "attention_mask"),
    ("Bart-uneven:ForConditionalGeneration", "decoder", "attention", "decoder_attentions", "decoder_attention_mask"),
    ("T5-plain:ForConditionalGeneration", "decoder", "cross_attention", "cross_attentions", "decoder_attention_mask"),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("name", "stack", "part", "maps", "mask"), CASES)
@torch.no_grad()
def test_entropy_is_torchs(name: str, stack: str, part: str, maps: str, mask: str, side: str) -> None:
    given, model = arguments(name, side), ours(name)
    found = attention_entropy(model, given, stack, part)
    weights = torch.stack(model(**given, output_attentions=True)[maps], 1)  # (B, layers, H, T, S)
    expected = Categorical(probs=weights.double(), validate_args=False).entropy().float()  # padding looks at nothing
    real = given[mask].bool()
    for row, kept in enumerate(real):
        torch.testing.assert_close(found.queries[row][..., kept], expected[row][..., kept], rtol=1e-4, atol=1e-5)
        assert found.queries[row][..., ~kept].isnan().all()
    over = torch.cat([expected[row][..., kept] for row, kept in enumerate(real)], -1)
    torch.testing.assert_close(found.heads, over.mean(-1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_head_that_looks_at_all_alike_has_the_logarithm() -> None:
    """Weights that are made equal have ln n nats; one head that is left as it was has less."""
    model = ours("Bert-plain:Model")
    given = {"input_ids": torch.tensor([[5, 9, 11, 2, 30, 7]])}
    with model.intervene({"encoder.layers.1.attention.weights": lambda w: torch.full_like(w, 1 / 6)}):
        found = attention_entropy(model, given)
    torch.testing.assert_close(found.heads[1], torch.full((3,), math.log(6)))
    assert (found.heads[0] < math.log(6) - 0.01).all()


def test_the_part_must_be_there() -> None:
    name = "GPT2-plain:LMHeadModel"
    with pytest.raises(InputError, match="No cross_attention was computed"):
        attention_entropy(ours(name), arguments(name), part="cross_attention")
    with pytest.raises(InputError, match="'attention' or 'cross_attention'"):
        attention_entropy(ours(name), arguments(name), part="feedforward")
    name = "Bart-plain:ForConditionalGeneration"
    with pytest.raises(InputError, match="say stack="):
        attention_entropy(ours(name), arguments(name))
    assert "decoder.cross_attention" in str(attention_entropy(ours(name), arguments(name), part="cross_attention"))
