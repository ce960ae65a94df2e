"""Capitals and punctuation as tags: a text taken apart into bare words and what was lost of each."""

import random
import re

TAGS = [word + mark for word in ("word", "Word") for mark in ("", ",", ".", "?")]
MARKS = {**dict.fromkeys(",;:", ","), **dict.fromkeys(".!…", "."), "?": "?"}
WORDS = 48

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


def sentences(example: Tagged) -> list[Tagged]:
    """An example cut after every full stop and question mark, and after so many words where a sentence is longer."""
    parts: list[Tagged] = [([], [])]
    for word, tag in zip(*example):
        parts[-1][0].append(word)
        parts[-1][1].append(tag)
        if TAGS[tag].endswith((".", "?")) or len(parts[-1][0]) == WORDS:
            parts.append(([], []))
    return [part for part in parts if part[0]]


def windows(example: Tagged) -> list[Tagged]:
    """The whole sentences of an example, as many in a window as so many words allow."""
    made: list[Tagged] = []
    for words, tags in sentences(example):
        if made and len(made[-1][0]) + len(words) <= WORDS:
            made[-1] = (made[-1][0] + words, made[-1][1] + tags)
        else:
            made.append((words, tags))
    return made


def window(example: Tagged, rng: random.Random) -> Tagged:
    """Some whole sentences of an example, one after the other: from a random one on, at most so many words."""
    parts = sentences(example)
    start = rng.randrange(len(parts))
    return windows(([w for p in parts[start:] for w in p[0]], [t for p in parts[start:] for t in p[1]]))[0]
