"""The models: shapes of well-known checkpoints, every parameter drawn from a fixed seed, built by Transformers.

    .bench/venv/bin/python benchmarks/peers/models.py gpt2

writes `.bench/models/gpt2/`: `hf/` as Transformers saves it, `reference.npz` with what it computes in fp32, and the
same weights in the form that each other program reads.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2] / ".bench" / "models"
GREEDY = (2, 8, 16)  # batch, prompt, new tokens of the continuations that are compared


@dataclass(frozen=True)
class Shape:
    """A model to build.

    Attributes:
        title: its name in the table.
        classes: configuration and model class of Transformers.
        config: what differs from the configuration's defaults.
        tasks: what is measured on it.
    """

    title: str
    classes: tuple[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("decode-1", "decode-8", "first")


NOT_OF_A_STEP = re.compile(
    r"^(model\.)?encoder\.|encoder_attn\.[kv]_|EncDecAttention\.[kv]\.|wpe|embed_positions|relative_attention_bias"
)
# A fresh model repeats one token for ever, whatever it is given. With larger embeddings it looks at its input; with the
# signs of the last norm drawn, no token is its own best successor.
OWN_TABLE = re.compile(r"wte|wpe|embed_tokens")
LAST_NORM = re.compile(r"(ln_f|model\.norm|decoder\.final_layer_norm|decoder\.layers\.5\.final_layer_norm)\.weight")
NO_END = {"eos_token_id": None}  # so that every program writes as many tokens as it is asked for
DECODER = ("decode-1", "decode-8", "prefill", "first")
SHAPES = {
    "gpt2": Shape("GPT-2 124M", ("GPT2Config", "GPT2LMHeadModel"), NO_END | {"bos_token_id": 0}, DECODER),
    "llama": Shape(
        "Llama 1.1B",
        ("LlamaConfig", "LlamaForCausalLM"),
        NO_END
        | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
        | {"num_key_value_heads": 4, "rms_norm_eps": 1e-5},
        DECODER,
    ),
    "qwen": Shape(
        "Qwen-like 0.5B",
        ("LlamaConfig", "LlamaForCausalLM"),
        NO_END
        | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "attention_bias": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        DECODER,
    ),
    "t5": Shape("T5-small", ("T5Config", "T5ForConditionalGeneration"), NO_END | {"decoder_start_token_id": 0}),
    "bart": Shape(
        "BART-base",
        ("BartConfig", "BartForConditionalGeneration"),
        NO_END
        | {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
        | {"encoder_attention_heads": 12, "decoder_attention_heads": 12, "forced_eos_token_id": None},
    ),
    "bert": Shape("BERT-base", ("BertConfig", "BertModel"), tasks=("encode-equal", "encode-ragged", "first-states")),
}


def build(name: str) -> Path:
    """The folder of a model, after making what is not there yet."""
    shape, folder = SHAPES[name], ROOT / name
    if not (folder / "hf").exists():
        import torch
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, shape.classes[0])(**shape.config)
        model = getattr(transformers, shape.classes[1])(config)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if LAST_NORM.search(key):
                    weight.mul_(torch.randn_like(weight).sign())
                elif OWN_TABLE.search(key):
                    weight.mul_(10)
                if weight.ndim == 1 and not key.endswith("o_proj.bias"):  # Qwen has no such bias: zeros
                    weight.add_(torch.randn_like(weight), alpha=0.05)
        model.save_pretrained(folder / "new")
        (folder / "new").rename(folder / "hf")
        del model
    if not (folder / "reference.npz").exists():
        import inputs
        import numpy as np
        from runners import transformers as peer

        runner = peer.load(folder, "fp32", 2)
        if name == "bert":
            np.savez(folder / "reference.npz", states=runner.encode(inputs.RAGGED))
        else:
            np.savez(folder / "reference.npz", logits=runner.prefill(inputs.PROBE), tokens=runner.decode(*GREEDY))
    return folder


def weights_of_a_step(name: str) -> int:
    """How many weights one decoding step reads: not the encoder's, nor tables of which it reads a row."""
    from safetensors import safe_open

    with safe_open(ROOT / name / "hf" / "model.safetensors", "np") as file:
        keys = list(file.keys())
        tied = "lm_head.weight" not in keys
        read = [key for key in keys if not NOT_OF_A_STEP.search(key) and (tied or "embed_tokens" not in key)]
        return sum(math.prod(file.get_slice(key).get_shape()) for key in read)


def main() -> None:
    """Build a model, and convert it for some programs in some precisions."""
    import convert

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SHAPES)
    parser.add_argument("--programs", nargs="+", default=list(convert.MAKERS))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8", "int4"])
    options = parser.parse_args()
    folder = build(options.model)
    for program in options.programs:
        for precision in options.precisions:
            try:
                convert.convert(folder, program, precision)
            except Exception as error:  # the table says what failed, beside what the others do
                print(f"  {program} in {precision} could not be made: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
