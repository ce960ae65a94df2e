"""Caches in `generate`: every kind gives the same tokens, and what was read once is not read again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from glassformer.cache import EncoderDecoderCache, KVCache, QuantizedCache, StaticCache
from glassformer.errors import GenerationError, InputError

from .tiny import ALL, DECODERS, ENCODER_DECODERS, ours, peer, ragged

GREEDY = {"max_new_tokens": 9, "eos_token_id": None, "pad_token_id": 0}
STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


@contextmanager
def tokens_read(model: Any) -> Iterator[list[int]]:
    """The number of tokens (with rows) that each call of the model reads while this is open."""
    seen: list[int] = []
    handle = model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(out.logits.shape[0] * _read(kwargs)), with_kwargs=True
    )
    yield seen
    handle.remove()


def _read(kwargs: dict[str, Any]) -> int:
    return int(kwargs.get("decoder_input_ids", kwargs.get("input_ids")).shape[1])


def run(name: str, seed: int = 1, **kwargs: Any) -> Any:
    ids, mask = ragged()
    torch.manual_seed(seed)
    return ours(name).generate(ids, attention_mask=mask, return_dict_in_generate=True, **{**GREEDY, **kwargs})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("dynamic", KVCache),
        ("offloaded", KVCache),
        ("hybrid", KVCache),
        ("static", StaticCache),
        ("offloaded_static", StaticCache),
        ("sliding_window", StaticCache),
    ],
)
def test_exact_kinds(name: str, strategy: str, asked: str, kind: type[KVCache]) -> None:
    """The peer's names of caches without rounding give the tokens that the default gives."""
    expected = run(name, **STRATEGIES[strategy])
    found = run(name, cache_implementation=asked, **STRATEGIES[strategy])
    assert torch.equal(found.sequences, expected.sequences)
    cache = found.past_key_values
    if name in ENCODER_DECODERS:
        assert isinstance(cache, EncoderDecoderCache)
        cache = cache.self_attention_cache
    assert type(cache) is kind
    if kind is StaticCache:  # the last token is not read
        assert cache.get_max_length() == cache.get_seq_length() == expected.sequences.shape[1] - 1


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "T5ForConditionalGeneration"])
@pytest.mark.parametrize(
    "strategy",
    [
        {"prompt_lookup_num_tokens": 3},
        {"penalty_alpha": 0.5, "top_k": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 3, "force_words_ids": [[33]]},
    ],
    ids=["lookup", "contrastive", "groups", "constrained"],
)
def test_caches_in_other_strategies(name: str, strategy: dict[str, Any]) -> None:
    """Where rows are reordered and guesses taken back a fixed size changes nothing; nor does it, with eight bits,
    whether tokens come one by one or are guessed."""
    assert torch.equal(run(name, cache_implementation="static", **strategy).sequences, run(name, **strategy).sequences)
    small = run(name, cache_implementation="quantized", **strategy).sequences
    if "prompt_lookup_num_tokens" in strategy:
        assert torch.equal(small, run(name, cache_implementation="quantized").sequences)


@pytest.mark.parametrize("name", [*DECODERS[1:], *ENCODER_DECODERS])
def test_static_is_the_peers(name: str) -> None:
    """The same call gives the same tokens there."""
    ids, mask = ragged()
    call = {**GREEDY, "attention_mask": mask, "cache_implementation": "static", "disable_compile": True}
    assert torch.equal(ours(name).generate(ids, **call), peer(name).generate(ids, **call))


def test_static_takes_the_larger_size() -> None:
    """`max_cache_len` is a floor, for a cache that the next call goes on with."""
    out = run("LlamaForCausalLM", cache_implementation="static", max_cache_len=50)
    assert out.past_key_values.get_max_length() == 50
    small = run("LlamaForCausalLM", cache_implementation="static", max_cache_len=3)
    assert small.past_key_values.get_max_length() == 7 + 9 - 1


def test_static_with_embeddings() -> None:
    """A prompt of embeddings has its place in a cache of fixed size, too."""
    model = ours("LlamaForCausalLM")
    embeds = model.get_input_embeddings()(ragged()[0])
    plain = model.generate(inputs_embeds=embeds, **GREEDY)
    assert torch.equal(model.generate(inputs_embeds=embeds, cache_implementation="static", **GREEDY), plain)


def test_a_full_cache_says_so() -> None:
    """A cache of one's own that is too small ends in a sentence, not in wrong tokens."""
    with pytest.raises(InputError, match=r"room for 10 tokens, and 11"):
        run("GPT2LMHeadModel", past_key_values=StaticCache(config=None, max_cache_len=10))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_eight_bits(name: str, strategy: str) -> None:
    """Less than a third of the memory, the scores of the first token close, and every strategy runs on it."""
    expected = run(name, output_logits=True, **STRATEGIES[strategy])
    found = run(
        name,
        output_logits=True,
        cache_implementation="quantized",
        cache_config={"backend": "quanto", "nbits": 8},
        **STRATEGIES[strategy],
    )
    assert found.sequences.shape == expected.sequences.shape
    size, whole = (out.past_key_values.branch().nbytes for out in (found, expected))  # with what rows share in each
    assert size <= 0.32 * whole  # heads of 8: of 64 it is 26 %
    off = (found.logits[0] - expected.logits[0]).abs()
    assert float(off.mean()) < 0.02 * float(expected.logits[0].std())


@pytest.mark.parametrize("name", ALL)
def test_eight_bits_do_not_depend_on_pieces(name: str) -> None:
    """Rounded keys are the same whether a text is read at once or token by token, and after tokens are taken back."""
    ids, _ = ragged()
    ids = ids[:1]
    model = ours(name)
    past = EncoderDecoderCache(QuantizedCache(), QuantizedCache()) if name in ENCODER_DECODERS else QuantizedCache()
    read = "decoder_input_ids" if name in ENCODER_DECODERS else "input_ids"
    other = {"input_ids": ids} if name in ENCODER_DECODERS else {}
    with torch.no_grad():
        whole = model(**other, **{read: ids}, past_key_values=past, use_cache=True).logits
        past.crop(-4)
        logits = [model(**other, **{read: ids[:, n : n + 1]}, past_key_values=past).logits for n in range(3, 7)]
    torch.testing.assert_close(torch.cat(logits, 1), whole[:, 3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"cache_implementation": "quantized", "cache_config": {"nbits": 4}}, "nbits is 4.* 8 bits"),
        ({"cache_implementation": "quantized", "cache_config": {"nbits": 2}}, "nbits is 2"),
        ({"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}, "backend is 'fp8'"),
        ({"cache_implementation": "quantized", "cache_config": {"q_group_size": 64}}, "q_group_size.*nbits"),
        ({"cache_config": {"nbits": 8}}, "cache_implementation='quantized'"),
        ({"cache_implementation": "elastic"}, "elastic"),
        ({"cache_implementation": "static", "past_key_values": KVCache()}, "past_key_values is given.*static"),
    ],
)
def test_refused(settings: dict[str, Any], match: str) -> None:
    """What cannot be done is one sentence before the first step."""
    with pytest.raises(GenerationError, match=match):
        run("GPT2LMHeadModel", **settings)


# What was read once is not read again

CACHES = {
    "growing": KVCache,
    "static": lambda: StaticCache(config=None, max_cache_len=60),
    "int8": QuantizedCache,
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", CACHES)
def test_a_chat_recomputes_nothing(name: str, kind: str, tmp_path: Path) -> None:
    """Three turns on one cache read every token once, and say what three calls without it say; so does one
    that was saved and loaded between the turns."""
    model = ours(name)
    texts, mask = ragged(seed=4)
    cache = CACHES[kind]()
    call = {**GREEDY, "max_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
    said, read = texts, 0
    for turn in range(3):
        with tokens_read(model) as seen:
            out = model.generate(said, attention_mask=mask, past_key_values=cache, **call)
        assert out.past_key_values is cache
        assert sum(seen) == len(said) * (out.sequences.shape[1] - 1) - read  # the last token is read by the next turn
        read += sum(seen)
        if kind != "int8":
            alone = model.generate(said, attention_mask=mask, **call)
            assert torch.equal(out.sequences, alone.sequences)
            torch.testing.assert_close(out.logits, alone.logits, rtol=1e-4, atol=3e-5)
        cache.save(tmp_path / "cache")
        cache = KVCache.load(tmp_path / "cache")
        question = ragged(seed=5 + turn)[0][:, -2:]
        said = torch.cat([out.sequences, question], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), said.shape[1] - mask.shape[1])], dim=1)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole text", "new tokens"])
def test_ragged_questions_after_a_cache(name: str, whole: bool) -> None:
    """New turns of different lengths, padded on the right, are realigned behind what the cache holds."""
    model = ours(name)
    first = ragged(seed=2)[0].clamp(min=3)
    questions, mask = ragged("right", seed=3)
    with torch.no_grad():
        past = model(first, use_cache=True).past_key_values
    ids = torch.cat([first, questions], 1) if whole else questions
    out = model.generate(
        ids, attention_mask=torch.cat([torch.ones_like(first), mask], 1), past_key_values=past, **GREEDY
    )
    for row in range(3):
        alone = torch.cat([first[row], questions[row][mask[row] == 1]])[None]
        assert torch.equal(out[row, -9:], model.generate(alone, **GREEDY)[0, -9:])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kind", CACHES)
def test_a_shared_prompt_is_read_once(name: str, kind: str) -> None:
    """Several questions branch off one prompt, which stays as it is; each reads its own tokens alone."""
    model = ours(name)
    prompt = ragged(seed=6)[0][:1]
    questions = ragged(seed=7)[0][:, -3:].clamp(min=3)
    cache = CACHES[kind]()
    with torch.no_grad():
        model(prompt, past_key_values=cache, use_cache=True)
    texts = torch.cat([prompt.expand(3, -1), questions], dim=1)
    for _ in range(2):
        with tokens_read(model) as seen:
            out = model.generate(texts, past_key_values=cache.branch(3), **GREEDY)
        assert sum(seen) == 3 * (questions.shape[1] + 9 - 1)
        assert (cache.get_seq_length(), cache.batch_size) == (7, 1)
        if kind != "int8":
            assert torch.equal(out, model.generate(texts, **GREEDY))


def test_many_sequences_leave_the_prompt_alone() -> None:
    """`num_return_sequences` branches by itself, and a second call finds the prompt as it was."""
    model = ours("LlamaForCausalLM")
    ids = ragged()[0][:1]
    with torch.no_grad():
        prompt = model(ids[:, :6], use_cache=True).past_key_values
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(model.generate(ids, past_key_values=prompt, do_sample=True, num_return_sequences=4, **GREEDY))
        assert (prompt.get_seq_length(), prompt.batch_size) == (6, 1)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_decoder_goes_on(name: str) -> None:
    """The decoder's text goes on from its cache, of any kind, without the encoder's keys being made again."""
    model = ours(name)
    ids, mask = ragged()
    whole = model.generate(ids, attention_mask=mask, **GREEDY)
    call = {**GREEDY, "max_new_tokens": 4, "return_dict_in_generate": True, "attention_mask": mask}
    for asked in ("dynamic", "static"):
        first = model.generate(ids, cache_implementation=asked, max_cache_len=20 if asked == "static" else None, **call)
        first.past_key_values.crop(-1)  # the last token may have been forced
        states = model.get_encoder()(ids, attention_mask=mask)
        with tokens_read(model) as seen:
            out = model.generate(
                encoder_outputs=states,
                decoder_input_ids=first.sequences[:, :-1],
                past_key_values=first.past_key_values,
                **{**call, "max_new_tokens": 6},
            )
        assert torch.equal(out.sequences, whole)
        assert sum(seen) == 3 * 6
