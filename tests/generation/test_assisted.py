"""Assisted decoding gives what decoding without assistance gives: token for token, or in distribution."""

import copy
import tempfile
from typing import Any

import pytest
import torch
import transformers

import glassformer
from glassformer.errors import GenerationError
from glassformer.generation.assisted import speculative
from glassformer.generation.processors import LogitsProcessor, LogitsProcessorList

from .tiny import ALL, DECODERS, ENCODER_DECODERS, ENDS, FAMILIES, VOCABULARY, ours, peer, ragged

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no end": {"eos_token_id": None},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
    "forced": {"forced_bos_token_id": 33, "forced_eos_token_id": 2, "begin_suppress_tokens": [20]},
    "no pad": {"pad_token_id": None},
    "watermark": {"watermarking_config": {"bias": 3.0}},
    "SynthID": {"watermarking_config": {"ngram_len": 3, "keys": [1, 2, 3]}},
    "static": {"cache_implementation": "static"},
}


def nudged(name: str, amount: float = 0.02) -> Any:
    """A model that agrees with the tiny one now and then: the same with noise on its weights."""
    model = copy.deepcopy(ours(name))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += amount * torch.randn(weight.shape, generator=generator)
    return model


def helps(name: str) -> dict[str, dict[str, Any]]:
    return {
        "lookup": {"prompt_lookup_num_tokens": 4},
        "lookup of one": {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1},
        "itself": {"assistant_model": ours(name), "num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0},
        "nudged": {"assistant_model": nudged(name), "num_assistant_tokens": 5},
        "first layer": {"assistant_early_exit": 1, "assistant_confidence_threshold": 0.0},
        "sure": {"assistant_model": nudged(name), "assistant_confidence_threshold": 0.0},
    }


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", ALL)
def test_greedy_tokens(name: str, settings: dict[str, Any]) -> None:
    """The same tokens as without assistance, in ragged batches and alone, however good the guesses are."""
    ids, mask = ragged()
    call = {"max_new_tokens": 14, "eos_token_id": ENDS, **settings}
    for rows in (slice(None), slice(1, 2)):
        given = {"inputs": ids[rows], "attention_mask": mask[rows]}
        plain = ours(name).generate(**given, **call)
        for kind, help_ in helps(name).items():
            assert torch.equal(ours(name).generate(**given, **call, **help_), plain), kind


@pytest.mark.parametrize("name", ALL)
def test_peers_tokens(name: str) -> None:
    """The same tokens as the peer's assisted decoding, with a smaller model and with lookup."""
    ids, _ = ragged()
    call = {"max_new_tokens": 12, "eos_token_id": ENDS, "repetition_penalty": 1.2}
    pairs = (({"assistant_model": peer(name)}, {"assistant_model": ours(name)}),)
    for theirs, own in (*pairs, ({"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": 3})):
        expected = peer(name).generate(ids[:1], **call, **theirs)
        assert torch.equal(ours(name).generate(ids[:1], **call, **own), expected)


@pytest.mark.parametrize("help_", ["lookup", "itself", "nudged"])
@pytest.mark.parametrize("name", ALL)
def test_outputs(name: str, help_: str) -> None:
    """Scores, logits, attentions and hidden states come a token at a time, as without assistance."""
    ids, _ = ragged()
    mask = torch.ones_like(ids)  # what padding sees depends on how many tokens are read at once
    flags = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate")
    call = {"attention_mask": mask, "max_new_tokens": 7, "eos_token_id": None, **dict.fromkeys(flags, True)}
    plain = ours(name).generate(ids, **call)
    found = ours(name).generate(ids, **call, **helps(name)[help_])
    assert list(found) == list(plain)
    assert found.finish_reason == plain.finish_reason
    for key in found:
        if key != "past_key_values":
            flat, wanted = flatten(found[key]), flatten(plain[key])
            assert len(flat) == len(wanted), key
            for one, other in zip(flat, wanted):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert found.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length()


def flatten(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [leaf for item in value for leaf in flatten(item)]


@pytest.mark.parametrize("name", [DECODERS[2], ENCODER_DECODERS[1]])
def test_saves_steps(name: str) -> None:
    """A model that is always right lets the larger one run once for all its guesses and one token more."""
    runs = []
    handle = ours(name).register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        twin = copy.deepcopy(ours(name))
        twin._forward_pre_hooks.clear()
        ours(name).generate(
            ragged()[0], max_new_tokens=12, eos_token_id=None, assistant_model=twin, num_assistant_tokens=3,
            assistant_confidence_threshold=0.0,
        )  # fmt: skip
    finally:
        handle.remove()
    assert len(runs) == 3


@pytest.mark.parametrize("name", [DECODERS[1], ENCODER_DECODERS[0]])
def test_lookup_samples_what_sampling_samples(name: str) -> None:
    """With lookup nothing is drawn but the tokens, so that the same seed gives the tokens of plain sampling."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 15, "do_sample": True, "top_k": 4, "num_return_sequences": 2}
    plain = ours(name).generate(ids, seed=4, **call)
    assert torch.equal(ours(name).generate(ids, seed=4, prompt_lookup_num_tokens=5, **call), plain)


def test_speculative_sampling_is_exact() -> None:
    """Summed over all guesses: P(token) = what the model wants, for random pairs of distributions, some with zeros."""
    generator = torch.Generator().manual_seed(0)
    size = 7
    for _ in range(20):
        wanted, given = torch.rand(2, size, generator=generator) ** 3
        wanted[1], given[2] = 0.0, 0.0
        wanted, given = wanted / wanted.sum(), given / given.sum()
        total = torch.zeros(size)
        for guess in range(size):
            if given[guess] == 0:
                continue
            kept = min(1.0, float(wanted[guess] / given[guess]))
            drawn: list[torch.Tensor] = []

            def draw(weights: torch.Tensor, drawn: list[torch.Tensor] = drawn) -> torch.Tensor:
                drawn.append(weights[0] / weights[0].sum())
                return torch.zeros(len(weights), dtype=torch.long)

            # Just below the border the guess is kept, and just above it refused.
            for number in (kept - 1e-4, kept + 1e-4)[: 1 if kept == 1 else 2]:
                accept = speculative(draw, lambda rows, number=number: torch.full((rows,), number))
                token, right = accept(wanted[None], given[None], torch.tensor([guess]))
                assert bool(right) == (number < kept)
                assert not right or int(token) == guess
            total[guess] += given[guess] * kept
            if drawn:
                total += given[guess] * (1 - kept) * drawn[-1]
        torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [DECODERS[1], ENCODER_DECODERS[0]])
def test_a_share_for_the_guess(name: str) -> None:
    """With assistant_ensemble_weight the greedy tokens are the peer's; a share near one leaves the model's own."""
    ids = ragged()[0][:1]
    call = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    other = nudged(name, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        other.save_pretrained(folder)
        their_other = type(peer(name)).from_pretrained(folder, attn_implementation="eager")
    for config in (other.generation_config, their_other.generation_config):
        config.num_assistant_tokens, config.num_assistant_tokens_schedule = 4, "constant"
        config.assistant_confidence_threshold = 0.0
    plain = ours(name).generate(ids, **call)
    changed = 0
    for share in (0.1, 0.5, 0.999):
        mixed = ours(name).generate(ids, assistant_model=other, assistant_ensemble_weight=share, **call)
        theirs = peer(name).generate(ids, assistant_model=their_other, assistant_ensemble_weight=share, **call)
        assert torch.equal(mixed, theirs)
        changed += not torch.equal(mixed, plain)
    assert torch.equal(mixed, plain)
    assert changed


def test_a_share_for_the_guess_in_sampling() -> None:
    """P(token) = share · what the model wants + (1 - share) · what the guess was drawn by, summed over all guesses."""
    generator = torch.Generator().manual_seed(2)
    share = 0.4
    wanted, given = torch.rand(2, 6, generator=generator) ** 2
    wanted, given = wanted / wanted.sum(), given / given.sum()
    total = torch.zeros(6)
    for guess in range(6):
        kept = min(1.0, 1 - share + share * float(wanted[guess] / given[guess]))
        left: list[torch.Tensor] = []

        def draw(weights: torch.Tensor, left: list[torch.Tensor] = left) -> torch.Tensor:
            left.append(weights[0] / weights[0].sum())
            return torch.zeros(len(weights), dtype=torch.long)

        for number in (kept - 1e-4, kept + 1e-4)[: 1 if kept == 1 else 2]:
            accept = speculative(draw, lambda rows, number=number: torch.full((rows,), number), share)
            _, right = accept(wanted[None], given[None], torch.tensor([guess]))
            assert bool(right) == (number < kept)
        total[guess] += given[guess] * kept
        if left:
            total += given[guess] * (1 - kept) * left[-1]
    torch.testing.assert_close(total, share * wanted + (1 - share) * given, rtol=1e-4, atol=1e-5)


def test_an_early_exit_leaves_the_model_alone() -> None:
    """The first layers guess on the model's own weights, and the model keeps all its layers and settings."""
    model = ours(DECODERS[1])
    before = (len(model.base_model.decoder.layers), model.generation_config.to_dict(), sorted(model.state_dict()))
    model.generate(ragged()[0], max_new_tokens=6, assistant_early_exit=1)
    assert before == (
        *(len(model.base_model.decoder.layers), model.generation_config.to_dict()),
        sorted(model.state_dict()),
    )


def test_sampled_texts_are_distributed_as_without_help() -> None:
    """Of three drawn tokens, each of the texts comes as often with guesses as the model's probabilities say."""
    name, draws = DECODERS[2], 3000
    model, ids = ours(name), ragged()[0][:1]
    call = {"max_new_tokens": 3, "do_sample": True, "top_k": 3, "temperature": 1.3, "eos_token_id": None}
    rows = ids.expand(draws, -1)
    out = model.generate(
        rows, seed=11, assistant_model=nudged(name, 0.1), num_assistant_tokens=2, assistant_confidence_threshold=0.3,
        **call,
    )[:, 7:]  # fmt: skip
    texts, counts = out.unique(dim=0, return_counts=True)
    expected = []
    for text in texts:
        logits = model(input_ids=torch.cat([ids, text[None]], dim=1)).logits[0, 6:9] / 1.3
        kept = torch.where(logits >= logits.topk(3).values[:, -1:], logits, -torch.inf)
        expected.append(kept.softmax(dim=-1).gather(1, text[:, None]).prod())
    expected = torch.stack(expected).detach() * draws
    assert float(expected.sum()) > 0.98 * draws  # hardly any text is missing
    large = expected >= 5
    squares = ((counts[large] - expected[large]) ** 2 / expected[large]).sum()
    freedom = int(large.sum()) - 1
    assert freedom >= 10
    assert float(squares) < freedom + 4 * (2 * freedom) ** 0.5  # chi-squared, four standard deviations


def test_processors_see_no_guesses() -> None:
    """A processor of one's own is called once a token, with the tokens that stay."""
    seen = []

    class Watch(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            seen.append(input_ids.tolist())
            return scores

    name = DECODERS[1]
    out = ours(name).generate(
        ragged()[0], max_new_tokens=9, eos_token_id=None, assistant_model=nudged(name), guidance_scale=1.4,
        logits_processor=LogitsProcessorList([Watch()]),
    )  # fmt: skip
    assert seen == [out[:, :end].tolist() for end in range(7, 16)]
    assert torch.equal(out, ours(name).generate(ragged()[0], max_new_tokens=9, eos_token_id=None, guidance_scale=1.4))


def test_schedules() -> None:
    """`heuristic` guesses more after success and keeps its count; the other schedules leave it alone."""
    name = DECODERS[1]
    for schedule, kept in (("heuristic", 10), ("heuristic_transient", 4), ("constant", 4)):
        for model in (ours(name), peer(name)):
            helper = copy.deepcopy(model)
            helper.generation_config.num_assistant_tokens = 4
            helper.generation_config.num_assistant_tokens_schedule = schedule
            helper.generation_config.assistant_confidence_threshold = 0.0
            model.generate(ragged()[0][:1], max_new_tokens=19, eos_token_id=None, assistant_model=helper)
            assert helper.generation_config.num_assistant_tokens == kept, schedule


def test_continues_a_cache_with_help() -> None:
    """A second turn on the cache of the first may be assisted; the smaller model reads the whole text."""
    name = DECODERS[2]
    ids = ragged()[0][:1]
    first = ours(name).generate(ids, max_new_tokens=4, eos_token_id=None, return_dict_in_generate=True)
    text = torch.cat([first.sequences, torch.tensor([[31, 32]])], dim=1)
    plain = ours(name).generate(text, max_new_tokens=8, eos_token_id=None)
    helper = nudged(name)
    found = ours(name).generate(
        text, past_key_values=first.past_key_values, max_new_tokens=8, eos_token_id=None, assistant_model=helper
    )
    assert torch.equal(found, plain)


def other_sizes(name: str, **keys: Any) -> Any:
    config, base = FAMILIES[name]
    return getattr(glassformer, name)(getattr(glassformer, config)(**{**base, **keys}))


def test_helper_with_fewer_positions() -> None:
    """Where the smaller model has no positions left, it guesses no more."""
    name = "GPT2LMHeadModel"
    call = {"inputs": ragged()[0], "max_new_tokens": 12, "eos_token_id": None}
    plain = ours(name).generate(**call)
    assert torch.equal(ours(name).generate(**call, assistant_model=other_sizes(name, n_positions=12)), plain)


REFUSED = {
    "no cache": ({"prompt_lookup_num_tokens": 2, "use_cache": False}, "use_cache"),
    "no tokens to look up": ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens"),
    "no length": ({"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": -1}, "max_matching_ngram_size"),
    "beams": ({"assistant_model": "self", "num_beams": 2}, "beam"),
    "no model": ({"assistant_model": object()}, "object"),
    "peer's": ({"assistant_model": transformers.PreTrainedModel}, "assistant_model"),
    "no count": ({"assistant_model": "self", "num_assistant_tokens": 0}, "num_assistant_tokens"),
    "schedule": ({"assistant_model": "self", "num_assistant_tokens_schedule": "never"}, "never"),
    "other kind": ({"assistant_model": "bart"}, "encoder-decoder"),
    "other tokens": ({"assistant_model": "larger"}, str(VOCABULARY + 1)),
    "early exit": ({"assistant_early_exit": 2}, "has 2 layers"),
    "two who guess": ({"assistant_early_exit": 1, "assistant_model": "self"}, "both say"),
    "weight of a lookup": ({"assistant_ensemble_weight": 0.5, "prompt_lookup_num_tokens": 2}, "lookup has no weights"),
    "weight of a batch": ({"assistant_ensemble_weight": 0.5, "assistant_model": "self"}, "pass one row"),
}


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(call: dict[str, Any], words: str) -> None:
    """What cannot be assisted, or not by this model, is an error that says so."""
    name = "GPT2LMHeadModel"
    models = {"self": lambda: ours(name), "bart": lambda: ours(ENCODER_DECODERS[0])}
    models["larger"] = lambda: other_sizes(name, vocab_size=VOCABULARY + 1)
    helper = call.get("assistant_model")
    if isinstance(helper, str):
        call = {**call, "assistant_model": models[helper]()}
    with pytest.raises(GenerationError, match=words):
        ours(name).generate(ragged()[0], **call)


def test_embeddings_are_refused() -> None:
    """A prompt of embeddings has no tokens to guess from."""
    model = ours(DECODERS[0])
    embeds = model.get_input_embeddings()(ragged()[0])
    with pytest.raises(GenerationError, match="inputs_embeds"):
        model.generate(inputs_embeds=embeds, prompt_lookup_num_tokens=3)
