"""Rewards by rule: from the text of a completion to a verdict."""

from spatial_ssrl.verifiers.answer import BoxedAnswer
from spatial_ssrl.verifiers.base import VERIFIERS, Verifier
from spatial_ssrl.verifiers.format import ThinkThenBoxed
from spatial_ssrl.verifiers.weighted import WeightedSum

__all__ = ["VERIFIERS", "BoxedAnswer", "ThinkThenBoxed", "Verifier", "WeightedSum"]
