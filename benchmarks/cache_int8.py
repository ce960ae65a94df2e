"""The quantised cache beside the one in fp32: what it saves, and what it does to the scores.

    python benchmarks/cache_int8.py [--tokens 256]

Every model reads the same text twice, with each cache. Memory is that of the buffers, scales and room included. The
scores are compared at every position: the difference beside the standard deviation of the scores, the KL divergence in
nats, how often the most likely token is the same, and, for the trained model, the loss on prose in nats a token.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import glassformer as gf
from glassformer.cache import QuantizedCache

PROSE = Path(__file__).parent.parent / "tests" / "bundled" / "prose.txt"


def models() -> dict[str, Any]:
    torch.manual_seed(0)
    wide = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 4000}
    return {
        "glassformer/tiny-gpt2 (head width 36)": gf.AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2"),
        "random GPT-2, 12 layers (64)": gf.AutoModelForCausalLM.from_config(gf.GPT2Config(vocab_size=4000)),
        "random Llama, 8 heads on 2 (128)": gf.AutoModelForCausalLM.from_config(
            gf.LlamaConfig(**wide, num_attention_heads=8, num_key_value_heads=2)
        ),
    }


def read(model: Any, ids: torch.Tensor, cache: gf.KVCache) -> torch.Tensor:
    """The scores (T, V) of a text (1, T) that is read into a cache."""
    with torch.no_grad():
        scores: torch.Tensor = model(ids, past_key_values=cache, use_cache=True).logits[0]
    return scores


def step_ms(model: Any, ids: torch.Tensor, cache: gf.KVCache) -> float:
    """The median time of a one-token step on a full cache, in milliseconds."""
    times = []
    with torch.no_grad():
        for _ in range(9):
            cache.crop(-1)
            start = time.perf_counter()
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
            times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256, help="tokens that each model reads, at most 256")
    tokens = parser.parse_args().tokens
    torch.set_num_threads(1)
    tokenizer = gf.AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
    prose = tokenizer(
        PROSE.read_text(encoding="utf-8"), truncation=True, max_length=tokens, return_tensors="pt"
    ).input_ids
    for name, model in models().items():
        trained = name.startswith("glassformer")
        ids = prose if trained else torch.randint(4000, prose.shape)
        model.eval()
        plain, small = gf.KVCache(), QuantizedCache()
        exact, rounded = read(model, ids, plain), read(model, ids, small)
        off = (exact - rounded).abs() / exact.std()
        divergence = (exact.softmax(-1) * (exact.log_softmax(-1) - rounded.log_softmax(-1))).sum(-1)
        same = (exact.argmax(-1) == rounded.argmax(-1)).float().mean()
        print(f"{name}, {ids.shape[1]} tokens")
        print(f"  memory   {plain.nbytes / 1024:8.0f} KB fp32  {small.nbytes / 1024:8.0f} KB int8", end="")
        print(f"  {100 * small.nbytes / plain.nbytes:.1f} %")
        print(f"  scores   mean difference {float(off.mean()):.5f} deviations, largest {float(off.max()):.5f}")
        print(f"           KL {float(divergence.mean()):.2e} nats, same first token {100 * float(same):.1f} %")
        if trained:
            losses = [float(torch.nn.functional.cross_entropy(scores[:-1], ids[0, 1:])) for scores in (exact, rounded)]
            print(f"  loss     {losses[0]:.5f} fp32  {losses[1]:.5f} int8")
        print(f"  a step   {step_ms(model, ids, plain):.2f} ms fp32  {step_ms(model, ids, small):.2f} ms int8")


if __name__ == "__main__":
    main()
