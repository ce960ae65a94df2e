"""How two outputs are compared, and how close they must be.

The tolerance is 1e-4 of a value, or 1e-5 of the largest in its tensor for what is nearly zero: sums over at most 50
terms of size one, through at most three layers, differ by 1e-6 between two orders of adding, while a wrong epsilon,
bias, scale or position moves these models by 1e-3 and more.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

RELATIVE, ABSOLUTE = 1e-4, 1e-5
SEQUENCES = {
    "last_hidden_state",
    "logits",
    "prediction_logits",
    "start_logits",
    "end_logits",
    "encoder_last_hidden_state",
}


def close(
    ours: torch.Tensor,
    theirs: torch.Tensor,
    what: str,
    where: torch.Tensor | None = None,
    absolute: float = ABSOLUTE,
) -> None:
    """The same shape, type and values; `absolute` is a share of the largest value.

    Where `where` is false, there are zeros: what is at padding is left out, or is the peer's, too.
    """
    assert isinstance(ours, torch.Tensor), f"{what}: expected a tensor of shape {tuple(theirs.shape)}, got {ours!r}"
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, the peer's is {tuple(theirs.shape)}"
    assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype}, the peer's is {theirs.dtype}"
    ours, theirs = ours.detach(), theirs.detach()
    if not theirs.is_floating_point():
        assert torch.equal(ours, theirs), what
        return
    if where is not None and not ours.masked_fill(where, 0).any():
        assert where.any(), f"{what}: nothing is compared"
        theirs = theirs.masked_fill(~where, 0)
    infinite = torch.isinf(theirs)  # scores of tokens that may not come
    assert torch.equal(ours[infinite], theirs[infinite]), f"{what}: infinite elsewhere than the peer's"
    ours, theirs = ours.masked_fill(infinite, 0), theirs.masked_fill(infinite, 0)
    assert torch.isfinite(ours).all(), f"{what}: not finite"
    error = (ours - theirs).abs()
    allowed = RELATIVE * theirs.abs() + absolute * max(1.0, theirs.abs().max().item() if theirs.numel() else 1.0)
    wrong = error > allowed
    if wrong.any():
        worst = torch.where(wrong, error, torch.zeros_like(error)).flatten().argmax()
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} values differ, most of all {ours.flatten()[worst]:.6g} "
            f"for the peer's {theirs.flatten()[worst]:.6g}"
        )


def real_tokens(key: str, arguments: Mapping[str, Any]) -> torch.Tensor | None:
    """The mask (rows, columns) of the stack that an output comes from; None where all are tokens."""
    mask = arguments.get("attention_mask")
    if "decoder_input_ids" in arguments and not key.startswith("encoder_"):
        mask = arguments.get("decoder_attention_mask")
    if mask is None or mask.ndim == 4:
        return None
    return mask.flatten(0, -2).bool()


def rows(key: str, tensor: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor | None:
    """True at the real positions of an output, shaped to broadcast against it; None where it has no positions."""
    mask = real_tokens(key, arguments)
    if mask is None:
        return None
    if "attentions" in key:
        return mask[:, None, -tensor.shape[2] :, None]
    if (key in SEQUENCES or "hidden_states" in key) and tensor.shape[0] == len(mask):
        mask = mask[:, -tensor.shape[1] :]
        return mask[(...,) + (None,) * (tensor.ndim - 2)]
    return None


def cached(cache: Any) -> list[tuple[torch.Tensor, ...]]:
    """The tensors of each layer: keys, values, and those of the cross-attention after them.

    A cache of the peer may name more layers than the model has (BART's decoder alone counts the encoder's): these hold
    nothing and do not count.
    """
    layers = [tuple(tensor for tensor in layer if tensor is not None) for layer in cache]
    return [layer for layer in layers if layer]


def same(ours: Any, theirs: Any, real: Mapping[str, Any] | None = None) -> None:
    """The same type, keys in the same order, and values; with `real`, arguments whose masks say where it matters."""
    assert type(ours).__name__ == type(theirs).__name__
    assert list(ours.keys()) == list(theirs.keys())
    if real is not None and "encoder_last_hidden_state" in theirs:
        real = {"decoder_input_ids": None, **real}  # a decoder that makes its own inputs has no padding among them
    for key in theirs:
        if key == "past_key_values":
            same_cache(ours[key], theirs[key], real)
        elif isinstance(theirs[key], torch.Tensor):
            close(ours[key], theirs[key], key, rows(key, theirs[key], real) if real else None)
        else:
            same_sequence(ours[key], theirs[key], key, real)


def same_sequence(ours: Any, theirs: Iterable[torch.Tensor], key: str, real: Mapping[str, Any] | None = None) -> None:
    theirs = tuple(theirs)
    assert isinstance(ours, tuple), f"{key}: {type(ours).__name__}, the peer's is a tuple"
    assert len(ours) == len(theirs), f"{key}: {len(ours)} items, the peer's has {len(theirs)}"
    for index, (mine, yours) in enumerate(zip(ours, theirs)):
        close(mine, yours, f"{key}[{index}]", rows(key, yours, real) if real else None)


def same_cache(ours: Any, theirs: Any, real: Mapping[str, Any] | None = None) -> None:
    """The same keys and values; with `real`, arguments whose masks say where there may be zeros instead."""
    assert ours.get_seq_length() == theirs.get_seq_length()
    mine, yours = cached(ours), cached(theirs)
    assert [len(layer) for layer in mine] == [len(layer) for layer in yours]
    own = real_tokens("", real or {})
    looked = real_tokens("encoder_", real or {}) if "decoder_input_ids" in (real or {}) else None
    if real and "encoder_attention_mask" in real:
        looked = real["encoder_attention_mask"].bool()
    for index, (left, right) in enumerate(zip(mine, yours)):
        for name, a, b in zip(("keys", "values", "cross keys", "cross values"), left, right):
            mask = looked if name.startswith("cross") else own
            close(a, b, f"past_key_values[{index}] {name}", None if mask is None else mask[:, None, :, None])
