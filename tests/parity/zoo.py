"""The table of configurations, and tiny models of them in both libraries.

Each model is built by the peer with every parameter drawn at random (norm weights and biases too, so that a wrong
name, a missing transpose or a skipped bias cannot pass), saved by the peer, and loaded from that folder by the
library under test. `GLASSFORMER_PARITY=transformers` runs the peer against itself, which checks the tests.
"""

import copy
import importlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

LIBRARY = os.environ.get("GLASSFORMER_PARITY", "glassformer")
gf = importlib.import_module(LIBRARY)
PEER_ON_PEER = LIBRARY == "transformers"
# The peer gives attention maps only in its slower implementation; the library under test gives them always.
LOADING = {"attn_implementation": "eager"} if PEER_ON_PEER else {}

BASE: dict[str, dict[str, Any]] = {
    "Bert": {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
    },
    "GPT2": {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32, "pad_token_id": 3,
             "bos_token_id": 1, "eos_token_id": 2},
    "T5": {"vocab_size": 61, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3,
           "decoder_start_token_id": 0},
    "Bart": {"vocab_size": 61, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40,
             "decoder_ffn_dim": 40, "encoder_attention_heads": 3, "decoder_attention_heads": 3,
             "max_position_embeddings": 32},
    "Llama": {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 44, "max_position_embeddings": 64, "pad_token_id": 3},
}  # fmt: skip

HEADS: dict[str, tuple[str, ...]] = {
    "Bert": (
        "Model",
        "ForPreTraining",
        "LMHeadModel",
        "ForMaskedLM",
        "ForNextSentencePrediction",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForMultipleChoice",
    ),
    "GPT2": (
        "Model",
        "LMHeadModel",
        "DoubleHeadsModel",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
    ),
    "T5": (
        "Model",
        "ForConditionalGeneration",
        "EncoderModel",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
    ),
    "Bart": (
        "Model",
        "ForConditionalGeneration",
        "ForSequenceClassification",
        "ForQuestionAnswering",
        "ForCausalLM",
    ),
    "Llama": (
        "Model",
        "ForCausalLM",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
    ),
}
ENCODER_DECODER_HEADS = {
    *(f"T5{head}" for head in HEADS["T5"] if head not in ("EncoderModel", "ForTokenClassification")),
    *(f"Bart{head}" for head in HEADS["Bart"] if head != "ForCausalLM"),
}
GENERATIVE = {
    "Bert": "LMHeadModel",
    "GPT2": "LMHeadModel",
    "T5": "ForConditionalGeneration",
    "Bart": "ForConditionalGeneration",
    "Llama": "ForCausalLM",
}


@dataclass(frozen=True)
class Case:
    """One configuration: the family's base options with the odd ones on top, and how many tokens to run."""

    family: str
    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    length: int = 7

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    def keys(self) -> dict[str, Any]:
        return copy.deepcopy({**BASE[self.family], **self.options})


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


LONG_ROPE = {
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.5, 2.0, 3.5, 6.0],
    "original_max_position_embeddings": 16,
}
CASES = (
    Case("Bert", "plain"),
    Case("Bert", "relu-no-types", {"hidden_act": "relu", "type_vocab_size": 1, "layer_norm_eps": 1e-3}),
    Case("Bert", "gelu_new-three-types", {"hidden_act": "gelu_new", "type_vocab_size": 3, "pad_token_id": 5}),
    Case("Bert", "silu-uneven", {"hidden_act": "silu", "hidden_size": 20, "num_attention_heads": 5,
                                 "intermediate_size": 33, "num_hidden_layers": 3, "vocab_size": 53}),
    Case("Bert", "quick_gelu-one-head", {"hidden_act": "quick_gelu", "num_attention_heads": 1}),
    Case("Bert", "untied", {"tie_word_embeddings": False}),
    Case("Bert", "decoder", {"is_decoder": True}),
    Case("Bert", "cross-attention", {"is_decoder": True, "add_cross_attention": True}),
    Case("Bert", "chunked", {"chunk_size_feed_forward": 7, "classifier_dropout": 0.3, "layer_norm_eps": 1e-6}),
    Case("GPT2", "plain"),
    Case("GPT2", "unscaled", {"scale_attn_weights": False}),
    Case("GPT2", "scaled-by-layer", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
    Case("GPT2", "upcast", {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}),
    Case("GPT2", "n_inner-relu", {"n_inner": 33, "activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    Case("GPT2", "gelu-untied", {"activation_function": "gelu", "tie_word_embeddings": False}),
    Case("GPT2", "silu-uneven", {"activation_function": "silu", "n_embd": 20, "n_head": 5, "vocab_size": 53}),
    Case("GPT2", "cross-attention", {"add_cross_attention": True, "scale_attn_by_inverse_layer_idx": True}),
    Case("GPT2", "summary-last-tanh", {"summary_type": "last", "summary_activation": "tanh",
                                       "summary_proj_to_labels": False}),
    Case("GPT2", "summary-first-bare", {"summary_type": "first", "summary_use_proj": False}),
    Case("GPT2", "summary-mean", {"summary_type": "mean"}),
    Case("T5", "plain"),
    Case("T5", "gated-gelu-v1.1", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    Case("T5", "gated-silu", {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-3}),
    Case("T5", "gelu", {"feed_forward_proj": "gelu"}),
    Case("T5", "uneven-depth", {"num_layers": 3, "num_decoder_layers": 1}),
    Case("T5", "wide-heads", {"d_kv": 7, "num_heads": 5, "d_model": 18}),
    Case("T5", "odd-buckets", {"relative_attention_num_buckets": 10, "relative_attention_max_distance": 9}, length=21),
    Case("T5", "few-buckets", {"relative_attention_num_buckets": 6, "relative_attention_max_distance": 30}, length=21),
    Case("T5", "odd-start", {"decoder_start_token_id": 4, "pad_token_id": 6}),
    Case("Bart", "plain"),
    Case("Bart", "scaled-embedding", {"scale_embedding": True}),
    Case("Bart", "uneven", {"encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2,
                            "decoder_attention_heads": 4, "encoder_ffn_dim": 33, "decoder_ffn_dim": 47}),
    Case("Bart", "relu-untied", {"activation_function": "relu", "tie_word_embeddings": False}),
    Case("Bart", "gelu_new-odd-start", {"activation_function": "gelu_new", "decoder_start_token_id": 7,
                                        "pad_token_id": 4, "eos_token_id": 5, "forced_eos_token_id": 5}),
    Case("Bart", "silu-scaled-untied", {"activation_function": "silu", "scale_embedding": True,
                                        "tie_word_embeddings": False, "vocab_size": 53}),
    Case("Llama", "plain"),
    Case("Llama", "one-kv-head", {"num_key_value_heads": 1}),
    Case("Llama", "equal-heads", {"num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
    Case("Llama", "wide-head_dim", {"head_dim": 12}),
    Case("Llama", "biases", {"attention_bias": True, "mlp_bias": True}),
    Case("Llama", "tied-gelu", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    Case("Llama", "no-pad", {"pad_token_id": None}),
    Case("Llama", "theta", rope("default", rope_theta=731.0)),
    Case("Llama", "linear", rope("linear", factor=2.5)),
    Case("Llama", "dynamic-within", rope("dynamic", factor=2.0)),
    Case("Llama", "dynamic-beyond", {**rope("dynamic", factor=2.0), "max_position_embeddings": 8}, length=20),
    Case("Llama", "yarn", {**rope("yarn", factor=4.0, original_max_position_embeddings=16)}),
    Case("Llama", "yarn-mscale", rope("yarn", factor=8.0, mscale=0.7, mscale_all_dim=1.3,
                                      original_max_position_embeddings=16)),
    Case("Llama", "yarn-untruncated", rope("yarn", factor=8.0, beta_fast=4, beta_slow=1, truncate=False,
                                           original_max_position_embeddings=400, rope_theta=50.0), length=20),
    Case("Llama", "yarn-betas", rope("yarn", factor=8.0, beta_fast=4, beta_slow=1, rope_theta=50.0,
                                     original_max_position_embeddings=400), length=20),
    Case("Llama", "proportional", rope("proportional", factor=2.0, partial_rotary_factor=0.5)),
    Case("Llama", "yarn-factor", rope("yarn", factor=4.0, attention_factor=1.7, original_max_position_embeddings=16)),
    Case("Llama", "longrope-short", rope("longrope", **LONG_ROPE)),
    Case("Llama", "longrope-long", rope("longrope", **LONG_ROPE), length=20),
    Case("Llama", "longrope-factor", rope("longrope", factor=3.0, **LONG_ROPE), length=20),
    Case("Llama", "llama3", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=100.0,
                                 original_max_position_embeddings=32)),
)  # fmt: skip
BY_NAME = {str(case): case for case in CASES}
PLAIN = tuple(case for case in CASES if case.name == "plain")
PAIRS = tuple((case, head) for case in CASES for head in HEADS[case.family])
PLAIN_PAIRS = tuple((case, head) for case in PLAIN for head in HEADS[case.family])

_scratch = tempfile.TemporaryDirectory(prefix="parity-")


def scratch(name: str) -> Path:
    """A folder of its own, gone at exit."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_scratch.name))


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter and saved buffer anew: matrices keep the size of what passes, nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    saved = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in saved.items():
            noise = torch.randn(tensor.shape, generator=generator)
            if id(tensor) in embeddings:
                tensor.copy_(0.8 * noise)
            elif tensor.ndim >= 2 and name != "final_logits_bias":
                # Rows or columns, what comes in is the larger part of a square root of the elements.
                tensor.copy_(noise * (tensor.shape[0] * tensor.shape[1]) ** -0.25)
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.3 * noise)
            else:
                tensor.copy_(0.3 * noise)


def build(case: Case, head: str, seed: int = 0, attention: str = "eager", **options: Any) -> Any:
    """A peer model of this configuration with random weights, in eval mode."""
    config = getattr(transformers, f"{case.family}Config")(**{**case.keys(), **options})
    model = getattr(transformers, case.family + head)._from_config(config, attn_implementation=attention)
    perturb(model, seed + zlib.crc32(f"{case}{head}".encode()) % 1000)
    return model.eval()


@cache
def _peer(case: Case, head: str) -> Any:
    return build(case, head)


@cache
def _ours(case: Case, head: str) -> Any:
    return load(case, head, folder(case, head))


def as_if_never_called(model: Any) -> Any:
    """The peer's dynamic rotary scaling remembers the longest call there was; this makes it forget."""
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic" and hasattr(module, "original_max_seq_len"):
            module.inv_freq = module.original_inv_freq
            module.max_seq_len_cached = module.original_max_seq_len
    return model


def peer(case: Case, head: str) -> Any:
    """The shared peer model of a pair; a test that changes it builds its own."""
    return as_if_never_called(_peer(case, head))


def ours(case: Case, head: str) -> Any:
    """The shared model of the library under test; a test that changes it loads its own."""
    return as_if_never_called(_ours(case, head))


@cache
def folder(case: Case, head: str) -> Path:
    """The pair as the peer saves it."""
    path = scratch(f"{case}{head}")
    peer(case, head).save_pretrained(path)
    return path


def load(case: Case, head: str, path: Path, **options: Any) -> Any:
    """A fresh model of the library under test from a folder."""
    return getattr(gf, case.family + head).from_pretrained(path, **LOADING, **options).eval()


@cache
def peer_sdpa(case: Case, head: str) -> Any:
    """The same weights in the peer's fast attention."""
    model = getattr(transformers, case.family + head).from_pretrained(folder(case, head), attn_implementation="sdpa")
    return model.eval()


def unread(case: Case) -> set[str]:
    """Parameters of the peer that untied models hold, save and never read: what is in them does not matter."""
    if case.options.get("tie_word_embeddings", True):
        return set()
    return {"Bert": {"cls.predictions.bias"}, "Bart": {"shared.weight", "model.shared.weight"}}.get(case.family, set())


class Inputs:
    """Random arguments of a call, the same for the same pair; rows are padded on `side`."""

    def __init__(self, case: Case, head: str, side: str = "right", batch: int = 3, seed: int = 0) -> None:
        self.case, self.head, self.name = case, head, case.family + head
        self.config = peer(case, head).config
        self.batch, self.length = batch, case.length
        self.generator = torch.Generator().manual_seed(seed + zlib.crc32(f"{case}{head}{side}".encode()) % 1000)
        self.pad = getattr(self.config, "pad_token_id", None) or 0
        # Without a padding token the peer takes the last position of one row alone.
        if head == "ForSequenceClassification" and self.config.pad_token_id is None:
            self.batch = 1
        self.lengths = [self.length, max(2, self.length - 3), self.length - 1][: self.batch]
        self.side = side

    def ids(self, *shape: int, low: int = 0, high: int | None = None) -> torch.Tensor:
        return torch.randint(low, high or self.config.vocab_size, shape, generator=self.generator)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def mask(self, lengths: list[int], width: int) -> torch.Tensor:
        right = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
        return (right if self.side == "right" else right.flip(1)).long()

    def arguments(self) -> dict[str, Any]:
        """What the head takes in the ordinary call: ids and mask, types, choices, an encoder's states."""
        config, head, batch, length = self.config, self.head, self.batch, self.length
        mask = self.mask(self.lengths, length)
        ids = self.ids(batch, length)
        if head == "ForSequenceClassification":
            ids = self.ids(batch, length, low=8)
        ids = torch.where(mask.bool(), ids, torch.full_like(ids, self.pad))
        if self.name in ("T5ForSequenceClassification", "BartForSequenceClassification"):
            # Each row is read at its one end-of-sequence token.
            last = [n - 1 for n in self.lengths] if self.side == "right" else [length - 1] * batch
            ids[torch.arange(batch), torch.tensor(last)] = config.eos_token_id
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.case.family == "Bert":
            arguments["token_type_ids"] = self.ids(batch, length, high=config.type_vocab_size)
        if self.chooses():
            choices = {key: torch.stack([value, value.flip(0)], 1) for key, value in arguments.items()}
            arguments = choices
        if head == "DoubleHeadsModel":
            arguments["mc_token_ids"] = self.ids(*arguments["input_ids"].shape[:-1], high=length)
        if self.name in ENCODER_DECODER_HEADS:
            width = max(5, length - 2)
            arguments["decoder_input_ids"] = self.ids(batch, width, low=8)
            if self.name in ("T5ForSequenceClassification", "BartForSequenceClassification"):
                arguments["decoder_input_ids"] = ids.roll(1, 1)
                width = length
            arguments["decoder_attention_mask"] = self.mask([width, width - 2, width][:batch], width)
        if self.takes_encoder_states():
            arguments["encoder_hidden_states"] = self.normal(batch, 4, config.hidden_size)
            arguments["encoder_attention_mask"] = self.mask([4, 2, 3][:batch], 4)
        return arguments

    def chooses(self) -> bool:
        """Ids of shape (B, choices, T). GPT-2's other summaries take ids of shape (B, T) and give (B,) alone."""
        return self.head == "ForMultipleChoice" or (
            self.head == "DoubleHeadsModel" and self.config.summary_type == "cls_index"
        )

    def takes_encoder_states(self) -> bool:
        crossing = getattr(self.config, "add_cross_attention", False) and self.head in ("Model", "LMHeadModel")
        return crossing or self.name == "BartForCausalLM"

    def labels(self) -> dict[str, Any]:
        """The labels of the head's task, some of them ignored."""
        config, batch, length = self.config, self.batch, self.length
        if self.head in ("Model", "EncoderModel"):
            return {}
        if self.head == "ForQuestionAnswering":
            # One answer lies beyond the text, which the loss ignores.
            return {"start_positions": torch.tensor([1, 0, 2]), "end_positions": torch.tensor([2, length + 9, 3])}
        if self.head == "ForNextSentencePrediction":
            return {"labels": self.ids(batch, high=2)}
        if self.head == "ForMultipleChoice":
            return {"labels": self.ids(batch, high=2)}
        if self.head == "ForSequenceClassification":
            return {"labels": self.ids(batch, high=config.num_labels)}
        if self.head == "ForTokenClassification":
            return {"labels": self.ignored(self.ids(batch, length, high=config.num_labels))}
        if self.head == "ForPreTraining":
            return {"labels": self.ignored(self.ids(batch, length)), "next_sentence_label": self.ids(batch, high=2)}
        if self.head == "DoubleHeadsModel" and self.chooses():
            return {"labels": self.ignored(self.ids(batch, 2, length)), "mc_labels": self.ids(batch, high=2)}
        if self.name in ENCODER_DECODER_HEADS:
            return {"labels": self.ignored(self.ids(batch, max(5, length - 2)))}
        return {"labels": self.ignored(self.ids(batch, length))}

    @staticmethod
    def ignored(labels: torch.Tensor) -> torch.Tensor:
        labels[0, ..., 1] = -100
        labels[-1, ..., -2:] = -100
        return labels


# Which library wrote a folder is the one thing in which two configurations differ.
STAMPS = ("transformers_version", "glassformer_version")


def settings(path: Path) -> dict[str, Any]:
    keys = json.loads((path / "config.json").read_text())
    if keys["model_type"] == "bart" and keys.get("id2label") == {"0": "LABEL_0", "1": "LABEL_1"}:
        # The peer never writes two default labels, and then takes a Bart file without labels to have three.
        del keys["id2label"], keys["label2id"]
    return {key: value for key, value in keys.items() if key not in STAMPS}


def variant(
    case: Case,
    head: str,
    change_config: Callable[[dict[str, Any]], Any] = lambda keys: None,
    change_weights: Callable[[dict[str, torch.Tensor]], Any] = lambda tensors: None,
) -> Path:
    """The peer's folder with something changed in it."""
    path = scratch("variant")
    keys = json.loads((folder(case, head) / "config.json").read_text())
    tensors = load_file(folder(case, head) / "model.safetensors")
    change_config(keys)
    change_weights(tensors)
    (path / "config.json").write_text(json.dumps(keys))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path
