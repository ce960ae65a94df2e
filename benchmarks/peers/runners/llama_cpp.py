"""llama.cpp, by its C interface: no sampling chain, no copies of prompts, logits only where they are needed."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import convert
import inputs
import llama_cpp
import numpy as np

VERSION = f"llama-cpp-python {llama_cpp.__version__}"


class Runner:
    """A loaded model, and a context for each shape of call."""

    def __init__(self, folder: Path, path: Path, precision: str, threads: int) -> None:
        self.folder, self.precision, self.threads = folder, precision, threads
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not read {path}")
        self.vocabulary = inputs.config(folder)["vocab_size"]
        self.context = cache(self._context)

    def _context(self, texts: int, length: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = texts * -(-length // 256) * 256, texts
        params.n_batch = max(params.n_batch, texts * length)
        params.n_threads = params.n_threads_batch = self.threads
        if self.precision == "fp32":
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        return llama_cpp.llama_init_from_model(self.model, params)

    def _read(self, context: Any, columns: Any, start: int) -> Any:
        """Read tokens (B, T) from position `start` on; the logits (B, V) after the last of each text."""
        texts, length = columns.shape
        batch = llama_cpp.llama_batch_init(texts * length, 0, 1)
        batch.n_tokens = texts * length
        for place, (text, column) in enumerate(np.ndindex(texts, length)):
            batch.token[place], batch.pos[place] = int(columns[text, column]), start + column
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, text
            batch.logits[place] = column == length - 1
        failed = llama_cpp.llama_decode(context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode gave {failed}")
        pointer = llama_cpp.llama_get_logits(context)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (texts, self.vocabulary))

    def decode(self, batch: int, prompt: int, new: int) -> list[list[int]]:
        """The new ids."""
        context = self.context(batch, prompt + new)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        columns, start, written = np.stack(inputs.ids(self.folder, [prompt] * batch)), 0, []
        for _ in range(new):
            logits = self._read(context, columns, start)
            start += columns.shape[1]
            columns = logits.argmax(-1)[:, None]
            written.append(columns)
        ids: list[list[int]] = np.concatenate(written, 1).tolist()
        return ids

    def prefill(self, tokens: int) -> Any:
        """The last logits."""
        context = self.context(1, tokens)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        return self._read(context, np.stack(inputs.ids(self.folder, [tokens])), 0)[0].copy()

    def encode(self, lengths: list[int]) -> Any:
        """Not measured."""
        raise inputs.Unsupported("not measured with encoders")


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The GGUF file."""
    path = convert.place(folder, "llama_cpp", precision)
    if not path.exists():
        raise inputs.Unsupported("not measured with this model")
    return Runner(folder, path, precision, threads)
