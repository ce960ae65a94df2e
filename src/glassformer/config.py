"""Config: what config.json says, kept word for word, with the peer's attributes, defaults and file format.

A family page gives the keys that its configuration class knows with their defaults. Keys that nobody knows are kept and
saved again. `Reader` notes which keys a model was built from, so that a key which would have changed the numbers, but
was never read, becomes an error instead of a silent difference.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .checkpoints.hub import Repository, read_json
from .errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG_NAME = "config.json"

# Keys of every configuration, with the peer's defaults; they are written only where they differ from these.
COMMON: dict[str, Any] = {
    "architectures": None,
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "dtype": None,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "problem_type": None,
}

# Known keys that never change what `forward` computes from given weights: ids that tokenizers and generation use, how
# fresh weights are drawn, what is returned, and chunking, which only trades speed for memory.
NEUTRAL = {
    *COMMON,
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_eos_token_id",
    "use_cache",
    "initializer_range",
    "initializer_factor",
    "init_std",
}


class Config:
    """The configuration of a model: attributes by the peer's names, over the keys of config.json.

    Made families subclass it (`BertConfig`, `LlamaConfig`, ...) and give `model_type`, `defaults`, `aliases` (other
    names for the same key) and `complete`, which fills in keys that follow from others.

    Args:
        **keys: any key of config.json; unknown ones are kept. `num_labels=n` names n labels `LABEL_0` and so on.

    Raises:
        ConfigError: if a value contradicts another or has the wrong type.

    Example:
        >>> config = LlamaConfig(hidden_size=64, num_attention_heads=4)
        >>> config.head_dim
        16
    """

    model_type: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    complete: ClassVar[Callable[[dict[str, Any]], None] | None] = None

    id2label: dict[int, str]
    label2id: dict[str, int]

    def __init__(self, **keys: Any) -> None:
        keys = {self.aliases.get(key, key): value for key, value in keys.items()}
        keys.pop("model_type", None)
        name = str(keys.pop("name_or_path", keys.pop("_name_or_path", "")))
        if (older := keys.pop("torch_dtype", None)) is not None and keys.get("dtype") is None:
            keys["dtype"] = older
        labels = keys.pop("num_labels", None)
        if keys.get("id2label") is not None:
            labels = None  # names say how many there are
        for key, default in {**COMMON, **self.defaults}.items():
            keys.setdefault(key, copy.deepcopy(default))
        if (complete := type(self).complete) is not None:
            complete(keys)
        self._check_types(keys)
        keys["id2label"] = {int(index): label for index, label in (keys["id2label"] or COMMON["id2label"]).items()}
        for key, value in keys.items():
            setattr(self, key, value)
        if labels is not None:
            self.num_labels = labels
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ConfigError(
                "problem_type='single_label_classification' needs at least two labels, but num_labels is 1; "
                "give num_labels=2, or problem_type='regression' for one number."
            )
        self.name_or_path = name

    def _check_types(self, keys: Mapping[str, Any]) -> None:
        for key, default in self.defaults.items():
            value, kind = keys[key], type(default)
            if value is None or default is None or isinstance(value, (list, dict)):
                continue
            allowed = (int, float) if kind in (int, float) else (kind,)
            if kind in (int, float, str) and not isinstance(value, allowed):
                needed = "a number" if kind in (int, float) else f"a {kind.__name__}"
                raise ConfigError(
                    f"{type(self).__name__} key {key!r} is {value!r}, a {type(value).__name__}, where {needed} is "
                    "needed; correct config.json."
                )

    def __setattr__(self, key: str, value: Any) -> None:
        key = self.aliases.get(key, key)
        if key == "num_labels":
            if value != self.num_labels:
                self.id2label = {index: f"LABEL_{index}" for index in range(value)}
                self.label2id = {label: index for index, label in self.id2label.items()}
            return
        if key in ("dtype", "torch_dtype"):
            key, value = "dtype", _dtype(value)
        object.__setattr__(self, key, value)

    def __getattr__(self, key: str) -> Any:
        if key == "num_labels":
            return len(self.id2label)
        key = {"torch_dtype": "dtype", "rope_scaling": "rope_parameters", **self.aliases}.get(key, key)
        if key in self.__dict__:
            return self.__dict__[key]
        raise AttributeError(f"{type(self).__name__} has no key {key!r}.")

    def __contains__(self, key: str) -> bool:
        return key in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def update(self, keys: Mapping[str, Any]) -> None:
        """Set several keys at once."""
        for key, value in keys.items():
            setattr(self, key, value)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Config:
        """This configuration: the families here have one text model each (the peer's name for it)."""
        return self

    # Reading and writing

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read config.json of a folder, a bundled model or a hub repository.

        Args:
            pretrained_model_name_or_path: the folder or name, or the path of a config file itself.
            **kwargs: where to look (`revision, token, cache_dir, local_files_only, subfolder, force_download`), and
                keys to set over those of the file. `return_unused_kwargs=True` also returns what no key took.

        Raises:
            MissingFileError: if there is no config.json or it cannot be reached.
            BrokenFileError: if it is not a JSON object.
            ConfigError: if it is of another family than this class.

        Example:
            >>> BertConfig.from_pretrained("glassformer/tiny-bert").hidden_size
        """
        source = Repository.take(pretrained_model_name_or_path, kwargs)
        keys = read_config(pretrained_model_name_or_path if os.path.isfile(source.name) else source)
        found = keys.get("model_type", cls.model_type)
        if cls.model_type and found != cls.model_type:
            raise ConfigError(
                f"{pretrained_model_name_or_path} holds a {found!r} configuration, not {cls.model_type!r}; "
                "use AutoConfig.from_pretrained, which picks the class."
            )
        return cls.from_dict(keys, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build from the keys of a config.json, with `kwargs` over them; returns (config, unused) if asked."""
        first: dict[str, Any] = {
            k: kwargs.pop(k) for k in ("num_labels", "output_attentions", "name_or_path") if k in kwargs
        }
        for key in ("dtype", "torch_dtype"):
            if kwargs.get(key) not in (None, "auto"):
                first["dtype"] = kwargs[key]
        if "num_labels" in first and len(config_dict.get("id2label") or {}) != first["num_labels"]:
            config_dict = {k: v for k, v in config_dict.items() if k not in ("id2label", "label2id")}
        keys = {**config_dict, **first}
        config = cls(**keys)
        unused = {key: kwargs.pop(key) for key in list(kwargs) if not hasattr(config, key)}
        if kwargs:
            config = cls(**{**keys, **kwargs})  # built anew, for keys that follow from those given
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Build from a config file."""
        return cls(**read_json(Path(json_file)))

    def to_dict(self) -> dict[str, Any]:
        """All keys with their values, as plain Python values."""
        keys = copy.deepcopy(self.__dict__)
        keys["_name_or_path"] = keys.pop("name_or_path", "")
        keys["model_type"] = self.model_type
        if keys.get("dtype") is not None:
            keys["dtype"] = str(keys["dtype"]).removeprefix("torch.")
        return keys

    def to_diff_dict(self) -> dict[str, Any]:
        """The keys as they are saved: the family's own and unknown ones always, the common ones where they differ."""
        keys = self.to_dict()
        del keys["_name_or_path"]
        keys.pop("transformers_weights", None)  # where the weights were, not where a save puts them
        return {
            key: value
            for key, value in keys.items()
            if key not in COMMON or value != COMMON[key] or value != self.defaults.get(key, value)
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of config.json."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the text of config.json to a file."""
        Path(json_file_path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write config.json into a folder, made if needed."""
        from .checkpoints.save import write_files

        write_files(save_directory, {CONFIG_NAME: self.to_json_string()})


def read_config(where: str | os.PathLike[str] | Repository) -> dict[str, Any]:
    """The keys of the config.json of a repository, or of a config file itself; `name_or_path` says which."""
    if isinstance(where, Repository):
        path, name = where.require(CONFIG_NAME, "the configuration of a model"), where.name
    else:
        path, name = Path(where), where
        if not path.is_file():
            return read_config(Repository(where))
    return {**read_json(path), "name_or_path": str(name)}


def _dtype(value: Any) -> Any:
    if not isinstance(value, str) or value == "auto":
        return value
    import torch

    dtype = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype {value!r} is no torch dtype; give 'float32', 'bfloat16' or 'float16'.")
    return dtype


class Reader:
    """A view of a Config that remembers which keys were read through it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._read: set[str] = set()

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)  # copy and pickle ask before anything is set
        self._read.add(self._config.aliases.get(key, key))
        return getattr(self._config, key)

    def refuse_unread(self, no_effect: Iterable[str] = ()) -> None:
        """Raise where a known key that nobody read is away from its default, so that no number differs in silence.

        Args:
            no_effect: keys that change nothing in the peer either.

        Raises:
            ConfigError: naming the first such key and its value.
        """
        config, harmless = self._config, {*NEUTRAL, *no_effect, *self._read}
        for key, default in config.defaults.items():
            value = getattr(config, key)
            if key not in harmless and value != default:
                raise ConfigError(
                    f"{type(config).__name__} has {key}={value!r}, which this model does not compute "
                    f"(only the default, {default!r}, is supported); set it to the default if it should be ignored."
                )
