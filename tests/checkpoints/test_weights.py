"""Reading weights: every form a folder may have, without copying, and broken files of every kind."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import FakeHub
from safetensors.torch import save, save_file

from glassformer.checkpoints.hub import Repository
from glassformer.checkpoints.weights import Weights, open_weights, with_variant
from glassformer.errors import BrokenFileError, MissingFileError, WeightsError

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, 2], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(7, dtype=torch.int64),
}


def opened(folder: Path, **kwargs: Any) -> Weights:
    return open_weights(Repository(folder), **kwargs)


def check(weights: Weights) -> None:
    """The mapping holds exactly TENSORS, and says shapes and dtypes truly."""
    assert sorted(weights) == sorted(weights.names()) == sorted(TENSORS)
    assert len(weights) == len(TENSORS)
    for name, tensor in TENSORS.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert weights.dtype(name) == tensor.dtype == weights[name].dtype
        assert torch.equal(weights[name], tensor)


def write_shards(folder: Path, suffix: str, index: str) -> None:
    """The tensors, one to a file, and an index of them."""
    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items()):
        weight_map[name] = f"part-{number}{suffix}"
        if suffix == ".bin":
            torch.save({name: tensor}, folder / weight_map[name])
        else:
            save_file({name: tensor}, folder / weight_map[name])
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# Forms


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = opened(tmp_path)
    check(weights)
    assert weights.metadata == {"format": "pt"}
    assert weights.files == [tmp_path / "model.safetensors"]
    with pytest.raises(KeyError):
        weights["absent"]
    assert "absent" not in weights


@pytest.mark.parametrize(
    ("suffix", "index"), [(".safetensors", "model.safetensors.index.json"), (".bin", "pytorch_model.bin.index.json")]
)
def test_shards(tmp_path: Path, suffix: str, index: str) -> None:
    write_shards(tmp_path, suffix, index)
    weights = opened(tmp_path)
    check(weights)
    assert len(weights.files) == 4


@pytest.mark.parametrize("new_format", [True, False])
def test_pickle(tmp_path: Path, new_format: bool) -> None:
    """Both forms of torch.save, today's zip and the stream of before torch 1.6; parameters lose their gradient."""
    content = {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in TENSORS.items()}
    torch.save(content, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
    weights = opened(tmp_path)
    check(weights)
    assert not weights["a"].requires_grad
    assert weights.metadata == {}


def test_order_and_use_safetensors(tmp_path: Path) -> None:
    """safetensors come before pickles, one file before an index, and `use_safetensors` chooses."""
    torch.save({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    write_shards(tmp_path, ".safetensors", "model.safetensors.index.json")
    check(opened(tmp_path))
    save_file({"y": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert opened(tmp_path).names() == opened(tmp_path, use_safetensors=True).names() == ["y"]
    assert opened(tmp_path, use_safetensors=False).names() == ["x"]


def test_variants(tmp_path: Path) -> None:
    """Variants are named as the peer names them, single and sharded."""
    from transformers.modeling_utils import _add_variant

    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        for variant in (None, "fp16"):
            assert with_variant(name, variant) == _add_variant(name, variant)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    write_shards(tmp_path, ".safetensors", "model.safetensors.index.fp16.json")
    check(opened(tmp_path, variant="fp16"))
    assert opened(tmp_path).names() == ["x"]


def test_config_may_name_the_weights(tmp_path: Path) -> None:
    """`transformers_weights` in config.json comes before all other files; it has to be safetensors inside."""
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    save_file(TENSORS, tmp_path / "other.safetensors")
    (tmp_path / "config.json").write_text('{"transformers_weights": "other.safetensors"}')
    check(opened(tmp_path))
    write_shards(tmp_path, ".safetensors", "other.safetensors.index.json")
    (tmp_path / "config.json").write_text('{"transformers_weights": "other.safetensors.index.json"}')
    check(opened(tmp_path))
    for name in ("pytorch_model.bin", "../other.safetensors", 3):
        (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": name}))
        with pytest.raises(BrokenFileError):
            opened(tmp_path)


def test_from_the_hub(fake_hub: FakeHub) -> None:
    """A sharded checkpoint is downloaded as a whole, and nothing else is; a repository without weights says so."""
    parts = {f"model-{i}.safetensors": save({name: t}) for i, (name, t) in enumerate(TENSORS.items())}
    index = {"weight_map": {name: f"model-{i}.safetensors" for i, name in enumerate(TENSORS)}}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **parts}
    fake_hub.commit("acme/tiny", {**files, "pytorch_model.bin": b"not touched"})
    check(open_weights(Repository("acme/tiny")))
    assert sorted(fake_hub.files_sent()) == sorted(files)
    fake_hub.commit("acme/none", {"config.json": b"{}"})
    with pytest.raises(MissingFileError, match=r"model.safetensors \(for the weights\) is not in acme/none"):
        open_weights(Repository("acme/none"))


# Memory


def test_tensors_are_mapped(tmp_path: Path) -> None:
    """Taking 64 MB of tensors takes next to no memory; computing with them takes the file once; writing is private."""
    save_file({f"w{i}": torch.ones(4, 1024, 1024) for i in range(4)}, tmp_path / "model.safetensors")
    torch.save({f"w{i}": torch.ones(4, 1024, 1024) for i in range(4)}, tmp_path / "pytorch_model.bin")
    program = """
import sys, torch
from glassformer.checkpoints.hub import Repository
from glassformer.checkpoints.weights import open_weights
def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
weights = open_weights(Repository(sys.argv[1]), use_safetensors=sys.argv[2] == "True")
before = resident()
tensors = dict(weights)
taken = resident() - before
total = sum(float(t.sum()) for t in tensors.values())
used = resident() - before
tensors["w0"].fill_(5)
print(taken, used, total, float(dict(open_weights(Repository(sys.argv[1])))["w0"].sum()) / 2**22)
"""
    for safe in ("True", "False"):
        arguments = [sys.executable, "-c", program, str(tmp_path), safe]
        run = subprocess.run(arguments, capture_output=True, text=True, check=True)
        taken, used, total, on_disk = map(float, run.stdout.split())
        assert taken < 8
        assert used < 64 * 1.15
        assert total == 4 * 4 * 2**20
        assert on_disk == 1


def test_touching_finds_pages_beforehand(tmp_path: Path) -> None:
    """Beside what goes on, all pages are found; a file that would fill half of the memory is left alone."""
    save_file({f"w{i}": torch.ones(4, 1024, 1024) for i in range(5)}, tmp_path / "model.safetensors")
    program = """
import sys, threading, torch
from glassformer.checkpoints import weights as w
from glassformer.checkpoints.hub import Repository
def mapped():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssFile")).split()[1]) / 1024
def gained():
    before = mapped()
    weights = w.open_weights(Repository(sys.argv[1]))
    weights.touch()
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join()
    return mapped() - before, weights
memory = w._memory
w._memory = lambda: 100 * 2**20
none, _ = gained()
w._memory = memory
print(none, gained()[0])
"""
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    none, all_pages = map(float, run.stdout.split())
    assert none < 8
    assert all_pages > 75


# Broken and missing files


def header(entries: object, length: int | None = None, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        header({"a": ENTRY}, data=bytes(4)),  # shorter than its header says
        header({"a": ENTRY}, data=bytes(12)),  # longer
        header({"a": ENTRY}, length=10**15, data=bytes(8)),  # a petabyte of header
        header({"a": ENTRY}, length=2**63 + 1, data=bytes(8)),
        header({"a": ENTRY}, length=5, data=bytes(8)),
        header(b"[1, 2]"),
        header(b"not json"),
        header(b"\xff\xff"),
        header({"a": {**ENTRY, "shape": [3]}}, data=bytes(8)),  # shape and size differ
        header({"a": {**ENTRY, "shape": [2**62, 4]}}, data=bytes(8)),  # overflows
        header({"a": {**ENTRY, "data_offsets": [8, 0]}}, data=bytes(8)),
        header({"a": {**ENTRY, "data_offsets": [0, 10**12]}}, data=bytes(8)),
        header({"a": {**ENTRY, "data_offsets": [-8, 0]}}, data=bytes(8)),
        header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, data=bytes(12)),  # overlap
        header({"a": {**ENTRY, "dtype": "F33"}}, data=bytes(8)),
        b"<html>not found</html>",
    ],
)
def test_broken_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BrokenFileError, match=r"model.safetensors is not a whole safetensors file") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """Cut anywhere, a safetensors file or a pickle is refused; no cut gives wrong numbers."""
    whole = save(TENSORS)
    for length in range(0, len(whole), 7):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(BrokenFileError):
            opened(tmp_path)
    torch.save(TENSORS, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:length])
        with pytest.raises(BrokenFileError):
            opened(tmp_path, use_safetensors=False)


def test_pickles_run_no_code(tmp_path: Path) -> None:
    """A pickle that would run a command, or holds anything else than tensors, is refused and runs nothing."""

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harmed",)

    path = tmp_path / "pytorch_model.bin"
    for content in (Harm(), {"a": Harm()}, {"a": torch.zeros(1), "b": Harm()}):
        torch.save(content, path)
        with pytest.raises(BrokenFileError, match="running code"):
            opened(tmp_path)
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(BrokenFileError):
            opened(tmp_path)
    for content in ([torch.zeros(1)], {"model": {"a": torch.zeros(1)}}, {1: torch.zeros(1)}, {"a": 3}):
        torch.save(content, path)
        with pytest.raises(BrokenFileError, match="not a dictionary of tensors"):
            opened(tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_git_lfs_pointer(tmp_path: Path) -> None:
    """A clone without LFS holds pointers: the message says what to run."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(BrokenFileError, match="git lfs pull"):
            opened(tmp_path, use_safetensors=name == "model.safetensors")


def test_unknown_dtype(tmp_path: Path) -> None:
    """A dtype that safetensors has and this library does not is named when the tensor is touched."""
    entry = {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}
    (tmp_path / "model.safetensors").write_bytes(header({"a": entry}, data=bytes(2)))
    weights = opened(tmp_path)
    assert weights.shape("a") == (4,)
    with pytest.raises(WeightsError, match=r"a in .* is stored as F4"):
        weights["a"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[]", "not an object"),
        ("{}", "no weight_map"),
        ('{"weight_map": ["a"]}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {"a": "../part-0.safetensors"}}', "may not lead out"),
        ('{"weight_map": {"a": "/tmp/part-0.safetensors"}}', "may not lead out"),
        ('{"weight_map": {"a": "part-0.bin"}}', "no .safetensors file"),
        ('{"weight_map": {"a": "part-0.safetensors", "z": "part-0.safetensors"}}', "places z in part-0.safetensors"),
    ],
)
def test_broken_index(tmp_path: Path, index: str, message: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (folder, tmp_path):
        write_shards(place, ".safetensors", "unused.json")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BrokenFileError, match=message):
        opened(folder)


def test_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, ".safetensors", "model.safetensors.index.json")
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(
        MissingFileError, match=r"part-2.safetensors \(for the tensors that model.safetensors.index.json"
    ):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("files", "kwargs", "message"),
    [
        ([], {}, "no weights named model.safetensors or pytorch_model.bin; it holds no files"),
        (["config.json"], {}, "it holds config.json: pass the folder"),
        (["tf_model.h5", "flax_model.msgpack"], {}, r"only flax_model.msgpack \(Flax\), tf_model.h5 \(TensorFlow\)"),
        (["q4.gguf"], {}, r"only q4.gguf \(GGUF\), which is not read here: convert it"),
        (["model.fp16.safetensors"], {}, "but model.fp16.safetensors: pass variant='fp16'"),
        (["model.fp16-00001-of-00002.safetensors"], {}, "pass variant='fp16'"),
        (["model.safetensors"], {"variant": "fp16"}, "named model.fp16.safetensors .* pass variant=None"),
        (["pytorch_model.bin"], {"use_safetensors": True}, "named model.safetensors, but .* leave out use_safetensors"),
        (
            ["model.safetensors"],
            {"use_safetensors": False},
            "named pytorch_model.bin, but .* leave out use_safetensors",
        ),
    ],
)
def test_no_weights(tmp_path: Path, files: list[str], kwargs: dict[str, Any], message: str) -> None:
    """The message names what is there instead and the call that would read it."""
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(MissingFileError, match=message) as error:
        opened(tmp_path, **kwargs)
    assert "\n" not in str(error.value)
