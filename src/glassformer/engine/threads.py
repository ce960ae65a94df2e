"""Torch's threads beside native ones.

After a parallel loop OpenMP's threads go on spinning for some milliseconds, in the way of native code that wants the
same cores. Choosing a token is such a loop, and a model's step comes next.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _setter() -> Callable[[int], Any] | None:
    """OpenMP's way to set the threads of loops that this thread begins; torch's own is every new thread's, too."""
    try:
        openmp = ctypes.CDLL(None)
        before: int = openmp.omp_get_max_threads()
        openmp.omp_set_num_threads(before + 1)
        is_torchs = torch.get_num_threads() == before + 1  # a process may hold several
        openmp.omp_set_num_threads(before)
    except (AttributeError, OSError, TypeError):
        return None  # another kind of build, or of system: torch keeps its threads
    return openmp.omp_set_num_threads if is_torchs else None


_set = _setter()


class _Here(threading.local):
    threads: int | None = None


_here = _Here()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch work by one thread on this one until the end, except in `multi_threaded`.

    Example:
        >>> with single_threaded():
        ...     scores.softmax(dim=-1)
    """
    threads = torch.get_num_threads()
    if _set is None or threads == 1 or _here.threads is not None:
        yield
        return
    _here.threads = threads
    _set(1)
    try:
        yield
    finally:
        _set(_here.threads)
        _here.threads = None


@contextmanager
def multi_threaded() -> Iterator[None]:
    """Let torch and native code use as many threads as they did before `single_threaded`."""
    if _set is None or (threads := _here.threads) is None:
        yield
        return
    _here.threads = None
    _set(threads)
    try:
        yield
    finally:
        _here.threads = torch.get_num_threads()  # somebody may have set it
        _set(1)
