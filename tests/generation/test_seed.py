"""Chance belongs to the call: the same seed gives the same text, whatever else runs."""

from typing import Any

import pytest
import torch

from glassformer.errors import GenerationError

from .test_assisted import nudged
from .tiny import ALL, DECODERS, ENDS, both, ours, ragged

CALL = {"max_new_tokens": 10, "do_sample": True, "eos_token_id": ENDS}


@pytest.mark.parametrize("name", ALL)
def test_a_seed_is_the_peers(name: str) -> None:
    """A seed gives what `torch.manual_seed` with it gives, in the peer too; torch's own generator is left alone."""
    ids, mask = ragged()
    expected, theirs = both(name, ids, attention_mask=mask, seed=3, num_return_sequences=2, **CALL)
    assert torch.equal(expected, theirs)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    call = {"attention_mask": mask, "num_return_sequences": 2, **CALL}
    assert torch.equal(ours(name).generate(ids, seed=3, **call), expected)
    assert torch.equal(ours(name).generate(ids, generator=torch.Generator().manual_seed(3), **call), expected)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(ours(name).generate(ids, seed=4, **call), expected)


def test_a_generator_goes_on() -> None:
    """Two calls with one generator draw what it gives next, and so differ; from its state they can be drawn again."""
    generator = torch.Generator().manual_seed(1)
    first, second = (ours(DECODERS[1]).generate(ragged()[0], generator=generator, **CALL) for _ in range(2))
    assert not torch.equal(first, second)
    generator.manual_seed(1)
    assert torch.equal(ours(DECODERS[1]).generate(ragged()[0], generator=generator, **CALL), first)


@pytest.mark.parametrize("name", ALL)
def test_a_seed_for_each_row(name: str) -> None:
    """With a seed of its own a row is the same alone, in a batch, and in another order."""
    ids, mask = ragged()
    together = ours(name).generate(ids, attention_mask=mask, seed=[5, 6, 7], **CALL)
    order = [2, 0, 1]
    turned = ours(name).generate(ids[order], attention_mask=mask[order], seed=[7, 5, 6], **CALL)
    assert torch.equal(turned, together[order])
    for row, seed in enumerate((5, 6, 7)):
        alone = ours(name).generate(ids[row : row + 1], attention_mask=mask[row : row + 1], seed=seed, **CALL)[0]
        assert torch.equal(together[row, : len(alone)], alone)


@pytest.mark.parametrize("help_", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": True}])
def test_assisted_decoding_has_seeds(help_: dict[str, Any]) -> None:
    """Guesses are drawn from the same generator as the tokens, and torch's own is left alone."""
    if "assistant_model" in help_:
        help_ = {"assistant_model": nudged(DECODERS[2])}
    results = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        results.append(ours(DECODERS[2]).generate(ragged()[0], seed=8, **help_, **CALL))
    assert torch.equal(*results)


def test_beams_have_seeds() -> None:
    """Beam sampling draws from the call's generator, too."""
    results = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        results.append(ours(DECODERS[2]).generate(ragged()[0], seed=8, num_beams=3, **CALL))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"seed": 1, "generator": torch.Generator()}, "both"),
        ({"seed": "one"}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": [1, 2]}, "seed has 2 items for 3 rows"),
        ({"generator": [torch.Generator()]}, "generator has 1"),
        ({"generator": 5}, "generator"),
    ],
)
def test_refused(call: dict[str, Any], words: str) -> None:
    """What is no seed, or too few of them, is an error that says so."""
    with pytest.raises(GenerationError, match=words):
        ours(DECODERS[1]).generate(ragged()[0], **call, **CALL)


def test_no_effect() -> None:
    """A seed where nothing is drawn has no effect, and a warning says so."""
    with pytest.warns(UserWarning, match="seed"):
        ours(DECODERS[1]).generate(ragged()[0], max_new_tokens=1, seed=1)
