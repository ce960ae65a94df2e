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
        params.kv_unified = llama_cpp.llama_model_has_encoder(self.model)  # else T5's biases do not fit several texts
        params.n_threads = params.n_threads_batch = self.threads
        if self.precision == "fp32":  # the cache, and attention that is not fused, which would compute in fp16
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return llama_cpp.llama_init_from_model(self.model, params)

    def _begin(self, texts: int, length: int, new: int) -> tuple[Any, Any]:
        """An empty context, and the ids (B, T) that a decoder reads first; an encoder has read the texts then."""
        context, columns = self.context(texts, length + new), np.stack(inputs.ids(self.folder, [length] * texts))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        if llama_cpp.llama_model_has_encoder(self.model):
            self._read(context, columns, 0, llama_cpp.llama_encode)
            columns = np.full((texts, 1), llama_cpp.llama_model_decoder_start_token(self.model))
        return context, columns

    def _read(self, context: Any, columns: Any, start: int, read: Any = llama_cpp.llama_decode) -> None:
        """Read tokens (B, T) from position `start` on."""
        texts, length = columns.shape
        batch = llama_cpp.llama_batch_init(texts * length, 0, 1)
        batch.n_tokens = texts * length
        for place, (text, column) in enumerate(np.ndindex(texts, length)):
            batch.token[place], batch.pos[place] = int(columns[text, column]), start + column
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, text
            batch.logits[place] = column == length - 1
        failed = read(context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"{read.__name__} gave {failed}")

    def _logits(self, context: Any, columns: Any, start: int) -> Any:
        """The logits (B, V) after the last of the tokens (B, T) of each text."""
        self._read(context, columns, start)
        pointer, texts = llama_cpp.llama_get_logits(context), len(columns)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (texts, self.vocabulary))

    def decode(self, batch: int, prompt: int, new: int) -> list[list[int]]:
        """The new ids."""
        context, columns = self._begin(batch, prompt, new)
        start, written = 0, []
        for _ in range(new):
            logits = self._logits(context, columns, start)
            start += columns.shape[1]
            columns = logits.argmax(-1)[:, None]
            written.append(columns)
        ids: list[list[int]] = np.concatenate(written, 1).tolist()
        return ids

    def prefill(self, tokens: int) -> Any:
        """The last logits."""
        return self._logits(*self._begin(1, tokens, 0), 0)[0].copy()

    def encode(self, lengths: list[int]) -> Any:
        """Not measured."""
        raise inputs.Unsupported("not measured with encoders")


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The GGUF file."""
    return Runner(folder, convert.form(folder, "llama_cpp", precision), precision, threads)
