"""ONNX Runtime, for encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert
import inputs
import onnxruntime

VERSION = onnxruntime.__version__


class Runner:
    """An exported encoder."""

    def __init__(self, folder: Path, path: Path, threads: int) -> None:
        self.folder = folder
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(self, lengths: list[int]) -> Any:
        """The states of real tokens."""
        ids, mask = inputs.padded(inputs.ids(self.folder, lengths))
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0][mask == 1]


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The ONNX file."""
    return Runner(folder, convert.form(folder, "onnxruntime", precision), threads)
