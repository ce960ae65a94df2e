"""Torch's threads while tokens are chosen."""

import threading

import pytest
import torch

import glassformer
from glassformer.engine import threads

pytestmark = pytest.mark.skipif(threads._set is None, reason="torch's threads are not OpenMP's here")


@pytest.fixture(autouse=True)
def three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def elsewhere() -> int:
    """How many threads torch has on another thread, a new one."""
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    return found[0]


def test_one_thread_here_and_as_before_elsewhere() -> None:
    """One thread on this one alone, and as many as before where asked for and at the end."""
    with threads.single_threaded():
        assert (torch.get_num_threads(), elsewhere()) == (1, 3)
        with threads.single_threaded():
            assert torch.get_num_threads() == 1
        with threads.multi_threaded():
            assert torch.get_num_threads() == 3
            with threads.multi_threaded():
                assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def failing(context) -> None:
    with context():
        raise ZeroDivisionError


def test_errors_change_nothing() -> None:
    """After an error there are as many as before."""
    with pytest.raises(ZeroDivisionError):
        failing(threads.single_threaded)
    assert torch.get_num_threads() == 3
    with threads.single_threaded():
        with pytest.raises(ZeroDivisionError):
            failing(threads.multi_threaded)
        assert torch.get_num_threads() == 1


def test_a_number_set_within_is_kept() -> None:
    """Whoever sets torch's threads while a model runs keeps what was set."""
    with threads.single_threaded():
        with threads.multi_threaded():
            torch.set_num_threads(2)
        assert torch.get_num_threads() == 1
        with threads.multi_threaded():
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 1}, {"num_beams": 2}], ids=str)
def test_generation(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model runs with all threads and what chooses with one; where someone else's code runs, all have all."""
    model = glassformer.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
    reading, choosing = [], []
    append, run = glassformer.generation.search.Feed.append, model.transformer.decoder.executor._call

    def counted(*call):
        reading.append(torch.get_num_threads())
        return run(*call)

    def appended(feed, tokens):
        choosing.append(torch.get_num_threads())
        append(feed, tokens)

    model.transformer.decoder.executor._call = counted
    monkeypatch.setattr(glassformer.generation.search.Feed, "append", appended)
    ids = torch.tensor([[5, 6, 7]])
    with monkeypatch.context() as patch:
        patch.setattr(glassformer.generation.generate, "bursts", lambda *_: None)
        model.generate(ids, max_new_tokens=4, **settings)
    assert set(reading) == {3}
    assert set(choosing) == {1}
    choosing.clear()
    model.generate(ids, max_new_tokens=4, logits_processor=[lambda ids, scores: scores], **settings)
    assert set(choosing) == {3}
    assert torch.get_num_threads() == 3
