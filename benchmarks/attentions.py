"""What attention maps cost: calls with the maps of one layer, one head or one row of queries, beside calls without.

Two models: BERT-base's shape over a page, and GPT-2's shape over a long text. Beside them the peer, which gives maps
only where it leaves its fast kernel, and then holds every map of every layer. Each round runs all cases in turn; what
is printed are medians of time, of the ratio to the round's own call without maps, and the memory that the call took at
its peak beyond what the call without maps took, beside the size of the maps themselves.

    python benchmarks/attentions.py [--tokens 512] [--long 4096] [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import glassformer
from glassformer import Maps

MIB = 2**20
Cases = dict[str, Callable[[], Any]]


def measured(call: Callable[[], Any]) -> tuple[float, int, int]:
    """Seconds of a call, the bytes that it took at its peak, and those of the maps that it gave."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    start = time.perf_counter()
    with torch.no_grad():
        output = call()
    seconds = time.perf_counter() - start
    maps = [layer for layer in output.attentions or () if layer is not None]
    return seconds, memory("VmHWM") - before, sum(layer.nbytes for layer in maps)


def memory(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def table(title: str, cases: Cases, rounds: int) -> None:
    """Measure and print."""
    for call in cases.values():
        measured(call)
    runs = [{name: measured(call) for name, call in cases.items()} for _ in range(rounds)]
    print(f"{title}\n{'':36}{'time':>11} {'ratio':>8} {'memory':>12} {'maps':>10}")
    plain = next(iter(cases))
    base = statistics.median(run[plain][1] for run in runs)
    for name in cases:
        seconds, peak, maps = (statistics.median(run[name][part] for run in runs) for part in range(3))
        ratio = statistics.median(run[name][0] / run[plain][0] for run in runs)
        more = f"{(peak - base) / MIB:8.0f} MiB" if name != plain else ""
        print(f"{name:36}{1000 * seconds:8.1f} ms {ratio:7.3f}x {more:>12} {maps / MIB:6.0f} MiB")
    print()


def traced(model: Any, record: Any, **call: Any) -> Any:
    """A call whose trace records some maps, with the maps where the table looks for them."""
    with model.trace(record) as trace:
        output = model(**call)
    output["attentions"] = tuple(trace[name] for name in trace.names)
    return output


def models(peer_class: Any, config: Any) -> tuple[Any, Any, Any]:
    """The same model in this library, and in the peer with its fast kernel and with the one that gives maps."""
    with tempfile.TemporaryDirectory() as folder:
        peer_class(config).save_pretrained(folder)
        ours = getattr(glassformer, peer_class.__name__).from_pretrained(folder)
        fast = peer_class.from_pretrained(folder)
        return ours, fast, peer_class.from_pretrained(folder, attn_implementation="eager")


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=512, help="of the page")
    parser.add_argument("--long", type=int, default=4096, help="of the long text; 0 to leave it out")
    parser.add_argument("--rounds", type=int, default=7, help="of the page; the long text takes a third of them")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    ours, sdpa, eager = models(transformers.BertModel, transformers.BertConfig())
    ids = torch.randint(1000, 2000, (1, options.tokens))
    cases: Cases = {
        "glassformer, no maps": lambda: ours(ids),
        "glassformer, one layer": lambda: ours(ids, output_attentions=[5]),
        "glassformer, one head": lambda: ours(ids, output_attentions={5: 3}),
        "glassformer, trace of one layer": lambda: traced(ours, "*.5.attention.weights", input_ids=ids),
        "glassformer, all layers": lambda: ours(ids, output_attentions=True),
        "transformers sdpa, no maps": lambda: sdpa(ids),
        "transformers eager, all layers": lambda: eager(ids, output_attentions=True),
    }
    table(f"BERT-base, {options.tokens} tokens, {options.threads} threads", cases, options.rounds)
    if not options.long:
        return
    config = transformers.GPT2Config(n_positions=options.long)
    ours, sdpa, eager = models(transformers.GPT2Model, config)
    ids = torch.randint(1000, 2000, (1, options.long))
    call = {"input_ids": ids, "use_cache": False}
    cases = {
        "glassformer, no maps": lambda: ours(**call),
        "glassformer, one layer": lambda: ours(**call, output_attentions=[5]),
        "glassformer, one head": lambda: ours(**call, output_attentions={5: 3}),
        "glassformer, trace of one head": lambda: traced(ours, {"*.5.attention.weights": Maps(heads=3)}, **call),
        "glassformer, one row of queries": lambda: ours(**call, output_attentions={5: Maps(queries=-1)}),
        "transformers sdpa, no maps": lambda: sdpa(**call),
        "transformers eager, all layers": lambda: eager(**call, output_attentions=True),
    }
    table(f"GPT-2, {options.long} tokens, {options.threads} threads", cases, max(1, options.rounds // 3))


if __name__ == "__main__":
    main()
