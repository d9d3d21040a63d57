"""The verifier contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.core.registry import Registry


class Verifier(ABC):
    """Turns the text of a completion into a reward, by rule alone."""

    @property
    def part_weights(self) -> Mapping[str, float]:
        """Weight of each part in the reward, by name; empty where the reward is no such sum."""
        return {}

    @abstractmethod
    def score(self, text: str, question: Question) -> Verdict:
        """Score one completion.

        Args:
            text: The completion, any string at all; never raises on it and takes time linear
                in its length.
            question: The question it answers.
        """


VERIFIERS: Registry[Verifier] = Registry(Verifier, "verifier")
