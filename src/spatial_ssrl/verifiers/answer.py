"""Accuracy: is the boxed answer the right one?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.prompts.parsing import last_boxed
from spatial_ssrl.verifiers.base import VERIFIERS, Verifier

_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_LETTER = re.compile(r"([A-Za-z])[.):]?|\(([A-Za-z])\)\.?|\[([A-Za-z])\]")
_NUMBER = re.compile(r"[0-9]+")


@VERIFIERS.register("boxed_answer")
class BoxedAnswer(Verifier):
    r"""Score 1 when the last balanced `\boxed{...}` holds the right answer.

    Answers are compared by value: an order with or without brackets and spaces
    (`[2, 3, 0, 1]` is `2,3,0,1`); a letter as `B`, `b`, `(B)`, `[B]`, `B.`, `B)` or `B:`; other
    answers without regard to case, outer brackets, or spaces around commas. Nothing else
    counts: words around an answer make it wrong.

    Args:
        exact: Whether to compare as strings instead, as the reference does.

    References:
        Spatial-SSRL, arXiv:2510.27606, accuracy reward.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact

    @property
    def part_weights(self) -> Mapping[str, float]:
        """The whole reward is its one part."""
        return {"accuracy": 1.0}

    def score(self, text: str, question: Question) -> Verdict:
        """Score the boxed answer of `text`; see `Verifier.score`."""
        parsed = last_boxed(text)
        right = parsed is not None and self._equal(parsed, question)
        return Verdict(reward=float(right), parts={"accuracy": float(right)}, parsed=parsed)

    def _equal(self, given: str, question: Question) -> bool:
        if self.exact or given == question.answer:
            return given == question.answer
        if question.answer_kind == "choice":
            return _letter(given) == question.answer
        if question.answer_kind == "order":
            numbers = _numbers(given)
            return numbers is not None and numbers == _numbers(question.answer)
        return _words(given) == _words(question.answer)


def _letter(text: str) -> str | None:
    match = _LETTER.fullmatch(text)
    return None if match is None else next(filter(None, match.groups())).upper()


def _numbers(text: str) -> list[str] | None:
    """Return a list's numbers as canonical digits, or None when it holds anything else."""
    parts = _words(text)
    if not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    # As text: int() refuses very long numbers, and a model may write one.
    return [part.lstrip("0") or "0" for part in parts]


def _words(text: str) -> list[str]:
    text = text.strip()
    if len(text) >= 2 and _BRACKETS.get(text[0]) == text[-1]:
        text = text[1:-1]
    return [part.strip().casefold() for part in text.split(",")]
