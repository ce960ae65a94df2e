"""The settings of the two kinds of watermark, for `generate(watermarking_config=...)`."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any, TypeVar

from glassformer.errors import GenerationError

if TYPE_CHECKING:
    from glassformer.generation.synthid import SynthIDTextWatermarkLogitsProcessor
    from glassformer.generation.watermark import WatermarkLogitsProcessor

Config = TypeVar("Config", bound="BaseWatermarkingConfig")

_SCHEMES = ("lefthash", "selfhash")
_LARGEST_TABLE = 2**24
_TOO_LARGE = 2**63


class BaseWatermarkingConfig:
    """What the settings of all watermarks can do: they are attributes, a dict, and JSON."""

    @classmethod
    def from_dict(cls: type[Config], config_dict: dict[str, Any], **kwargs: Any) -> Config:
        """Build from settings by name, with `kwargs` over them.

        Raises:
            GenerationError: a name is not known, or one is missing.
        """
        try:
            return cls(**{**config_dict, **kwargs})
        except TypeError as error:
            raise GenerationError(f"watermarking_config has a key too many or too few: {error}.") from error

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return copy.deepcopy(self.__dict__)

    def to_json_string(self) -> str:
        """The settings as JSON."""
        return json.dumps(self.__dict__, indent=2) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings to a file, as JSON."""
        with open(json_file_path, "w", encoding="utf-8") as file:
            file.write(json.dumps(self.__dict__, indent=2, sort_keys=True) + "\n")

    def update(self, **kwargs: Any) -> None:
        """Change settings by name.

        Raises:
            GenerationError: a name is not known.
        """
        self.__dict__.update(self.from_dict({**self.__dict__, **kwargs}).__dict__)

    def __iter__(self) -> Any:
        return iter(self.to_dict().items())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def validate(self) -> None:
        """Check the settings.

        Raises:
            GenerationError: one has no sense.
        """
        raise TypeError(f"{type(self).__name__} has no validate: give it one that raises what is wrong.")

    def construct_processor(self, vocab_size: int, device: Any) -> Any:
        """The processor that writes the watermark, for a vocabulary."""
        raise TypeError(f"{type(self).__name__} has no construct_processor: give it one that returns a processor.")

    def _check_whole(self, *names: str) -> None:
        for name in names:
            if not isinstance(value := getattr(self, name), int) or isinstance(value, bool):
                raise GenerationError(f"{name} of watermarking_config is {value!r}: it must be a whole number.")
            if abs(value) >= _TOO_LARGE:
                raise GenerationError(f"{name} of watermarking_config is {value}: it must fit into 64 bits.")


class WatermarkingConfig(BaseWatermarkingConfig):
    """The settings of a watermark of tokens that are made likelier.

    Args:
        greenlist_ratio: the share of the vocabulary that is made likelier.
        bias: what is added to its scores.
        hashing_key: the secret.
        seeding_scheme: "lefthash" lets the last token decide, "selfhash" also the one to come.
        context_width: how many tokens before decide with "selfhash"; and how many a text must have.

    Example:
        >>> model.generate(**inputs, watermarking_config=WatermarkingConfig(bias=2.5))
    """

    def __init__(
        self,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        self.greenlist_ratio = greenlist_ratio
        self.bias = bias
        self.hashing_key = hashing_key
        self.seeding_scheme = seeding_scheme
        self.context_width = context_width

    def validate(self) -> None:
        """Check the settings.

        Raises:
            GenerationError: one has no sense.
        """
        self._check_whole("hashing_key", "context_width")
        for name in ("greenlist_ratio", "bias"):
            if not isinstance(value := getattr(self, name), (int, float)):
                raise GenerationError(f"{name} of watermarking_config is {value!r}: it must be a number.")
        if self.seeding_scheme not in _SCHEMES:
            raise GenerationError(f"seeding_scheme is {self.seeding_scheme!r}: choose one of {', '.join(_SCHEMES)}.")
        if not 0.0 < self.greenlist_ratio < 1.0:
            raise GenerationError(f"greenlist_ratio is {self.greenlist_ratio}: it must lie between 0 and 1.")
        if self.context_width < 1:
            raise GenerationError(f"context_width is {self.context_width}: it must be at least 1.")

    def construct_processor(self, vocab_size: int, device: Any) -> WatermarkLogitsProcessor:
        """The processor that writes the watermark, for a vocabulary.

        Raises:
            GenerationError: a setting has no sense.
        """
        from glassformer.generation.watermark import WatermarkLogitsProcessor

        return WatermarkLogitsProcessor(vocab_size, device, **self.to_dict())


class SynthIDTextWatermarkingConfig(BaseWatermarkingConfig):
    """The settings of a SynthID watermark, which changes no probability on average.

    Args:
        ngram_len: how many tokens decide together, the one to come among them.
        keys: the secret, a whole number for each round of the tournament.
        context_history_size: how many places are remembered, in order to mark none twice.
        sampling_table_seed: of the table of coin tosses.
        sampling_table_size: of the table, at most 2 ** 24.
        skip_first_ngram_calls: whether the first `ngram_len - 1` tokens are left unmarked.
        debug_mode: makes all tokens equally likely beforehand, for tests.

    Example:
        >>> config = SynthIDTextWatermarkingConfig(ngram_len=5, keys=[654, 400, 836, 123])
        >>> model.generate(**inputs, watermarking_config=config, do_sample=True)
    """

    def __init__(
        self,
        ngram_len: int,
        keys: list[int],
        context_history_size: int = 1024,
        sampling_table_seed: int = 0,
        sampling_table_size: int = 2**16,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        self.ngram_len = ngram_len
        self.keys = keys
        self.sampling_table_size = sampling_table_size
        self.sampling_table_seed = sampling_table_seed
        self.context_history_size = context_history_size
        self.skip_first_ngram_calls = skip_first_ngram_calls
        self.debug_mode = debug_mode

    def validate(self) -> None:
        """Check the settings.

        Raises:
            GenerationError: one has no sense.
        """
        self._check_whole("ngram_len", "context_history_size", "sampling_table_seed", "sampling_table_size")
        if not isinstance(self.keys, (list, tuple)) or not self.keys:
            raise GenerationError(f"keys of watermarking_config is {self.keys!r}: give a list of whole numbers.")
        if not all(type(key) is int and abs(key) < _TOO_LARGE for key in self.keys):
            raise GenerationError("keys of watermarking_config must be whole numbers of 64 bits.")
        if self.ngram_len < 2:
            raise GenerationError(f"ngram_len is {self.ngram_len}: it must be at least 2.")
        if self.context_history_size < 1:
            raise GenerationError(f"context_history_size is {self.context_history_size}: it must be at least 1.")
        if not 1 <= self.sampling_table_size <= _LARGEST_TABLE:
            raise GenerationError(
                f"sampling_table_size is {self.sampling_table_size}: it must be from 1 to {_LARGEST_TABLE}."
            )

    def construct_processor(self, vocab_size: int, device: Any) -> SynthIDTextWatermarkLogitsProcessor:
        """The processor that writes the watermark; any vocabulary will do.

        Raises:
            GenerationError: a setting has no sense.
        """
        from glassformer.generation.synthid import SynthIDTextWatermarkLogitsProcessor

        return SynthIDTextWatermarkLogitsProcessor(**self.to_dict(), device=device)


def watermark_of(config: Any) -> BaseWatermarkingConfig:
    """A watermark's settings, given as such or by name, such as in generation_config.json.

    Raises:
        GenerationError: they are neither, or one is not known.
    """
    if isinstance(config, BaseWatermarkingConfig):
        return config
    keys = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(keys, dict):
        raise GenerationError(f"watermarking_config is a {type(config).__name__}: pass a WatermarkingConfig.")
    kind: type[BaseWatermarkingConfig] = WatermarkingConfig
    if "ngram_len" in keys:
        kind = SynthIDTextWatermarkingConfig
    return kind.from_dict(keys)
