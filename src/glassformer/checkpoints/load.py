"""Loading: the tensors of a checkpoint into a model that has shapes but no memory, and back into their stored form.

A model is built on the meta device; its parameters then *become* the tensors of the mapped file, or views of them, so
that nothing is copied unless another dtype or device is asked for.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from .names import Row, Stored, match
from .weights import LINE, Weights

BACKBONE = "transformer."  # where a head keeps its backbone


@dataclass
class LoadingInfo:
    """What loading found.

    Attributes:
        missing_keys: names, as in the checkpoint, of tensors that it lacks.
        unexpected_keys: names of tensors in it that the model has no place for.
        mismatched_keys: (name, shape in the checkpoint, shape in the model).
        fresh: the names here of the tensors that were not filled.
    """

    missing_keys: set[str] = field(default_factory=set)
    unexpected_keys: set[str] = field(default_factory=set)
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Naming:
    """How one model class names its tensors in checkpoints.

    Attributes:
        rows: the family's table.
        prefix: what comes before the backbone's names.
        prefixes: all prefixes of the family, which are understood when reading.
        ignored: patterns of tensors that old checkpoints hold and nobody needs.
    """

    rows: Sequence[Row]
    prefix: str
    prefixes: Iterable[str]
    ignored: Iterable[str] = ()

    @property
    def head(self) -> str | None:
        """The name of the matrix that scores the vocabulary, which is left out where it is the token table."""
        for entry in self.rows:
            if any(name in ("lm_head.linear", "lm_head.linear.weight") for name in entry.ours):
                return entry.theirs.removesuffix(".weight") + ".weight"
        return None

    def stored(self, tensors: Mapping[str, Tensor]) -> list[Stored]:
        """What a checkpoint of this class stores for a model's tensors, as `tensors_of` gives them."""
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        in_head = any(name.startswith(BACKBONE) for name in shapes)
        # A head's own tensors have no prefix; a bare backbone's have none either.
        backbone = {n.removeprefix(BACKBONE): s for n, s in shapes.items() if n.startswith(BACKBONE) or not in_head}
        own = {n: s for n, s in shapes.items() if in_head and not n.startswith(BACKBONE)}
        entries = []
        for entry in match(self.rows, backbone):
            others = [entry.theirs, *entry.also]
            also = [p + name for name in others for p in ("", *self.prefixes)]
            ours = {BACKBONE * in_head + name: shape for name, shape in entry.ours.items()}
            copies = tuple(self.prefix + name for name in entry.copies)
            entries.append(Stored(ours, self.prefix + entry.theirs, tuple(also), copies, entry.transposed))
        return entries + match(self.rows, own)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and saved buffers of a model by name; what is tied appears once."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    saved = model.state_dict(keep_vars=True) if buffers else {}
    return {**parameters, **{name: buffer for name, buffer in buffers.items() if name in saved}}


def _older(name: str) -> str:
    """The name that the first BERT checkpoints have for the scale and shift of a norm."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def load(
    model: nn.Module,
    weights: Weights | Mapping[str, Tensor],
    naming: Naming,
    dtype: torch.dtype,
    keep_fp32: Sequence[str],
) -> LoadingInfo:
    """Fill a model on the meta device with a checkpoint's tensors, without copying those of the right dtype.

    Args:
        model: its parameters are replaced.
        weights: the checkpoint.
        naming: the model's names in it.
        dtype: of the parameters.
        keep_fp32: modules, by the last part of their names, that stay in fp32 in a model of fp16.
    """
    info = LoadingInfo()
    used = {naming.head} if hasattr(model, "lm_head") else set()
    modules, places, tensors = dict(model.named_modules()), places_of(model), tensors_of(model)
    packed = {name for name, tensor in tensors.items() if tensor.dtype == torch.uint8}
    shape_of = weights.shape if isinstance(weights, Weights) else lambda name: tuple(weights[name].shape)
    dtype_of = weights.dtype if isinstance(weights, Weights) else lambda name: weights[name].dtype
    for entry in naming.stored(tensors):
        names = [name for known in (entry.theirs, *entry.also) for name in (known, _older(known)) if name in weights]
        used.update(names)
        if not names:
            if any(isinstance(tensors[name], nn.Parameter) for name in entry.ours):
                info.missing_keys.add(entry.theirs)
            info.fresh.update(entry.ours)
        elif (shape := shape_of(names[0])) != entry.shape:
            info.mismatched_keys.add((entry.theirs, shape, entry.shape))
            info.fresh.update(entry.ours)
        elif (entry.ours.keys() <= packed) != (dtype_of(names[0]) == torch.uint8):
            raise WeightsError(
                f"{names[0]} is stored as {dtype_of(names[0])}, but config.json says "
                f"{'that it is quantised' if entry.ours.keys() <= packed else 'nothing of quantisation'}; "
                "write the folder again."
            )
        else:
            for name, tensor in entry.split(weights[names[0]]).items():
                path, _, leaf = name.rpartition(".")
                kept = dtype == torch.float16 and path.endswith(tuple(keep_fp32))
                wanted = torch.float32 if kept else dtype
                put(modules[path], leaf, _aligned(tensor) if name in packed else tensor.to(wanted), places)
        used.update(name for name in entry.copies if name in weights)
    ignored = re.compile("|".join(naming.ignored) or r"(?!)")
    info.unexpected_keys = {name for name in weights if name not in used and not ignored.search(name)}
    return info


def _aligned(packed: Tensor) -> Tensor:
    """Packed bytes that begin where a line of the processor's cache does: a step reads them up to 1.3 times as fast."""
    return packed if packed.data_ptr() % LINE == 0 else packed.clone()


def refuse_mismatched(info: LoadingInfo, source: str) -> None:
    """Raise if a tensor of a checkpoint has another shape than the model's.

    Raises:
        WeightsError: naming it, with both shapes.
    """
    if info.mismatched_keys:
        name, there, here = sorted(info.mismatched_keys)[0]
        more = f" (and {len(info.mismatched_keys) - 1} more)" if len(info.mismatched_keys) > 1 else ""
        raise WeightsError(
            f"{name} has shape {there} in {source}, but the model's is {here}{more}; correct the configuration, or "
            "pass ignore_mismatched_sizes=True to draw such weights anew."
        )


def places_of(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every parameter's places by its identity: the modules that have it, and their names for it."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            places.setdefault(id(parameter), []).append((module, leaf))
    return places


def put(module: nn.Module, leaf: str, tensor: Tensor, places: Mapping[int, list[tuple[nn.Module, str]]]) -> None:
    """Make a tensor the parameter or buffer `leaf` of a module, and of all modules that share it."""
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
        return
    old = module._parameters[leaf]
    new = nn.Parameter(tensor, requires_grad=old is None or old.requires_grad)
    for other, key in places[id(old)]:
        other._parameters[key] = new


def holds_own_head(weights: Mapping[str, Tensor], naming: Naming) -> bool:
    """Whether a checkpoint's vocabulary head differs from its token table, whatever its configuration says of tying."""
    tables = [row.theirs for row in naming.rows if row.ours[0].endswith("embedding.tokens")]
    names = (f"{prefix}{name}.weight" for name in tables for prefix in ("", *naming.prefixes))
    table = next((name for name in names if name in weights), None)
    if naming.head is None or naming.head not in weights or table is None:
        return False
    head, tokens = weights[naming.head], weights[table]
    return head.data_ptr() != tokens.data_ptr() and not torch.equal(head, tokens)


def as_stored(model: nn.Module, naming: Naming, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of a model, or those of `state` by the names here, as a checkpoint stores them, by its names."""
    own = tensors_of(model)
    tensors = {name: tensor.detach() for name, tensor in (state or own).items()}
    stored: dict[str, Tensor] = {}
    for entry in naming.stored(own):
        tensor = stored[entry.theirs] = entry.join(tensors)
        stored.update({name: tensor.clone() for name in entry.copies})
    return stored


@contextmanager
def uncollected() -> Iterator[None]:
    """While many objects are made to stay, do not look for garbage among them; also a decorator.

    Making them would set off a search through everything in the process, which takes 50 to 100 ms where torch is
    imported, and finds nothing. At the end all count as old, as if such a search had been: the next one is as far off.

    Example:
        >>> with uncollected():
        ...     tensors = load(model, weights, naming)
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            if not gc.get_freeze_count():  # what a server has frozen stays so
                gc.freeze()  # with the next line: all becomes old, and counting begins anew
                gc.unfreeze()
            gc.enable()
