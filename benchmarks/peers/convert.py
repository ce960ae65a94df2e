"""The same weights in the form that each program reads, made once beside the checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf_file
import inputs

SUFFIXES = {"llama_cpp": ".gguf", "onnxruntime": ".onnx", "openvino": ".xml"}


def place(folder: Path, program: str, precision: str) -> Path:
    """Where the form of a model that a program reads is: in fp32 the checkpoint itself, where it can read that."""
    if program in CHECKPOINTS and precision == "fp32":
        return folder / "hf"
    if program == "openvino" and precision == "bf16":  # its own choice of arithmetic for the weights of fp32
        precision = "fp32"
    return folder / program / f"{precision}{SUFFIXES.get(program, '')}"


def known(folder: Path, program: str, precision: str) -> bool:
    """Whether a program is installed and has such a form of the model."""
    if program not in MAKERS or find_spec(program) is None:
        return False
    if program in CHECKPOINTS:
        return precision in CHECKPOINTS[program]
    if program == "llama_cpp":
        return inputs.config(folder)["architectures"][0] in gguf_file.ARCHITECTURES
    if program == "ctranslate2":
        return precision in ("fp32", "int8")
    return encoder_only(folder) and precision in ("fp32", "int8", *(["bf16"] if program == "openvino" else []))


def form(folder: Path, program: str, precision: str) -> Path:
    """The form that a program reads, which `convert` has made.

    Raises:
        Unsupported: if the program has none.
        FileNotFoundError: if making it has failed.
    """
    if not known(folder, program, precision):
        raise inputs.Unsupported(f"no {precision} of this model")
    path = place(folder, program, precision)
    if not path.exists():
        raise FileNotFoundError(f"{path.name} could not be made")
    return path


def convert(folder: Path, program: str, precision: str) -> None:
    """Make a form if it is `known` and not there; this library's own are made anew, since they may have changed.

    Args:
        folder: the model's folder, with `hf/`.
        program: a runner.
        precision: of the weights.
    """
    path = place(folder, program, precision)
    if not known(folder, program, precision) or path.name == "hf":
        return
    if program == "glassformer":
        shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as made:  # an interrupted run leaves nothing half made
        MAKERS[program](folder, Path(made) / path.name, precision)
        for file in sorted(Path(made).iterdir()):
            file.rename(path.parent / file.name)


def encoder_only(folder: Path) -> bool:
    """Whether a model is a BERT."""
    return bool(inputs.config(folder)["architectures"] == ["BertModel"])


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
    """OpenVINO's own form; in int8 quantised by its companion NNCF, which looks at activations of 32 random texts."""
    import numpy as np
    import openvino as ov
    import torch

    model, example = exported(folder)
    with torch.no_grad():
        made = ov.convert_model(model, example_input=example)
    if precision == "int8":
        import nncf

        draw, ids = np.random.default_rng(7), inputs.config(folder)["vocab_size"]
        texts = [draw.integers(inputs.FIRST_ID, ids, (2, draw.integers(8, 129))) for _ in range(32)]
        examples = nncf.Dataset([[text, np.ones_like(text)] for text in texts])
        made = nncf.quantize(made, examples, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))
    ov.save_model(made, target, compress_to_fp16=False)


def transformers(folder: Path, target: Path, precision: str) -> None:
    """A checkpoint in bf16."""
    from runners import transformers as runner

    runner.opened(folder, folder / "hf", precision).save_pretrained(target)


def glassformer(folder: Path, target: Path, precision: str) -> None:
    """A checkpoint in bf16, or quantised."""
    from runners import glassformer as runner

    runner.opened(folder, folder / "hf", precision).save_pretrained(target)


CHECKPOINTS = {"transformers": ("fp32", "bf16"), "glassformer": ("fp32", "bf16", "int8", "int4")}
MAKERS = {
    "ctranslate2": ctranslate2,
    "glassformer": glassformer,
    "llama_cpp": gguf_file.write,
    "onnxruntime": onnx,
    "openvino": openvino,
    "transformers": transformers,
}
