"""The families of tokenizers: which model they run, how text is split for it, and what they put around a text.

A family's `vocab` (and `merges`) are a dictionary or a list, or the path of the file that holds them; `vocab_file` and
`merges_file` name such files too.
"""

from __future__ import annotations

import os
import re
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from glassformer.errors import MissingFileError, TokenizerError
from glassformer.tokenization import reading
from glassformer.tokenization.reading import Merges, backend_errors
from glassformer.tokenization.sentencepiece import SPACE, SentencePieceModel, read_model
from glassformer.tokenization.tokenizer import TokenizersBackend

Vocab = dict[str, int]
Scores = list[tuple[str, float]]
Path = str | os.PathLike[str]


class BertTokenizer(TokenizersBackend):
    """WordPiece: words are split at spaces and punctuation, then into the longest pieces that the vocabulary has.

    Args:
        vocab: From token to id, or the path of a vocab.txt.
        do_lower_case: Whether text is lowercased.
        tokenize_chinese_chars: Whether each Chinese character is a word.
        strip_accents: Whether accents are removed; as `do_lower_case` says when left out.
        kwargs: As for `TokenizersBackend`.

    Example:
        >>> BertTokenizer.from_pretrained("bert-base-uncased").tokenize("Glass box")
        ['glass', 'box']
    """

    vocab_files_names = {"vocab_file": "vocab.txt", "tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012
    model = models.WordPiece

    def __init__(
        self,
        vocab: Path | Vocab | None = None,
        do_lower_case: bool = True,
        *,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        **kwargs: Any,
    ) -> None:
        roles = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
        kwargs = _with_roles(kwargs, **roles)
        self.do_lower_case = do_lower_case
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.strip_accents = strip_accents
        vocab = vocab if vocab is not None else kwargs.get("vocab_file")
        if vocab is None:
            vocab = _smallest(kwargs, "pad", "unk", "cls", "sep", "mask")
        elif not isinstance(vocab, dict):
            vocab = reading.read_vocab_txt(vocab)
        with backend_errors("The vocabulary"):
            backend = Tokenizer(models.WordPiece(vocab, unk_token=str(kwargs["unk_token"])))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            lowercase=do_lower_case,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        super().__init__(
            _backend=backend,
            do_lower_case=do_lower_case,
            tokenize_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            **kwargs,
        )
        cls, sep = self.cls_token, self.sep_token
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[
                (cls, 2 if self.cls_token_id is None else self.cls_token_id),
                (sep, 3 if self.sep_token_id is None else self.sep_token_id),
            ],
        )


class GPT2Tokenizer(TokenizersBackend):
    """Byte-level BPE: the bytes of words, each with the space before it, are merged by rank; nothing is unknown.

    Args:
        vocab: From token to id, or the path of a vocab.json.
        merges: Pairs of pieces, the most important first, or the path of a merges.txt.
        errors: Kept and saved; bytes that are no UTF-8 are always decoded as the replacement character.
        add_prefix_space: Whether a text starts with a space.
        kwargs: As for `TokenizersBackend`.

    Example:
        >>> GPT2Tokenizer.from_pretrained("gpt2").tokenize("Glass box")
        ['Glass', 'Ġbox']
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}  # noqa: RUF012
    model = models.BPE

    def __init__(
        self,
        vocab: Path | Vocab | None = None,
        merges: Path | list[Any] | None = None,
        errors: str = "replace",
        *,
        add_prefix_space: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs = {
            "pad_token": None,
            **_with_roles(kwargs, unk="<|endoftext|>", bos="<|endoftext|>", eos="<|endoftext|>"),
        }
        backend = _byte_level(*_bpe_files(vocab, merges, kwargs), add_prefix_space)
        super().__init__(_backend=backend, errors=errors, add_prefix_space=add_prefix_space, **kwargs)


class RobertaTokenizer(TokenizersBackend):
    """Byte-level BPE between `<s>` and `</s>`: RoBERTa's tokenizer, and BART's.

    Args:
        vocab: From token to id, or the path of a vocab.json.
        merges: Pairs of pieces, the most important first, or the path of a merges.txt.
        errors: Kept and saved; bytes that are no UTF-8 are always decoded as the replacement character.
        add_prefix_space: Whether a text starts with a space.
        trim_offsets: Whether the space before a word is left out of its offsets.
        kwargs: As for `TokenizersBackend`.

    Example:
        >>> BartTokenizer.from_pretrained("facebook/bart-base").tokenize("Glass box", add_special_tokens=True)
        ['<s>', 'Glass', 'Ġbox', '</s>']
    """

    vocab_files_names = {  # noqa: RUF012
        "vocab_file": "vocab.json",
        "merges_file": "merges.txt",
        "tokenizer_file": "tokenizer.json",
    }
    model = models.BPE

    def __init__(
        self,
        vocab: Path | Vocab | None = None,
        merges: Path | list[Any] | None = None,
        errors: str = "replace",
        *,
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        **kwargs: Any,
    ) -> None:
        roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>"}
        kwargs = _with_roles(kwargs, **roles, mask="<mask>")
        self.trim_offsets = trim_offsets
        vocab, merges = _bpe_files(vocab, merges, kwargs)
        backend = _byte_level(vocab or _smallest(kwargs, "pad", "unk", "cls", "sep", "mask"), merges, add_prefix_space)
        super().__init__(
            _backend=backend, errors=errors, add_prefix_space=add_prefix_space, trim_offsets=trim_offsets, **kwargs
        )
        sep, cls = str(kwargs["sep_token"]), str(kwargs["cls_token"])
        self._tokenizer.post_processor = processors.RobertaProcessing(
            (sep, self._id_of(sep)), (cls, self._id_of(cls)), trim_offsets, add_prefix_space
        )


class T5Tokenizer(TokenizersBackend):
    """Unigram: of all ways to cut a text into pieces, the most probable one; `</s>` ends it.

    Args:
        vocab: Tokens with their log probabilities, or the path of a spiece.model.
        extra_ids: How many `<extra_id_0>`, ... there are, which stand for spans of text left out.
        additional_special_tokens: Further special tokens.
        kwargs: As for `TokenizersBackend`.

    Raises:
        TokenizerError: `extra_ids` contradicts `additional_special_tokens`.

    Example:
        >>> T5Tokenizer.from_pretrained("t5-small").tokenize("Glass box")
        ['▁Glass', '▁box']
    """

    vocab_files_names = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model = models.Unigram

    def __init__(
        self,
        vocab: Path | Scores | None = None,
        *,
        extra_ids: int = 100,
        additional_special_tokens: list[str | AddedToken] | None = None,
        _spm_precompiled_charsmap: bytes | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = _with_roles(kwargs, eos="</s>", unk="<unk>", pad="<pad>")
        self._extra_ids = extra_ids
        sentinels = _sentinels(extra_ids)
        special = list(additional_special_tokens or [])
        given = [token for token in special if "<extra_id_" in str(token)]
        if given and extra_ids > 0 and len(given) != extra_ids:
            raise TokenizerError(
                f"There are {len(given)} <extra_id_..> tokens but extra_ids={extra_ids}: drop one of them."
            )
        vocab = vocab if vocab is not None else kwargs.get("vocab_file")
        if vocab is None:
            tokens = [str(kwargs[role]) for role in ("pad_token", "eos_token", "unk_token")]
            vocab = [(token, 0.0) for token in tokens] + [(SPACE, -2.0)]
            vocab += [(token, 0.0) for token in reversed(sentinels)]
        elif not isinstance(vocab, list):
            settings = self._from_sentencepiece(read_model(vocab), {"extra_ids": extra_ids})
            vocab, _spm_precompiled_charsmap = settings["vocab"], settings["_spm_precompiled_charsmap"]
            special = [*settings["additional_special_tokens"], *special]
        scores: Any = vocab
        with backend_errors("The vocabulary"):
            backend = Tokenizer(models.Unigram(scores, unk_id=2, byte_fallback=False))
            if _spm_precompiled_charsmap is not None:
                backend.normalizer = normalizers.Precompiled(_spm_precompiled_charsmap)
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True),
            ]
        )
        backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
        super().__init__(
            _backend=backend,
            extra_ids=extra_ids,
            additional_special_tokens=special if given else [*special, *sentinels],
            **kwargs,
        )
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A", "</s>"],
            pair=["$A", "</s>", "$B", "</s>"],
            special_tokens=[("</s>", self._id_of(self.eos_token))],
        )

    @classmethod
    def _from_sentencepiece(cls, spm: SentencePieceModel, settings: dict[str, Any]) -> dict[str, Any]:
        settings = super()._from_sentencepiece(spm, settings)
        sentinels = _sentinels(settings.get("extra_ids", 100))
        settings["vocab"] = settings["vocab"] + [(token, 0.0) for token in reversed(sentinels)]
        return settings

    def get_sentinel_tokens(self) -> list[str]:
        """The `<extra_id_..>` tokens."""
        return [token for token in self.all_special_tokens if re.fullmatch(r"<extra_id_\d+>", token)]

    def get_sentinel_token_ids(self) -> list[int | None]:
        """The ids of `get_sentinel_tokens`."""
        return self.convert_tokens_to_ids(self.get_sentinel_tokens())


class LlamaTokenizer(TokenizersBackend):
    """SentencePiece BPE: characters are merged by rank, spaces are `▁`, and what is unknown is written in bytes.

    Args:
        vocab: From token to id, or the path of a tokenizer.model.
        merges: Pairs of pieces, the most important first, or the path of a merges.txt.
        clean_up_tokenization_spaces: Kept and saved; these texts need no clean-up.
        legacy: Whether a space is put also behind a special token, as first versions did.
        add_prefix_space: Whether a text starts with a space; left out, it does.
        use_default_system_prompt: Kept and saved.
        kwargs: As for `TokenizersBackend`.

    Example:
        >>> LlamaTokenizer.from_pretrained("a-llama").tokenize("Glass box")
        ['▁Glass', '▁box']
    """

    vocab_files_names = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    padding_side = "left"
    model = models.BPE

    def __init__(
        self,
        vocab: Path | Vocab | None = None,
        merges: Path | list[Any] | None = None,
        clean_up_tokenization_spaces: bool = False,
        *,
        legacy: bool = False,
        add_prefix_space: bool | None = None,
        use_default_system_prompt: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs = _with_roles(kwargs, unk="<unk>", bos="<s>", eos="</s>")
        self.legacy = legacy
        self.use_default_system_prompt = use_default_system_prompt
        prefixed = add_prefix_space is None or add_prefix_space
        path = vocab if vocab is not None else kwargs.get("vocab_file")
        if path is None:
            vocab = _smallest(kwargs, "unk", "bos", "eos")
        elif not isinstance(path, dict) and os.fspath(path).endswith(".model"):
            settings = self._from_sentencepiece(read_model(path), {})
            vocab, merges = settings["vocab"], settings["merges"]
            kwargs.setdefault("extra_special_tokens", settings["additional_special_tokens"])
        else:
            vocab, merges = _bpe_files(path, merges, kwargs)
        pieces: Any = vocab
        pairs: Any = merges or []
        with backend_errors("The vocabulary"):
            backend = Tokenizer(models.BPE(vocab=pieces, merges=pairs, fuse_unk=True, byte_fallback=True))
        scheme: Any = "never" if not prefixed else "always" if legacy else "first"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
        steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(steps + ([decoders.Strip(content=" ", left=1)] if prefixed else []))
        super().__init__(
            _backend=backend,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            use_default_system_prompt=use_default_system_prompt,
            add_prefix_space=add_prefix_space,
            **kwargs,
        )


# BART reads text as RoBERTa does. Every class here is the fast one, and what all of them share stands for them all.
BartTokenizer = BartTokenizerFast = RobertaTokenizerFast = RobertaTokenizer
BertTokenizerFast = BertTokenizer
GPT2TokenizerFast = GPT2Tokenizer
T5TokenizerFast = T5Tokenizer
LlamaTokenizerFast = LlamaTokenizer
PreTrainedTokenizerFast = PreTrainedTokenizer = PreTrainedTokenizerBase = TokenizersBackend


def _with_roles(kwargs: dict[str, Any], **roles: str) -> dict[str, Any]:
    """The keywords, with a family's special tokens where they name none."""
    return {**{f"{role}_token": token for role, token in roles.items()}, **kwargs}


def _smallest(kwargs: dict[str, Any], *roles: str) -> Vocab:
    """The vocabulary of a family that is given none: its special tokens."""
    return {str(kwargs[f"{role}_token"]): index for index, role in enumerate(roles)}


def _sentinels(count: Any) -> list[str]:
    """T5's tokens for spans left out; a checkpoint says how many, so not any number is believed."""
    if not isinstance(count, int) or not 0 <= count <= 100_000:
        raise TokenizerError(f"extra_ids is {count!r}: pass a number from 0 to 100000.")
    return [f"<extra_id_{i}>" for i in range(count)]


def _bpe_files(vocab: Any, merges: Any, kwargs: dict[str, Any]) -> tuple[Vocab, Merges]:
    """A BPE vocabulary and its merges, from the files that hold them if they are not given themselves."""
    vocab = kwargs.get("vocab_file") if vocab is None else vocab
    merges = kwargs.get("merges_file") if merges is None else merges
    if isinstance(vocab, (str, os.PathLike)):
        if merges is None:
            raise MissingFileError(f"{vocab} is half of a BPE tokenizer: pass merges= (a merges.txt) with it.")
        vocab = reading.read_vocab_json(vocab)
    if isinstance(merges, (str, os.PathLike)):
        merges = reading.read_merges(merges)
    return vocab or {}, merges or []


def _byte_level(vocab: Vocab, merges: Merges, add_prefix_space: bool) -> Tokenizer:
    with backend_errors("The vocabulary"):
        backend = Tokenizer(
            models.BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
        )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend
