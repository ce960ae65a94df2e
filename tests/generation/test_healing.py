"""Token healing chooses the last token of a prompt again, as the peer does."""

import tempfile
from functools import cache
from typing import Any

import pytest
import torch
import transformers

from glassformer.errors import GenerationError

from .test_streaming import both_tokenizers, model_of
from .texts import TEXT, tokenizer
from .tiny import DECODERS, ENCODER_DECODERS, ours, ragged

PROMPTS = ["The quick", "the lazy d", "http:", "Another li", "привет м", "The line of t", "quick brown fox,"]


@cache
def peer_of(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model_of(kind).save_pretrained(folder)
        return transformers.LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_as_the_peer(prompt: str) -> None:
    """The same tokens as the peer's, healed prompt included; in a batch the same as alone.

    The peer looks for spaces and letters beyond ASCII as they are, not as they stand in the vocabulary, and finds none.
    """
    own, theirs = both_tokenizers("bytes")
    ids = own(prompt, return_tensors="pt")["input_ids"]
    call = {"token_healing": True, "max_new_tokens": 4}
    found = model_of("bytes").generate(ids, tokenizer=own, **call)
    if own.convert_ids_to_tokens(int(ids[0, -1])).isascii():
        theirs.padding_side = "left"
        assert torch.equal(found, peer_of("bytes").generate(ids, tokenizer=theirs, **call))
    batch = own(PROMPTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    together = model_of("bytes").generate(**batch, tokenizer=own, **call)[PROMPTS.index(prompt)]
    assert torch.equal(together[-found.shape[1] :], found[0])


def test_heals() -> None:
    """Some prompts change in their last token alone, which then begins with the text of the old one."""
    own, changed = tokenizer("bytes"), 0
    words = [TEXT[:end] for end in range(8, 60)]
    for text in words:
        ids = own(text, return_tensors="pt")["input_ids"]
        end = ids.shape[1] - (own.decode(ids[0, -1:]).isspace())
        healed = model_of("bytes").generate(ids, tokenizer=own, token_healing=True, max_new_tokens=1)[:, :-1]
        assert torch.equal(healed[0, :-1], ids[0, : end - 1])
        before, after = own.convert_ids_to_tokens([int(ids[0, end - 1]), int(healed[0, -1])])
        assert after.startswith(before)
        changed += before != after
    assert changed > 5


def test_begin_token_and_short_prompts_stay() -> None:
    """What was before the last token stays, special tokens too; so does a prompt of one token or of padding."""
    own = tokenizer("bytes")
    call = {"tokenizer": own, "token_healing": True, "max_new_tokens": 1}
    ids = torch.tensor([[1, *own("http:")["input_ids"]]])
    healed = model_of("bytes").generate(ids, **call)
    assert torch.equal(healed[:, : ids.shape[1] - 1], ids[:, :-1])
    for short in (torch.tensor([[50]]), torch.tensor([[1, 2]])):
        assert torch.equal(model_of("bytes").generate(short, **call)[:, :-1], short)


def test_streams_and_samples() -> None:
    """A stream, samples and stored settings heal as well."""
    own = tokenizer("bytes")
    inputs = own(PROMPTS[:2], padding=True, return_tensors="pt", return_token_type_ids=False)
    call = {"token_healing": True, "tokenizer": own, "max_new_tokens": 4, "do_sample": True, "seed": 2}
    out = model_of("bytes").generate(**inputs, num_return_sequences=2, **call)
    steps = list(model_of("bytes").stream(**inputs, num_return_sequences=2, **call))
    assert torch.equal(torch.stack([step.tokens for step in steps], dim=1), out[:, -len(steps) :])


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        (DECODERS[1], {}, "tokenizer"),
        (DECODERS[1], {"tokenizer": True, "past_key_values": ((),)}, "past_key_values"),
        (ENCODER_DECODERS[0], {"tokenizer": True}, "encoder-decoder"),
    ],
)
def test_refused(name: str, call: dict[str, Any], words: str) -> None:
    """What cannot be healed is an error that says why."""
    if "tokenizer" in call:
        call = {**call, "tokenizer": tokenizer("bytes")}
    with pytest.raises(GenerationError, match=words):
        ours(name).generate(ragged()[0], token_healing=True, **call)
