"""Tiny tokenizers of the three kinds of decoding, trained here, and text of one to four bytes a character."""

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import glassformer

TEXT = (
    "The quick brown fox, the lazy dog's http://a.b: https://c.d; naïve café, привет мир, 日本語の文章 and 🙂🙃 "
    "emoji 👩‍🚀 in the same line.\nAnother line of the text, the third of these."
)
LETTERS = sorted({letter for letter in TEXT if letter.isascii() and letter.isalpha()} | {"▁"})
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
NAMES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def backend(kind: str) -> Tokenizer:
    """The tokenizer itself, a new one of the same file each time."""
    return Tokenizer.from_str(_trained(kind))


@cache
def _trained(kind: str) -> str:
    """The text of a tokenizer.json: "bytes" as GPT-2's, "fallback" as Llama's, "pieces" as BERT's."""
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=330, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
        )
    elif kind == "fallback":
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=330, special_tokens=SPECIAL + bytes_, initial_alphabet=LETTERS, limit_alphabet=len(LETTERS)
        )
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, initial_alphabet=LETTERS)
    made.train_from_iterator([TEXT], trainer)
    keys = json.loads(made.to_str())
    # The tokens of bytes are no special ones.
    keys["added_tokens"] = [token for token in keys["added_tokens"] if token["content"] in SPECIAL]
    return json.dumps(keys)


@cache
def tokenizer(kind: str) -> Any:
    """The tokenizer of this library."""
    return glassformer.PreTrainedTokenizerFast(tokenizer_object=backend(kind), padding_side="left", **NAMES)
