"""Importing and loading, beside the peer: how long it takes, and how much memory a loaded model takes.

    python benchmarks/load.py [--rounds 5] [--layers 12] [--threads 1]

Every number comes from a fresh process, the two libraries in turn, and the table gives medians. Memory is the peak
resident memory (VmHWM, so Linux only) after a first forward, above what importing torch takes, as a multiple of the
size of the weights file. The checkpoint is a BERT of base size (12 layers, 438 MB) with random fp32 weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARIES = ("glassformer", "transformers")

MAKE = """
import sys, torch, transformers
transformers.BertModel(transformers.BertConfig(num_hidden_layers=int(sys.argv[2]))).save_pretrained(sys.argv[1])
"""

IMPORT = """
import json, sys, time
start = time.perf_counter()
{statement}
print(json.dumps({{"ms": 1e3 * (time.perf_counter() - start), "torch": "torch" in sys.modules}}))
"""

LOAD = """
import json, os, sys, time, torch
def peak():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
torch.set_num_threads(int(sys.argv[2]))
before = peak()
from {library} import AutoModel
start = time.perf_counter()
model = AutoModel.from_pretrained(sys.argv[1])
loaded = time.perf_counter()
with torch.no_grad():
    output = model(input_ids=torch.arange(100, 116)[None]).last_hidden_state
forward = time.perf_counter()
size = os.path.getsize(sys.argv[1] + "/model.safetensors")
print(json.dumps({{"load": 1e3 * (loaded - start), "forward": 1e3 * (forward - loaded),
                   "memory": (peak() - before) / size, "checksum": float(output.abs().mean())}}))
"""


def run(program: str, *arguments: str) -> dict[str, float]:
    """What a program prints as JSON, run in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"A measured process failed:\n{done.stderr}")
    return dict(json.loads(done.stdout)) if done.stdout else {}


def row(name: str, ours: list[float], peers: list[float], unit: str) -> None:
    """One line of the table: both medians, and ours as a part of the peer's."""
    mine, theirs = statistics.median(ours), statistics.median(peers)
    print(f"{name:<34}{mine:>10.2f} {unit:<7}{theirs:>10.2f} {unit:<7}{mine / theirs:>7.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    bare = []
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run(MAKE, folder, str(options.layers))
        size = os.path.getsize(Path(folder) / "model.safetensors")
        for _ in range(options.rounds):
            start = time.perf_counter()
            run("")
            bare.append(1e3 * (time.perf_counter() - start))
            for library in LIBRARIES:
                for kind, program in (
                    ("import", IMPORT.format(statement=f"import {library}")),
                    ("tokenizer", IMPORT.format(statement=f"from {library} import AutoTokenizer")),
                    ("load", LOAD.format(library=library)),
                ):
                    results.setdefault(f"{kind} {library}", []).append(run(program, folder, str(options.threads)))

    def both(kind: str, key: str) -> tuple[list[float], list[float]]:
        ours, peers = ([result[key] for result in results[f"{kind} {library}"]] for library in LIBRARIES)
        return ours, peers

    print(f"weights of {size / 1e6:.0f} MB, {options.rounds} rounds, {options.threads} threads; medians")
    print(f"python itself, start to end: {statistics.median(bare):.1f} ms\n")
    print(f"{'':<34}{LIBRARIES[0]:>14}    {LIBRARIES[1]:>14}      ratio")
    row("import the library", *both("import", "ms"), "ms")
    row("from it import AutoTokenizer", *both("tokenizer", "ms"), "ms")
    row("AutoModel.from_pretrained", *both("load", "load"), "ms")
    row("first forward, 16 tokens", *both("load", "forward"), "ms")
    row("peak memory / size of the file", *both("load", "memory"), "x")
    print()
    for kind, words in (("import", "import"), ("tokenizer", "AutoTokenizer")):
        ours, peers = ("yes" if flags[0] else "no" for flags in both(kind, "torch"))
        print(f"torch imported by {words}: {LIBRARIES[0]} {ours}, {LIBRARIES[1]} {peers}")
    ours, peers = both("load", "checksum")
    print(f"same output: {'yes' if abs(ours[0] - peers[0]) <= 1e-5 * abs(peers[0]) else f'NO, {ours[0]} {peers[0]}'}")


if __name__ == "__main__":
    main()
