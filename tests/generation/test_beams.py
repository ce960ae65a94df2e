"""Beam search and beam sampling give what the peer gives; groups and wide beams what plain references give."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from glassformer.errors import GenerationError
from glassformer.generation.generate import compute_transition_scores
from glassformer.generation.stopping import StoppingCriteria, StoppingCriteriaList

from .test_generate import PADDED, close, flatten, real
from .tiny import ALL, DECODERS, ENCODER_DECODERS, ENDS, both, ours, peer, ragged

BEAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two": {"num_beams": 2, "eos_token_id": 7},
    "many": {"num_beams": 7, "num_return_sequences": 7},
    "early": {"early_stopping": True, "num_return_sequences": 3},
    "never": {"early_stopping": "never"},
    "never, short": {"early_stopping": "never", "length_penalty": -0.7},
    "long": {"length_penalty": 2.5, "num_return_sequences": 2},
    "no length": {"length_penalty": 0.0, "num_return_sequences": 2},
    "no end": {"eos_token_id": None},
    "pad is an end": {"pad_token_id": 7, "eos_token_id": 7},
    "pad": {"pad_token_id": 50},
    "one step": {"max_new_tokens": 1},
    "max_length": {"max_new_tokens": None, "max_length": 11},
    "minimum": {"min_new_tokens": 6, "num_return_sequences": 4},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "of the source": {"encoder_repetition_penalty": 1.7, "encoder_no_repeat_ngram_size": 2},
    "words": {"bad_words_ids": [[5], [9, 11], [40]], "sequence_bias": [[[13], 4.0], [[13, 20], 9.0]]},
    "forced": {"forced_bos_token_id": 33, "forced_eos_token_id": 2, "begin_suppress_tokens": [20]},
    "decay": {"exponential_decay_length_penalty": (3, 1.3), "renormalize_logits": True},
    "few allowed": {"prefix_allowed_tokens_fn": lambda row, ids: [9, 10 + row, 2 if len(ids) > 9 else 12]},
    "only an end": {"prefix_allowed_tokens_fn": lambda row, ids: [2] if len(ids) > 8 else [9]},
    "sample": {"do_sample": True},
    "sample, sharp": {"do_sample": True, "temperature": 0.6, "top_k": 9, "top_p": 0.8, "num_return_sequences": 2},
    "sample, cuts": {"do_sample": True, "min_p": 0.05, "typical_p": 0.7, "early_stopping": True},
}


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("settings", BEAMS.values(), ids=BEAMS.keys())
@pytest.mark.parametrize("name", ALL)
def test_tokens(name: str, settings: dict[str, Any], use_cache: bool) -> None:
    """The same tokens for a ragged batch, with and without a cache."""
    ids, mask = ragged()
    call = {"max_new_tokens": 10, "eos_token_id": ENDS[:2], "num_beams": 4, **settings}
    found, expected = both(name, ids, attention_mask=mask, use_cache=use_cache, **call)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_outputs(name: str, do_sample: bool) -> None:
    """The output has the peer's class name, keys and values."""
    ids, mask = ragged()
    flags = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate")
    found, expected = both(
        name, ids, attention_mask=mask, max_new_tokens=6, do_sample=do_sample, temperature=0.9 if do_sample else None,
        eos_token_id=ENDS, num_beams=3, num_return_sequences=2, **dict.fromkeys(flags, True),
    )  # fmt: skip
    assert type(found).__name__ == type(expected).__name__
    assert list(found) == list(expected)
    assert found.beam_indices.dtype == expected.beam_indices.dtype
    for key in found:
        if key != "past_key_values":
            flat, wanted = (flatten(out[key]) for out in (found, expected))
            assert len(flat) == len(wanted), key
            if key in PADDED:
                each = mask if key.startswith("encoder_") else mask.repeat_interleave(3, dim=0)
                flat, wanted = ([real(tensor, each) for tensor in tensors] for tensors in (flat, wanted))
            for one, other in zip(flat, wanted):
                close(one, other, key)
    assert found.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()
    for one, other in zip(found.past_key_values, expected.past_key_values):
        torch.testing.assert_close(one[0][:, :, -5:], other[0][:, :, -5:], rtol=1e-4, atol=1e-5)


def exhaustive(
    model: Any, ids: torch.Tensor, steps: int, end: int, penalty: float, allowed: list[int]
) -> list[tuple[float, list[int]]]:
    """Every continuation of `ids` (1, T) over a few tokens, by score: log-probability / length ** penalty."""
    running, finished = [(0.0, [])], []
    for length in range(1, steps + 1):
        longer = []
        for score, tokens in running:
            text = torch.cat([ids, torch.tensor([tokens], dtype=torch.long)], dim=1)
            logits = model(input_ids=text, use_cache=False).logits[0, -1].log_softmax(-1)
            for token in allowed:
                total = score + float(logits[token])
                done = token == end or length == steps
                (finished if done else longer).append((total / length**penalty if done else total, [*tokens, token]))
        running = longer
    return sorted(finished, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("early", [False, "never"])
@torch.no_grad()
def test_full_width_finds_the_best(penalty: float, early: bool | str) -> None:
    """As many beams as there are ways find the best of all, which a count of every way gives, in its order."""
    model, (ids, _), allowed = ours("GPT2LMHeadModel"), ragged(), [2, 9, 30, 41]
    best = exhaustive(model, ids[:1], 3, 2, penalty, allowed)
    out = model.generate(
        ids[:1], num_beams=40, num_return_sequences=30, max_new_tokens=3, eos_token_id=2, pad_token_id=50,
        length_penalty=penalty, early_stopping=early, return_dict_in_generate=True, output_scores=True,
        prefix_allowed_tokens_fn=lambda row, tokens: allowed,
    )  # fmt: skip
    count = 30 if early == "never" and penalty >= 0 else 1  # else the search may rightly stop when the best is known
    for (score, tokens), found, found_score in list(zip(best, out.sequences, out.sequences_scores))[:count]:
        assert found[7 : 7 + len(tokens)].tolist() == tokens
        assert (found[7 + len(tokens) :] == 50).all()
        torch.testing.assert_close(float(found_score), score, rtol=1e-4, atol=1e-5)


GROUPS: dict[str, Any] = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7}


@pytest.mark.parametrize("name", ALL)
def test_groups_alone_are_beams(name: str) -> None:
    """The first group of a diverse search is a search of its own, and with no penalty all groups are."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 8, "eos_token_id": ENDS[:2]}
    plain = ours(name).generate(ids, **call, num_beams=2, num_return_sequences=2)
    weak = ours(name).generate(
        ids, **call, num_beams=6, num_beam_groups=3, diversity_penalty=1e-9, num_return_sequences=6
    )
    assert torch.equal(weak.view(3, 6, -1)[:, [0, 3]], plain.view(3, 2, -1))
    strong = ours(name).generate(ids, **call, **{**GROUPS, "diversity_penalty": 50.0}, num_return_sequences=6)
    assert {tuple(row.tolist()) for row in trimmed(plain)} <= {tuple(row.tolist()) for row in trimmed(strong)}


def trimmed(sequences: torch.Tensor) -> list[torch.Tensor]:
    """Rows without the ends that follow their first end (in the place of padding 0) or their last token."""
    rows = []
    for row in sequences:
        length = len(row)
        while length > 1 and row[length - 1] == row[length - 2] == ENDS[0]:
            length -= 1
        rows.append(row[:length])
    return rows


@torch.no_grad()
def test_groups_against_a_plain_reference() -> None:
    """Greedy groups (one beam each) follow the paper, written plainly: a token costs what earlier groups took of it."""
    model, (ids, _) = ours("GPT2LMHeadModel"), ragged()
    groups, penalty, steps = 4, 1.5, 6
    texts, scores = [ids[:1]] * groups, [0.0] * groups
    for _ in range(steps):
        taken: list[int] = []
        for group in range(groups):
            logits = model(input_ids=texts[group], use_cache=False).logits[0, -1].log_softmax(-1)
            for token in taken:
                logits[token] -= penalty
            taken.append(int(logits.argmax()))
            scores[group] += float(logits.max())
            texts[group] = torch.cat([texts[group], torch.tensor([[taken[-1]]])], dim=1)
    out = model.generate(
        ids[:1], num_beams=groups, num_beam_groups=groups, diversity_penalty=penalty, num_return_sequences=groups,
        max_new_tokens=steps, eos_token_id=None, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    order = sorted(range(groups), key=lambda group: -scores[group])
    assert out.sequences.tolist() == [texts[group][0].tolist() for group in order]
    torch.testing.assert_close(out.sequences_scores, torch.tensor([scores[group] / steps for group in order]))
    summed = compute_transition_scores(out.sequences, out.scores, out.beam_indices).sum(1) / steps
    torch.testing.assert_close(summed, out.sequences_scores)


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 4}, {"num_beams": 4, "early_stopping": True}, GROUPS, {**GROUPS, "early_stopping": True}],
    ids=["beams", "beams, early", "groups", "groups, early"],
)
@pytest.mark.parametrize("name", ALL)
def test_batch_is_its_rows(name: str, settings: dict[str, Any]) -> None:
    """A batch gives what its rows give alone, without padding; and the side of the padding is nothing to it."""
    ids, mask = ragged("right" if name in ENCODER_DECODERS else "left")
    call = {"max_new_tokens": 8, "eos_token_id": ENDS[:2], "num_return_sequences": 3, **settings}
    together = ours(name).generate(ids, attention_mask=mask, **call).view(3, 3, -1)
    for row, real_tokens, result in zip(ids, mask, together):
        alone = ours(name).generate(row[real_tokens.bool()][None], **call)
        new = alone[:, -(alone.shape[1] - (1 if name in ENCODER_DECODERS else int(real_tokens.sum()))) :]
        start = 1 if name in ENCODER_DECODERS else 7
        assert torch.equal(result[:, start : start + new.shape[1]], new)
        assert (result[:, start + new.shape[1] :] == ENDS[0]).all()
    if name in DECODERS:
        lengths = mask.sum(1)
        moved = torch.stack([row.roll(int(length), 0) for row, length in zip(ids, lengths)])
        moved_mask = torch.stack([row.roll(int(length), 0) for row, length in zip(mask, lengths)])
        found = ours(name).generate(moved, attention_mask=moved_mask, **call)
        assert torch.equal(found.view(3, 3, -1), together)


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {**GROUPS, "num_beams": 3}], ids=["beams", "groups"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", [DECODERS[1], ENCODER_DECODERS[0]])
def test_transition_scores(name: str, normalize: bool, settings: dict[str, Any]) -> None:
    """The scores of the chosen tokens add up to a sequence's score times its length."""
    ids, mask = ragged()
    out = ours(name).generate(
        ids, attention_mask=mask, max_new_tokens=6, eos_token_id=ENDS, num_return_sequences=3, output_scores=True,
        return_dict_in_generate=True, length_penalty=0.5, renormalize_logits=normalize, **settings,
    )  # fmt: skip
    scores = ours(name).compute_transition_scores(out.sequences, out.scores, out.beam_indices, normalize_logits=False)
    lengths = (out.beam_indices >= 0).sum(1)
    torch.testing.assert_close(scores.sum(1) / lengths**0.5, out.sequences_scores, rtol=1e-4, atol=1e-4)
    reasons = ["eos" if out.sequences[row, -1 - (6 - n)] in ENDS else "length" for row, n in enumerate(lengths)]
    if out.sequences.shape[1] == ids.shape[1] + 6:
        assert list(out.finish_reason) == reasons
    assert len(out.finish_reason) == len(out.sequences)


@given(
    beams=st.integers(2, 5),
    returned=st.integers(1, 5),
    penalty=st.floats(-2, 3),
    early=st.sampled_from([True, False, "never"]),
    new=st.integers(1, 8),
    groups=st.booleans(),
    do_sample=st.booleans(),
    seed=st.integers(0, 5),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_invariants(
    beams: int, returned: int, penalty: float, early: bool | str, new: int, groups: bool, do_sample: bool, seed: int
) -> None:
    """The best comes first, nothing but padding follows an end, no sequence comes twice, and lengths are kept."""
    ids, mask = ragged(seed=seed)
    call: dict[str, Any] = {"num_beam_groups": beams, "diversity_penalty": 1.0} if groups else {"do_sample": do_sample}
    call |= {"seed": seed} if call.get("do_sample") else {}
    out = ours("LlamaForCausalLM").generate(
        ids, attention_mask=mask, num_beams=beams, num_return_sequences=min(returned, beams), length_penalty=penalty,
        early_stopping=early, max_new_tokens=new, pad_token_id=60, eos_token_id=ENDS,
        output_scores=True, return_dict_in_generate=True, **call,
    )  # fmt: skip
    assert out.sequences.shape[1] <= 7 + new
    scores = out.sequences_scores.view(3, -1)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    for row, length in zip(out.sequences[:, 7:].tolist(), (out.beam_indices >= 0).sum(1).tolist()):
        assert not set(row[: length - 1]) & set(ENDS)
        assert row[length - 1] in ENDS or length == new
        assert set(row[length:]) <= {60}
    for sequences in out.sequences.view(3, -1, out.sequences.shape[1]).tolist():
        assert groups or len({tuple(row) for row in sequences}) == len(sequences)


def test_seeds_of_a_call() -> None:
    """A seed of the call draws what torch's own generator would; one a text leaves each text to itself."""
    ids, _ = ragged()
    call = {"num_beams": 3, "do_sample": True, "max_new_tokens": 6}
    model = ours("GPT2LMHeadModel")
    torch.manual_seed(11)
    assert torch.equal(model.generate(ids, **call), model.generate(ids, **call, seed=11))
    each = model.generate(ids, **call, seed=[5, 6, 7])
    assert torch.equal(each[:2], model.generate(ids[:2], **call, seed=[5, 6])[:, : each.shape[1]])


REFUSED = {
    "groups that do not divide": ({"num_beams": 5, "num_beam_groups": 2, "diversity_penalty": 1.0}, "divide"),
    "no diversity": ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty"),
    "groups of nothing": ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups"),
    "diversity of nothing": ({"num_beams": 4, "diversity_penalty": 1.0}, "diversity_penalty"),
    "other strategies": ({"num_beams": 4, "dola_layers": "low"}, "dola_layers"),
    "another strategy": ({"num_beams": 4, "penalty_alpha": 0.6}, "penalty_alpha"),
    "drawn groups": ({**GROUPS, "do_sample": True}, "do_sample"),
    "more than beams": ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences"),
    "streamer": ({"num_beams": 2, "streamer": object()}, "streamer"),
    "early_stopping": ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping"),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(call: dict[str, Any], words: str) -> None:
    """What contradicts itself is an error that names it."""
    with pytest.raises(GenerationError, match=words):
        ours("GPT2LMHeadModel").generate(ragged()[0], **call)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_given_inputs(name: str, do_sample: bool) -> None:
    """Embeddings, the text and a cache of its beginning, positions of one's own and no prompt, as in the peer."""
    ids, mask = ragged()
    call = {"num_beams": 3, "max_new_tokens": 6, "do_sample": do_sample, "eos_token_id": ENDS[:2]}
    for kind in ("embeds", "cache", "positions", "nothing"):
        results = []
        for model in (ours(name), peer(name)):
            arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
            if kind == "embeds":
                arguments = {"inputs_embeds": model.get_input_embeddings()(ids), "attention_mask": mask}
            elif kind == "cache":
                past = model(input_ids=ids[:1, :4].repeat(3, 1), use_cache=True).past_key_values
                arguments = {"input_ids": ids[:1], "attention_mask": torch.ones(1, 7), "past_key_values": past}
                if model is ours(name):  # which repeats the cache of a prompt for its beams itself
                    arguments["past_key_values"] = model(input_ids=ids[:1, :4], use_cache=True).past_key_values
            elif kind == "positions":
                arguments["position_ids"] = torch.arange(3, 10).expand(3, -1)
            elif kind == "nothing":
                arguments = {}
            torch.manual_seed(2)
            results.append(model.generate(**arguments, **call))
        assert torch.equal(*results), kind


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_given_encoder_and_decoder_inputs(name: str) -> None:
    """Outputs of the encoder, and the decoder's first tokens, as in the peer."""
    ids, mask = ragged()
    begun = torch.tensor([[50, 51], [52, 53], [54, 55]])
    results = []
    for model in (ours(name), peer(name)):
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        results.append(
            model.generate(
                encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=begun, num_beams=3, max_new_tokens=6,
                num_return_sequences=2,
            )
        )  # fmt: skip
    assert torch.equal(*results)


def test_a_cache_serves_again() -> None:
    """The cache of a prompt is repeated for the beams, and is afterwards what it was."""
    ids, _ = ragged()
    model = ours("LlamaForCausalLM")
    past = model(input_ids=ids[:1, :5], use_cache=True).past_key_values
    plain = model.generate(ids[:1], num_beams=4, max_new_tokens=6)
    for _ in range(2):
        assert torch.equal(model.generate(ids[:1], past_key_values=past, num_beams=4, max_new_tokens=6), plain)
    assert past.get_seq_length() == 5


@pytest.mark.parametrize("cache", ["static", "dynamic", "offloaded"])
@pytest.mark.parametrize("name", ALL)
def test_caches(name: str, cache: str) -> None:
    """Whatever the cache, the beams are the same."""
    ids, mask = ragged()
    for settings in ({"num_beams": 3}, GROUPS, {"num_beams": 3, "force_words_ids": [[9, 10]]}):
        call = {"attention_mask": mask, "max_new_tokens": 6, **settings}
        plain = ours(name).generate(ids, **call)
        assert torch.equal(ours(name).generate(ids, cache_implementation=cache, **call), plain)


def test_own_criteria() -> None:
    """A criterion of one's own finishes candidates as in the peer."""

    class Thirds(StoppingCriteria, transformers.StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            assert len(scores) == input_ids.shape[1] - 7
            return input_ids[:, -1] % 5 == 0

    ids, mask = ragged()
    results = []
    for model, criteria in (
        (ours("GPT2LMHeadModel"), StoppingCriteriaList),
        (peer("GPT2LMHeadModel"), transformers.StoppingCriteriaList),
    ):
        results.append(
            model.generate(
                ids, attention_mask=mask, stopping_criteria=criteria([Thirds()]), num_beams=4, num_return_sequences=3,
                max_new_tokens=9, eos_token_id=ENDS[0], return_dict_in_generate=True, output_scores=True,
            )
        )  # fmt: skip
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert torch.equal(results[0].beam_indices, results[1].beam_indices)
    assert set(results[0].finish_reason) <= {"eos", "length", "criterion"}


def test_guidance() -> None:
    """Guidance acts on beams as in the peer."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "guidance_scale": 1.5, "num_beams": 3, "max_new_tokens": 5}
    found, expected = both("LlamaForCausalLM", ids, **call)
    assert torch.equal(found, expected)
