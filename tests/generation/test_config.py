"""GenerationConfig against the peer's: the same keys, defaults, files and contradictions."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import GenerationConfig as Theirs

from glassformer.checkpoints.hub import Repository
from glassformer.errors import BrokenFileError, GenerationError, MissingFileError
from glassformer.generation.config import DEFAULTS, GenerationConfig, load_generation_config, token_list

from .tiny import FAMILIES, ours, peer

SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 30, "eos_token_id": [1, 2], "pad_token_id": 0},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "typical_p": 0.9, "top_h": 0.3},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2, "min_length": 56},
    {"bad_words_ids": [[1, 2]], "sequence_bias": [[[3], 1.0]], "exponential_decay_length_penalty": [3, 1.5]},
    {"suppress_tokens": [], "forced_bos_token_id": 0, "return_dict_in_generate": True, "output_scores": True},
    {"num_beam_groups": 2, "diversity_penalty": 1.0, "penalty_alpha": 0.3, "low_memory": True, "num_beams": 2},
    {"unknown": {"b": 1, "a": [1]}, "also_unknown": None, "use_cache": False},
    {"stop_strings": ["a", "\u00e9"], "cache_implementation": "static", "max_cache_len": 64},
]


def quiet(make: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args, **kwargs)


def test_keys_and_defaults() -> None:
    """The same settings, all None at first, and the same values where nobody sets them."""
    assert GenerationConfig().to_dict() == Theirs().to_dict()
    theirs = {name: value for name, value in Theirs._get_default_generation_params().items() if value is not None}
    assert theirs == DEFAULTS


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_files_both_ways(settings: dict[str, Any], tmp_path: Path) -> None:
    """The file is the peer's, byte for byte, and each reads what the other wrote."""
    own, other = quiet(GenerationConfig, **settings), quiet(Theirs, **settings)
    assert own.to_json_string() == other.to_json_string()
    assert own.to_json_string(use_diff=False) == other.to_json_string(use_diff=False)
    assert own.to_diff_dict() == other.to_diff_dict()
    (tmp_path / "generation_config.json").write_text(own.to_json_string(), encoding="utf-8")
    read = Theirs.from_pretrained(tmp_path)
    assert read.to_dict() == other.to_dict() | {"transformers_version": read.to_dict()["transformers_version"]}
    other.to_json_file(tmp_path / "generation_config.json")
    read = GenerationConfig.from_pretrained(tmp_path)
    assert read == own
    read.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "generation_config.json").read_bytes() == (
        tmp_path / "generation_config.json"
    ).read_bytes()


MODEL_CONFIGS: list[dict[str, Any]] = [
    {"model_type": "x", "eos_token_id": 3, "vocab_size": 9, "max_length": 30, "num_beams": 4, "early_stopping": True},
    {"model_type": "x", "bos_token_id": 5, "force_bos_token_to_be_generated": True, "pad_token_id": None},
    {"model_type": "x", "output_attentions": True, "decoder": {"eos_token_id": 7, "bos_token_id": 8, "hidden_size": 2}},
    {"model_type": "x", "text_config": {"eos_token_id": [7, 9]}, "eos_token_id": 4, "_from_model_config": True},
]


@pytest.mark.parametrize("keys", MODEL_CONFIGS, ids=range(len(MODEL_CONFIGS)))
def test_from_a_models_config(keys: dict[str, Any]) -> None:
    """Settings in an older config.json are found, in its decoder's part too, and nothing else is taken."""
    own, other = GenerationConfig.from_model_config(dict(keys)), Theirs.from_model_config(dict(keys))
    assert own.to_dict() == other.to_dict()


@pytest.mark.parametrize("name", FAMILIES)
def test_models_have_the_peers_settings(name: str, tmp_path: Path) -> None:
    """A model of either library has the same settings: fresh, loaded with the file, and loaded without it."""
    config = getattr(transformers, FAMILIES[name][0])(**FAMILIES[name][1])
    assert GenerationConfig.from_model_config(config).to_dict() == peer(name).generation_config.to_dict()
    assert ours(name).generation_config.to_dict() == peer(name).generation_config.to_dict()
    peer(name).save_pretrained(tmp_path)
    for _ in range(2):
        own = load_generation_config(Repository(tmp_path), ours(name).config)
        other = getattr(transformers, name).from_pretrained(tmp_path).generation_config
        assert own.to_dict() == other.to_dict()
        (tmp_path / "generation_config.json").unlink(missing_ok=True)


def test_settings_without_any_file(tmp_path: Path) -> None:
    """Where there is no file at all, the model's configuration is asked."""
    config = ours("GPT2LMHeadModel").config
    assert load_generation_config(Repository(tmp_path), config).eos_token_id == config.eos_token_id
    with pytest.raises(MissingFileError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


BROKEN = {
    "not JSON": '{"max_length": ',
    "not an object": "[1, 2]",
    "not text": "\udcff",
    "length of letters": '{"max_length": "long"}',
    "yes for a number": '{"top_k": true}',
    "list for a number": '{"temperature": [1]}',
    "word for an id": '{"eos_token_id": "end"}',
    "list of words for ids": '{"eos_token_id": ["end"]}',
    "number for strings": '{"stop_strings": 3}',
    "name of a method": '{"validate": 3}',
    "name of Python's": '{"__class__": 3}',
    "argument of generate": '{"assistant_model": 3}',
    "unknown cache": '{"cache_implementation": "elastic"}',
    "negative length": '{"max_new_tokens": -4}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_broken_files(text: str, tmp_path: Path) -> None:
    """A broken or hostile file is one clear error that names the file."""
    path = tmp_path / "generation_config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises((BrokenFileError, GenerationError), match=r"generation_config\.json"):
        load_generation_config(Repository(tmp_path), None)


CONTRADICTIONS: list[dict[str, Any]] = [
    {"num_return_sequences": 2},
    {"num_beams": 2, "num_return_sequences": 3},
    {"early_stopping": "sometimes"},
    {"max_new_tokens": 0},
    {"assistant_ensemble_weight": 1.0},
    {"cache_implementation": "elastic"},
    {"suppress_tokens": [1, 2], "forced_eos_token_id": [2, 1]},
    {"suppress_tokens": [1, 2], "forced_bos_token_id": 1},
    {"logits_processor": []},
]


@pytest.mark.parametrize("settings", CONTRADICTIONS, ids=map(str, CONTRADICTIONS))
def test_contradictions(settings: dict[str, Any]) -> None:
    """What the peer refuses is refused, when made and when updated."""
    for make in (Theirs, GenerationConfig):
        with pytest.raises(ValueError, match=next(iter(settings))):
            make(**settings)
    if "logits_processor" not in settings:
        with pytest.raises(GenerationError):
            GenerationConfig().update(**settings)


def test_settings_without_effect() -> None:
    """They warn who sets them, stop a changed config from being saved, and are quiet where a checkpoint has them."""
    for settings in ({"temperature": 0.5}, {"length_penalty": 2.0}, {"output_scores": True}, {"pad_token_id": -1}):
        name = next(iter(settings))
        with pytest.warns(UserWarning, match=name):
            config = GenerationConfig(**settings)
        with pytest.raises(GenerationError, match=name):
            config.to_saved_text()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            GenerationConfig.from_dict(settings)
            GenerationConfig().update(**settings, defaults_only=True)


def test_save_refuses_only_what_was_changed(tmp_path: Path) -> None:
    """A published config with an idle setting can be saved back; once changed, it must be right."""
    text = json.dumps({"temperature": 0.5, "transformers_version": "4.30.0"})
    (tmp_path / "generation_config.json").write_text(text)
    config = GenerationConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["temperature"] == 0.5
    config.top_k = 5
    with pytest.raises(GenerationError, match="top_k"):
        config.save_pretrained(tmp_path)
    with pytest.raises(GenerationError, match="push_to_hub"):
        GenerationConfig().save_pretrained(tmp_path, push_to_hub=True)


def test_update() -> None:
    """`update` sets what is known, returns the rest, and with defaults_only leaves what was set."""
    for make in (GenerationConfig, Theirs):
        config = make(max_new_tokens=3)
        assert config.update(max_new_tokens=4, colour=1) == {"colour": 1}
        assert config.max_new_tokens == 4
        config.update(max_new_tokens=5, min_length=2, colour=1, defaults_only=True, allow_custom_entries=True)
        assert (config.max_new_tokens, config.min_length, config.colour) == (4, 2, 1)
        assert config.update(colour=2) == {}
        assert config.colour == 2
    assert GenerationConfig().update(validate=3) == {"validate": 3}


def test_keywords_over_a_file(tmp_path: Path) -> None:
    """Keywords go over the file, and are told apart from those that are no settings, as in the peer."""
    (tmp_path / "odd.json").write_text('{"top_k": 3, "do_sample": true}')
    for make in (GenerationConfig, Theirs):
        config, unused = make.from_pretrained(
            tmp_path, "odd.json", top_k=9, foo=1, return_unused_kwargs=True, local_files_only=True
        )
        assert (config.top_k, config.do_sample, config.foo, unused) == (9, True, 1, {})
        assert make.from_pretrained(tmp_path, config_file_name="odd.json").top_k == 3


MODES: list[dict[str, Any]] = [
    {},
    {"do_sample": True},
    {"num_beams": 2},
    {"num_beams": 2, "do_sample": True},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"penalty_alpha": 0.5, "top_k": 4},
    {"force_words_ids": [[3]], "num_beams": 2},
    {"dola_layers": "high"},
    {"prompt_lookup_num_tokens": 3, "do_sample": True},
    {"use_mtp": True},
]


@pytest.mark.parametrize("settings", MODES, ids=map(str, MODES))
def test_modes(settings: dict[str, Any]) -> None:
    """The settings ask for the strategy that the peer takes them to ask for."""
    own, other = quiet(GenerationConfig, **settings), quiet(Theirs, **settings)
    assert own.get_generation_mode().value == other.get_generation_mode().value
    for assistant in (None, object()):
        if set(settings) <= {"do_sample"}:
            assert own.get_generation_mode(assistant).value == other.get_generation_mode(assistant).value


def test_equality_and_copies() -> None:
    """Configs with the same settings are equal and hash alike, whatever they were read from."""
    one, two = GenerationConfig(top_k=3, do_sample=True), GenerationConfig.from_dict({"do_sample": True, "top_k": 3})
    two._original_object_hash = 3
    assert one == two
    assert hash(one) == hash(two)
    assert one != GenerationConfig(top_k=4, do_sample=True)
    assert repr(one) == repr(Theirs(top_k=3, do_sample=True))


def test_token_list() -> None:
    """Ids may be none, one, several or a tensor."""
    import torch

    assert token_list(None) == []
    assert token_list(0) == [0]
    assert token_list((1, 2)) == [1, 2]
    assert token_list(torch.tensor(3)) == [3]
    assert token_list(torch.tensor([3, 4])) == [3, 4]


def test_config_needs_no_torch() -> None:
    """The settings can be read without torch."""
    import subprocess
    import sys

    code = "import sys, glassformer.generation.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_contrastive_search_uses_top_k() -> None:
    """Beside penalty_alpha the number of candidates is no setting without effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GenerationConfig(penalty_alpha=0.6, top_k=4).validate(strict=True)
