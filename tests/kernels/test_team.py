"""The threads behind native calls: they meet when they must, sleep when idle, survive fork, and are never too many."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from glassformer.kernels import native

from .programs import ISAS, LIBRARY, caches, guarded, has, needs_library, op, run

pytestmark = needs_library

ROWS = 37


@pytest.fixture(params=["torch's", "its own"])
def threads_of(request):
    """On the threads that torch has, where they can be borrowed, and on the library's own."""
    if not native._borrow_threads(LIBRARY) and request.param == "torch's":
        pytest.skip("torch's threads are not OpenMP's here")
    if request.param == "its own":
        LIBRARY.gf_borrow_threads(None, None, None)
    yield
    native._borrow_threads(LIBRARY)


on_either_threads = pytest.mark.usefixtures("threads_of")


class Mirror:
    """A program whose every step reads rows that another thread wrote in the step before: x[n] += x[last - n]."""

    def __init__(self, seed, steps=20):
        self.x = guarded(np.random.default_rng(seed).integers(-9, 9, (ROWS, 24)))
        self.other = guarded(np.zeros((1, 1, ROWS, 24)))
        self.cache, self.places = caches((self.other, self.other)), guarded(range(ROWS)[::-1], np.int64)
        strides = {"x_stride": 24, "out_stride": 24, "inputs": 24, "outputs": 24}
        turn = op("store", x=self.x, heads=1, head_dim=24, **strides)
        add = op("add", x=self.other, out=self.x, **strides)
        self.ops = [turn, add] * steps
        self.expected = self.x.copy()
        for _ in range(steps):
            self.expected = self.expected + self.expected[::-1]

    def run(self, threads):
        return run(self.ops, ISAS[-1], threads, tokens=ROWS, places=self.places, cache=self.cache)

    def check(self):
        np.testing.assert_array_equal(self.x, self.expected)


@on_either_threads
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16, 64])
def test_threads_meet(threads):
    """Also when there are far more of them than cores, and in reasonable time."""
    start = time.perf_counter()
    for seed in range(3):
        mirror = Mirror(seed)
        assert mirror.run(threads) == 0
        mirror.check()
    assert time.perf_counter() - start < 30


@on_either_threads
def test_many_calls_leave_nothing_behind():
    """Thousands of short calls on changing numbers of threads: no more threads and no more memory at the end."""

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("counts threads and memory in /proc")
    mirror = Mirror(0, steps=1)
    program, call = (native.Op * 2)(*mirror.ops), native.Call(tokens=ROWS, texts=1)
    starts = guarded([0, ROWS], np.int64)
    call.starts, call.places = starts.ctypes.data, mirror.places.ctypes.data
    call.cache = ctypes.addressof(mirror.cache)

    def calls(count):
        for index in range(count):
            mirror.x[:] = 1
            assert LIBRARY.gf_run(ctypes.addressof(program), 2, ctypes.addressof(call), 1 + index % 5) == 0

    calls(200)
    tasks, memory = len(os.listdir("/proc/self/task")), resident()
    calls(3000)
    assert len(os.listdir("/proc/self/task")) == tasks
    assert resident() - memory < 2**20


BESIDE_TORCH = """
import os, torch
from glassformer.kernels import native
torch.set_num_threads(3)
library = native.load()
torch.ones(2**20).exp()  # a loop that torch begins its threads for
before = len(os.listdir("/proc/self/task"))
from tests.kernels.test_team import Mirror
mirror = Mirror(0)
assert mirror.run(3) == 0
mirror.check()
assert torch.get_num_threads() == 3
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(
    not (os.path.exists("/proc/self/task") and hasattr(ctypes.CDLL(None), "GOMP_parallel")),
    reason="counts threads in /proc, and torch's have to be OpenMP's",
)
def test_torchs_threads_are_the_ones_that_run():
    """After a loop of torch's, which leaves its threads spinning, a native call begins none beside them."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", BESIDE_TORCH], cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


@on_either_threads
def test_callers_on_several_threads_take_turns():
    """Each gets its own result, on its own number of threads."""
    failures = []

    def caller(seed):
        for repeat in range(20):
            mirror = Mirror(seed * 100 + repeat, steps=3)
            if mirror.run(1 + seed % 3) or not np.array_equal(mirror.x, mirror.expected):
                failures.append((seed, repeat))

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
        assert not thread.is_alive()
    assert not failures


@on_either_threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork():
    """A child has none of the parent's threads, even if it was made in the middle of a call, and makes its own."""
    assert Mirror(0).run(3) == 0
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            Mirror(1).run(2)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for seed in range(3):
            child = os.fork()
            if child == 0:
                mirror = Mirror(seed)
                ok = mirror.run(3) == 0 and np.array_equal(mirror.x, mirror.expected)
                os._exit(0 if ok else 1)
            deadline = time.monotonic() + 30
            done, status = os.waitpid(child, os.WNOHANG)
            while not done and time.monotonic() < deadline:
                time.sleep(0.01)
                done, status = os.waitpid(child, os.WNOHANG)
            if not done:
                os.kill(child, 9)
                os.waitpid(child, 0)
            assert done
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        stop.set()
        thread.join()
    mirror = Mirror(2)
    assert mirror.run(3) == 0
    mirror.check()


@on_either_threads
def test_idle_threads_sleep():
    """A moment after a call, its threads use no processor time."""
    assert Mirror(0).run(4) == 0
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


@on_either_threads
def test_what_cannot_be_run():
    """An unknown operation runs nothing at all; numbers of threads are brought into bounds; no unknown processor."""
    mirror = Mirror(0, steps=1)
    unknown = op("add")
    for kind in (-1, len(native.KINDS)):
        unknown.kind = kind
        before = mirror.x.copy()
        assert run([*mirror.ops, unknown], ISAS[0], tokens=ROWS) == -1
        np.testing.assert_array_equal(mirror.x, before)
    assert run([], ISAS[0], tokens=0) == 0
    for threads in (-3, 0, 1000):
        mirror = Mirror(0)
        assert mirror.run(threads) == 0
        mirror.check()
    used = LIBRARY.gf_isa()
    assert LIBRARY.gf_force_isa(b"abacus") == -1
    assert LIBRARY.gf_isa() == used


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("make") and shutil.which("g++")), reason="needs make and a compiler")
def test_sanitised(tmp_path):
    """Random programs over all operations on several threads, as the sanitizers see them (make sanitise)."""
    root = Path(__file__).parents[2]
    done = subprocess.run(["make", "sanitise", f"SANITISED={tmp_path}"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("programs") == 2 * (len(ISAS) + has("amx"))
