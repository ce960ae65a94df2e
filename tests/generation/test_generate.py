"""`generate` gives what the peer gives, token for token, for greedy decoding and for sampling from the same seed."""

import warnings
from typing import Any

import pytest
import torch
import transformers

import glassformer as gf
from glassformer.errors import GenerationError
from glassformer.generation.config import GenerationConfig
from glassformer.generation.generate import compute_transition_scores
from glassformer.generation.processors import LogitsProcessor, LogitsProcessorList
from glassformer.generation.stopping import StoppingCriteria, StoppingCriteriaList

from .tiny import ALL, BOS, DECODERS, ENCODER_DECODERS, ENDS, PAD, VOCABULARY, both, ours, peer, ragged

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, one end": {"eos_token_id": 7},
    "greedy, no end": {"eos_token_id": None},
    "greedy, pad is an end": {"pad_token_id": 7, "eos_token_id": 7},
    "greedy, no pad": {"pad_token_id": None},
    "max_length": {"max_new_tokens": None, "max_length": 11},
    "lengths by default": {"max_new_tokens": None},
    "minimum": {"min_new_tokens": 6},
    "minimum in all": {"min_length": 12},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "of the source": {"encoder_repetition_penalty": 1.7, "encoder_no_repeat_ngram_size": 2},
    "words": {"bad_words_ids": [[5], [9, 11], [40]], "sequence_bias": [[[13], 4.0], [[13, 20], 9.0]]},
    "suppressed": {"suppress_tokens": [10, 11, 12], "begin_suppress_tokens": [20, 30, 55]},
    "forced": {"forced_bos_token_id": 33, "forced_eos_token_id": 2, "begin_suppress_tokens": [20]},
    "decay": {"exponential_decay_length_penalty": (3, 1.3), "remove_invalid_values": True},
    "sample": {"do_sample": True},
    "sample, sharp": {"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.8},
    "sample, several": {"do_sample": True, "num_return_sequences": 3, "top_k": 7},
    "sample, odd cuts": {"do_sample": True, "top_h": 0.5, "typical_p": 0.8, "eta_cutoff": 0.01},
    "sample, cuts": {"do_sample": True, "min_p": 0.05, "epsilon_cutoff": 0.004, "renormalize_logits": True},
    "sample, everything": {
        "do_sample": True,
        "temperature": 1.4,
        "repetition_penalty": 1.2,
        "min_new_tokens": 3,
        "bad_words_ids": [[8]],
        "num_return_sequences": 2,
    },
}


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", ALL)
def test_tokens(name: str, settings: dict[str, Any], use_cache: bool) -> None:
    """The same tokens for a ragged batch, with and without a cache."""
    ids, mask = ragged()
    call = {"max_new_tokens": 12, "eos_token_id": ENDS, **settings, "attention_mask": mask, "use_cache": use_cache}
    found, expected = both(name, ids, **call)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_outputs(name: str, do_sample: bool) -> None:
    """The output has the peer's class name, keys and values: scores, logits, attentions and hidden states."""
    ids, mask = ragged()
    flags = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate")
    found, expected = both(
        name, ids, attention_mask=mask, max_new_tokens=6, do_sample=do_sample, temperature=0.9 if do_sample else None,
        eos_token_id=ENDS, **dict.fromkeys(flags, True),
    )  # fmt: skip
    assert type(found).__name__ == type(expected).__name__
    assert list(found) == list(expected)
    for key in found:
        if key != "past_key_values":
            flat, wanted = (flatten(out[key]) for out in (found, expected))
            assert len(flat) == len(wanted), key
            if key in PADDED:
                flat, wanted = ([real(tensor, mask) for tensor in tensors] for tensors in (flat, wanted))
            for one, other in zip(flat, wanted):
                close(one, other, key)
    assert found.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()


# What has positions of a prompt: padding among them is left out here, and computed in the peer.
PADDED = ("hidden_states", "attentions", "encoder_hidden_states", "encoder_attentions")


def close(one: torch.Tensor, other: torch.Tensor, key: str) -> None:
    """Equal up to the order of additions, which rounds by what is added: 1e-5 of the largest value."""
    finite = other.masked_fill(torch.isinf(other), 0)
    atol = 1e-5 * max(1.0, float(finite.abs().max()))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=atol, msg=lambda text: f"{key}: {text}")


def real(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The positions (dimension -2) of a prompt that are no padding."""
    if tensor.shape[-2] != mask.shape[1]:
        return tensor
    return tensor.movedim(-2, 1)[mask.bool()]


def flatten(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [leaf for item in value for leaf in flatten(item)]


def test_outputs_only_what_was_asked_for() -> None:
    """Without flags the output holds the ids and the cache; without a cache, the ids alone."""
    ids, mask = ragged()
    out = ours(DECODERS[0]).generate(ids, attention_mask=mask, max_new_tokens=2, return_dict_in_generate=True)
    assert list(out) == ["sequences", "past_key_values"]
    out = ours(DECODERS[0]).generate(
        ids, attention_mask=mask, max_new_tokens=2, return_dict_in_generate=True, use_cache=False
    )
    assert list(out) == ["sequences"]


@pytest.mark.parametrize("name", DECODERS)
def test_mask_is_inferred(name: str) -> None:
    """Without a mask, padding is told by its token, as in the peer; where it is an end too, all tokens count."""
    ids, mask = ragged()
    found, expected = both(name, ids, max_new_tokens=5)
    assert torch.equal(found, expected)
    assert torch.equal(found, ours(name).generate(ids, attention_mask=mask, max_new_tokens=5))
    found, expected = both(name, ids, max_new_tokens=5, eos_token_id=[PAD, 2])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_right_padding_is_realigned(name: str, do_sample: bool) -> None:
    """Prompts padded on the right go on as the same prompts padded on the left, with and without a mask."""
    (left, left_mask), (right, right_mask) = ragged(), ragged("right")
    right[1, :4], right[2, :6] = left[1, 3:], left[2, 1:]
    call = {"max_new_tokens": 6, "do_sample": do_sample}
    results = []
    for ids, mask in ((left, left_mask), (right, right_mask), (right, None)):
        torch.manual_seed(0)
        results.append(ours(name).generate(ids, attention_mask=mask, **call))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", ALL)
def test_batch_is_its_rows(name: str) -> None:
    """A batch gives what its rows give alone, without padding."""
    ids, mask = ragged("right" if name in ENCODER_DECODERS else "left")
    together = ours(name).generate(ids, attention_mask=mask, max_new_tokens=8, eos_token_id=None)
    for row, real, result in zip(ids, mask, together):
        alone = ours(name).generate(row[real.bool()][None], max_new_tokens=8, eos_token_id=None)[0]
        assert torch.equal(result[-8:], alone[-8:])


@pytest.mark.parametrize("name", DECODERS)
def test_position_ids_and_token_types(name: str) -> None:
    """Positions and token types of one's own are continued as the peer continues them."""
    ids, mask = ragged()
    given = {"position_ids": torch.arange(3, 10).expand(3, -1)}
    if "token_type_ids" in ours(name).arguments:
        given["token_type_ids"] = torch.ones_like(ids)
    for use_cache in (True, False):
        found, expected = both(name, ids, attention_mask=mask, max_new_tokens=5, use_cache=use_cache, **given)
        assert torch.equal(found, expected)


def test_whole_training_batches() -> None:
    """A batch with labels may be passed whole, and one row of positions serves all rows, samples included."""
    ids, mask = ragged()
    call = {"max_new_tokens": 4, "do_sample": True, "num_return_sequences": 2, "attention_mask": torch.ones_like(mask)}
    found, expected = both(DECODERS[1], ids, **call)
    torch.manual_seed(3)
    again = ours(DECODERS[1]).generate(ids, labels=ids, position_ids=torch.arange(7)[None], return_dict=True, **call)
    assert torch.equal(found, expected)
    assert torch.equal(found, again)


@pytest.mark.parametrize("name", DECODERS)
def test_begin_token(name: str) -> None:
    """Without a prompt, generation begins with the begin token; without that token either, there is an error."""
    found, expected = both(name, max_new_tokens=5, do_sample=True)
    assert torch.equal(found, expected)
    assert found[0, 0] == BOS
    with pytest.raises(GenerationError, match="bos_token_id"):
        ours(name).generate(max_new_tokens=5, bos_token_id=None)


@pytest.mark.parametrize(
    "lengths", [{"max_new_tokens": 5}, {"max_length": 12}, {}, {"max_length": 12, "min_length": 9}]
)
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_inputs_embeds(name: str, with_ids: bool, lengths: dict[str, int]) -> None:
    """A prompt of embeddings: the new tokens alone come back, or with the ids that were given beside it."""
    ids, mask = ragged()
    results = []
    for model in (ours(name), peer(name)):
        embeds = model.get_input_embeddings()(ids)
        given = {"input_ids": ids} if with_ids else {}
        results.append(model.generate(inputs_embeds=embeds, attention_mask=mask, **given, **lengths))
    assert torch.equal(*results)


@pytest.mark.parametrize("only_new", [False, True], ids=["whole text", "new tokens"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", DECODERS)
def test_continues_a_cache(name: str, masked: bool, only_new: bool) -> None:
    """A second turn on the cache of the first gives what the whole text gives without one."""
    ids, mask = ragged()
    if not masked:
        ids, mask = ids[:1], mask[:1]
    more = torch.tensor([[31, 32, 33]]).expand(len(ids), -1)
    results = []
    for model in (ours(name), peer(name)):
        first = model.generate(
            ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None, return_dict_in_generate=True
        )
        text = torch.cat([first.sequences, more], dim=1)
        whole_mask = torch.cat([mask, mask.new_ones(len(ids), 7)], dim=1)
        seen = first.past_key_values.get_seq_length()
        second = model.generate(
            text[:, seen:] if only_new else text,
            attention_mask=whole_mask if masked or model is peer(name) else None,
            past_key_values=first.past_key_values,
            max_new_tokens=5,
        )
        results.append(second[:, -5:])
        alone = model.generate(text, attention_mask=whole_mask, max_new_tokens=5)
        assert torch.equal(second[:, -5:], alone[:, -5:])
    assert torch.equal(*results)


def test_cache_must_leave_something_to_read() -> None:
    """A cache that already holds the whole prompt is an error that says so."""
    ids, _ = ragged()
    model = ours(DECODERS[0])
    out = model.generate(ids[:1], max_new_tokens=4, eos_token_id=None, return_dict_in_generate=True)
    with pytest.raises(GenerationError, match="10 tokens"):
        model.generate(out.sequences[:, :10], attention_mask=torch.ones(1, 10), past_key_values=out.past_key_values)
    with pytest.raises(GenerationError, match="use_cache"):
        model.generate(out.sequences, past_key_values=out.past_key_values, use_cache=False)


@pytest.mark.parametrize("name", DECODERS)
def test_branches_a_cache(name: str) -> None:
    """A shared prompt that was computed once goes on into several samples."""
    ids, _ = ragged()
    model = ours(name)
    prefix = model(input_ids=ids[:1, :5], use_cache=True).past_key_values
    call = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6}
    torch.manual_seed(0)
    branched = model.generate(ids[:1], past_key_values=prefix, **call)
    torch.manual_seed(0)
    assert torch.equal(branched, model.generate(ids[:1], **call))


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_decoder_inputs(name: str) -> None:
    """Outputs of the encoder, embeddings, and the decoder's first tokens may be given, as in the peer."""
    ids, mask = ragged()
    begun = torch.tensor([[50, 51], [52, 53], [54, 55]])
    start = torch.full((3, 1), ours(name).generation_config.decoder_start_token_id)
    for do_sample, count in ((False, 1), (True, 2)):
        call = {"max_new_tokens": 6, "do_sample": do_sample, "num_return_sequences": count, "attention_mask": mask}
        plain = None
        for given in ("ids", "encoder_outputs", "tuple", "embeds", "begun", "begun with start", "starts"):
            results = []
            for model in (ours(name), peer(name)):
                encoded = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
                arguments = {
                    "ids": {"input_ids": ids},
                    "encoder_outputs": {"encoder_outputs": encoded},
                    "tuple": {"encoder_outputs": encoded if model is peer(name) else (encoded[0],)},
                    "embeds": {"inputs_embeds": model.get_input_embeddings()(ids)},
                    "begun": {"input_ids": ids, "decoder_input_ids": begun},
                    "begun with start": {"input_ids": ids, "decoder_input_ids": torch.cat([start, begun], dim=1)},
                    "starts": {"input_ids": ids, "decoder_start_token_id": [9, 8, 7]},
                }[given]
                torch.manual_seed(1)
                results.append(model.generate(**arguments, **call))
            assert torch.equal(*results), given
            plain = results[0] if plain is None else plain
            if given in ("encoder_outputs", "tuple"):
                assert torch.equal(results[0], plain)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_start_token(name: str) -> None:
    """Without a start token the begin token is one; without either there is an error, and for too many as well."""
    ids, _ = ragged()
    found, expected = both(name, ids, max_new_tokens=4, decoder_start_token_id=None)
    assert torch.equal(found, expected)
    with pytest.raises(GenerationError, match="decoder_start_token_id"):
        ours(name).generate(ids, decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(GenerationError, match="2 tokens for 3 texts"):
        ours(name).generate(ids, decoder_start_token_id=[3, 4])


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_guidance(name: str, use_cache: bool) -> None:
    """Guidance, with a negative prompt and without, follows the peer."""
    ids, _ = ragged()
    negative = torch.tensor([[4, 5, 6], [7, 8, 9], [10, 11, 12]])
    call = {"guidance_scale": 1.5, "max_new_tokens": 6, "use_cache": use_cache, "do_sample": True}
    for given in ({}, {"negative_prompt_ids": negative}):
        found, expected = both(name, ids, **call, **given)
        assert torch.equal(found, expected)
    with pytest.raises(GenerationError, match="guidance_scale"):
        ours(name).generate(ids, negative_prompt_ids=negative)


def test_own_processors_and_criteria() -> None:
    """Processors and criteria of one's own act, in the peer's order, and take the place of those of their class."""

    class Only(LogitsProcessor, transformers.LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return torch.where(torch.arange(VOCABULARY) % 3 == 0, scores, -torch.inf)

    class Fourth(StoppingCriteria, transformers.StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            assert len(scores) == input_ids.shape[1] - 7
            return torch.full((len(input_ids),), input_ids.shape[1] >= 11)

    ids, mask = ragged()
    results = []
    for model, processors, criteria in (
        (ours(DECODERS[1]), LogitsProcessorList, StoppingCriteriaList),
        (peer(DECODERS[1]), transformers.LogitsProcessorList, transformers.StoppingCriteriaList),
    ):
        out = model.generate(
            ids, attention_mask=mask, logits_processor=processors([Only()]), stopping_criteria=criteria([Fourth()]),
            repetition_penalty=1.3, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        results.append(out.sequences)
    assert torch.equal(*results)
    assert results[0].shape == (3, 11)
    assert (results[0][:, 7:] % 3 == 0).all()


def test_prefix_allowed_tokens() -> None:
    """A function of one's own names the tokens that may follow, by row."""
    ids, mask = ragged()
    found, expected = both(
        DECODERS[1], ids, attention_mask=mask, max_new_tokens=5, do_sample=True, num_return_sequences=2,
        prefix_allowed_tokens_fn=lambda row, tokens: [10 + row, 20 + row, 40],
    )  # fmt: skip
    assert torch.equal(found, expected)
    with pytest.raises(GenerationError, match="no token"):
        ours(DECODERS[1]).generate(ids, prefix_allowed_tokens_fn=lambda row, tokens: [])


def test_streamer_sees_what_the_peer_shows() -> None:
    """A streamer gets the prompt, then every step's tokens on the processor, then the end."""

    class Seen:
        def __init__(self) -> None:
            self.values: list[Any] = []

        def put(self, value: torch.Tensor) -> None:
            self.values.append(value.tolist())

        def end(self) -> None:
            self.values.append("end")

    ids, _ = ragged()
    seen = [Seen(), Seen()]
    for model, streamer in zip((ours(DECODERS[1]), peer(DECODERS[1])), seen):
        model.generate(ids[:1], max_new_tokens=4, streamer=streamer)
    assert seen[0].values == seen[1].values
    assert seen[0].values[-1] == "end"


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", [DECODERS[1], ENCODER_DECODERS[0]])
def test_transition_scores(name: str, normalize: bool) -> None:
    """The scores of the chosen tokens, as the peer gathers them, with beams too."""
    ids, mask = ragged()
    for beams in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        out = peer(name).generate(
            ids, attention_mask=mask, max_new_tokens=6, eos_token_id=ENDS, return_dict_in_generate=True,
            output_scores=True, **beams,
        )  # fmt: skip
        beam_indices = out.get("beam_indices")
        expected = peer(name).compute_transition_scores(out.sequences, out.scores, beam_indices, normalize)
        torch.testing.assert_close(
            compute_transition_scores(out.sequences, out.scores, beam_indices, normalize), expected
        )


def test_config_object_and_keywords() -> None:
    """Keywords go over the config of the call, that over the model's, and none of them is changed."""
    model = ours(DECODERS[1])
    ids, mask = ragged()
    config = GenerationConfig(max_new_tokens=9, eos_token_id=ENDS, do_sample=True)
    before, of_model = config.to_dict(), model.generation_config.to_dict()
    out = model.generate(ids, config, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert torch.equal(out, model.generate(ids, attention_mask=mask, max_new_tokens=3, eos_token_id=ENDS))
    assert (config.to_dict(), model.generation_config.to_dict()) == (before, of_model)


@pytest.mark.parametrize("name", ALL)
def test_model_is_left_alone(name: str) -> None:
    """No gradients are recorded, and a model in training stays so."""
    model = ours(name)
    ids, _ = ragged()
    model.train()
    try:
        out = model.generate(ids, max_new_tokens=2, return_dict_in_generate=True, output_scores=True)
        assert model.training
        assert not any(scores.requires_grad for scores in out.scores)
        assert torch.is_grad_enabled()
    finally:
        model.eval()


@pytest.mark.parametrize("name", ALL)
def test_no_noise(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Ordinary calls warn of nothing and print nothing, without a mask, pad token or length, too."""
    ids, mask = ragged("right")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(name).generate(ids)
        ours(name).generate(ids, attention_mask=mask, pad_token_id=None, do_sample=True, temperature=0.7)
        ours(name).generate(ids, max_length=15)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 50])
def test_a_prompt_read_in_pieces(name: str, size: int) -> None:
    """The tokens and scores of a prompt read at once, in ragged batches, and no piece is longer than asked."""
    ids, mask = ragged()
    given: dict[str, Any] = {"inputs": ids, "attention_mask": mask}
    if name in ENCODER_DECODERS:
        given["decoder_input_ids"] = ids.clamp(min=3)
    call = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    whole = ours(name).generate(**given, **call)
    read = []
    layer = ours(name).base_model.decoder.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
    try:
        pieces = ours(name).generate(**given, prefill_chunk_size=size, **call)
    finally:
        handle.remove()
    assert max(read) <= size
    assert torch.equal(pieces.sequences, whole.sequences)
    for one, other in zip(pieces.scores, whole.scores):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


REFUSED = {
    "colour": ({"colour": 3}, "colour"),
    "typing mistake": ({"max_new_token": 3}, "max_new_token,"),
    "assistant": ({"assistant_model": object()}, "assistant_model"),
    "strange cache": ({"cache_implementation": "spiral"}, "cache_implementation"),
    "chunks of nothing": ({"prefill_chunk_size": 0}, "prefill_chunk_size"),
    "chunks kept nowhere": ({"prefill_chunk_size": 4, "use_cache": False}, "use_cache"),
    "compiled": ({"compile_config": object()}, "compile_config"),
    "custom": ({"custom_generate": "someone/code"}, "custom_generate"),
    "synced": ({"synced_gpus": True}, "synced_gpus"),
    "too long": ({"max_length": 7}, "max_length"),
    "impossible lengths": ({"min_new_tokens": 9, "max_new_tokens": 4}, "At least"),
    "greedy sequences": ({"num_return_sequences": 2}, "num_return_sequences"),
    "no tokenizer": ({"stop_strings": "."}, "tokenizer"),
    "temperature": ({"do_sample": True, "temperature": 0.0}, "temperature"),
    "top_k": ({"do_sample": True, "top_k": -1}, "top_k"),
    "top_p": ({"do_sample": True, "top_p": 1.5}, "top_p"),
    "words": ({"bad_words_ids": [[VOCABULARY]]}, "vocabulary"),
    "no end": ({"exponential_decay_length_penalty": (1, 2.0), "eos_token_id": None}, "eos_token_id"),
    "mask": ({"attention_mask": torch.ones(3, 4)}, "attention_mask"),
    "mask of masks": ({"attention_mask": torch.ones(3, 7, 7)}, "attention_mask"),
    "twice": ({"input_ids": torch.ones(3, 7, dtype=torch.long)}, "inputs and input_ids"),
}


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(call: dict[str, Any], words: str) -> None:
    """What is unknown, unsupported or impossible is an error that names it."""
    ids, _ = ragged()
    with pytest.raises(GenerationError, match=words):
        ours("GPT2LMHeadModel").generate(ids, **call)


def test_refused_without_a_decoder() -> None:
    """A model that reads in both directions can be built with a head for the next token, but predicts none."""
    config = gf.BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(GenerationError, match="both directions and predicts no next token; load it with is_decoder"):
        gf.BertLMHeadModel(config).generate(ragged()[0])


@pytest.mark.parametrize("ids", [[[3, 4]], torch.ones(3), torch.ones(2, 3), torch.ones(2, 0, dtype=torch.long)])
def test_refused_ids(ids: Any) -> None:
    """Ids must be a tensor of whole numbers, (batch, tokens), with at least one token."""
    with pytest.raises(GenerationError, match="input_ids"):
        ours("GPT2LMHeadModel").generate(ids)


def test_source_settings_need_ids() -> None:
    """Settings that compare with the input's tokens are an error where there are none."""
    model = ours(ENCODER_DECODERS[0])
    encoded = model.get_encoder()(input_ids=ragged()[0])
    for setting in ({"encoder_repetition_penalty": 2.0}, {"encoder_no_repeat_ngram_size": 2}):
        with pytest.raises(GenerationError, match=next(iter(setting))):
            model.generate(encoder_outputs=encoded, **setting)


def test_warnings_of_what_has_no_effect() -> None:
    """A setting of the call that has no effect is one warning; the same from the checkpoint is none."""
    ids, _ = ragged()
    model = ours("GPT2LMHeadModel")
    for call in ({"temperature": 0.5}, {"length_penalty": 2.0}, {"output_scores": True}, {"max_length": 9}):
        with pytest.warns(UserWarning, match=next(iter(call))):
            model.generate(ids, max_new_tokens=1, **call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generation_config.temperature = 0.5
        model.generate(ids, max_new_tokens=1)
    model.generation_config.temperature = None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_of_any_type(dtype: torch.dtype) -> None:
    """A processor may give scores of another type, and such as want gradients; the best is the best."""
    ids, _ = ragged()
    model, more = ours("GPT2LMHeadModel"), {"max_new_tokens": 4, "eos_token_id": None, "do_sample": False}

    class Favourite(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            likes = torch.zeros_like(scores, dtype=dtype)
            likes[:, 7] = 1
            return likes.requires_grad_()

    written = model.generate(ids, logits_processor=LogitsProcessorList([Favourite()]), **more)
    assert (written[:, -4:] == 7).all()
