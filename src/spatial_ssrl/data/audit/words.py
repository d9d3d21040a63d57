"""Guessing the answer from the text of the question alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint32]

_WORD = re.compile(r"\w+|[^\w\s]")
_LONGEST = 3  # words of an n-gram
_COLUMNS = 1024  # n-grams looked at, those that vary most
_CONTEXT = 48  # of these, that are crossed with options
_CROSSED = 1024


def word_hashes(text: str) -> Hashes:
    """Return the hashes of all 1- to 3-grams of words and signs of a text, each once, sorted.

    Args:
        text: The prompt, options included. Case is ignored.
    """
    words = _WORD.findall(text.lower())
    grams = {
        " ".join(words[start : start + length])
        for length in range(1, _LONGEST + 1)
        for start in range(len(words) - length + 1)
    }
    return np.array(sorted({_hash(gram) for gram in grams}), dtype=np.uint32)


def without_options(prompt: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """Return the prompt without its list of options, or None when they are not listed in it.

    Args:
        prompt: Text of the question.
        letters: What the options are called, such as A, B, C and D.
        options: What they say, in the same order.
    """
    if not options or len(options) != len(letters):
        return None
    for letter, option in zip(letters, options, strict=True):
        listed = re.compile(rf"\b{re.escape(letter)}\b\W{{1,4}}{re.escape(option)}\b")
        prompt, found = listed.subn(" ", prompt, count=1)
        if not found:
            return None
    return prompt


def presence(texts: Sequence[Hashes], most: int = _COLUMNS) -> npt.NDArray[np.float32]:
    """Return which n-grams each text holds, for those that tell texts apart best.

    Args:
        texts: `word_hashes` of each text.
        most: Columns at most; those held by nearest to half of the texts are kept.

    Returns:
        Shape (N, columns), 0 or 1; no column when all texts are alike.
    """
    every, counts = np.unique(np.concatenate(texts), return_counts=True)
    share = counts / len(texts)
    # One n-gram in a hundred texts or fewer is too rare to learn from or to gain by.
    varying = np.flatnonzero((share > 0.01) & (share < 0.99))
    order = np.argsort(np.abs(share[varying] - 0.5), kind="stable")[:most]
    kept = np.sort(every[varying[order]])
    table = np.zeros((len(texts), len(kept)), dtype=np.float32)
    for row, text in enumerate(texts):
        table[row] = np.isin(kept, text, assume_unique=True)
    return table


def option_features(
    contexts: Sequence[Hashes], options: Sequence[Sequence[str]]
) -> npt.NDArray[np.float32]:
    """Describe each option by what it says, alone and crossed with words of the question.

    This is what finds that "Front" is the answer more often when the camera faces away.

    Args:
        contexts: `word_hashes` of each prompt without its options.
        options: Options of each question, A of them.

    Returns:
        Shape (N, A, D), 0 or 1.
    """
    held = presence(contexts, _CONTEXT)
    texts = sorted({option for listed in options for option in listed})
    number = {option: index for index, option in enumerate(texts)}
    width = held.shape[1] + 1
    columns = min(len(texts) * width, _CROSSED)
    table = np.zeros((len(options), len(options[0]), columns), dtype=np.float32)
    for row, listed in enumerate(options):
        words = np.flatnonzero(held[row]) + 1
        for place, option in enumerate(listed):
            start = number[option] * width
            table[row, place, start % columns] = 1
            table[row, place, (start + words) % columns] = 1
    return table


@lru_cache(maxsize=1 << 16)
def _hash(gram: str) -> int:
    return int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=4).digest(), "little")
