"""What attention maps cost: a forward pass of BERT-base's shape without maps, with those of one layer, and with all.

Beside it the peer, which gives maps only when another attention was chosen at loading. Each round runs all cases one
after the other; what is printed are medians and the median of the ratios to the round's own call without maps.

    python benchmarks/attentions.py [--tokens 512] [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

import glassformer


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        call()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
        ours = glassformer.BertModel.from_pretrained(folder)
        sdpa = transformers.BertModel.from_pretrained(folder)
        eager = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    ids = torch.randint(1000, 2000, (1, options.tokens))
    cases: dict[str, Callable[[], Any]] = {
        "glassformer, no maps": lambda: ours(ids),
        "glassformer, one layer": lambda: ours(ids, output_attentions=[5]),
        "glassformer, all layers": lambda: ours(ids, output_attentions=True),
        "transformers sdpa, no maps": lambda: sdpa(ids),
        "transformers eager, all layers": lambda: eager(ids, output_attentions=True),
    }
    for call in cases.values():
        seconds(call)
    rounds = [{name: seconds(call) for name, call in cases.items()} for _ in range(options.rounds)]
    print(f"{options.tokens} tokens, {options.rounds} rounds, {options.threads} threads; medians\n")
    for name in cases:
        time_ms = 1000 * statistics.median(row[name] for row in rounds)
        ratio = statistics.median(row[name] / row["glassformer, no maps"] for row in rounds)
        print(f"{name:32}{time_ms:10.1f} ms{ratio:8.3f} x")


if __name__ == "__main__":
    main()
