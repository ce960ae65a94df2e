"""The tokenizer itself: its construction around a `tokenizers.Tokenizer`, and the way from ids back to text."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from tokenizers import AddedToken, Tokenizer, models, processors

from glassformer.errors import TokenizerError
from glassformer.tokenization import conversion, options
from glassformer.tokenization.chat import ChatTemplates
from glassformer.tokenization.padding import to_list
from glassformer.tokenization.reading import backend_errors, read_backend
from glassformer.tokenization.sentencepiece import SentencePieceModel

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

# What the clean-up of decoded text replaces, in this order.
CLEAN_UP = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}


class TokenizersBackend(ChatTemplates):
    """A tokenizer of any family, as its tokenizer.json describes it.

    Args:
        tokenizer_object: A `tokenizers.Tokenizer`, of which a copy is taken.
        tokenizer_file: The path of a tokenizer.json.
        _backend: The tokenizer that a family has built.
        kwargs: Special tokens by role (`pad_token`, ...), `extra_special_tokens`, `model_max_length`, `padding_side`,
            `truncation_side`, `model_input_names`, `clean_up_tokenization_spaces`, `split_special_tokens`,
            `chat_template`, `add_bos_token`, `add_eos_token`; whatever else is kept in `init_kwargs` and saved.

    Raises:
        TokenizerError: There is nothing to make a tokenizer of, or an argument is wrong.
        BrokenFileError: The file is malformed.

    Example:
        >>> TokenizersBackend(tokenizer_file="tokenizer.json")("a text")["input_ids"]
        [64, 2420]
    """

    vocab_files_names: ClassVar[dict[str, str]] = {
        "tokenizer_file": "tokenizer.json",
        "vocab_file": "tokenizer.model",
    }
    model: ClassVar[type[models.Model] | None] = None
    vocab_file: str | None = None
    add_prefix_space: bool | None = False

    def __init__(
        self,
        *init_inputs: Any,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        _backend: Tokenizer | None = None,
        **kwargs: Any,
    ) -> None:
        self.init_inputs = init_inputs
        kwargs.pop("_spm_precompiled_charsmap", None)  # for the families that build a normalizer of it
        if tokenizer_object is not None:
            self._tokenizer = copy.deepcopy(tokenizer_object)
        elif tokenizer_file is not None:
            self._tokenizer = read_backend(tokenizer_file)
        elif _backend is not None:
            self._tokenizer = _backend
        else:
            self._tokenizer = _from_vocab(kwargs)
            kwargs = {"bos_token": "<s>", "eos_token": "</s>", **kwargs}
        self._take_backend_settings(kwargs)
        post_processor = kwargs.pop("post_processor", None)
        if post_processor is not None:
            self._tokenizer.post_processor = post_processor
        self._take_settings({"backend": "tokenizers", **kwargs})
        self._tokenizer.encode_special_tokens = self.split_special_tokens
        self._add_missing_tokens(kwargs.get("added_tokens_decoder") or {})
        self._add_bos_token = bool(kwargs.get("add_bos_token", False))
        self._add_eos_token = bool(kwargs.get("add_eos_token", False))
        if self._tokenizer.post_processor is None or "add_bos_token" in kwargs or "add_eos_token" in kwargs:
            self.update_post_processor()

    def _take_backend_settings(self, kwargs: dict[str, Any]) -> None:
        """Truncation and padding that a tokenizer.json was saved with are defaults of the settings."""
        truncation = kwargs.pop("tokenizer_truncation", None) or self._tokenizer.truncation
        padding = kwargs.pop("tokenizer_padding", None) or self._tokenizer.padding
        if truncation is None:
            self._tokenizer.no_truncation()
        else:
            with backend_errors("The truncation in tokenizer.json"):
                self._tokenizer.enable_truncation(**truncation)
            kwargs.setdefault("max_length", truncation["max_length"])
            kwargs.setdefault("truncation_side", truncation["direction"])
            kwargs.setdefault("stride", truncation["stride"])
            kwargs.setdefault("truncation_strategy", truncation["strategy"])
        if padding is not None:
            self._tokenizer.enable_padding(**padding)
            kwargs.setdefault("pad_token", padding["pad_token"])
            kwargs.setdefault("pad_token_type_id", padding["pad_type_id"])
            kwargs.setdefault("padding_side", padding["direction"])
            kwargs.setdefault("max_length", padding["length"])
            kwargs.setdefault("pad_to_multiple_of", padding["pad_to_multiple_of"])

    def _take_settings(self, kwargs: dict[str, Any]) -> None:
        """Everything that is an attribute, and `init_kwargs`, which is saved again word for word."""
        if "additional_special_tokens" in kwargs and "extra_special_tokens" not in kwargs:
            kwargs["extra_special_tokens"] = kwargs.pop("additional_special_tokens")
        for key in kwargs:
            if callable(getattr(type(self), key, None)):
                raise TokenizerError(f"A tokenizer has a method {key}, so it cannot be a setting: leave it out.")
        self.init_kwargs: dict[str, Any] = copy.deepcopy(kwargs)
        self.name_or_path: str = kwargs.pop("name_or_path", "")
        self._processor_class = kwargs.pop("processor_class", None)
        self.verbose: bool = kwargs.pop("verbose", False)
        self._take_special_tokens(kwargs)
        longest = kwargs.pop("model_max_length", kwargs.pop("max_len", None))
        if not isinstance(longest, (int, float, type(None))):
            raise TokenizerError(f"model_max_length is {longest!r}: pass a number of tokens.")
        self.model_max_length = options.UNLIMITED if longest is None else longest  # type: ignore[assignment]
        self.padding_side = options.side("padding_side", kwargs.pop("padding_side", self.padding_side))
        self.truncation_side = options.side("truncation_side", kwargs.pop("truncation_side", self.truncation_side))
        self.model_input_names = list(kwargs.pop("model_input_names", self.model_input_names))
        self.clean_up_tokenization_spaces: bool = kwargs.pop("clean_up_tokenization_spaces", False)
        self.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output: bool = kwargs.pop(
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False
        )
        self.split_special_tokens = kwargs.pop("split_special_tokens", False)
        self.chat_template = _chat_template(kwargs.pop("chat_template", None))
        self.response_template = kwargs.pop("response_template", None)
        self.chat_control_tokens = kwargs.pop("chat_control_tokens", None)
        if not isinstance(self.chat_control_tokens, (list, tuple, type(None))):
            raise TokenizerError(f"chat_control_tokens is {self.chat_control_tokens!r}: pass a list of strings.")
        self.backend: str = kwargs.pop("backend")
        self.files_loaded: list[str] = kwargs.pop("files_loaded", [])
        if kwargs.get("vocab_file") is not None:
            self.vocab_file = kwargs["vocab_file"]
        self.add_prefix_space = kwargs.get("add_prefix_space", False)

    def _add_missing_tokens(self, added: dict[int, AddedToken]) -> None:
        """Give the backend the added tokens of the files, then the special tokens that it does not know yet."""
        tokens: list[str | AddedToken] = [token for _, token in sorted(added.items())]
        known = {*self.added_tokens_encoder, *map(str, tokens)}
        for token in [*self._special_tokens_map.values(), *self._extra_special_tokens]:
            if token is not None and str(token) not in known and token not in tokens:
                tokens.append(token)
        named = set(self.special_tokens_map.values())
        complete = []
        for token in tokens:
            token = AddedToken(token, special=True) if isinstance(token, str) else token
            if not token.special and token.content in named:
                token.special = True
            complete.append(token)
        self.add_tokens(complete)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *inputs: Any, **kwargs: Any
    ) -> Self:
        """Load a tokenizer from a folder, a file, or the hub.

        Args:
            pretrained_model_name_or_path: A folder, a vocabulary file, or a name on the hub.
            inputs: Arguments of the constructor by position.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder` say where the
                files are from; everything else overrides what they say, as arguments of the constructor.

        Raises:
            MissingFileError: The files are not there.
            BrokenFileError: A file is malformed.
            TokenizerError: The files are of a kind that this class does not read.

        Example:
            >>> BertTokenizer.from_pretrained("a-folder", model_max_length=128).model_max_length
            128
        """
        from glassformer.tokenization.loading import load

        return cast("Self", load(cls, pretrained_model_name_or_path, inputs, kwargs))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> tuple[str, ...]:
        """Write tokenizer_config.json, tokenizer.json and the chat templates; either all are replaced or none.

        Args:
            save_directory: The folder, made if it is not there.
            legacy_format: Has no effect: tokenizer.json holds everything.
            filename_prefix: A word in front of the names of the files.
            push_to_hub: Must be false; upload the folder by `hf upload`.
            kwargs: `save_jinja_files=False` keeps chat templates inside tokenizer_config.json.

        Returns:
            The paths of the files.

        Raises:
            TokenizerError: `save_directory` is a file, or `push_to_hub` is true.
        """
        from glassformer.tokenization.saving import save

        return save(self, save_directory, filename_prefix, push_to_hub, kwargs.get("save_jinja_files", True))

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary in the older files of its kind (vocab.txt; vocab.json and merges.txt; unigram.json).

        Returns:
            The paths of the files.

        Raises:
            TokenizerError: `save_directory` is no folder.
        """
        if not os.path.isdir(save_directory):
            raise TokenizerError(f"{save_directory} is no folder: make it first.")
        return tuple(self._tokenizer.model.save(os.fspath(save_directory), filename_prefix))

    @classmethod
    def _from_sentencepiece(cls, spm: SentencePieceModel, settings: dict[str, Any]) -> dict[str, Any]:
        """The constructor's arguments for what a SentencePiece model holds; a family takes them and `settings`."""
        if cls.model is None:
            return conversion.generic_settings(spm, settings)
        return conversion.settings(spm, settings, cls.model)

    # What is put around a text

    @property
    def add_bos_token(self) -> bool:
        """Whether `bos_token` is put in front of a text; can be set."""
        return self._add_bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos_token = value
        self.update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether `eos_token` is put behind a text; can be set."""
        return self._add_eos_token

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos_token = value
        self.update_post_processor()

    def update_post_processor(self) -> None:
        """Put `bos_token` and `eos_token` around texts, as `add_bos_token` and `add_eos_token` say."""
        self._add_bos_token = self._add_bos_token and self.bos_token is not None
        self._add_eos_token = self._add_eos_token and self.eos_token is not None
        before = [self.bos_token] if self._add_bos_token else []
        behind = [self.eos_token] if self._add_eos_token else []

        def around(name: str, kind: int) -> list[str]:
            return [f"{token}:{kind}" for token in before] + [f"{name}:{kind}"] + [f"{t}:{kind}" for t in behind]

        tokens = dict.fromkeys([*before, *behind])
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=around("$A", 0),
            pair=around("$A", 0) + around("$B", 1),
            special_tokens=[(token, self._id_of(token)) for token in tokens],
        )

    # From ids to text

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> Any:
        """Text from ids.

        Args:
            token_ids: An id, ids of shape (T,), or a batch of shape (B, T): a list, an array or a tensor.
            skip_special_tokens: Whether special tokens are left out.
            kwargs: `clean_up_tokenization_spaces`: whether spaces before punctuation are taken out.

        Returns:
            A string, or B of them for a batch.

        Raises:
            TokenizerError: An id is no id.

        Example:
            >>> tokenizer.decode([101, 7592, 102], skip_special_tokens=True)
            'hello'
        """
        ids = to_list(token_ids)
        if isinstance(ids, dict):
            ids = ids["input_ids"]
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, **kwargs) for row in ids]
        try:
            text = self._tokenizer.decode([ids] if isinstance(ids, int) else ids, skip_special_tokens)
        except (TypeError, OverflowError) as error:
            raise TokenizerError(f"Ids are whole numbers from 0 on, one list or a list of lists: {error}.") from error
        clean = kwargs.get("clean_up_tokenization_spaces")
        if clean if clean is not None else self.clean_up_tokenization_spaces:
            return self._cleaned(text)
        return text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Texts from a batch of ids of shape (B, T); `decode` does the same."""
        kwargs["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
        texts = self.decode(sequences, skip_special_tokens, **kwargs)
        return [texts] if isinstance(texts, str) else list(texts)

    def _cleaned(self, text: str) -> str:
        anyway = self.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        if isinstance(self._tokenizer.model, models.BPE) and not anyway:
            return text  # the spaces of a byte-level vocabulary are the text's own
        return self.clean_up_tokenization(text)

    def clean_up_tokenization(self, text: str) -> str:
        """The text without the spaces that splitting put before punctuation and English contractions."""
        for spaced, joined in CLEAN_UP.items():
            text = text.replace(spaced, joined)
        return text

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for."""
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[str | AddedToken] | None = None,
        special_tokens_map: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A tokenizer of the same kind, with a vocabulary learnt from other texts.

        Args:
            text_iterator: Texts, or lists of texts.
            vocab_size: How many tokens the vocabulary may have.
            length: How many texts there are, for the progress bar.
            new_special_tokens: Special tokens to add.
            special_tokens_map: New names of special tokens, by the old ones.
            kwargs: Arguments of the trainer of the `tokenizers` library, such as `show_progress`.

        Raises:
            TokenizerError: A token that stands around every text would be missing.

        Example:
            >>> len(tokenizer.train_new_from_iterator(["some text", "more text"], vocab_size=300))
            300
        """
        from glassformer.tokenization.retraining import retrain

        new, renamed = new_special_tokens or [], special_tokens_map or {}
        return cast("Self", retrain(self, text_iterator, vocab_size, length, new, renamed, kwargs))

    # What it is

    @property
    def is_fast(self) -> bool:
        """Always true: every tokenizer here runs in the `tokenizers` library."""
        return True

    @property
    def can_save_slow_tokenizer(self) -> bool:
        """Whether the file that the vocabulary came from can be copied."""
        if not self.vocab_files_names.get("vocab_file", "").endswith(".model"):
            return True
        return self.vocab_file is not None and os.path.isfile(self.vocab_file)

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` that does the work."""
        return self._tokenizer

    @property
    def decoder(self) -> Any:
        """The backend's decoder."""
        return self._tokenizer.decoder

    def __repr__(self) -> str:
        added = "".join(f"\t{index}: {token!r},\n" for index, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path='{self.name_or_path}', vocab_size={self.vocab_size},"
            f" model_max_length={self.model_max_length}, padding_side='{self.padding_side}',"
            f" truncation_side='{self.truncation_side}', special_tokens={self.special_tokens_map},"
            f" added_tokens_decoder={{{chr(10) + added if added else ''}}})"
        )


def _chat_template(template: Any) -> str | dict[str, str] | None:
    """A template, or templates by name; tokenizer_config.json keeps the latter as a list."""
    if isinstance(template, (list, tuple)) and all(isinstance(entry, dict) for entry in template):
        template = {entry.get("name"): entry.get("template") for entry in template}
    if template is None or isinstance(template, str):
        return template
    if isinstance(template, dict) and all(isinstance(text, str) for item in template.items() for text in item):
        return template
    raise TokenizerError("chat_template is neither a template nor templates by name: fix tokenizer_config.json.")


def _from_vocab(kwargs: dict[str, Any]) -> Tokenizer:
    """A bare model around a vocabulary given by itself."""
    vocab, merges = kwargs.get("vocab"), kwargs.get("merges")
    if isinstance(vocab, list) and merges is None:
        with backend_errors("The vocabulary"):
            return Tokenizer(models.Unigram(vocab, unk_id=kwargs.get("unk_id", 0)))
    if vocab is None:
        raise TokenizerError(
            "There is nothing to make a tokenizer of: pass tokenizer_file= (a tokenizer.json), tokenizer_object= or "
            "vocab=, or use from_pretrained of the class of its family."
        )
    table = vocab if isinstance(vocab, dict) else {token: index for index, (token, _) in enumerate(vocab)}
    with backend_errors("The vocabulary"):
        return Tokenizer(models.BPE(vocab=table, merges=merges or [], fuse_unk=True))
