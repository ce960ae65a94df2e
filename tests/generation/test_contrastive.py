"""Contrastive search gives what its paper says, written plainly and recomputed without a cache in every step."""

from typing import Any

import pytest
import torch

from glassformer.errors import GenerationError

from .tiny import ALL, DECODERS, ENCODER_DECODERS, ENDS, PAD, VOCABULARY, ours, ragged


@torch.no_grad()
def reference(name: str, ids: torch.Tensor, steps: int, top_k: int, alpha: float, ends: list[int]) -> list[int]:
    """The new tokens after one prompt (1, T), or for one text of an encoder."""
    model, encoder_decoder = ours(name), name in ENCODER_DECODERS
    text = torch.tensor([[model.generation_config.decoder_start_token_id]]) if encoder_decoder else ids
    start = text.shape[1]

    def read(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = {"input_ids": ids, "decoder_input_ids": tokens} if encoder_decoder else {"input_ids": tokens}
        out = model(**given, use_cache=False, output_hidden_states=True)
        states = out["decoder_hidden_states" if encoder_decoder else "hidden_states"][-1][0]
        return out.logits[0, -1], states

    for _ in range(steps):
        logits, _ = read(text)
        probabilities, candidates = logits.softmax(-1).topk(top_k)
        values = []
        for probability, token in zip(probabilities, candidates):
            _, states = read(torch.cat([text, token.view(1, 1)], dim=1))
            likeness = torch.cosine_similarity(states[:-1], states[-1:], dim=-1).max()
            values.append(float((1 - alpha) * probability - alpha * likeness))
        token = candidates[max(range(top_k), key=values.__getitem__)]
        text = torch.cat([text, token.view(1, 1)], dim=1)
        if int(token) in ends:
            break
    return text[0, start:].tolist()


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize(("top_k", "alpha"), [(4, 0.6), (2, 0.3), (7, 1.0)])
@pytest.mark.parametrize("name", ALL)
def test_tokens(name: str, top_k: int, alpha: float, use_cache: bool) -> None:
    """Every row of a ragged batch is what the reference finds for it alone; only padding follows an end."""
    ids, mask = ragged("right" if name in ENCODER_DECODERS else "left")
    found = ours(name).generate(
        ids, attention_mask=mask, top_k=top_k, penalty_alpha=alpha, max_new_tokens=7, eos_token_id=ENDS,
        use_cache=use_cache, forced_eos_token_id=None,
    )  # fmt: skip
    found = found[:, 1 if name in ENCODER_DECODERS else 7 :]
    for row, real, result in zip(ids, mask, found.tolist()):
        wanted = reference(name, row[real.bool()][None], 7, top_k, alpha, ENDS)
        assert result[: len(wanted)] == wanted
        assert set(result[len(wanted) :]) <= {PAD}


@pytest.mark.parametrize("name", ALL)
def test_almost_greedy(name: str) -> None:
    """With hardly any penalty it is greedy decoding, in all that it returns as well."""
    ids, mask = ragged()
    flags = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate")
    call = {"attention_mask": mask, "max_new_tokens": 5, "eos_token_id": None, **dict.fromkeys(flags, True)}
    greedy = ours(name).generate(ids, **call)
    found = ours(name).generate(ids, **call, top_k=5, penalty_alpha=1e-6)
    assert list(found) == list(greedy)
    assert torch.equal(found.sequences, greedy.sequences)
    assert found.past_key_values.get_seq_length() == greedy.past_key_values.get_seq_length()
    for key in greedy:
        if key == "past_key_values":
            pairs = [(one[0], other[0]) for one, other in zip(found[key], greedy[key])]
        else:
            pairs = list(zip(leaves(found[key]), leaves(greedy[key])))
        assert pairs
        assert len(leaves(found[key])) == len(leaves(greedy[key])) or key == "past_key_values"
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else []


def test_processors_act() -> None:
    """Forbidden tokens stay away, though few tokens are left; and the whole vocabulary may be looked at."""
    ids, mask = ragged()
    allowed = [9, 10]
    found = ours("GPT2LMHeadModel").generate(
        ids, attention_mask=mask, top_k=VOCABULARY + 5, penalty_alpha=0.9, max_new_tokens=6, eos_token_id=None,
        suppress_tokens=[token for token in range(VOCABULARY) if token not in allowed],
    )  # fmt: skip
    assert set(found[:, 7:].flatten().tolist()) <= set(allowed)


@pytest.mark.parametrize("name", DECODERS)
def test_goes_on_from_its_cache(name: str) -> None:
    """The cache that comes back serves a next call of another strategy; a fixed one has room enough."""
    ids, _ = ragged()
    model = ours(name)
    call = {"top_k": 4, "penalty_alpha": 0.6, "max_new_tokens": 4, "eos_token_id": None}
    first = model.generate(ids[:1], return_dict_in_generate=True, **call)
    more = model.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=4)
    assert torch.equal(more, model.generate(first.sequences, max_new_tokens=4))
    assert torch.equal(first.sequences, model.generate(ids[:1], cache_implementation="static", **call))


def test_embeddings() -> None:
    """A prompt may be given as embeddings, whose new tokens alone come back."""
    ids, mask = ragged()
    model = ours("LlamaForCausalLM")
    call = {"attention_mask": mask, "top_k": 4, "penalty_alpha": 0.6, "max_new_tokens": 5}
    found = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **call)
    assert torch.equal(found, model.generate(ids, **call)[:, 7:])


def test_stream() -> None:
    """Its steps can be watched one by one."""
    ids, mask = ragged()
    model = ours("GPT2LMHeadModel")
    call = {"attention_mask": mask, "top_k": 4, "penalty_alpha": 0.6, "max_new_tokens": 5}
    steps = [step.tokens for step in model.stream(ids, **call)]
    assert torch.equal(torch.stack(steps, dim=1), model.generate(ids, **call)[:, 7:])


def test_refused() -> None:
    """A penalty above 1, and a text of which a part is in a cache already, are errors that say so."""
    ids, _ = ragged()
    model = ours("GPT2LMHeadModel")
    with pytest.raises(GenerationError, match="penalty_alpha"):
        model.generate(ids, top_k=4, penalty_alpha=1.5)
    past = model(input_ids=ids[:1, :4], use_cache=True).past_key_values
    with pytest.raises(GenerationError, match="past_key_values"):
        model.generate(ids[:1], past_key_values=past, top_k=4, penalty_alpha=0.5)
