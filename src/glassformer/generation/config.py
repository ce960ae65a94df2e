"""GenerationConfig: every setting of generation that the peer knows, in its file format and with its defaults.

A setting is None until somebody sets it. `generate` fills what is still None from the model's own GenerationConfig and
then from `DEFAULTS`, so that a value can be told from a default at every stage.
"""

from __future__ import annotations

import copy
import json
import operator
import os
import warnings
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from glassformer.checkpoints.hub import Repository, read_json
from glassformer.errors import GenerationError

GENERATION_CONFIG_NAME = "generation_config.json"
FORMAT_VERSION = "5.23.0"  # the version of the peer whose file format is written

_KINDS: dict[str, str] = {
    "a whole number": "max_length max_new_tokens min_length min_new_tokens num_beams num_beam_groups top_k "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences pad_token_id bos_token_id "
    "forced_bos_token_id num_assistant_tokens prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit "
    "assistant_lookbehind target_lookbehind max_cache_len prefill_chunk_size",
    "a number": "max_time temperature top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty "
    "encoder_repetition_penalty length_penalty guidance_scale diversity_penalty penalty_alpha "
    "assistant_confidence_threshold assistant_ensemble_weight",
    "a token id or a list of them": "eos_token_id forced_eos_token_id decoder_start_token_id",
    "a list of token ids": "suppress_tokens begin_suppress_tokens",
    "a string": "cache_implementation num_assistant_tokens_schedule speculation_type",
    "a string or a list of them": "stop_strings",
    "anything": "early_stopping do_sample use_mtp use_cache cache_config bad_words_ids renormalize_logits "
    "remove_invalid_values exponential_decay_length_penalty sequence_bias token_healing watermarking_config "
    "output_attentions output_hidden_states output_scores output_logits return_dict_in_generate is_assistant "
    "compile_config disable_compile continuous_batching_config low_memory dola_layers constraints force_words_ids",
}
SETTINGS: dict[str, str] = {name: kind for kind, names in _KINDS.items() for name in names.split()}

DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "use_cache": True,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "remove_invalid_values": False,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}

# Settings that act only where tokens are drawn, or only on beams, with the value at which they do nothing.
_SAMPLING_ONLY = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
_BEAMS_ONLY = {"early_stopping": False, "length_penalty": 1.0}

_CACHES = (
    *("static", "offloaded_static", "dynamic", "offloaded", "quantized", "paged"),
    *("sliding_window", "hybrid", "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked"),
)
_ARGUMENTS_OF_GENERATE = (
    *("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus", "assistant_model"),
    *("streamer", "negative_prompt_ids", "negative_prompt_attention_mask"),
)
_NOT_WRITTEN = ("_original_object_hash", "_commit_hash")
_METADATA = ("_from_model_config", "transformers_version", *_NOT_WRITTEN)


class GenerationMode(str, Enum):
    """The strategies, by the peer's names."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    DOLA_GENERATION = "dola_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    CONSTRAINED_BEAM_SEARCH = "constrained_beam_search"
    GROUP_BEAM_SEARCH = "group_beam_search"


class GenerationConfig:
    """The settings of `generate`, read from and written to generation_config.json.

    Args:
        **kwargs: any setting by the peer's name; lengths are in tokens, `max_time` in seconds. What no one knows is
            kept and saved again.

    Raises:
        GenerationError: a value is of the wrong type or out of range, or two contradict each other.

    Example:
        >>> GenerationConfig(max_new_tokens=20, do_sample=True, top_p=0.9).to_diff_dict()
        {'max_new_tokens': 20, 'top_p': 0.9, 'do_sample': True, 'transformers_version': '5.23.0'}
    """

    extra_output_flags: ClassVar[tuple[str, ...]] = (
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    )

    def __init__(self, **kwargs: Any) -> None:
        self._fill(kwargs)
        self.validate(user_set_attributes=set(kwargs))

    if TYPE_CHECKING:  # every setting is an attribute

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def _fill(self, values: Mapping[str, Any]) -> None:
        for name in SETTINGS:
            setattr(self, name, values.get(name))
        self._from_model_config = values.get("_from_model_config")
        self.transformers_version = values.get("transformers_version")
        if self._from_model_config:  # the other keys of a model's config.json are no settings
            if values.get("force_bos_token_to_be_generated"):
                self.forced_bos_token_id = self.bos_token_id
            return
        for name, value in values.items():
            if name not in self.__dict__ and name not in _METADATA:
                self._add(name, value)

    def _add(self, name: str, value: Any) -> None:
        """Keep a setting that this library does not know, as the peer does."""
        if name in _ARGUMENTS_OF_GENERATE:
            raise GenerationError(f"{name} is no setting of GenerationConfig: pass it to generate() itself.")
        if hasattr(type(self), name) or name.startswith("__"):
            raise GenerationError(f"{name!r} is a name of GenerationConfig itself and cannot be a setting: remove it.")
        setattr(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self._comparable() == other._comparable()

    def __hash__(self) -> int:
        return hash(self.to_json_string(ignore_metadata=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string(ignore_metadata=True)}"

    def _comparable(self) -> str:
        return self.to_json_string(use_diff=False, ignore_metadata=True)

    # What the settings ask for

    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        """The strategy that these settings ask for, given the draft model of the call, if any."""
        if self.constraints is not None or self.force_words_ids is not None:
            return GenerationMode.CONSTRAINED_BEAM_SEARCH
        if (self.num_beams or 1) > 1:
            if (self.num_beam_groups or 1) > 1:
                return GenerationMode.GROUP_BEAM_SEARCH
            return GenerationMode.BEAM_SAMPLE if self.do_sample else GenerationMode.BEAM_SEARCH
        if not self.do_sample and (self.penalty_alpha or 0) > 0 and (self.top_k or 0) > 1:
            return GenerationMode.CONTRASTIVE_SEARCH
        if self.dola_layers is not None:
            return GenerationMode.DOLA_GENERATION
        drafts = (assistant_model, self.prompt_lookup_num_tokens, self.assistant_early_exit)
        if self.use_mtp or any(draft is not None for draft in drafts):
            return GenerationMode.ASSISTED_GENERATION
        return GenerationMode.SAMPLE if self.do_sample else GenerationMode.GREEDY_SEARCH

    # Checking

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Check the settings against each other.

        Args:
            strict: Raise for settings that would have no effect, instead of a warning.
            user_set_attributes: Warn about these only; None is all. Settings that came with a model, such as a
                temperature beside greedy decoding, are no news to who calls it.

        Raises:
            GenerationError: a value is of the wrong type or out of range, or two contradict each other.
        """
        self._check_types()
        self._check_contradictions()
        idle = {
            name: sentence
            for name, sentence in self._idle()
            if strict or user_set_attributes is None or name in user_set_attributes
        }
        if idle and strict:
            raise GenerationError("The generation settings contradict each other: " + " ".join(idle.values()))
        if idle:
            warnings.warn(" ".join(idle.values()), UserWarning, stacklevel=3)

    def _check_types(self) -> None:
        for name, kind in SETTINGS.items():
            value = self.__dict__.get(name)
            if value is not None and not _is(kind, value):
                raise GenerationError(f"{name} is {value!r}, a {type(value).__name__}: it must be {kind}.")

    def _check_contradictions(self) -> None:
        if not any(self.early_stopping is value for value in (None, True, False)) and self.early_stopping != "never":
            raise GenerationError(f"early_stopping is {self.early_stopping!r}: give True, False or 'never'.")
        if self.max_new_tokens is not None and self.max_new_tokens <= 0:
            raise GenerationError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1.")
        weight = self.assistant_ensemble_weight
        if weight is not None and not 0 < weight < 1:
            raise GenerationError(f"assistant_ensemble_weight is {weight}: it must lie between 0 and 1, or be None.")
        if self.cache_implementation is not None and self.cache_implementation not in _CACHES:
            raise GenerationError(
                f"cache_implementation is {self.cache_implementation!r}: choose one of {', '.join(_CACHES)}."
            )
        if (count := self.num_return_sequences or 1) > 1:
            beams = self.num_beams or 1
            if beams == 1 and not self.do_sample:
                raise GenerationError(
                    f"num_return_sequences is {count}, but greedy decoding finds one sequence only: "
                    "set do_sample=True or num_beams."
                )
            if 1 < beams < count:
                raise GenerationError(
                    f"num_return_sequences is {count}, more than the {beams} beams: set num_beams={count} or more."
                )
        suppressed = set(self.suppress_tokens or ())
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = set(token_list(getattr(self, name)))
            if forced and forced <= suppressed:
                raise GenerationError(
                    f"{name} forces {sorted(forced)}, which suppress_tokens forbids: remove it from one of them."
                )

    def _idle(self) -> Iterable[tuple[str, str]]:
        """Settings without effect beside the others, each with a sentence that says why."""
        if self.pad_token_id is not None and self.pad_token_id < 0:
            yield "pad_token_id", f"pad_token_id is {self.pad_token_id}, which is no token: set one of the vocabulary."
        if self.max_cache_len is not None and "static" not in str(self.cache_implementation):
            yield "max_cache_len", "max_cache_len acts on caches of fixed size only: set cache_implementation='static'."
        if not self.do_sample:
            for name, neutral in _SAMPLING_ONLY.items():
                used = name == "top_k" and (self.penalty_alpha or 0) > 0  # by contrastive search
                if (value := getattr(self, name)) is not None and value != neutral and not used:
                    yield name, f"{name}={value} has no effect without sampling: set do_sample=True or leave it out."
        if (self.num_beams or 1) == 1:
            for name, neutral in _BEAMS_ONLY.items():
                if (value := getattr(self, name)) is not None and value != neutral:
                    yield name, f"{name}={value} has no effect without beams: set num_beams or leave it out."
        if self.use_cache is False:
            for name in ("cache_implementation", "cache_config"):
                if getattr(self, name) is not None:
                    yield name, f"{name} has no effect with use_cache=False: leave out one of them."
        if not self.return_dict_in_generate:
            for name in self.extra_output_flags:
                if getattr(self, name):
                    yield name, f"{name} has no effect on bare token ids: set return_dict_in_generate=True."

    # Changing, reading and writing

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Set what `kwargs` name, and return those that are no setting here.

        Args:
            defaults_only: Set only what is None so far.
            allow_custom_entries: Also take names that are not known.
            **kwargs: settings by name.

        Raises:
            GenerationError: as in `validate`, for the settings as they then are.
        """
        unused, taken = {}, set()
        for name, value in kwargs.items():
            if name in self.__dict__:
                if not defaults_only or getattr(self, name) is None:
                    setattr(self, name, value)
                    taken.add(name)
                    continue
            elif allow_custom_entries and name not in _METADATA:
                self._add(name, value)
                taken.add(name)
                continue
            unused[name] = value
        self.validate(user_set_attributes=set() if defaults_only else taken)
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Every setting with its value, as plain Python values."""
        values = copy.deepcopy({name: value for name, value in self.__dict__.items() if name not in _NOT_WRITTEN})
        values["transformers_version"] = FORMAT_VERSION
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """The settings that are set, as they are saved."""
        always = ("transformers_version",)
        known = {*SETTINGS, "_from_model_config"}
        values = self.to_dict()
        return {name: v for name, v in values.items() if name in always or name not in known or v is not None}

    def to_json_string(
        self, use_diff: bool = True, ignore_metadata: bool = False, keys_to_pop: Iterable[str] | None = None
    ) -> str:
        """The text of generation_config.json; `use_diff=False` writes the settings that are None, too."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        left_out = {*(keys_to_pop or ()), *(_METADATA if ignore_metadata else ())}
        values = {name: _plain(value) for name, value in values.items() if name not in left_out}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_json_file(
        self, json_file_path: str | os.PathLike[str], use_diff: bool = True, keys_to_pop: Iterable[str] | None = None
    ) -> None:
        """Write the text of generation_config.json to a file."""
        with open(json_file_path, "w", encoding="utf-8") as file:
            file.write(self.to_json_string(use_diff=use_diff, keys_to_pop=keys_to_pop))

    def to_saved_text(self) -> str:
        """The text that `save_pretrained` writes.

        Raises:
            GenerationError: a setting was changed since it was read, and one has no effect beside the others.
        """
        self.validate(strict=self.__dict__.get("_original_object_hash") != hash(self), user_set_attributes=set())
        return self.to_json_string(keys_to_pop=("compile_config",))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], config_file_name: str | None = None, push_to_hub: bool = False
    ) -> None:
        """Write generation_config.json into a folder, made if needed.

        Raises:
            GenerationError: as in `to_saved_text`; or `push_to_hub` is asked for.
        """
        from glassformer.checkpoints.save import write_files

        if push_to_hub:
            raise GenerationError("push_to_hub is not done here: save, then call huggingface_hub.upload_folder.")
        write_files(save_directory, {config_file_name or GENERATION_CONFIG_NAME: self.to_saved_text()})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read generation_config.json of a folder, a bundled model or a hub repository.

        Args:
            pretrained_model_name: the folder or name.
            config_file_name: another name of the file.
            **kwargs: where to look (`revision, token, cache_dir, local_files_only, subfolder, force_download`), and
                settings over those of the file. `return_unused_kwargs=True` also returns the keywords that none took.

        Raises:
            MissingFileError: there is no such file, or it cannot be reached.
            BrokenFileError: it is not a JSON object.
            GenerationError: its settings are wrong.

        Example:
            >>> GenerationConfig.from_pretrained("folder", do_sample=True).do_sample
            True
        """
        repository = Repository.take(pretrained_model_name, kwargs)
        path = repository.require(config_file_name or GENERATION_CONFIG_NAME, "the generation settings")
        return cls._from_file(path, kwargs)

    @classmethod
    def _from_file(cls, path: os.PathLike[str], kwargs: dict[str, Any]) -> Any:
        values = read_json(path)
        try:
            if kwargs.pop("_from_model_config", False):
                return cls.from_model_config(values)
            config, unused = cls.from_dict(values, **{**kwargs, "return_unused_kwargs": True})
        except GenerationError as error:
            raise GenerationError(f"In {path}: {error}") from error
        config._original_object_hash = hash(config)
        return (config, unused) if kwargs.get("return_unused_kwargs") else config

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Build from the keys of a generation_config.json, with `kwargs` over them.

        With `return_unused_kwargs=True` the result is the config and the keywords that no setting took.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        for internal in ("_from_auto", "_from_pipeline"):
            kwargs.pop(internal, None)
        config = cls.__new__(cls)
        config._fill({**config_dict, **kwargs})
        unused = config.update(**kwargs)
        return (config, unused) if return_unused else config

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """The generation settings inside a model's configuration, as older checkpoints have them.

        Args:
            model_config: a `Config`, or the keys of a config.json.
        """
        keys = model_config if isinstance(model_config, Mapping) else model_config.to_dict()
        config: GenerationConfig = cls.from_dict(
            {name: value for name, value in keys.items() if value is not None}, _from_model_config=True
        )
        inner = next((keys[name] for name in ("decoder", "generator", "text_config") if keys.get(name)), keys)
        for name in SETTINGS:
            if getattr(config, name) is None and isinstance(inner, Mapping):
                setattr(config, name, inner.get(name))
        if any(getattr(config, flag) for flag in cls.extra_output_flags):
            config.return_dict_in_generate = True
        config._original_object_hash = hash(config)
        return config


def load_generation_config(repo: Repository, config: Any) -> GenerationConfig:
    """The generation settings of a checkpoint: generation_config.json, or what its config.json says of generation.

    Args:
        repo: The checkpoint.
        config: The model's configuration, for a checkpoint whose config.json is not at hand.

    Raises:
        BrokenFileError: the file is not a JSON object.
        GenerationError: its settings are wrong.
    """
    if (path := repo.find(GENERATION_CONFIG_NAME)) is not None:
        return GenerationConfig._from_file(path, {})  # type: ignore[no-any-return]
    if (path := repo.find("config.json")) is not None:
        return GenerationConfig._from_file(path, {"_from_model_config": True})  # type: ignore[no-any-return]
    return GenerationConfig.from_model_config(config)


def token_list(tokens: Any) -> list[int]:
    """Token ids given as nothing, one id, a list or a tensor, as a list."""
    if tokens is None:
        return []
    tokens = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    return [int(token) for token in tokens] if isinstance(tokens, Iterable) else [int(tokens)]


def _is(kind: str, value: Any) -> bool:
    if kind == "a whole number":
        return _is_whole(value)
    if kind == "a number":
        return hasattr(value, "__float__") and not isinstance(value, bool)
    if kind == "a token id or a list of them":
        return _is_whole(value) or _is_list(value, _is_whole) or hasattr(value, "tolist")
    if kind == "a list of token ids":
        return _is_list(value, _is_whole) or hasattr(value, "tolist")
    if kind == "a string":
        return isinstance(value, str)
    if kind == "a string or a list of them":
        return isinstance(value, str) or _is_list(value, lambda item: isinstance(item, str))
    return True


def _is_whole(value: Any) -> bool:
    try:
        return operator.index(value) is not None and not isinstance(value, bool)
    except TypeError:
        return False


def _is_list(value: Any, of: Any) -> bool:
    return isinstance(value, (list, tuple, set)) and all(of(item) for item in value)


def _plain(value: Any) -> Any:
    """A setting as JSON can hold it: keys as strings, tensors as lists, objects through their `to_dict`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return value.tolist() if hasattr(value, "tolist") else value
