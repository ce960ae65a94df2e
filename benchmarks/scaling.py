"""How speed scales: with the context, the batch, the threads and the length of a prompt, beside Transformers in fp32.

    python benchmarks/scaling.py [--rounds 5] [--steps 8] [--quick]

A Llama of GPT-2's size (124M, random weights, positions to 8,192) decodes one token at a time through
`model(ids, past_key_values=cache)`, or reads a prompt. All programs are loaded in one process and take turns
(A B C D A B C D ...); the numbers are medians. Written are plots, the numbers, and a table of them, to
`docs/performance/`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
import transformers
from matplotlib import pyplot
from matplotlib.ticker import NullLocator
from peers import machine

import glassformer

TARGET = Path(__file__).parents[1] / "docs" / "performance"
PEER, OURS = "Transformers fp32", "glassformer fp32"
COLOURS = {OURS: "#1f77b4", "glassformer int8": "#2ca02c", "glassformer int4": "#9467bd", PEER: "#888888"}
SHAPE: dict[str, Any] = {"vocab_size": 50257, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
SHAPE |= {"num_attention_heads": 12, "max_position_embeddings": 8224, "tie_word_embeddings": True}
Times = dict[str, list[float]]


class Program:
    """A loaded model with a cache that has read some texts.

    Args:
        model: of either library.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.cache, self.token = None, torch.empty(0)

    @torch.no_grad()
    def read(self, batch: int, length: int) -> float:
        """Seconds of reading texts (B, T)."""
        ids = torch.randint(SHAPE["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(0))
        begin = time.perf_counter()
        self.cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        seconds = time.perf_counter() - begin
        self.token = ids[:, :1]
        return seconds

    @torch.no_grad()
    def decode(self, steps: int) -> float:
        """Seconds of one more token for each text, the mean of some steps; the cache is as before then."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True)
        seconds = time.perf_counter() - begin
        assert self.cache is not None
        self.cache.crop(-steps)
        return seconds / steps


def programs(folder: str) -> dict[str, Program]:
    """The model in this library's precisions, and in the peer."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    peer.save_pretrained(folder)
    ours = glassformer.AutoModelForCausalLM
    return {
        PEER: Program(peer),
        OURS: Program(ours.from_pretrained(folder)),
        "glassformer int8": Program(ours.from_pretrained(folder, quantization="int8")),
        "glassformer int4": Program(ours.from_pretrained(folder, quantization="int4")),
    }


def turns(team: dict[str, Program], rounds: int, measured: Callable[[Program], float]) -> Times:
    """The seconds of every program in every round, after one that is thrown away."""
    times: Times = {name: [] for name in team}
    for turn in range(rounds + 1):
        for name, program in team.items():
            seconds = measured(program)
            if turn:
                times[name].append(seconds)
    return times


def decoding(team: dict[str, Program], batch: int, context: int, options: argparse.Namespace) -> dict[str, float]:
    """Tokens per second of every program."""
    for program in team.values():
        program.read(batch, context)
    times = turns(team, options.rounds, lambda program: program.decode(options.steps))
    return {name: batch / statistics.median(seconds) for name, seconds in times.items()}


def reading(team: dict[str, Program], length: int, options: argparse.Namespace) -> dict[str, float]:
    """Tokens per second of every program."""
    times = turns(team, max(1, options.rounds // 2), lambda program: program.read(1, length))
    return {name: length / statistics.median(seconds) for name, seconds in times.items()}


def with_threads(threads: int, measured: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A measurement with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = measured()
    torch.set_num_threads(before)
    return found


def plot(name: str, title: str, points: dict[int, dict[str, float]]) -> None:
    """Tokens per second on the left, and on the right the ratio to the peer."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for program, colour in COLOURS.items():
        speeds = [found[program] for found in points.values()]
        left.plot(list(points), speeds, "o-", color=colour, label=program, markersize=3)
        ratios = [found[program] / found[PEER] for found in points.values()]
        right.plot(list(points), ratios, "o-", color=colour, markersize=3)
    for axes, said in ((left, "tokens per second"), (right, f"× {PEER}")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(points), [f"{x:,}" for x in points])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(title)
        axes.set_ylabel(said)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=7, frameon=False)
    figure.savefig(TARGET / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def table(title: str, points: dict[int, dict[str, float]]) -> str:
    """The numbers of a plot as Markdown."""
    head = [title, *COLOURS, "ratio in fp32"]
    lines = [head, ["--:"] * len(head)]
    for x, found in points.items():
        speeds = [f"{found[program]:,.1f}" for program in COLOURS]
        lines.append([f"{x:,}", *speeds, f"{found[OURS] / found[PEER]:.2f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure, plot and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="tokens that a round decodes")
    parser.add_argument("--quick", action="store_true", help="few points and one round, to see that it runs")
    options = parser.parse_args()
    lengths, batches = [128, 256, 512, 1024, 2048, 4096, 8192], [1, 2, 4, 8, 16, 32, 64]
    if options.quick:
        lengths, batches, options.rounds, options.steps = [128, 512], [1, 8], 1, 2
    cores = len(os.sched_getaffinity(0))
    threads = sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {cores})
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as folder:
        team = programs(folder)
        found = {
            "context": {x: decoding(team, 1, x, options) for x in lengths},
            "batch": {x: decoding(team, x, 128, options) for x in batches},
            "threads": {x: with_threads(x, lambda: decoding(team, 1, 128, options)) for x in threads},
            "prefill": {x: reading(team, x, options) for x in lengths},
        }
    titles = {"context": "tokens in the cache", "batch": "texts in the batch", "threads": "threads"}
    titles |= {"prefill": "tokens of the prompt"}
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "glassformer", "font.size": 8}
    TARGET.mkdir(exist_ok=True)
    told = {"when": f"{datetime.date.today()}", "machine": machine.lines(), "rounds": options.rounds} | found
    (TARGET / "scaling.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    parts = ["# Scaling", "Written by `python benchmarks/scaling.py`, " + f"{told['when']}; tokens per second."]
    parts.append("\n".join(f"- {line}" for line in machine.lines()))
    for name, points in found.items():
        plot(name, titles[name], points)
        parts += [f"## {name.capitalize()}", table(titles[name], points)]
    (TARGET / "scaling.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"The plots and the numbers are in {TARGET}.")


if __name__ == "__main__":
    main()
