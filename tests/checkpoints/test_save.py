"""Saving: the peer's names and content, and a folder that is old or new, never a mixture, whatever interrupts."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from safetensors import safe_open

from glassformer.checkpoints import save as save_module
from glassformer.checkpoints.hub import Repository, read_json
from glassformer.checkpoints.save import save_weights, write_files
from glassformer.checkpoints.weights import open_weights
from glassformer.errors import InputError, WeightsError


@functools.cache
def peer_model(seed: int, inner: int = 24) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=inner,
        max_position_embeddings=20,
    )
    return transformers.BertModel(config)


def texts(model: transformers.PreTrainedModel) -> dict[str, str]:
    model.config.architectures = ["BertModel"]
    return {"config.json": model.config.to_json_string(use_diff=False)}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# What is written


@pytest.mark.parametrize("shard_size", ["50GB", "6KB", 3000, "0.004MB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_same_files_as_the_peer(tmp_path: Path, shard_size: int | str, variant: str | None) -> None:
    """Names, shards, index and headers are the peer's; the peer loads the folder, and gets the same numbers."""
    model = peer_model(0)
    model.save_pretrained(tmp_path / "peer", max_shard_size=shard_size, variant=variant)
    names = save_weights(tmp_path / "ours", model.state_dict(), texts(model), shard_size, variant)
    ours, peers = contents(tmp_path / "ours"), contents(tmp_path / "peer")
    assert sorted(names) == sorted(ours) == sorted(peers)
    for name in names:
        if name.endswith(".safetensors"):
            with safe_open(tmp_path / "ours" / name, "pt") as mine, safe_open(tmp_path / "peer" / name, "pt") as peer:
                assert sorted(mine.keys()) == sorted(peer.keys())
                assert mine.metadata() == peer.metadata() == {"format": "pt"}
        elif name != "config.json":
            assert ours[name] == peers[name]
    loaded, info = transformers.AutoModel.from_pretrained(tmp_path / "ours", variant=variant, output_loading_info=True)
    assert not any(info.values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    """Views that are not contiguous, parameters, scalars, empty ones and small dtypes arrive as they are."""
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "transposed": base.t(),
        "part": base.clone()[:, 1:3],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
    }
    save_weights(tmp_path, tensors, {})
    loaded = open_weights(Repository(tmp_path))
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_saving_over_the_mapped_file(tmp_path: Path) -> None:
    """Weights mapped from a folder can be changed and saved to it, again and again, in one file or in shards."""
    save_weights(tmp_path, {name: torch.full((64, 64), 1.0) for name in "abc"}, {"config.json": "{}"})
    for value, shard_size in ((1, "50GB"), (2, "20KB"), (3, "20KB"), (4, "50GB")):
        tensors = dict(open_weights(Repository(tmp_path)))
        assert all((tensor == value).all() for tensor in tensors.values())
        tensors["a"] += 1
        save_weights(tmp_path, {**tensors, "b": tensors["b"] + 1, "c": tensors["c"] + 1}, {}, shard_size)
        assert (tensors["c"] == value).all()


def test_stale_weights_go_and_other_files_stay(tmp_path: Path) -> None:
    """Shards and index of an earlier save are removed; the user's files, other variants and folders are not."""
    kept = ["notes.txt", "tokenizer.json", "pytorch_model.bin", "model-big.safetensors", "model.fp16.safetensors"]
    for name in kept:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log").write_bytes(b"mine")
    tensors = {name: torch.zeros(100) for name in "abc"}
    for shard_size, expected in (
        (
            400,
            [
                "model-00001-of-00003.safetensors",
                "model-00002-of-00003.safetensors",
                "model-00003-of-00003.safetensors",
            ],
        ),
        (800, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (1200, ["model.safetensors"]),
        (
            400,
            [
                "model-00001-of-00003.safetensors",
                "model-00002-of-00003.safetensors",
                "model-00003-of-00003.safetensors",
            ],
        ),
    ):
        save_weights(tmp_path, tensors, {"config.json": "{}"}, shard_size)
        index = ["model.safetensors.index.json"] * (len(expected) > 1)
        assert sorted(os.listdir(tmp_path)) == sorted([*expected, *index, *kept, "config.json", "runs"])
    assert all((tmp_path / name).read_bytes() == b"mine" for name in [*kept, "runs/log"])


def test_file_mode_follows_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        save_weights(tmp_path / "new", {"a": torch.zeros(1), "b": torch.zeros(1)}, {"config.json": "{}"}, 4)
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()} == {0o640}


def test_wrong_arguments(tmp_path: Path) -> None:
    """A file as target, a size that is none, tensors that share memory: each is one clear error, nothing changes."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file: pass the name of a folder"):
        save_weights(tmp_path / "file", {"a": torch.zeros(1)}, {})
    for size in ("5 apples", "GB", None):
        with pytest.raises(InputError, match="is no size"):
            save_weights(tmp_path / "new", {"a": torch.zeros(1)}, {}, size)  # type: ignore[arg-type]
    shared = torch.zeros(4)
    save_weights(tmp_path / "old", {"a": shared}, {})
    before = contents(tmp_path / "old")
    with pytest.raises(WeightsError, match="share memory"):
        save_weights(tmp_path / "old", {"a": shared, "b": shared}, {})
    assert contents(tmp_path / "old") == before
    assert (tmp_path / "file").read_text() == "mine"


# Interruptions

Save = Callable[[Path, int], None]


def saver(inner: int, shard_size: int | str, variant: str | None = None) -> Save:
    """A save of the model of a seed; `inner` changes the configuration and the shapes."""

    def run(folder: Path, seed: int) -> None:
        model = peer_model(seed, inner)
        save_weights(folder, model.state_dict(), texts(model), shard_size, variant)

    return run


def holds(folder: Path, seed: int, inner: int, variant: str | None = None) -> bool:
    """Whether a folder is the model of a seed, through this library's reader: configuration, names and values."""
    expected = peer_model(seed, inner).state_dict()
    weights = open_weights(Repository(folder), variant)
    return (
        read_json(folder / "config.json")["intermediate_size"] == inner
        and set(weights) == set(expected)
        and all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    )


def peer_holds(folder: Path, seed: int, inner: int) -> bool:
    """The same, through the peer."""
    loaded, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    expected = peer_model(seed, inner).state_dict()
    return (
        loaded.config.intermediate_size == inner
        and not any(info.values())
        and all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    )


KINDS = [
    pytest.param((24, "50GB"), (24, "50GB"), id="one file over one"),
    pytest.param((24, "50GB"), (32, "50GB"), id="one file over one, another configuration"),
    pytest.param((24, "50GB"), (32, "6KB"), id="shards over one file"),
    pytest.param((24, "6KB"), (24, "6KB"), id="shards over shards of the same names"),
    pytest.param((24, "6KB"), (32, "8KB"), id="shards over other shards"),
    pytest.param((24, "6KB"), (24, "50GB"), id="one file over shards"),
    pytest.param((24, "6KB"), (32, "50GB"), id="one file over shards, another configuration"),
]


class Killed(BaseException):
    """Stands for the end of the process: no handler of ordinary errors sees it."""


def count_steps(monkeypatch: pytest.MonkeyPatch, raise_at: int, error: BaseException) -> list[str]:
    """Let the nth step that touches the disk raise before it does anything; the list of steps grows as they happen."""
    steps: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            if len(steps) == raise_at:
                raise error
            return function(*args, **kwargs)

        return step

    monkeypatch.setattr(os, "replace", counted("replace", os.replace))
    monkeypatch.setattr(os, "link", counted("link", os.link))
    monkeypatch.setattr(os, "fsync", counted("fsync", os.fsync))
    monkeypatch.setattr(Path, "unlink", counted("unlink", Path.unlink))
    monkeypatch.setattr(Path, "mkdir", counted("mkdir", Path.mkdir))
    monkeypatch.setattr(shutil, "rmtree", counted("rmtree", shutil.rmtree))
    monkeypatch.setattr(safetensors.torch, "save_file", counted("save_file", safetensors.torch.save_file))
    return steps


@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device")], ids=["killed", "disk full"])
@pytest.mark.parametrize(("old", "new"), KINDS)
def test_interrupted_at_every_step(
    tmp_path: Path, old: tuple[int, str], new: tuple[int, str], error: BaseException
) -> None:
    """Whichever step fails, the folder is the whole old checkpoint or the whole new one, for both libraries.

    A kill leaves what was not cleaned up; the next save succeeds and leaves nothing over.
    """
    base = tmp_path / "base"
    saver(*old)(base, 1)
    (base / "notes.txt").write_text("mine")
    seen: list[bool] = []
    for step in itertools.count(1):
        folder = tmp_path / f"step{step}"
        shutil.copytree(base, folder)
        with pytest.MonkeyPatch.context() as patch:
            steps = count_steps(patch, step, error)
            if isinstance(error, Killed):
                patch.setattr(save_module, "_in_use", lambda *_: True)  # nothing is cleaned up after the end
            try:
                saver(*new)(folder, 2)
                finished = len(steps) < step
            except (Killed, OSError):
                finished = False
        if finished:
            break
        is_new = holds(folder, 2, new[0])
        assert is_new or holds(folder, 1, old[0])
        if steps[-1] in ("replace", "unlink"):  # the others change nothing that a reader sees
            assert peer_holds(folder, *((2, new[0]) if is_new else (1, old[0])))
        seen.append(is_new)
        saver(*old)(folder, 3)
        assert holds(folder, 3, old[0])
        assert sorted(os.listdir(folder)) == sorted(os.listdir(base))
    assert seen == sorted(seen)  # once new, it stays new
    assert seen[0] is False
    assert len(seen) > 5


@pytest.mark.parametrize("sizes", [("50GB", "50GB"), ("50GB", "6KB"), ("6KB", "6KB"), ("6KB", "50GB")])
def test_variants_are_saved_as_safely(tmp_path: Path, sizes: tuple[str, str]) -> None:
    """Interrupted anywhere, a save of a variant leaves the plain weights and an old or new variant."""
    base = tmp_path / "base"
    saver(24, "50GB")(base, 0)
    saver(24, sizes[0], "fp16")(base, 1)
    for step in itertools.count(1):
        folder = tmp_path / f"step{step}"
        shutil.copytree(base, folder)
        with pytest.MonkeyPatch.context() as patch:
            steps = count_steps(patch, step, Killed())
            patch.setattr(save_module, "_in_use", lambda *_: True)
            try:
                saver(24, sizes[1], "fp16")(folder, 2)
                if len(steps) < step:
                    break
            except Killed:
                assert steps
        assert holds(folder, 0, 24)
        assert holds(folder, 1, 24, "fp16") or holds(folder, 2, 24, "fp16")
    assert step > 5


def test_next_save_finishes_an_interrupted_one(tmp_path: Path) -> None:
    """Killed right after the commit, then a variant is saved: the plain weights of the killed save are kept."""
    saver(24, "50GB")(tmp_path, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save_module, "_settle", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            saver(32, "6KB")(tmp_path, 2)
    assert read_json(tmp_path / "config.json")["transformers_weights"].startswith(".saving-")
    saver(32, "50GB", "fp16")(tmp_path, 3)
    assert holds(tmp_path, 2, 32)
    assert holds(tmp_path, 3, 32, "fp16")
    assert not list(tmp_path.glob(".saving-*"))
    assert "transformers_weights" not in read_json(tmp_path / "config.json")


def test_pointer_is_not_saved_along(tmp_path: Path) -> None:
    """A configuration read while it pointed elsewhere is saved without that key, which would mislead the new folder."""
    config = {"intermediate_size": 1, "transformers_weights": "gone.safetensors"}
    save_weights(tmp_path, {"a": torch.ones(1)}, {"config.json": json.dumps(config)})
    assert read_json(tmp_path / "config.json") == {"intermediate_size": 1}
    assert list(open_weights(Repository(tmp_path))) == ["a"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no hard links gets copies instead."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    saver(24, "6KB")(tmp_path, 1)
    saver(32, "6KB")(tmp_path, 2)
    assert holds(tmp_path, 2, 32)


def test_over_a_broken_folder(tmp_path: Path) -> None:
    """A folder whose config.json is broken, or points at what is gone, can be saved to."""
    for broken in ("{", json.dumps({"transformers_weights": ".saving-0/x.safetensors"})):
        (tmp_path / "config.json").write_text(broken)
        saver(24, "50GB")(tmp_path, 1)
        assert holds(tmp_path, 1, 24)


def test_write_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text files are written as they are; a failure leaves the old files and nothing else."""
    folder = tmp_path / "new"
    assert write_files(folder, {"config.json": "é", "inner/b.bin": b"\xff"})[1] == str(folder / "inner" / "b.bin")
    assert sorted(os.listdir(folder)) == ["config.json", "inner"]
    assert (folder / "config.json").read_bytes() == "é".encode()
    assert (folder / "inner" / "b.bin").read_bytes() == b"\xff"
    with pytest.raises(InputError, match="is a file"):
        write_files(folder / "config.json", {})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_files(folder, {"config.json": "changed"})
    assert sorted(os.listdir(folder)) == ["config.json", "inner"]
    assert (folder / "config.json").read_bytes() == "é".encode()


@pytest.mark.slow
def test_killed_for_real(tmp_path: Path) -> None:
    """SIGKILL at many moments of a process that saves all the time: the folder always holds one whole save."""
    program = """
import sys, itertools, torch
from glassformer.checkpoints.save import save_weights
for i in itertools.count(1):
    tensors = {name: torch.full((50,), float(i)) for name in "abc"}
    save_weights(sys.argv[1], tensors, {"config.json": '{"i": %d}' % i}, [200, 9999][i % 2])
    if i == 1: print("ready", flush=True)
"""
    for moment in range(5):
        process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05 + 0.0217 * moment)
        process.kill()
        process.communicate()
        expected = read_json(tmp_path / "config.json")["i"]
        weights = open_weights(Repository(tmp_path))
        assert sorted(weights) == ["a", "b", "c"]
        assert all((weights[name] == expected).all() for name in weights)
