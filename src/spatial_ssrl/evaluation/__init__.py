"""Evaluation: what held-out answers say of a policy, and of one policy against another."""

from spatial_ssrl.evaluation.statistics import (
    Accuracy,
    Gain,
    accuracies,
    gains,
    mean_accuracy,
    mean_gain,
)

__all__ = ["Accuracy", "Gain", "accuracies", "gains", "mean_accuracy", "mean_gain"]
