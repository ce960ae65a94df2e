"""A model answers the same in and out of inference mode, whichever comes first: what the engine keeps serves both."""

from __future__ import annotations

import copy

import pytest
import torch

from generation.tiny import ALL, ENCODER_DECODERS, ours
from glassformer.kernels import native

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")
TEXTS = torch.tensor([[5, 9, 4, 7, 11, 3, 8, 2], [6, 2, 8, 8, 3, 10, 12, 4]])
MASK = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
MODES = {"inference": torch.inference_mode, "no_grad": torch.no_grad}


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("name", ALL)
def test_either_mode_may_come_first(name: str, first: str) -> None:
    """A call, and tokens chosen one by one, among beams and after a processor, are the same in all three turns."""
    model = copy.deepcopy(ours(name))
    other = next(mode for mode in MODES if mode != first)
    given = {"decoder_input_ids": TEXTS[:, :3]} if name in ENCODER_DECODERS else {}
    found = []
    for mode in (first, other, first):
        with MODES[mode]():
            logits = model(TEXTS, attention_mask=MASK, **given).logits
            tokens = [
                model.generate(TEXTS, attention_mask=MASK, max_new_tokens=6, do_sample=False, **more)
                for more in ({}, {"num_beams": 3}, {"repetition_penalty": 1.2})
            ]
        found.append([logits, *tokens])
    for turn in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(turn, found[0]))


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("name", ALL)
def test_a_cache_goes_on_in_the_other_mode(name: str, first: str) -> None:
    """Keys and values that one mode made take in a token of the other."""
    model = copy.deepcopy(ours(name))
    other = next(mode for mode in MODES if mode != first)
    found = []
    for modes in ((first, other), (first, first)):
        with MODES[modes[0]]():
            if name in ENCODER_DECODERS:
                out = model(TEXTS, decoder_input_ids=TEXTS[:, :3], use_cache=True)
            else:
                out = model(TEXTS, use_cache=True)
        with MODES[modes[1]]():
            given = {"input_ids": TEXTS[:, :1]}
            if name in ENCODER_DECODERS:
                given = {"encoder_outputs": (out.encoder_last_hidden_state,), "decoder_input_ids": TEXTS[:, 3:4]}
            found.append(model(**given, past_key_values=out.past_key_values).logits)
    assert torch.equal(*found)
