"""The same weights in the form that each program reads, made once beside the checkpoint."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf_file
import inputs


def place(folder: Path, program: str, precision: str) -> Path:
    """Where the converted form of a model is."""
    suffix = {"ctranslate2": "", "llama_cpp": ".gguf", "onnxruntime": ".onnx", "openvino": ".xml"}[program]
    return folder / program / f"{precision}{suffix}"


def known(folder: Path, program: str, precision: str) -> bool:
    """Whether a program is installed, needs a form of its own, and there is one of this model."""
    if program not in MAKERS or find_spec(program) is None:
        return False
    if program == "llama_cpp":
        return inputs.config(folder)["architectures"][0] in gguf_file.ARCHITECTURES
    return precision in ("fp32", "int8") and (program == "ctranslate2" or encoder_only(folder))


def convert(folder: Path, program: str, precision: str) -> None:
    """Make a form if it is `known` and not there.

    Args:
        folder: the model's folder, with `hf/`.
        program: a runner.
        precision: of the weights.
    """
    if not known(folder, program, precision) or place(folder, program, precision).exists():
        return
    (folder / program).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder / program) as made:  # an interrupted run leaves nothing half made
        MAKERS[program](folder, Path(made) / place(folder, program, precision).name, precision)
        for file in sorted(Path(made).iterdir()):
            file.rename(folder / program / file.name)


def encoder_only(folder: Path) -> bool:
    """Whether a model is a BERT."""
    return inputs.config(folder)["architectures"] == ["BertModel"]


class Vocabulary:
    """The tokenizer that CTranslate2 asks for: token 17 is called "17"."""

    bos_token, eos_token, unk_token, pad_token = "0", "1", "2", "0"

    def __init__(self, size: int) -> None:
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        """All tokens."""
        return {str(token): token for token in range(self.size)}

    def convert_ids_to_tokens(self, token: int) -> str:
        """The name of a token."""
        return str(token)


def ctranslate2(folder: Path, target: Path, precision: str) -> None:
    """A folder of CTranslate2."""
    import transformers
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_tokenizer(self, *_: Any, **__: Any) -> Vocabulary:
            return Vocabulary(inputs.config(folder)["vocab_size"])

    transformers.BertConfig.position_embedding_type = "absolute"  # its converter reads what 5.23 no longer has
    transformers.BartConfig.normalize_before = False
    quantization = {"fp32": "float32", "int8": "int8_float32"}[precision]
    Converter(str(folder / "hf")).convert(str(target), quantization=quantization)


def exported(folder: Path) -> tuple[Any, tuple[Any, Any]]:
    """A BERT that gives its last hidden states alone, and an example of its inputs."""
    import torch
    import transformers

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.BertModel.from_pretrained(folder / "hf")

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids, mask = map(torch.from_numpy, inputs.padded(inputs.ids(folder, [16, 9])))
    return Encoder().eval(), (ids, mask)


def onnx(folder: Path, target: Path, precision: str) -> None:
    """An ONNX file; in int8 with weights quantised by ONNX Runtime, and activations quantised as they come."""
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        convert(folder, "onnxruntime", "fp32")
        quantize_dynamic(place(folder, "onnxruntime", "fp32"), target, weight_type=QuantType.QInt8, per_channel=True)
        return
    import torch

    model, example = exported(folder)
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "length"} for name in [*names, "states"]}
    with torch.no_grad():
        torch.onnx.export(
            model, example, target, input_names=names, output_names=["states"], dynamic_axes=axes, dynamo=False
        )


def openvino(folder: Path, target: Path, precision: str) -> None:
    """OpenVINO's own form; in int8 with weights compressed by its companion NNCF."""
    import openvino as ov
    import torch

    model, example = exported(folder)
    with torch.no_grad():
        made = ov.convert_model(model, example_input=example)
    if precision == "int8":
        import nncf

        made = nncf.compress_weights(made, mode=nncf.CompressWeightsMode.INT8_SYM)
    ov.save_model(made, target, compress_to_fp16=False)


MAKERS = {"ctranslate2": ctranslate2, "llama_cpp": gguf_file.write, "onnxruntime": onnx, "openvino": openvino}
