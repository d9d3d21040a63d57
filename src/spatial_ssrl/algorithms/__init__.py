"""RL algorithms: rewards to advantages to loss, as pure functions of tensors."""

from spatial_ssrl.algorithms.base import ALGORITHMS, Algorithm
from spatial_ssrl.algorithms.cispo import CISPO
from spatial_ssrl.algorithms.dapo import DAPO
from spatial_ssrl.algorithms.dr_grpo import DrGRPO
from spatial_ssrl.algorithms.gmpo import GMPO
from spatial_ssrl.algorithms.gpg import GPG
from spatial_ssrl.algorithms.grpo import GRPO
from spatial_ssrl.algorithms.gspo import GSPO
from spatial_ssrl.algorithms.luspo import LUSPO
from spatial_ssrl.algorithms.pass_at_k import PassAtK
from spatial_ssrl.algorithms.presets import PRESETS, grpo_preset
from spatial_ssrl.algorithms.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from spatial_ssrl.algorithms.remax import ReMax
from spatial_ssrl.algorithms.rloo import RLOO
from spatial_ssrl.algorithms.sapo import SAPO
from spatial_ssrl.algorithms.settings import (
    AdvantageSettings,
    AggregationSettings,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
    ReturnSettings,
)
from spatial_ssrl.algorithms.vespo import VESPO

__all__ = [
    "ALGORITHMS",
    "CISPO",
    "DAPO",
    "GMPO",
    "GPG",
    "GRPO",
    "GSPO",
    "LUSPO",
    "PRESETS",
    "RLOO",
    "SAPO",
    "VESPO",
    "AdvantageSettings",
    "AggregationSettings",
    "Algorithm",
    "ClipSettings",
    "CorrectionSettings",
    "DrGRPO",
    "KLSettings",
    "OverlongSettings",
    "PassAtK",
    "RatioSettings",
    "ReMax",
    "ReinforcePlusPlus",
    "ReinforcePlusPlusBaseline",
    "ReturnSettings",
    "grpo_preset",
]
