"""A new vocabulary for an old tokenizer: the same steps and special tokens, learnt from other texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers

from glassformer.errors import TokenizerError

if TYPE_CHECKING:
    from glassformer.tokenization.tokenizer import TokenizersBackend

TRAINERS: dict[str, Any] = {
    "BPE": trainers.BpeTrainer,
    "Unigram": trainers.UnigramTrainer,
    "WordLevel": trainers.WordLevelTrainer,
    "WordPiece": trainers.WordPieceTrainer,
}


def retrain(
    tokenizer: TokenizersBackend,
    texts: Iterable[str] | Iterable[list[str]],
    vocab_size: int,
    length: int | None,
    new_special_tokens: list[str | AddedToken],
    renamed: dict[str, str],
    options: dict[str, Any],
) -> TokenizersBackend:
    """What `tokenizer.train_new_from_iterator` does."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    added, post_processor = content.pop("added_tokens"), content.pop("post_processor")
    model = content["model"]
    kind = model["type"]
    options = {**_emptied(model, renamed), **options}
    if _byte_level(content["pre_tokenizer"]):
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer.from_str(json.dumps(content))
    special: list[str | AddedToken] = []
    for entry in added:
        if kind == "Unigram" or entry["special"]:
            flags = {key: entry[key] for key in ("single_word", "lstrip", "rstrip", "normalized")}
            special.append(AddedToken(renamed.get(entry["content"], entry["content"]), **flags))
    special += new_special_tokens
    trainer = TRAINERS[kind](vocab_size=vocab_size, special_tokens=special, **options)
    backend.train_from_iterator(texts, trainer=trainer, length=length)
    if post_processor is not None:
        content = json.loads(backend.to_str())
        content["post_processor"] = _with_new_ids(post_processor, backend, renamed)
        backend = Tokenizer.from_str(json.dumps(content))
    kwargs = {
        key: value for key, value in tokenizer.init_kwargs.items() if key not in ("vocab_file", "merges_file", "vocab")
    }
    for role, token in tokenizer._special_tokens_map.items():
        if token is not None:
            kwargs[role] = _renamed(token, renamed)
    extra = [*tokenizer.extra_special_tokens, *new_special_tokens]
    if extra:
        kwargs["extra_special_tokens"] = extra
    return type(tokenizer)(**kwargs, tokenizer_object=backend)


def _emptied(model: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Take the vocabulary out of a model; returns what its trainer must know of it."""
    options: dict[str, Any] = {}
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            unknown = model["vocab"][model["unk_id"]][0]
            options["unk_token"] = renamed.get(unknown, unknown)
            model.update(unk_id=0, vocab=[[options["unk_token"], 0.0]])
    else:
        model["vocab"] = {}
    if model["type"] == "BPE":
        model["merges"] = []
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model[name] is not None:
                options[name] = model[name]
    return options


def _byte_level(pre_tokenizer: dict[str, Any] | None) -> bool:
    parts = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return any(part["type"] == "ByteLevel" for part in parts)


def _with_new_ids(post_processor: dict[str, Any], backend: Tokenizer, renamed: dict[str, str]) -> dict[str, Any]:
    """The post-processor, with its tokens renamed and at their new ids."""

    def index(token: str) -> int:
        found = backend.token_to_id(token)
        if found is None:
            raise TokenizerError(f"{token!r} stands around every text, but is not in the new vocabulary: add it.")
        return found

    special = post_processor.get("special_tokens", {})
    for entry in special.values() if isinstance(special, dict) else ():
        entry["tokens"] = [renamed.get(token, token) for token in entry["tokens"]]
        entry["ids"] = [index(token) for token in entry["tokens"]]
    for role in ("cls", "sep"):
        if role in post_processor:
            token = renamed.get(post_processor[role][0], post_processor[role][0])
            post_processor[role] = [token, index(token)]
    return post_processor


def _renamed(token: str | AddedToken, renamed: dict[str, str]) -> str | AddedToken:
    if isinstance(token, str):
        return renamed.get(token, token)
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(renamed.get(token.content, token.content), special=True, **flags)
