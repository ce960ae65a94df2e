"""The weights of a checkpoint, as a mapping from names to tensors that are read when they are touched.

Tensors are views of the file, mapped into memory copy-on-write: taking all of them costs no memory, computing with them
costs the file once, and writing to them leaves the file alone. Nothing in a file is run: pickles are read with torch's
restricted unpickler, and a file that is broken is refused with one sentence.
"""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from glassformer.checkpoints.hub import Repository, read_json
from glassformer.errors import BrokenFileError, MissingFileError, WeightsError

if TYPE_CHECKING:
    import torch

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
POINTER = "transformers_weights"  # the key of config.json that names the weights to read
LINE = 64  # bytes of a line of the processor's cache
TINY = 8 << 20  # bytes of a file that is sooner read than a thread is begun
FOUND = 64 << 10  # bytes that a system finds at once where one of them is read
TOUCHED = 512 << 20  # bytes between two looks whether the program ends: few, as Python has to be free for each

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_FOREIGN = {
    ".h5": "TensorFlow", ".msgpack": "Flax", ".gguf": "GGUF", ".onnx": "ONNX", ".ot": "Rust", ".pth": "a bare pickle",
    ".pt": "a bare pickle", ".ckpt": "a training checkpoint",
}  # fmt: skip


class Weights(Mapping[str, "torch.Tensor"]):
    """Names to tensors over one or more files; `open_weights` makes it.

    Attributes:
        files: The files that the tensors are in.
        metadata: The text that a safetensors file carries, such as `{"format": "pt"}`; empty for pickles.

    Example:
        >>> weights = open_weights(Repository("glassformer/tiny-bert"))
        >>> weights.shape("bert.embeddings.LayerNorm.weight")
        (128,)
    """

    def __init__(self, readers: list[_Reader], weight_map: dict[str, _Reader]) -> None:
        self.files = [reader.path for reader in readers]
        self.metadata = {key: value for reader in readers for key, value in reader.metadata.items()}
        self._mapped = [reader for reader in readers if isinstance(reader, _Safetensors)]
        self._readers = {name: reader for reader in readers for name in reader.names} | weight_map

    def names(self) -> list[str]:
        """The names of all tensors, in the order of the files."""
        return list(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._readers[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, without reading it.

        Raises:
            WeightsError: This version of torch has no such dtype.
        """
        return self._readers[name].dtype(name)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, in the shape and dtype it is stored in, mapped from its file."""
        return self._readers[name].tensor(name)

    def touch(self) -> None:
        """Begin to bring the mapped files into memory, and their pages into the process' table, beside what goes on.

        Otherwise the first call does so, page by page. Small files, and those that would fill half of the memory, are
        left alone.
        """
        mapped = [reader for reader in self._mapped if reader.path.stat().st_size > TINY]
        if 2 * sum(reader.path.stat().st_size for reader in mapped) < _memory():
            for reader in mapped:
                reader.touch()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # a Mapping's own way would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _memory() -> int:
    """Bytes of the machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def with_variant(filename: str, variant: str | None) -> str:
    """The file's name for a variant: `model.fp16.safetensors`, `model.safetensors.index.fp16.json`."""
    stem, dot, suffix = filename.rpartition(".")
    return f"{stem}.{variant}{dot}{suffix}" if variant else filename


def open_weights(repository: Repository, variant: str | None = None, use_safetensors: bool | None = None) -> Weights:
    """Open a checkpoint's weights: one safetensors file or an index of several, else pickles that torch wrote.

    Args:
        repository: Where the files are.
        variant: Read `model.<variant>.safetensors` instead of `model.safetensors`, and so on.
        use_safetensors: `True` refuses pickles, `False` reads only them.

    Raises:
        MissingFileError: There are no such weights, or a shard that the index names is not there.
        BrokenFileError: A file is truncated, malformed, or names a shard outside the checkpoint.

    Example:
        >>> weights = open_weights(Repository("glassformer/tiny-bert"))
        >>> weights["bert.embeddings.LayerNorm.weight"].shape
        torch.Size([128])
    """
    config = repository.find("config.json")
    pointed = read_json(config).get(POINTER) if config is not None else None
    if pointed is not None:
        return _open_pointed(repository, pointed)
    kinds: list[tuple[str, type[_Safetensors] | type[_Pickle]]] = [(SAFETENSORS, _Safetensors), (PICKLE, _Pickle)]
    if use_safetensors is not None:
        kinds = kinds[:1] if use_safetensors else kinds[1:]
    for filename, reader in kinds:
        path = repository.find(with_variant(filename, variant))
        if path is not None:
            return Weights([reader(path)], {})
        index = repository.find(with_variant(filename + INDEX, variant))
        if index is not None:
            return _open_shards(repository, index, reader)
    wanted = [with_variant(filename, variant) for filename, _ in kinds]
    if not repository.is_local:
        repository.require(wanted[0], "the weights")
    raise MissingFileError(_what_is_there(repository, wanted))


def open_tensors(path: Path) -> Weights:
    """Open one safetensors file of any name, which need not be a checkpoint's.

    Raises:
        BrokenFileError: It is truncated or malformed.
    """
    return Weights([_Safetensors(path)], {})


def _open_pointed(repository: Repository, filename: object) -> Weights:
    """Open the weights that config.json names itself, which then come before all others."""
    if not isinstance(filename, str) or not filename.endswith((_Safetensors.suffix, _Safetensors.suffix + INDEX)):
        raise BrokenFileError(f"{POINTER} in config.json of {repository.name} is {filename!r}, no safetensors file.")
    path = repository.require(filename, f"the weights, as {POINTER} in config.json says")
    if filename.endswith(INDEX):
        return _open_shards(repository, path, _Safetensors)
    return Weights([_Safetensors(path)], {})


def _open_shards(repository: Repository, index: Path, reader: type[_Safetensors] | type[_Pickle]) -> Weights:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise BrokenFileError(f"{index} has no weight_map from tensors to files: fetch or write it again.")
    readers: dict[str, _Reader] = {}
    for shard in sorted(set(shard_of.values())):
        if not shard.endswith(reader.suffix):
            raise BrokenFileError(f"{index} names {shard!r} as a shard, which is no {reader.suffix} file.")
        readers[shard] = reader(repository.require(shard, f"the tensors that {index.name} places there"))
    for name, shard in shard_of.items():
        if name not in readers[shard].names:
            raise BrokenFileError(f"{index} places {name} in {shard}, which lacks it: index and shards do not match.")
    return Weights(list(readers.values()), {name: readers[shard] for name, shard in shard_of.items()})


class _Reader(Protocol):
    """One file of tensors."""

    path: Path
    metadata: dict[str, str]
    names: dict[str, None]  # a set that keeps its order

    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> torch.dtype: ...
    def tensor(self, name: str) -> torch.Tensor: ...


class _Safetensors:
    """A safetensors file; its library checks sizes, offsets and overlaps of the header before anything is read."""

    suffix = ".safetensors"

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))
            with open(path, "rb") as file:
                self._start = 8 + int.from_bytes(file.read(8), "little")
                self._entries: dict[str, dict[str, Any]] = json.loads(file.read(self._start - 8))
        except (SafetensorError, OSError, ValueError) as error:
            raise _broken(path, "safetensors", _first_line(error)) from error
        self.metadata = self._entries.pop("__metadata__", {})
        self.names = dict.fromkeys(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        import torch

        stored = self._entries[name]["dtype"]
        dtype = getattr(torch, _DTYPES.get(stored, ""), None)
        if not isinstance(dtype, torch.dtype):
            raise WeightsError(f"{name} in {self.path} is stored as {stored}, which torch {torch.__version__} lacks.")
        return dtype

    def tensor(self, name: str) -> torch.Tensor:
        import torch

        dtype, (begin, end) = self.dtype(name), self._entries[name]["data_offsets"]
        begin, end = self._start + begin, self._start + end
        if begin % dtype.itemsize or begin == end:
            return cast("torch.Tensor", self._file.get_tensor(name))
        # As the library would make it, in a tenth of the time.
        return torch.empty(0, dtype=dtype).set_(self._bytes[begin:end]).view(self.shape(name))

    @cached_property
    def _bytes(self) -> Any:
        """The file as a storage, mapped so that writing to it is private."""
        import torch

        return torch.UntypedStorage.from_file(str(self.path), False, self.path.stat().st_size)

    def touch(self) -> None:
        """Begin to read a byte of each piece that the system finds at once, on a thread that stops with the program."""
        import torch

        # By numpy, as torch would begin threads for it that then spin in the way of everybody else.
        found = torch.empty(0, dtype=torch.uint8).set_(self._bytes).numpy()[::FOUND]

        def read() -> None:
            for begin in range(0, len(found), TOUCHED // FOUND):
                if not threading.main_thread().is_alive():
                    return
                found[begin : begin + TOUCHED // FOUND].max()

        threading.Thread(target=read).start()


class _Pickle:
    """A dictionary of tensors that `torch.save` wrote."""

    suffix = ".bin"
    metadata: dict[str, str] = {}  # noqa: RUF012 a pickle has none, and nobody writes to it

    def __init__(self, path: Path) -> None:
        import pickle

        import torch

        self.path = path
        try:
            # Only the zip form can be mapped; before torch 1.6 the file was a plain stream.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            reason = "it holds more than tensors, which would mean running code from it, or is cut short"
            raise _broken(path, "torch", reason) from error
        except (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise _broken(path, "torch", _first_line(error)) from error
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
            for name, tensor in content.items()
        ):
            raise BrokenFileError(f"{path} is not a dictionary of tensors: save a model's state_dict, and only that.")
        self._tensors: dict[str, torch.Tensor] = {name: tensor.detach() for name, tensor in content.items()}
        self.names = dict.fromkeys(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def _broken(path: Path, kind: str, reason: str) -> BrokenFileError:
    with open(path, "rb") as file:
        pointer = file.read(24) == b"version https://git-lfs."
    if pointer:
        return BrokenFileError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` there.")
    return BrokenFileError(f"{path} is not a whole {kind} file ({reason}): fetch or write it again.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _what_is_there(repository: Repository, wanted: list[str]) -> str:
    """One sentence on a folder without the weights wanted: what is there instead, and the call that would read it."""
    names = repository.list() or []
    lacking = f"{repository.folder} has no weights named {' or '.join(wanted)}"
    for prefix, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        found = next((name for name in names if name.startswith(prefix + ".") and name.endswith(suffix)), None)
        if found is not None:
            variant = found.removeprefix(prefix).removesuffix(suffix).lstrip(".").split("-")[0] or None
            return f"{lacking}, but {found}: pass variant={variant!r} and leave out use_safetensors to read it."
    foreign = [f"{name} ({_FOREIGN[Path(name).suffix]})" for name in names if Path(name).suffix in _FOREIGN]
    if foreign:
        return f"{lacking}, only {', '.join(foreign)}, which is not read here: convert it to safetensors first."
    there = ", ".join(names[:12]) + f" and {len(names) - 12} more" * (len(names) > 12) if names else "no files"
    return f"{lacking}; it holds {there}: pass the folder that save_pretrained wrote the weights to."
