"""Chance belongs to the call: the same seed gives the same text, whatever else runs."""

from typing import Any

import pytest
import torch

from glassformer.errors import GenerationError
from glassformer.generation.seeds import draw_several_with, draw_with

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


@pytest.mark.parametrize("name", ALL)
def test_a_seed_for_each_row_with_a_draft_model(name: str) -> None:
    """Whatever a draft model guesses, and whoever stands beside, a row is what its seed draws without help."""
    ids, mask = ragged()
    plain = ours(name).generate(ids, attention_mask=mask, seed=[5, 6, 7], **CALL)
    helped = {"assistant_model": nudged(name, 0.1), "num_assistant_tokens": 4, "assistant_confidence_threshold": 0.0}
    together = ours(name).generate(ids, attention_mask=mask, seed=[5, 6, 7], **helped, **CALL)
    assert torch.equal(together, plain)
    for row, seed in enumerate((5, 6, 7)):
        alone = ours(name).generate(
            ids[row : row + 1], attention_mask=mask[row : row + 1], seed=[seed], **helped, **CALL
        )[0]
        assert torch.equal(plain[row, : len(alone)], alone)


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


@pytest.mark.parametrize("cut", [None, 20], ids=["all", "cut"])
@pytest.mark.parametrize("each", [False, True], ids=["one generator", "one a row"])
def test_draws_are_those_of_multinomial(each: bool, cut: int | None) -> None:
    """The same places as `torch.multinomial` draws, in its order, with ties too; and the generators end up alike."""

    def made(rows: int, seed: int) -> Any:
        made = [torch.Generator().manual_seed(seed + row) for row in range(rows if each else 1)]
        return made if each else made[0]

    def multinomial(weights: torch.Tensor, count: int, chance: Any) -> torch.Tensor:
        pairs = zip(weights.split(1), chance) if each else [(weights, chance)]
        return torch.cat([torch.multinomial(part, count, generator=own) for part, own in pairs])

    for seed in range(200):
        rows, size = 1 + seed % 7, 21 + 13 * (seed % 40)
        scores = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3
        scores = scores.round() if seed % 5 == 0 else scores
        if cut is not None:
            scores = scores.masked_fill(scores < scores.topk(cut).values[:, -1:], -torch.inf)
        weights = scores.softmax(dim=-1)
        expected, found = made(rows, seed), made(rows, seed)
        assert torch.equal(draw_with(found)(weights), multinomial(weights, 1, expected)[:, 0])
        assert torch.equal(draw_several_with(found)(weights, 8), multinomial(weights, 8, expected))
        for one, other in zip(found if each else [found], expected if each else [expected]):
            assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nothing_can_be_drawn(bad: float, num_beams: int) -> None:
    """Scores of which no probabilities can be made are refused, if only in one row, as the peer does."""

    def spoil(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        spoilt = scores.clone()
        spoilt[-num_beams:, :] = bad
        return spoilt

    with pytest.raises(GenerationError, match="No token can be drawn"):
        ours(DECODERS[0]).generate(ragged()[0], seed=1, num_beams=num_beams, logits_processor=[spoil], top_k=0, **CALL)
