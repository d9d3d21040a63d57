"""How a question and its worked answer are worded: one short way, or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from spatial_ssrl.core.errors import ConfigError

Wording = Literal["varied", "terse"]
"""Several full phrasings, drawn anew for each question, or one short one for tiny policies."""


def check_wording(wording: str) -> None:
    """Raise `ConfigError` unless `wording` is "varied" or "terse"."""
    if wording not in ("varied", "terse"):
        raise ConfigError(f'wording must be "varied" or "terse", got {wording!r}.')


def one_of(variants: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of `variants`, every one alike.

    Tasks draw words after everything else, so that questions of two wordings but one seed show
    the same pictures and have the same answers.
    """
    return variants[int(rng.integers(len(variants)))]


def listed(items: Sequence[object]) -> str:
    """Return items as in a sentence: "1", "1 and 2", "1, 2 and 3"."""
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 row" or "3 rows"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
