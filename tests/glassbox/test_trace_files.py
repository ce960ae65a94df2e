"""Traces in files: they come back to the bit, and a folder that was tampered with is refused with one sentence."""

import copy
import json
import os
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import glassformer as gf
from glassformer import BrokenFileError, InputError, MissingFileError
from parity import zoo

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 3]])


@pytest.fixture(scope="module")
def model():
    return gf.AutoModelForCausalLM.from_pretrained(zoo.folder(zoo.BY_NAME["GPT2-plain"], "LMHeadModel"))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> tuple[gf.Trace, Any]:
    folder = tmp_path_factory.mktemp("trace")
    trace = gf.trace(model, {"input_ids": IDS, "labels": IDS})
    trace.texts = ["a < b", "é\n日本"]
    trace.save(folder)
    return trace, folder


def same(a: gf.Trace, b: gf.Trace) -> None:
    assert a.names == b.names
    for name in a.names:
        for x, y in zip(a.calls(name), b.calls(name), strict=True):
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            assert torch.equal(
                x.contiguous().view(torch.uint8) if x.dim() else x, y.view(torch.uint8) if y.dim() else y
            )
    for attribute in ("model", "meanings", "texts", "tokens", "padding", "choices", "lines"):
        assert getattr(a, attribute) == getattr(b, attribute), attribute
    assert str(a) == str(b)
    assert a._repr_html_() == b._repr_html_()


def test_a_trace_comes_back(saved) -> None:
    """Tensors of all shapes (a loss has none), names in order, tokens, texts, choices, lines; and its story."""
    trace, folder = saved
    assert sorted(os.listdir(folder)) == ["trace.json", "trace.safetensors"]
    loaded = gf.Trace.load(folder)
    same(trace, loaded)
    assert trace["loss"].shape == ()
    assert trace["decoder.input_ids"].dtype == torch.int64
    assert trace.diff(loaded).same
    assert loaded.find("*.weights").keys() == trace.find("*.weights").keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_survives(dtype: torch.dtype, tmp_path) -> None:
    model = gf.AutoModelForCausalLM.from_pretrained(zoo.folder(zoo.BY_NAME["Llama-plain"], "ForCausalLM"), dtype=dtype)
    trace = gf.trace(model, {"input_ids": IDS})
    trace.records["decoder.output"][0][0, 0, :3] = torch.tensor([torch.nan, torch.inf, -0.0], dtype=dtype)
    assert {trace["logits"].dtype, trace["decoder.layers.0.attention.scores"].dtype} == {dtype, torch.float32}
    trace.save(tmp_path / "new" / "folder")
    same(trace, gf.Trace.load(tmp_path / "new" / "folder"))


def test_a_generation_comes_back(model, tmp_path) -> None:
    """Every call of it; and views of one memory, and tensors on a graph, are saved as what they show."""
    with model.trace(detach=False) as trace:
        model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, pad_token_id=3)
    trace.records["decoder.output"][1] = trace.calls("logits")[0][:, ::2, ::3]
    trace.records["logits"][0] = torch.nn.Parameter(trace.calls("logits")[0].clone())
    trace.save(tmp_path)
    loaded = gf.Trace.load(tmp_path)
    same(trace, loaded)
    assert len(loaded.calls("logits")) == 4
    assert torch.equal(loaded.stitched("decoder.layers.1.output"), trace.stitched("decoder.layers.1.output"))


def test_saving_again_leaves_what_was_loaded_alone(saved, model, tmp_path) -> None:
    """A trace that is mapped from a file keeps its values when the file is replaced."""
    trace, _ = saved
    trace.save(tmp_path)
    loaded = gf.Trace.load(tmp_path)
    gf.trace(model, {"input_ids": IDS.flip(0)}).save(tmp_path)
    same(trace, loaded)
    assert gf.Trace.load(tmp_path).texts is None


def test_a_save_that_fails_leaves_the_old_trace(saved, tmp_path, monkeypatch) -> None:
    trace, _ = saved
    trace.save(tmp_path)
    from glassformer.checkpoints import save

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "_write", full)
    with pytest.raises(OSError, match="No space"):
        trace.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["trace.json", "trace.safetensors"]
    same(trace, gf.Trace.load(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        trace.save(tmp_path / "file")


# Hostile folders


@pytest.fixture
def folder(saved, tmp_path):
    saved[0].save(tmp_path)
    return tmp_path


def refused(folder, words: str) -> None:
    with pytest.raises(BrokenFileError, match=words) as caught:
        gf.Trace.load(folder)
    assert "\n" not in str(caught.value)


def change(folder, how) -> None:
    content = json.loads((folder / "trace.json").read_text())
    how(content)
    (folder / "trace.json").write_text(json.dumps(content))


def test_missing_files(folder) -> None:
    (folder / "trace.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"trace\.safetensors .* is not in"):
        gf.Trace.load(folder)
    (folder / "trace.json").unlink()
    with pytest.raises(MissingFileError, match=r"trace\.json .* is not in"):
        gf.Trace.load(folder)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_truncated_files(folder, keep: int) -> None:
    tensors = (folder / "trace.safetensors").read_bytes()
    (folder / "trace.safetensors").write_bytes(tensors[:keep])
    refused(folder, r"trace\.safetensors is not a whole safetensors file")
    (folder / "trace.safetensors").write_bytes(tensors)
    text = (folder / "trace.json").read_bytes()
    (folder / "trace.json").write_bytes(text[: keep - 2 if keep < 0 else keep])
    refused(folder, r"trace\.json is not valid JSON")


def test_a_header_that_promises_more_than_there_is(folder) -> None:
    """Sizes are checked before memory is taken."""
    header = json.dumps({"logits:0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "trace.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(folder, "not a whole safetensors file")
    (folder / "trace.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    refused(folder, "not a whole safetensors file")


def test_a_description_that_is_too_large(folder) -> None:
    with open(folder / "trace.json", "ab") as file:
        file.truncate(200 * 2**20)  # a hole, which takes no space
    refused(folder, "more than the")


def test_a_pickle_is_not_read(folder) -> None:
    torch.save({"logits:0": torch.zeros(1)}, folder / "trace.safetensors")
    refused(folder, "not a whole safetensors file")


def test_links_out_of_the_folder(folder, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "trace.safetensors"
    (folder / "trace.safetensors").rename(elsewhere)
    (folder / "trace.safetensors").symlink_to(elsewhere)
    refused(folder, "link out of its folder")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda c: c.update(format=2), "has format 2, and this version reads 1"),
        (lambda c: c.update(format=True), "has format True"),
        (lambda c: c.pop("format"), "has format None"),
        (lambda c: c["names"].append("x"), "names and calls do not belong together"),
        (lambda c: c["names"].append("logits"), "names and calls do not belong together"),
        (lambda c: c["calls"].update(logits=2), "has no 'logits:1'"),
        (lambda c: c["calls"].update(logits=10**18), "logits has 1000000000000000000 calls"),
        (lambda c: c["calls"].update(logits=0), "logits has 0 calls"),
        (lambda c: c["calls"].update(logits=True), "the calls of logits is a bool"),
        (lambda c: (c["names"].remove("logits"), c["calls"].pop("logits")), r"it names \d+ tensors, but"),
        (lambda c: c["meanings"].pop("logits"), "the meaning of logits is a NoneType"),
        (lambda c: c.update(tokens={"decoder": ["ab"]}), "tokens of decoder is a str"),
        (lambda c: c.update(texts=[1]), "texts is a int"),
        (lambda c: c["choices"][0].update(more=1), "a choice has other keys than"),
        (lambda c: c["choices"][0].update(row=-1), "lies before the beginning"),
        (lambda c: c["choices"][0]["labels"].pop(), "other probabilities than labels"),
        (lambda c: c["choices"][0].update(probabilities=[float("inf")] * 5), "a probability is not finite"),
        (lambda c: c["lines"].update(logits={"file": "heads.py"}), "a line of code has other keys than"),
        (lambda c: c["lines"]["logits"].update(line="1"), "line is a str"),
    ],
)
def test_descriptions_that_do_not_fit(folder, how, words: str) -> None:
    change(folder, how)
    refused(folder, words)


def test_names_are_names_and_no_paths(folder) -> None:
    """A tensor may have any name; it is never a file's, and is shown without steering a terminal or a page."""
    hostile = ["../../etc/passwd", "/abs", "decoder.layers.3", "decoder.layers.\x1b[2J.x", "<script>", "", "a\nb"]
    tensors = load_file(folder / "trace.safetensors")
    save_file({**tensors, **{f"{name}:0": torch.ones(2) for name in hostile}}, folder / "trace.safetensors")

    def add(content) -> None:
        content["names"] += hostile
        content["calls"].update(dict.fromkeys(hostile, 1))
        content["meanings"].update(dict.fromkeys(hostile, "<b>\x1b"))

    change(folder, add)
    before = sorted(os.listdir(folder.parent))
    loaded = gf.Trace.load(folder)
    assert loaded.names[-7:] == hostile
    assert torch.equal(loaded["/abs"], torch.ones(2))
    assert "\x1b" not in str(loaded) + loaded._repr_html_()
    assert "<script" not in loaded._repr_html_()
    assert "<b>" not in loaded._repr_html_().split("</figcaption>")[1]
    loaded.save(folder / "again")
    assert sorted(os.listdir(folder.parent)) == before
    assert sorted(os.listdir(folder / "again")) == ["trace.json", "trace.safetensors"]


JUNK = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4)),
    *(st.just([]), st.just({}), st.just([[1]]), st.just({"encoder": [[]]}), st.just(["x"])),
)


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, item in list(items)[:6] for inner in _paths(item, (*path, key))]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_description_is_read_or_refused(saved, data) -> None:
    """With anything in the place of anything, a trace that can be shown comes back, or a sentence."""
    _, folder = saved
    text = (folder / "trace.json").read_text()
    content = copy.deepcopy(json.loads(text))
    *path, last = data.draw(st.sampled_from(_paths(content)))
    place = content
    for key in path:
        place = place[key]
    place[last] = data.draw(JUNK)
    try:
        (folder / "trace.json").write_text(json.dumps(content))
        try:
            loaded = gf.Trace.load(folder)
        except BrokenFileError:
            return
        assert max(map(len, str(loaded).split("\n"))) <= 110
        assert loaded._repr_html_().startswith("<figure")
        assert loaded.diff(loaded).same
    finally:
        (folder / "trace.json").write_text(text)
