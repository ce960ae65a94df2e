"""Models in 8 and 4 bits: the same numbers natively and in PyTorch, the same folders, and how little they lose."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import glassformer as gf
from generation.tiny import ALL, DECODERS, ENCODER_DECODERS, ours, ragged
from glassformer.checkpoints.weights import open_tensors
from glassformer.engine.pack import panels
from glassformer.engine.quantize import Scheme, packed, quantize
from glassformer.kernels import native
from glassformer.structure.quantized import QuantizedLinear, QuantizedTable, unpacked, weight_of

from .test_engine import inputs, runs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quality import plant

pytestmark = pytest.mark.skipif(native.load() is None, reason=f"no native code: {native.reason()}")
KINDS = ("int8", "int4")
DATA = Path(__file__).parent.parent / "bundled"
GPT2 = "glassformer/tiny-gpt2"


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def quantized(model: Any, kind: str) -> Any:
    """A copy of a model, quantised."""
    model = copy.deepcopy(model)
    quantize(model, Scheme.named(kind), torch.float32)
    return model


def widened(model: Any, original: Any) -> Any:
    """A copy of the original in fp32, with the weights that the quantised model stands for."""
    plain, parts = copy.deepcopy(original), dict(model.named_modules())
    for name, part in plain.named_modules():
        if isinstance(parts[name], (QuantizedLinear, QuantizedTable)):
            part.weight.copy_(weight_of(parts[name]))
    return plain


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


# Packing and unpacking


@settings(max_examples=60, deadline=None)
@given(st.sampled_from((8, 4)), st.integers(1, 70), st.integers(1, 140), st.integers(-20, 20), st.integers(0, 999))
def test_pytorch_unpacks_what_the_kernels_read(bits: int, outputs: int, inputs: int, exponent: int, seed: int) -> None:
    """Any size: the same numbers as from the native code, within half a step of the weight; rows alone, too."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    held = packed(weight, bits)
    found, expected = unpacked(held, outputs, inputs), torch.empty(outputs, inputs)
    code = native.FORMATS[f"q{bits}_panel"]
    assert native.load().gf_unpack(code, outputs, inputs, held.data_ptr(), expected.data_ptr()) == 0
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    top = F.pad(weight.abs(), (0, -inputs % 32)).unflatten(1, (-1, 32)).amax(-1).repeat_interleave(32, 1)[:, :inputs]
    # Half of 1 / 127 and the rounding of scales; codes of 4 bits are at most 31 of 127 apart, and the ends may clip.
    assert ((found - weight).abs() <= top * (0.0041 if bits == 8 else 0.20)).all()
    table = QuantizedTable(torch.nn.Embedding(outputs, inputs), torch.nn.Parameter(held, False), torch.float32)
    ids = torch.randint(0, outputs, (2, 3), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(table(ids), found[ids])
    with pytest.raises(gf.errors.RangeError, match=f"from 0 to {outputs}"):
        table(torch.tensor([0, outputs]))
    with pytest.raises(gf.errors.RangeError, match="from -1 to 0"):
        table(torch.tensor([0, -1]))


# Running


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_both_ways_to_run(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch computes with the unpacked weights exactly; natively activations are quantised.

    That costs under a fiftieth in the first layer, and more in the next, as the scores of random attention are steep.
    """
    model = quantized(ours(name), kind)
    call = inputs(name, output_hidden_states=True, output_attentions=True)
    with runs(monkeypatch) as seen:
        mine = model(**call)
    assert len(seen) == len(model.base_model.stacks)
    plain = widened(model, ours(name))
    with monkeypatch.context() as patch:
        patch.setenv("GLASSFORMER_ENGINE", "off")
        torched, exact = model(**call), plain(**call)
    torch.testing.assert_close(torched.logits, exact.logits, rtol=1e-5, atol=1e-5)
    assert error(exact.logits, ours(name)(**call).logits) > 1e-3  # it is another model than the one in fp32
    assert 0 < error(mine.logits, exact.logits) < 0.1
    for key in (key for key in exact if key.endswith(("hidden_states", "attentions"))):
        for layer, (one, other) in enumerate(zip(mine[key], exact[key])):
            first = 1e-5 if key.endswith("hidden_states") else 0.02
            assert error(one, other) < (first if layer == 0 and key != "cross_attentions" else 0.12), (key, layer)


@pytest.mark.parametrize("name", ALL)
def test_generation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that native steps have filled; every step's scores are near those of a pass over the whole text."""
    model = quantized(ours(name), "int8")
    call = {"max_new_tokens": 9, "eos_token_id": None, "do_sample": False}
    call |= {"output_logits": True, "return_dict_in_generate": True}
    ids = ragged()[0].clamp(min=3)
    with runs(monkeypatch) as seen:
        made = model.generate(ids, **call)
    assert len(seen) >= 9
    whole = {"input_ids": ids, "decoder_input_ids": made.sequences} if name in ENCODER_DECODERS else {}
    scores = widened(model, ours(name))(**(whole or {"input_ids": made.sequences})).logits[:, -10:-1]
    assert error(torch.stack(made.logits, 1), scores) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_in_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dtype is that of what is given back; packed weights do not change with it."""
    model = quantized(ours(DECODERS[1]), "int8").to(dtype)
    exact = widened(quantized(ours(DECODERS[1]), "int8"), ours(DECODERS[1]))(ragged()[0])
    with runs(monkeypatch) as seen:
        mine = model(ragged()[0], output_hidden_states=True)
    assert seen
    assert model.dtype == mine.logits.dtype == mine.hidden_states[0].dtype == dtype
    assert error(mine.logits, exact.logits) < 0.04
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    torched = model(ragged()[0], output_hidden_states=True)
    assert torched.logits.dtype == torched.hidden_states[0].dtype == dtype
    assert error(torched.logits, exact.logits) < 0.04


def test_gradients_reach_the_inputs() -> None:
    """Weights are frozen, but what is read may want gradients: those of the unpacked weights."""
    model = quantized(ours(DECODERS[1]), "int4")
    plain = widened(model, ours(DECODERS[1]))
    found = []
    for each in (model, plain):
        vectors = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.enable_grad():
            each(inputs_embeds=vectors).logits.square().sum().backward()
        found.append(vectors.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


# How much is lost


@pytest.mark.parametrize("outlier", [False, True])
@pytest.mark.parametrize(("kind", "most", "divergence"), [("int8", 0.005, 0.002), ("int4", 0.04, 0.05)])
def test_perplexity(kind: str, most: float, divergence: float, outlier: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On prose, 8 bits lose under 0.5 % of perplexity and 4 bits under 4 %, also with a channel 30 times larger."""
    tokenizer, model = gf.AutoTokenizer.from_pretrained(GPT2), gf.AutoModelForCausalLM.from_pretrained(GPT2)
    ids = tokenizer((DATA / "prose.txt").read_text("utf-8"), return_tensors="pt", verbose=False).input_ids[0]
    ids = ids[: len(ids) // 128 * 128].view(-1, 128)
    if outlier:
        plant(model)

    def read(model: Any) -> tuple[torch.Tensor, float]:
        logs = model(ids).logits.log_softmax(-1)
        return logs, float(torch.exp(-logs[:, :-1].gather(-1, ids[:, 1:, None]).mean()))

    logs, exact = read(model)
    with runs(monkeypatch) as seen:
        found, perplexity = read(quantized(model, kind))
    assert len(seen) == 1
    assert exact < 45
    assert perplexity < exact * (1 + most)
    assert 0 < float((logs.exp() * (logs - found)).sum(-1).mean()) < divergence


@pytest.mark.parametrize("kind", KINDS)
def test_what_models_are_for(kind: str) -> None:
    """Dates are rewritten and languages told as well as in fp32."""
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-t5")
    dates = json.loads((DATA / "dates.json").read_text("utf-8"))
    texts = tokenizer([date["text"] for date in dates], return_tensors="pt", padding=True)
    model = gf.AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5", quantization=kind)
    written = tokenizer.batch_decode(model.generate(**texts), skip_special_tokens=True)
    assert sum(text == date["iso"] for text, date in zip(written, dates)) >= len(dates) - 2
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-bert")
    sentences = json.loads((DATA / "languages.json").read_text("utf-8"))
    texts = tokenizer([text for group in sentences.values() for text in group], return_tensors="pt", padding=True)
    auto = gf.AutoModelForSequenceClassification
    mine = auto.from_pretrained("glassformer/tiny-bert", quantization=kind)(**texts).logits
    plain = auto.from_pretrained("glassformer/tiny-bert")(**texts).logits
    assert 0 < error(mine, plain) < (0.01 if kind == "int8" else 0.05)
    assert (mine.argmax(-1) == plain.argmax(-1)).float().mean() >= 0.98


# What is held, and what is not


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_quantised(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The matrices, the vocabulary's once; it is said everywhere what they are, and counts are those of the numbers."""
    model = gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization=kind)
    plain = gf.AutoModelForCausalLM.from_pretrained(GPT2)
    table, head, layer = model.get_input_embeddings(), model.lm_head.linear, model.base_model.decoder.layers[0]
    assert head.weight is table.weight
    assert (head.bits, layer.attention.k_proj.bits, layer.attention.v_proj.bits) == (8, 8, 8)
    assert layer.attention.q_proj.bits == layer.feedforward.down_proj.bits == int(kind[-1])
    kept = {name for name, value in model.named_parameters() if value.is_floating_point()}
    assert all(name.endswith(("bias", "positions.table.weight", "before.weight", "norm.weight")) for name in kept)
    assert model.num_parameters() == plain.num_parameters()
    assert model.num_parameters(exclude_embeddings=True) == plain.num_parameters(exclude_embeddings=True)
    assert model.num_parameters(only_trainable=True) == 0
    assert model.get_memory_footprint() < plain.get_memory_footprint() * (0.36 if kind == "int8" else 0.27)
    assert model.config.quantization_config["bits"] == int(kind[-1])
    assert f"bits={kind[-1]}" in str(model)
    assert f"q{kind[-1]}_panel" in str(gf.programs(model))
    assert kind in str(model.structure())
    numbers = [sum(part.parameters for part in each.structure().parts) for each in (model, plain)]
    assert numbers[0] == numbers[1]
    assert f"{plain.num_parameters():,} parameters" in str(gf.explain(model))


def test_a_copy_is_a_model_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and state dictionaries hold the packed bytes, tied as they were."""
    model = gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int4")
    ids = torch.tensor([[5, 6, 7]])
    other = copy.deepcopy(model)
    assert other.lm_head.linear.weight is other.get_input_embeddings().weight is not model.lm_head.linear.weight
    assert torch.equal(other(ids).logits, model(ids).logits)
    other.lm_head.linear.weight.fill_(128)
    assert not torch.equal(other(ids).logits, model(ids).logits)  # a change is seen
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(ids).logits, model(ids).logits)


def test_training_is_refused() -> None:
    """One sentence with the way out; evaluation and the loss are not training."""
    model = gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int8")
    for call in (model.train, lambda: model.resize_token_embeddings(5), lambda: model.set_input_embeddings(None)):
        with pytest.raises(gf.errors.InputError, match=r"GPT2LMHeadModel is quantised, .*load the original"):
            call()
    assert not model.eval().training
    ids = torch.tensor([[5, 6, 7]])
    assert model(ids, labels=ids).loss.isfinite()


def test_every_class_of_a_family() -> None:
    """A head of a task stays as it is, whatever reads the same folder."""
    model = gf.AutoModelForSequenceClassification.from_pretrained("glassformer/tiny-bert", quantization="int8")
    assert type(model.classifier.linear) is torch.nn.Linear
    assert type(model.base_model.pooler.dense) is torch.nn.Linear
    assert type(model.base_model.encoder.layers[0].attention.o_proj) is QuantizedLinear
    assert type(model.base_model.encoder.embedding.types) is not QuantizedTable


# Files


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_a_folder_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    """Bit by bit, in one file or several, by the family's own class or the Auto class, tied or not."""
    model = quantized(ours(name), kind)
    model.config.quantization_config = Scheme.named(kind).to_dict()
    for size in ("1GB", 4000):
        model.save_pretrained(tmp_path, max_shard_size=size)
        for auto in (type(model), gf.AutoModelForSeq2SeqLM if name in ENCODER_DECODERS else gf.AutoModelForCausalLM):
            again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
            assert not any(info.values())
            assert again.is_quantized
            found, wanted = again.state_dict(), model.state_dict()
            assert list(found) == list(wanted)
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)
            assert torch.equal(again(**inputs(name)).logits, model(**inputs(name)).logits)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    backbone = gf.AutoModel.from_pretrained(tmp_path)
    assert backbone.is_quantized


def test_packed_weights_are_read_where_they_are_held(tmp_path: Path) -> None:
    """Lines of the processor's cache begin with them, in the file already, and the kernels have no second copy."""
    gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int8").save_pretrained(tmp_path, max_shard_size="100KB")
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    mapped = [weight for file in files for weight in open_tensors(file).values() if weight.dtype == torch.uint8]
    assert len(mapped) == 25
    assert all(weight.data_ptr() % 64 == 0 for weight in mapped)
    model = gf.AutoModelForCausalLM.from_pretrained(tmp_path)
    held = {weight.data_ptr() for weight in model.parameters() if weight.dtype == torch.uint8}
    assert all(address % 64 == 0 for address in held)
    model(torch.tensor([[5, 6]]))
    operations = model.base_model.decoder.executor.program.operations
    read = {operation.matrix.tensor.data_ptr() for operation in operations if operation.matrix is not None}
    assert len(read) == 25
    assert read <= held


def test_packed_weights_that_another_program_wrote_are_aligned(tmp_path: Path) -> None:
    """A file whose packed weights begin anywhere is read like any other, and its weights still begin with lines."""
    gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int8").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    for name in ("", "of eight", "of sixteen letters"):  # headers of other lengths
        save_file(load_file(path), path, metadata={"format": "pt", "name": name})
        model = gf.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert all(weight.data_ptr() % 64 == 0 for weight in model.parameters() if weight.dtype == torch.uint8)


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    """config.json says method, bits, groups and what is wider; a model built anew from it says nothing of it."""
    model = gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int4")
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"], said["version"]) == ("glassformer", 4, 32, 2)
    assert set(said["wider"].values()) == {8}
    gf.GPT2LMHeadModel(gf.AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path / "anew")
    assert "quantization_config" not in json.loads((tmp_path / "anew" / "config.json").read_text())
    assert gf.AutoModelForCausalLM.from_pretrained(tmp_path, quantization="int4").is_quantized
    with pytest.raises(gf.errors.ConfigError, match="saved in 4 bits, and cannot become 'int8'"):
        gf.AutoModelForCausalLM.from_pretrained(tmp_path, quantization="int8")
    for unknown in ("int3", 8, ["int8"]):
        with pytest.raises(gf.errors.ConfigError, match="is unknown; it is 'int8', 'int4' or None"):
            gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization=unknown)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "quantised by 'bitsandbytes', which is not read here"),
        ({"quant_method": "gptq"}, "quantised by 'gptq'"),
        ("gptq", "quantised by 'gptq'"),
        ({"version": 1}, "install the version that wrote it"),
        ({"bits": 3}, "install the version that wrote it"),
        ({"bits": [8]}, "install the version that wrote it"),
        ({"group_size": 128}, "install the version that wrote it"),
        ({"wider": {"q_proj": 7}}, "install the version that wrote it"),
        ({"wider": ["q_proj"]}, "install the version that wrote it"),
        ({"bits": 4}, r"has shape \(\d+, \d+, 1088\)"),
        (None, r"has shape \(9, 3, 1088\)"),
    ],
)
def test_foreign_and_wrong_configurations(change: Any, match: str, tmp_path: Path) -> None:
    """Another program's folder, another version's, or one that says something else than it holds, is one sentence."""
    gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int8").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if isinstance(change, dict):
        config["quantization_config"].update(change)
    elif change is None:
        del config["quantization_config"]
    else:
        config["quantization_config"] = change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((gf.errors.ConfigError, gf.errors.WeightsError), match=match):
        gf.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_broken_weights(tmp_path: Path) -> None:
    """Bytes of another size or type, or none at all, are refused before anything is computed."""
    gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int8").save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "transformer.h.0.mlp.c_fc.weight"
    whole = load_file(file)
    for broken, match in (
        (whole[name][:-1].clone(), r"c_fc.weight has shape \(35, 3, 1088\)"),
        (
            whole[name].to(torch.int32),
            r"c_fc.weight is stored as torch.int32, but config.json says that it is quantised",
        ),
        (None, "c_fc.weight|up_proj.weight"),
    ):
        save_file({**{k: v for k, v in whole.items() if k != name}, **({} if broken is None else {name: broken})}, file)
        with pytest.raises(gf.errors.WeightsError, match=match):
            gf.AutoModelForCausalLM.from_pretrained(tmp_path)
    save_file({**whole, "transformer.ln_f.bias": whole["transformer.ln_f.bias"].to(torch.uint8)}, file)
    with pytest.raises(gf.errors.WeightsError, match=r"config\.json says nothing of quantisation"):
        gf.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_without_native_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved folder runs in PyTorch, with the same weights; quantising needs the compiler, and says so."""
    model = gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int4")
    model.save_pretrained(tmp_path)
    native_logits = model(torch.tensor([[5, 6, 7]])).logits
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(native, "reason", lambda: "no compiler was found")
    again = gf.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert 0 < error(again(torch.tensor([[5, 6, 7]])).logits, native_logits) < 0.015
    with pytest.raises(gf.errors.ConfigError, match="Quantising needs the native code, but no compiler was found"):
        gf.AutoModelForCausalLM.from_pretrained(GPT2, quantization="int4")


def test_any_dtype_is_quantised() -> None:
    """From fp16, bf16 and strided weights the same bytes as from what they are in fp32."""
    weight = torch.randn(40, 70, generator=torch.Generator().manual_seed(0))
    for narrow in (weight.half(), weight.bfloat16(), weight.T.contiguous().T):
        assert torch.equal(packed(narrow, 8), packed(narrow.float().contiguous(), 8))
        assert torch.equal(packed(narrow, 8).flatten(), panels("q8_panel", narrow.float()))


def test_analyses_read_the_unpacked_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read off weights is that of the model in fp32 that they stand for."""
    monkeypatch.setenv("GLASSFORMER_ENGINE", "off")
    original, tokenizer = gf.AutoModelForCausalLM.from_pretrained(GPT2), gf.AutoTokenizer.from_pretrained(GPT2)
    model = quantized(original, "int4")
    plain, text = widened(model, original), "It is a truth"
    for read in (
        lambda each: gf.direct_logit_attribution(each, text, tokenizer=tokenizer).contributions,
        lambda each: gf.logit_lens(each, text, tokenizer=tokenizer).top_probabilities,
        lambda each: gf.integrated_gradients(each, text, tokenizer=tokenizer, steps=4, baseline=7).attributions,
    ):
        torch.testing.assert_close(read(model), read(plain), rtol=1e-4, atol=1e-5)
    assert gf.plot.cache_shape(model) == gf.plot.cache_shape(plain)
