"""Classify the lines of a text file, batch after batch.

Run `python examples/classify_file.py FILE > result.tsv`, or without a file on a few lines that it writes itself.
A chunk of lines is sorted by length before it is cut into batches, so that little is computed on padding, and printed
in its old order as soon as it is done: a file of any size needs the memory of one chunk. The output is one line of
tab-separated values for each that is not empty: its number, the label, its probability, the text. The bar appears on
a terminal only.
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm  # comes with huggingface_hub

from glassformer import AutoModelForSequenceClassification, AutoTokenizer

DEMO = """The weather was fine, so we went to the sea.
Wo kann ich eine Fahrkarte für den Zug kaufen?
Ma sœur travaille comme médecin dans un grand hôpital.

Pociąg odjeżdża jutro rano o siódmej.
明日の朝、友だちと山に登ります。
Siskoni osti torilta tuoretta leipää.
Το βιβλίο είναι πάνω στο τραπέζι.
Yarın sabah erken kalkmam gerekiyor."""


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers from 1."""
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from ((number, " ".join(line.split())) for number, line in enumerate(file, 1) if line.strip())


@torch.inference_mode()
def classify(path: Path, name: str, batch_size: int, chunk_size: int = 1024) -> Iterator[tuple[int, str, float, str]]:
    """Number, label, probability and text of each line, in the file's order."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name)
    lines = numbered(path)
    while chunk := list(islice(lines, chunk_size)):
        order = sorted(range(len(chunk)), key=lambda at: len(chunk[at][1].encode()))
        found: dict[int, tuple[str, float]] = {}
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            inputs = tokenizer([chunk[at][1] for at in part], padding=True, truncation=True, return_tensors="pt")
            best = model(**inputs).logits.softmax(-1).max(-1)
            labels = (model.config.id2label[label] for label in best.indices.tolist())
            found.update(zip(part, zip(labels, best.values.tolist())))
        for at, (number, text) in enumerate(chunk):
            yield (number, *found[at], text)


def main() -> None:
    """Read the arguments, print a line of the table for each of the file."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", help="a UTF-8 text file, one text a line")
    parser.add_argument("--model", default="glassformer/tiny-bert", help="name or folder of a classifier")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if args.file is not None and not args.file.is_file():
        parser.error(f"there is no file {args.file}")
    with tempfile.TemporaryDirectory() as folder:
        file = args.file or Path(folder, "demo.txt")
        if args.file is None:
            file.write_text(DEMO, encoding="utf-8")
        for row in tqdm(classify(file, args.model, args.batch_size), disable=None, unit=" lines"):
            number, label, probability, text = row
            tqdm.write(f"{number}\t{label}\t{probability:.4f}\t{text}")


if __name__ == "__main__":
    main()
