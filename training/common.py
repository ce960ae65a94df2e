"""What the three training scripts share: data from Debian packages, the training loop, and the saving of a model."""

import json
import math
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "training" / "work"
BUNDLED = ROOT / "src" / "glassformer" / "bundled"
LIMIT = 3_000_000


def begin(seed: int) -> random.Random:
    """Seeds torch, keeps to one core, and returns the seeded source of every other choice.

    Matrices this small gain little from a second thread: two cores are better used by two scripts at once.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return random.Random(seed)


def say(*parts: object) -> None:
    """Prints a line at once, so that a log can be followed."""
    print(*parts, flush=True)


def debian(package: str) -> Path:
    """Downloads a Debian package without installing it and returns the folder of its unpacked files."""
    folder = WORK / "debian" / package
    if not folder.exists():
        say(f"downloading the Debian package {package}")
        archives = WORK / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=archives, check=True, stdout=subprocess.DEVNULL)
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", next(archives.glob(f"{package}_*.deb")), partial], check=True)
        partial.rename(folder)
    return folder


def muon(modules: torch.nn.Module, peak: float, inner_peak: float = 0.02) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, which learns from far fewer steps here, AdamW for everything else."""
    named = dict(modules.named_parameters())
    inner = [p for name, p in named.items() if ".layers." in name and p.ndim == 2]
    outer = [p for name, p in named.items() if not (".layers." in name and p.ndim == 2)]
    return [
        torch.optim.Muon(inner, lr=inner_peak, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(outer, lr=peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(
    losses: Iterator[torch.Tensor], steps: int, modules: torch.nn.Module, *optimizers: torch.optim.Optimizer
) -> float:
    """Minimises the losses that come one a step, with a linear warm-up and a cosine down to a fiftieth of each rate.

    Args:
        losses: Yields the scalar loss of one fresh batch a step.
        steps: How many steps to take.
        modules: What is trained.
        *optimizers: Hold its parameters, with their highest rates.

    Returns:
        The seconds it took.
    """
    parameters = list(modules.parameters())
    warmup = max(1, steps // 20)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    modules.train()
    start, shown, mean = time.perf_counter(), 0.0, None
    for step, loss in zip(range(1, steps + 1), losses):
        modules.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        passed = time.perf_counter() - start
        if passed - shown > (1 if sys.stdout.isatty() else 10) or step == steps:
            shown = passed
            left = passed / step * (steps - step)
            say(f"step {step}/{steps}  loss {mean:.4f}  {step / passed:.1f} steps/s  {left:.0f} s left")
    modules.eval()
    return time.perf_counter() - start


def bucketed(
    examples: Iterator[Any], size: int, length: Callable[[Any], int], rng: random.Random
) -> Iterator[list[Any]]:
    """Batches of examples of like length, so that little is computed on padding: sorted in pools, in random order."""
    while True:
        pool = sorted(islice(examples, 32 * size), key=length)
        batches = [pool[at : at + size] for at in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches


def save(
    model: Any, tokenizer: Tokenizer, name: str, tokenizer_config: dict[str, Any], generation: dict[str, Any]
) -> Path:
    """Writes a model in half precision with its tokenizer to the bundled folder, and returns that folder.

    The file holds float16 to be small. `dtype` in config.json says float32, so that it is computed in float32.
    """
    folder = BUNDLED / name
    model.half().save_pretrained(folder)
    model.float()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "dtype": "float32"})
    write(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation:
        write(folder / "generation_config.json", generation)
    return folder


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON in the layout of a checkpoint folder."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def wrapped(body: str) -> str:
    """Markdown with its paragraphs and list items broken at 100 columns; headings and tables stay as they are."""
    blocks = []
    for block in body.strip().split("\n\n"):
        if block.startswith("- "):
            items = (textwrap.fill(" ".join(item.split()), 98) for item in block[2:].split("\n- "))
            block = "\n".join("- " + item.replace("\n", "\n  ") for item in items)
        elif not block.startswith("|"):
            block = textwrap.fill(" ".join(block.split()), 100, break_long_words=False, break_on_hyphens=False)
        blocks.append(block)
    return "\n\n".join(blocks)


def card(folder: Path, title: str, body: str, seconds: float, script: str) -> None:
    """Writes README.md, the model's card: what it is, then its size, time and command."""
    size = (folder / "model.safetensors").stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{folder.name} has {size} bytes, {LIMIT} are allowed; make the model smaller")
    front = f"---\nlicense: apache-2.0\nlibrary_name: glassformer\n---\n\n# glassformer/{folder.name}\n\n{title}\n\n"
    end = (
        f"\n## Size, time, command\n\n"
        f"- {size / 1e6:.2f} MB: {size // 2 / 1e6:.2f} million parameters in float16, computed in float32.\n"
        f"- Trained by glassformer itself in {seconds / 60:.0f} minutes on one CPU core.\n"
        f"- Made again, card and numbers included, by `python training/{script}`.\n"
    )
    (folder / "README.md").write_text(front + wrapped(body) + "\n" + end, encoding="utf-8")
    say((folder / "README.md").read_text(encoding="utf-8"))
