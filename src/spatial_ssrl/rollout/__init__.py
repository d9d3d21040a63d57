"""Rollout engines: what samples groups of completions from a policy."""

from spatial_ssrl.rollout.base import ROLLOUTS, RolloutEngine
from spatial_ssrl.rollout.in_process import InProcess

__all__ = ["ROLLOUTS", "InProcess", "RolloutEngine"]
