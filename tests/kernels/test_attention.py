"""Attention in native code against the textbook in float64: every way in which it is cut, masked and laid out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .programs import caches, each_isa, guarded, needs_library, op, run, spaced

pytestmark = needs_library
many = settings(max_examples=30, deadline=None)


def textbook(query, key, value, scale, seen, bias=0.0):
    """The output of one head: query (T, d), key and value (S, d), `seen` (T, S); zeros where none is."""
    with np.errstate(invalid="ignore", over="ignore"):
        scores = query.astype(np.float64) @ key.astype(np.float64).T * scale + bias
        scores[~seen] = -np.inf
        largest = np.maximum(scores.max(-1, keepdims=True, initial=-np.inf), -1e300)
        weights = np.exp(scores - largest)
        total = weights.sum(-1, keepdims=True)
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return weights @ value.astype(np.float64)


class Case:
    """Random texts of new tokens and keys, with everything that the kernel and the textbook need."""

    def __init__(self, seed, lengths, past, heads, group, head_dim, causal, relative=False, size=1.0, first=0):
        self.rng = rng = np.random.default_rng(seed)
        self.heads, self.group, self.head_dim, self.causal = heads * group, group, head_dim, causal
        self.kv_heads = heads
        self.lengths, self.starts = lengths, [0, *np.cumsum(lengths).tolist()]
        tokens, width = self.starts[-1], self.heads * head_dim
        self.x, self.query = spaced(rng, tokens, width, width + int(rng.integers(0, 40)))
        self.out, self.got = spaced(rng, tokens, width, width + int(rng.integers(0, 9)))
        self.query *= size
        self.keys = [length + before for length, before in zip(lengths, past, strict=True)]
        self.first = [min(first, keys) for keys in self.keys]
        self.places = [keys - length + np.arange(length) for keys, length in zip(self.keys, lengths, strict=True)]
        room = max(self.keys) + int(rng.integers(0, 3))
        # What lies outside the keys of a text must not be read: it would turn everything into NaN.
        layers = np.full((2, 2, len(lengths), heads, room, head_dim), np.nan, np.float32)
        for text, (first_key, last) in enumerate(zip(self.first, self.keys, strict=True)):
            shape = layers[:, :, text, :, first_key:last].shape
            layers[:, :, text, :, first_key:last] = rng.standard_normal(shape)
        self.layers = [tuple(map(guarded, layer)) for layer in layers]
        self.span = max(self.keys) + 1
        self.relative = guarded(rng.standard_normal((self.heads, 2 * self.span - 1))) if relative else None
        self.scale = head_dim**-0.5

    def op(self, **fields):
        given = {
            "x": self.x,
            "out": self.out,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "causal": self.causal,
            "layer": 1,
            "scale": self.scale,
            "x_stride": self.query.strides[0] // 4,
            "out_stride": self.got.strides[0] // 4,
        }
        if self.relative is not None:
            given |= {"relative": self.relative, "relative_span": self.span}
        return op("attention", **{**given, **fields})

    def run(self, isa, threads=1, op=None, **fields):
        given = {"first_key": self.first, "keys": self.keys, "cache": caches(*self.layers)}
        return run([op or self.op()], isa, threads, self.starts, **{**given, **fields})

    def expected(self, text, head, layer=1):
        """The textbook's output (T, head_dim) of a text and head, over its keys from the first."""
        rows, columns = slice(*self.starts[text : text + 2]), slice(head * self.head_dim, (head + 1) * self.head_dim)
        keys = np.arange(self.first[text], self.keys[text])
        key, value = (part[text, head // self.group, keys] for part in self.layers[layer])
        distance = keys[None] - self.places[text][:, None]
        seen = distance <= 0 if self.causal else np.ones_like(distance, bool)
        bias = 0.0 if self.relative is None else self.relative[head].astype(np.float64)[distance + self.span - 1]
        return textbook(self.query[rows, columns], key, value, self.scale, seen, bias)

    def check(self, tolerance=2e-5):
        for text in range(len(self.lengths)):
            for head in range(self.heads):
                rows = slice(*self.starts[text : text + 2])
                got = self.got[rows, head * self.head_dim : (head + 1) * self.head_dim]
                np.testing.assert_allclose(got, self.expected(text, head), rtol=tolerance, atol=tolerance)


def cases(**fixed):
    """Keyword arguments of `Case`, some of them fixed."""
    texts = st.integers(1, 4).flatmap(
        lambda count: st.tuples(
            st.lists(st.integers(1, 80), min_size=count, max_size=count),
            st.lists(st.integers(0, 90), min_size=count, max_size=count),
        )
    )
    drawn = {
        "seed": st.integers(0, 2**32 - 1),
        "texts": texts,
        "heads": st.integers(1, 3),
        "group": st.sampled_from([1, 2, 3, 8]),
        "head_dim": st.sampled_from([1, 5, 16, 64, 80, 96]),
        "causal": st.booleans(),
        "relative": st.booleans(),
        "size": st.sampled_from([1.0, 1e-3, 30.0]),
        "first": st.sampled_from([0, 1, 20]),
    }
    drawn |= {name: value if isinstance(value, st.SearchStrategy) else st.just(value) for name, value in fixed.items()}

    def make(texts, **arguments):
        return Case(lengths=texts[0], past=texts[1], **arguments)

    return st.builds(make, **drawn)


# Decoding: a few rows a text, from none to many keys before them.
few = st.integers(1, 5).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(1, 4), min_size=count, max_size=count),
        st.lists(st.one_of(st.integers(0, 100), st.integers(500, 1500)), min_size=count, max_size=count),
    )
)


@each_isa
@many
@given(case=cases(), threads=st.integers(1, 5))
def test_prefill_equals_the_textbook(isa, case, threads):
    """Panels of queries, grouped heads, odd sizes, padding at the left, distances: as in float64."""
    assert case.run(isa, threads) == 0
    case.check(2e-5 if abs(case.query).max() < 20 else 2e-3)


@each_isa
@many
@given(case=cases(texts=few, size=1.0), threads=st.integers(1, 5))
def test_decoding_equals_the_textbook(isa, case, threads):
    """One to four new tokens over caches long enough to be cut, whose parts are put together again."""
    assert case.run(isa, threads) == 0
    case.check()


@each_isa
@many
@given(case=cases(first=0), threads=st.integers(1, 3), data=st.data())
def test_without_a_cache(isa, case, threads, data):
    """Keys and values of the call's own rows, of strides of their own, as encoders and losses have them."""
    bounded = data.draw(st.booleans())
    case.keys = [data.draw(st.integers(0, length)) if bounded else length for length in case.lengths]
    case.first = [data.draw(st.integers(0, keys)) if bounded else 0 for keys in case.keys]
    case.places = [np.arange(length) for length in case.lengths]
    width = case.kv_heads * case.head_dim
    sides = [spaced(case.rng, case.starts[-1], width, width + gap) for gap in (3, 11)]
    layer = [np.zeros((len(case.lengths), case.kv_heads, max(case.lengths), case.head_dim)) for _ in "kv"]
    for part, (_, side) in zip(layer, sides, strict=True):
        for text, length in enumerate(case.lengths):
            own = side[case.starts[text] : case.starts[text + 1]].reshape(length, case.kv_heads, case.head_dim)
            part[text, :, :length] = own.transpose(1, 0, 2)
    case.layers = [None, tuple(layer)]
    fields = {"layer": -1, "gate": sides[0][0], "gate_stride": width + 3, "weight": sides[1][0], "ld": width + 11}
    bounds = {"first_key": case.first, "keys": case.keys} if bounded else {}
    assert run([case.op(**fields)], isa, threads, case.starts, **bounds) == 0
    case.check(2e-5 if abs(case.query).max() < 20 else 2e-3)


@each_isa
@many
@given(case=cases(first=0), threads=st.integers(1, 3), data=st.data())
def test_places(isa, case, threads, data):
    """Where the call says at which keys its tokens lie, queries see what lies up to them: as with padding behind."""
    case.keys = [data.draw(st.integers(0, keys)) for keys in case.keys]
    assert case.run(isa, threads, places=np.concatenate(case.places)) == 0
    case.check(2e-5 if abs(case.query).max() < 20 else 2e-3)


@each_isa
@many
@given(case=cases(causal=False, relative=False), threads=st.integers(1, 3))
def test_memory(isa, case, threads):
    """Cross-attention reads the memory's keys, with bounds of their own; those of self-attention do not matter."""
    given = {"memory": caches(*case.layers), "memory_first": case.first, "memory_keys": case.keys}
    assert run([case.op(layer=1001)], isa, threads, case.starts, **given) == 0
    case.check(2e-5 if abs(case.query).max() < 20 else 2e-3)


@each_isa
@many
@given(case=st.one_of(cases(size=1.0), cases(texts=few, size=1.0)), threads=st.integers(1, 3), data=st.data())
def test_rows_and_a_shared_prefix(isa, case, threads, data):
    """Texts have rows of the cache in any order, and begin with rows of a prefix that several may share."""
    texts = len(case.lengths)
    split = data.draw(st.integers(0, min(case.keys)))
    rows = np.array(data.draw(st.permutations(range(texts + 1)))[:texts])
    shared = np.array(data.draw(st.lists(st.integers(0, texts - 1), min_size=texts, max_size=texts)))
    case.first = [0] * texts
    own, prefix = [], []
    for layer in case.layers:
        own.append([]), prefix.append([])
        for part in layer:
            part[np.isnan(part)] = 1.5
            beginning = guarded(part[:, :, :split])
            part[:, :, :split] = beginning[shared]
            tail = np.full((texts + 1, *part.shape[1:]), np.nan, np.float32)[:, :, split:]
            for text, keys in enumerate(case.keys):
                tail[rows[text], :, : keys - split] = part[text, :, split:keys]
            own[-1].append(guarded(tail)), prefix[-1].append(beginning)
    given = {"cache": caches(*own), "rows": rows, "prefix": caches(*prefix), "prefix_rows": shared}
    assert case.run(isa, threads, prefix_keys=split, **given) == 0
    case.check()


@each_isa
def test_shared_memory(isa):
    """Several texts look at one row of the memory."""
    case = Case(4, [1, 2, 30], [40, 39, 11], heads=2, group=2, head_dim=24, causal=False)
    rows = [2, 0, 2]
    given = {"memory": caches(*case.layers), "memory_first": [0, 0, 0], "memory_keys": [41, 41, 41]}
    assert case.run(isa, 2, case.op(layer=1001), memory_rows=rows, **given) == 0
    case.layers = [tuple(part[rows] for part in layer) for layer in case.layers]
    case.check()


@each_isa
@pytest.mark.parametrize(("lengths", "past"), [([70, 9, 33], [0, 4, 50]), ([1, 1, 2], [1400, 3, 700])])
def test_threads_and_company_do_not_matter(isa, lengths, past):
    """Bit for bit the same on one to five threads, and whatever other texts are in the call."""
    case = Case(0, lengths, past, heads=3, group=2, head_dim=64, causal=True)
    assert case.run(isa) == 0
    alone = case.got.copy()
    for threads in range(2, 6):
        case.out[:] = np.nan
        assert case.run(isa, threads) == 0
        np.testing.assert_array_equal(case.got, alone)
    for text in range(len(lengths)):
        rows = slice(*case.starts[text : text + 2])
        layers = [tuple(guarded(part[text : text + 1]) for part in layer) for layer in case.layers]
        case.out[:] = np.nan
        assert run(
            [case.op(x=case.x[case.starts[text] * (case.query.strides[0] // 4) :])], isa, 2, [0, lengths[text]],
            first_key=[0], keys=[case.keys[text]], cache=caches(*layers),
        ) == 0  # fmt: skip
        np.testing.assert_array_equal(case.got[: lengths[text]], alone[rows])


@each_isa
def test_no_key_gives_zeros(isa):
    """A query that sees nothing gets zeros, few rows or many, and never NaN."""
    for length in (1, 3, 40):
        case = Case(1, [length], [0], heads=2, group=1, head_dim=8, causal=True, first=2)
        case.first = [min(length, 2)]
        case.out[:] = np.nan
        assert case.run(isa) == 0
        assert (case.got[:2] == 0).all()
        assert np.isfinite(case.got).all()


@each_isa
@pytest.mark.parametrize("length", [1, 40])
def test_extreme_scores(isa, length):
    """Scores beyond what e^x can hold give the value of the largest key; NaN is not hidden, nor does it spread."""
    case = Case(2, [length], [50], heads=2, group=1, head_dim=16, causal=True)
    case.query[:, 0], case.layers[1][0][0, 0, : 50 + length, 0] = 3e4, np.arange(50 + length) * 100
    assert case.run(isa, 2) == 0
    for query in range(length):
        np.testing.assert_array_equal(case.got[query, :16], case.layers[1][1][0, 0, 50 + query])
    case.query[length - 1, 20] = np.nan
    assert case.run(isa, 2) == 0
    assert np.isnan(case.got[length - 1, 16:]).all()
    assert np.isfinite(case.got[:, :16]).all()
    assert np.isfinite(case.got[: length - 1]).all()


@each_isa
def test_distances_beyond_the_table(isa):
    """They count as its furthest."""
    for length in (2, 50):
        case = Case(3, [length], [60], heads=2, group=1, head_dim=16, causal=True, relative=True)
        case.relative[:, : case.span - 5] = case.relative[:, case.span - 5 : case.span - 4]
        short = guarded(case.relative[:, case.span - 5 : case.span + 4])
        assert case.run(isa, op=case.op(relative=short, relative_span=5)) == 0
        case.check()
