"""Watermarks are written and found as the peer's: the same scores, the same texts, the same findings."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from glassformer.errors import GenerationError
from glassformer.generation import synthid, watermark, watermark_config
from glassformer.generation.config import GenerationConfig

from .tiny import ALL, DECODERS, ENCODER_DECODERS, VOCABULARY, both, ours, peer, ragged

CONFIGS: dict[str, dict[str, Any]] = {
    "left": {},
    "left, odd": {"greenlist_ratio": 0.4, "bias": 3.5, "hashing_key": 101, "context_width": 3},
    "self": {"seeding_scheme": "selfhash", "bias": 4.0},
    "self, odd": {"seeding_scheme": "selfhash", "context_width": 3, "greenlist_ratio": 0.6, "hashing_key": 2**40},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_processor(config: dict[str, Any]) -> None:
    """The same scores as the peer's processor, and none changed while the context is too short."""
    generator = torch.Generator().manual_seed(0)
    found = watermark.WatermarkLogitsProcessor(VOCABULARY, "cpu", **config)
    wanted = transformers.WatermarkLogitsProcessor(VOCABULARY, "cpu", **config)
    for length in (1, 2, 3, 9):
        ids = torch.randint(0, VOCABULARY, (4, length), generator=generator)
        scores = torch.randn(4, VOCABULARY, generator=generator)
        before = scores.clone()
        result = found(ids, scores)
        assert torch.equal(result, wanted(ids, scores))
        assert torch.equal(scores, before)
        assert torch.equal(result, scores) == (length < config.get("context_width", 1))


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("name", ALL)
def test_tokens(name: str, config: dict[str, Any], do_sample: bool) -> None:
    """The same texts as the peer's, with the settings as an object and by name."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": do_sample, "renormalize_logits": True}
    found, expected = both(name, ids, watermarking_config=config, **call)
    assert torch.equal(found, expected)
    torch.manual_seed(3)
    assert torch.equal(
        ours(name).generate(ids, watermarking_config=watermark_config.WatermarkingConfig(**config), **call), found
    )


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("name", [DECODERS[1], ENCODER_DECODERS[0]])
def test_detector(name: str, config: dict[str, Any], repeated: bool) -> None:
    """The same findings as the peer's, in marked and plain texts, with and without the begin token."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 30, "eos_token_id": None}
    marked = ours(name).generate(ids, watermarking_config={**config, "bias": 9.0}, **call)
    plain = ours(name).generate(ids, **call)
    begun = torch.cat([torch.full((3, 1), 2 if name in ENCODER_DECODERS else 1), marked[:, 7:]], dim=1)
    whole = watermark_config.WatermarkingConfig(**config).to_dict()
    own = watermark.WatermarkDetector(ours(name).config, "cpu", config, ignore_repeated_ngrams=repeated)
    theirs = transformers.WatermarkDetector(peer(name).config, "cpu", whole, ignore_repeated_ngrams=repeated)
    for texts in (marked, plain, begun):
        found, expected = own(texts, return_dict=True), theirs(texts, return_dict=True)
        found, expected = dataclasses.asdict(found), dataclasses.asdict(expected)
        assert list(found) == list(expected)
        for key, values in found.items():
            np.testing.assert_allclose(values, expected[key], rtol=1e-6, atol=1e-12)
        for threshold in (0.5, 3.0):
            assert (own(texts, z_threshold=threshold) == theirs(texts, z_threshold=threshold)).all()


def test_finds_what_it_wrote() -> None:
    """A strong watermark is found in every row, and none in texts without it, or by another key."""
    config = watermark_config.WatermarkingConfig(bias=6.0, greenlist_ratio=0.3)
    call = {"max_new_tokens": 50, "eos_token_id": None, "do_sample": True, "seed": 1, "top_k": 0}
    model, ids = ours(DECODERS[2]), ragged()[0]
    marked = model.generate(ids, watermarking_config=config, **call)[:, 7:]
    detector = watermark.WatermarkDetector(model.config, "cpu", config)
    assert detector(marked).all()
    assert not detector(model.generate(ids, **call)[:, 7:]).any()
    config.update(hashing_key=99)
    assert not watermark.WatermarkDetector(model.config, "cpu", config)(marked).any()


def test_config(tmp_path: Path) -> None:
    """Settings read, write and print as the peer's, and pass through generation_config.json."""
    own, theirs = watermark_config.WatermarkingConfig(bias=3.0), transformers.WatermarkingConfig(bias=3.0)
    assert own.to_dict() == theirs.to_dict()
    assert own.to_json_string() == theirs.to_json_string()
    assert dict(own) == dict(theirs)
    own.to_json_file(tmp_path / "own.json")
    theirs.to_json_file(tmp_path / "theirs.json")
    assert (tmp_path / "own.json").read_text() == (tmp_path / "theirs.json").read_text()
    assert own == watermark_config.WatermarkingConfig.from_dict({"bias": 1.0}, bias=3.0)
    GenerationConfig(watermarking_config=own).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["watermarking_config"]["bias"] == 3.0
    read = GenerationConfig.from_pretrained(tmp_path).watermarking_config
    assert watermark_config.watermark_of(read) == own
    assert watermark_config.watermark_of(theirs) == own


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"seeding_scheme": "righthash"}, "righthash"),
        ({"greenlist_ratio": 1.0}, "greenlist_ratio"),
        ({"greenlist_ratio": "half"}, "greenlist_ratio"),
        ({"context_width": 0}, "context_width"),
        ({"bias": None}, "bias"),
        ({"hashing_key": 0.5}, "hashing_key"),
        ({"hashing_key": 2**70, "seeding_scheme": "selfhash"}, "64 bits"),
        ({"ngram_len": 5, "keys": [-(2**63)]}, "64 bits"),
        ({"colour": 5}, "colour"),
        ({"ngram_len": 1, "keys": [1, 2]}, "ngram_len"),
        ({"ngram_len": 5, "keys": ["a"]}, "keys"),
        ({"ngram_len": 5, "keys": [1], "sampling_table_size": 2**25}, "sampling_table_size"),
        ({"ngram_len": 5, "keys": [1], "context_history_size": 0}, "context_history_size"),
        ({"ngram_len": 5}, "keys"),
        ([1, 2], "list"),
    ],
)
def test_refused(config: Any, words: str) -> None:
    """Settings without sense, or of another kind of watermark, are an error that names them."""
    with pytest.raises(GenerationError, match=words):
        ours(DECODERS[1]).generate(ragged()[0], watermarking_config=config)


def test_detector_refuses() -> None:
    """Texts too short, or of which only some begin with the begin token, are errors."""
    detector = watermark.WatermarkDetector(ours(DECODERS[1]).config, "cpu", {"context_width": 3})
    with pytest.raises(GenerationError, match="3 tokens"):
        detector(torch.tensor([[4, 5, 6]]))
    with pytest.raises(GenerationError, match="begin token"):
        detector(torch.tensor([[1, 5, 6, 7, 8], [4, 5, 6, 7, 8]]))


SYNTHID: dict[str, dict[str, Any]] = {
    "usual": {"ngram_len": 5, "keys": [654, 400, 836, 123, 340, 443, 597, 160, 57]},
    "pairs, skipped": {"ngram_len": 2, "keys": [3, 2**40], "skip_first_ngram_calls": True, "context_history_size": 3},
    "long, skipped": {"ngram_len": 4, "keys": [9, 8, 7], "skip_first_ngram_calls": True, "sampling_table_seed": 4},
    "flat": {"ngram_len": 3, "keys": [1, 2, 3, 4], "debug_mode": True, "sampling_table_size": 77},
}


@pytest.mark.parametrize("config", SYNTHID.values(), ids=SYNTHID.keys())
def test_synthid_processor(config: dict[str, Any]) -> None:
    """The same scores as the peer's processor over a text with repeated places, -inf among them."""
    own = watermark_config.SynthIDTextWatermarkingConfig(**config).construct_processor(VOCABULARY, "cpu")
    theirs = transformers.SynthIDTextWatermarkingConfig(**config).construct_processor(VOCABULARY, "cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 3, (3, 25), generator=generator)  # three tokens only, so that places repeat
    ids[0] = 5
    for length in range(4, 25):
        scores = torch.randn(3, VOCABULARY, generator=generator)
        scores[:, ::4] = -torch.inf
        torch.testing.assert_close(own(ids[:, :length], scores), theirs(ids[:, :length], scores), rtol=1e-5, atol=1e-6)
    for name in ("compute_g_values", "compute_context_repetition_mask"):
        assert torch.equal(getattr(own, name)(ids), getattr(theirs, name)(ids)), name
    assert torch.equal(own.compute_eos_token_mask(ids, 2), theirs.compute_eos_token_mask(ids, 2))
    assert own.expected_mean_g_value(50) == theirs.expected_mean_g_value(50)
    with pytest.raises(GenerationError, match="no place"):
        own.compute_g_values(ids[:, :1])


@pytest.mark.parametrize("config", SYNTHID.values(), ids=SYNTHID.keys())
@pytest.mark.parametrize("name", ALL)
def test_synthid_tokens(name: str, config: dict[str, Any]) -> None:
    """The same sampled texts as the peer's, from the settings as an object and by name."""
    ids, mask = ragged()
    call = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": True}
    theirs = transformers.SynthIDTextWatermarkingConfig(**config)
    torch.manual_seed(3)
    expected = peer(name).generate(ids, watermarking_config=theirs, **call)
    for own in (watermark_config.SynthIDTextWatermarkingConfig(**config), config):
        assert torch.equal(ours(name).generate(ids, watermarking_config=own, seed=3, **call), expected)


def test_synthid_is_seen_in_the_tosses() -> None:
    """Marked texts have more ones than plain ones, whose mean is one half."""
    model, ids = ours(DECODERS[2]), ragged()[0]
    config = watermark_config.SynthIDTextWatermarkingConfig(ngram_len=4, keys=list(range(11, 31)))
    call = {"max_new_tokens": 50, "eos_token_id": None, "do_sample": True, "seed": 1, "top_k": 0, "temperature": 2.0}
    marked = model.generate(ids, watermarking_config=config, **call)[:, 7:]
    plain = model.generate(ids, **call)[:, 7:]
    reader = config.construct_processor(VOCABULARY, "cpu")
    assert isinstance(reader, synthid.SynthIDTextWatermarkLogitsProcessor)
    means = [float(reader.compute_g_values(text).float().mean()) for text in (marked, plain)]
    assert means[0] > 0.55
    assert abs(means[1] - 0.5) < 0.03
    with pytest.raises(GenerationError, match="WatermarkDetector"):
        watermark.WatermarkDetector(model.config, "cpu", config)
