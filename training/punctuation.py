"""Capitals and punctuation as tags: a text taken apart into bare words and what was lost of each."""

import random
import re

TAGS = [word + mark for word in ("word", "Word") for mark in ("", ",", ".", "?")]
MARKS = {**dict.fromkeys(",;:", ","), **dict.fromkeys(".!…", "."), "?": "?"}
WORDS = 32

Tagged = tuple[list[str], list[int]]


def tagged(text: str) -> Tagged:
    """The words of a text, lower-cased and bare, and the tag of each: its capital and the mark that follows it."""
    words, tags = [], []
    for token in text.replace("--", " ").split():
        match = re.fullmatch(r"\W*(\w(?:.*\w)?)(\W*)", token)
        if not match:
            continue
        mark = next((MARKS[c] for c in match[2] if c in MARKS), "")
        words.append(match[1].lower())
        tags.append(TAGS.index(("Word" if match[1][0].isupper() else "word") + mark))
    return words, tags


def is_sentence(text: str) -> bool:
    """Whether a message is a whole sentence of some words, so that its punctuation says something."""
    return text[-1] in ".!?" and text[0].isupper() and text.count(" ") >= 4


def window(example: Tagged, rng: random.Random) -> Tagged:
    """At most so many words of an example, half of the time from a random place."""
    words, tags = example
    start = rng.randrange(max(1, len(words) - WORDS // 2)) if rng.random() < 0.5 else 0
    end = start + rng.randint(8, WORDS)
    return words[start:end], tags[start:end]
