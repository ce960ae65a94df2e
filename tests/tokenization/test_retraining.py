"""A tokenizer learns a new vocabulary and stays what it is."""

from __future__ import annotations

import json

import pytest

from glassformer.errors import TokenizerError

from .corpus import CORPUS, TEXTS
from .test_parity import assert_same, both


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "t5", "llama", "generic"])
def test_a_new_vocabulary(folders, name):
    """The peer's steps, special tokens and post-processor around the new vocabulary, and the same ids."""
    made = []
    for tokenizer in both(folders[name]):
        roles = tokenizer.special_tokens_map
        old = roles.get("mask_token") or roles["eos_token"]
        options = {} if name in ("t5", "llama") else {"special_tokens_map": {old: "<renamed>"}}
        made.append(
            tokenizer.train_new_from_iterator(
                iter(CORPUS[:9]), 400, new_special_tokens=["<added>"], show_progress=False, **options
            )
        )
    ours, theirs = made
    assert type(ours).__name__ == type(theirs).__name__
    assert len(ours) == len(theirs)
    assert ours.all_special_tokens == theirs.all_special_tokens
    mine, peer = (json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in made)
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"):
        assert mine[part] == peer[part]
    if ours.get_vocab() == theirs.get_vocab():  # trainers break ties by chance
        assert_same(ours(TEXTS), theirs(TEXTS))
    assert ours.decode(ours("the quick fox")["input_ids"], skip_special_tokens=True).strip() == "the quick fox"


def test_a_token_around_every_text_must_stay(folders):
    tokenizer, _ = both(folders["gpt2"])
    tokenizer.add_tokens(["plain"])
    tokenizer.eos_token = "plain"
    tokenizer.add_eos_token = True
    with pytest.raises(TokenizerError, match="plain"):
        tokenizer.train_new_from_iterator(CORPUS, 400, show_progress=False)
