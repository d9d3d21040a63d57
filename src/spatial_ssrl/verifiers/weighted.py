"""Several verifiers as one reward."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.verifiers.answer import BoxedAnswer
from spatial_ssrl.verifiers.base import VERIFIERS, Verifier
from spatial_ssrl.verifiers.format import ThinkThenBoxed


@VERIFIERS.register("weighted_sum")
class WeightedSum(Verifier):
    """Add up the rewards of several verifiers; by default 0.9 accuracy and 0.1 format.

    The parts of every verdict are kept under their names, and the first parsed answer counts.

    Args:
        verifiers: What to add up; `BoxedAnswer` and `ThinkThenBoxed` when left out.
        weights: One weight a verifier, 0 or more with a sum of 1; 0.9 and 0.1 when left out.

    References:
        Spatial-SSRL, arXiv:2510.27606, reward.
    """

    def __init__(
        self, verifiers: list[Verifier] | None = None, weights: list[float] | None = None
    ) -> None:
        if (verifiers is None) != (weights is None):
            raise ConfigError("verifiers and weights go together: give both or neither.")
        self.verifiers = [BoxedAnswer(), ThinkThenBoxed()] if verifiers is None else verifiers
        self.weights = [0.9, 0.1] if weights is None else weights
        if len(self.weights) != len(self.verifiers):
            raise ConfigError(
                f"weights must have one number a verifier, got {len(self.weights)} for "
                f"{len(self.verifiers)}."
            )
        if any(weight < 0 for weight in self.weights) or not math.isclose(sum(self.weights), 1):
            raise ConfigError(f"weights must be 0 or more and add up to 1, got {self.weights}.")

    @property
    def part_weights(self) -> Mapping[str, float]:
        """Weight of each part, that of its verifier; empty if a verifier's parts are no sum."""
        weighted = list(zip(self.weights, self.verifiers, strict=True))
        if not all(verifier.part_weights for _, verifier in weighted):
            return {}
        return {
            name: weight * share
            for weight, verifier in weighted
            for name, share in verifier.part_weights.items()
        }

    def score(self, text: str, question: Question) -> Verdict:
        """Add up the verifiers' rewards; see `Verifier.score`."""
        verdicts = [verifier.score(text, question) for verifier in self.verifiers]
        return Verdict(
            reward=sum(
                weight * verdict.reward
                for weight, verdict in zip(self.weights, verdicts, strict=True)
            ),
            parts={name: part for verdict in verdicts for name, part in verdict.parts.items()},
            parsed=next((v.parsed for v in verdicts if v.parsed is not None), None),
        )
