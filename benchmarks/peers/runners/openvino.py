"""OpenVINO, for encoders; bf16 is its own choice of arithmetic for the fp32 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import convert
import inputs
import openvino

VERSION = openvino.__version__.split("-")[0]


class Runner:
    """A compiled encoder."""

    def __init__(self, folder: Path, path: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.model = openvino.Core().compile_model(path, "CPU", settings)

    def encode(self, lengths: list[int]) -> Any:
        """The states of real tokens."""
        ids, mask = inputs.padded(inputs.ids(self.folder, lengths))
        return self.model([ids, mask])[0][mask == 1]


def load(folder: Path, precision: str, threads: int) -> Runner:
    """The converted model."""
    path = convert.form(folder, "openvino", precision)
    arithmetic = "bf16" if precision == "bf16" else "f32"
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": arithmetic, "PERFORMANCE_HINT": "LATENCY"}
    return Runner(folder, path, settings)
