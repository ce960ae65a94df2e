"""Loading does not set off Python's search for garbage, and leaves it as it was."""

import gc
import weakref

import pytest

import glassformer
from glassformer.checkpoints.load import uncollected


@pytest.fixture
def searched():
    """The generations that were searched for garbage, as they are."""
    seen = []

    def hear(phase, info):
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(hear)
    yield seen
    gc.callbacks.remove(hear)


def test_loading_does_not_search(searched) -> None:
    """Nor is the search set off just after, by what was made."""
    glassformer.AutoModel.from_pretrained("glassformer/tiny-bert")  # what is imported is not loaded
    gc.collect()
    thresholds = gc.get_threshold()
    try:
        gc.set_threshold(50, 2, 2)
        searched.clear()
        glassformer.BertModel.from_pretrained("glassformer/tiny-bert")
        assert searched == []
        assert gc.get_count()[1:] == (0, 0)
    finally:
        gc.set_threshold(*thresholds)


def test_garbage_is_found_later() -> None:
    """What was made within and thrown away is garbage like any other."""

    class Circle:
        pass

    with uncollected():
        circle = Circle()
        circle.own = circle
        gone = weakref.ref(circle)
        del circle
        assert gone() is not None
    gc.collect()
    assert gone() is None


def test_what_was_off_stays_off() -> None:
    """Whoever has switched the search off, or frozen what there is, finds it so, also after an error."""
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with pytest.raises(ZeroDivisionError), uncollected():
            raise ZeroDivisionError
        assert gc.isenabled()
        assert gc.get_freeze_count() == frozen > 0
    finally:
        gc.unfreeze()
