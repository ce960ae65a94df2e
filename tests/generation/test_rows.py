"""Rows that are finished are read no more, and what rows have in common is read once; nobody sees a difference."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import glassformer as gf
from glassformer.cache import KVCache
from glassformer.generation.processors import LogitsProcessor
from glassformer.generation.stopping import StoppingCriteria

from .tiny import ALL, DECODERS, ENCODER_DECODERS, ENDS, ours, ragged

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "repetition_penalty": 1.2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "early beams": {"num_beams": 3, "early_stopping": True},
    "beam sampling": {"num_beams": 3, "do_sample": True, "early_stopping": True},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "early_stopping": True},
}


@pytest.fixture(params=["native", "PyTorch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "PyTorch":
        monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    return str(request.param)


@contextmanager
def read(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens of each call of the model while this is open; a hook would be somebody who looks."""
    seen: list[tuple[int, int]] = []
    forward = model.forward

    def counted(**kwargs: Any) -> Any:
        seen.append(tuple(kwargs.get("decoder_input_ids", kwargs.get("input_ids")).shape))
        return forward(**kwargs)

    model.forward = counted
    try:
        yield seen
    finally:
        del model.forward


def run(name: str, **kwargs: Any) -> tuple[Any, list[tuple[int, int]]]:
    ids, mask = ragged()
    torch.manual_seed(3)
    call = {"attention_mask": mask, "max_new_tokens": 14, "eos_token_id": ENDS, "pad_token_id": 0, **kwargs}
    with read(ours(name)) as seen:
        return ours(name).generate(ids, **call), seen


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_finished_rows_leave(name: str, strategy: str, way: str) -> None:
    """The tokens are those of a call whose rows all stay to the end, and draws are made for rows that have left."""
    whole, stayed = run(name, return_dict_in_generate=True, **STRATEGIES[strategy])
    found, seen = run(name, **STRATEGIES[strategy])
    assert torch.equal(found, whole.sequences)
    assert len(seen) == len(stayed)
    assert all(rows == stayed[-1][0] for rows, _ in stayed[1:])
    counts = [rows for rows, _ in seen[1:]]
    assert counts == sorted(counts, reverse=True)
    if "num_beams" not in STRATEGIES[strategy]:
        start = 7 if name in DECODERS else 1
        ended = torch.isin(found[:, start:], torch.tensor(ENDS)).cumsum(1) > 0
        assert counts == [int((~ended[:, step]).sum()) for step in range(len(counts))]


def test_finished_rows_of_beams_leave(way: str) -> None:
    """A text whose beams cannot be improved any more is read no more, while others go on."""
    left = [run(name, **STRATEGIES[strategy])[1][-1][0] for name in ALL for strategy in ("early beams", "groups")]
    assert min(left) < 9


class Nothing(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert len(scores) == 3
        return scores


class Never(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize(
    "own",
    [
        lambda: {"logits_processor": [Nothing()]},
        lambda: {"stopping_criteria": [Never()]},
        lambda: {"prefix_allowed_tokens_fn": lambda row, ids: range(61)},
        lambda: {"past_key_values": KVCache()},
        lambda: {"return_dict_in_generate": True},
        lambda: {"use_cache": False},
    ],
    ids=["processor", "criterion", "prefixes", "cache", "output", "no cache"],
)
def test_all_rows_stay_where_they_are_seen(own: Any) -> None:
    """Code of one's own, and caches and outputs that one keeps, have the rows of the call."""
    assert {rows for rows, _ in run("GPT2LMHeadModel", **own())[1]} == {3}


def test_all_rows_stay_for_who_looks_inside() -> None:
    """A trace and a hook see every row in every step, and a prompt once for every beam."""
    model = ours("GPT2LMHeadModel")
    handle = model.register_forward_hook(lambda *_: None)
    beams = run("GPT2LMHeadModel", num_beams=3)[1]
    assert {rows for rows, _ in run("GPT2LMHeadModel")[1]} == {3}
    handle.remove()
    assert {rows for rows, _ in beams} == {9}
    with model.trace():
        assert {rows for rows, _ in run("GPT2LMHeadModel")[1]} == {3}


@pytest.mark.parametrize("kind", ["static", "quantized"])
def test_rows_leave_other_caches(kind: str) -> None:
    """A cache of a fixed size and one of eight bits can be left, too."""
    whole, _ = run("LlamaForCausalLM", cache_implementation=kind, return_dict_in_generate=True)
    found, seen = run("LlamaForCausalLM", cache_implementation=kind)
    assert torch.equal(found, whole.sequences)
    assert seen[-1][0] < 3


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("settings", [{"num_beams": 4}, {"do_sample": True, "num_return_sequences": 4}])
def test_a_prompt_is_read_once(name: str, settings: dict[str, Any], way: str) -> None:
    """In the first step there is one row a prompt, also where it is read in pieces."""
    found, seen = run(name, eos_token_id=None, **settings)
    assert [rows for rows, _ in seen] == [3] + 13 * [12]
    if name in DECODERS:
        pieces, seen = run(name, eos_token_id=None, prefill_chunk_size=3, **settings)
        assert seen[:3] == [(3, 3), (3, 3), (3, 1)]
        assert torch.equal(pieces, found)


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_read_once_is_a_row_each(name: str, way: str) -> None:
    """Scores, attentions and states are those of a batch that has every prompt once a sequence."""
    ids, mask = ragged()
    call = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0, "output_logits": True}
    call |= {"return_dict_in_generate": True, "output_attentions": True, "output_hidden_states": True}
    many = {"attention_mask": mask.repeat_interleave(2, 0), "do_sample": True, **call}
    torch.manual_seed(1)
    expected = ours(name).generate(ids.repeat_interleave(2, 0), **many)
    torch.manual_seed(1)
    found = ours(name).generate(ids, attention_mask=mask, do_sample=True, num_return_sequences=2, **call)
    assert torch.equal(found.sequences, expected.sequences)
    prefix = "decoder_" if name in ENCODER_DECODERS else ""
    for key in (f"{prefix}attentions", f"{prefix}hidden_states"):
        for step, wanted in zip(found[key], expected[key], strict=True):
            for one, other in zip(step, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 4},
        {"penalty_alpha": 0.5, "top_k": 4},
    ],
    ids=["beams", "groups", "sampling", "contrastive"],
)
def test_a_long_prompt_is_held_once(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Natively, keys and values of a prompt are held once a text; the tokens and the cache are PyTorch's."""
    model = gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    ids = torch.randint(5, 2000, (2, 128), generator=torch.Generator().manual_seed(0))
    ids[1, :20] = 3
    call = {"attention_mask": (ids != 3).long(), "max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 0}

    def found() -> Any:
        torch.manual_seed(0)
        return model.generate(ids, return_dict_in_generate=True, **call, **settings)

    native = found()
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    expected = found()
    assert torch.equal(native.sequences, expected.sequences)
    if "top_k" not in settings:
        assert native.past_key_values.nbytes <= 0.6 * expected.past_key_values.nbytes
    for ours_, theirs in zip(native.past_key_values, expected.past_key_values, strict=True):
        for mask, one, other in zip(ids != 3, ours_[0].split(len(ours_[0]) // 2), theirs[0].split(len(ours_[0]) // 2)):
            torch.testing.assert_close(one[:, :, :128][:, :, mask], other[:, :, :128][:, :, mask], rtol=1e-4, atol=1e-4)


def test_a_cache_of_ones_own_is_left_alone() -> None:
    """Beams go on from a cache that was given, and leave it as it is."""
    model = ours("LlamaForCausalLM")
    ids, _ = ragged()
    cache = model(ids[:, :5], use_cache=True).past_key_values
    keys = cache.layers[0].keys.clone()
    call = {"attention_mask": torch.ones_like(ids), "num_beams": 3, "max_new_tokens": 6, "eos_token_id": None}
    found = model.generate(ids, past_key_values=cache, **call)
    assert torch.equal(cache.layers[0].keys, keys)
    assert torch.equal(found, model.generate(ids, **call))
