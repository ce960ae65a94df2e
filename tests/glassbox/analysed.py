"""Models with every parameter drawn at random, in both libraries, and padded inputs for them."""

from typing import Any

from torch import nn

from parity.zoo import BY_NAME, Inputs
from parity.zoo import ours as _ours
from parity.zoo import peer as _peer


def ours(name: str) -> Any:
    """The shared model of a name as "GPT2-plain:LMHeadModel"."""
    case, head = name.split(":")
    return _ours(BY_NAME[case], head)


def peer(name: str) -> Any:
    case, head = name.split(":")
    return _peer(BY_NAME[case], head)


def arguments(name: str, side: str = "right") -> dict[str, Any]:
    """Three rows of ids and a mask, padded on a side, and what else the model takes."""
    case, head = name.split(":")
    return Inputs(BY_NAME[case], head, side).arguments()


def labels(name: str) -> Any:
    case, head = name.split(":")
    return Inputs(BY_NAME[case], head).labels()["labels"]


def listeners(model: nn.Module) -> list[nn.Module]:
    """The parts that still have someone listening."""
    return [part for part in model.modules() if "listener" in vars(part)]
