"""glassformer beside its peers on the same weights: speed in turns, ratios, and the error beside the speed.

    make bench                                          # everything: hours
    .bench/venv/bin/python benchmarks/peers/run.py --models gpt2 --tasks decode-1 --precisions fp32 --rounds 3

Every program runs in a process of its own, with as many threads as the others, and they take turns (A B C A B C ...),
so that a machine that slows down slows all of them. Numbers are medians over the rounds. Each row is kept in
`.bench/results.json` as soon as it is there, and at the end all are written as tables to `benchmarks/peers/RESULTS.md`;
a later run replaces what it measures, or with `--missing` measures what this commit has no row of.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import inputs
import machine
import models
import numpy as np
import report
from worker import Absent, Worker

Row = dict[str, Any]
HERE, KEPT = Path(__file__).parent, machine.FOLDER / "results.json"
PROGRAMS = ["glassformer", "transformers", "transformers_compiled"]
PROGRAMS += ["ctranslate2", "llama_cpp", "onnxruntime", "openvino"]
PRECISIONS = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0625, "int4": 0.5625}  # bytes a weight; a scale for 32


@dataclass(frozen=True)
class Task:
    """Something to measure.

    Attributes:
        title: its name in the table.
        method: of a runner; or `first`, the same after loading in a new process.
        arguments: of the method.
        tokens: how many tokens that is; 0 to give seconds instead.
    """

    title: str
    method: str
    arguments: tuple[Any, ...]
    tokens: int = 0


def tasks(new: int) -> dict[str, Task]:
    """All tasks, where decoding writes `new` tokens."""
    return {
        "decode-1": Task("decode, batch 1, tokens/s", "decode", (1, 8, new), new),
        "decode-8": Task("decode, batch 8, tokens/s", "decode", (8, 8, new), 8 * new),
        "prefill": Task("prefill of 1,024 tokens, s", "prefill", (1024,)),
        "encode-equal": Task("32 texts of 128 tokens, tokens/s", "encode", (inputs.EQUAL,), sum(inputs.EQUAL)),
        "encode-ragged": Task("32 texts of 8 to 128, tokens/s", "encode", (inputs.RAGGED,), sum(inputs.RAGGED)),
        "first": Task("load to first token, s", "first", ("decode", 1, 8, 1)),
        "first-states": Task("load to first states, s", "first", ("encode", [8])),
    }


def free_memory() -> float:
    """Bytes that programs can still take, leaving in memory the files that others have mapped."""
    said = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return 1024.0 * (int(said["MemAvailable"].split()[0]) - int(said["Mapped"].split()[0]))


def apart(found: Any, expected: Any) -> float:
    """The relative error of an array, where both are finite."""
    real = np.isfinite(found) & np.isfinite(expected)
    return float(np.linalg.norm((found - expected)[real]) / np.linalg.norm(expected[real]))


def quality(worker: Worker, folder: Path) -> dict[str, float]:
    """The relative error against Transformers in fp32, and of a decoder, how many greedy tokens are the same."""
    expected = np.load(folder / "reference.npz")
    if "states" in expected:
        return {"error": apart(worker.call("encode", inputs.RAGGED, warm=False)[1], expected["states"])}
    error = apart(worker.call("prefill", inputs.PROBE, warm=False)[1], expected["logits"])
    written = np.array(worker.call("decode", *models.GREEDY, warm=False)[1])
    same = np.cumprod(written == expected["tokens"], axis=1)  # up to the first that differs
    return {"error": error, "same": int(same.sum()), "of": same.size}


def turns(
    workers: list[Worker], task: Task, rounds: int, together: bool
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The seconds of every program in every round, and why a program has none.

    Args:
        workers: the programs.
        task: what they do.
        rounds: how often.
        together: whether they may stay loaded while the others have their turns.
    """
    times: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    fresh = task.method == "first"
    if fresh:
        for worker in workers:
            worker.stop()
    for turn in range(0 if fresh or together else 1, rounds + 1):  # turn 0 is thrown away
        for worker in workers:
            if worker.program in absent:
                continue
            time.sleep(0.1)  # the threads of the one before may still spin
            try:
                seconds = (worker.first if fresh else partial(worker.call, task.method))(*task.arguments)[0]
            except Absent as reason:
                absent[worker.program] = str(reason)
                continue
            if turn:
                times.setdefault(worker.program, []).append(seconds)
            if fresh or not together:
                worker.stop()
    return times, absent


def measure(name: str, precision: str, chosen: dict[str, Task], options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one model in one precision."""
    folder = models.ROOT / name
    workers = [Worker(program, folder, precision, options.threads) for program in options.programs]
    absent: dict[str, str] = {}
    errors: dict[str, dict[str, float]] = {}
    size = sum(file.stat().st_size for file in (folder / "hf").glob("*.safetensors")) * PRECISIONS[precision] / 4
    together = True
    for worker in workers:
        try:
            errors[worker.program] = quality(worker, folder)
        except Absent as reason:
            absent[worker.program] = str(reason)
        print(f"  {worker.program}: {absent.get(worker.program) or errors[worker.program]}", flush=True)
        together &= free_memory() > 2 * size  # room for the next
        for other in workers if not together else ():
            other.stop()
    able = [worker for worker in workers if worker.program in errors]
    for key, task in chosen.items():
        rounds = min(options.rounds, 3) if task.method == "first" else options.rounds
        times, failed = turns(able, task, rounds, together)
        medians = {program: statistics.median(seconds) for program, seconds in times.items()}
        row: Row = {"model": name, "precision": precision, "task": key, "title": task.title, "absent": absent | failed}
        row |= {"values": {p: task.tokens / s if task.tokens else s for p, s in medians.items()}, "errors": errors}
        row |= {"spread": {p: (max(s) - min(s)) / medians[p] for p, s in times.items()}, "more": bool(task.tokens)}
        if task.method == "decode":
            row |= {"bytes": models.weights_of_a_step(name) * PRECISIONS[precision], "batch": task.arguments[0]}
        now = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
        print(f"  {task.title}: {', '.join(f'{p} {v:.4g}' for p, v in row['values'].items())}", flush=True)
        yield row | {"rounds": rounds, "threads": options.threads, "when": now, "commit": commit()}
    for worker in workers:
        worker.stop()


def commit() -> str:
    """Which state of this library is measured."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip()


def wanted(name: str, precision: str, rows: dict[str, Any], options: argparse.Namespace) -> dict[str, Task]:
    """What a run measures of a model in a precision."""
    found = {key: task for key, task in tasks(options.new).items() if key in options.tasks}
    found = {key: task for key, task in found.items() if key in models.SHAPES[name].tasks}
    if not options.missing:
        return found
    measured = {key: rows.get(f"{name} {precision} {key}", {}).get("commit", "") for key in found}
    now = commit().removesuffix("-dirty")  # the table that a run writes makes the next one so
    return {key: task for key, task in found.items() if measured[key].removesuffix("-dirty") != now}


def main() -> None:
    """Measure what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=models.SHAPES, default=list(models.SHAPES))
    parser.add_argument("--tasks", nargs="+", choices=tasks(1), default=list(tasks(1)))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=64, help="tokens that decoding writes for each text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--missing", action="store_true", help="leave out the rows that this commit already has")
    options = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if kept.get("machine") != machine.lines():  # rows of two machines do not belong into one table
        kept = {"machine": machine.lines(), "rows": {}}
    # The most that was ever measured here: neighbours take some of it at one time and not at another.
    kept["bandwidth"] = max(machine.bandwidth(options.threads), kept.get("bandwidth", 0.0))
    for name in options.models:
        asked = ["--programs", *options.programs, "--precisions", *options.precisions]
        subprocess.run([sys.executable, HERE / "models.py", name, *asked], check=True)
        for precision in options.precisions:
            chosen = wanted(name, precision, kept["rows"], options)
            if not chosen:
                continue
            print(f"{models.SHAPES[name].title}, {precision}", flush=True)
            for row in measure(name, precision, chosen, options):
                kept["rows"][f"{name} {precision} {row['task']}"] = row
                KEPT.write_text(json.dumps(kept, indent=1))
    report.write(kept, HERE / "RESULTS.md")
    print(f"The table is in {HERE / 'RESULTS.md'}.")


if __name__ == "__main__":
    main()
