"""Callbacks: what training writes beside its checkpoints, and what it shows."""

from spatial_ssrl.training.callbacks.adapter_checkpoint import AdapterCheckpoint
from spatial_ssrl.training.callbacks.progress import TrainingProgress
from spatial_ssrl.training.callbacks.question_records import QuestionRecords
from spatial_ssrl.training.callbacks.sample_table import SampleTable
from spatial_ssrl.training.callbacks.stop_between_steps import StopBetweenSteps

__all__ = [
    "AdapterCheckpoint",
    "QuestionRecords",
    "SampleTable",
    "StopBetweenSteps",
    "TrainingProgress",
]
