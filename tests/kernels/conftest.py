from collections.abc import Iterator

import pytest

from .programs import LIBRARY


@pytest.fixture(autouse=True)
def instructions_stay() -> Iterator[None]:
    """A test may force an instruction set: those after it have the one from before."""
    used = LIBRARY and LIBRARY.gf_isa()
    yield
    if used:
        LIBRARY.gf_force_isa(used)
