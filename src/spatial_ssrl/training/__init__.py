"""Training: the cold start, RL, their settings, optimisers and callbacks."""

from spatial_ssrl.training.held_out import AnswerRecord
from spatial_ssrl.training.module import PolicyModule
from spatial_ssrl.training.optimizers import MuonWithAdamW
from spatial_ssrl.training.rl import RLModule
from spatial_ssrl.training.settings import ScheduleSettings, UpdateSettings
from spatial_ssrl.training.sft import SFTModule

__all__ = [
    "AnswerRecord",
    "MuonWithAdamW",
    "PolicyModule",
    "RLModule",
    "SFTModule",
    "ScheduleSettings",
    "UpdateSettings",
]
