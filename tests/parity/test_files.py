"""Folders go both ways: what one library saves, the other loads, under the same names and with the same configuration.

Also the odd files of real life: a base checkpoint for a head and the reverse, older names, extra buffers, heads that
are tied in the configuration but not in the file, shards, half precision, pickles.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

from .compare import rows, same
from .zoo import (
    BY_NAME,
    GENERATIVE,
    LOADING,
    PAIRS,
    PLAIN,
    PLAIN_PAIRS,
    Case,
    Inputs,
    folder,
    gf,
    load,
    ours,
    peer,
    settings,
    unread,
    variant,
)


def both(case: Case, head: str, path: Path, **options: Any) -> tuple[Any, Any]:
    """The same folder in both libraries."""
    name = case.family + head
    theirs = getattr(transformers, name).from_pretrained(path, attn_implementation="eager", **options)
    mine = getattr(gf, name).from_pretrained(path, **LOADING, **options)
    return mine, theirs


def alike(mine: Any, theirs: Any, case: Case, head: str) -> None:
    arguments = Inputs(case, head).arguments()
    with torch.no_grad():
        same(mine.eval()(**arguments), theirs.eval()(**arguments), real=arguments)


def reported(info: dict[str, Any]) -> dict[str, Any]:
    """What loading says, without buffers of old files, of which either library may speak."""
    buffers = re.compile(r"masked_bias$|attn\.bias$|position_ids$|inv_freq$")
    # The bias of BERT's vocabulary head has two names in the peer, which are one tensor.
    twice = "cls.predictions.bias" in info["missing_keys"]
    return {
        "missing": {key for key in info["missing_keys"] if not (twice and key == "cls.predictions.decoder.bias")},
        "unexpected": {key for key in info["unexpected_keys"] if not buffers.search(key)},
        "mismatched": {(key, tuple(old), tuple(new)) for key, old, new in info["mismatched_keys"]},
        "errors": info["error_msgs"],
    }


@pytest.mark.parametrize(("case", "head"), PAIRS)
def test_a_folder_comes_back_as_it_was(case: Case, head: str, tmp_path: Path) -> None:
    """Loaded and saved again: the same tensor names, values, file metadata and configuration keys and values."""
    load(case, head, folder(case, head)).save_pretrained(tmp_path)
    reference = folder(case, head)
    mine, theirs = (load_file(path / "model.safetensors") for path in (tmp_path, reference))
    assert sorted(mine) == sorted(theirs)
    for name, tensor in theirs.items():
        assert name in unread(case) or torch.equal(mine[name], tensor), name
    for path in (tmp_path, reference):
        with safe_open(path / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert settings(tmp_path) == settings(reference)


@pytest.mark.parametrize(("case", "head"), PLAIN_PAIRS)
def test_the_peer_loads_our_folder(case: Case, head: str, tmp_path: Path) -> None:
    """By its own class and through AutoModel, with nothing missing and nothing left over."""
    model = load(case, head, folder(case, head))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.25)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in folder(case, head).iterdir()}
    peer_class = getattr(transformers, case.family + head)
    theirs, info = peer_class.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values())
    alike(model, theirs, case, head)
    if head == "Model":
        theirs = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
        assert type(theirs) is peer_class
        alike(model, theirs, case, head)


@pytest.mark.parametrize("case", PLAIN)
def test_shards(case: Case, tmp_path: Path) -> None:
    """Both libraries read each other's shards, and the indexes name the same tensors and the same size."""
    head = GENERATIVE[case.family]
    mine, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours(case, head).save_pretrained(mine, max_shard_size="20KB")
    peer(case, head).save_pretrained(theirs, max_shard_size="20KB")
    indexes = [json.loads((path / "model.safetensors.index.json").read_text()) for path in (mine, theirs)]
    assert indexes[0]["weight_map"].keys() == indexes[1]["weight_map"].keys()
    assert indexes[0]["metadata"]["total_size"] == indexes[1]["metadata"]["total_size"]
    files = sorted(p.name for p in mine.glob("*.safetensors"))
    assert len(files) > 1
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    assert all((mine / name).stat().st_size < 30_000 for name in files)
    for path in (mine, theirs):
        alike(load(case, head, path), peer(case, head), case, head)
        loaded = getattr(transformers, case.family + head).from_pretrained(path, attn_implementation="eager")
        alike(ours(case, head), loaded, case, head)
    # Saved again whole, the shards are gone and do not shadow the new file.
    ours(case, head).save_pretrained(mine)
    assert [p.name for p in mine.glob("*.safetensors")] == ["model.safetensors"]
    alike(load(case, head, mine), peer(case, head), case, head)


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    """Kept as in the file unless asked otherwise, in the same parameters, and computed to the peer's precision."""
    head = GENERATIVE[case.family]
    wide = peer(case, head)
    narrow = getattr(transformers, case.family + head).from_pretrained(
        folder(case, head), dtype=dtype, attn_implementation="eager"
    )
    narrow.save_pretrained(tmp_path / "theirs")
    arguments = Inputs(case, head).arguments()
    for options in ({}, {"dtype": "auto"}, {"torch_dtype": "auto"}):
        model = load(case, head, tmp_path / "theirs", **options)
        assert model.dtype == dtype
        assert model.config.dtype == dtype
        with torch.no_grad():
            mine, theirs = model(**arguments), narrow(**arguments)
        assert mine.logits.dtype == theirs.logits.dtype
        # Both are off by rounding; ours must not be further from the truth than twice the peer.
        truth = wide(**arguments).logits.detach()
        error, allowed = ((out.logits.float() - truth).abs() for out in (mine, theirs))
        real = rows("logits", truth, arguments)
        assert (error * real).mean() < 2 * (allowed * real).mean()
    asked = {"dtype": dtype}, {"torch_dtype": dtype}, {"dtype": str(dtype).removeprefix("torch.")}
    for options in asked:
        load(case, head, folder(case, head), **options).save_pretrained(tmp_path / "ours")
        files = [load_file(tmp_path / path / "model.safetensors") for path in ("ours", "theirs")]
        assert {k: v.dtype for k, v in files[0].items()} == {k: v.dtype for k, v in files[1].items()}
        assert settings(tmp_path / "ours") == settings(tmp_path / "theirs")
    back = load(case, head, tmp_path / "theirs", dtype=torch.float32)
    assert {p.dtype for p in back.parameters()} == {torch.float32}


TRANSFERS = [
    *((f"{family}-plain", "Model", GENERATIVE[family]) for family in GENERATIVE),
    *((f"{family}-plain", GENERATIVE[family], "Model") for family in GENERATIVE),
    ("Bert-plain", "ForQuestionAnswering", "ForSequenceClassification"),
    ("GPT2-plain", "ForQuestionAnswering", "ForSequenceClassification"),
    ("T5-plain", "ForQuestionAnswering", "ForSequenceClassification"),
    ("Bart-plain", "ForQuestionAnswering", "ForSequenceClassification"),
    ("Bert-plain", "ForPreTraining", "ForMaskedLM"),
    ("Bert-plain", "ForMaskedLM", "ForSequenceClassification"),
    ("Bert-plain", "Model", "ForQuestionAnswering"),
    ("Bert-untied", "ForMaskedLM", "Model"),
    ("Bert-decoder", "LMHeadModel", "ForMaskedLM"),
    ("GPT2-plain", "LMHeadModel", "DoubleHeadsModel"),
    ("GPT2-gelu-untied", "Model", "LMHeadModel"),
    ("T5-plain", "ForConditionalGeneration", "EncoderModel"),
    ("T5-plain", "Model", "ForTokenClassification"),
    ("T5-plain", "ForTokenClassification", "EncoderModel"),
    ("Bart-plain", "ForCausalLM", "ForConditionalGeneration"),
    ("Bart-relu-untied", "Model", "ForConditionalGeneration"),
    ("Llama-plain", "Model", "ForTokenClassification"),
    ("Llama-plain", "ForCausalLM", "ForSequenceClassification"),
    ("Llama-plain", "ForTokenClassification", "ForSequenceClassification"),
    ("Llama-tied-gelu", "Model", "ForCausalLM"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "target"), TRANSFERS)
def test_a_checkpoint_of_another_head(name: str, source: str, target: str, tmp_path: Path) -> None:
    """What the file has is taken, what it lacks is drawn anew, and both are reported, by the peer's names."""
    case = BY_NAME[name]
    (mine, info), (theirs, reference) = both(case, target, folder(case, source), output_loading_info=True)
    assert info.keys() == reference.keys()
    assert all(type(info[key]) is type(reference[key]) for key in info)
    assert reported(info) == reported(reference)
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    ours_file, theirs_file = (load_file(tmp_path / p / "model.safetensors") for p in ("ours", "theirs"))
    assert ours_file.keys() == theirs_file.keys()
    missing = info["missing_keys"]
    for key, tensor in ours_file.items():
        assert torch.isfinite(tensor).all()
        if key not in missing and key not in unread(case):
            assert torch.equal(tensor, theirs_file[key]), key
        elif key in missing and not theirs_file[key].any():
            assert not tensor.any(), f"{key} is zero in a fresh peer"
    if not missing:
        alike(mine, theirs, case, target)


@pytest.mark.parametrize("case", PLAIN)
def test_fresh_weights_have_the_peers_spread(case: Case, tmp_path: Path) -> None:
    """Each fresh tensor has the peer's standard deviation (GPT-2's and T5's differ by part), or is all 0 or 1."""
    wide = {
        "Bert": {"hidden_size": 96, "intermediate_size": 192, "vocab_size": 300, "initializer_range": 0.5},
        "GPT2": {"n_embd": 96, "vocab_size": 300, "initializer_range": 0.5},
        "T5": {"d_model": 96, "d_kv": 40, "d_ff": 192, "vocab_size": 300, "initializer_factor": 3.0},
        "Bart": {"d_model": 96, "encoder_ffn_dim": 192, "decoder_ffn_dim": 192, "vocab_size": 300, "init_std": 0.5},
        "Llama": {"hidden_size": 96, "intermediate_size": 192, "vocab_size": 300, "initializer_range": 0.5},
    }[case.family]
    keys = {**case.keys(), **wide}
    for head in ("Model", GENERATIVE[case.family], "ForSequenceClassification"):
        files = []
        for library in (gf, transformers):
            torch.manual_seed(3)
            model = getattr(library, case.family + head)(getattr(library, f"{case.family}Config")(**keys))
            model.save_pretrained(tmp_path / library.__name__)
            files.append(load_file(tmp_path / library.__name__ / "model.safetensors"))
        mine, theirs = files
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert mine[name].shape == tensor.shape
            if tensor.unique().numel() == 1:
                assert torch.equal(mine[name], tensor), name
                continue
            # Of n normal draws the deviation is known to 1 part in the root of 2n: allow five times that.
            allowed = 5 / (2 * tensor.numel()) ** 0.5 * 2**0.5
            assert abs(mine[name].std() / tensor.std() - 1) < allowed, f"{name}: {mine[name].std()}, not {tensor.std()}"
            assert abs(mine[name].mean()) < 5 * tensor.std() / tensor.numel() ** 0.5, name
            blank = ~tensor.flatten(1).any(1) if tensor.ndim > 1 else torch.zeros(1, dtype=torch.bool)
            assert not mine[name][blank].any() if blank.any() else True, f"{name}: the padding row is zero"


def older_layer_norms(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[older] = tensors.pop(name)
    tensors["bert.embeddings.position_ids"] = torch.arange(32)[None]


def attention_buffers(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril().bool()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def rotary_buffers(tensors: dict[str, torch.Tensor]) -> None:
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.full((4,), 7.0)


def cross_attention_buckets(tensors: dict[str, torch.Tensor]) -> None:
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(32, 3)


def written_out_embeddings(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    tensors["lm_head.weight"] = tensors["shared.weight"].clone()


def bart_versions(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.encoder.version"] = tensors["model.decoder.version"] = torch.ones(1)
    tensors["model.decoder.version"] = torch.ones(1)


def bart_without_shared(tensors: dict[str, torch.Tensor]) -> None:
    table = tensors.pop("model.shared.weight")
    tensors["model.encoder.embed_tokens.weight"] = table
    tensors["model.decoder.embed_tokens.weight"] = table.clone()


def bart_without_bias(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["final_logits_bias"]


@pytest.mark.parametrize(
    ("name", "head", "change"),
    [
        ("Bert-plain", "ForMaskedLM", older_layer_norms),
        ("GPT2-plain", "LMHeadModel", attention_buffers),
        ("Llama-plain", "ForCausalLM", rotary_buffers),
        ("T5-plain", "ForConditionalGeneration", cross_attention_buckets),
        ("T5-plain", "ForConditionalGeneration", written_out_embeddings),
        ("Bart-plain", "ForConditionalGeneration", bart_versions),
        ("Bart-plain", "ForConditionalGeneration", bart_without_shared),
        ("Bart-plain", "ForConditionalGeneration", bart_without_bias),
    ],
)
def test_older_files(name: str, head: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Names and buffers of earlier releases load as if they were today's, and nothing is called unexpected."""
    case = BY_NAME[name]
    path = variant(case, head, change_weights=change)
    (mine, info), (theirs, _) = both(case, head, path, output_loading_info=True)
    assert not any(reported(info).values())
    alike(mine, theirs, case, head)


HEAD_NAMES = {
    "Bert": ("ForMaskedLM", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    "GPT2": ("LMHeadModel", "lm_head.weight", "transformer.wte.weight"),
    "T5": ("ForConditionalGeneration", "lm_head.weight", "shared.weight"),
    "Bart": ("ForConditionalGeneration", "lm_head.weight", "model.shared.weight"),
    "Llama": ("ForCausalLM", "lm_head.weight", "model.embed_tokens.weight"),
}


@pytest.mark.parametrize("name", ["Bert-plain", "GPT2-plain", "T5-plain", "Bart-plain", "Llama-tied-gelu"])
@pytest.mark.parametrize("kind", ["equal", "different"])
def test_a_tied_head_that_the_file_holds_too(name: str, kind: str, tmp_path: Path) -> None:
    """Equal to the embeddings it is tied to them; different, it is used as it is, whatever the configuration says."""
    case = BY_NAME[name]
    head, key, embeddings = HEAD_NAMES[case.family]

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[embeddings].clone() * (1.0 if kind == "equal" else 1.7)

    (mine, info), (theirs, _) = both(case, head, variant(case, head, change_weights=change), output_loading_info=True)
    assert not any(info.values())
    alike(mine, theirs, case, head)
    tied = mine.get_output_embeddings().weight.data_ptr() == mine.get_input_embeddings().weight.data_ptr()
    assert tied is (kind == "equal")
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    files = [load_file(tmp_path / path / "model.safetensors") for path in ("ours", "theirs")]
    assert files[0].keys() == files[1].keys()
    alike(load(case, head, tmp_path / "ours"), theirs, case, head)


@pytest.mark.parametrize("keys", [
    {"tie_word_embeddings": False},
    {"tie_word_embeddings": False, "scale_decoder_outputs": True},
    {"tie_word_embeddings": True, "scale_decoder_outputs": False},
    {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("separate", [True, False], ids=["lm_head in file", "no lm_head"])
def test_the_two_generations_of_t5(keys: dict[str, Any], separate: bool, tmp_path: Path) -> None:
    """`tie_word_embeddings` of an old T5 file decides the scaling of the decoder's output, not the tying."""
    case = BY_NAME["T5-gated-gelu-v1.1" if "feed_forward_proj" in keys else "T5-plain"]
    head = "ForConditionalGeneration"

    def change_config(config: dict[str, Any]) -> None:
        for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
            del config[key]
        config.update(keys)

    def change_weights(tensors: dict[str, torch.Tensor]) -> None:
        if separate:
            tensors["lm_head.weight"] = torch.randn(61, 24, generator=torch.Generator().manual_seed(5))

    mine, theirs = both(case, head, variant(case, head, change_config, change_weights))
    alike(mine, theirs, case, head)
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert settings(tmp_path / "ours") == settings(tmp_path / "theirs")


@pytest.mark.parametrize("keys", [
    {"rope_theta": 731.0},
    {"rope_theta": 500.0, "rope_scaling": None},
    {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 5},
    {"rope_theta": 100.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                           "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    {},
], ids=str)  # fmt: skip
def test_older_rotary_settings(keys: dict[str, Any], tmp_path: Path) -> None:
    """`rope_theta` and `rope_scaling` of older files compute, and are saved, as the peer does it."""
    case, head = BY_NAME["Llama-plain"], "ForCausalLM"

    def change(config: dict[str, Any]) -> None:
        for key in ("rope_parameters", "head_dim", "pretraining_tp", "attention_bias", "mlp_bias"):
            del config[key]
        config.update(keys)

    mine, theirs = both(case, head, variant(case, head, change))
    alike(mine, theirs, case, head)
    mine.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert settings(tmp_path / "ours") == settings(tmp_path / "theirs")


@pytest.mark.parametrize("case", PLAIN)
def test_pickled_weights(case: Case, tmp_path: Path) -> None:
    """A `pytorch_model.bin` loads (as weights only), with the doubled tied names that such files have."""
    head = GENERATIVE[case.family]
    torch.save(peer(case, head).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder(case, head) / "config.json").read_text())
    (mine, info), (theirs, _) = both(case, head, tmp_path, output_loading_info=True)
    assert not any(reported(info).values())
    alike(mine, theirs, case, head)


@pytest.mark.parametrize("case", PLAIN)
def test_sizes_that_do_not_match(case: Case) -> None:
    """An error by default; drawn anew and reported with both shapes when asked to ignore it."""
    head = "ForSequenceClassification"
    with pytest.raises(RuntimeError, match=r"ignore_mismatched_sizes"):
        load(case, head, folder(case, head), num_labels=7)
    (mine, info), (_, reference) = both(
        case, head, folder(case, head), num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert reported(info) == reported(reference)
    arguments = Inputs(case, head).arguments()
    logits = mine.eval()(**arguments).logits
    assert logits.shape[-1] == 7
    assert torch.isfinite(logits).all()


def test_variants_and_subfolders(tmp_path: Path) -> None:
    """`variant` names another file of weights, `subfolder` another place in the folder, in both directions."""
    case, head = BY_NAME["GPT2-plain"], "LMHeadModel"
    ours(case, head).save_pretrained(tmp_path / "inner", variant="odd")
    assert (tmp_path / "inner" / "model.odd.safetensors").exists()
    mine, theirs = both(case, head, tmp_path, variant="odd", subfolder="inner")
    alike(mine, theirs, case, head)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load(case, head, tmp_path / "inner")


def test_a_state_dict_in_place_of_files() -> None:
    """`from_pretrained(None, config=..., state_dict=...)` takes the peer's names."""
    case, head = BY_NAME["Bert-plain"], "ForMaskedLM"
    tensors = load_file(folder(case, head) / "model.safetensors")
    config = gf.BertConfig.from_pretrained(folder(case, head))
    model = gf.BertForMaskedLM.from_pretrained(None, config=config, state_dict=tensors, **LOADING)
    alike(model, peer(case, head), case, head)
