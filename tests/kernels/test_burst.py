"""Steps that follow each other in native code: the same choices as one by one, and the ends at which they stop."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glassformer.kernels import native

from .programs import ISAS, each_isa, guarded, needs_library, op, run

pytestmark = needs_library

TOKENS, WIDTH = 23, 9


class Model:
    """The next token follows from the one before and from its position: out = W (table[id] + positions[place])."""

    def __init__(self, seed, texts):
        rng = np.random.default_rng(seed)
        self.table, self.positions = (guarded(rng.standard_normal((count, WIDTH))) for count in (TOKENS, 40))
        self.head = guarded(rng.standard_normal((TOKENS, WIDTH)))
        self.states, self.scores = guarded(np.zeros((texts, WIDTH))), guarded(np.zeros((texts, TOKENS)))
        self.ids = guarded(rng.integers(0, TOKENS, texts), np.int64)
        self.moving = guarded(rng.integers(0, 8, texts), np.int64)  # which are the positions

    def program(self):
        shapes = {"x_stride": WIDTH, "inputs": WIDTH}
        return [
            op("embed", out=self.states, out_stride=WIDTH, outputs=WIDTH, weight=self.table, ld=WIDTH, scale=1.0,
               positions=self.positions),
            op("linear", x=self.states, out=self.scores, out_stride=TOKENS, outputs=TOKENS, weight=self.head, ld=WIDTH,
               **shapes),
            op("choose", x=self.scores, x_stride=TOKENS, inputs=TOKENS),
        ]  # fmt: skip

    def expected(self, steps):
        """(steps, texts), by float64."""
        ids, found = self.ids.copy(), []
        for step in range(steps):
            states = self.table[ids].astype(np.float64) + self.positions[self.moving + step]
            found.append(ids := (states @ self.head.T.astype(np.float64)).argmax(-1))
        return np.array(found)

    def burst(self, isa, threads, steps, ends, milliseconds=10_000):
        """How many steps were made, and their choices, (steps, texts); -1 where there were none."""
        chosen = guarded(np.full((steps, len(self.ids)), -1), np.int64)
        stops = guarded(ends, np.int64)
        told = native.Burst(steps=steps, milliseconds=milliseconds, moved=len(self.moving), end_count=len(ends))
        for name, array in {"ids": self.ids, "chosen": chosen, "moving": self.moving, "ends": stops}.items():
            setattr(told, name, array.ctypes.data)
        starts = range(len(self.ids) + 1)
        given = {"ids": self.ids.ctypes.data, "position_ids": self.moving.ctypes.data}
        return run(self.program(), isa, threads, starts=list(starts), burst=told, **given), chosen


@each_isa
@settings(max_examples=40, deadline=None)
@given(
    *(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 30), st.integers(1, 3)),
    st.lists(st.integers(0, TOKENS - 1), max_size=3),
)
@example(7, 2, 1, 2, list(range(TOKENS)))
def test_steps(isa, seed, texts, steps, threads, ends):
    """Each step reads the last one's choices, a position on; after the first end of any text none follows."""
    model = Model(seed, texts)
    expected, first = model.expected(steps), model.moving.copy()
    ended = np.isin(expected, ends).any(-1)
    wanted = int(ended.argmax()) + 1 if ended.any() else steps
    made, chosen = model.burst(isa, threads, steps, ends)
    assert made == wanted
    np.testing.assert_array_equal(chosen[:made], expected[:made])
    assert (chosen[made:] == -1).all()
    np.testing.assert_array_equal(model.moving, first + made - 1)


def test_time():
    """Where the time is over no further step begins, and one is always made."""
    model = Model(0, 2)
    expected = model.expected(3)
    made, chosen = model.burst(ISAS[0], 1, 3, [], milliseconds=0)
    assert made == 1
    np.testing.assert_array_equal(chosen[0], expected[0])
    assert Model(1, 1).burst(ISAS[0], 1, 30, [])[0] == 30


@pytest.mark.parametrize("kind", [-1, len(native.KINDS)])
def test_an_unknown_operation(kind):
    """No step is made."""
    model = Model(0, 1)
    unknown = [*model.program()]
    unknown[1].kind = kind
    model.program = lambda: unknown
    made, chosen = model.burst(ISAS[0], 1, 3, [])
    assert made == -1
    assert (chosen == -1).all()
