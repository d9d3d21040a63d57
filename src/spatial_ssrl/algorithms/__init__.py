"""RL algorithms: rewards to advantages to loss, as pure functions of tensors."""

from spatial_ssrl.algorithms.base import ALGORITHMS, Algorithm
from spatial_ssrl.algorithms.grpo import GRPO

__all__ = ["ALGORITHMS", "GRPO", "Algorithm"]
