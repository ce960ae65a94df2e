"""glassformer: three ways to build a Transformer, each from text to loss.

A Transformer cuts a text into tokens, turns each token into a list of numbers, and changes these numbers layer by
layer. In each layer the tokens look at one another ("attention"), with several pairs of eyes ("heads"). There are
three ways to build one. Here they run, on small models that come with the package, without a network. Lines that begin
with >>> are what you would type. Shapes are (texts, tokens, numbers), and where tokens look at tokens (texts, heads,
tokens, tokens).
"""
# `make demo` runs this. What it prints is here once: a docstring is the text around a page, and the calls that are
# shown are the calls that run, since `typed()` prints the lines of its `with` block.

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from glassformer import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()
MEANINGS = {
    "loss": "minus log of the right label's probability",
    "hidden_states": "the tokens' numbers, before and after each layer",
    "attentions": "who looks at whom, by layer and head",
    "past_key_values": "the cache: what later tokens need of these",
    "decoder_attentions": "who looks at whom in what is written",
    "cross_attentions": "what is written looks at what was read",
    "encoder_last_hidden_state": "what was read, as numbers",
    "encoder_attentions": "who looks at whom in what was read",
}


@contextmanager
def typed() -> Iterator[None]:
    """Print the lines of the `with` block as one would type them."""
    start = sys._getframe(2).f_lineno  # the line of the `with`; frame 1 is contextlib's
    depth = len(LINES[start]) - len(LINES[start].lstrip())
    block = takewhile(lambda line: line.startswith(" " * depth), LINES[start:])
    print("\n".join(">>> " + line[depth:] for line in block) + "\n")
    yield


def say(text: str, indent: str = "") -> None:
    """Print a paragraph."""
    print(textwrap.fill(" ".join(text.split()), 96, initial_indent=indent, subsequent_indent=" " * len(indent)) + "\n")


def show_tokens(inputs: Any) -> None:
    """Print the tokens of the first text, each over its id."""
    pairs = list(zip(inputs.tokens(), map(str, inputs.input_ids[0].tolist())))
    for start in range(0, len(pairs), 12):
        for row, name in enumerate(("tokens", "ids")):
            cells = (f"{pair[row]:{max(map(len, pair))}}" for pair in pairs[start : start + 12])
            print(f"    {name:8}" + "  ".join(cells).rstrip())
    print()


def show_output(out: Any, logits: str) -> None:
    """Print the keys of an output, the shapes under them (of the loss the value), and what they mean."""
    for key, value in out.items():
        shape = str(tuple(value.shape)) if isinstance(value, torch.Tensor) else f"{len(value)} layers"
        if isinstance(value, tuple):
            shape = f"{len(value)} x {tuple(value[-1].shape)}"
        print(f"    out.{key:26}{f'{value.item():.4f}' if key == 'loss' else shape:20}{MEANINGS.get(key, logits)}")
    print()


def show_likely(names: Any, probabilities: torch.Tensor) -> None:
    """Print the three most probable names, with a bar for each."""
    for p, index in zip(*(part.tolist() for part in probabilities.topk(3))):
        print(f"    {names[index]!s:14}{p:7.1%}  {'#' * round(40 * p)}".rstrip())
    print()


def show_map(weights: torch.Tensor, read: list[str], written: list[str]) -> None:
    """Draw weights (written, read) from light to dark, a row for each token that was read."""
    print(f"    {'':16}" + " ".join(token[:1] for token in written))
    for token, row in zip(read, weights.T.tolist()):
        print(f"    {token:16}" + " ".join(" .:-=+*#%@"[min(9, int(10 * weight))] for weight in row).rstrip())
    print()


def encoder() -> None:
    """1. An encoder reads a text as a whole.

    In an encoder every token looks at all the others, those before it and those after it. What it has found out is
    then read off as scores. This one tells which language a text is in, of 32.

    Encoder (structure/stack.py), first token's state (structure/readout.py), class scores and loss (heads.py).
    """
    with typed():
        text = "Wo kann ich eine Fahrkarte für den Zug kaufen?"
        tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-bert")
        model = AutoModelForSequenceClassification.from_pretrained("glassformer/tiny-bert")
        inputs = tokenizer(text, return_tensors="pt")
    show_tokens(inputs)
    with typed():
        german = torch.tensor([model.config.label2id["German"]])
        out = model(**inputs, labels=german, output_hidden_states=True, output_attentions=True)
        probabilities = out.logits.softmax(-1)
    show_output(out, "a score for each language")
    show_likely(model.config.id2label, probabilities[0])


def labels_for_words() -> None:
    """The same layers, a label for each word.

    Another head on the same encoder reads every token, not only the first. It guesses how each word was written before
    somebody took away its capital and the mark behind it. It is small and often wrong; its card
    (bundled/tiny-bert-punctuation/README.md) says how often.

    The same encoder, scores of every token and their loss (heads.py).
    """
    with typed():
        words = ["she", "was", "at", "bath", "with", "mrs", "allen"]
        tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-bert-punctuation")
        model = AutoModelForTokenClassification.from_pretrained("glassformer/tiny-bert-punctuation")
        inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    show_tokens(inputs)
    with typed():
        right = ["Word", "word", "word", "Word", "word", "Word.", "Word"]
        first = [inputs.word_ids().index(n) for n in range(len(words))]  # the first token of each word
        labels = torch.full_like(inputs.input_ids, -100)  # -100: not counted
        labels[0, first] = torch.tensor([model.config.label2id[tag] for tag in right])
        out = model(**inputs, labels=labels)
        tags = [model.config.id2label[index] for index in out.logits[0, first].argmax(-1).tolist()]
    show_output(out, "for each token, a score for each label")
    for name, given in (("text", ["word"] * len(words)), ("result", tags), ("right", right)):
        line = " ".join((word.capitalize() if tag[0] == "W" else word) + tag[4:] for word, tag in zip(words, given))
        print(f"    {name:8}{line}")
    print(f"    labels  {' '.join(tags)}\n")


def decoder() -> None:
    """2. A decoder goes on with a text.

    In a decoder every token looks only at those before it. So each can be asked what comes next, and the answer can be
    put behind the text, and so on. This one has read the novels of Jane Austen.

    Decoder (structure/stack.py) with its cache (cache/), scores and loss (heads.py), generation/search.py.
    """
    with typed():
        text = "She could not"
        tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-gpt2")
        model = AutoModelForCausalLM.from_pretrained("glassformer/tiny-gpt2")
        inputs = tokenizer(text, return_tensors="pt")
    show_tokens(inputs)
    with typed():
        out = model(**inputs, labels=inputs.input_ids)
        probabilities = out.logits[0, -1].softmax(-1)
    show_output(out, "for each token, a score for each that may follow")
    show_likely([tokenizer.decode([index]).strip() for index in range(len(tokenizer))], probabilities)
    with typed():
        greedy = model.generate(**inputs, max_new_tokens=24)
        torch.manual_seed(1)
        drawn = model.generate(**inputs, max_new_tokens=24, do_sample=True, top_k=40, temperature=0.8)
    say(tokenizer.decode(greedy[0]), "    always the likeliest token:   ")
    say(tokenizer.decode(drawn[0]), "    drawn by probability:         ")


def encoder_decoder() -> None:
    """3. An encoder and a decoder rewrite a text.

    The encoder reads one text, the decoder writes another, and each token that is written looks at all that was read:
    "cross-attention". This one rewrites dates in 26 languages.

    Encoder, decoder and cross-attention (structure/), scores and loss (heads.py), generation/search.py.
    """
    with typed():
        text = "jueves, 4 de marzo de 2021"
        tokenizer = AutoTokenizer.from_pretrained("glassformer/tiny-t5")
        model = AutoModelForSeq2SeqLM.from_pretrained("glassformer/tiny-t5")
        inputs = tokenizer(text, return_tensors="pt")
    show_tokens(inputs)
    with typed():
        ids = model.generate(**inputs)
        result = tokenizer.decode(ids[0], skip_special_tokens=True)
    print(f"    result  {result}\n")
    with typed():
        labels = tokenizer("2021-03-04", return_tensors="pt").input_ids
        out = model(**inputs, labels=labels, output_attentions=True)
    show_output(out, "for each place, a score for each token")
    say("""Where the decoder looked: each column is a token that it wrote; the darker, the more it looked at the token
        on the left.""")
    with typed():
        weights = out.cross_attentions[-1][0].mean(0)  # of the last layer, the mean over its heads
    show_map(weights, inputs.tokens(), tokenizer.convert_ids_to_tokens(labels[0].tolist()))


def main() -> None:
    """Print the pages."""
    title, _, text = str(__doc__).partition("\n")
    print(f"{title[:-1]}\n{'=' * len(title[:-1])}\n")
    say(text)
    for page in (encoder, labels_for_words, decoder, encoder_decoder):
        title, text, structure = str(inspect.getdoc(page)).split("\n\n")
        print(f"\n{title[:-1]}\n{'-' * len(title[:-1])}\n")
        say(text)
        page()
        say(structure, "In the structure: ")


if __name__ == "__main__":
    main()
