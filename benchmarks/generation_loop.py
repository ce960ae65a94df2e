"""The cost of the generation loop itself, beside the peer's.

    python benchmarks/generation_loop.py [--tokens 60] [--rounds 15] [--batch 4] [--vocabulary 256]

A model of one tiny layer generates, and the time that its forward takes is subtracted, so that what remains is the
loop: processors, choosing, stopping, bookkeeping. The two libraries run in turn (A B A B ...), and the medians are
compared. Sorting and drawing over the vocabulary is arithmetic that both must do alike, for the same seed to give the
same tokens; with a large vocabulary it is most of the time that remains.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from typing import Any

import torch
import transformers

import glassformer

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "sampling, cut": {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.8},
    "beams": {"num_beams": 4},
    "beam sampling": {"num_beams": 4, "do_sample": True},
}


class Clock:
    """A model whose forward is timed."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds = model, 0.0
        forward = model.forward

        @functools.wraps(forward)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            output = forward(*args, **kwargs)
            self.seconds += time.perf_counter() - begin
            return output

        model.forward = timed

    def loop(self, **call: Any) -> tuple[float, float]:
        """Seconds of the loop alone, and of the whole call."""
        self.seconds = 0.0
        begin = time.perf_counter()
        self.model.generate(**call)
        whole = time.perf_counter() - begin
        return whole - self.seconds, whole


def models(vocabulary: int = 256) -> tuple[Clock, Clock]:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=512, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=None
    )
    peer = transformers.GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        ours = glassformer.GPT2LMHeadModel.from_pretrained(folder).eval()
    return Clock(ours), Clock(peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60, help="new tokens a call")
    parser.add_argument("--rounds", type=int, default=15, help="calls of each library")
    parser.add_argument("--batch", type=int, default=4, help="prompts a call")
    parser.add_argument("--vocabulary", type=int, default=256, help="tokens")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    ours, peer = models(options.vocabulary)
    ids = torch.randint(1, options.vocabulary, (options.batch, 8))
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    call |= {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens}
    print(f"{'us a step':14} {'loop':>8} {'peer':>8} {'ratio':>6} {'whole':>9} {'peer':>8} {'ratio':>6}")
    for name, strategy in STRATEGIES.items():
        times = [(ours.loop(**call, **strategy), peer.loop(**call, **strategy)) for _ in range(options.rounds + 2)][2:]
        (loop, whole), (peer_loop, peer_whole) = (
            [statistics.median(pair[side][part] for pair in times) / options.tokens * 1e6 for part in (0, 1)]
            for side in (0, 1)
        )
        print(
            f"{name:14} {loop:8.0f} {peer_loop:8.0f} {loop / peer_loop:6.2f} {whole:9.0f} {peer_whole:8.0f} "
            f"{whole / peer_whole:6.2f}"
        )


if __name__ == "__main__":
    main()
