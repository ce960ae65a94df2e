"""A cache as one safetensors file: the tensors, and in the header's metadata a little JSON that says what they are.

```
{"version": 1, "class": "EncoderDecoderCache",
 "self": {"class": "KVCache", "layers": [{"kind": "growing", "length": 5}, ...]}, "cross": {...}}
```
The tensors are named by cache, layer and buffer: `self.0.keys`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BrokenFileError, MissingFileError
from .kvcache import EncoderDecoderCache, KVCache, QuantizedCache, StaticCache
from .layers import KVLayer, QuantizedLayer, StaticLayer, WindowLayer

_MOST = 2**31  # layers and tokens that a file may speak of
_DTYPES = {str(dtype)[6:]: dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
_BUFFERS = {
    **dict.fromkeys(("growing", "static", "window"), ("keys", "values")),
    "int8": ("keys_scale", "keys", "values_scale", "values"),
}
_LAYERS: dict[str, Callable[[dict[str, Any]], KVLayer]] = {
    "growing": lambda facts: KVLayer(),
    "static": lambda facts: StaticLayer(_whole(facts["size"])),
    "window": lambda facts: WindowLayer(_whole(facts["window"]), _whole(facts["slack"])),
    "int8": lambda facts: QuantizedLayer(_DTYPES[facts["dtype"]]),
}


def save_cache(cache: KVCache, path: str | os.PathLike[str]) -> None:
    """Write a cache; the file is the old one or the new one at any moment."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    if isinstance(cache, EncoderDecoderCache):
        caches = {"self": cache.self_attention_cache, "cross": cache.cross_attention_cache}
    else:
        caches = {"self": cache}
    facts: dict[str, Any] = {"version": 1, "class": _kind(cache)}
    for part, one in caches.items():
        facts[part] = {"class": _kind(one), "layers": [layer.facts() for layer in one.layers]}
        if isinstance(one, StaticCache):
            facts[part]["max_cache_len"] = one.max_cache_len
        for index, layer in enumerate(one.layers):
            layer.settle()
            for name, buffer in layer.held.items():
                # The copy is of the tokens alone, without the room.
                tensors[f"{part}.{index}.{name}"] = buffer.detach()[:, :, : layer.length - layer.start].clone(
                    memory_format=torch.contiguous_format
                )
    path = Path(path)
    stage = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        save_file(tensors, stage, metadata={"cache": json.dumps(facts)})
        os.replace(stage, path)
    finally:
        stage.unlink(missing_ok=True)


def load_cache(path: str | os.PathLike[str], device: Any = None) -> KVCache:
    """Read a cache; what the file says is held against its tensors before any is read."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}: give the path that cache.save(path) wrote.")
    try:
        # safetensors checks the header, and that the file is as long as it says, before anything is read.
        with safe_open(path, framework="pt", device=str(device or "cpu")) as file:
            facts = json.loads((file.metadata() or {}).get("cache", "null"))
            reader = _Reader(file)
            caches = {part: reader.cache(facts[part], part) for part in ("self", "cross") if part in facts}
            crossed = facts["class"] == "EncoderDecoderCache"
            if facts["version"] != 1 or reader.names or crossed != ("cross" in caches):
                raise ValueError("it holds something else")
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenFileError(f"{path} is not a whole file of a cache: write it again with cache.save().") from error
    return EncoderDecoderCache(caches["self"], caches["cross"]) if "cross" in caches else caches["self"]


class _Reader:
    """An open file, and the names of the tensors in it that nobody has asked for yet."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.names = set(file.keys())

    def cache(self, facts: dict[str, Any], part: str) -> KVCache:
        kind = facts["class"]
        if kind == "StaticCache":
            cache: KVCache = StaticCache(max_cache_len=_whole(facts["max_cache_len"]))
        else:
            cache = {"KVCache": KVCache, "QuantizedCache": QuantizedCache}[kind]()
        layers = facts["layers"]
        cache.layers = [self._layer(layer, f"{part}.{index}.") for index, layer in enumerate(layers)]
        shapes = {(layer.length, tensor.shape[0]) for layer in cache.layers for tensor in layer.held.values()}
        if len(shapes) > 1:
            raise ValueError("its layers differ in tokens or rows")
        return cache

    def _layer(self, facts: dict[str, Any], prefix: str) -> KVLayer:
        kind, length = facts["kind"], _whole(facts["length"])
        layer = _LAYERS[kind](facts)
        layer.length = length
        if kind == "window":
            layer.start = _whole(facts["start"])
            layer.crop(0)  # says so if tokens of the window are missing
        if not length:
            return layer
        for name in _BUFFERS[kind]:
            layer.held[name] = self.file.get_tensor(self._checked(prefix + name, length - layer.start))
        shapes = {tuple(buffer.shape[:2]) for buffer in layer.held.values()}
        dtypes = {buffer.dtype for buffer in layer.held.values()}
        fits = dtypes == {torch.int8, torch.bfloat16} if kind == "int8" else dtypes <= {*_DTYPES.values()}
        if len(shapes) > 1 or (layer.capacity or length) < length or not fits or len(dtypes) > (kind == "int8") + 1:
            raise ValueError("the tensors of a layer do not go together")
        return layer

    def _checked(self, name: str, tokens: int) -> str:
        """A name whose tensor has as many tokens, and the last width of a scale if it is one."""
        shape = self.file.get_slice(name).get_shape()
        if len(shape) != 4 or shape[2] != tokens or (name.endswith("_scale") and shape[3] != 1):
            raise ValueError(f"{name} has another shape than the file says")
        self.names.remove(name)
        return name


def _kind(cache: KVCache) -> str:
    kind = next(one for one in (EncoderDecoderCache, StaticCache, QuantizedCache, KVCache) if isinstance(cache, one))
    return kind.__name__


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError("a number in it is none of tokens")
    return value
