"""Writing a checkpoint so that at no moment its folder is a broken or a mixed one.

Everything is first written into a hidden folder inside the target. What remains is to exchange several files for
several others, which no file system does in one step. But one file can lead a reader to all the others: config.json may
name the weights to read (`transformers_weights`), and an index may name shards anywhere in the folder. So

1. one `os.replace` of that one file commits: it leads to the new weights where they lie, in the hidden folder;
2. the new files get their own places while the hidden ones stay readable, and stale weights go;
3. one more `os.replace` puts the plain file there, and the hidden folder goes.

Killed before 1, the folder is the old checkpoint; killed later, the new one, for this library and for the peer. The
next save finishes what a killed one left.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassformer.checkpoints.hub import read_json
from glassformer.checkpoints.weights import INDEX, LINE, POINTER, SAFETENSORS, with_variant
from glassformer.errors import BrokenFileError, InputError, MissingFileError, WeightsError

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
_STAGE = ".saving-"  # followed by random digits: the hidden folder; in it, files to be placed have no leading dot
_POINTED_INDEX = ".pointed.safetensors.index.json"


def save_weights(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    extra_files: Mapping[str, str | bytes],
    max_shard_size: int | str = "50GB",
    variant: str | None = None,
    metadata: dict[str, str] | None = None,
) -> list[str]:
    """Write weights as safetensors, and the text files that belong to them, in one step.

    Whatever interrupts this, the folder holds the old checkpoint or the new one. Weights of an earlier save are
    removed, other files are kept. `tensors` may be mapped from the very files that are replaced.

    Args:
        folder: Where to; it is made if need be.
        tensors: Tensors of any shape by name, each memory once (tied weights under one name).
        extra_files: More files by name, such as config.json and generation_config.json.
        max_shard_size: Bytes that a file may have before another is begun, as a number or like `"5GB"` or `"200MB"`.
        variant: Write `model.<variant>.safetensors`, beside the weights that are there.
        metadata: Text for the files' headers; `{"format": "pt"}` by default.

    Returns:
        The names of the files written.

    Raises:
        InputError: `folder` is a file, or `max_shard_size` is not a size.
        WeightsError: A tensor cannot be written, or shares memory with another.
        OSError: The disk is full, or the folder may not be written to.

    Example:
        >>> save_weights("copy", {"weight": torch.zeros(2, 3)}, {"config.json": "{}"})
        ['model.safetensors', 'config.json']
    """
    shards, index = _split(tensors, max_shard_size, variant)
    folder = _prepare(folder)
    texts = _encoded(extra_files)
    if CONFIG not in texts and variant is None and (folder / CONFIG).is_file():
        texts[CONFIG] = (folder / CONFIG).read_bytes()
    if POINTER.encode() in texts.get(CONFIG, b""):
        texts[CONFIG] = _dump({key: value for key, value in json.loads(texts[CONFIG]).items() if key != POINTER})
    if index is not None:
        texts[with_variant(SAFETENSORS + INDEX, variant)] = _dump(index)
    names = [*shards, *sorted(texts, key=CONFIG.__eq__)]  # config.json last: in a new folder, that commits

    stage = folder / f"{_STAGE}{secrets.token_hex(4)}"
    stage.mkdir()
    try:
        for filename, inside in shards.items():
            _write_shard(stage / filename, {name: tensors[name] for name in inside}, metadata or {"format": "pt"})
        for filename, text in texts.items():
            _write(stage / filename, text)
        _sync(stage)
        pointing = _commit(folder, stage, names[0] if index is None else None, variant)
        _settle(folder, stage, names, pointing, variant)
    except BaseException:
        if not _in_use(folder, stage):
            shutil.rmtree(stage, ignore_errors=True)
        raise
    return names


def write_files(folder: str | os.PathLike[str], files: Mapping[str, str | bytes]) -> tuple[str, ...]:
    """Write text files into a folder, which is made if need be; each is the old file or the new one at any moment.

    Args:
        folder: Where to.
        files: Contents by file name, which may lie in a folder inside.

    Returns:
        The paths written.

    Raises:
        InputError: `folder` is a file.
        OSError: The disk is full, or the folder may not be written to.

    Example:
        >>> write_files("copy", {"config.json": "{}"})
        ('copy/config.json',)
    """
    folder = _prepare(folder)
    stage = folder / f"{_STAGE}{secrets.token_hex(4)}"
    stage.mkdir()
    try:
        for name, text in _encoded(files).items():  # all are written before one is replaced
            for place in (stage, folder):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
            _write(stage / name, text)
        for name in files:
            os.replace(stage / name, folder / name)
        _sync(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return tuple(str(folder / name) for name in files)


def _prepare(folder: str | os.PathLike[str]) -> Path:
    """The folder, there and without an unfinished save."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: pass the name of a folder to save to.")
    folder.mkdir(parents=True, exist_ok=True)
    _finish_interrupted(folder)
    return folder


def _encoded(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    return {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}


def _split(
    tensors: Mapping[str, torch.Tensor], max_shard_size: int | str, variant: str | None
) -> tuple[dict[str, list[str]], dict[str, Any] | None]:
    """Files with the names of their tensors, and the index unless there is one file, divided as the peer divides."""
    from huggingface_hub import split_torch_state_dict_into_shards

    stem = with_variant(SAFETENSORS, variant).removesuffix(".safetensors")
    try:
        split = split_torch_state_dict_into_shards(
            dict(tensors), filename_pattern=stem + "{suffix}.safetensors", max_shard_size=max_shard_size
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"max_shard_size={max_shard_size!r} is no size: pass bytes, or '5GB' or '200MB'.") from error
    if not split.is_sharded:
        return {f"{stem}.safetensors": list(tensors)}, None
    total = {"total_parameters": sum(tensor.numel() for tensor in tensors.values()), **split.metadata}
    return split.filename_to_tensors, {"metadata": total, "weight_map": split.tensor_to_filename}


def _write_shard(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    except (SafetensorError, RuntimeError, ValueError) as error:
        if f"os error {errno.ENOSPC}" in str(error):  # the library wraps what the system said
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise WeightsError(f"{path.name} cannot be written: {' '.join(str(error).split())}") from error
    if any(tensor.dtype == torch.uint8 for tensor in tensors.values()):
        _align(path)
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library writes for the owner alone; the folder has the umask
    _sync(path)


def _align(path: Path) -> None:
    """Write a file anew, its header filled up so that packed tensors begin where a line of the processor's cache does.

    Loading then maps them as they are. Their sizes are multiples of such a line, and the library writes them last.
    """
    aligned = path.with_name(".aligned")
    with open(path, "rb") as file, open(aligned, "wb") as new:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        places = [entry["data_offsets"][0] for entry in json.loads(header).values() if entry.get("dtype") == "U8"]
        fill = -(8 + length + min(places)) % LINE
        new.write((length + fill).to_bytes(8, "little") + header + b" " * fill)
        shutil.copyfileobj(file, new)
    os.replace(aligned, path)


def _commit(folder: Path, stage: Path, single: str | None, variant: str | None) -> str | None:
    """Make the file that readers open first lead into `stage`; its name, or `None` if no such step is needed."""
    index = with_variant(SAFETENSORS + INDEX, variant)
    pointing = CONFIG if variant is None else index
    if not (folder / pointing).is_file() or not (stage / pointing).is_file():
        return None  # nothing there that could be mixed with the new files
    if single is not None and (folder / CONFIG).read_bytes() == (stage / CONFIG).read_bytes():
        return None  # one file for one file is one step in itself
    lead = single
    if single is None:
        content = read_json(stage / index)
        content["weight_map"] = {name: f"{stage.name}/{shard}" for name, shard in content["weight_map"].items()}
        lead = _POINTED_INDEX
        _write(stage / lead, _dump(content))
    if pointing == CONFIG:
        _write(stage / ".config.json", _dump(read_json(stage / CONFIG) | {POINTER: f"{stage.name}/{lead}"}))
        lead = ".config.json"
    os.replace(stage / str(lead), folder / pointing)
    _sync(folder)
    return pointing


def _settle(folder: Path, stage: Path, names: Iterable[str], pointing: str | None, variant: str | None) -> None:
    """Give the staged files their places, remove stale weights, and last take back the pointer."""
    for name in names:
        if pointing is None:
            os.replace(stage / name, folder / name)
        elif name != pointing:
            os.replace(_second_name(stage / name), folder / name)
    single, index = (with_variant(name, variant) for name in (SAFETENSORS, SAFETENSORS + INDEX))
    for file in folder.iterdir():
        if re.sub(r"-\d{5}-of-\d{5}(?=\.safetensors$)", "", file.name) in (single, index) and file.name not in names:
            file.unlink()
    _sync(folder)
    if pointing is not None:
        os.replace(stage / pointing, folder / pointing)
        _sync(folder)
    for left in folder.glob(_STAGE + "*"):
        if not _in_use(folder, left):
            shutil.rmtree(left)


def _finish_interrupted(folder: Path) -> None:
    """Settle what a save had committed before it was killed, so that nothing but the next commit leads anywhere."""
    try:
        lead = read_json(folder / CONFIG).get(POINTER)
    except (MissingFileError, BrokenFileError):  # nothing was saved here, or not by this
        return
    stage = folder / str(lead).partition("/")[0]
    if stage.name.startswith(_STAGE) and not stage.is_symlink() and (stage / CONFIG).is_file():
        names = [file.name for file in stage.iterdir() if file.is_file() and not file.name.startswith(".")]
        _settle(folder, stage, names, CONFIG, None)


def _in_use(folder: Path, stage: Path) -> bool:
    leads = [folder / CONFIG, *folder.glob(f"{SAFETENSORS}.index.*")]
    return any(stage.name.encode() in file.read_bytes() for file in leads if file.is_file())


def _second_name(path: Path) -> Path:
    """Another name for a file's content, to be moved away while the first stays."""
    second = path.with_name(".second")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, second)
        _sync(second)
    return second


def _dump(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk itself."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
