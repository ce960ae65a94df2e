"""One thread, so that tiny models do not pay for a pool, and a quiet peer."""

from pathlib import Path

import pytest
import torch
import transformers

pytest.register_assert_rewrite("parity.compare")


@pytest.fixture(autouse=True, scope="session")
def quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def pytest_make_parametrize_id(val: object) -> str | None:
    return str(val) if type(val).__name__ == "Case" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Loading a checkpoint of another head says so; here that is what is wanted (one test asks for the words)."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*drawn anew:UserWarning"))
