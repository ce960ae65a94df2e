"""Every processor alone against the peer's class of the same name, on random scores and ids."""

from typing import Any

import pytest
import torch
import transformers.generation.logits_process as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from glassformer.errors import GenerationError
from glassformer.generation import guidance, processors, warpers

SIZE = 40
SOURCE = torch.tensor([[5, 6, 7, 5, 6, 9], [1, 1, 2, 3, 1, 1]])
MASK_LENGTHS = torch.tensor([0, 2, 0, 3])
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("MinLengthLogitsProcessor", (9, 3), {}),
    ("MinLengthLogitsProcessor", (8, [3, 4]), {}),
    ("MinLengthLogitsProcessor", (20, torch.tensor([3, 39])), {}),
    ("MinNewTokensLengthLogitsProcessor", (6, 3, [0]), {}),
    ("MinNewTokensLengthLogitsProcessor", (6, 2, 0), {}),
    ("TemperatureLogitsWarper", (0.3,), {}),
    ("RepetitionPenaltyLogitsProcessor", (1.7,), {}),
    ("RepetitionPenaltyLogitsProcessor", (0.6, 3), {}),
    ("RepetitionPenaltyLogitsProcessor", (1.2, MASK_LENGTHS), {}),
    ("EncoderRepetitionPenaltyLogitsProcessor", (1.7, SOURCE), {}),
    ("EncoderRepetitionPenaltyLogitsProcessor", (0.7, SOURCE.repeat(2, 1)), {}),
    ("TopPLogitsWarper", (0.0,), {}),
    ("TopPLogitsWarper", (0.73,), {"min_tokens_to_keep": 4}),
    ("TopPLogitsWarper", (1.0,), {}),
    ("TopPLogitsWarper", (0.4,), {"filter_value": -7.0}),
    ("TopKLogitsWarper", (5,), {}),
    ("TopKLogitsWarper", (1,), {"min_tokens_to_keep": 3, "filter_value": -9.0}),
    ("TopKLogitsWarper", (500,), {}),
    ("TopHLogitsWarper", (0.4,), {}),
    ("TopHLogitsWarper", (1.0,), {"filter_value": -5.0}),
    ("MinPLogitsWarper", (0.3,), {}),
    ("MinPLogitsWarper", (1.0,), {"min_tokens_to_keep": 5}),
    ("TypicalLogitsWarper", (0.6,), {}),
    ("TypicalLogitsWarper", (0.05,), {"min_tokens_to_keep": 3}),
    ("EpsilonLogitsWarper", (0.03,), {}),
    ("EpsilonLogitsWarper", (0.9,), {"min_tokens_to_keep": 2}),
    ("EtaLogitsWarper", (0.05,), {}),
    ("EtaLogitsWarper", (0.9,), {"min_tokens_to_keep": 2}),
    ("NoRepeatNGramLogitsProcessor", (1,), {}),
    ("NoRepeatNGramLogitsProcessor", (2,), {}),
    ("NoRepeatNGramLogitsProcessor", (3,), {}),
    ("NoRepeatNGramLogitsProcessor", (30,), {}),
    ("EncoderNoRepeatNGramLogitsProcessor", (1, SOURCE), {}),
    ("EncoderNoRepeatNGramLogitsProcessor", (2, SOURCE), {}),
    ("EncoderNoRepeatNGramLogitsProcessor", (3, SOURCE.repeat(2, 1)), {}),
    ("EncoderNoRepeatNGramLogitsProcessor", (12, SOURCE), {}),
    ("EncoderNoRepeatNGramLogitsProcessor", (2, SOURCE[0]), {}),
    ("SequenceBiasLogitsProcessor", ({(3,): 1.5, (5, 6): -2.0, (9, 9, 8): 4.0, (5, 7): 1.0},), {}),
    ("SequenceBiasLogitsProcessor", ([[[3], 1.5], [[6, 5], float("-inf")]],), {}),
    ("NoBadWordsLogitsProcessor", ([[3], [5, 6], [1, 2, 3], [6, 7]],), {}),
    ("NoBadWordsLogitsProcessor", ([[3], [4], [5, 3]], [3]), {}),
    ("NoBadWordsLogitsProcessor", ([[3]], 3), {}),
    ("PrefixConstrainedLogitsProcessor", (lambda row, ids: [row, 7, int(ids[-1])], 2), {}),
    ("ForcedBOSTokenLogitsProcessor", (11,), {}),
    ("ForcedEOSTokenLogitsProcessor", (9, 4), {}),
    ("ForcedEOSTokenLogitsProcessor", (2, [4, 5]), {}),
    ("InfNanRemoveLogitsProcessor", (), {}),
    ("ExponentialDecayLengthPenalty", ((1, 1.3), [4, 6], 5), {}),
    ("ExponentialDecayLengthPenalty", ((9, 1.3), 4, 5), {}),
    ("LogitNormalization", (), {}),
    ("SuppressTokensLogitsProcessor", ([3, 9, 100],), {}),
    ("SuppressTokensAtBeginLogitsProcessor", ([3, 9], 8), {}),
    ("SuppressTokensAtBeginLogitsProcessor", ([3, 9], 7), {}),
]


def build(library: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(library, name)(*args, **kwargs)


def home(name: str) -> Any:
    return warpers if hasattr(warpers, name) and "Warper" in name else processors


def ids_of(length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 10, (4, length), generator=torch.Generator().manual_seed(seed))


def scores_of(kind: str, seed: int) -> torch.Tensor:
    scores = 3 * torch.randn(4, SIZE, generator=torch.Generator().manual_seed(seed))
    if kind == "forbidden":
        scores[:, ::3] = -torch.inf
    if kind == "ties":
        scores = scores.round()
    return scores


@pytest.mark.parametrize("kind", ["plain", "forbidden", "ties"])
@pytest.mark.parametrize(("name", "args", "kwargs"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_equals_the_peer(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], kind: str) -> None:
    """Exactly the peer's scores, for ids of several lengths, and what was given is not written into."""
    for length in (1, 2, 8, 9):
        if name == "PrefixConstrainedLogitsProcessor" and kind == "forbidden":
            continue  # it may allow nothing there; that is a test of its own
        own, other = build(home(name), name, args, kwargs), build(theirs, name, args, kwargs)
        for seed in range(3):
            ids, scores = ids_of(length, seed), scores_of(kind, seed)
            if name == "InfNanRemoveLogitsProcessor":
                scores[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
            before = scores.clone()
            result = own(ids, scores)
            torch.testing.assert_close(scores, before, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(result, other(ids, before.clone()), rtol=0, atol=0)


def test_every_processor_for_text_is_there() -> None:
    """The peer's classes are all here and tested, but for other modalities, watermarks, and batched guidance."""
    elsewhere = ("Whisper", "Bark", "Dia", "SynthID", "Watermark", "Alternating", "ClassifierFree")
    names = {
        name for name, value in vars(theirs).items() if isinstance(value, type) and value.__module__ == theirs.__name__
    }
    expected = {name for name in names if not name.startswith(elsewhere)}
    here = {**vars(processors), **vars(warpers), **vars(guidance)}
    assert expected - set(here) == set()
    untested = expected - {case[0] for case in CASES}
    assert untested == {"LogitsProcessor", "LogitsProcessorList", "UnbatchedClassifierFreeGuidanceLogitsProcessor"}


def test_constraint_wins_over_what_forbids_all_of_it() -> None:
    """Where an earlier processor forbade all that a constraint allows, the constraint's tokens stay possible."""
    scores = torch.full((4, SIZE), -torch.inf)
    scores[0, 3] = 1.0
    for beams in (1, 2):
        args = (lambda row, ids: [5, 6], beams)
        own = processors.PrefixConstrainedLogitsProcessor(*args)(ids_of(3, 0), scores)
        other = theirs.PrefixConstrainedLogitsProcessor(*args)(ids_of(3, 0), scores)
        torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_list_applies_in_order_and_passes_keywords() -> None:
    """A list applies its items one after another; one that needs a keyword gets it, or names it in an error."""

    class Adds:
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, amount: float) -> torch.Tensor:
            return scores + amount

    chain = processors.LogitsProcessorList([warpers.TemperatureLogitsWarper(2.0), Adds()])
    result = chain(ids_of(3, 0), torch.ones(4, 2), amount=3.0)
    assert torch.equal(result, torch.full((4, 2), 3.5))
    with pytest.raises(GenerationError, match="amount"):
        chain(ids_of(3, 0), torch.ones(4, 2))


REFUSED = [
    ("MinLengthLogitsProcessor", (-1, 3)),
    ("MinLengthLogitsProcessor", (2.5, 3)),
    ("TemperatureLogitsWarper", (0.0,)),
    ("TemperatureLogitsWarper", (-1.0,)),
    ("TemperatureLogitsWarper", ("hot",)),
    ("RepetitionPenaltyLogitsProcessor", (0.0,)),
    ("RepetitionPenaltyLogitsProcessor", (1.2, torch.ones(2, 2))),
    ("RepetitionPenaltyLogitsProcessor", (1.2, -1)),
    ("EncoderRepetitionPenaltyLogitsProcessor", (-2.0, SOURCE)),
    ("TopPLogitsWarper", (1.2,)),
    ("TopPLogitsWarper", (0.5, 0.0, 0)),
    ("TopKLogitsWarper", (0,)),
    ("TopKLogitsWarper", (2.0,)),
    ("TopHLogitsWarper", (0.0,)),
    ("MinPLogitsWarper", (-0.1,)),
    ("TypicalLogitsWarper", (1.0,)),
    ("EpsilonLogitsWarper", (0.0,)),
    ("EtaLogitsWarper", (1.0,)),
    ("NoRepeatNGramLogitsProcessor", (0,)),
    ("EncoderNoRepeatNGramLogitsProcessor", (-1, SOURCE)),
    ("SequenceBiasLogitsProcessor", ({(): 1.0},)),
    ("SequenceBiasLogitsProcessor", ({(-1,): 1.0},)),
    ("SequenceBiasLogitsProcessor", ([[3, 1.0]],)),
    ("NoBadWordsLogitsProcessor", ([],)),
    ("NoBadWordsLogitsProcessor", ([3],)),
    ("NoBadWordsLogitsProcessor", ([[-3]],)),
    ("ForcedEOSTokenLogitsProcessor", (5, -1)),
    ("ExponentialDecayLengthPenalty", ((1, 1.3), -4, 5)),
]


@pytest.mark.parametrize(("name", "args"), REFUSED, ids=[f"{case[0]}-{n}" for n, case in enumerate(REFUSED)])
def test_refuses_what_the_peer_refuses(name: str, args: tuple[Any, ...]) -> None:
    """A value out of range is an error here as it is there."""
    with pytest.raises((ValueError, TypeError)):
        build(theirs, name, args, {})
    with pytest.raises(GenerationError):
        build(home(name), name, args, {})


def test_tokens_outside_the_vocabulary() -> None:
    """A biased token that the vocabulary does not have is an error that says how many it has."""
    for processor in (
        processors.SequenceBiasLogitsProcessor({(SIZE,): 1.0}),
        processors.NoBadWordsLogitsProcessor([[99]]),
    ):
        with pytest.raises(GenerationError, match=f"vocabulary has {SIZE}"):
            processor(ids_of(2, 0), scores_of("plain", 0))
    with pytest.raises(GenerationError, match="start, factor"):
        processors.ExponentialDecayLengthPenalty([1.0], 3, 4)  # type: ignore[list-item]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 50), st.floats(0.01, 0.99))
def test_what_warpers_keep(seed: int, k: int, p: float) -> None:
    """Top-k keeps the k most likely; top-p the fewest that reach p; every warper keeps the most likely token."""
    scores = 4 * torch.randn(3, SIZE, generator=torch.Generator().manual_seed(seed))
    probabilities = scores.softmax(-1)
    kept = warpers.TopKLogitsWarper(k)(None, scores).isfinite()  # type: ignore[arg-type]
    assert (kept.sum(-1) == min(k, SIZE)).all()
    assert (scores.masked_fill(~kept, torch.inf).amin(-1) >= scores.masked_fill(kept, -torch.inf).amax(-1)).all()

    kept = warpers.TopPLogitsWarper(p)(None, scores).isfinite()  # type: ignore[arg-type]
    mass = (probabilities * kept).sum(-1)
    least = probabilities.masked_fill(~kept, 2).amin(-1)
    assert (mass >= p - 1e-5).all()
    assert (mass - least < p + 1e-5).all()

    for warper in (
        warpers.MinPLogitsWarper(p),
        warpers.TopHLogitsWarper(p),
        warpers.EpsilonLogitsWarper(p),
        warpers.EtaLogitsWarper(p),
    ):
        kept = warper(None, scores).isfinite()  # type: ignore[arg-type]
        assert kept.gather(1, scores.argmax(-1, keepdim=True)).all()
    assert warpers.TypicalLogitsWarper(p)(None, scores).isfinite().any(-1).all()  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=5),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_forbidden_tokens_match_a_plain_reading(words: list[list[int]], row: list[int], n: int) -> None:
    """Bad words and repeated n-grams forbid just the tokens that a loop over the row finds."""
    ids, scores = torch.tensor([row]), torch.zeros(1, 10)
    forbidden = processors.NoBadWordsLogitsProcessor(words)(ids, scores)[0].isneginf().nonzero().flatten().tolist()
    ends = [word[-1] for word in words if row[len(row) - len(word) + 1 :] == word[:-1] and len(word) <= len(row) + 1]
    assert forbidden == sorted(set(ends))

    forbidden = processors.NoRepeatNGramLogitsProcessor(n)(ids, scores)[0].isneginf().nonzero().flatten().tolist()
    grams = [row[i : i + n] for i in range(len(row) - n + 1)]
    last = row[len(row) - n + 1 :]
    assert forbidden == sorted({gram[-1] for gram in grams if gram[:-1] == last and len(last) == n - 1})
