"""Parts that fail on purpose, named by tests in YAML."""

from __future__ import annotations

import math

from spatial_ssrl.core.questions import Question, Verdict
from support.tiny_training import DigitShare


class NotANumberAt(DigitShare):
    """Judges like `DigitShare`, but says NaN once.

    Args:
        completion: Which completion gets it, counted from 0 in the order they are judged.
    """

    def __init__(self, completion: int) -> None:
        self.completion = completion
        self._seen = 0

    def score(self, text: str, question: Question) -> Verdict:
        """Return the share of digits, or NaN."""
        self._seen += 1
        if self._seen - 1 == self.completion:
            return Verdict(math.nan, {"accuracy": 0.0})
        return super().score(text, question)
