"""Why this token: the reasons are those of the tokens that `generate` gives, and every number can be checked."""

import json
import math
import unicodedata
from typing import Any

import pytest
import torch
from torch import Tensor

import glassformer as gf
from glassformer.errors import GenerationError
from glassformer.generation.explain_table import columns, cut, fit

from .tiny import ALL, ENDS, ours, ragged

CALLS: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 5},
    "several": {"do_sample": True, "num_return_sequences": 2, "bad_words_ids": [[9], [11, 12]], "seed": 1},
    "bare": {},
}


def explained(name: str, **kwargs: Any) -> tuple[Any, Any]:
    """The explanation, and what `generate` gives for the same call."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 8, "eos_token_id": ENDS, "pad_token_id": 0, **kwargs}
    kept = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    return ours(name).explain_generation(ids, **call), ours(name).generate(ids, **call, **kept)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("call", CALLS)
def test_the_tokens_and_numbers_are_generates(name: str, call: str) -> None:
    """The same tokens, logits and scores as without an explanation; a row's choices end where the row ends."""
    why, out = explained(name, **CALLS[call])
    assert torch.equal(why.sequences, out.sequences)
    assert why.finish_reason == list(out.finish_reason)
    start = out.sequences.shape[1] - len(out.scores)
    for row, choices in enumerate(why.rows):
        tokens = out.sequences[row, start:].tolist()
        assert [choice.token_id for choice in choices] == tokens[: len(choices)]
        assert set(tokens[len(choices) :]) <= {0}
        for step, choice in enumerate(choices):
            assert (choice.row, choice.step) == (row, step)
            assert choice.how == ("sampled" if CALLS[call].get("do_sample") else "greedy")
            torch.testing.assert_close(choice.logits, out.logits[step][row])
            last = choice.stages[-1].scores if choice.stages else choice.logits
            torch.testing.assert_close(last, out.scores[step][row])
            probabilities = out.scores[step][row].softmax(-1)
            # A row that is read alone, as others have ended, adds up its products in another order.
            assert choice.probability == pytest.approx(float(probabilities[choice.token_id]), rel=1e-5)
            assert choice.possible == int((probabilities > 0).sum())
            if choice.how == "greedy":
                assert choice.rank == 1
            else:
                assert 1 <= choice.rank <= choice.possible


def test_who_changed_what() -> None:
    """Each processor gets what the one before gave, and its part is exactly the difference."""
    call = {"do_sample": True, "temperature": 0.5, "top_k": 10, "repetition_penalty": 1.5, "seed": 3}
    why, _ = explained("LlamaForCausalLM", suppress_tokens=[4, 5], **call)
    for choice in (choice for row in why.rows for choice in row):
        penalty, suppress, temperature, top_k = choice.stages
        assert penalty.processor == "RepetitionPenaltyLogitsProcessor"
        assert penalty.parameters == {"penalty": 1.5}
        before = why.sequences[choice.row, : 7 + choice.step]
        moved = set((choice.logits != penalty.scores).nonzero().flatten().tolist())
        assert moved == set(before.tolist()) - {0}  # padding does not count as repeated
        assert penalty.changed == len(moved)
        assert suppress.forbidden == 2
        assert [change.token_id for change in suppress.changes] == sorted(
            (4, 5), key=lambda token: -float(penalty.scores[token])
        )
        assert all(change.after == -math.inf for change in suppress.changes)
        torch.testing.assert_close(temperature.scores, suppress.scores / 0.5)
        assert temperature.changed == 61 - 2
        assert top_k.parameters["top_k"] == 10
        assert top_k.changed == top_k.forbidden == 61 - 2 - 10
        assert choice.possible == 10
        best = top_k.changes[0]  # the best of those that were cut off
        assert best.before == float(temperature.scores.sort(descending=True).values[10])


def test_candidates() -> None:
    """The best before and the best after are there, and the one that was chosen, in the order of probability."""
    why, _ = explained("GPT2LMHeadModel", do_sample=True, top_k=30, temperature=2.0, repetition_penalty=3.0, seed=2)
    for choice in (choice for row in why.rows for choice in row):
        found = {candidate.token_id: candidate for candidate in choice.candidates}
        last = choice.stages[-1].scores
        assert set(found) == {choice.token_id, *choice.logits.topk(5).indices.tolist(), *last.topk(5).indices.tolist()}
        assert [one.token_id for one in choice.candidates if one.chosen] == [choice.token_id]
        probabilities = [candidate.probability for candidate in choice.candidates]
        assert probabilities == sorted(probabilities, reverse=True)
        for token, candidate in found.items():
            assert candidate.logit == float(choice.logits[token])
            assert candidate.scores == [float(stage.scores[token]) for stage in choice.stages]
            assert candidate.model_probability == pytest.approx(float(choice.logits.softmax(-1)[token]))


def test_a_processor_of_ones_own_is_seen() -> None:
    """Also one that writes into the scores it gets: what was there before is still told."""

    def mine(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 7] = 50.0
        return scores

    ids, _ = ragged()
    why = ours("LlamaForCausalLM").explain_generation(ids[:1], logits_processor=[mine], max_new_tokens=2)
    for choice in why.rows[0]:
        (stage,) = choice.stages
        assert (choice.token_id, stage.changed) == (7, 1)
        assert stage.changes[0].before == float(choice.logits[7]) != 50.0


def test_where_settings_are_from() -> None:
    """The call, the config given to it, the checkpoint's file, the defaults; nothing is missing."""
    model = ours("BartForConditionalGeneration")
    ids, mask = ragged()
    config = gf.GenerationConfig(max_new_tokens=2, repetition_penalty=1.2)
    why = model.explain_generation(ids, config, attention_mask=mask, no_repeat_ngram_size=3, repetition_penalty=None)
    found = {setting.name: (setting.value, setting.source) for setting in why.settings}
    assert set(found) == set(gf.GenerationConfig().to_dict()) - {"transformers_version", "_from_model_config"}
    assert found["no_repeat_ngram_size"] == (3, "call")
    assert found["max_new_tokens"] == (2, "generation_config")
    assert found["decoder_start_token_id"] == (2, "config.json")  # what was saved is made from the model's
    assert found["temperature"] == (1.0, "default")
    assert found["penalty_alpha"] == (None, "not set")
    assert [setting.source for setting in why.settings][:2] == ["call", "generation_config"]
    bundled = gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5")
    found = {setting.name: setting for setting in bundled.explain_generation(ids).settings}
    assert (found["max_new_tokens"].value, found["max_new_tokens"].source) == (12, "generation_config.json")


def test_as_json() -> None:
    """`to_dict` is JSON in the strict sense; `full` adds the scores of the whole vocabulary."""
    why, _ = explained("T5ForConditionalGeneration", do_sample=True, top_k=4, seed=1)
    plain = json.loads(json.dumps(why.to_dict(), allow_nan=False))
    choice = plain["rows"][0][0]
    assert "logits" not in choice
    assert choice["stages"][0]["parameters"]["top_k"] == 4
    assert plain["sequences"] == why.sequences.tolist()
    full = json.loads(json.dumps(why.to_dict(full=True), allow_nan=False))["rows"][0][0]
    assert len(full["logits"]) == len(full["stages"][0]["scores"]) == 61
    assert full["stages"][0]["scores"].count(None) == 61 - 4


class Letters:
    """A tokenizer whose tokens are hard to show: wide letters, line ends, half a character, nothing."""

    def decode(self, ids: list[int], **kwargs: Any) -> str:
        return ["東京" * 9, "\n\t\x1b[31m", "\ufffd", "", "a\u0301" * 30, "word"][ids[0] % 6]

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<{token}>"


@pytest.mark.parametrize("width", [None, 40, 61, 80, 200])
def test_the_table_is_no_wider_than_asked(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line fits, whatever the tokens; control characters never reach the terminal."""
    monkeypatch.setenv("COLUMNS", "73")
    why, _ = explained(
        "LlamaForCausalLM", tokenizer=Letters(), do_sample=True, top_k=9, temperature=0.7, top_p=0.95, seed=0,
        repetition_penalty=1.2, suppress_tokens=list(range(3, 40)),
    )  # fmt: skip
    text = str(why) if width is None else why.table(width)
    assert max(columns(line) for line in text.splitlines()) <= (width or 73)
    assert not [letter for letter in text if unicodedata.category(letter) == "Cc" and letter != "\n"]
    assert "top_k = 9  (call)" in text
    assert "TopKLogitsWarper forbade" in text or width == 40
    for row, reason in enumerate(why.finish_reason):
        assert f"Row {row} ended by {reason}" in text


def test_texts_of_tokens() -> None:
    """A token is shown by its text, and by its name in the vocabulary where it is no whole character."""
    why, _ = explained("GPT2LMHeadModel", tokenizer=Letters())
    for choice in why.rows[0]:
        for candidate in choice.candidates:
            kind = candidate.token_id % 6
            assert candidate.token == (f"<{candidate.token_id}>" if kind in (2, 3) else Letters().decode([kind]))
    assert explained("GPT2LMHeadModel")[0].rows[0][0].token is None


def test_columns() -> None:
    """Wide letters count two, accents none; what is cut says so."""
    assert columns("a東e\u0301") == 4
    assert cut("abcdef", 4) == "abc…"
    assert cut("東京東京", 4) == "東…"
    assert fit("東", 5) == "東   "


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_beams": 2}, "beam_search cannot be explained"),
        ({"top": 0}, "top is 0"),
        ({"streamer": object()}, "streamer"),
        ({"max_new_tokns": 3}, "max_new_tokns"),
    ],
)
def test_refused(settings: dict[str, Any], match: str) -> None:
    """What cannot be explained is one sentence."""
    ids, _ = ragged()
    with pytest.raises(GenerationError, match=match):
        ours("GPT2LMHeadModel").explain_generation(ids, **settings)
