"""Caches alone: what each kind holds, forgets, refuses, and writes to a file."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from glassformer.cache import (
    EncoderDecoderCache,
    KVCache,
    KVLayer,
    QuantizedCache,
    QuantizedLayer,
    StaticCache,
    StaticLayer,
    WindowLayer,
)
from glassformer.errors import BrokenFileError, InputError, MissingFileError
from glassformer.structure.attention import Attention
from glassformer.structure.maps import Maps
from glassformer.structure.masks import attention_bias

ROWS, HEADS, WIDTH = 3, 2, 64
MAKE: dict[str, Callable[[], KVLayer]] = {
    "growing": KVLayer,
    "static": lambda: StaticLayer(300),
    "window": lambda: WindowLayer(7, slack=5),
    "int8": QuantizedLayer,
}
kinds = pytest.mark.parametrize("kind", MAKE)


def some(tokens: int, seed: int = 0, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Keys and values of some tokens, of unlike sizes a token."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(2, rows, HEADS, tokens, 1, generator=generator) * 9
    keys, values = torch.randn(2, rows, HEADS, tokens, WIDTH, generator=generator) * size
    return keys, values


def filled(kind: str, tokens: int = 5, layers: int = 2, rows: int = ROWS) -> KVCache:
    cache = KVCache()
    cache.layers = [MAKE[kind]() for _ in range(layers)]
    for index in range(layers):
        cache.update(*some(tokens, seed=index, rows=rows), index)
    return cache


def equal(one: Any, other: Any) -> bool:
    """Whether two caches hold the same."""
    pairs = [pair for layers in zip(one, other) for pair in zip(*layers)]
    return len(one) == len(other) and all(a is b or torch.equal(a, b) for a, b in pairs)


# What is held


@kinds
@given(pieces=st.lists(st.integers(1, 90), min_size=1, max_size=6), cut=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_pieces_are_the_whole(kind: str, pieces: list[int], cut: int) -> None:
    """Tokens that come in pieces, some taken back and given again, are held as those that come at once."""
    total = min(sum(pieces), 300)
    keys, values = some(total)
    layer, whole = MAKE[kind](), MAKE[kind]()
    start = 0
    for piece in pieces:
        stop = min(start + piece, total)
        if stop == start:
            break
        seen = layer.append(keys[:, :, start:stop], values[:, :, start:stop])
        again = min(cut, stop)
        layer.crop(again)
        assert layer.length == stop - again
        if again:
            seen = layer.append(keys[:, :, stop - again : stop], values[:, :, stop - again : stop])
        start = stop
    assert layer.length == total
    whole.append(keys, values)
    assert torch.equal(layer.keys, whole.keys)
    assert torch.equal(layer.values, whole.values)
    if kind in ("growing", "static"):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(seen[1], values)


def test_a_step_copies_nothing_of_the_past() -> None:
    """While there is room a step writes into the buffer that is there; the room then doubles."""
    layer = KVLayer(*some(100))
    moved = []
    for _ in range(200):
        before = layer.held["keys"].data_ptr()
        layer.append(*some(1))
        moved.append(layer.held["keys"].data_ptr() != before)
    assert sum(moved) == 2  # at 128 and 256 tokens


@kinds
def test_rows(kind: str) -> None:
    """Rows can be reordered, left out and repeated, and go on from there; the memory is of the rows that are left."""
    cache = filled(kind)
    keys = cache.layers[0].keys.clone()
    size = cache.nbytes
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert torch.equal(cache.layers[0].keys, keys[[2, 0, 0]])
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 6
    assert all(torch.equal(layer.keys[1:3], layer.keys[[0, 4]]) for layer in cache.layers)
    assert torch.equal(cache.layers[0].keys, keys[[2, 2, 0, 0, 0, 0]])
    assert cache.nbytes == 2 * size
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.nbytes == size // ROWS
    assert torch.equal(cache.layers[1].values, filled(kind).layers[1].values[[2]])
    cache.update(*some(1, rows=1), 0)
    assert cache.get_seq_length() == 6
    cache.reset()
    assert (cache.get_seq_length(), cache.batch_size, cache.nbytes, len(cache)) == (0, 0, 0, 2)


@kinds
@pytest.mark.parametrize("make", [lambda cache: cache.branch(), copy.deepcopy], ids=["branch", "deepcopy"])
def test_copies_are_apart(kind: str, make: Any) -> None:
    """What a copy reads, forgets or reorders leaves the cache alone, and the other way round."""
    for cache in (filled(kind), EncoderDecoderCache(filled(kind), filled(kind))):
        other = make(cache)
        assert type(other) is type(cache)
        assert equal(cache, other)
        other.crop(-2)
        other.update(*some(3, seed=9), 0)
        other.reorder_cache(torch.tensor([0, 0, 0]))
        fresh = filled(kind) if type(cache) is KVCache else EncoderDecoderCache(filled(kind), filled(kind))
        assert equal(cache, fresh)
        cache.update(*some(3, seed=8), 0)
        assert not equal(cache, other)


@kinds
def test_a_prompt_in_branches(kind: str) -> None:
    """`branch(n)` has every row n times, side by side, and the prompt stays as it is."""
    prompt = filled(kind)
    branches = prompt.branch(2)
    assert (prompt.batch_size, branches.batch_size) == (ROWS, 2 * ROWS)
    assert torch.equal(branches.layers[1].values, prompt.layers[1].values.repeat_interleave(2, 0))
    assert KVCache().branch(3).get_seq_length() == 0


def put(layer: KVLayer, keys: Tensor, values: Tensor) -> None:
    """Append as native code does: new tokens are written where the layer says that each row's are."""
    start = layer.length - layer.start
    buffers = layer.extend(tuple(keys.shape), keys.dtype)
    rows = range(len(keys)) if layer.rows is None else layer.rows.tolist()
    assert len(set(rows)) == len(keys), "two rows would be written to one"
    for buffer, new in zip(buffers, (keys, values)):
        for row, tokens in zip(rows, new):
            buffer[row, :, start : start + new.shape[2]] = tokens


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 70)),
    st.tuples(st.just("put"), st.integers(1, 70)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 99), min_size=1, max_size=6)),
    st.tuples(st.just("repeat"), st.integers(1, 3)),
    st.tuples(st.just("crop"), st.integers(0, 80)),
    st.tuples(st.just("branch"), st.integers(1, 2)),
    st.tuples(st.just("look"), st.just(0)),
)


@pytest.mark.parametrize("kind", ["growing", "static"])
@given(steps=st.lists(STEPS, min_size=1, max_size=12), first=st.integers(1, 100))
@settings(max_examples=150, deadline=None)
def test_rows_and_prefixes_are_kept_apart(kind: str, steps: list[tuple[str, Any]], first: int) -> None:
    """Whatever rows go on, come again, share a prefix or are cropped, a layer holds what plain tensors would."""
    layer, expected = KVLayer() if kind == "growing" else StaticLayer(1000), some(first)
    layer.append(*expected)
    left: list[tuple[KVLayer, tuple[Tensor, Tensor]]] = []  # what branches leave behind
    for seed, (name, how) in enumerate(steps):
        batch = len(expected[0])
        if name in ("append", "put"):
            new = some(how, seed=seed, rows=batch)
            layer.append(*new) if name == "append" else put(layer, *new)
            expected = tuple(torch.cat(pair, 2) for pair in zip(expected, new))
        elif name == "select":
            rows = torch.tensor([row % batch for row in how])
            layer.select(rows)
            expected = tuple(part[rows] for part in expected)
        elif name == "repeat" and batch * how < 20:
            layer.repeat(how)
            expected = tuple(part.repeat_interleave(how, 0) for part in expected)
        elif name == "crop":
            how = min(how, layer.length - 1)
            layer.crop(how)
            expected = tuple(part[:, :, : part.shape[2] - how] for part in expected)
        elif name == "branch":
            left.append((layer, expected))
            layer = layer.selected(torch.arange(batch))
        elif name == "look":
            assert torch.equal(layer.keys, expected[0])
        assert (layer.batch, layer.length) == (len(expected[0]), expected[0].shape[2])
    for each, (keys, values) in [*left, (layer, expected)]:
        assert torch.equal(each.keys, keys)
        assert torch.equal(each.values, values)


def test_rows_cost_only_what_is_copied() -> None:
    """Leaving rows out and reordering them copy nothing; a row that comes again is copied into one that has gone."""
    layer = KVLayer(*some(100))
    held = layer.held["keys"]
    layer.select(torch.tensor([2, 0]))
    put(layer, *some(1, rows=2))
    assert layer.held["keys"] is held
    assert torch.equal(layer.keys[:, :, :100], some(100)[0][[2, 0]])
    layer = KVLayer(*some(100))
    held, kept = layer.held["keys"], layer.held["keys"][:2, :, :100].clone()
    layer.select(torch.tensor([0, 1, 0]))
    put(layer, *some(1))
    assert layer.held["keys"] is held
    assert torch.equal(held[:2, :, :100], kept)
    assert torch.equal(held[2, :, :100], kept[0])


def test_what_is_repeated_is_held_once() -> None:
    """A long past costs its memory once, however many rows go on from it; what follows is each row's own."""
    layer = KVLayer(*some(128))
    size = layer.nbytes
    layer.repeat(4)
    assert layer.nbytes == size
    layer.select(torch.arange(4 * ROWS).flip(0))
    put(layer, *some(1, rows=4 * ROWS))
    assert layer.nbytes == size + 4 * size // 2  # room for 64 tokens of each row
    assert torch.equal(layer.keys[:, :, :128], some(128)[0].repeat_interleave(4, 0).flip(0))
    cross = EncoderDecoderCache(KVCache(), KVCache([some(9)]))
    size = cross.nbytes
    cross.batch_repeat_interleave(4)
    assert (cross.nbytes, cross.cross_attention_cache.batch_size) == (size, 4 * ROWS)


def test_layers_are_aligned() -> None:
    """Reading the keys of one layer brings its rows in order, and `align` does so with the others."""
    cache = filled("growing", tokens=70)
    cache.batch_repeat_interleave(2)
    assert cache.layers[1].keys is not None
    cache.align()
    assert [layer.prefix for layer in cache.layers] == [None, None]
    cache.reorder_cache(torch.tensor([0, 2, 1, 3, 4, 4]))
    cache.align()
    assert all(layer.rows is not None for layer in cache.layers)
    assert cache.layers[0].keys is not None
    cache.align()
    assert cache.layers[1].rows is None


def test_other_rows_are_refused() -> None:
    """Rows that are not those of the cache would otherwise be spread over them without a word."""
    with pytest.raises(InputError, match="holds 3 rows, but 1 were given"):
        filled("growing").update(*some(1, rows=1), 0)


@kinds
def test_inference_mode(kind: str) -> None:
    """A cache that was filled in inference mode can be gone on with outside of it."""
    with torch.inference_mode():
        layer = MAKE[kind]()
        layer.append(*some(3))
    layer.append(*some(2, seed=1))
    expected = MAKE[kind]()
    expected.append(*some(3))
    expected.append(*some(2, seed=1))
    assert torch.equal(layer.keys, expected.keys)


@pytest.mark.parametrize("kind", ["growing", "static", "window"])
def test_gradients_pass(kind: str) -> None:
    """A cache that is trained through gives the gradient to every key."""
    layer = MAKE[kind]()
    pieces = [tuple(t.requires_grad_() for t in some(3, seed=n)) for n in range(2)]
    for piece in pieces:
        keys, values = layer.append(*piece)
    (keys.sum() + values.square().sum()).backward()
    for keys, values in pieces:
        assert torch.equal(keys.grad, torch.ones_like(keys))
        assert torch.equal(values.grad, 2 * values.detach())


# A fixed size


def test_a_static_cache_takes_its_memory_at_once() -> None:
    """It never grows, holds exactly what it says, and the token too many is one sentence."""
    cache = StaticCache(config=None, max_cache_len=8)
    assert cache.get_max_length() == 8
    assert KVCache().get_max_length() == -1
    cache.update(*some(5), 0)
    assert cache.nbytes == 2 * ROWS * HEADS * 8 * WIDTH * 4
    cache.update(*some(3), 0)
    assert cache.nbytes == 2 * ROWS * HEADS * 8 * WIDTH * 4
    with pytest.raises(InputError, match=r"room for 8 tokens, and 9 .* max_cache_len"):
        cache.update(*some(1), 0)
    assert cache.get_seq_length() == 8
    cache.crop(-2)
    cache.update(*some(2), 0)


@pytest.mark.parametrize("size", [0, -1, None, 2.5, True])
def test_a_size_that_is_none(size: Any) -> None:
    """A size must be a number of tokens."""
    with pytest.raises(InputError, match="max_cache_len"):
        StaticCache(config=None, max_cache_len=size)


def test_the_peers_constructors() -> None:
    """Caches are made with what people pass there."""
    assert len(KVCache(config=object(), offloading=True)) == 0
    assert KVCache([(*some(4), None)]).get_seq_length() == 4
    assert StaticCache(config=object(), max_cache_len=4, offloading=False).max_cache_len == 4
    assert QuantizedCache("quanto", object(), nbits=8).get_seq_length() == 0
    empty = StaticCache(config=None, max_cache_len=4)  # false, since it has no layers yet
    assert EncoderDecoderCache(empty, KVCache()).self_attention_cache is empty
    both = EncoderDecoderCache([(*some(4), *some(6))])
    assert (both.get_seq_length(), both.cross_attention_cache.get_seq_length()) == (4, 6)
    with pytest.raises(InputError, match="two caches, and int is none"):
        EncoderDecoderCache(KVCache(), 3)
    for wrong in ({"nbits": 4}, {"nbits": 2}, {"backend": "fp8"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            QuantizedCache(**wrong)


# A sliding window


def windowed(attention: Attention, x: Tensor, window: int) -> Tensor:
    """Attention over everything at once, with a mask that leaves every query `window` keys."""
    behind = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    allowed = (behind >= 0) & (behind < window)
    bias, causal = attention_bias(allowed[None, None], x.shape[1], x.shape[1], True, x.dtype)
    output, _ = attention(x, bias, causal)
    return output


@given(
    window=st.integers(1, 9),
    slack=st.integers(0, 3),
    pieces=st.lists(st.sampled_from([1, 1, 1, 2, 5, 150]), min_size=1, max_size=12),
)
@settings(max_examples=40, deadline=None)
def test_a_window_is_full_attention_with_a_window_mask(window: int, slack: int, pieces: list[int]) -> None:
    """Whatever pieces a text comes in, a layer that keeps its window gives what all keys under the mask give."""
    torch.manual_seed(0)
    attention = Attention(16, heads=4, kv_heads=2)
    x = torch.randn(2, sum(pieces), 16)
    layer, outputs, start = WindowLayer(window, slack), [], 0
    with torch.no_grad():
        for piece in pieces:
            seen = min(start, window - 1) + piece
            behind = torch.arange(piece)[:, None] - torch.arange(-(seen - piece), piece)
            allowed = (behind >= 0) & (behind < window)
            bias, causal = attention_bias(allowed[None, None], piece, seen, True, x.dtype)
            output, weights = attention(x[:, start : start + piece], bias, causal, cache=layer, maps=Maps())
            assert weights.shape[-1] == seen
            outputs.append(output)
            start += piece
        torch.testing.assert_close(torch.cat(outputs, 1), windowed(attention, x, window), rtol=1e-5, atol=1e-6)


def test_a_window_forgets() -> None:
    """Memory is bounded by the window, however long the text; the first token of a window of one looks at itself."""
    layer = WindowLayer(16)
    sizes = []
    for tokens in (1000, *[1] * 500):
        layer.append(*some(tokens))
        sizes.append(layer.nbytes)
    per_token = 2 * ROWS * HEADS * WIDTH * 4
    assert max(sizes[1:]) <= per_token * (16 + 3 * 64)
    assert layer.length == 1500
    assert layer.keys.shape[2] == 15
    assert WindowLayer(1).append(*some(1))[0].shape[2] == 1


def test_what_a_window_cannot_take_back() -> None:
    """`crop` goes back as far as the slack at least; further is refused, and leaves the cache as it is."""
    layer = WindowLayer(4, slack=6)
    layer.append(*some(500))
    layer.crop(6)
    assert layer.length == 494
    assert torch.equal(layer.keys, some(500)[0][:, :, 491:494])
    with pytest.raises(InputError, match=r"1 tokens cannot be taken back.* crop at most 0"):
        layer.crop(1)
    assert layer.length == 494
    short = WindowLayer(4, slack=0)
    short.append(*some(3))
    short.crop(3)  # nothing was forgotten yet
    assert short.length == 0
    with pytest.raises(InputError, match="window of 0"):
        WindowLayer(0)


# Eight bits


@pytest.mark.parametrize("width", [16, 64, 128])
def test_eight_bits_are_small(width: int) -> None:
    """With its scales and its room it takes at most 30 % of what the same tokens take in fp32."""
    keys = torch.randn(1, 4, 700, width)
    plain, small = KVLayer(keys, keys), QuantizedLayer()
    small.append(keys, keys)
    assert small.nbytes <= 0.3 * plain.nbytes


def test_eight_bits_are_close() -> None:
    """No number is further off than half a step of its head and token, and a little for the scale's own rounding."""
    layer = QuantizedLayer()
    keys, values = some(50)
    keys[0, 0, 0] = 0
    for exact, rounded in zip((keys, values), layer.append(keys, values)):
        most = exact.abs().amax(-1, keepdim=True)
        assert bool(((exact - rounded).abs() <= most / 127 * 0.51 + most * 2**-8 * 1.01).all())
        step = (exact - rounded).abs() / most.clamp(min=1e-9)
        assert float(step.mean()) < 0.0025
    assert not layer.keys[0, 0, 0].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_eight_bits_give_back_the_type(dtype: torch.dtype) -> None:
    """Keys come back in the type in which they went in, also through a file."""
    cache = QuantizedCache()
    keys, values = cache.update(*(t.to(dtype) for t in some(3)), 0)
    assert keys.dtype == values.dtype == dtype
    assert bool(keys.isfinite().all())


def test_eight_bits_have_no_gradient() -> None:
    """Rounding has none, so training through such a cache is refused."""
    keys, values = (t.requires_grad_() for t in some(2))
    with pytest.raises(InputError, match="no gradient"):
        QuantizedLayer().append(keys, values)


# Files

CACHES: dict[str, Callable[[], KVCache]] = {
    **{kind: lambda kind=kind: filled(kind, 20) for kind in MAKE},
    "empty": KVCache,
    "encoder-decoder": lambda: EncoderDecoderCache(filled("int8"), filled("growing", 9)),
}


def static() -> StaticCache:
    cache = StaticCache(config=None, max_cache_len=9)
    cache.update(*some(4), 0)
    return cache


def quantized() -> QuantizedCache:
    cache = QuantizedCache()
    cache.update(*some(4), 0)
    return cache


CACHES |= {"StaticCache": static, "QuantizedCache": quantized}


@pytest.mark.parametrize("name", CACHES)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A cache that was saved goes on as the one that was not: same class, same numbers, same limits."""
    cache = CACHES[name]()
    path = tmp_path / "cache.safetensors"
    for _ in range(2):  # a file that is there is replaced
        cache.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["cache.safetensors"]
    loaded = KVCache.load(path)
    assert type(loaded) is type(cache)
    assert equal(cache, loaded)
    for one in (cache, loaded):
        one.crop(-2)
        one.update(*some(3, seed=4), 0)
    assert equal(cache, loaded)
    assert loaded.get_max_length() == cache.get_max_length()
    assert [layer.facts() for layer in loaded.layers] == [layer.facts() for layer in cache.layers]


def test_a_file_holds_tokens_not_room(tmp_path: Path) -> None:
    """The room for more tokens is not written."""
    path = tmp_path / "cache"
    filled("static", tokens=5, layers=1).save(path)
    assert {tuple(t.shape) for t in load_file(path).values()} == {(ROWS, HEADS, 5, WIDTH)}


def altered(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> None:
    """The saved file of a cache, with its facts or its tensors changed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["cache"])
    tensors = load_file(path)
    facts = change(facts, tensors) or facts
    save_file(tensors, path, metadata={"cache": json.dumps(facts)})


def layers(facts: dict[str, Any]) -> list[dict[str, Any]]:
    return facts["self"]["layers"]


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], Any]] = {
    "another length": lambda f, t: layers(f)[0].update(length=6),
    "a huge length": lambda f, t: layers(f)[0].update(length=10**30),
    "a length that is text": lambda f, t: layers(f)[0].update(length="5"),
    "a length that is none": lambda f, t: layers(f)[0].pop("length"),
    "no tokens": lambda f, t: layers(f)[0].update(length=0),
    "another kind": lambda f, t: layers(f)[0].update(kind="int8"),
    "an unknown kind": lambda f, t: layers(f)[0].update(kind="__class__"),
    "a size that is too small": lambda f, t: layers(f)[0].update(kind="static", size=2),
    "a window that lacks tokens": lambda f, t: layers(f)[0].update(kind="window", window=5, slack=0, start=3),
    "an unknown class": lambda f, t: f["self"].update({"class": "object"}),
    "a static class without a size": lambda f, t: f["self"].update({"class": "StaticCache"}),
    "a missing part": lambda f, t: f.update({"class": "EncoderDecoderCache"}),
    "another version": lambda f, t: f.update(version=2),
    "facts that are a list": lambda f, t: [f],
    "a layer too few": lambda f, t: layers(f).pop() and None,
    "a layer too many": lambda f, t: layers(f).append({"kind": "growing", "length": 5}),
    "a missing tensor": lambda f, t: t.pop("self.0.keys") * 0 and None,
    "a tensor too many": lambda f, t: t.update(other=torch.zeros(1)),
    "three dimensions": lambda f, t: t.update({"self.0.keys": t["self.0.keys"][0].contiguous()}),
    "other rows": lambda f, t: t.update({"self.0.keys": t["self.0.keys"][:1].contiguous()}),
    "fewer rows in a layer": lambda f, t: t.update(
        {name: t[name][:1].contiguous() for name in ("self.0.keys", "self.0.values")}
    ),
    "whole numbers": lambda f, t: t.update({"self.0.keys": t["self.0.keys"].int()}),
    "a mix of types": lambda f, t: t.update({"self.0.keys": t["self.0.keys"].half()}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_say_what_is_not_so(change: str, tmp_path: Path) -> None:
    """A file whose facts and tensors do not agree is one sentence."""
    path = tmp_path / "cache"
    filled("growing").save(path)
    if change == "a missing tensor":
        altered(path, lambda f, t: t.pop("self.0.keys") is None or f)
    else:
        altered(path, CHANGES[change])
    with pytest.raises(BrokenFileError, match="not a whole file of a cache"):
        KVCache.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 64, b"{}", save({"x": torch.zeros(2)}), save({"x": torch.zeros(2)}, {"cache": "[" * 10**5})],
    ids=["empty", "noise", "json", "no cache", "deep json"],
)
def test_files_that_are_no_cache(content: bytes, tmp_path: Path) -> None:
    """Other files, and a cache cut short at any place, are one sentence too."""
    path = tmp_path / "cache"
    path.write_bytes(content)
    with pytest.raises(BrokenFileError, match="not a whole file of a cache"):
        KVCache.load(path)
    filled("growing").save(path)
    whole = path.read_bytes()
    for part in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(BrokenFileError, match="not a whole file of a cache"):
            KVCache.load(path)
    with pytest.raises(MissingFileError, match="no file"):
        KVCache.load(tmp_path / "nothing")
