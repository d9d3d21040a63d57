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
