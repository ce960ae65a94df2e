"""Constrained beams: the words are said, the best way to say them is found, and contradictions are refused."""

from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glassformer.errors import GenerationError
from glassformer.generation.config import GenerationConfig
from glassformer.generation.constraints import (
    Constraint,
    ConstraintListState,
    DisjunctiveConstraint,
    PhrasalConstraint,
)

from .test_beams import exhaustive
from .tiny import ALL, ENCODER_DECODERS, ENDS, VOCABULARY, ours, ragged

tokens = st.integers(3, 8)
phrase = st.lists(tokens, min_size=1, max_size=3)
word = phrase | st.lists(phrase, min_size=1, max_size=3)


def says(text: list[int], wanted: Any) -> bool:
    """Whether a text has a phrase, or one of several, in one piece."""
    choices = wanted if isinstance(wanted[0], list) else [wanted]
    return any(text[at : at + len(one)] == one for one in choices for at in range(len(text)))


@given(words=st.lists(word, min_size=1, max_size=3), beams=st.integers(2, 4), seed=st.integers(0, 3))
@example(words=[[5, 3, 3], [5]], beams=2, seed=0)  # the likeliest way to the second leaves no room for the first
@settings(max_examples=40, deadline=None)
def test_forced_words_appear(words: list[Any], beams: int, seed: int) -> None:
    """Every new text has every word, in any number and length that fits, and only padding after its end."""
    ids, mask = ragged(seed=seed)
    needed = sum(max(map(len, one)) if isinstance(one[0], list) else len(one) for one in words)
    out = ours("GPT2LMHeadModel").generate(
        ids, attention_mask=mask, force_words_ids=words, num_beams=beams, max_new_tokens=needed + seed,
        eos_token_id=ENDS[:1], pad_token_id=60, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    for row, length in zip(out.sequences[:, 7:].tolist(), (out.beam_indices >= 0).sum(1).tolist()):
        assert all(says(row[:length], one) for one in words), row
        assert set(row[length:]) <= {60}
        assert row[length - 1] == ENDS[0] or length == needed + seed


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_batch_is_its_rows(name: str, use_cache: bool) -> None:
    """In a ragged batch every row gets what it gets alone, and says the words."""
    ids, mask = ragged("right" if name in ENCODER_DECODERS else "left")
    words: list[Any] = [[30, 31], [[44], [50, 51, 52]]]
    call = {"force_words_ids": words, "num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 9}
    call |= {"eos_token_id": ENDS[0], "use_cache": use_cache}
    start = 1 if name in ENCODER_DECODERS else 7
    together = ours(name).generate(ids, attention_mask=mask, **call).view(3, 2, -1)[:, :, start:]
    for row, real, result in zip(ids, mask, together):
        alone = ours(name).generate(row[real.bool()][None], **call)
        alone = alone[:, 1 if name in ENCODER_DECODERS else int(real.sum()) :]
        assert torch.equal(result[:, : alone.shape[1]], alone)
        assert all(says(text, one) for text in result.tolist() for one in words)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_wide_beams_find_the_best(seed: int) -> None:
    """With a beam for every way, the best text that says the word is found, as a count of every way finds it."""
    model, (ids, _), allowed = ours("GPT2LMHeadModel"), ragged(seed=seed), [2, 9, 30, 41]
    for words in ([[9]], [[30, 41]], [[41], [9]]):
        ways = exhaustive(model, ids[:1], 3, 2, 1.0, allowed)
        best = next(text for _, text in ways if all(says(text, one) for one in words))
        found = model.generate(
            ids[:1], num_beams=40, max_new_tokens=3, eos_token_id=2, pad_token_id=50, force_words_ids=words,
            prefix_allowed_tokens_fn=lambda row, text: allowed, early_stopping="never",
        )  # fmt: skip
        assert found[0, 7 : 7 + len(best)].tolist() == best


def test_constraints_and_words_are_the_same() -> None:
    """Objects and lists of tokens ask for the same, and the objects given are left as they were."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 7}
    objects = [PhrasalConstraint([30, 31]), DisjunctiveConstraint([[44], [50, 51]])]
    model = ours("LlamaForCausalLM")
    for _ in range(2):
        found = model.generate(ids, constraints=objects, **call)
        assert torch.equal(found, model.generate(ids, force_words_ids=[[30, 31], [[44], [50, 51]]], **call))
    assert not any(constraint.completed or constraint.current_seq for constraint in objects)
    assert '"token_ids": [\n' in repr(GenerationConfig(num_beams=3, constraints=objects))


def test_words_in_the_prompt_do_not_count() -> None:
    """What the prompt says must be said again."""
    ids, _ = ragged()
    wanted = ids[0, 2:4].tolist()
    found = ours("GPT2LMHeadModel").generate(ids[:1], force_words_ids=[wanted], num_beams=2, max_new_tokens=3)
    assert says(found[0, 7:].tolist(), wanted)


def test_own_constraint() -> None:
    """A class of one's own works: here two tokens that are multiples of ten, one after another."""

    class Tens(Constraint):
        seqlen = 2

        def __init__(self) -> None:
            self.said = 0

        def advance(self) -> list[int] | None:
            return None if self.completed else list(range(10, VOCABULARY, 10))

        def update(self, token_id: int) -> tuple[bool, bool, bool]:
            on = self.does_advance(token_id)
            self.said = self.said + 1 if on else 0
            self.completed = self.said == 2
            return on, self.completed, not on

        def reset(self) -> None:
            self.said, self.completed = 0, False

        def remaining(self) -> int:
            return 2 - self.said

        def copy(self, stateful: bool = False) -> "Tens":
            other = Tens()
            if stateful:
                other.said, other.completed = self.said, self.completed
            return other

    ids, mask = ragged()
    found = ours("GPT2LMHeadModel").generate(ids, attention_mask=mask, constraints=[Tens()], num_beams=3, max_length=13)
    for row in found[:, 7:].tolist():
        assert any(one % 10 == 0 and other % 10 == 0 for one, other in pairwise(row) if one and other)


def test_impossible_words_leave_a_text() -> None:
    """Words for which there is no room, or that are forbidden, do not keep a text from coming back."""
    ids, _ = ragged()
    model = ours("GPT2LMHeadModel")
    short = model.generate(ids, force_words_ids=[[30, 31, 32]], num_beams=3, num_return_sequences=3, max_new_tokens=2)
    assert short.shape == (9, 9)
    forbidden = model.generate(
        ids, force_words_ids=[[30]], bad_words_ids=[[30]], num_beams=3, max_new_tokens=4, num_return_sequences=2
    )
    assert forbidden.shape == (6, 11)
    assert not (forbidden[:, 7:] == 30).any()


@given(words=st.lists(phrase, min_size=1, max_size=3), text=st.lists(tokens, max_size=12))
def test_state_is_sound(words: list[list[int]], text: list[int]) -> None:
    """A state that is complete has said every word; what it asks for completes it, and its bank grows with it."""
    state = ConstraintListState([PhrasalConstraint(one) for one in words])
    state.reset(text)
    if state.completed:
        assert all(says(text, one) for one in words)
    text, bank = list(text), state.get_bank()
    while (wanted := state.advance()) is not None:
        before = state.copy()
        state.add(wanted[0])
        text.append(wanted[0])
        assert state.get_bank() > bank
        assert before.get_bank() == bank
        bank = state.get_bank()
    assert state.completed
    assert all(says(text, one) for one in words)
    assert state.copy(stateful=False).get_bank() == 0


def test_words_in_any_order() -> None:
    """Several words may come in any order, each of which is complete."""
    words = [[3, 4], [5], [6, 7, 8]]
    for order in permutations(words):
        state = ConstraintListState([PhrasalConstraint(one) for one in words])
        state.reset([token for one in order for token in one])
        assert state.completed


REFUSED = {
    "one beam": ({"force_words_ids": [[3]], "num_beams": 1}, "num_beams"),
    "drawn": ({"force_words_ids": [[3]], "do_sample": True}, "do_sample"),
    "grouped": ({"force_words_ids": [[3]], "num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups"),
    "no words": ({"force_words_ids": []}, "force_words_ids"),
    "an empty word": ({"force_words_ids": [[]]}, "no words to force"),
    "text": ({"force_words_ids": ["rain"]}, "no words to force"),
    "a number": ({"force_words_ids": 3}, "force_words_ids"),
    "beyond the vocabulary": ({"force_words_ids": [[VOCABULARY]]}, "vocabulary"),
    "no constraints": ({"constraints": []}, "constraints"),
    "no constraint": ({"constraints": [3]}, "constraints"),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(call: dict[str, Any], words: str) -> None:
    """What is no word or cannot go together is an error that names it."""
    with pytest.raises(GenerationError, match=words):
        ours("GPT2LMHeadModel").generate(ragged()[0], **{"num_beams": 4, **call})
